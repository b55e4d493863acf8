//! The directives at the head of a file: `# syntax=`, `# escape=`, `# check=`.

use std::collections::BTreeSet;

use super::error::{ParseError, Problem, quoted};
use super::instruction::Span;

/// What the directives say.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Directives {
    pub(super) escape: char,
    pub(super) syntax: Option<String>,
    pub(super) check: CheckOptions,
    seen: Vec<&'static str>,
}

/// `# check=skip=Rule,Rule;error=true;experimental=all`.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct CheckOptions {
    /// The checks that are not made.
    pub skip: Checks,
    /// The experimental checks that are made.
    pub experimental: Checks,
    /// A finding fails the build.
    pub error: bool,
}

/// Some checks or all of them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Checks {
    /// Every check.
    All,
    /// The checks of these names.
    Only(BTreeSet<String>),
}

impl Default for Checks {
    fn default() -> Self {
        Checks::Only(BTreeSet::new())
    }
}

impl Checks {
    /// Whether the check of this name is meant.
    pub fn has(&self, name: &str) -> bool {
        match self {
            Checks::All => true,
            Checks::Only(names) => names.contains(name),
        }
    }

    fn parse(list: &str) -> Self {
        if list.trim() == "all" {
            return Checks::All;
        }
        let mut names = BTreeSet::new();
        for name in list.split(',').map(str::trim).filter(|name| !name.is_empty()) {
            if !names.contains(name) {
                names.insert(name.to_owned());
            }
        }
        Checks::Only(names)
    }
}

/// Why the options of the checks cannot be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CheckOptionError {
    /// No `=`.
    #[error("the check option `{0}` has no value")]
    NoValue(String),
    /// None of `skip`, `error`, `experimental`.
    #[error("unknown check option `{0}`")]
    Unknown(String),
    /// `error=` neither true nor false.
    #[error("the check option `error={0}` is neither `true` nor `false`")]
    NotBoolean(String),
}

impl CheckOptions {
    /// Reads what follows `# check=`; the build arg `BUILDKIT_DOCKERFILE_CHECK` has the same form.
    pub fn parse(text: &str) -> Result<Self, CheckOptionError> {
        let mut options = CheckOptions::default();
        for part in text.split(';').map(str::trim).filter(|part| !part.is_empty()) {
            let (key, value) = part.split_once('=').ok_or_else(|| CheckOptionError::NoValue(quoted(part)))?;
            match key.trim() {
                "skip" => options.skip = Checks::parse(value),
                "experimental" => options.experimental = Checks::parse(value),
                "error" => {
                    options.error =
                        boolean(value.trim()).ok_or_else(|| CheckOptionError::NotBoolean(quoted(value.trim())))?;
                }
                other => return Err(CheckOptionError::Unknown(quoted(other))),
            }
        }
        Ok(options)
    }
}

/// A truth value as Go's `strconv.ParseBool` reads it.
pub(super) fn boolean(text: &str) -> Option<bool> {
    match text {
        "1" | "t" | "T" | "true" | "TRUE" | "True" => Some(true),
        "0" | "f" | "F" | "false" | "FALSE" | "False" => Some(false),
        _ => None,
    }
}

impl Default for Directives {
    fn default() -> Self {
        Directives { escape: '\\', syntax: None, check: CheckOptions::default(), seen: Vec::new() }
    }
}

impl Directives {
    /// Takes the comment (which begins with `#`) if it is a directive. A comment that is none ends the directives.
    pub(super) fn take(&mut self, comment: &str, line: usize) -> Result<bool, ParseError> {
        let Some((name, value)) = split(comment) else { return Ok(false) };
        let span = Span { start: line, end: line };
        if self.seen.contains(&name) {
            return Err(Problem::DuplicateDirective { name }.at(span));
        }
        self.seen.push(name);
        match name {
            "escape" => self.escape = escape(value).map_err(|problem| problem.at(span))?,
            "syntax" => self.syntax = Some(value.to_owned()),
            _ => self.check = CheckOptions::parse(value).map_err(|error| Problem::Check(error).at(span))?,
        }
        Ok(true)
    }
}

fn escape(value: &str) -> Result<char, Problem> {
    match value {
        "\\" => Ok('\\'),
        "`" => Ok('`'),
        _ => Err(Problem::InvalidEscape { value: quoted(value) }),
    }
}

/// The name of a known directive and its value, which is not empty.
fn split(comment: &str) -> Option<(&'static str, &str)> {
    let (name, value) = comment.strip_prefix('#')?.split_once('=')?;
    let (name, value) = (name.trim(), value.trim());
    let known = ["syntax", "escape", "check"].into_iter().find(|known| known.eq_ignore_ascii_case(name))?;
    (!value.is_empty()).then_some((known, value))
}
