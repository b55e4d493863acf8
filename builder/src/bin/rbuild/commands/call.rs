//! `rbuild build --call=check|outline|targets`: what is to be known of a Dockerfile without building it.
//!
//! `format=json` has the members that `docker buildx build --call=…,format=json` writes.

use std::process::ExitCode;
use std::str::FromStr;

use builder::build::{self, Build, BuildError};
use builder::dockerfile::lint::Finding;
use builder::dockerfile::{self, Span};
use builder::graph::outline::{self, Arg, Grant, Outline, Target};
use clap::Args;
use serde_json::{Value, json};

use crate::report::{self, Dockerfile, Failure};
use crate::ui::{self, Mode};

/// What to do with the Dockerfile instead of building it.
#[derive(Debug, Clone, Copy, Args)]
pub(crate) struct CallArgs {
    /// What to do with the Dockerfile: `build`, or build nothing and `check` it, list its `targets`, or `outline` what its
    /// target may be given; `,format=json` for programs
    #[arg(long, value_name = "METHOD", default_value = "build", conflicts_with_all = RESULTS)]
    call: Call,
    /// The same as `--call=check`
    #[arg(long, conflicts_with = "call", conflicts_with_all = RESULTS)]
    check: bool,
}

/// The arguments about what a build makes.
const RESULTS: [&str; 5] = ["push", "outputs", "tags", "iidfile", "metadata_file"];

impl CallArgs {
    /// What is asked for; nothing where it is to be built.
    pub(crate) fn asked(self) -> Option<Call> {
        let call = if self.check { Call { method: Method::Check, json: false } } else { self.call };
        (call.method != Method::Build).then_some(call)
    }
}

/// `--call`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Call {
    method: Method,
    json: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Method {
    Build,
    Check,
    Outline,
    Targets,
}

impl FromStr for Call {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let mut words = text.split(',');
        let method = match words.next().unwrap_or_default() {
            "build" => Method::Build,
            "check" | "lint" => Method::Check,
            "outline" => Method::Outline,
            "targets" => Method::Targets,
            other => return Err(format!("`{other}` is none of `build`, `check`, `outline` and `targets`")),
        };
        let mut json = false;
        for word in words {
            json = match word {
                "format=json" => true,
                "format=text" => false,
                other => return Err(format!("`{other}` is neither `format=json` nor `format=text`")),
            };
        }
        Ok(Self { method, json })
    }
}

/// Prints what is asked for. As under BuildKit a check that finds something does not end with 0.
pub(crate) fn answer(
    call: Call,
    build: &Build,
    registry: &registry::Options,
    dockerfile: Dockerfile,
) -> Result<ExitCode, Failure> {
    match answered(call, build, registry, &dockerfile) {
        Ok((text, clean)) => {
            ui::print(&text);
            Ok(if clean { ExitCode::SUCCESS } else { ExitCode::FAILURE })
        }
        Err(error) => Err(Failure::Build { error: Box::new(error), dockerfile, is_told: true }),
    }
}

/// The text, and whether there is nothing to complain about.
fn answered(
    call: Call,
    build: &Build,
    registry: &registry::Options,
    dockerfile: &Dockerfile,
) -> Result<(String, bool), BuildError> {
    let display = ui::display(Mode::Quiet);
    let with_source = |mut value: Value| {
        value["sources"] = json!([{ "filename": dockerfile.name, "language": "Dockerfile", "data": dockerfile.text }]);
        format!("{value:#}\n")
    };
    Ok(match call.method {
        Method::Build | Method::Check => {
            let findings = build::check(build, registry, display.as_ref())?;
            let text = if call.json {
                with_source(json!({ "warnings": findings.iter().map(finding_json).collect::<Vec<_>>() }))
            } else {
                report::findings(&findings, dockerfile)
            };
            (text, findings.is_empty())
        }
        Method::Outline => {
            let outline = build::outline(build, registry, display.as_ref())?;
            (if call.json { with_source(outline_json(&outline)) } else { outline_text(&outline) }, true)
        }
        Method::Targets => {
            let parsed = dockerfile::parse(&build.dockerfile)?;
            let targets = outline::targets(&parsed.dockerfile);
            let text = if call.json {
                with_source(json!({ "targets": targets.iter().map(target_json).collect::<Vec<_>>() }))
            } else {
                targets_text(&targets)
            };
            (text, true)
        }
    })
}

