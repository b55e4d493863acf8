//! `FROM`: names of stages, platforms, build args in the image's name.

use std::collections::{BTreeMap, BTreeSet};

use super::{Finding, Known, Rule, guess};
use crate::dockerfile::error::quoted;
use crate::dockerfile::expand::{expand, expand_noting_unset, has_variable};
use crate::dockerfile::instruction::{Command, Dockerfile, Stage};

/// The build args that are there without an `ARG` in `FROM`, and a value that each could have.
const PLATFORM_ARGS: [(&str, &str); 11] = [
    ("BUILDPLATFORM", "linux/amd64"),
    ("BUILDOS", "linux"),
    ("BUILDOSVERSION", ""),
    ("BUILDARCH", "amd64"),
    ("BUILDVARIANT", ""),
    ("TARGETPLATFORM", "linux/amd64"),
    ("TARGETOS", "linux"),
    ("TARGETOSVERSION", ""),
    ("TARGETARCH", "amd64"),
    ("TARGETVARIANT", ""),
    ("TARGETSTAGE", "default"),
];

pub(super) fn check(dockerfile: &Dockerfile, known: &Known<'_>, findings: &mut Vec<Finding>) {
    let globals = Globals::new(dockerfile);
    let mut names = BTreeSet::new();
    for stage in &dockerfile.stages {
        name(stage, &mut names, findings);
        platform(stage, findings);
        globals.undefined(stage, findings);
        if !globals.base_is_valid(stage, known, &names) {
            let message = format!("`{}` names no image when the build args have their defaults", quoted(&stage.base.0));
            findings.push(Finding::new(Rule::InvalidDefaultArgInFrom, stage.span, message));
        }
        names.extend(stage.name.as_deref());
    }
}

fn name(stage: &Stage, names: &mut BTreeSet<&str>, findings: &mut Vec<Finding>) {
    let Some(name) = stage.name.as_deref() else { return };
    if matches!(name, "scratch" | "context") {
        let message = format!("`{name}` has a meaning of its own and cannot be referred to as a stage");
        findings.push(Finding::new(Rule::ReservedStageName, stage.span, message));
    }
    if names.contains(name) {
        let message = format!("there is an earlier stage `{}`", quoted(name));
        findings.push(Finding::new(Rule::DuplicateStageName, stage.span, message));
    }
}

fn platform(stage: &Stage, findings: &mut Vec<Finding>) {
    let Some(platform) = stage.platform.as_ref().map(|platform| platform.0.as_str()) else { return };
    if matches!(platform, "$TARGETPLATFORM" | "${TARGETPLATFORM}") {
        let message = format!("`--platform={platform}` is what is taken without it");
        findings.push(Finding::new(Rule::RedundantTargetPlatform, stage.span, message));
    }
    let name = stage.name.as_deref().unwrap_or_default();
    let in_name = platform.split('/').any(|part| !part.is_empty() && name.contains(&part.to_lowercase()));
    if !has_variable(platform) && !in_name {
        let message = format!("`--platform={}` is always the same", quoted(platform));
        findings.push(Finding::new(Rule::FromPlatformFlagConstDisallowed, stage.span, message));
    }
}

/// The build args before the first `FROM`, with their defaults.
struct Globals {
    escape: char,
    defaults: BTreeMap<String, Option<String>>,
}

impl Globals {
    fn new(dockerfile: &Dockerfile) -> Self {
        let platforms = PLATFORM_ARGS.iter().map(|(name, value)| ((*name).to_owned(), Some((*value).to_owned())));
        let mut globals = Globals { escape: dockerfile.escape, defaults: platforms.collect() };
        for instruction in &dockerfile.global_args {
            let Command::Arg(declared) = &instruction.command else { continue };
            for arg in declared {
                let default = arg.default.as_ref().and_then(|default| globals.expanded(&default.0));
                globals.defaults.insert(arg.name.clone(), default);
            }
        }
        globals
    }

    /// The word with the defaults; nothing when it cannot be expanded.
    fn expanded(&self, word: &str) -> Option<String> {
        expand(word, self.escape, &|name| self.defaults.get(name).cloned().flatten()).ok()
    }

    /// Reports the variables of a `FROM` that no `ARG` declares.
    fn undefined(&self, stage: &Stage, findings: &mut Vec<Finding>) {
        let words = [Some(&stage.base), stage.platform.as_ref()];
        let lookup = |name: &str| self.defaults.contains_key(name).then(|| "x".to_owned());
        for word in words.into_iter().flatten() {
            let Ok(expanded) = expand_noting_unset(&word.0, self.escape, &lookup) else { continue };
            for name in expanded.unset {
                let message = match guess(&name, self.defaults.keys(), findings) {
                    Some(meant) => format!("`{name}` is no global build arg; did you mean `{meant}`?"),
                    None => format!("`{}` is no global build arg", quoted(&name)),
                };
                findings.push(Finding::new(Rule::UndefinedArgInFrom, stage.span, message));
            }
        }
    }

    /// Whether the base is an image or a stage when no build arg is given. What has no variables is for the build to see.
    fn base_is_valid(&self, stage: &Stage, known: &Known<'_>, names: &BTreeSet<&str>) -> bool {
        if !has_variable(&stage.base.0) {
            return true;
        }
        let Some(base) = self.expanded(&stage.base.0) else { return false };
        names.contains(base.to_lowercase().as_str()) || (known.is_reference)(&base)
    }
}
