//! What a person sees: the displays of a running build, and tables. With `report` the only files that print.

mod json;
mod log;
mod plain;
mod tty;

pub(crate) use log::with_log;

use std::io::{ErrorKind, IsTerminal, Write};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use builder::image::Image;
use builder::paths;
use builder::progress::{Event, Progress};
use clap::ValueEnum;
use jiff::Timestamp;

use crate::report::Failure;

/// `--progress`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Mode {
    /// A live display on a terminal, else a plain log
    Auto,
    /// A live display
    Tty,
    /// A log, line by line
    Plain,
    /// Nothing but errors
    #[value(alias = "none")]
    Quiet,
    /// One JSON object a line, on standard error
    #[value(alias = "rawjson")]
    Json,
}

impl Mode {
    /// What it is here: standard error may be a terminal, or not.
    fn here(self) -> Self {
        match self {
            Self::Auto if std::io::stderr().is_terminal() => Self::Tty,
            Self::Auto => Self::Plain,
            mode => mode,
        }
    }

    /// Whether everything that steps write is shown.
    pub(crate) fn shows_logs(self) -> bool {
        matches!(self.here(), Self::Plain | Self::Json)
    }

    /// This mode, or where nothing was chosen that of `$BUILDKIT_PROGRESS`, as for buildx.
    pub(crate) fn or_usual(self) -> Result<Self, Failure> {
        let usual = paths::variable("BUILDKIT_PROGRESS").filter(|name| self == Self::Auto && !name.is_empty());
        let Some(name) = usual else { return Ok(self) };
        Self::from_str(&name, true).map_err(|_| Failure::Usage(format!("BUILDKIT_PROGRESS cannot be `{name}`")))
    }
}

/// A reader of a build's events.
pub(crate) trait Display: Progress {
    /// The build has ended: takes the live part away and leaves what matters.
    fn finish(&self, succeeded: bool);
}

/// The display of a mode.
pub(crate) fn display(mode: Mode) -> Box<dyn Display> {
    match mode.here() {
        Mode::Tty => Box::new(tty::Tty::new()),
        Mode::Auto | Mode::Plain => Box::new(plain::Plain::new(note)),
        Mode::Json => Box::new(json::Json),
        Mode::Quiet => Box::new(Quiet),
    }
}

/// Shows nothing: errors are the report's.
struct Quiet;

impl Progress for Quiet {
    fn emit(&self, _: Event) {}
}

impl Display for Quiet {
    fn finish(&self, _: bool) {}
}

/// Says what was built: the digest alone on standard output when quiet, else a line on standard error.
pub(crate) fn built(mode: Mode, image: &Image, tags: &[registry::Reference]) {
    match mode {
        Mode::Quiet => print(&format!("{}\n", image.descriptor.digest())),
        Mode::Json => {}
        _ => {
            let names: Vec<String> = tags.iter().map(registry::Reference::whole).collect();
            note(&format!("built {} {}", image.descriptor.digest(), names.join(" ")));
        }
    }
}

/// Whether something that was to stand on standard output does not.
static IS_INCOMPLETE: AtomicBool = AtomicBool::new(false);

/// Whether all that was printed to standard output stands there, or nobody wanted it.
pub(crate) fn is_complete() -> bool {
    !IS_INCOMPLETE.load(Ordering::Relaxed)
}

/// Prints to standard output. A closed pipe ends the program's output, not the program; a full disk is told once.
pub(crate) fn print(text: &str) {
    put(text.as_bytes());
}

fn put(bytes: &[u8]) {
    let mut out = std::io::stdout().lock();
    let written = out.write_all(bytes).and_then(|()| out.flush());
    if let Err(error) = written
        && error.kind() != ErrorKind::BrokenPipe
        && !IS_INCOMPLETE.swap(true, Ordering::Relaxed)
    {
        note(&format!("error: cannot write to standard output: {error}"));
    }
}

/// Passes on what a process wrote, as it is.
pub(crate) fn pass_on(stderr: bool, bytes: &[u8]) {
    if stderr {
        let _closed = std::io::stderr().write_all(bytes);
    } else {
        put(bytes);
    }
}

/// Prints a line to standard error, whole: what others write there comes before or after it.
pub(crate) fn note(line: &str) {
    let _closed = std::io::stderr().write_all(format!("{}\n", line.trim_end()).as_bytes());
}

