//! Running other programs so that a failure says which command, how it ended and the last lines that it wrote.

use std::ffi::OsStr;
use std::fmt::Write as _;
use std::path::Path;
use std::process::{Command, ExitStatus, Stdio};

use anyhow::{Context, Result, bail};

/// How many of the last lines an error quotes: enough for the cause, short enough to be read.
const TAIL_LINES: usize = 15;

/// Begins a command.
pub(crate) fn command<A: AsRef<OsStr>>(program: impl AsRef<OsStr>, arguments: impl IntoIterator<Item = A>) -> Command {
    let mut command = Command::new(program);
    command.args(arguments).stdin(Stdio::null());
    command
}

/// Runs to the end in silence; the standard output is the result.
pub(crate) fn stdout(command: &mut Command) -> Result<String> {
    let output = command.output().with_context(|| format!("starting `{}`", line(command)))?;
    if !output.status.success() {
        bail!("{}", failure(command, output.status, &String::from_utf8_lossy(&output.stderr)));
    }
    String::from_utf8(output.stdout).with_context(|| format!("`{}` wrote something that is not UTF-8", line(command)))
}

/// Runs to the end in silence.
pub(crate) fn quiet(command: &mut Command) -> Result<()> {
    stdout(command).map(drop)
}

/// Runs to the end; what it writes is appended to a log, whose last lines a failure quotes.
pub(crate) fn logged(command: &mut Command, log: &Path) -> Result<()> {
    let file = fs_err::OpenOptions::new().create(true).append(true).open(log)?;
    let begin = file.metadata()?.len();
    let errors = file.try_clone()?;
    command.stdout(file.into_file()).stderr(errors.into_file());
    let status = command.status().with_context(|| format!("starting `{}`", line(command)))?;
    if !status.success() {
        let text = fs_err::read(log)?;
        let own = text.get(usize::try_from(begin)?..).unwrap_or_default();
        bail!("{}\n(whole log: {})", failure(command, status, &String::from_utf8_lossy(own)), log.display());
    }
    Ok(())
}

/// Runs to the end on the terminal of the caller.
pub(crate) fn shown(command: &mut Command) -> Result<()> {
    let status = command.status().with_context(|| format!("starting `{}`", line(command)))?;
    if !status.success() {
        bail!("{}", failure(command, status, ""));
    }
    Ok(())
}

/// The command as it could be typed into a shell.
pub(crate) fn line(command: &Command) -> String {
    let mut line = quoted(&command.get_program().to_string_lossy());
    for argument in command.get_args() {
        line.push(' ');
        line.push_str(&quoted(&argument.to_string_lossy()));
    }
    line
}

/// One word, quoted for a POSIX shell where it needs to be.
fn quoted(word: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_./:=,@%+".contains(c);
    if !word.is_empty() && word.chars().all(plain) {
        word.to_owned()
    } else {
        format!("'{}'", word.replace('\'', r"'\''"))
    }
}

/// The last lines of a program's output.
pub(crate) fn tail(text: &str) -> String {
    let lines: Vec<&str> = text.lines().filter(|line| !line.trim().is_empty()).collect();
    lines[lines.len().saturating_sub(TAIL_LINES)..].join("\n")
}

fn failure(command: &Command, status: ExitStatus, output: &str) -> String {
    let mut text = format!("`{}` failed ({status})", line(command));
    for line in tail(output).lines() {
        // Writing into a String cannot fail.
        let _ = write!(text, "\n  | {line}");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failure_names_the_command_and_quotes_its_last_words() {
        let error =
            quiet(&mut command("sh", ["-c", "echo first >&2; echo it broke >&2; exit 3"])).unwrap_err().to_string();
        assert!(error.contains("sh -c 'echo first >&2; echo it broke >&2; exit 3'"), "{error}");
        assert!(error.contains("exit status: 3") && error.ends_with("| it broke"), "{error}");
    }

    #[test]
    fn a_missing_program_is_named() {
        let error = quiet(&mut command("no-such-program", ["x"])).unwrap_err();
        assert!(format!("{error:#}").starts_with("starting `no-such-program x`: "), "{error:#}");
    }

    #[test]
    fn a_logged_failure_quotes_its_own_part_of_the_log() {
        let directory = tempfile::tempdir().unwrap();
        let log = directory.path().join("log");
        fs_err::write(&log, "from an earlier run\n").unwrap();
        let error = logged(&mut command("sh", ["-c", "echo now; exit 1"]), &log).unwrap_err().to_string();
        assert!(error.contains("| now") && !error.contains("earlier"), "{error}");
    }

    #[test]
    fn words_are_quoted_only_where_a_shell_needs_it() {
        assert_eq!(line(&command("echo", ["a=b", "", "it's"])), r"echo a=b '' 'it'\''s'");
    }

    #[test]
    fn a_tail_is_the_last_lines() {
        let text = (0..40).map(|number| number.to_string()).collect::<Vec<_>>().join("\n\n");
        assert_eq!(tail(&text).lines().count(), TAIL_LINES);
        assert!(tail(&text).ends_with("39"));
    }
}
