//! `fixtures/dockerfiles/<case>/{Dockerfile,ast}` and `fixtures/dockerfiles-bad/<case>/{Dockerfile,error}`.
//! `UPDATE_EXPECT=1` writes what is found; read it before it is committed.

use std::fmt::Write as _;
use std::path::PathBuf;

use expect_test::expect_file;

use super::root;
use crate::dockerfile::{parse, parse_tree};

fn cases(directory: &str) -> Vec<PathBuf> {
    let directory = root().join("fixtures").join(directory);
    let mut cases: Vec<PathBuf> =
        fs_err::read_dir(directory).expect("the fixtures").map(|entry| entry.expect("an entry").path()).collect();
    cases.sort();
    cases
}

#[test]
fn good_files_are_accepted_and_give_their_s_expression() {
    let cases = cases("dockerfiles");
    assert!(cases.len() >= 25);
    for case in cases {
        let text = fs_err::read(case.join("Dockerfile")).expect("the Dockerfile");
        parse(&text).unwrap_or_else(|errors| panic!("{}: {errors}", case.display()));
        let tree = parse_tree(&text).unwrap_or_else(|errors| panic!("{}: {errors}", case.display()));
        expect_file![case.join("ast")].assert_eq(&tree.to_sexpr());
    }
}

#[test]
fn bad_files_are_refused_with_all_their_errors() {
    let cases = cases("dockerfiles-bad");
    assert!(cases.len() >= 25);
    for case in cases {
        let text = fs_err::read(case.join("Dockerfile")).expect("the Dockerfile");
        let Err(errors) = parse(&text) else { panic!("{} was accepted", case.display()) };
        let mut shown = String::new();
        for error in &errors.0 {
            writeln!(shown, "{}-{}: {}", error.span.start, error.span.end, error.message()).expect("a String");
            if let Some(hint) = &error.hint {
                writeln!(shown, "  hint: {hint}").expect("a String");
            }
        }
        expect_file![case.join("error")].assert_eq(&shown);
    }
}
