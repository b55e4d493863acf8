//! `CMD`, `ENTRYPOINT`, `SHELL`: commands in shell and exec form.

use super::flags::Flags;
use crate::dockerfile::ast::{Arguments, Node};
use crate::dockerfile::error::{ParseError, Problem};
use crate::dockerfile::instruction::CommandLine;

/// A command that may be the empty array, which clears an inherited one.
pub(super) fn command(node: &Node, instruction: &'static str) -> Result<CommandLine, ParseError> {
    Flags::parse(node, instruction)?;
    command_line(&node.arguments).ok_or_else(|| Problem::MissingArguments { instruction }.at(node.span))
}

/// The two forms; nothing when there is no command at all.
pub(super) fn command_line(arguments: &Arguments) -> Option<CommandLine> {
    match arguments {
        Arguments::Json(words) => Some(CommandLine::Exec(words.clone())),
        Arguments::Text(text) => Some(CommandLine::Shell(text.clone())),
        _ => None,
    }
}

/// The words of a `SHELL`.
pub(super) fn shell(node: &Node) -> Result<Vec<String>, ParseError> {
    Flags::parse(node, "SHELL")?;
    match &node.arguments {
        Arguments::Json(words) if !words.is_empty() => Ok(words.clone()),
        Arguments::Text(_) => {
            Err(Problem::ShellForm.at(node.span).hinted("write it like `SHELL [\"/bin/bash\", \"-c\"]`"))
        }
        _ => Err(Problem::MissingArguments { instruction: "SHELL" }.at(node.span)),
    }
}
