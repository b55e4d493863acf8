//! Rows of rules, path and verdict; what a walk may skip; errors with their line.

use std::path::Path;
use std::time::{Duration, Instant};

use super::*;

/// Rules (one a line), paths that they hide, paths that they leave.
const ROWS: &[(&str, &[&str], &[&str])] = &[
    // Plain names, cleaned.
    ("a", &["a", "a/b", "a/b/c"], &["b", "ab", "b/a", "A"]),
    ("a/b", &["a/b", "a/b/c"], &["a", "b", "a/c", "a/bc", "x/a/b"]),
    ("a/", &["a", "a/b"], &["ab"]),
    ("/a", &["a", "a/b"], &["b/a"]),
    ("//a//b", &["a/b"], &["a"]),
    ("./a", &["a"], &["b"]),
    ("./a/./b/.", &["a/b"], &["a"]),
    ("a/../b", &["b"], &["a"]),
    ("/../a", &["a"], &["b"]),
    ("../a", &[], &["a", "b/a"]),
    (".", &[], &["a", ".a"]),
    ("/", &[], &["a"]),
    ("./", &[], &["a"]),
    ("..", &[], &["a"]),
    // Lines.
    ("", &[], &["a"]),
    ("\n\n  \n\t\n", &[], &["a", " "]),
    ("# a", &[], &["a", "# a"]),
    (" # a", &["# a"], &["a"]),
    ("\\#a", &["#a"], &["a", "\\#a"]),
    ("a # b", &["a # b"], &["a"]),
    ("  a  ", &["a"], &[" a "]),
    ("a\r\nb\r\n", &["a", "b"], &["a\r", "c"]),
    ("\u{feff}a\nb", &["a", "b"], &["\u{feff}a"]),
    ("\u{feff}# a", &[], &["# a", "a"]),
    ("b\n\u{feff}a", &["b", "\u{feff}a"], &["a"]),
    ("a b", &["a b"], &["a", "b"]),
    // One component at a time.
    ("*", &["a", "a/b", ".a"], &[]),
    ("*.md", &["x.md", ".md", "x.md/y"], &["d/x.md", "x.mdx"]),
    ("a*", &["a", "abc", "a/x"], &["ba"]),
    ("a*c", &["ac", "abc", "abbc", "abc/d"], &["ab", "a/c", "acb"]),
    ("*/b", &["a/b", "x/b/c"], &["b", "a/x/b"]),
    ("a/*/c", &["a/b/c"], &["a/c", "a/b/b/c"]),
    ("*/*", &["a/b", "a/b/c"], &["a"]),
    ("a?c", &["abc", "aéc", "a.c"], &["ac", "a/c", "abbc"]),
    ("?", &["a", "é", "a/b"], &["ab"]),
    ("a*b*c*d", &["abcd", "axbxcxd"], &["abdc", "abc"]),
    // Classes.
    ("[a-c]x", &["ax", "bx", "cx"], &["dx", "x", "Ax"]),
    ("[^a-c]x", &["dx", "éx"], &["ax", "x"]),
    ("[abc]", &["a", "c"], &["d", "ab"]),
    ("[!a]", &["!", "a"], &["b"]),
    ("[a-c0-9_]", &["b", "5", "_"], &["d", "-"]),
    ("[\\]]", &["]"], &["[", "\\"]),
    ("[\\-a]", &["-", "a"], &["b"]),
    ("[*?]", &["*", "?"], &["a", "[*?]"]),
    ("[α-ω]", &["β"], &["b"]),
    ("a[[]b", &["a[b"], &["ab"]),
    ("a]", &["a]"], &["a"]),
    // Escapes and characters that regular expressions would mean something by.
    ("a\\*", &["a*"], &["ab", "a\\*"]),
    ("\\!a", &["!a"], &["a"]),
    ("\\d", &["d"], &["5"]),
    ("a\\\\b", &["a\\b"], &["ab"]),
    ("a.b", &["a.b"], &["axb"]),
    ("a+(b)|{c}$^", &["a+(b)|{c}$^"], &["aab", "b"]),
    // Any number of directories.
    ("**", &["a", "a/b", ".x"], &[]),
    ("**/", &["a", "a/b"], &[]),
    ("**/a", &["a", "b/a", "b/c/a", "b/a/d"], &["ab", "ba", "b/ba"]),
    ("**/*.md", &["x.md", "a/x.md", "a/b/x.md"], &["x.mdx", "a/x"]),
    ("**/a/b", &["a/b", "x/a/b", "x/y/a/b/c"], &["a", "a/x/b"]),
    ("a/**", &["a/b", "a/b/c"], &["a", "ab"]),
    ("a/**/b", &["a/b", "a/x/b", "a/x/y/b"], &["a", "b", "a/xb"]),
    ("a**", &["a", "ab", "a/b", "ab/c"], &["b"]),
    ("a**/b", &["ab", "ax/b", "a/x/b"], &["b", "axb"]),
    ("**a", &["a", "ba", "c/ba"], &["ab", "b"]),
    ("**.txt", &["a.txt", "d/a.txt", ".txt"], &["a.txts"]),
    ("**.t?t", &[".txt", "d/.tat"], &["a.txt"]),
    ("**/**/a", &["a", "x/a", "x/y/a"], &["b"]),
    ("**/a/**", &["a/b", "x/a/b/c"], &["a", "x/a", "b"]),
    ("***", &["a", "a/b"], &[]),
    ("a/**/*.o", &["a/x.o", "a/b/x.o"], &["x.o", "a/x.c"]),
    ("**/node_modules", &["node_modules", "p/node_modules/q"], &["node_modules2"]),
    ("**/[ab]/*", &["a/x", "q/b/x", "a/x/y"], &["a", "c/x"]),
    // Exceptions; the last match wins.
    ("*\n!a", &["b", "b/a"], &["a", "a/b"]),
    ("*\n!a/b", &["a", "a/c", "b"], &["a/b", "a/b/c"]),
    ("a\n!a", &[], &["a", "a/b"]),
    ("!a\na", &["a", "a/b"], &["b"]),
    ("a\n!a/b\na/b/c", &["a", "a/x", "a/b/c"], &["a/b", "a/b/x"]),
    ("*.md\n!R*.md\nREADME-secret.md", &["x.md", "README-secret.md"], &["README.md", "R.md"]),
    ("*.md\n!README*.md", &["x.md"], &["README.md", "README-secret.md"]),
    ("**\n!src/**/*.rs", &["a", "src", "src/x", "src/a/x"], &["src/a.rs", "src/b/c.rs"]),
    ("**/*.log\n!keep", &["a.log", "d/a.log"], &["keep", "keep/a.log", "keep/d/a.log"]),
    ("! a\nb", &["b"], &["a"]),
    ("a\n! /a/", &[], &["a"]),
    ("*\n!!a", &["a"], &["!a"]),
    ("a/b\n!a", &[], &["a", "a/b"]),
    ("a/*\n!a/*/\n", &[], &["a/b"]),
    ("é*\n!éa", &["éb"], &["éa"]),
];

