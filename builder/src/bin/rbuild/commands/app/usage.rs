//! Arguments that the commands about apps cannot take, refused in Convox's words and with its exit code.

use clap::error::{ContextKind, ContextValue, ErrorKind};
use clap::{Command, CommandFactory};

use super::refuse;
use crate::args::Cli;
use crate::report::Failure;

/// The commands that Convox has too; `build` is not only for apps.
const FAMILY: [&str; 7] = ["apps", "builds", "deploy", "env", "rack", "registries", "releases"];

/// What to say of arguments that were not understood; none when it is not about these commands, or help was asked for.
pub(crate) fn refused(error: &clap::Error, arguments: &[String]) -> Option<Failure> {
    let first = arguments.first()?;
    if !FAMILY.contains(&first.as_str()) || !error.use_stderr() {
        return None;
    }
    let invalid: Vec<String> = match error.get(ContextKind::InvalidArg) {
        Some(ContextValue::String(one)) => vec![one.clone()],
        Some(ContextValue::Strings(all)) => all.clone(),
        _ => Vec::new(),
    };
    let flags = invalid.iter().any(|name| name.starts_with('-'));
    Some(refuse(match error.kind() {
        ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand => return None,
        ErrorKind::UnknownArgument if flags => format!("unknown flag: {}", invalid[0]),
        ErrorKind::UnknownArgument | ErrorKind::MissingRequiredArgument if !flags => expected(arguments),
        _ => {
            let text = error.to_string();
            text.lines().next().unwrap_or_default().trim_start_matches("error: ").to_owned()
        }
    }))
}

/// How many arguments the command has.
fn expected(arguments: &[String]) -> String {
    let mut command: Command = Cli::command();
    // What a command takes is not read before.
    command.build();
    for word in arguments {
        if let Some(inner) = command.find_subcommand(word) {
            command = inner.clone();
        }
    }
    let count = command.get_positionals().count();
    let noun = if count == 1 { "arg" } else { "args" };
    // The password may come on standard input; it is an argument of Convox all the same.
    let optional = command.get_positionals().any(|one| !one.is_required_set() && one.get_id() != "password");
    if optional { format!("no more than {count} {noun} expected") } else { format!("{count} {noun} required") }
}
