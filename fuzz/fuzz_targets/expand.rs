//! Any text as a word (the first line) and the variables to expand it with (`name=value`, the other lines).

#![no_main]

use builder::dockerfile::expand::{expand, expand_body, expand_words};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| {
    let (word, variables) = text.split_once('\n').unwrap_or((text, ""));
    let lookup = |name: &str| {
        let pairs = variables.lines().filter_map(|line| line.split_once('='));
        pairs.filter(|(other, _)| *other == name).map(|(_, value)| value.to_owned()).next_back()
    };
    for escape in ['\\', '`'] {
        let whole = expand(word, escape, &lookup);
        let words = expand_words(word, escape, &lookup);
        assert_eq!(whole.is_ok(), words.is_ok(), "one word or several: the same errors");
    }
    let _either = expand_body(word, &lookup);
});
