//! The rules of the house: what may depend on what, and where things may be done.

use std::path::{Path, PathBuf};

/// Every Rust file below a folder of the repository, with its text.
fn sources(folder: &str) -> Vec<(PathBuf, String)> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().join(folder);
    assert!(root.exists(), "{}", root.display());
    let mut open = vec![root];
    let mut found = Vec::new();
    while let Some(path) = open.pop() {
        if path.is_dir() {
            open.extend(fs_err::read_dir(&path).unwrap().map(|entry| entry.unwrap().path()));
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            found.push((path.clone(), fs_err::read_to_string(&path).unwrap()));
        }
    }
    found
}

/// Fails where a file outside `except` has one of `words` in a line that is no comment.
fn forbid(folder: &str, words: &[&str], except: &[&str], why: &str) {
    for (path, text) in sources(folder) {
        let shown = path.display().to_string();
        if except.iter().any(|allowed| shown.contains(allowed)) || shown.contains("/tests") {
            continue;
        }
        let code = text.split("#[cfg(test)]").next().unwrap();
        for (number, line) in code.lines().enumerate().filter(|(_, line)| !line.trim_start().starts_with("//")) {
            for word in words {
                assert!(!line.contains(word), "{shown}:{}: `{word}`: {why}", number + 1);
            }
        }
    }
}

#[test]
fn the_leaves_know_neither_each_other_nor_the_trunk() {
    forbid("registry/src", &["snapshot::", "builder::"], &[], "registry is a leaf");
    forbid("snapshot/src", &["registry::", "builder::", "reqwest"], &[], "snapshot is a leaf");
}

#[test]
fn pure_modules_do_no_input_or_output() {
    for folder in [
        "builder/src/dockerfile",
        "builder/src/graph",
        "builder/src/image.rs",
        "builder/src/accounts.rs",
        "builder/src/checks.rs",
        "builder/src/app/arguments.rs",
        "builder/src/app/environment.rs",
        "builder/src/app/interpolate.rs",
        "builder/src/app/manifest.rs",
        "builder/src/app/record.rs",
        "builder/src/app/targets.rs",
        "builder/src/app/words.rs",
        "builder/src/app/yaml.rs",
    ] {
        let words = ["fs_err", "std::fs", "std::net", "std::process", "nix::", "rustix::", "registry::Client"];
        forbid(folder, &words, &[], "this module is data in, data out");
    }
}

#[test]
fn sandbox_and_context_know_no_dockerfile() {
    for folder in ["builder/src/sandbox", "builder/src/context"] {
        forbid(
            folder,
            &["crate::dockerfile", "crate::graph", "crate::solve", "registry::"],
            &[],
            "it knows no Dockerfile",
        );
    }
}

#[test]
fn few_places_speak_to_registries() {
    let allowed = [
        "bases.rs",
        "cache/",
        "solve/",
        "export/",
        "transfer/",
        "build.rs",
        "app/transfer.rs",
        "app/archive/",
        "app/published.rs",
        "app/run.rs",
        "src/bin/",
    ];
    forbid("builder/src", &["registry::Client", "registry::Options"], &allowed, "it is not one of the places");
}

#[test]
fn the_library_never_prints_and_only_two_places_of_the_binary_do() {
    let words = ["println!", "print!", "eprintln!", "eprint!", "io::stdout()", "io::stderr()"];
    let allowed = ["src/bin/rbuild/ui/", "src/bin/rbuild/report.rs", "export/archive.rs", "sandbox/step.rs"];
    for folder in ["builder/src", "registry/src", "snapshot/src"] {
        forbid(folder, &words, &allowed, "printing is the user interface's");
    }
}

#[test]
fn the_environment_is_read_in_one_place() {
    for folder in ["builder/src", "registry/src", "snapshot/src"] {
        forbid(folder, &["env::var", "env::vars"], &["builder/src/paths.rs"], "paths.rs reads the environment");
    }
}

#[test]
fn unsafe_code_stays_where_it_is_guarded() {
    for folder in ["builder/src", "registry/src", "snapshot/src", "xtask/src"] {
        forbid(
            folder,
            &["unsafe {", "unsafe fn", "unsafe impl"],
            &["/sandbox/", "snapshot/src/path"],
            "no unsafe here",
        );
    }
}