/// Prints rows with aligned columns; the last one is not padded.
pub(crate) fn table<const N: usize>(rows: &[[String; N]]) {
    let width = |column: usize| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or(0);
    let widths: Vec<usize> = (0..N).map(width).collect();
    let mut text = String::new();
    for row in rows {
        let cells: Vec<String> = row.iter().zip(&widths).map(|(cell, width)| format!("{cell:width$}")).collect();
        text.push_str(cells.join("  ").trim_end());
        text.push('\n');
    }
    print(&text);
}

/// Whether a person looks at standard output.
pub(crate) fn is_terminal() -> bool {
    std::io::stdout().is_terminal()
}

/// Whether a person types what standard input gives.
pub(crate) fn stdin_is_terminal() -> bool {
    std::io::stdin().is_terminal()
}

/// Standard output as a stream; unlike [`print()`] it tells when nobody reads.
pub(crate) struct Output;

impl Write for Output {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        std::io::stdout().write(bytes)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        std::io::stdout().flush()
    }
}

/// Rows with aligned columns, as Convox writes them: two spaces between, the last cell as long as it is. Somebody else
/// may have written the cells: each stays on its line and commands no terminal.
pub(crate) fn columns_of<const N: usize>(rows: impl Iterator<Item = [String; N]>) -> String {
    let rows: Vec<[String; N]> = rows.map(|row| row.map(|cell| harmless(&cell.replace('\n', " ")))).collect();
    let width = |column: usize| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or(0);
    let widths: Vec<usize> = (0..N).map(|column| if column + 1 == N { 0 } else { width(column) }).collect();
    let mut text = String::new();
    for row in rows {
        let cells: Vec<String> = row.iter().zip(&widths).map(|(cell, width)| format!("{cell:width$}")).collect();
        text.push_str(&cells.join("  "));
        text.push('\n');
    }
    text
}

/// Names and values, as Convox writes them: further lines of a value are indented.
pub(crate) fn facts(rows: &[(String, String)]) -> String {
    let width = rows.iter().map(|(name, _)| name.chars().count()).max().unwrap_or(0);
    let indent = format!("\n{}", " ".repeat(width + 2));
    let shown = |value: &str| value.split('\n').map(harmless).collect::<Vec<_>>().join(&indent);
    let row = |(name, value): &(String, String)| format!("{name:width$}  {}\n", shown(value));
    rows.iter().map(row).collect()
}

/// A size for people: `1.5 MB`, powers of 1000.
pub(crate) fn bytes(count: u64) -> String {
    const UNITS: [&str; 5] = ["kB", "MB", "GB", "TB", "PB"];
    if count < 1000 {
        return format!("{count} B");
    }
    let mut tenths = count / 100;
    let mut unit = 0;
    while tenths >= 10_000 && unit + 1 < UNITS.len() {
        tenths /= 1000;
        unit += 1;
    }
    format!("{}.{} {}", tenths / 10, tenths % 10, UNITS[unit])
}

/// How a step is called that did not run.
fn cached(remote: bool) -> &'static str {
    if remote { "CACHED (remote, not pulled)" } else { "CACHED" }
}

/// What a build did, in one line.
fn summary(run: u64, hit: u64, saved: Duration, (down, up): (u64, u64)) -> String {
    let saved = saved.as_secs_f64();
    let steps = if run == 1 { "step" } else { "steps" };
    format!("{run} {steps} run, {hit} cached, {} down, {} up, {saved:.1}s saved", bytes(down), bytes(up))
}

/// How long ago something was: `5 minutes ago`.
pub(crate) fn ago(then: Timestamp, now: Timestamp) -> String {
    let seconds = (now.as_second() - then.as_second()).max(0);
    let (count, unit) = match seconds {
        ..60 => (seconds, "second"),
        60..3600 => (seconds / 60, "minute"),
        3600..86_400 => (seconds / 3600, "hour"),
        _ => (seconds / 86_400, "day"),
    };
    format!("{count} {unit}{} ago", if count == 1 { "" } else { "s" })
}

/// A command of several lines, or a long one, cut to one line of at most `longest` characters.
fn one_line(text: &str, longest: usize) -> String {
    let flat: String = text.split_whitespace().collect::<Vec<_>>().join(" ");
    let cut: String = flat.chars().take(longest).collect();
    if cut.len() < flat.len() { format!("{cut}…") } else { cut }
}

