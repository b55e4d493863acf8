//! Whatever the parser takes has a case in `fixtures/builds` that shows what it does to an image: every instruction,
//! every flag, every option of a mount. The lists are the parser's own.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use super::root;
use crate::dockerfile::instructions::INSTRUCTIONS;
use crate::dockerfile::{Command, mount, parse, parse_tree};

/// What needs a server or a repository, which a case has not, and the test that shows it.
const ELSEWHERE: [(&str, &str); 2] = [
    ("ADD --checksum", "adding_from_http_can_be_held_against_a_checksum"),
    ("ADD --keep-git-dir", "adding_from_git_gives_the_files_of_a_commit"),
];

#[test]
fn every_flag_and_every_option_has_a_case() {
    let mut wanted = BTreeSet::new();
    for (keyword, flags) in INSTRUCTIONS {
        wanted.insert(keyword.to_owned());
        wanted.extend(flags.iter().map(|(flag, _)| format!("{keyword} --{flag}")));
    }
    wanted.extend(mount::known().into_iter().map(|(kind, option)| format!("mount of type {kind}: {option}")));
    let shown = shown();
    assert!(shown.is_subset(&wanted), "{:?} is not the parser's", shown.difference(&wanted));
    let tests = fs_err::read_to_string(root().join("tests/copying.rs")).expect("the tests");
    for (row, test) in ELSEWHERE {
        assert!(tests.contains(&format!("fn {test}()")), "{row}: there is no test `{test}`");
        wanted.remove(row);
    }
    let missing: Vec<_> = wanted.difference(&shown).collect();
    assert!(missing.is_empty(), "no case of fixtures/builds shows {missing:#?}");
}

/// What the cases have that build, and those that are refused for what is not implemented.
fn shown() -> BTreeSet<String> {
    let mut shown = BTreeSet::new();
    for case in directories(&root().join("fixtures/builds")).iter().flat_map(|group| directories(group)) {
        let Ok(text) = fs_err::read(case.join("Dockerfile")) else { continue };
        let expected = fs_err::read_to_string(case.join("expected")).expect("what the case expects");
        if expected.starts_with("exit ") && !expected.contains("not implemented") {
            continue;
        }
        let parsed = parse(&text).unwrap_or_else(|errors| panic!("{}: {errors}", case.display()));
        let instructions = parsed.dockerfile.stages.into_iter().flat_map(|stage| stage.instructions);
        for command in instructions.map(|instruction| instruction.command) {
            let Command::Run(run) = command else { continue };
            let options = run.mounts.iter().flat_map(mount::MountOptions::given);
            shown.extend(options.map(|(kind, option)| format!("mount of type {kind}: {option}")));
        }
        for node in parse_tree(&text).expect("it was parsed").nodes {
            let keyword = node.keyword.to_uppercase();
            let name = |flag: &String| flag.split('=').next().unwrap_or_default().to_owned();
            shown.extend(node.flags.iter().map(|flag| format!("{keyword} {}", name(flag))));
            shown.insert(keyword);
        }
    }
    shown
}

fn directories(parent: &Path) -> Vec<PathBuf> {
    let entries = fs_err::read_dir(parent).expect("the fixtures").map(|entry| entry.expect("an entry").path());
    entries.filter(|path| path.is_dir()).collect()
}
