//! The cases of `fixtures/builds`: a Dockerfile and a context, and what of the base image they change.
//!
//! ```text
//! fixtures/builds/GROUP/context/         the build context of the group's cases; modes are 0644, 0755 for what is executable
//!                      /setup            a shell script that adds what a repository cannot hold, run in a copy of it
//!                      /CASE/Dockerfile  {busybox}, {debian} and the like stand for base images
//!                           /arguments   more arguments, one a line
//!                           /expected    files that differ from the base image's, members of the config, the history;
//!                                        or the error
//! ```
//!
//! Every case is built without the cache and then with it, which has to give the same image. A case may have a `context`
//! and a `setup` of its own. All cases share one state directory and run at the same time, one for each processor.
//! `UPDATE_EXPECT=1` rewrites what is expected; read what it wrote.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::num::NonZero;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::sync::Mutex;

use serde_json::Value;

use crate::common::{Bench, Image, Run, peer, registry, with_bases};

/// Longer contents are shown by their digest.
const SHOWN: usize = 72;

#[test]
fn every_case_builds_what_it_expects() {
    let cases = cases();
    assert!(cases.len() >= 150, "{} cases", cases.len());
    let bench = Bench::with("FROM {busybox}\n");
    let base = bench.image(&[]);
    let left = Mutex::new(cases.iter());
    let failures = Mutex::new(Vec::new());
    std::thread::scope(|scope| {
        for _ in 0..std::thread::available_parallelism().map_or(2, NonZero::get) {
            scope.spawn(|| {
                while let Some(case) = next(&left) {
                    if let Err(difference) = check(case, &bench, &base) {
                        failures.lock().unwrap().push(difference);
                    }
                }
            });
        }
    });
    let mut failures = failures.into_inner().unwrap();
    failures.sort();
    assert!(failures.is_empty(), "{} of {} cases:\n{}", failures.len(), cases.len(), failures.join("\n"));
}

fn next<'a>(cases: &Mutex<std::slice::Iter<'a, PathBuf>>) -> Option<&'a PathBuf> {
    cases.lock().unwrap().next()
}

/// The directories of all cases.
fn cases() -> Vec<PathBuf> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().join("fixtures/builds");
    let mut found = Vec::new();
    for group in directories(&root) {
        found.extend(directories(&group).into_iter().filter(|case| case.join("Dockerfile").exists()));
    }
    found.sort();
    found
}

fn directories(parent: &Path) -> Vec<PathBuf> {
    let entries = fs_err::read_dir(parent).unwrap().map(|entry| entry.unwrap().path());
    entries.filter(|path| path.is_dir()).collect()
}

/// Builds a case and compares.
fn check(case: &Path, bench: &Bench, base: &Image) -> Result<(), String> {
    let scratch = tempfile::Builder::new().prefix("rbuild-case-").tempdir().unwrap();
    let got = build(case, scratch.path(), bench, base);
    let file = case.join("expected");
    let expected = if file.exists() { fs_err::read_to_string(&file).unwrap() } else { String::new() };
    if got == expected {
        return Ok(());
    }
    if update() {
        fs_err::write(&file, &got).unwrap();
        return Ok(());
    }
    Err(format!("--- {}\nexpected:\n{expected}\ngot:\n{got}", case.display()))
}

#[expect(clippy::disallowed_methods, reason = "the variable of expect-test, which does not do directories")]
fn update() -> bool {
    std::env::var_os("UPDATE_EXPECT").is_some()
}

/// Builds a case below `scratch`, with a cold cache and with a warm one, and tells what came of it.
fn build(case: &Path, scratch: &Path, bench: &Bench, base: &Image) -> String {
    prepare(case, scratch);
    let (cold, warm) = (scratch.join("cold"), scratch.join("warm"));
    let run = build_into(case, scratch, &cold, bench, &["--no-cache"]);
    if run.code != 0 {
        return refused(&run).replace(&registry(), "{registry}");
    }
    let image = Image::read(&cold);
    let run = build_into(case, scratch, &warm, bench, &[]);
    let again = Image::read(&warm);
    if !same_but_for_times(&image, &again) {
        return format!("a warm cache gives another image:\n{}", run.stderr);
    }
    told(&image, base).replace(&registry(), "{registry}")
}

/// Whether two images have the same layers, the same files and the same config, times aside.
fn same_but_for_times(one: &Image, other: &Image) -> bool {
    let history = |image: &Image| {
        let mut entries = image.config["history"].as_array().cloned().unwrap_or_default();
        for entry in &mut entries {
            entry["created"] = Value::Null;
        }
        entries
    };
    let same_files = one.layers == other.layers && merged(one) == merged(other);
    same_files && one.run() == other.run() && history(one) == history(other)
}

/// Builds a case into an OCI layout.
fn build_into(case: &Path, scratch: &Path, layout: &Path, bench: &Bench, arguments: &[&str]) -> Run {
    let mut command = bench.rbuild();
    command.current_dir(scratch).args(["build", "--progress", "plain", "-f", "Dockerfile"]).args(arguments);
    command.arg("-o").arg(format!("type=oci,tar=false,dest={}", layout.display()));
    if let Ok(arguments) = fs_err::read_to_string(case.join("arguments")) {
        command.args(arguments.lines());
    }
    Run::of(command.arg("context"))
}

