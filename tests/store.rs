//! The store under damage, want of room, and several builds at once: a right image or a clear error, and whole again.

use std::collections::BTreeSet;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use serde_json::Value;

use crate::common::{Bench, Run};

/// Steps whose layers have the same bytes whenever they run, `N` apart: it makes the last step a new one.
const SAME_AGAIN: &str = "FROM {busybox}\n\
    COPY src /src\n\
    RUN cat /src/a /etc/passwd >/all && touch -t 197001020000 /all\n\
    ARG N\n\
    RUN : $N; cat /all /src/b /etc/group >/sum && touch -t 197001020000 /sum\n";

fn bench() -> Bench {
    let bench = Bench::with(SAME_AGAIN);
    bench.file("src/a", "aaaa");
    bench.file("src/b", &"bbbb".repeat(100_000));
    bench
}

fn store(bench: &Bench) -> PathBuf {
    bench.path("home/store-v1")
}

/// The layers of the image that `N` gives.
fn layers(bench: &Bench, number: usize) -> Value {
    let argument = format!("N={number}");
    bench.image(&["--build-arg", &argument, "--build-arg", "SOURCE_DATE_EPOCH=0", "-t", "image"]).manifest["layers"]
        .take()
}

fn cache(bench: &Bench, arguments: &[&str]) -> Run {
    Run::of(bench.rbuild().arg("cache").args(arguments))
}

fn assert_whole(bench: &Bench) {
    let run = cache(bench, &["verify"]);
    assert_eq!(run.code, 0, "{}{}", run.stdout, run.stderr);
}

/// The files of a store that a build may read; of a snapshot's tree only those that the last step reads.
fn files(top: &Path) -> Vec<PathBuf> {
    const READ: [&str; 4] = ["fs/etc/passwd", "fs/etc/group", "fs/src/b", "fs/all"];
    let mut found = Vec::new();
    let mut open = vec![top.to_owned()];
    while let Some(directory) = open.pop() {
        for entry in fs_err::read_dir(&directory).unwrap().map(Result::unwrap) {
            let path = entry.path();
            let tree = path.ancestors().any(|above| above.file_name().is_some_and(|name| name == "fs"));
            if entry.file_type().unwrap().is_dir() {
                open.push(path);
            } else if !tree || (READ.iter().any(|read| path.ends_with(read)) && path.is_file()) {
                found.push(path);
            }
        }
    }
    found.sort();
    found
}

/// A damage to a file.
type Damage = fn(&Path);

#[test]
fn damage_is_found_on_use_and_healed() {
    let damages: [(&str, Damage); 3] = [
        ("flipped", |path| {
            let mut bytes = fs_err::read(path).unwrap();
            if let Some(at) = bytes.len().checked_sub(1) {
                bytes[at / 2] ^= 1;
            }
            fs_err::write(path, bytes).unwrap();
        }),
        ("cut", |path| {
            let file = fs_err::File::options().write(true).open(path).unwrap();
            file.set_len(file.metadata().unwrap().len() / 2).unwrap();
        }),
        ("deleted", |path| fs_err::remove_file(path).unwrap()),
    ];
    let mut kinds = BTreeSet::new();
    for (name, damage) in damages {
        let bench = bench();
        let expected = layers(&bench, 0);
        let mut number = 0;
        for path in files(&store(&bench)) {
            // An earlier damage may have taken it with it.
            if !path.exists() {
                continue;
            }
            number += 1;
            kinds.insert(path.strip_prefix(store(&bench)).unwrap().iter().next().unwrap().to_owned());
            damage(&path);
            assert_eq!(layers(&bench, number), expected, "{name}: {}", path.display());
        }
        let repaired = cache(&bench, &["verify", "--repair"]);
        assert_eq!(repaired.code, 0, "{}", repaired.stderr);
        assert_whole(&bench);
    }
    assert!(kinds.len() >= 6, "{kinds:?}");
}

