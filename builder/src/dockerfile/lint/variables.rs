//! Variables that nothing defines.

use std::collections::BTreeSet;

use super::{Finding, Known, Rule, guess, parents};
use crate::dockerfile::error::quoted;
use crate::dockerfile::expand::{Expanded, expand_body, expand_noting_unset};
use crate::dockerfile::instruction::{Command, CopyFiles, CopySource, Dockerfile, Instruction, Word};

/// The names that are defined at some point of a stage; nothing while the base image's are not known.
type Names = Option<BTreeSet<String>>;

/// Files of more stages are not checked: each stage has its own set of names, and no person wrote such a file.
const MOST_STAGES: usize = 1000;

pub(super) fn check(dockerfile: &Dockerfile, known: &Known<'_>, findings: &mut Vec<Finding>) {
    if dockerfile.stages.len() > MOST_STAGES {
        return;
    }
    let mut ends: Vec<Names> = Vec::new();
    let parents = parents(&dockerfile.stages);
    for (index, (stage, parent)) in dockerfile.stages.iter().zip(parents).enumerate() {
        let mut names = match parent {
            Some(parent) => ends[parent].clone(),
            None => base_names(&stage.base, index, known),
        };
        if let Some(names) = &mut names {
            for instruction in &stage.instructions {
                let unset = unset(&instruction.command, dockerfile.escape, names);
                report(instruction, unset, names, findings);
                names.extend(defined(&instruction.command).map(str::to_owned));
            }
        }
        ends.push(names);
    }
}

/// What the base image sets; `PATH` is there in any case.
fn base_names(base: &Word, index: usize, known: &Known<'_>) -> Names {
    let names = if base.0 == "scratch" { Vec::new() } else { (known.environment)(index)? };
    Some(names.into_iter().chain(["PATH".to_owned()]).collect())
}

/// The names that a command defines for those after it.
fn defined(command: &Command) -> Box<dyn Iterator<Item = &str> + '_> {
    match command {
        Command::Arg(args) => Box::new(args.iter().map(|arg| arg.name.as_str())),
        Command::Env(pairs) => Box::new(pairs.iter().map(|(name, _)| name.0.as_str())),
        _ => Box::new(std::iter::empty()),
    }
}

/// The names in a command that nothing defines.
fn unset(command: &Command, escape: char, names: &BTreeSet<String>) -> BTreeSet<String> {
    let Command::Arg(args) = command else {
        return unset_in(texts(command), escape, &|name| names.contains(name));
    };
    // Each sees those before it.
    let mut before = BTreeSet::new();
    let mut unset = BTreeSet::new();
    for arg in args {
        unset.extend(unset_in(words(&arg.default), escape, &|name| names.contains(name) || before.contains(name)));
        before.insert(arg.name.as_str());
    }
    unset
}

fn unset_in(texts: Vec<Text<'_>>, escape: char, is_defined: &dyn Fn(&str) -> bool) -> BTreeSet<String> {
    // The values do not matter, but an empty one could end the expansion.
    let lookup = |name: &str| is_defined(name).then(|| "x".to_owned());
    let expanded = texts.into_iter().map(|text| match text {
        Text::Word(word) => expand_noting_unset(word, escape, &lookup),
        Text::Body(body) => expand_body(body, &lookup),
    });
    // What cannot be expanded is the build's error.
    expanded.flat_map(|expanded| expanded.unwrap_or_else(|_| Expanded::default()).unset).collect()
}

fn report(instruction: &Instruction, unset: BTreeSet<String>, names: &BTreeSet<String>, findings: &mut Vec<Finding>) {
    for name in unset {
        let message = match guess(&name, names, findings) {
            Some(meant) => format!("`${name}` is not defined; did you mean `${meant}`?"),
            None => format!("`${}` is not defined", quoted(&name)),
        };
        findings.push(Finding::new(Rule::UndefinedVar, instruction.span, message));
    }
}

/// Text that is expanded.
enum Text<'i> {
    Word(&'i str),
    Body(&'i str),
}

/// What is expanded in an instruction before it is done, but in `ARG`. The commands of `RUN` are not: a shell reads those.
fn texts(command: &Command) -> Vec<Text<'_>> {
    match command {
        Command::Env(pairs) | Command::Label(pairs) => words(pairs.iter().flat_map(|(name, value)| [name, value])),
        Command::Expose(list) | Command::Volume(list) => words(list.iter()),
        Command::Stopsignal(word) | Command::User(word) | Command::Workdir(word) => vec![Text::Word(&word.0)],
        Command::Copy(copy) => files(&copy.files),
        Command::Add(add) => {
            let mut all = files(&add.files);
            all.extend(add.checksum.iter().map(|word| Text::Word(&word.0)));
            all
        }
        Command::Run(run) => run.mounts.iter().map(|mount| Text::Word(mount.text())).collect(),
        Command::Arg(_)
        | Command::Cmd(_)
        | Command::Entrypoint(_)
        | Command::Healthcheck(_)
        | Command::Maintainer(_)
        | Command::Onbuild(_)
        | Command::Shell(_) => Vec::new(),
    }
}

fn words<'i>(words: impl IntoIterator<Item = &'i Word>) -> Vec<Text<'i>> {
    words.into_iter().map(|word| Text::Word(word.0.as_str())).collect()
}

fn files(files: &CopyFiles) -> Vec<Text<'_>> {
    let flags = [&files.chown, &files.chmod].into_iter().flatten().chain(&files.exclude);
    let mut all = words(flags.chain([&files.destination]));
    all.extend(files.sources.iter().filter_map(|source| match source {
        CopySource::Path(path) => Some(Text::Word(path.0.as_str())),
        CopySource::Heredoc(heredoc) => heredoc.expand.then_some(Text::Body(heredoc.body.as_str())),
    }));
    all
}
