//! The ways in which the text of an instruction is cut: flags, words with their quotes, lists, JSON arrays.

/// What BuildKit's parser separates words by.
pub(super) fn is_blank(character: char) -> bool {
    matches!(character, ' ' | '\t' | '\r' | '\u{b}' | '\u{c}')
}

/// The text up to the first blank and what follows the blanks, if there is one.
pub(super) fn cut_word(text: &str) -> (&str, Option<&str>) {
    match text.find(is_blank) {
        Some(place) => (&text[..place], Some(text[place..].trim_start_matches(is_blank))),
        None => (text, None),
    }
}

/// The words between blanks; quotes mean nothing.
pub(super) fn list(text: &str) -> Vec<String> {
    if text.is_empty() {
        Vec::new()
    } else {
        text.split(is_blank).filter(|word| !word.is_empty()).map(str::to_owned).collect()
    }
}

/// The flags at the head of the text, their quotes and escapes taken off, and the text behind them. `--` ends them.
pub(super) fn flags(text: &str) -> (Vec<String>, &str) {
    let mut flags = Vec::new();
    let mut rest = text.trim_start();
    while rest.starts_with("--") {
        let (flag, behind) = flag(rest);
        rest = behind.trim_start();
        if flag == "--" {
            break;
        }
        flags.push(flag);
    }
    (flags, rest)
}

/// One flag and the text behind it.
fn flag(text: &str) -> (String, &str) {
    let mut word = String::new();
    let mut quote = None;
    let mut characters = text.char_indices();
    while let Some((place, character)) = characters.next() {
        match (character, quote) {
            ('\\', _) => word.extend(characters.next().map(|(_, escaped)| escaped)),
            (_, Some(open)) if character == open => quote = None,
            ('\'' | '"', None) => quote = Some(character),
            (_, None) if character.is_whitespace() => return (word, &text[place..]),
            _ => word.push(character),
        }
    }
    (word, "")
}

/// The words between spaces, where quotes and escapes keep spaces together; both stay in the word.
pub(super) fn quoted_words(text: &str, escape: char) -> Vec<String> {
    let mut words = Vec::new();
    let mut word = String::new();
    let mut quote = None;
    let mut characters = text.chars();
    while let Some(character) = characters.next() {
        if quote.is_none() && character.is_whitespace() {
            if !word.is_empty() {
                words.push(std::mem::take(&mut word));
            }
            continue;
        }
        if character == escape && quote != Some('\'') {
            // At the very end it escapes nothing and is dropped.
            if let Some(escaped) = characters.next() {
                word.extend([character, escaped]);
            }
            continue;
        }
        match quote {
            Some(open) if open == character => quote = None,
            None if matches!(character, '\'' | '"') => quote = Some(character),
            _ => {}
        }
        word.push(character);
    }
    if !word.is_empty() {
        words.push(word);
    }
    words
}

/// What the text is as JSON.
pub(super) enum Json {
    /// An array of strings.
    Strings(Vec<String>),
    /// An array with something else in it.
    Mixed,
    /// No JSON array: text like `[ -f x ]` is a command.
    None,
}

/// Reads a JSON array, if the text is one.
pub(super) fn json(text: &str) -> Json {
    if !text.starts_with('[') {
        return Json::None;
    }
    if let Ok(strings) = serde_json::from_str(text) {
        return Json::Strings(strings);
    }
    match serde_json::from_str::<Vec<serde::de::IgnoredAny>>(text) {
        Ok(_) => Json::Mixed,
        Err(_) => Json::None,
    }
}
