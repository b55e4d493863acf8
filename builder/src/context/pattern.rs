//! The pattern syntax that `.dockerignore` and `COPY` sources share, compiled to a program that is matched in one pass.
//!
//! Syntax errors are those of Go's `filepath.Match`. Matching follows every alternative at once (a set of program
//! positions moves over the path), so it costs at most pattern length × path length, whatever the pattern.
//! Which files exist, and which of several patterns wins, is not known here.

use std::path::Path;

/// Why a pattern is malformed. The rules are those of Go's `path/filepath.Match`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum PatternError {
    /// `[` without a `]`.
    #[error("`[` is not closed by `]`")]
    OpenClass,
    /// `[]`, `[^]`, or a range that lacks an end.
    #[error("a character class needs a character or a range `a-z` at every place")]
    EmptyRange,
    /// `[z-a]`.
    #[error("the range `{0}-{1}` is the wrong way round")]
    ReversedRange(char, char),
    /// `\` at the end.
    #[error("`\\` has nothing after it")]
    TrailingEscape,
}

/// What `**` means.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum DoubleStar {
    /// Any number of directories (`.dockerignore`).
    Directories,
    /// The same as `*` (`filepath.Match`).
    Star,
}

/// One step of a program.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Token {
    /// This character.
    Char(char),
    /// Any character but `/`.
    One,
    /// A character of a class; `/` is no exception, as in Go.
    Class { negated: bool, ranges: Vec<(char, char)> },
    /// Any characters but `/`, also none.
    Star,
    /// Any characters.
    Anything,
    /// Nothing, or anything that ends with `/`.
    Directories,
}

/// A compiled pattern.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Pattern {
    tokens: Vec<Token>,
    /// What every match begins with.
    prefix: Vec<u8>,
    /// What every match ends with; empty when `prefix` is the whole pattern.
    suffix: Vec<u8>,
    /// True when only the text `prefix` matches.
    literal: bool,
}

impl Pattern {
    /// Compiles `text`.
    pub(super) fn compile(text: &str, double_star: DoubleStar) -> Result<Self, PatternError> {
        let mut tokens = Vec::new();
        let mut rest = text;
        while let Some(first) = rest.chars().next() {
            let after = &rest[first.len_utf8()..];
            rest = match first {
                '*' if double_star == DoubleStar::Directories && after.starts_with('*') => {
                    let (token, after) = directories(&after[1..], tokens.is_empty());
                    tokens.push(token);
                    after
                }
                '*' => {
                    tokens.push(Token::Star);
                    after
                }
                '?' => {
                    tokens.push(Token::One);
                    after
                }
                '[' => {
                    let (token, after) = class(after)?;
                    tokens.push(token);
                    after
                }
                '\\' => {
                    let escaped = after.chars().next().ok_or(PatternError::TrailingEscape)?;
                    tokens.push(Token::Char(escaped));
                    &after[escaped.len_utf8()..]
                }
                other => {
                    tokens.push(Token::Char(other));
                    after
                }
            };
        }
        let prefix = literal_run(tokens.iter());
        let literal = tokens.iter().all(|token| matches!(token, Token::Char(_)));
        let tail = tokens.iter().rposition(|token| !matches!(token, Token::Char(_))).map_or(tokens.len(), |at| at + 1);
        let suffix = literal_run(tokens[tail..].iter());
        Ok(Self { tokens, prefix, suffix, literal })
    }

    /// True when the pattern spells `directory` out, and something below it.
    pub(super) fn names_below(&self, directory: &[u8]) -> bool {
        self.prefix.strip_prefix(directory).is_some_and(|below| below.starts_with(b"/"))
    }

    /// True when the whole of `path` matches.
    pub(super) fn matches(&self, path: &[u8]) -> bool {
        if self.literal {
            return path == self.prefix;
        }
        // Most patterns match few paths, and their last characters tell.
        if self.suffix.last().is_some_and(|last| path.last() != Some(last))
            || !path.starts_with(&self.prefix)
            || !path.ends_with(&self.suffix)
        {
            return false;
        }
        let mut positions = Positions::start(&self.tokens);
        positions.advance(&self.tokens, path);
        positions.reached[self.tokens.len()]
    }

    /// True when some path strictly below `directory` may match.
    pub(super) fn may_match_below(&self, directory: &[u8]) -> bool {
        if directory.is_empty() {
            return true;
        }
        let shared = self.prefix.len().min(directory.len());
        if self.prefix[..shared] != directory[..shared] {
            return false;
        }
        let mut positions = Positions::start(&self.tokens);
        positions.advance(&self.tokens, directory);
        positions.advance(&self.tokens, b"/");
        positions.any_before(self.tokens.len())
    }
}

/// The text of the characters up to the first other token.
fn literal_run<'a>(tokens: impl Iterator<Item = &'a Token>) -> Vec<u8> {
    let text: String = tokens
        .map_while(|token| match token {
            Token::Char(character) => Some(*character),
            Token::One | Token::Class { .. } | Token::Star | Token::Anything | Token::Directories => None,
        })
        .collect();
    text.into_bytes()
}

/// Reads what follows `**`: moby takes `**/` as one thing, a final `**` as anything, and a leading `**` that only plain
/// text follows (`**.txt`) as "ends with".
fn directories(after: &str, first: bool) -> (Token, &str) {
    let (slash, rest) = after.strip_prefix('/').map_or((false, after), |rest| (true, rest));
    let plain = !rest.contains(['*', '?', '[', ']', '\\']);
    let token = if rest.is_empty() || (first && !slash && plain) { Token::Anything } else { Token::Directories };
    (token, rest)
}

