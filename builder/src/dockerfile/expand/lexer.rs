//! One pass over a word: quotes, escapes, `$`.

use std::collections::BTreeSet;

use super::pattern::Pattern;
use super::{COSTLIEST, DEEPEST, ExpandError, LARGEST, Lookup};
use crate::dockerfile::error::quoted;

/// What is done with the escape character itself.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Escapes {
    /// It is dropped and the next character is taken literally.
    Taken,
    /// It stays, for the pattern to judge.
    Kept,
}

/// The state of one expansion.
pub(super) struct Lexer<'w> {
    rest: &'w str,
    escape: char,
    lookup: Lookup<'w>,
    literal_quotes: bool,
    unset: BTreeSet<String>,
    depth: usize,
    added: usize,
}

/// Text that may also be split into words.
#[derive(Default)]
pub(super) struct Pieces {
    pub(super) text: String,
    split: bool,
    words: Vec<String>,
    word: String,
    in_word: bool,
}

impl Pieces {
    /// Adds text whose spaces separate words.
    fn open(&mut self, text: &str) {
        self.text.push_str(text);
        let mut rest = if self.split { text } else { "" };
        while let Some(first) = rest.chars().next() {
            let space = first.is_whitespace();
            let length = rest.find(|next: char| next.is_whitespace() != space).unwrap_or(rest.len());
            if !space {
                self.word.push_str(&rest[..length]);
                self.in_word = true;
            } else if self.in_word && !self.word.is_empty() {
                self.words.push(std::mem::take(&mut self.word));
                self.in_word = false;
            }
            rest = &rest[length..];
        }
    }

    /// Adds text whose spaces belong to the word.
    fn closed(&mut self, text: &str) {
        self.text.push_str(text);
        if self.split {
            self.word.push_str(text);
            self.in_word = true;
        }
    }

    pub(super) fn into_words(mut self) -> Vec<String> {
        if !self.word.is_empty() {
            self.words.push(self.word);
        }
        self.words
    }
}

impl<'w> Lexer<'w> {
    pub(super) fn new(word: &'w str, escape: char, lookup: Lookup<'w>) -> Self {
        Lexer { rest: word, escape, lookup, literal_quotes: false, unset: BTreeSet::new(), depth: 0, added: 0 }
    }

    pub(super) fn with_literal_quotes(mut self) -> Self {
        self.literal_quotes = true;
        self
    }

    pub(super) fn unset(self) -> Vec<String> {
        self.unset.into_iter().collect()
    }

    /// The whole word as one text.
    pub(super) fn text(&mut self) -> Result<String, ExpandError> {
        self.until(None, Escapes::Taken)
    }

    /// The whole text as words.
    pub(super) fn words(&mut self) -> Result<Vec<String>, ExpandError> {
        let pieces = Pieces { split: true, ..Pieces::default() };
        Ok(self.collect(pieces, None, Escapes::Taken)?.into_words())
    }

    fn peek(&self) -> Option<char> {
        self.rest.chars().next()
    }

    fn next(&mut self) -> Option<char> {
        let character = self.peek()?;
        self.rest = &self.rest[character.len_utf8()..];
        Some(character)
    }

    /// Up to and without `stop`, which is consumed; to the end where there is no stop.
    fn until(&mut self, stop: Option<char>, escapes: Escapes) -> Result<String, ExpandError> {
        Ok(self.collect(Pieces::default(), stop, escapes)?.text)
    }

    fn collect(&mut self, mut pieces: Pieces, stop: Option<char>, escapes: Escapes) -> Result<Pieces, ExpandError> {
        loop {
            let plain = self.rest.find(|next| self.is_special(next) || Some(next) == stop).unwrap_or(self.rest.len());
            pieces.open(&self.rest[..plain]);
            self.rest = &self.rest[plain..];
            match self.next() {
                None if stop.is_some() => return Err(ExpandError::NoBrace),
                None => return Ok(pieces),
                character if character == stop => return Ok(pieces),
                Some('\'') => pieces.closed(self.single_quoted()?),
                Some('"') => pieces.closed(&self.double_quoted(escapes)?),
                Some('$') => pieces.open(&self.dollar()?),
                // The escape character, for nothing else is special.
                Some(escape) => {
                    if escapes == Escapes::Kept {
                        pieces.closed(escape.encode_utf8(&mut [0; 4]));
                    }
                    if let Some(escaped) = self.next() {
                        pieces.closed(escaped.encode_utf8(&mut [0; 4]));
                    }
                }
            }
        }
    }

    fn is_special(&self, character: char) -> bool {
        let quote = matches!(character, '\'' | '"') && !self.literal_quotes;
        quote || character == '$' || character == self.escape
    }