#[test]
fn rows() {
    assert!(ROWS.len() >= 60);
    for (rules, hidden, left) in ROWS {
        let ignore = Ignore::parse(rules).unwrap_or_else(|error| panic!("{rules:?}: {error}"));
        for path in *hidden {
            assert!(ignore.is_ignored(Path::new(path)), "{rules:?} hides {path:?}");
        }
        for path in *left {
            assert!(!ignore.is_ignored(Path::new(path)), "{rules:?} leaves {path:?}");
        }
    }
}

#[test]
fn a_path_is_judged_however_it_is_written() {
    let ignore = Ignore::parse("a/b").unwrap();
    for path in ["a/b", "/a/b", "./a/b", "a//b/", "a/./b"] {
        assert!(ignore.is_ignored(Path::new(path)), "{path}");
    }
    assert!(!Ignore::parse("**").unwrap().is_ignored(Path::new("")), "the root is never ignored");
}

#[test]
fn names_that_are_not_utf8_are_matched_byte_by_byte() {
    use std::os::unix::ffi::OsStrExt;
    let path = Path::new(std::ffi::OsStr::from_bytes(b"a\xffb"));
    for rules in ["a?b", "a*", "**b", "*/../a?b", "a[^x]b"] {
        assert!(Ignore::parse(rules).unwrap().is_ignored(path), "{rules}");
    }
    for rules in ["a??b", "a[x]b", "a\u{fffd}b"] {
        assert!(!Ignore::parse(rules).unwrap().is_ignored(path), "{rules}");
    }
}

#[test]
fn a_walk_may_skip_a_directory_only_if_nothing_below_can_come_back() {
    let rows = [
        ("", "a", true),
        ("b", "a", true),
        ("a", "a", false),
        ("a", "a/b", false),
        ("a\n!b", "a", false),
        ("a\n!a/b", "a", true),
        ("a\n!a/b", "a/c", false),
        ("a\n!a/b/c", "a/b", true),
        ("a\n!ab", "a", false),
        ("a\n!a?", "a", false),
        ("a\n!**/keep", "a", true),
        ("a\n!**/keep", "a/x/y", true),
        ("*\n!*/keep", "a", true),
        ("*\n!*/keep", "a/b", false),
        ("*\n!x*/keep", "a", false),
        ("*\n!a/**", "a", true),
        ("**\n!**.rs", "a/b", true),
        ("!a/b\na", "a", false),
        ("a\n!a\na", "a", false),
        ("a\n!a", "a", true),
        ("*\n!a\na/b", "a/b", false),
        ("*\n!a\na/b", "a", true),
        ("*\n!a\na/b\n!a/b/c", "a/b", true),
        ("**", "", true),
    ];
    for (rules, directory, may) in rows {
        let ignore = Ignore::parse(rules).unwrap();
        assert_eq!(ignore.may_descend(Path::new(directory)), may, "{rules:?} at {directory:?}");
    }
}