/// Reads a character class whose `[` was consumed.
fn class(after: &str) -> Result<(Token, &str), PatternError> {
    let (negated, mut rest) = after.strip_prefix('^').map_or((false, after), |rest| (true, rest));
    let mut ranges = Vec::new();
    loop {
        if let (Some(after), false) = (rest.strip_prefix(']'), ranges.is_empty()) {
            return Ok((Token::Class { negated, ranges }, after));
        }
        let (low, after) = class_member(rest)?;
        let (high, after) = match after.strip_prefix('-') {
            Some(after) => class_member(after)?,
            None => (low, after),
        };
        if low > high {
            return Err(PatternError::ReversedRange(low, high));
        }
        ranges.push((low, high));
        rest = after;
    }
}

/// Reads one character of a class.
fn class_member(rest: &str) -> Result<(char, &str), PatternError> {
    let mut characters = rest.chars();
    let member = match characters.next().ok_or(PatternError::OpenClass)? {
        '-' | ']' => return Err(PatternError::EmptyRange),
        '\\' => characters.next().ok_or(PatternError::TrailingEscape)?,
        other => other,
    };
    Ok((member, characters.as_str()))
}

/// The places in a program that the characters read so far can lead to.
struct Positions {
    /// `reached[n]`: the tokens before `n` have matched.
    reached: Vec<bool>,
    /// `within[n]`: token `n` is a `Directories` that has begun and waits for a `/`.
    within: Vec<bool>,
}

impl Positions {
    fn empty(length: usize) -> Self {
        Self { reached: vec![false; length + 1], within: vec![false; length + 1] }
    }

    fn start(tokens: &[Token]) -> Self {
        let mut positions = Self::empty(tokens.len());
        positions.reach(tokens, 0);
        positions
    }

    /// Adds `position` and what follows it without reading a character.
    fn reach(&mut self, tokens: &[Token], mut position: usize) {
        while !self.reached[position] {
            self.reached[position] = true;
            match tokens.get(position) {
                Some(Token::Star | Token::Anything) => {}
                Some(Token::Directories) => self.within[position] = true,
                Some(Token::Char(_) | Token::One | Token::Class { .. }) | None => return,
            }
            position += 1;
        }
    }

    /// Reads `text`.
    fn advance(&mut self, tokens: &[Token], text: &[u8]) {
        let mut next = Self::empty(tokens.len());
        for chunk in text.utf8_chunks() {
            let valid = chunk.valid().chars().map(Some);
            let invalid = chunk.invalid().iter().map(|_| None);
            for character in valid.chain(invalid) {
                next.reached.fill(false);
                next.within.fill(false);
                self.step(tokens, character, &mut next);
                std::mem::swap(self, &mut next);
                if !self.any_before(tokens.len() + 1) {
                    return;
                }
            }
        }
    }

    /// Reads one character, `None` being a byte that is not UTF-8.
    fn step(&self, tokens: &[Token], character: Option<char>, next: &mut Self) {
        let slash = character == Some('/');
        for (position, token) in tokens.iter().enumerate() {
            if self.within[position] {
                next.within[position] = true;
                if slash {
                    next.reach(tokens, position + 1);
                }
            }
            if !self.reached[position] {
                continue;
            }
            match token {
                Token::Char(expected) if character == Some(*expected) => next.reach(tokens, position + 1),
                Token::One if !slash => next.reach(tokens, position + 1),
                Token::Class { negated, ranges } => {
                    let inside = character.is_some_and(|it| ranges.iter().any(|&(low, high)| low <= it && it <= high));
                    if inside != *negated {
                        next.reach(tokens, position + 1);
                    }
                }
                Token::Star if !slash => next.reach(tokens, position),
                Token::Anything => next.reach(tokens, position),
                Token::Char(_) | Token::One | Token::Star | Token::Directories => {}
            }
        }
    }

    /// True when a position before `end` is alive.
    fn any_before(&self, end: usize) -> bool {
        self.reached[..end].iter().chain(&self.within[..end]).any(|&alive| alive)
    }
}

/// Cleans a slash-separated path as Go's `path.Clean` does: no empty or `.` component, `..` takes its parent with it.
/// A leading `/` is dropped and `..` stops there; without one, leading `..` stay. The result of nothing is empty.
pub(super) fn clean(text: &str) -> String {
    let rooted = text.starts_with('/');
    let mut kept: Vec<&str> = Vec::new();
    for component in text.split('/') {
        match component {
            "" | "." => {}
            ".." if kept.last().is_some_and(|last| *last != "..") => {
                kept.pop();
            }
            ".." if rooted => {}
            other => kept.push(other),
        }
    }
    kept.join("/")
}

/// The bytes of a relative path as patterns see it: no `.` components, no slash at either end.
pub(super) fn path_bytes(path: &Path) -> Vec<u8> {
    use std::os::unix::ffi::OsStrExt;
    let mut bytes = Vec::with_capacity(path.as_os_str().len());
    for component in path.components() {
        if let std::path::Component::Normal(name) = component {
            if !bytes.is_empty() {
                bytes.push(b'/');
            }
            bytes.extend_from_slice(name.as_bytes());
        }
    }
    bytes
}
