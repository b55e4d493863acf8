//! The pattern language of `.dockerignore`, as moby's `ignorefile` and `patternmatcher` packages define it. Pure.
//!
//! The last rule that matches a path *or one of its parents* decides; `!` rules bring back. A path below an ignored
//! directory can be brought back, so a walk asks [`Ignore::may_descend`] before it skips one.
//!
//! Two habits of moby are not kept, because its documentation does not promise them: a file under a `!directory` is
//! brought back even when no earlier rule matched the directory itself, and inside `[…]` and after `\` every
//! character stands for itself (moby hands them to a regular expression, where `\d` is a digit).

use std::ops::Range;
use std::path::Path;

use super::pattern::{DoubleStar, Pattern, PatternError, clean, path_bytes};

#[cfg(test)]
mod tests;

/// A line that does not follow the syntax.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("line {line}: `{text}`")]
pub struct IgnoreError {
    /// The line, counted from 1.
    pub line: usize,
    /// The line as written.
    pub text: String,
    /// What is wrong with it.
    pub source: IgnoreSyntaxError,
}

/// What is wrong with a line.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum IgnoreSyntaxError {
    /// `!` and nothing to bring back.
    #[error("`!` needs a pattern after it")]
    EmptyException,
    /// A malformed pattern.
    #[error(transparent)]
    Pattern(#[from] PatternError),
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Rule {
    pattern: Pattern,
    /// A `!` rule.
    exception: bool,
    /// Where the context is, for a rule of a directory above it.
    above: Option<Above>,
}

/// A context, seen from a directory above it.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Above {
    /// The way there, with a `/` behind it.
    way: Vec<u8>,
    /// The rule matches the context itself, or a directory on the way.
    whole: bool,
}

/// An ordered list of rules; the default one ignores nothing.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Ignore {
    rules: Vec<Rule>,
    /// How many of the rules, the first ones, are of a directory above: they decide for themselves.
    outer: usize,
}

/// Which rules match a directory or one of its parents, in the order of the rules.
#[derive(Debug, Clone, Default)]
pub(super) struct Inherited(Vec<bool>);

impl Ignore {
    /// Reads the text of an ignore file.
    pub fn parse(text: &str) -> Result<Self, IgnoreError> {
        let text = text.strip_prefix('\u{feff}').unwrap_or(text);
        let mut rules = Vec::new();
        for (index, line) in text.split('\n').enumerate() {
            if line.starts_with('#') || line.trim().is_empty() {
                continue;
            }
            let rule = Rule::parse(line.trim()).map_err(|source| IgnoreError {
                line: index + 1,
                text: line.trim().to_owned(),
                source,
            })?;
            rules.extend(rule);
        }
        Ok(Self { rules, outer: 0 })
    }

    /// Adds the rules of a directory above, from which `way` leads to the context: what these ignore, no rule of the
    /// context brings back.
    #[must_use]
    pub fn below(mut self, above: Self, way: &Path) -> Self {
        let matches = above.matches_of(way);
        let mut way = path_bytes(way);
        if way.is_empty() {
            return self;
        }
        way.push(b'/');
        self.outer = above.rules.len();
        let rules = above.rules.into_iter().zip(matches.0);
        let rules = rules.map(|(rule, whole)| Rule { above: Some(Above { way: way.clone(), whole }), ..rule });
        self.rules.splice(0..0, rules);
        self
    }

    /// Makes rules of patterns that stand for themselves: `COPY --exclude`. The line of an error is the pattern's number.
    pub fn of<T: AsRef<str>>(patterns: &[T]) -> Result<Self, IgnoreError> {
        let mut rules = Vec::new();
        for (index, pattern) in patterns.iter().enumerate() {
            let text = pattern.as_ref().trim();
            let failed = |source| IgnoreError { line: index + 1, text: text.to_owned(), source };
            if !text.is_empty() {
                rules.extend(Rule::parse(text).map_err(failed)?);
            }
        }
        Ok(Self { rules, outer: 0 })
    }

    /// Says whether nothing can be ignored.
    pub fn is_empty(&self) -> bool {
        self.rules.is_empty()
    }

    /// Says whether `path`, relative to the context, is ignored. The root never is.
    pub fn is_ignored(&self, path: &Path) -> bool {
        self.decide(&self.matches_of(path))
    }

