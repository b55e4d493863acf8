//! Any text as an ignore file (up to the first NUL) and a path.

#![no_main]

use std::path::Path;

use builder::context::{Ignore, glob};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| {
    let (rules, path) = text.split_once('\0').unwrap_or((text, "a/b/c"));
    let _either = glob::matches(rules, Path::new(path));
    let Ok(ignore) = Ignore::parse(rules) else { return };
    let parts: Vec<&str> = path.split('/').filter(|part| !matches!(*part, "" | "." | "..")).collect();
    let path = parts.join("/");
    let ignored = ignore.is_ignored(Path::new(&path));
    for end in 1..parts.len() {
        let directory = parts[..end].join("/");
        let hidden = ignore.is_ignored(Path::new(&directory)) && !ignore.may_descend(Path::new(&directory));
        assert!(!hidden || ignored, "{directory} is skipped, and {path} below it is not ignored");
    }
});