    /// All is literal up to the next `'`, which nothing escapes.
    fn single_quoted(&mut self) -> Result<&'w str, ExpandError> {
        let (text, rest) = self.rest.split_once('\'').ok_or(ExpandError::Unclosed('\''))?;
        self.rest = rest;
        Ok(text)
    }

    /// Variables are expanded; the escape character escapes `"`, `$` and itself and is literal before all else.
    fn double_quoted(&mut self, escapes: Escapes) -> Result<String, ExpandError> {
        let mut text = String::new();
        while let Some(character) = self.next() {
            match character {
                '"' => return Ok(text),
                '$' => text.push_str(&self.dollar()?),
                _ if character == self.escape => {
                    if escapes == Escapes::Kept {
                        text.push(character);
                    }
                    match self.peek() {
                        Some(next) if next == '"' || next == '$' || next == self.escape => {
                            text.push(next);
                            self.next();
                        }
                        Some(_) => text.push(character),
                        None => {}
                    }
                }
                _ => text.push(character),
            }
        }
        Err(ExpandError::Unclosed('"'))
    }

    /// What stands for the `$` that was just read and what belongs to it.
    fn dollar(&mut self) -> Result<String, ExpandError> {
        if self.peek() != Some('{') {
            let name = self.name();
            return if name.is_empty() { Ok("$".to_owned()) } else { self.plain(name) };
        }
        self.next();
        if self.depth == DEEPEST {
            return Err(ExpandError::TooDeep);
        }
        self.depth += 1;
        let text = self.braces();
        self.depth -= 1;
        text
    }

    /// The name of a variable: digits, one special parameter, or letters, digits and `_`.
    fn name(&mut self) -> &'w str {
        let rest = self.rest;
        let length = match rest.chars().next() {
            Some(first) if first.is_ascii_digit() => {
                rest.find(|character: char| !character.is_ascii_digit()).unwrap_or(rest.len())
            }
            Some('@' | '*' | '#' | '?' | '-' | '$' | '!') => 1,
            _ => rest.find(|character: char| !character.is_alphanumeric() && character != '_').unwrap_or(rest.len()),
        };
        self.rest = &rest[length..];
        &rest[..length]
    }

    /// After `${`: everything up to the matching brace.
    fn braces(&mut self) -> Result<String, ExpandError> {
        if self.peek().is_none() {
            return Err(ExpandError::NoBrace);
        }
        let name = self.name();
        if name.is_empty() {
            return Err(ExpandError::NoName);
        }
        match self.next() {
            None => Err(ExpandError::NoBrace),
            Some('}') => self.plain(name),
            Some(':') => match self.next() {
                None => Err(ExpandError::NoBrace),
                Some(modifier @ ('-' | '+' | '?')) => self.conditional(name, modifier, true),
                Some(other) => Err(unknown_modifier(name, &format!(":{other}"))),
            },
            Some(modifier @ ('-' | '+' | '?')) => self.conditional(name, modifier, false),
            Some('#') => self.trimmed(name, '#'),
            Some('%') => self.trimmed(name, '%'),
            Some('/') => self.replaced(name),
            Some(other) => Err(unknown_modifier(name, &other.to_string())),
        }
    }

    fn plain(&mut self, name: &str) -> Result<String, ExpandError> {
        if let Some(value) = (self.lookup)(name) {
            return self.counted(value);
        }
        self.unset.insert(name.to_owned());
        Ok(String::new())
    }

    /// `-`, `+` and `?`; with a colon an empty value counts as none.
    fn conditional(&mut self, name: &str, modifier: char, colon: bool) -> Result<String, ExpandError> {
        let word = self.until(Some('}'), Escapes::Taken)?;
        let value = (self.lookup)(name);
        let unset = value.is_none();
        let value = value.filter(|value| !(colon && value.is_empty()));
        match (modifier, value) {
            ('-', None) | ('+', Some(_)) => Ok(word),
            ('+', None) => Ok(String::new()),
            ('?', None) => {
                let reason = if unset { "not set" } else { "empty" };
                let message = if word.is_empty() { reason.to_owned() } else { quoted(&word) };
                Err(ExpandError::Required { name: quoted(name), message })
            }
            (_, Some(value)) => self.counted(value),
            (other, None) => Err(unknown_modifier(name, &other.to_string())),
        }
    }

    /// `#` and `%`: the shortest match of a pattern is cut off the start or the end; doubled, the longest.
    fn trimmed(&mut self, name: &str, modifier: char) -> Result<String, ExpandError> {
        let word = self.until(Some('}'), Escapes::Kept)?;
        let longest = word.strip_prefix(modifier);
        let pattern = Pattern::new(longest.unwrap_or(&word), self.escape)?;
        let value = self.plain(name)?;
        affordable(name, &pattern, &value)?;
        let kept = if modifier == '#' {
            pattern.trim_start(&value, longest.is_some()).to_owned()
        } else {
            pattern.trim_end(&value, longest.is_some())
        };
        Ok(kept)
    }

    /// `/`: the first match of a pattern is replaced; doubled, all.
    fn replaced(&mut self, name: &str) -> Result<String, ExpandError> {
        let all = self.peek() == Some('/');
        if all {
            self.next();
        }
        let pattern = self.until(Some('/'), Escapes::Kept).map_err(|error| match error {
            ExpandError::NoBrace if self.rest.is_empty() => ExpandError::NoReplacement { name: quoted(name) },
            other => other,
        })?;
        let pattern = Pattern::new(&pattern, self.escape)?;
        let replacement = self.until(Some('}'), Escapes::Kept)?;
        let value = self.plain(name)?;
        affordable(name, &pattern, &value)?;
        let room = LARGEST.saturating_sub(self.added);
        let text = pattern.replace(&value, &replacement, all, room).ok_or(ExpandError::TooLarge)?;
        self.counted(text)
    }

    /// The value, added to what the variables of the word have brought so far.
    fn counted(&mut self, value: String) -> Result<String, ExpandError> {
        self.added = self.added.saturating_add(value.len());
        if self.added > LARGEST { Err(ExpandError::TooLarge) } else { Ok(value) }
    }
}

fn unknown_modifier(name: &str, modifier: &str) -> ExpandError {
    ExpandError::Modifier { name: quoted(name), modifier: quoted(modifier) }
}

fn affordable(name: &str, pattern: &Pattern, value: &str) -> Result<(), ExpandError> {
    if pattern.cost(value) > COSTLIEST { Err(ExpandError::Costly { name: quoted(name) }) } else { Ok(()) }
}
