//! `RUN`.

use super::command::command_line;
use super::flags::Flags;
use crate::dockerfile::ast::Node;
use crate::dockerfile::error::{ParseError, Problem, quoted};
use crate::dockerfile::instruction::{CommandLine, Network, Run, Span};
use crate::dockerfile::mount::{MountError, MountOptions, known_names};
use crate::dockerfile::suggest;

/// The command with the flags that say how it runs.
pub(super) fn run(node: &Node, escape: char) -> Result<Run, ParseError> {
    let flags = Flags::parse(node, "RUN")?;
    let command =
        command_line(&node.arguments).ok_or_else(|| Problem::MissingArguments { instruction: "RUN" }.at(node.span))?;
    if matches!(&command, CommandLine::Exec(words) if words.is_empty()) {
        return Err(Problem::EmptyCommand { instruction: "RUN" }.at(node.span));
    }
    let mounts = flags.values("mount").map(|text| mount(text, escape, node.span)).collect::<Result<_, _>>()?;
    Ok(Run {
        command,
        heredocs: node.heredocs.clone(),
        mounts,
        network: network(&flags)?,
        insecure: insecure(&flags)?,
        devices: flags.values("device").map(str::to_owned).collect(),
    })
}

fn mount(text: &str, escape: char, span: Span) -> Result<MountOptions, ParseError> {
    MountOptions::parse(text, escape).map_err(|error| {
        let (written, known) = known_names(&error);
        let suggestion = suggest::nearest(written, &known);
        let from = matches!(error, MountError::Variable { .. });
        let refused = Problem::Mount { text: quoted(text), error: Box::new(error.clone()) }.at(span);
        if from {
            return refused.hinted("name the image as a stage: `FROM $image AS name`, then `from=name`");
        }
        refused.suggesting(suggestion)
    })
}

fn network(flags: &Flags<'_>) -> Result<Network, ParseError> {
    match flags.value("network") {
        None | Some("default") => Ok(Network::Default),
        Some("none") => Ok(Network::None),
        Some("host") => Ok(Network::Host),
        Some(value) => Err(not_one_of(flags.span, "network", value, "`default`, `none`, `host`")),
    }
}

fn insecure(flags: &Flags<'_>) -> Result<bool, ParseError> {
    match flags.value("security") {
        None | Some("sandbox") => Ok(false),
        Some("insecure") => Ok(true),
        Some(value) => Err(not_one_of(flags.span, "security", value, "`sandbox`, `insecure`")),
    }
}

fn not_one_of(span: Span, flag: &'static str, value: &str, known: &'static str) -> ParseError {
    Problem::FlagValue { flag, value: quoted(value), known }.at(span)
}
