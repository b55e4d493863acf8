//! Errors as a person reads them: one place decides the words around them, the excerpt, the hint and the exit code.

use std::error::Error;
use std::fmt::Write as _;
use std::process::ExitCode;

use builder::bases::BaseError;
use builder::build::BuildError;
use builder::context::ContextError;
use builder::dockerfile::Span;
use builder::dockerfile::lint::Finding;
use builder::export::ExportError;
use builder::sandbox::SandboxError;
use builder::secrets::Found;
use builder::solve::Cause;

/// Lines shown before and after those that an error is about.
const AROUND: usize = 2;

/// What a command ends with when it does not end well.
#[derive(Debug)]
pub(crate) enum Failure {
    /// A build failed.
    Build {
        /// Why.
        error: Box<BuildError>,
        /// What the excerpt is taken from.
        dockerfile: Dockerfile,
        /// Whether all that its steps wrote was shown.
        logged: bool,
    },
    /// The build was cancelled before it began.
    Cancelled,
    /// The arguments make no sense together.
    Usage(String),
    /// The machine does not let rbuild do it.
    Environment(anyhow::Error),
    /// A sandbox that `rbuild debug run` could not make: nothing that the process itself could end with.
    Sandbox(anyhow::Error),
    /// A registry refused, or could not be reached.
    Registry(anyhow::Error),
    /// Anything else.
    Other(anyhow::Error),
    /// A command about an app, in the words and with the code of Convox.
    App(anyhow::Error),
}

/// A Dockerfile as the excerpt needs it.
#[derive(Debug, Clone)]
pub(crate) struct Dockerfile {
    /// How the user calls it.
    pub(crate) name: String,
    /// Its text.
    pub(crate) text: String,
}

impl From<anyhow::Error> for Failure {
    fn from(error: anyhow::Error) -> Self {
        Self::Other(error)
    }
}

/// Exit codes, as the user guide lists them.
mod code {
    pub(super) const BUILD: u8 = 1;
    pub(super) const USAGE: u8 = 2;
    pub(super) const ENVIRONMENT: u8 = 3;
    pub(super) const REGISTRY: u8 = 4;
    pub(super) const BUG: u8 = 70;
    pub(super) const SANDBOX: u8 = 125;
    pub(super) const CANCELLED: u8 = 130;
}

/// Ends the process here and now: the build was cancelled, and something keeps it waiting.
#[expect(clippy::disallowed_methods, clippy::exit, reason = "nobody who could return is left")]
pub(crate) fn abandon() -> ! {
    std::process::exit(code::CANCELLED.into())
}

/// Prints a failure and returns its exit code.
pub(crate) fn failure(failure: &Failure) -> ExitCode {
    let (text, code) = match failure {
        Failure::Cancelled => cancelled(),
        Failure::Usage(message) => (format!("error: {message}\n"), code::USAGE),
        Failure::Environment(error) => (chain(error.as_ref()), code::ENVIRONMENT),
        Failure::Sandbox(error) => (chain(error.as_ref()), code::SANDBOX),
        Failure::Registry(error) => (chain(error.as_ref()), code::REGISTRY),
        Failure::Other(error) => (chain(error.as_ref()), code::BUILD),
        Failure::App(error) => (format!("ERROR: {}\n", brief(&format!("{error:#}"))), code::BUILD),
        Failure::Build { error, dockerfile, logged } => build(error, dockerfile, *logged),
    };
    print(&(text.clone() + &want(&text)));
    ExitCode::from(code)
}

/// The hint on what the machine did not have enough of, or what of it is broken: the kernel's numbers for that are in the
/// text of a cause.
fn want(text: &str) -> String {
    let home = builder::paths::home().unwrap_or_default();
    let has = |number: u32| text.contains(&format!("(os error {number})"));
    if has(28) || has(122) {
        return format!("  hint: {}\n", no_room(" (or of the output)"));
    }
    // What the kernel cannot write any more it makes read-only.
    if has(5) || has(30) {
        return format!(
            "  hint: a disk failed or is read-only, that of the state directory `{}` where no other is named above; \
             `dmesg` says more\n",
            home.display()
        );
    }
    if has(24) || has(23) {
        return "  hint: raise the limit of open files with `ulimit -n`\n".to_owned();
    }
    String::new()
}

/// What to do about a full disk; `other` says where it may be, if not below the state directory.
fn no_room(other: &str) -> String {
    let home = builder::paths::home().unwrap_or_default();
    format!(
        "the disk of the state directory `{}`{other} has no room or no inodes left; \
         `rbuild cache prune` removes what is not in use, and RBUILD_HOME names another place",
        home.display()
    )
}

