//! The checks: what builds, and should be written otherwise. They have the names of BuildKit's build checks, and the
//! rules of its documentation; `ChownDuplicatesLayer` is rbuild's own.
//!
//! Two of the names are not decided here, for they need more than the text: `InvalidBaseImagePlatform` (the image) and
//! `CopyIgnoredFile` (the ignore file). [`crate::checks`] adds them.

mod casing;
mod instructions;
mod layers;
mod stages;
#[cfg(test)]
mod tests;
mod variables;

use std::collections::HashMap;
use std::fmt;

use super::instruction::{Dockerfile, Instruction, Span, Stage};
use super::{CheckOptions, Parsed, suggest, words};

/// A check, by its public name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[expect(missing_docs, reason = "the names are public and documented by BuildKit; `help` says what to do")]
pub enum Rule {
    StageNameCasing,
    FromAsCasing,
    NoEmptyContinuation,
    ConsistentInstructionCasing,
    DuplicateStageName,
    ReservedStageName,
    JSONArgsRecommended,
    MaintainerDeprecated,
    UndefinedArgInFrom,
    WorkdirRelativePath,
    UndefinedVar,
    MultipleInstructionsDisallowed,
    LegacyKeyValueFormat,
    InvalidBaseImagePlatform,
    RedundantTargetPlatform,
    SecretsUsedInArgOrEnv,
    InvalidDefaultArgInFrom,
    FromPlatformFlagConstDisallowed,
    CopyIgnoredFile,
    InvalidDefinitionDescription,
    ExposeProtoCasing,
    ExposeInvalidFormat,
    ChownDuplicatesLayer,
}

impl fmt::Display for Rule {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self, formatter)
    }
}

impl Rule {
    /// Whether the check is made only when `# check=experimental=` names it.
    pub fn is_experimental(self) -> bool {
        matches!(self, Rule::InvalidDefinitionDescription | Rule::CopyIgnoredFile)
    }

    /// Whether a file with these options has the check made.
    pub fn is_made(self, options: &CheckOptions) -> bool {
        let name = self.to_string();
        !options.skip.has(&name) && (!self.is_experimental() || options.experimental.has(&name))
    }

    /// What to write instead.
    pub fn help(self) -> &'static str {
        match self {
            Rule::StageNameCasing => "write the name of the stage in lower case",
            Rule::FromAsCasing => "write `FROM` and `AS` in the same case",
            Rule::NoEmptyContinuation => "remove the empty line; later versions of Dockerfiles refuse it",
            Rule::ConsistentInstructionCasing => "write all instructions in the same case",
            Rule::DuplicateStageName => "rename the stage: only the last of that name can be referred to",
            Rule::ReservedStageName => "rename the stage",
            Rule::JSONArgsRecommended => "use the JSON form: a shell does not pass signals on to the command",
            Rule::MaintainerDeprecated => "write `LABEL org.opencontainers.image.authors=`",
            Rule::UndefinedArgInFrom => "declare it with `ARG` before the first `FROM`",
            Rule::WorkdirRelativePath => "begin with an absolute path: the base image's may change",
            Rule::UndefinedVar => "declare it with `ARG` or `ENV` in this stage",
            Rule::MultipleInstructionsDisallowed => "remove it: only the last one of a stage counts",
            Rule::LegacyKeyValueFormat => "write `NAME=value`",
            Rule::InvalidBaseImagePlatform => "use an image that exists for the platform",
            Rule::RedundantTargetPlatform => "remove the flag: it is the default",
            Rule::SecretsUsedInArgOrEnv => "use `RUN --mount=type=secret`: build args and variables stay in the image",
            Rule::InvalidDefaultArgInFrom => "give the `ARG` a default with which the image's name is valid",
            Rule::FromPlatformFlagConstDisallowed => {
                "use `--platform` on the command line, or name the platform in the name of the stage"
            }
            Rule::CopyIgnoredFile => "remove the path from the ignore file, or the instruction",
            Rule::InvalidDefinitionDescription => {
                "begin the comment with the name that it describes, or put an empty line below it"
            }
            Rule::ExposeProtoCasing => "write the protocol in lower case",
            Rule::ExposeInvalidFormat => "write the port of the container alone",
            Rule::ChownDuplicatesLayer => "use `--chown=` or `--chmod=` of the `COPY`: the files are now in two layers",
        }
    }
}

/// What a check found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// The check.
    pub rule: Rule,
    /// The lines.
    pub span: Span,
    /// What was found, on one line.
    pub message: String,
    /// What to write instead.
    pub help: &'static str,
}

impl Finding {
    pub(crate) fn new(rule: Rule, span: Span, message: impl Into<String>) -> Self {
        Finding { rule, span, message: message.into(), help: rule.help() }
    }
}

/// So many findings of a file may come with a guess at what was meant: guessing compares with every known name.
const GUESSED: usize = 100;

/// The known name that may be meant by `name`, which is none of them.
fn guess<'n>(name: &str, known: impl IntoIterator<Item = &'n String>, findings: &[Finding]) -> Option<&'n str> {
    if findings.len() >= GUESSED {
        return None;
    }
    suggest::nearest(name, &known.into_iter().map(String::as_str).collect::<Vec<_>>())
}

/// What is known beside the text.
#[derive(Clone, Copy)]
pub struct Known<'k> {
    /// The names of the variables that the base image of a stage sets, by the index of the stage; nothing where the
    /// image has not been looked at, and then `UndefinedVar` says nothing of the stage.
    pub environment: &'k dyn Fn(usize) -> Option<Vec<String>>,
    /// Whether a text is a valid reference to an image.
    pub is_reference: &'k dyn Fn(&str) -> bool,
}

impl fmt::Debug for Known<'_> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Known").finish_non_exhaustive()
    }
}

/// Makes all checks but those that the file's `# check=` skips, in the order of the lines.
pub fn check(parsed: &Parsed, known: &Known<'_>) -> Vec<Finding> {
    let dockerfile = &parsed.dockerfile;
    let mut findings: Vec<Finding> = parsed
        .warnings
        .iter()
        .map(|warning| Finding::new(warning.rule, warning.span, warning.message.clone()))
        .collect();
    casing::check(dockerfile, &mut findings);
    stages::check(dockerfile, known, &mut findings);
    instructions::check(dockerfile, &mut findings);
    variables::check(dockerfile, known, &mut findings);
    layers::check(dockerfile, &mut findings);
    findings.retain(|finding| finding.rule.is_made(&parsed.check));
    findings.sort_by_key(|finding| (finding.span.start, finding.rule));
    findings
}

/// The first word of an instruction's text.
fn keyword(original: &str) -> &str {
    words::cut_word(original).0
}

/// All instructions but the `FROM`s, the global `ARG`s first.
fn all_instructions(dockerfile: &Dockerfile) -> impl Iterator<Item = &Instruction> {
    dockerfile.global_args.iter().chain(dockerfile.stages.iter().flat_map(|stage| &stage.instructions))
}

/// For each stage the earlier stage that it is built on: by its name, the last of that name counting.
fn parents(stages: &[Stage]) -> Vec<Option<usize>> {
    let mut names = HashMap::new();
    let parent_of = |(index, stage): (usize, &'_ Stage)| {
        let parent = names.get(&stage.base.0.to_lowercase()).copied();
        if let Some(name) = &stage.name {
            names.insert(name.clone(), index);
        }
        parent
    };
    stages.iter().enumerate().map(parent_of).collect()
}
