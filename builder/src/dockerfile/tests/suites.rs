//! BuildKit's own tables, read where they lie: `$RBUILD_SUITES`, else `../shared/suites` beside the repository.

use std::collections::BTreeMap;
use std::io::Write as _;
use std::path::PathBuf;

use super::root;
use crate::dockerfile::{expand, parse_tree};

/// A directory of the suites; where there is none the test says so, past libtest's capture, and checks nothing: our own
/// fixtures stand for it.
#[expect(clippy::disallowed_methods, reason = "the suites are no part of the repository; only tests look for them")]
fn suite(name: &str) -> Option<PathBuf> {
    let suites = std::env::var_os("RBUILD_SUITES").map_or_else(|| root().join("../shared/suites"), PathBuf::from);
    let path = suites.join("dockerfile").join(name);
    if path.exists() {
        return Some(path);
    }
    let notice = format!("\nNOT RUN: no suite at {}; set RBUILD_SUITES to have it checked\n", path.display());
    std::io::stderr().write_all(notice.as_bytes()).expect("standard error is open");
    None
}

/// The cases of a suite of directories, sorted.
fn cases(suite: &PathBuf) -> Vec<PathBuf> {
    let mut cases: Vec<PathBuf> =
        fs_err::read_dir(suite).expect("the suite").map(|entry| entry.expect("an entry").path()).collect();
    cases.sort();
    cases
}

#[test]
fn every_file_of_the_parser_suite_gives_its_s_expression() {
    let Some(suite) = suite("parser") else { return };
    let cases = cases(&suite);
    assert_eq!(cases.len(), 33);
    for case in cases {
        let text = fs_err::read(case.join("Dockerfile")).expect("the Dockerfile");
        let expected = fs_err::read_to_string(case.join("result")).expect("the result");
        let tree = parse_tree(&text).unwrap_or_else(|errors| panic!("{}: {errors}", case.display()));
        assert_eq!(tree.to_sexpr().trim(), expected.trim(), "{}", case.display());
    }
}

#[test]
fn every_file_that_must_fail_does() {
    let Some(suite) = suite("parser-must-fail") else { return };
    let cases = cases(&suite);
    assert_eq!(cases.len(), 4);
    for case in cases {
        let text = fs_err::read(case.join("Dockerfile")).expect("the Dockerfile");
        assert!(parse_tree(&text).is_err(), "{}", case.display());
    }
}

#[test]
fn every_row_of_the_variable_suite_expands_to_its_word() {
    let Some(suite) = suite("envVarTest") else { return };
    let variables = [("PWD", "/home"), ("SHELL", "bash"), ("KOREAN", "한국어"), ("NULL", "")];
    let lookup = |name: &str| variables.iter().find(|(known, _)| *known == name).map(|(_, value)| (*value).to_owned());
    let table = fs_err::read_to_string(suite).expect("the table");
    let mut rows = 0;
    for line in table.lines().filter(|line| !line.starts_with('#') && !line.trim().is_empty()) {
        let columns: Vec<&str> = line.split('|').map(str::trim).collect();
        let [system, word, expected] = columns[..] else { panic!("not a row: {line}") };
        if system == "W" {
            continue;
        }
        rows += 1;
        match expand::expand(word, '\\', &lookup) {
            Ok(text) => assert_eq!(text, expected, "{word}"),
            Err(error) => assert_eq!(expected, "error", "{word}: {error}"),
        }
    }
    assert_eq!(rows, 228);
}

#[test]
fn every_row_of_the_words_suite_splits_into_its_words() {
    let Some(suite) = suite("wordsTest") else { return };
    let table = fs_err::read_to_string(suite).expect("the table");
    let mut variables = BTreeMap::new();
    let mut rows = 0;
    for line in table.lines().filter(|line| !line.starts_with('#') && !line.is_empty()) {
        if let Some(pair) = line.strip_prefix("ENV ") {
            let (name, value) = pair.trim_start_matches(' ').split_once('=').expect("a pair");
            variables.insert(name.to_owned(), value.to_owned());
            continue;
        }
        rows += 1;
        let (text, expected) = line.split_once('|').expect("a row");
        let expected: Vec<&str> = expected.trim_start_matches(' ').split(',').collect();
        match expand::expand_words(text.trim(), '\\', &|name| variables.get(name).cloned()) {
            Ok(words) => assert_eq!(words, expected, "{text}"),
            Err(error) => assert_eq!(expected, ["error"], "{text}: {error}"),
        }
    }
    assert_eq!(rows, 24);
}