/// Writes the Dockerfile and the context of a case.
fn prepare(case: &Path, scratch: &Path) {
    let group = case.parent().unwrap();
    let text = fs_err::read_to_string(case.join("Dockerfile")).unwrap();
    fs_err::write(scratch.join("Dockerfile"), with_bases(&text)).unwrap();
    let ignore = case.join("Dockerfile.dockerignore");
    if ignore.exists() {
        fs_err::copy(ignore, scratch.join("Dockerfile.dockerignore")).unwrap();
    }
    let context = scratch.join("context");
    fs_err::create_dir(&context).unwrap();
    for from in [group, case] {
        if from.join("context").exists() {
            copy(&from.join("context"), &context);
        }
        if from.join("setup").exists() {
            let script =
                format!("set -eu; umask 022; cd '{}'; . '{}'", context.display(), from.join("setup").display());
            peer("sh", &["-c", &script]);
        }
    }
}

/// Copies a directory with modes that no umask decides.
fn copy(from: &Path, to: &Path) {
    for entry in fs_err::read_dir(from).unwrap() {
        let (path, target) = (entry.as_ref().unwrap().path(), to.join(entry.unwrap().file_name()));
        let metadata = fs_err::symlink_metadata(&path).unwrap();
        if metadata.is_symlink() {
            symlink(fs_err::read_link(&path).unwrap(), target).unwrap();
            continue;
        }
        if metadata.is_dir() {
            fs_err::create_dir_all(&target).unwrap();
            copy(&path, &target);
        } else {
            fs_err::copy(&path, &target).unwrap();
        }
        let executable = metadata.is_dir() || metadata.permissions().mode() & 0o100 != 0;
        let mode = if executable { 0o755 } else { 0o644 };
        fs_err::set_permissions(&target, PermissionsExt::from_mode(mode)).unwrap();
    }
}

/// The exit code and the error.
fn refused(run: &Run) -> String {
    let at = run.stderr.find("error: ").unwrap_or(0);
    format!("exit {}\n{}", run.code, &run.stderr[at..])
}

/// What the image has and its base has not.
fn told(image: &Image, base: &Image) -> String {
    let layers = |image: &Image| image.manifest["layers"].as_array().unwrap().clone();
    let stands_on_base = layers(image).starts_with(&layers(base));
    let below = if stands_on_base { merged(base) } else { BTreeMap::new() };
    let merged = merged(image);
    let mut text = String::new();
    for (path, line) in merged.iter().filter(|(path, line)| below.get(*path) != Some(*line)) {
        let _ = writeln!(text, "{}{line}", if below.contains_key(path) { "~ " } else { "" });
    }
    let mut gone = below.keys().filter(|path| !merged.contains_key(*path)).peekable();
    while let Some(path) = gone.next() {
        let _ = writeln!(text, "removed {path}");
        while gone.next_if(|other| other.starts_with(&format!("{path}/"))).is_some() {}
    }
    config(image, stands_on_base.then_some(base), &mut text);
    if text.is_empty() { "as its base\n".to_owned() } else { text }
}

/// The members of the config that differ, and the new part of the history.
fn config(image: &Image, base: Option<&Image>, text: &mut String) {
    let members = |image: &Image| image.run().as_object().cloned().unwrap_or_default();
    let (new, old) = (members(image), base.map(members).unwrap_or_default());
    for key in new.keys().chain(old.keys().filter(|key| !new.contains_key(*key))) {
        match new.get(key) {
            Some(value) if old.get(key) != Some(value) => _ = writeln!(text, "{key}: {value}"),
            Some(_) => {}
            None => _ = writeln!(text, "{key}: removed"),
        }
    }
    if let Some(author) = image.config["author"].as_str() {
        let _ = writeln!(text, "author: {author}");
    }
    let entries = |image: &Image| image.config["history"].as_array().cloned().unwrap_or_default();
    let known = base.map(|base| entries(base).len()).unwrap_or_default();
    for entry in entries(image).iter().skip(known) {
        let kind = if entry["empty_layer"] == true { "config" } else { "layer" };
        let _ = writeln!(text, "{kind}: {}", entry["created_by"].as_str().unwrap().escape_debug());
    }
}

/// The tree that the layers make, each entry with its content.
fn merged(image: &Image) -> BTreeMap<String, String> {
    let mut tree: BTreeMap<String, String> = BTreeMap::new();
    for layer in &image.layers {
        let whiteouts = layer.keys().filter_map(|path| {
            let (parent, name) = path.rsplit_once('/').unwrap_or(("", path));
            let name = name.strip_prefix(".wh.")?;
            Some((parent, name))
        });
        for (parent, name) in whiteouts {
            let inside = if parent.is_empty() { String::new() } else { format!("{parent}/") };
            if name == ".wh..opq" {
                tree.retain(|path, _| !path.starts_with(&inside));
            } else {
                let gone = format!("{inside}{name}");
                tree.retain(|path, _| *path != gone && !path.starts_with(&format!("{gone}/")));
            }
        }
        let entries = layer.iter().filter(|(path, _)| !path.rsplit('/').next().unwrap().starts_with(".wh."));
        for (path, line) in entries {
            if !line.starts_with('d') {
                tree.retain(|other, _| !other.starts_with(&format!("{path}/")));
            }
            tree.insert(path.clone(), line.clone());
        }
    }
    for (path, line) in &mut tree {
        if line.starts_with('-') {
            let _ = write!(line, " {}", content(image.bytes(path)));
        }
    }
    tree
}

fn content(bytes: &[u8]) -> String {
    match std::str::from_utf8(bytes) {
        Ok(text) if text.len() <= SHOWN => format!("{text:?}"),
        _ => format!("{} bytes {}", bytes.len(), &blake3::hash(bytes).to_hex()[..12]),
    }
}