/// The columns of the terminal on standard error; 80 where there is none.
fn columns() -> usize {
    let size = rustix::termios::tcgetwinsize(std::io::stderr());
    size.map_or(80, |size| usize::from(size.ws_col)).max(40)
}

/// Removes what would make a terminal do something: escape sequences and control characters but tabs.
fn harmless(line: &str) -> String {
    let mut clean = String::with_capacity(line.len());
    let mut chars = line.chars().peekable();
    while let Some(c) = chars.next() {
        match c {
            '\u{1b}' => skip_sequence(&mut chars),
            '\t' => clean.push(c),
            c if c.is_control() => {}
            c => clean.push(c),
        }
    }
    clean
}

/// Skips the rest of an escape sequence (ECMA-48: CSI ends with a byte from 0x40 to 0x7e, OSC with BEL or ST).
fn skip_sequence(chars: &mut std::iter::Peekable<std::str::Chars<'_>>) {
    match chars.next() {
        Some('[') => while chars.next().is_some_and(|c| !('\u{40}'..='\u{7e}').contains(&c)) {},
        Some(']') => while chars.next().is_some_and(|c| c != '\u{7}' && c != '\u{1b}') {},
        _ => {}
    }
}

/// Cuts a step's output into lines; a carriage return begins a line anew, as on a terminal.
#[derive(Debug, Default)]
struct Lines {
    rest: Vec<u8>,
}

impl Lines {
    /// Takes bytes and returns the lines that they complete.
    fn push(&mut self, bytes: &[u8]) -> Vec<String> {
        self.rest.extend_from_slice(bytes);
        let mut lines = Vec::new();
        while let Some(at) = self.rest.iter().position(|byte| *byte == b'\n') {
            let line: Vec<u8> = self.rest.drain(..=at).collect();
            lines.push(Self::text(&line));
        }
        lines
    }

    /// The last line, when it was not ended.
    fn finish(&mut self) -> Option<String> {
        (!self.rest.is_empty()).then(|| Self::text(&std::mem::take(&mut self.rest)))
    }

    fn text(line: &[u8]) -> String {
        let text = String::from_utf8_lossy(line);
        let text = text.trim_end_matches(['\n', '\r']);
        text.rsplit('\r').next().unwrap_or_default().to_owned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tables_and_facts_are_laid_out_as_convox_does() {
        let rows = [["ID", "STATUS", "DESCRIPTION"], ["build1", "complete", "desc"], ["build4", "running", ""]];
        let table = columns_of(rows.into_iter().map(|row| row.map(str::to_owned)));
        assert_eq!(table, "ID      STATUS    DESCRIPTION\nbuild1  complete  desc\nbuild4  running   \n");
        let rows = [("Id", "B"), ("Description", "one\ntwo")].map(|(name, value)| (name.to_owned(), value.to_owned()));
        assert_eq!(facts(&rows), "Id           B\nDescription  one\n             two\n");
        let hostile = || ["B", "\u{1b}[31mred\u{7}\nsecond"].map(str::to_owned);
        assert_eq!(columns_of(std::iter::once(hostile())), "B  red second\n");
        let [name, value] = hostile();
        assert_eq!(facts(&[(name, value)]), "B  red\n   second\n");
    }

    #[test]
    fn sizes_are_shown_in_powers_of_a_thousand() {
        for (count, shown) in
            [(0, "0 B"), (999, "999 B"), (1500, "1.5 kB"), (999_999, "999.9 kB"), (48_000_000, "48.0 MB")]
        {
            assert_eq!(bytes(count), shown);
        }
    }

    #[test]
    fn output_is_cut_into_lines() {
        let mut lines = Lines::default();
        assert_eq!(lines.push(b"one\r\ntw"), ["one"]);
        assert_eq!(lines.push(b"o\n10%\r20%\rdone\nrest"), ["two", "done"]);
        assert_eq!(lines.finish(), Some("rest".into()));
        assert_eq!(lines.finish(), None);
    }

    #[test]
    fn a_step_cannot_command_the_terminal() {
        for (line, shown) in [
            ("plain\ttext", "plain\ttext"),
            ("\u{1b}[31mred\u{1b}[0m", "red"),
            ("\u{1b}]0;title\u{7}after", "after"),
            ("a\u{8}b\u{1b}", "ab"),
        ] {
            assert_eq!(harmless(line), shown);
        }
    }
}
