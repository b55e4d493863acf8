//! The wildcards of `COPY` and `ADD` sources: Go's `filepath.Match`, component by component.
//!
//! `*` and `?` stop at `/`, `[a-z]` and `[^a]` are classes, `\` takes the next character literally, `**` is no more
//! than `*`. Pure: which files exist is for the caller.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::{Component, Path};

use super::pattern::{DoubleStar, Pattern, PatternError};

/// Says whether `pattern` has a `*`, `?` or `[` that no `\` escapes.
pub fn has_wildcard(pattern: &str) -> bool {
    let mut characters = pattern.chars();
    while let Some(character) = characters.next() {
        match character {
            '\\' => {
                characters.next();
            }
            '*' | '?' | '[' => return true,
            _ => {}
        }
    }
    false
}

/// Says whether the whole of `path` matches `pattern`; a pattern matches paths of as many components as it has.
pub fn matches(pattern: &str, path: &Path) -> Result<bool, PatternError> {
    let globs = pattern.split('/').filter(|part| !part.is_empty()).map(Glob::parse).collect::<Result<Vec<_>, _>>()?;
    let names: Vec<&OsStr> = path
        .components()
        .filter_map(|component| if let Component::Normal(name) = component { Some(name) } else { None })
        .collect();
    Ok(globs.len() == names.len() && globs.iter().zip(names).all(|(glob, name)| glob.matches(name)))
}

/// The pattern of one component.
#[derive(Debug, Clone)]
pub(super) struct Glob(Pattern);

impl Glob {
    /// Compiles a pattern without `/`.
    pub(super) fn parse(component: &str) -> Result<Self, PatternError> {
        Pattern::compile(component, DoubleStar::Star).map(Self)
    }

    /// Says whether the whole name matches.
    pub(super) fn matches(&self, name: &OsStr) -> bool {
        self.0.matches(name.as_bytes())
    }
}

/// Takes the escapes out of a component that has no wildcard.
pub(super) fn unescape(component: &str) -> Result<String, PatternError> {
    let mut text = String::with_capacity(component.len());
    let mut characters = component.chars();
    while let Some(character) = characters.next() {
        text.push(if character == '\\' { characters.next().ok_or(PatternError::TrailingEscape)? } else { character });
    }
    Ok(text)
}
