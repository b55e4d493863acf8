//! `HEALTHCHECK`.

use std::time::Duration;

use super::command::command_line;
use super::duration;
use super::flags::Flags;
use crate::dockerfile::ast::{Arguments, Node};
use crate::dockerfile::error::{ParseError, Problem, quoted};
use crate::dockerfile::instruction::{CommandLine, Healthcheck};

/// `HEALTHCHECK NONE` and `HEALTHCHECK CMD`.
pub(super) fn healthcheck(node: &Node) -> Result<Healthcheck, ParseError> {
    let at = |problem: Problem| problem.at(node.span);
    let Arguments::Check(kind, command) = &node.arguments else {
        return Err(at(Problem::MissingArguments { instruction: "HEALTHCHECK" }));
    };
    let command = command_line(command);
    match kind.to_ascii_uppercase().as_str() {
        "" => Err(at(Problem::MissingArguments { instruction: "HEALTHCHECK" })),
        "NONE" if command.is_none() && node.flags.is_empty() => Ok(Healthcheck::None),
        "NONE" => Err(at(Problem::HealthcheckNone)),
        "CMD" => check(node, command),
        _ => Err(at(Problem::HealthcheckKind { kind: quoted(kind) })),
    }
}

fn check(node: &Node, command: Option<CommandLine>) -> Result<Healthcheck, ParseError> {
    let flags = Flags::parse(node, "HEALTHCHECK")?;
    let command = command
        .filter(|command| !matches!(command, CommandLine::Exec(words) if words.is_empty()))
        .ok_or_else(|| Problem::NoHealthcheckCommand.at(node.span))?;
    Ok(Healthcheck::Check {
        command,
        interval: interval(&flags, "interval")?,
        timeout: interval(&flags, "timeout")?,
        start_period: interval(&flags, "start-period")?,
        start_interval: interval(&flags, "start-interval")?,
        retries: retries(&flags)?,
    })
}

/// A duration that is zero (the default) or at least a millisecond, as Docker wants it.
fn interval(flags: &Flags<'_>, flag: &'static str) -> Result<Option<Duration>, ParseError> {
    let Some(text) = flags.value(flag) else { return Ok(None) };
    let value = || quoted(text);
    let nanoseconds =
        duration::nanoseconds(text).ok_or_else(|| Problem::Duration { flag, value: value() }.at(flags.span))?;
    match u64::try_from(nanoseconds) {
        Ok(nanoseconds @ (0 | 1_000_000..)) => Ok(Some(Duration::from_nanos(nanoseconds))),
        _ => Err(Problem::ShortDuration { flag, value: value() }.at(flags.span)),
    }
}

fn retries(flags: &Flags<'_>) -> Result<Option<u32>, ParseError> {
    let Some(text) = flags.value("retries") else { return Ok(None) };
    match text.parse::<i32>().map(u32::try_from) {
        Ok(Ok(retries)) => Ok(Some(retries)),
        _ => Err(Problem::Retries { value: quoted(text) }.at(flags.span)),
    }
}