/// What a registry that lacks every layer is sent after the layers in the store were flipped.
#[test]
fn a_damaged_layer_is_never_pushed() {
    let bench = bench();
    let expected = layers(&bench, 0);
    for layer in expected.as_array().unwrap() {
        let path = store(&bench).join("blobs").join(layer["digest"].as_str().unwrap().replace(':', "/"));
        // The base's need not be here: the registry has it.
        if path.exists() {
            let mut bytes = fs_err::read(&path).unwrap();
            bytes[20] ^= 1;
            fs_err::write(&path, bytes).unwrap();
        }
    }
    let name = format!("{}/store-{}/healed:1", crate::common::registry(), std::process::id());
    let run = bench.build(&["-t", &name, "--push", "--build-arg", "N=0", "--build-arg", "SOURCE_DATE_EPOCH=0"]);
    assert!(run.stderr.contains("a damaged file was removed"), "{}", run.stderr);
    let copy = bench.path("copy");
    let target = format!("dir:{}", copy.display());
    crate::common::peer("skopeo", &["copy", "--src-tls-verify=false", &format!("docker://{name}"), &target]);
    let manifest: Value = serde_json::from_slice(&fs_err::read(copy.join("manifest.json")).unwrap()).unwrap();
    assert_eq!(manifest["layers"], expected);
    assert_eq!(cache(&bench, &["verify", "--repair"]).code, 0);
    assert_whole(&bench);
}

#[test]
fn du_is_what_the_kernel_counts() {
    let bench = bench();
    layers(&bench, 0);
    let du: Value = serde_json::from_str(&cache(&bench, &["du", "--json"]).stdout).unwrap();
    let (mut total, mut links, mut open) = (0, BTreeSet::new(), vec![store(&bench)]);
    while let Some(path) = open.pop() {
        let metadata = fs_err::symlink_metadata(&path).unwrap();
        if metadata.is_dir() || metadata.nlink() == 1 || links.insert(metadata.ino()) {
            total += metadata.blocks() * 512;
        }
        if metadata.is_dir() {
            open.extend(fs_err::read_dir(&path).unwrap().map(|entry| entry.unwrap().path()));
        }
    }
    assert_eq!(du["total"], total);
    let kinds = du["kinds"].as_object().unwrap();
    let sum: u64 = kinds.values().map(|kind| kind["bytes"].as_u64().unwrap()).sum();
    assert_eq!(sum + du["other"].as_u64().unwrap(), total);
    for kind in ["layers", "snapshots", "indexes", "records", "names"] {
        assert!(kinds[kind]["bytes"].as_u64().unwrap() > 0, "{kind}: {du}");
    }
    let shown = cache(&bench, &["du"]).stdout;
    assert!(shown.lines().last().unwrap().starts_with("total "), "{shown}");
}

#[test]
fn a_build_keeps_the_store_within_its_limit() {
    let bench = Bench::with("FROM {busybox}\nARG N\nRUN head -c 3000000 /dev/urandom >/noise; : $N\n");
    let limit = 12_000_000;
    for number in 0..6 {
        let argument = format!("N={number}");
        bench.build(&[
            "--build-arg",
            &argument,
            "-t",
            &format!("image:{number}"),
            "--keep-storage",
            &limit.to_string(),
        ]);
        let du: Value = serde_json::from_str(&cache(&bench, &["du", "--json"]).stdout).unwrap();
        assert!(du["total"].as_u64().unwrap() <= limit, "{number}: {du}");
        assert_whole(&bench);
    }
    // The newest is there still, the oldest is not.
    let images = Run::of(bench.rbuild().arg("images")).stdout;
    assert!(images.contains("image:5") && !images.contains("image:0"), "{images}");
    assert_eq!(bench.build(&["--build-arg", "N=5"]).cached(), 1);
    let pruned = cache(&bench, &["prune", "--keep-storage", "1m", "--filter", "until=24h"]);
    assert!(pruned.stdout.starts_with("freed 0 B"), "{}", pruned.stdout);
    let said = "above its limit: it was used too lately for the `--filter`, running builds use it, or it is none of what may go";
    assert!(pruned.stderr.contains(said), "{}", pruned.stderr);
    // Files of the store itself stay.
    let pruned = cache(&bench, &["prune", "--keep-storage", "1"]);
    assert!(pruned.stderr.contains("above its limit: running builds use it, or it is none of"), "{}", pruned.stderr);
    assert_eq!(cache(&bench, &["prune", "--filter", "label=x"]).code, 2);
}