#[test]
fn errors_name_the_line() {
    let rows = [
        ("a\n[", "line 2: `[`", "`[` is not closed by `]`"),
        ("[a", "line 1: `[a`", "`[` is not closed by `]`"),
        ("# x\n\n  a[]b", "line 3: `a[]b`", "a character class needs a character or a range `a-z` at every place"),
        ("[^]", "line 1: `[^]`", "a character class needs a character or a range `a-z` at every place"),
        ("[a-]", "line 1: `[a-]`", "a character class needs a character or a range `a-z` at every place"),
        ("[-a]", "line 1: `[-a]`", "a character class needs a character or a range `a-z` at every place"),
        ("[z-a]", "line 1: `[z-a]`", "the range `z-a` is the wrong way round"),
        ("a\\", "line 1: `a\\`", "`\\` has nothing after it"),
        ("[\\", "line 1: `[\\`", "`\\` has nothing after it"),
        ("!", "line 1: `!`", "`!` needs a pattern after it"),
        ("a\r\n! \r\n", "line 2: `!`", "`!` needs a pattern after it"),
        ("!/", "line 1: `!/`", "`!` needs a pattern after it"),
        ("![", "line 1: `![`", "`[` is not closed by `]`"),
    ];
    for (rules, text, cause) in rows {
        let error = Ignore::parse(rules).unwrap_err();
        assert_eq!((error.to_string(), error.source.to_string()), (text.to_owned(), cause.to_owned()), "{rules:?}");
    }
}

#[test]
fn hostile_patterns_take_linear_time() {
    let begun = Instant::now();
    let path = "a".repeat(2000);
    for rules in [
        "a*".repeat(200) + "b",
        "**/".repeat(200) + "b",
        "**a".repeat(200) + "b",
        "*?".repeat(200) + "b",
        "**/*a".repeat(100) + "b",
        "[a-z]*".repeat(200) + "1",
    ] {
        let ignore = Ignore::parse(&rules).unwrap();
        assert!(!ignore.is_ignored(Path::new(&path)));
        assert!(!ignore.is_ignored(Path::new(&"a/".repeat(200))));
    }
    assert!(begun.elapsed() < Duration::from_secs(20), "took {:?}", begun.elapsed());
}

proptest::proptest! {
    /// A rule list is judged in one walk as it is judged path by path, and what a walk skips has nothing to show.
    #[test]
    fn a_walk_agrees_with_single_paths(
        rules in proptest::collection::vec("!?[ab*?/]{1,6}", 0..6),
        path in "[ab]{1,2}(/[ab]{1,2}){0,3}",
    ) {
        let Ok(ignore) = Ignore::parse(&rules.join("\n")) else { return Ok(()) };
        let path = Path::new(&path);
        let mut parent = Inherited::default();
        let mut at = std::path::PathBuf::new();
        let mut skipped = false;
        for name in path {
            at.push(name);
            let bytes = path_bytes(&at);
            proptest::prop_assert_eq!(ignore.ignores(&parent, &bytes), ignore.is_ignored(&at));
            proptest::prop_assert!(!skipped || ignore.is_ignored(&at), "{:?} was skipped", at);
            skipped |= !ignore.may_descend(&at);
            parent = ignore.inherit(&parent, &bytes);
        }
    }

    /// No text makes the parser or the matcher panic.
    #[test]
    fn any_text_is_read(rules in "\\PC{0,40}", path in "\\PC{0,20}") {
        if let Ok(ignore) = Ignore::parse(&rules) {
            let path = Path::new(&path);
            if !ignore.is_ignored(path) {
                proptest::prop_assert!(ignore.may_descend(path));
            }
        }
    }
}

#[test]
fn rules_of_a_directory_above_decide_for_themselves() {
    let own = Ignore::parse("*\n!keep\n!src").unwrap();
    let below = |text: &str, way: &str| own.clone().below(Ignore::parse(text).unwrap(), Path::new(way));
    let rules = below("**/*.key\nweb/keep/private\n/keep\n!web/other", "./web/");
    let ignored = |path: &str| rules.is_ignored(Path::new(path));
    for path in ["keep/a.key", "src/b/c.key", "keep/private", "keep/private/x", "other", "x"] {
        assert!(ignored(path), "{path}");
    }
    for path in ["keep", "keep/a", "src/b"] {
        assert!(!ignored(path), "{path}");
    }
    assert!(rules.may_descend(Path::new("keep")) && !rules.may_descend(Path::new("keep/private")));
    // The whole of it, and what is brought back below.
    let rules = below("web\n!web/back/src", "web/back");
    assert!(rules.is_ignored(Path::new("keep")) && !rules.is_ignored(Path::new("src/a")));
    assert!(rules.may_descend(Path::new("src")) && !rules.may_descend(Path::new("keep")));
    // The directory itself has one file alone.
    assert_eq!(below("src", "."), own);
}
