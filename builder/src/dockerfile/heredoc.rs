//! Which heredocs a line opens. Their bodies are read by [`lines`](super::lines).

/// `<<EOF` as it stands on the line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Opener {
    /// The delimiter without its quotes.
    pub(super) name: String,
    pub(super) fd: u32,
    /// The delimiter has no quotes.
    pub(super) expand: bool,
    /// `<<-`.
    pub(super) strip_tabs: bool,
}

/// The heredocs that a line opens, in order: every word of the form `[fd]<<[-]delimiter` outside quotes. As in BuildKit
/// the operator must begin its word (`cat<<EOF` opens nothing), spaces may follow it, and a line whose quotes are not
/// closed opens nothing.
pub(super) fn openers(line: &str) -> Vec<Opener> {
    if !line.contains("<<") {
        return Vec::new();
    }
    raw_words(line).into_iter().flatten().filter_map(opener).collect()
}

/// The heredoc that this word opens.
pub(super) fn opener(word: &str) -> Option<Opener> {
    let digits = word.find(|character: char| !character.is_ascii_digit())?;
    let (fd, rest) = word.split_at(digits);
    let rest = rest.strip_prefix("<<")?;
    let (strip_tabs, rest) = rest.strip_prefix('-').map_or((false, rest), |rest| (true, rest));
    let delimiter = rest.trim_start();
    if delimiter.is_empty() || delimiter.contains('<') {
        return None;
    }
    let fd = if fd.is_empty() { 0 } else { fd.parse().ok()? };
    let (name, quoted) = unquote(delimiter)?;
    Some(Opener { name, fd, expand: !quoted, strip_tabs })
}

/// The delimiter without quotes and escapes, and whether it had quotes; nothing when it is not one word.
fn unquote(delimiter: &str) -> Option<(String, bool)> {
    let mut name = String::new();
    let mut quoted = false;
    let mut characters = delimiter.chars();
    while let Some(character) = characters.next() {
        match character {
            '\\' => name.extend(characters.next()),
            '\'' | '"' => {
                quoted = true;
                let closed = quotation(&mut characters, character, &mut name);
                closed.then_some(())?;
            }
            _ if character.is_whitespace() => return None,
            _ => name.push(character),
        }
    }
    (!name.is_empty()).then_some((name, quoted))
}

/// Takes the text up to the closing quote; false when there is none.
fn quotation(characters: &mut std::str::Chars<'_>, quote: char, text: &mut String) -> bool {
    while let Some(character) = characters.next() {
        match character {
            _ if character == quote => return true,
            '\\' if quote == '"' => match characters.next() {
                Some(escaped @ ('"' | '\\' | '$')) => text.push(escaped),
                Some(other) => text.extend(['\\', other]),
                None => return false,
            },
            _ => text.push(character),
        }
    }
    false
}

/// The words of a line with their quotes and escapes, the space after `<<` being part of its word; nothing when a quote
/// is not closed.
fn raw_words(line: &str) -> Option<Vec<&str>> {
    let mut words = Vec::new();
    let mut start = None;
    let mut characters = line.char_indices().peekable();
    while let Some((place, character)) = characters.next() {
        if character.is_whitespace() {
            if let Some(start) = start.take() {
                words.push(&line[start..place]);
            }
            continue;
        }
        start.get_or_insert(place);
        match character {
            '\\' => drop(characters.next()),
            '\'' | '"' => loop {
                match characters.next()?.1 {
                    '\\' if character == '"' => drop(characters.next()),
                    closing if closing == character => break,
                    _ => {}
                }
            },
            '<' if characters.next_if(|(_, next)| *next == '<').is_some() => {
                while characters.next_if(|(_, next)| next.is_whitespace()).is_some() {}
            }
            _ => {}
        }
    }
    words.extend(start.map(|start| &line[start..]));
    Some(words)
}
