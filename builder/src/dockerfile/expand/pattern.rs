//! The patterns of `${v#p}`, `${v%p}` and `${v/p/r}`: `*`, `?` and literal characters; there are no brackets.

use super::ExpandError;
use crate::dockerfile::error::quoted;

/// One character of a pattern.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Unit {
    /// `?`.
    Any,
    Literal(char),
}

/// A pattern: what stands between its stars.
pub(super) struct Pattern {
    segments: Vec<Vec<Unit>>,
}

impl Pattern {
    /// Reads a pattern. The escape character makes `*`, `?`, itself, `}` and `/` literal, and may stand before nothing else.
    pub(super) fn new(text: &str, escape: char) -> Result<Self, ExpandError> {
        let invalid = || ExpandError::Pattern { pattern: quoted(text) };
        let mut segments = Vec::new();
        let mut units = Vec::new();
        let mut characters = text.chars();
        while let Some(character) = characters.next() {
            match character {
                '*' => segments.push(std::mem::take(&mut units)),
                '?' => units.push(Unit::Any),
                _ if character == escape => match characters.next() {
                    Some(escaped) if matches!(escaped, '*' | '?' | '}' | '/') || escaped == escape => {
                        units.push(Unit::Literal(escaped));
                    }
                    _ => return Err(invalid()),
                },
                _ => units.push(Unit::Literal(character)),
            }
        }
        segments.push(units);
        Ok(Pattern { segments })
    }

    /// How many comparisons a match may take.
    pub(super) fn cost(&self, value: &str) -> usize {
        let units: usize = self.segments.iter().map(|segment| segment.len() + 1).sum();
        units.saturating_mul(value.len().max(1))
    }

    /// The value without the shortest or longest start that matches.
    pub(super) fn trim_start<'v>(&self, value: &'v str, longest: bool) -> &'v str {
        self.match_at(value, longest).map_or(value, |length| &value[length..])
    }

    /// The value without the shortest or longest end that matches.
    pub(super) fn trim_end(&self, value: &str, longest: bool) -> String {
        let mirrored: String = value.chars().rev().collect();
        let segments = self.segments.iter().rev().map(|segment| segment.iter().rev().copied().collect()).collect();
        Pattern { segments }.trim_start(&mirrored, longest).chars().rev().collect()
    }

    /// The value with the leftmost longest match replaced, or all of them; nothing when that is larger than `room`.
    pub(super) fn replace(&self, value: &str, replacement: &str, all: bool, room: usize) -> Option<String> {
        let mut text = String::new();
        let mut from = 0;
        let mut matched_to = None;
        while let Some((start, end)) = self.find(value, from) {
            // An empty match right behind another match is part of it.
            if start < end || matched_to != Some(start) {
                text.push_str(&value[from..start]);
                text.push_str(replacement);
                if text.len() > room {
                    return None;
                }
                from = end;
                matched_to = Some(end);
                if !all {
                    break;
                }
            }
            if start == end {
                let Some(character) = value[end..].chars().next() else { break };
                text.push(character);
                from = end + character.len_utf8();
            }
        }
        text.push_str(&value[from..]);
        Some(text)
    }

    /// The leftmost match at or after `from`.
    fn find(&self, value: &str, from: usize) -> Option<(usize, usize)> {
        let start = from + position(self.segments.first()?, &value[from..])?;
        // Where the first segment fits and what follows a star does not, the latter will not fit in less text either.
        self.match_at(&value[start..], true).map(|length| (start, start + length))
    }

    /// The length of the shortest or longest match at the start of `value`.
    fn match_at(&self, value: &str, longest: bool) -> Option<usize> {
        let (first, later) = self.segments.split_first()?;
        let mut end = fits(first, value)?;
        let Some((last, middle)) = later.split_last() else { return Some(end) };
        for segment in middle {
            end += position(segment, &value[end..])?;
            end += fits(segment, &value[end..])?;
        }
        end += if longest { last_position(last, &value[end..])? } else { position(last, &value[end..])? };
        end += fits(last, &value[end..])?;
        Some(end)
    }
}

/// The length of the start of `value` that the units match.
fn fits(units: &[Unit], value: &str) -> Option<usize> {
    let mut rest = value.chars();
    for unit in units {
        let character = rest.next()?;
        if let Unit::Literal(literal) = unit
            && *literal != character
        {
            return None;
        }
    }
    Some(value.len() - rest.as_str().len())
}

/// The first place where the units match.
fn position(units: &[Unit], value: &str) -> Option<usize> {
    places(value).find(|&place| fits(units, &value[place..]).is_some())
}

/// The last place where the units match.
fn last_position(units: &[Unit], value: &str) -> Option<usize> {
    if units.is_empty() {
        return Some(value.len());
    }
    value.char_indices().rev().map(|(place, _)| place).find(|&place| fits(units, &value[place..]).is_some())
}

/// Every place between characters, the end included.
fn places(value: &str) -> impl Iterator<Item = usize> + '_ {
    value.char_indices().map(|(place, _)| place).chain(std::iter::once(value.len()))
}