/// Builds that share most of their steps, while everything that nobody holds is removed again and again.
#[test]
fn eight_builds_share_a_store_with_a_prune() {
    const BUILDS: usize = 8;
    let bench = bench();
    // All builds wait in their last step for the last of them: a lease holds what another needs.
    let dockerfile = |number: usize| {
        let variant = number % 4;
        crate::common::with_bases(&format!(
            "FROM {{busybox}}\nRUN sleep 0.2; echo one >/one\nCOPY src /src\nRUN sleep 0.1; echo two{variant} >/two\n\
             RUN echo three{number} >/three; sleep 4\n"
        ))
    };
    let done = std::sync::atomic::AtomicBool::new(false);
    let (runs, prunes) = std::thread::scope(|scope| {
        let builds: Vec<_> = (0..BUILDS)
            .map(|number| {
                bench.file(&format!("{number}.Dockerfile"), &dockerfile(number));
                let (bench, file) = (&bench, format!("{number}.Dockerfile"));
                scope.spawn(move || bench.build(&["-f", &file, "-t", &format!("image:{number}"), "--jobs", "1"]))
            })
            .collect();
        let pruner = scope.spawn(|| {
            let mut prunes = 0;
            while !done.load(std::sync::atomic::Ordering::Relaxed) {
                let run = cache(&bench, &["prune"]);
                assert_eq!(run.code, 0, "{}", run.stderr);
                prunes += 1;
            }
            prunes
        });
        let runs: Vec<Run> = builds.into_iter().map(|build| build.join().unwrap()).collect();
        done.store(true, std::sync::atomic::Ordering::Relaxed);
        (runs, pruner.join().unwrap())
    });
    assert!(prunes > 3, "{prunes}");
    assert_eq!((Run::executions(&runs, "echo one"), Run::executions(&runs, "COPY src")), (1, 1));
    for variant in 0..4 {
        assert_eq!(Run::executions(&runs, &format!("echo two{variant}")), 1, "{variant}");
    }
    assert_whole(&bench);
    bench.assert_clean();
    assert_eq!(fs_err::read_dir(store(&bench).join("leases")).unwrap().count(), 0);
}

/// How many builds are killed: a few each time, more where `RBUILD_TEST_KILLS` says so.
#[expect(clippy::disallowed_methods, reason = "whoever runs the tests says how long they may take")]
fn kills() -> u64 {
    std::env::var("RBUILD_TEST_KILLS").map_or(20, |text| text.parse().unwrap())
}

/// Moments that are the same each time: an xorshift generator.
fn moments() -> impl Iterator<Item = std::time::Duration> {
    let mut state: u64 = 0x9e37_79b9_7f4a_7c15;
    std::iter::from_fn(move || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        Some(std::time::Duration::from_micros(state % 400_000))
    })
}

#[test]
fn a_killed_build_leaves_a_store_that_builds_the_same() {
    let bench = bench();
    let expected = layers(&bench, 0);
    let mut killed = 0;
    for (number, moment) in (1..=kills()).zip(moments()) {
        // Now and then everything is made anew.
        if number % 5 == 0 {
            assert_eq!(cache(&bench, &["prune", "--all"]).code, 0);
        }
        let archive = bench.path("killed.tar");
        let mut command = bench.rbuild();
        command.args(["--progress", "quiet", "--build-arg", "SOURCE_DATE_EPOCH=0", "--build-arg"]);
        command.arg(format!("N={number}")).arg("-o").arg(format!("type=oci,dest={}", archive.display()));
        let mut child = command.arg(".").stdout(std::process::Stdio::null()).spawn().unwrap();
        std::thread::sleep(moment);
        child.kill().unwrap();
        killed += usize::from(child.wait().unwrap().code().is_none());
        let number = usize::try_from(number).unwrap();
        assert_eq!(layers(&bench, number), expected, "killed after {moment:?}");
    }
    assert!(killed > 0);
    assert_whole(&bench);
    bench.assert_clean();
    for folder in ["leases", "locks"] {
        assert_eq!(fs_err::read_dir(store(&bench).join(folder)).unwrap().count(), 0, "{folder}");
    }
}

/// The step that finds the damage fails, and what stops its neighbours must not stop the try that follows.
#[test]
fn a_layer_that_a_step_finds_damaged_is_made_again() {
    let bench = Bench::with("FROM {busybox}\nCOPY f /f\n");
    bench.file("f", &"content\n".repeat(5000));
    // No step reads the copy: the store has its layer, and not its files.
    let mut manifest = bench.image(&[]).manifest;
    let digest = manifest["layers"].as_array_mut().unwrap().pop().unwrap()["digest"].take();
    let path = store(&bench).join("blobs").join(digest.as_str().unwrap().replace(':', "/"));
    let mut bytes = fs_err::read(&path).unwrap();
    bytes[20] ^= 1;
    fs_err::write(&path, bytes).unwrap();
    bench.dockerfile("FROM {busybox}\nCOPY f /f\nRUN wc -l </f >/lines\nRUN cat /lines >/again\n");
    let run = bench.build(&[]);
    assert!(run.stderr.contains("a damaged file was removed"), "{}", run.stderr);
    assert_eq!(bench.image(&[]).text("again"), "5000\n");
    assert_whole(&bench);
}
