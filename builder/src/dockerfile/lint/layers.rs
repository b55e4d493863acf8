//! Files that a later layer holds a second time.

use super::{Finding, Rule};
use crate::dockerfile::error::quoted;
use crate::dockerfile::expand::has_variable;
use crate::dockerfile::instruction::{Command, CommandLine, Dockerfile, Instruction, Word};

/// So many of the latest copies of a stage are compared with each change of owner or mode.
const COMPARED: usize = 50;

pub(super) fn check(dockerfile: &Dockerfile, findings: &mut Vec<Finding>) {
    for stage in &dockerfile.stages {
        let mut workdir = "/".to_owned();
        let mut copied: Vec<String> = Vec::new();
        for instruction in &stage.instructions {
            match &instruction.command {
                Command::Workdir(Word(path)) => workdir = absolute(&workdir, path),
                Command::Copy(copy) => copied.push(absolute(&workdir, &copy.files.destination.0)),
                Command::Add(add) => copied.push(absolute(&workdir, &add.files.destination.0)),
                Command::Run(run) => {
                    if let CommandLine::Shell(text) = &run.command {
                        recursive_change(
                            instruction,
                            text,
                            &workdir,
                            &copied[copied.len().saturating_sub(COMPARED)..],
                            findings,
                        );
                    }
                }
                _ => {}
            }
        }
    }
}

/// Reports the first `chown -R` or `chmod -R` of a step over what an earlier `COPY` or `ADD` has put there.
fn recursive_change(
    instruction: &Instruction,
    text: &str,
    workdir: &str,
    copied: &[String],
    findings: &mut Vec<Finding>,
) {
    let found = text.split(['&', ';', '|', '\n']).find_map(|command| {
        let mut words = command.split_whitespace();
        let name = words.next().filter(|name| matches!(*name, "chown" | "chmod"))?;
        let (flags, operands): (Vec<&str>, Vec<&str>) = words.partition(|word| word.starts_with('-'));
        let recursive =
            flags.iter().any(|flag| *flag == "--recursive" || (!flag.starts_with("--") && flag.contains('R')));
        let mut paths = operands.iter().skip(1).map(|path| absolute(workdir, path));
        let path = paths.find(|path| copied.iter().any(|other| overlaps(path, other)))?;
        recursive.then_some((name, path))
    });
    if let Some((name, path)) = found {
        let message = format!("`{name} -R` puts the files of `{}` into a second layer", quoted(&path));
        findings.push(Finding::new(Rule::ChownDuplicatesLayer, instruction.span, message));
    }
}

/// The path from the root, without a slash at its end; `.` and `..` stay as they are.
fn absolute(workdir: &str, path: &str) -> String {
    let path = path.trim_matches(['"', '\'']);
    let joined = if path.starts_with('/') || has_variable(path) {
        path.to_owned()
    } else {
        format!("{}/{}", workdir.trim_end_matches('/'), path.trim_start_matches("./"))
    };
    let trimmed = joined.trim_end_matches("/.").trim_end_matches('/');
    if trimmed.is_empty() { "/".to_owned() } else { trimmed.to_owned() }
}

/// Whether one path is the other or above it.
fn overlaps(left: &str, right: &str) -> bool {
    let above = |upper: &str, lower: &str| {
        lower.strip_prefix(upper.trim_end_matches('/')).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
    };
    above(left, right) || above(right, left)
}