/// How a command ends that did what it had to: well, if what it printed stands where it was to.
pub(crate) fn done(code: ExitCode) -> ExitCode {
    if crate::ui::is_complete() { code } else { ExitCode::from(code::BUILD) }
}

/// Says that rbuild itself is at fault; the panic's own message is already on standard error.
pub(crate) fn bug() -> ExitCode {
    print("error: this is a bug in rbuild; please report the lines above and what you built\n");
    ExitCode::from(code::BUG)
}

#[expect(clippy::print_stderr, reason = "reporting errors is what this module is for")]
fn print(text: &str) {
    eprint!("{text}");
}

/// A failed build whose log is kept, as it is told: with its lines and what to do.
pub(crate) fn of_build(error: &BuildError, dockerfile: &Dockerfile) -> String {
    build(error, dockerfile, true).0
}

fn cancelled() -> (String, u8) {
    ("error: the build was cancelled\n".to_owned(), code::CANCELLED)
}

fn build(error: &BuildError, dockerfile: &Dockerfile, logged: bool) -> (String, u8) {
    match error {
        BuildError::Parse(errors) => {
            let mut text = String::new();
            for (number, error) in errors.0.iter().enumerate() {
                let _ = writeln!(text, "error: {error}");
                text.push_str(&place(number, dockerfile, error.span));
                if let Some(hint) = &error.hint {
                    let _ = writeln!(text, "  hint: {hint}");
                }
            }
            (text, code::BUILD)
        }
        BuildError::Checks(findings) => {
            let shown = |(number, found)| finding("error", number, found, dockerfile);
            let text: String = findings.iter().enumerate().map(shown).collect();
            (text + &chain(error), code::BUILD)
        }
        BuildError::Graph(error) => (located(&error.problem, dockerfile, error.span, None), code::BUILD),
        BuildError::Base(error @ BaseError::Store(_)) => (chain(error), code::BUILD),
        BuildError::Base(error) => {
            let text = match error.span() {
                Some(span) => {
                    let stage = stage_hint(dockerfile, span);
                    located(error, dockerfile, span, stage.as_deref().or_else(|| base_hint(error)))
                }
                None => chain(error),
            };
            (text, code::REGISTRY)
        }
        error if error.is_cancelled() => cancelled(),
        BuildError::Solve(error) => {
            let full = matches!(*error.cause, Cause::DiskFull { .. }).then(|| no_room(""));
            let (hint, code) = step_hint(&error.cause, logged);
            (located(error.cause.as_ref(), dockerfile, error.span, full.as_deref().or(hint)), code)
        }
        BuildError::Export(error @ ExportError::Push { .. }) => (chain(error), code::REGISTRY),
        other => (chain(other), code::BUILD),
    }
}

/// What the checks found, and how much that is.
pub(crate) fn findings(findings: &[Finding], dockerfile: &Dockerfile) -> String {
    let shown = |(number, found)| finding("warning", number, found, dockerfile);
    let mut text: String = findings.iter().enumerate().map(shown).collect();
    let _ = match findings.len() {
        0 => writeln!(text, "{}: the checks found nothing", dockerfile.name),
        1 => writeln!(text, "{}: the checks found 1 thing", dockerfile.name),
        count => writeln!(text, "{}: the checks found {count} things", dockerfile.name),
    };
    text
}

fn finding(kind: &str, number: usize, finding: &Finding, dockerfile: &Dockerfile) -> String {
    let Finding { rule, span, message, help } = finding;
    format!("{kind}: {rule}: {message}\n{}  instead: {help}\n", place(number, dockerfile, *span))
}

/// Where the thing with this number is: with its lines, which have to be looked for, or by their number alone when there
/// are too many things for anybody to read.
fn place(number: usize, dockerfile: &Dockerfile, span: Span) -> String {
    const READ: usize = 100;
    if number < READ { excerpt(dockerfile, span) } else { format!("  {}:{}\n", dockerfile.name, span.start) }
}

/// Whether a stage was meant where an image is not to be had.
fn stage_hint(dockerfile: &Dockerfile, span: Span) -> Option<String> {
    let parsed = builder::dockerfile::parse(dockerfile.text.as_bytes()).ok()?;
    builder::graph::references::stage_meant(&parsed.dockerfile, span)
}

fn base_hint(error: &BaseError) -> Option<&'static str> {
    let BaseError::Resolve { source, .. } = error else { return None };
    match source.as_ref() {
        registry::Error::Unauthorized { .. } | registry::Error::Denied { .. } => {
            Some("log in first: `rbuild login`; rbuild reads the credentials of `docker login` and `podman login` too")
        }
        registry::Error::NotFound { .. } => {
            Some("check the name and the tag; private images also look missing without credentials")
        }
        _ => None,
    }
}

