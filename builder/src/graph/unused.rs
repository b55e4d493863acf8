//! What a caller gives that the Dockerfile has no place for: a misspelt name is told of, and does not fail the build, for
//! scripts give the same to many Dockerfiles. Pure.

use std::collections::BTreeSet;

use crate::dockerfile::{Command, Instruction, parse_trigger, suggest};
use crate::graph::frontend_args::EPOCH;
use crate::graph::named::{canonical, familiar, of_any_platform};
use crate::graph::references::{Pinned, Selection, read_by};
use crate::graph::scope::{PROXY_ARGS, platform_args};

/// What of the build args, the named contexts and the stages of `--no-cache-filter` nothing in the file is about, whatever
/// the target.
pub fn unused(selection: &Selection<'_>, pinned: &Pinned, no_cache_stages: &[String]) -> Vec<String> {
    let request = selection.request;
    if request.build_args.is_empty() && request.contexts.is_empty() && no_cache_stages.is_empty() {
        return Vec::new();
    }
    let base_triggers = pinned.values().flat_map(|image| &image.config.config.on_build);
    let stages = &selection.dockerfile.stages;
    let written = selection.dockerfile.global_args.iter().chain(stages.iter().flat_map(|stage| &stage.instructions));
    let own_triggers = written.clone().filter_map(|instruction| match &instruction.command {
        Command::Onbuild(trigger) => Some(trigger),
        _ => None,
    });
    let triggers: Vec<Instruction> =
        base_triggers.chain(own_triggers).filter_map(|trigger| parse_trigger(trigger).ok()).collect();
    let instructions: Vec<&Instruction> = written.chain(&triggers).collect();
    let mut told = args(selection, &instructions);
    told.extend(contexts(selection, &instructions));
    told.extend(filters(selection, no_cache_stages));
    told
}

fn args(selection: &Selection<'_>, instructions: &[&Instruction]) -> Vec<String> {
    let declared: BTreeSet<&str> = instructions
        .iter()
        .filter_map(|instruction| match &instruction.command {
            Command::Arg(declarations) => Some(declarations),
            _ => None,
        })
        .flatten()
        .map(|declaration| declaration.name.as_str())
        .collect();
    let platform = &selection.request.platform;
    let automatic = platform_args(platform, platform);
    let predefined = |name: &str| {
        name.starts_with("BUILDKIT_")
            || matches!(name, EPOCH | "TARGETSTAGE")
            || PROXY_ARGS.as_flattened().contains(&name)
            || automatic.iter().any(|(known, _)| known == name)
    };
    let known: Vec<&str> = declared.iter().copied().collect();
    let given = selection.request.build_args.keys().map(String::as_str);
    given
        .filter(|name| !declared.contains(name) && !predefined(name))
        .map(|name| format!("the build arg `{name}` is used by nothing: no ARG declares it{}", meant(name, &known)))
        .collect()
}

fn contexts(selection: &Selection<'_>, instructions: &[&Instruction]) -> Vec<String> {
    let stages = &selection.dockerfile.stages;
    let names = stages.iter().filter_map(|stage| stage.name.as_deref().map(canonical));
    let bases = stages.iter().filter_map(|stage| selection.globals.expand(&stage.base).ok());
    let read = instructions.iter().flat_map(|instruction| read_by(instruction)).map(|(word, _)| canonical(word));
    let asked: BTreeSet<String> = names.chain(bases.map(|base| canonical(&base))).chain(read).collect();
    let given = selection.request.contexts.keys().filter(|name| !asked.contains(of_any_platform(name)));
    let told = |name: &String| {
        format!("the build context `{}` is used by nothing: no stage, image or `--from=` has its name", familiar(name))
    };
    given.map(told).collect()
}

fn filters(selection: &Selection<'_>, no_cache_stages: &[String]) -> Vec<String> {
    let stages = selection.dockerfile.stages.iter().enumerate();
    let names: Vec<String> =
        stages.map(|(index, stage)| stage.name.clone().unwrap_or_else(|| format!("stage-{index}"))).collect();
    let known: Vec<&str> = names.iter().map(String::as_str).collect();
    let given = no_cache_stages.iter().filter(|name| !known.iter().any(|known| known.eq_ignore_ascii_case(name)));
    given
        .map(|name| format!("`--no-cache-filter {name}` has no effect: no stage is called so{}", meant(name, &known)))
        .collect()
}

fn meant(name: &str, known: &[&str]) -> String {
    suggest::nearest(name, known).map(|near| format!("; did you mean `{near}`?")).unwrap_or_default()
}
