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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wildcards_are_seen_unless_escaped() {
        for pattern in ["*", "a?", "a[b]", "\\\\*", "a/b*/c", "[", "é*"] {
            assert!(has_wildcard(pattern), "{pattern}");
        }
        for pattern in ["", "a", "a/b", "\\*", "a\\?b\\[c]", "]", "\\", "a\\\\b"] {
            assert!(!has_wildcard(pattern), "{pattern}");
        }
    }

    #[test]
    fn rows() {
        let rows = [
            ("a", "a", true),
            ("a", "b", false),
            ("*", "a", true),
            ("*", "a/b", false),
            ("*", ".hidden", true),
            ("**", "a", true),
            ("**", "a/b", false),
            ("**/b", "a/b", true),
            ("**/b", "a/x/b", false),
            ("**/b", "b", false),
            ("a*/b", "axx/b", true),
            ("a*/b", "a/x/b", false),
            ("a*b*c", "aXbYc", true),
            ("a*b*c", "aXbY", false),
            ("*x", "xxx", true),
            ("a?c", "abc", true),
            ("a?c", "aéc", true),
            ("a?c", "a/c", false),
            ("[a-c]x", "bx", true),
            ("[a-c]x", "dx", false),
            ("[^a-c]x", "dx", true),
            ("[^a-c]x", "ax", false),
            ("a\\*", "a*", true),
            ("a\\*", "ab", false),
            ("a\\[1\\].txt", "a[1].txt", true),
            ("arr[[]0].txt", "arr[0].txt", true),
            ("[\\]a]", "]", true),
            ("a/b", "a/b", true),
            ("/a/b", "a/b", true),
            ("a//b/", "a/b", true),
            ("", "a", false),
            ("*a*a*a*a*b", "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa", false),
        ];
        for (pattern, path, expected) in rows {
            assert_eq!(matches(pattern, Path::new(path)), Ok(expected), "{pattern} and {path}");
        }
    }

    #[test]
    fn malformed_patterns_are_errors_wherever_they_fail_to_match() {
        let rows = [
            ("[", PatternError::OpenClass),
            ("x[a", PatternError::OpenClass),
            ("[a-", PatternError::OpenClass),
            ("[]", PatternError::EmptyRange),
            ("[^]", PatternError::EmptyRange),
            ("[a-]", PatternError::EmptyRange),
            ("zzz/[b-a]", PatternError::ReversedRange('b', 'a')),
            ("a\\", PatternError::TrailingEscape),
        ];
        for (pattern, error) in rows {
            assert_eq!(matches(pattern, Path::new("q")), Err(error), "{pattern}");
        }
    }

    #[test]
    fn a_glob_bomb_takes_linear_time() {
        let begun = std::time::Instant::now();
        let name = "a".repeat(250);
        for _ in 0..100 {
            assert_eq!(matches(&("a*".repeat(60) + "b"), Path::new(&name)), Ok(false));
        }
        assert!(begun.elapsed().as_secs() < 20, "took {:?}", begun.elapsed());
    }
}
