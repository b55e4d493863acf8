//! Names of builds and releases: a letter and ten more, A to Z.

use rustix::rand::{GetRandomFlags, getrandom};

/// Letters after the first.
const LETTERS: usize = 10;

/// Makes a name that nobody can predict; `kind` is `B` or `R`.
pub fn random(kind: char) -> std::io::Result<String> {
    let mut name = String::from(kind);
    while name.len() <= LETTERS {
        let mut bytes = [0; 32];
        let filled = getrandom(&mut bytes, GetRandomFlags::empty())?;
        // Every letter is as likely as any other: 234 is 9 × 26.
        let letters = bytes[..filled].iter().filter(|byte| **byte < 234).map(|byte| char::from(b'A' + byte % 26));
        name.extend(letters.take(LETTERS + 1 - name.len()));
    }
    Ok(name)
}

/// Whether a text can be the name of a build (`B`) or a release (`R`): it is then fit for a path.
pub fn is_id(kind: char, text: &str) -> bool {
    text.starts_with(kind) && (2..=32).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_uppercase())
}

/// Whether a text can be the name of a rack, an app or a service: fit for a path and for a part of a repository's name.
pub fn is_name(text: &str) -> bool {
    let inner = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
    (1..=63).contains(&text.len())
        && text.starts_with(|first: char| first.is_ascii_lowercase())
        && text.bytes().all(inner)
        && !text.ends_with('-')
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn names_are_letters_and_differ() {
        let names: HashSet<String> = (0..1000).map(|_| random('B').unwrap()).collect();
        assert_eq!(names.len(), 1000);
        assert!(names.iter().all(|name| name.len() == 11 && is_id('B', name)));
        let used: HashSet<char> = names.iter().flat_map(|name| name.chars()).collect();
        assert_eq!(used.len(), 26);
    }

    #[test]
    fn what_would_leave_a_directory_is_no_name() {
        for text in ["", "B", "../B", "Babc", "RABC", "B/ABC", "BABC.", "BÄ"] {
            assert!(!is_id('B', text), "{text}");
        }
        for text in ["", ".", "..", "a/b", "A", "1a", "a_b", "a.", "-a", "a-", &"a".repeat(64)] {
            assert!(!is_name(text), "{text}");
        }
        assert!(is_name("my-app2") && is_id('R', "RABCDEFGHIJ"));
    }
}