/// Lines as `location` has them.
fn location(span: Span) -> Value {
    json!({ "ranges": [{ "start": { "line": span.start }, "end": { "line": span.end } }] })
}

fn finding_json(finding: &Finding) -> Value {
    json!({
        "ruleName": finding.rule.to_string(),
        "description": finding.help,
        "detail": finding.message,
        "location": location(finding.span),
    })
}

fn target_json(target: &Target) -> Value {
    let mut value = json!({ "base": target.base, "location": location(target.span) });
    if target.is_default {
        value["default"] = true.into();
    }
    let texts = [("name", &target.name), ("description", &target.description), ("platform", &target.platform)];
    set(&mut value, texts);
    value
}

fn outline_json(outline: &Outline) -> Value {
    let arg = |arg: &Arg| {
        let mut value = json!({ "name": arg.name, "location": location(arg.span) });
        set(&mut value, [("value", &arg.value), ("description", &arg.description)]);
        value
    };
    let grant = |grant: &Grant| {
        let mut value = json!({ "name": grant.id, "location": location(grant.span) });
        if grant.required {
            value["required"] = true.into();
        }
        value
    };
    let mut value = json!({
        "args": outline.args.iter().map(arg).collect::<Vec<_>>(),
        "secrets": outline.secrets.iter().map(grant).collect::<Vec<_>>(),
        "ssh": outline.agents.iter().map(grant).collect::<Vec<_>>(),
        "cache": outline.caches.iter().map(|id| json!({ "ID": id })).collect::<Vec<_>>(),
    });
    set(&mut value, [("name", &outline.name), ("description", &outline.description)]);
    value
}

/// Sets the members that there are.
fn set<const N: usize>(value: &mut Value, members: [(&str, &Option<String>); N]) {
    for (name, text) in members {
        if let Some(text) = text {
            value[name] = text.as_str().into();
        }
    }
}

fn targets_text(targets: &[Target]) -> String {
    let row = |target: &Target| {
        let name = target.name.clone().unwrap_or_default();
        let name = if target.is_default { format!("{name} (default)") } else { name };
        [name.trim().to_owned(), target.description.clone().unwrap_or_default()]
    };
    table(["TARGET", "DESCRIPTION"], targets.iter().map(row))
}

fn outline_text(outline: &Outline) -> String {
    let line = |name: &str, text: &Option<String>| text.as_ref().map(|text| format!("{name}: {text}\n"));
    let head = [line("TARGET", &outline.name), line("DESCRIPTION", &outline.description)];
    let arg = |arg: &Arg| {
        let [value, description] = [&arg.value, &arg.description].map(|text| text.clone().unwrap_or_default());
        [arg.name.clone(), value, description]
    };
    let grant = |grant: &Grant| [grant.id.clone(), if grant.required { "true".into() } else { String::new() }];
    let sections = [
        head.into_iter().flatten().collect(),
        table(["BUILD ARG", "VALUE", "DESCRIPTION"], outline.args.iter().map(arg)),
        table(["SECRET", "REQUIRED"], outline.secrets.iter().map(grant)),
        table(["SSH", "REQUIRED"], outline.agents.iter().map(grant)),
        table(["CACHE"], outline.caches.iter().map(|id| [id.clone()])),
    ];
    let text = sections.into_iter().filter(|section: &String| !section.is_empty()).collect::<Vec<_>>().join("\n");
    if text.is_empty() { "the target needs nothing\n".to_owned() } else { text }
}

/// Columns below their names; nothing when there are no rows.
fn table<const N: usize>(head: [&str; N], rows: impl ExactSizeIterator<Item = [String; N]>) -> String {
    if rows.len() == 0 {
        return String::new();
    }
    let table = ui::columns_of(std::iter::once(head.map(str::to_owned)).chain(rows));
    let lines: Vec<&str> = table.lines().map(str::trim_end).collect();
    lines.join("\n") + "\n"
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn methods_and_formats_are_read() {
        let read = |text: &str| text.parse::<Call>();
        assert_eq!(read("check"), Ok(Call { method: Method::Check, json: false }));
        assert_eq!(read("outline,format=json"), Ok(Call { method: Method::Outline, json: true }));
        assert_eq!(read("targets,format=text"), Ok(Call { method: Method::Targets, json: false }));
        for wrong in ["", "run", "outline,json", "outline,format=yaml"] {
            assert!(read(wrong).is_err(), "{wrong}");
        }
    }
}