fn step_hint(cause: &Cause, logged: bool) -> (Option<&'static str>, u8) {
    match cause {
        Cause::Exit { code: 126, .. } => (Some("126 means: found, but could not be executed"), code::BUILD),
        Cause::Exit { code: 127, .. } => (Some("127 means: the command was not found in the image"), code::BUILD),
        Cause::Exit { code: 137, .. } => (Some("137 means: killed by SIGKILL"), code::BUILD),
        Cause::OutOfMemory { .. } => {
            (Some("give the machine or the container more memory, or build with fewer `--jobs`"), code::BUILD)
        }
        Cause::TooLong { .. } => {
            (Some("a heredoc that begins with `#!/bin/sh` becomes a file, which may be of any length"), code::BUILD)
        }
        Cause::TimedOut { .. } => (Some("`--timeout` says how long a step may take"), code::BUILD),
        Cause::Exit { .. } if !logged => {
            (Some("re-run with `--progress=plain` to see the whole log of this step"), code::BUILD)
        }
        Cause::Context(ContextError::Missing { .. }) => {
            (Some("paths are relative to the build context, not to the Dockerfile"), code::BUILD)
        }
        Cause::Context(ContextError::Changed { .. } | ContextError::ChangedSince) => {
            (Some("a file that is written during the build, such as its log, belongs into .dockerignore"), code::BUILD)
        }
        Cause::Secret(Found::Secret { .. }) => (
            Some("remove the file in the same RUN, or allow it with `--allow-secret-in-layer`; it was kept nowhere"),
            code::BUILD,
        ),
        Cause::Fetch { .. } => (None, code::REGISTRY),
        Cause::Sandbox(SandboxError::Setup { source, .. }) => {
            // What a disk refuses has nothing to do with what is allowed.
            let disk = matches!(source.raw_os_error(), Some(5 | 28 | 30 | 122));
            ((!disk).then_some("`rbuild doctor` says what this machine allows"), code::ENVIRONMENT)
        }
        _ => (None, code::BUILD),
    }
}

/// An error with the lines that it is about.
fn located(error: &dyn Error, dockerfile: &Dockerfile, span: Span, hint: Option<&str>) -> String {
    let mut text = chain(error);
    text.push_str(&excerpt(dockerfile, span));
    if let Some(hint) = hint {
        let _ = writeln!(text, "  hint: {hint}");
    }
    text
}

/// `error: …` and a line for each cause.
pub(crate) fn chain(error: &dyn Error) -> String {
    let mut last = brief(&error.to_string());
    let mut text = format!("error: {last}\n");
    let mut source = error.source();
    while let Some(cause) = source {
        let shown = brief(&cause.to_string());
        if shown != last {
            let _ = writeln!(text, "  caused by: {shown}");
        }
        last = shown;
        source = cause.source();
    }
    text
}

/// The lines of a span with `>>>`, and a few around them.
fn excerpt(dockerfile: &Dockerfile, span: Span) -> String {
    let lines: Vec<&str> = dockerfile.text.lines().collect();
    if span.start == 0 || span.start > lines.len() {
        return format!("  {}\n", dockerfile.name);
    }
    let end = span.end.clamp(span.start, lines.len());
    // A long heredoc says nothing that its first lines don't.
    let end = end.min(span.start + 9);
    let (first, last) = (span.start.saturating_sub(AROUND).max(1), (end + AROUND).min(lines.len()));
    let width = last.to_string().len();
    let mut text = format!("  {}:{}\n", dockerfile.name, span.start);
    for number in first..=last {
        let mark = if (span.start..=end).contains(&number) { ">>>" } else { "   " };
        let line = shorten(lines[number - 1]);
        let _ = writeln!(text, "{}", format!("  {mark} {number:width$} | {line}").trim_end());
    }
    text
}

/// A message without what a terminal would obey, and without the middle of a very long word that it quotes.
fn brief(message: &str) -> String {
    const ENDS: usize = 500;
    let shown = |c: char| if c.is_control() && c != '\n' && c != '\t' { '\u{fffd}' } else { c };
    let length = message.chars().count();
    if length <= 2 * ENDS {
        return message.chars().map(shown).collect();
    }
    let (first, last) = (message.chars().take(ENDS).map(shown), message.chars().skip(length - ENDS).map(shown));
    first.chain(['…']).chain(last).collect()
}

/// Keeps a generated line of a megabyte off the terminal.
fn shorten(line: &str) -> String {
    const LONGEST: usize = 160;
    let printable: String =
        line.chars().take(LONGEST).map(|c| if c.is_control() && c != '\t' { '\u{fffd}' } else { c }).collect();
    if line.chars().nth(LONGEST).is_some() { format!("{printable}…") } else { printable }
}
