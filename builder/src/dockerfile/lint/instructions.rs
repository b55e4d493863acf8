//! What single instructions say, and which of them a stage has twice.

use super::{Finding, Rule, all_instructions, keyword, parents};
use crate::dockerfile::ast::{self, Arguments, Separator};
use crate::dockerfile::error::quoted;
use crate::dockerfile::expand::has_variable;
use crate::dockerfile::instruction::{Command, CommandLine, Dockerfile, Instruction, Span, Stage, Word};
use crate::dockerfile::lines::Line;
use crate::dockerfile::ports::Ports;

pub(super) fn check(dockerfile: &Dockerfile, findings: &mut Vec<Finding>) {
    for instruction in all_instructions(dockerfile) {
        let escape = dockerfile.escape;
        match &instruction.command {
            Command::Maintainer(_) => {
                findings.push(Finding::new(Rule::MaintainerDeprecated, instruction.span, "`MAINTAINER` is deprecated"));
            }
            Command::Env(pairs) => {
                legacy_pairs(instruction, escape, findings);
                secrets(instruction.span, pairs.iter().map(|(name, _)| name.0.as_str()), findings);
            }
            Command::Label(_) => legacy_pairs(instruction, escape, findings),
            Command::Arg(args) => secrets(instruction.span, args.iter().map(|arg| arg.name.as_str()), findings),
            Command::Expose(words) => words.iter().for_each(|word| port(instruction.span, word, findings)),
            _ => {}
        }
    }
    let mut ends: Vec<Above> = Vec::new();
    for (stage, parent) in dockerfile.stages.iter().zip(parents(&dockerfile.stages)) {
        let inherited = parent.map_or_else(Above::default, |parent| ends[parent]);
        ends.push(in_order(stage, inherited, findings));
        only_once(stage, findings);
    }
}

/// What earlier instructions decide for later ones, and for the stages built on this one.
#[derive(Clone, Copy, Default)]
struct Above {
    has_shell: bool,
    has_workdir: bool,
}

/// The checks that depend on what stands above.
fn in_order(stage: &Stage, mut above: Above, findings: &mut Vec<Finding>) -> Above {
    for instruction in &stage.instructions {
        match &instruction.command {
            Command::Shell(_) => above.has_shell = true,
            Command::Cmd(CommandLine::Shell(_)) | Command::Entrypoint(CommandLine::Shell(_)) if !above.has_shell => {
                let message = format!("`{}` is run by a shell", keyword(&instruction.original).to_uppercase());
                findings.push(Finding::new(Rule::JSONArgsRecommended, instruction.span, message));
            }
            Command::Workdir(Word(path)) => {
                let relative = !path.trim_matches(['"', '\'']).starts_with(['/', '$']);
                if relative && !above.has_workdir {
                    let message = format!("`{}` is relative to the working directory of the base image", quoted(path));
                    findings.push(Finding::new(Rule::WorkdirRelativePath, instruction.span, message));
                }
                // Who makes the first one absolute mends those below it, too.
                above.has_workdir = true;
            }
            _ => {}
        }
    }
    above
}

/// Reports all but the last `CMD`, `ENTRYPOINT` and `HEALTHCHECK`.
fn only_once(stage: &Stage, findings: &mut Vec<Finding>) {
    for name in ["CMD", "ENTRYPOINT", "HEALTHCHECK"] {
        let mut later = false;
        for instruction in stage.instructions.iter().rev() {
            if !keyword(&instruction.original).eq_ignore_ascii_case(name) {
                continue;
            }
            if later {
                let message = format!("a later `{name}` of the stage replaces this one");
                findings.push(Finding::new(Rule::MultipleInstructionsDisallowed, instruction.span, message));
            }
            later = true;
        }
    }
}

/// `ENV name value`, which the typed instruction no longer shows.
fn legacy_pairs(instruction: &Instruction, escape: char, findings: &mut Vec<Finding>) {
    let text = instruction.original.clone();
    let line = Line { span: instruction.span, text, comments: Vec::new(), empty_continuation: false };
    if let Ok(node) = ast::node(line, escape)
        && let Arguments::Pairs(_, Separator::Space) = node.arguments
    {
        let message = format!("`{} name value` is the old form", node.keyword.to_uppercase());
        findings.push(Finding::new(Rule::LegacyKeyValueFormat, instruction.span, message));
    }
}

/// Names that look like those of secrets, by the words between their underscores.
fn secrets<'n>(span: Span, names: impl Iterator<Item = &'n str>, findings: &mut Vec<Finding>) {
    const SECRET: [&str; 10] =
        ["apikey", "auth", "credential", "credentials", "key", "password", "pword", "passwd", "secret", "token"];
    for name in names {
        let lower = name.to_lowercase();
        let has = |words: &[&str]| lower.split('_').any(|part| words.contains(&part));
        if has(&SECRET) && !has(&["public"]) {
            let message = format!("`{}` looks like the name of a secret", quoted(name));
            findings.push(Finding::new(Rule::SecretsUsedInArgOrEnv, span, message));
        }
    }
}

fn port(span: Span, word: &Word, findings: &mut Vec<Finding>) {
    if has_variable(&word.0) {
        return;
    }
    let Ok(ports) = Ports::parse(&word.0) else { return };
    if ports.mapping {
        let message = format!("`{}` names an address or a port of the host", quoted(&word.0));
        findings.push(Finding::new(Rule::ExposeInvalidFormat, span, message));
    }
    if let Some((_, protocol)) = word.0.split_once('/')
        && protocol != ports.protocol
    {
        let message = format!("the protocol `{protocol}` is not in lower case");
        findings.push(Finding::new(Rule::ExposeProtoCasing, span, message));
    }
}