    /// Says whether something below `directory` can be included: false only if no rule can bring anything back.
    pub fn may_descend(&self, directory: &Path) -> bool {
        let inherited = self.matches_of(directory);
        self.may_descend_with(&path_bytes(directory), &inherited)
    }

    /// Which rules match the child `path` of a directory whose matches are `parent`.
    pub(super) fn inherit(&self, parent: &Inherited, path: &[u8]) -> Inherited {
        Inherited(self.rules.iter().enumerate().map(|(index, rule)| parent.has(index) || rule.matches(path)).collect())
    }

    /// Says whether a child `path` of a directory whose matches are `parent` is ignored.
    pub(super) fn ignores(&self, parent: &Inherited, path: &[u8]) -> bool {
        self.verdict(|index| parent.has(index) || self.rules[index].matches(path))
    }

    /// The verdict of the last rule that matches.
    pub(super) fn decide(&self, matches: &Inherited) -> bool {
        self.verdict(|index| matches.has(index))
    }

    /// Whether the last rule that matches ignores: of the context's rules, or of those above it.
    fn verdict(&self, matches: impl Fn(usize) -> bool) -> bool {
        let last = |mut rules: Range<usize>| rules.rfind(|index| matches(*index));
        self.files().into_iter().filter_map(last).any(|index| !self.rules[index].exception)
    }

    /// The rules of each ignore file.
    fn files(&self) -> [Range<usize>; 2] {
        [0..self.outer, self.outer..self.rules.len()]
    }

    /// [`Ignore::may_descend`] for a directory whose matches are known.
    pub(super) fn may_descend_with(&self, directory: &[u8], matches: &Inherited) -> bool {
        self.files().into_iter().all(|rules| {
            let Some(last) = rules.clone().rfind(|index| matches.has(*index)) else { return true };
            let mut later = self.rules[last..rules.end].iter();
            later.next().is_some_and(|rule| rule.exception)
                || later.any(|rule| rule.exception && rule.may_match_below(directory))
        })
    }

    /// Says whether a rule that brings back spells out what is below `directory`.
    pub(super) fn names_below(&self, directory: &[u8]) -> bool {
        self.rules.iter().any(|rule| rule.exception && rule.names_below(directory))
    }

    /// The matches of `path`, its parents included.
    pub(super) fn matches_of(&self, path: &Path) -> Inherited {
        let bytes = path_bytes(path);
        let mut matches = Inherited(vec![false; self.rules.len()]);
        if bytes.is_empty() {
            return matches;
        }
        for end in bytes.iter().enumerate().filter(|(_, byte)| **byte == b'/').map(|(at, _)| at) {
            matches = self.inherit(&matches, &bytes[..end]);
        }
        self.inherit(&matches, &bytes)
    }
}

impl Inherited {
    fn has(&self, index: usize) -> bool {
        self.0.get(index).copied().unwrap_or(false)
    }
}

impl Rule {
    fn matches(&self, path: &[u8]) -> bool {
        match &self.above {
            None => self.pattern.matches(path),
            Some(Above { way, whole }) => *whole || self.pattern.matches(&[way, path].concat()),
        }
    }

    /// Whether some path strictly below a directory may match.
    fn may_match_below(&self, directory: &[u8]) -> bool {
        match &self.above {
            None => self.pattern.may_match_below(directory),
            Some(Above { way, whole }) => {
                let path = [way, directory].concat();
                *whole || self.pattern.may_match_below(path.strip_suffix(b"/").unwrap_or(&path))
            }
        }
    }

    /// Whether the rule spells out what is below a directory.
    fn names_below(&self, directory: &[u8]) -> bool {
        match &self.above {
            None => self.pattern.names_below(directory),
            Some(Above { way, .. }) => self.pattern.names_below(&[way, directory].concat()),
        }
    }

    /// Reads a trimmed, non-empty line; none when the rule can match nothing (`.`, `/`).
    fn parse(line: &str) -> Result<Option<Self>, IgnoreSyntaxError> {
        let (exception, text) = match line.strip_prefix('!') {
            Some(text) => (true, text.trim()),
            None => (false, line),
        };
        if exception && text.trim_matches('/').is_empty() {
            return Err(IgnoreSyntaxError::EmptyException);
        }
        let text = clean(text);
        let pattern = Pattern::compile(&text, DoubleStar::Directories)?;
        Ok((!text.is_empty()).then_some(Self { pattern, exception, above: None }))
    }
}
