//! Machines that refuse: no room, no inodes, no descriptors, a store of somebody else. A clear error, and the next build
//! is right.

use std::os::unix::fs::{PermissionsExt, chown};
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use crate::common::{Bench, RBUILD, Run, peer};

/// A file system of its own for the state directory; gone with this.
struct Disk<'a>(&'a Bench);

impl<'a> Disk<'a> {
    fn mount(bench: &'a Bench, options: &str) -> Self {
        let home = bench.path("home");
        fs_err::create_dir_all(&home).unwrap();
        peer("mount", &["-t", "tmpfs", "-o", options, "tmpfs", home.to_str().unwrap()]);
        Self(bench)
    }

    fn remount(&self, options: &str) {
        peer("mount", &["-o", &format!("remount,{options}"), self.0.path("home").to_str().unwrap()]);
    }
}

impl Drop for Disk<'_> {
    fn drop(&mut self) {
        peer("umount", &[self.0.path("home").to_str().unwrap()]);
    }
}

/// An image with a layer from the context, one of a step, and one of a step on top of both.
fn bench() -> Bench {
    let bench = Bench::with(
        "FROM {busybox}\nCOPY noise /noise\nRUN head -c 4000000 /dev/zero >/zeros && touch -t 197001020000 /zeros\n\
         RUN cat /noise /zeros | sha256sum >/sum && touch -t 197001020000 /sum\n",
    );
    let noise: Vec<u8> =
        (0..100_000_u32).flat_map(|number| blake3::hash(&number.to_le_bytes()).as_bytes()[..20].to_vec()).collect();
    fs_err::write(bench.context().join("noise"), noise).unwrap();
    let noise = fs_err::File::options().write(true).open(bench.context().join("noise")).unwrap();
    noise.file().set_modified(std::time::UNIX_EPOCH).unwrap();
    bench
}

const EPOCH: [&str; 2] = ["--build-arg", "SOURCE_DATE_EPOCH=0"];

fn assert_right(bench: &Bench) {
    let reference = self::bench();
    assert_eq!(bench.image(&EPOCH).manifest, reference.image(&EPOCH).manifest);
    let verified = Run::of(bench.rbuild().args(["cache", "verify"]));
    assert_eq!(verified.code, 0, "{}", verified.stdout);
    bench.assert_clean();
}

#[test]
fn a_full_disk_is_named_and_the_next_build_is_right() {
    let bench = bench();
    let disk = Disk::mount(&bench, "size=100k");
    // From no room for the base to nearly enough for all.
    for size in ["100k", "3m", "7m", "9m"] {
        disk.remount(&format!("size={size}"));
        let run = bench.try_build(&EPOCH);
        // A step is told by the kernel, and says it in its own words.
        let step = run.stderr.contains("exited with status");
        let told = run.stderr.contains("No space left on device") && run.stderr.contains("the state directory `");
        assert!(run.code != 0 && (told || step) && !run.stderr.contains("panicked"), "{size}: {}", run.stderr);
        assert!(run.stderr.contains("`rbuild cache prune` removes what is not in use"), "{size}: {}", run.stderr);
        bench.assert_clean();
    }
    disk.remount("size=200m");
    assert_right(&bench);
}

#[test]
fn want_of_inodes_is_named_and_the_next_build_is_right() {
    let bench = bench();
    let disk = Disk::mount(&bench, "size=200m,nr_inodes=10");
    for inodes in [10, 30, 60, 100] {
        disk.remount(&format!("nr_inodes={inodes}"));
        let run = bench.try_build(&EPOCH);
        assert!(run.code != 0 && run.stderr.contains("No space left on device"), "{inodes}: {}", run.stderr);
        bench.assert_clean();
    }
    disk.remount("nr_inodes=100000");
    assert_right(&bench);
}

/// The memo of what files contain cannot be replaced: that is a pity, and no reason for a build to fail.
#[test]
fn a_memo_that_cannot_be_kept_hides_no_error() {
    let bench = Bench::with("FROM {busybox}\nCOPY f /f\nRUN exit 3\n");
    bench.file("f", "x");
    fs_err::create_dir_all(bench.path("home/store-v1/context-digests/taken")).unwrap();
    fs_err::set_permissions(bench.path("home/store-v1"), PermissionsExt::from_mode(0o700)).unwrap();
    // What changed just now is not remembered.
    std::thread::sleep(Duration::from_secs(3));
    let run = bench.try_build(&[]);
    assert!(run.code == 1 && run.stderr.contains("error: `RUN exit 3` exited with status 3"), "{}", run.stderr);
    bench.dockerfile("FROM {busybox}\nCOPY f /f\n");
    let run = bench.build(&[]);
    assert!(run.stderr.contains("reads all of its context again"), "{}", run.stderr);
}

/// Builds with at most so many open files.
fn build_with_descriptors(bench: &Bench, most: u32, options: &[&str]) -> Run {
    let mut command = Command::new("prlimit");
    command.arg(format!("--nofile={most}")).arg(RBUILD).args(["--progress", "plain"]).args(options).arg(".");
    Run::of(command.env("RBUILD_HOME", bench.path("home")).current_dir(bench.context()))
}

#[test]
fn want_of_descriptors_is_named_and_the_next_build_is_right() {
    let bench = bench();
    let mut failed = 0;
    for most in [12, 16, 20, 24, 28, 32, 40] {
        let run = build_with_descriptors(&bench, most, &EPOCH);
        assert!(!run.stderr.contains("panicked"), "{most}: {}", run.stderr);
        if run.code != 0 {
            failed += 1;
            assert!(run.stderr.contains("Too many open files"), "{most}: {}", run.stderr);
        }
    }
    assert!(failed > 0);
    assert_right(&bench);
}

#[test]
fn the_directories_of_a_tree_need_no_descriptor_each() {
    let bench = Bench::with("FROM {busybox}\nCOPY wide /wide\nRUN mkdir /wide/new\nRUN rmdir /wide/new\n");
    for number in 0..200 {
        bench.file(&format!("wide/{number}/f"), "x");
    }
    for isolation in ["root", "chroot"] {
        let run = build_with_descriptors(&bench, 100, &["--no-cache", "--isolation", isolation]);
        assert_eq!(run.code, 0, "{isolation}: {}", run.stderr);
    }
}

#[test]
fn a_store_of_others_is_refused_and_no_umask_opens_ours() {
    let bench = Bench::with("FROM scratch\nCOPY f /f\n");
    bench.file("f", "x");
    let mut command = Command::new("sh");
    command.args(["-c", "umask 0; exec \"$0\" \"$@\"", RBUILD, "-t", "image", "."]);
    let run = Run::of(command.env("RBUILD_HOME", bench.path("home")).current_dir(bench.context()));
    assert_eq!(run.code, 0, "{}", run.stderr);
    closed(&bench.path("home/store-v1"));
    let store = bench.path("home/store-v1");
    for (change, told) in [
        (Box::new(|path: &Path| chown(path, Some(1), None)) as Box<dyn Fn(&Path) -> _>, "belongs to user 1"),
        (
            Box::new(|path: &Path| fs_err::set_permissions(path, PermissionsExt::from_mode(0o770))),
            "can be written by others",
        ),
    ] {
        change(&store).unwrap();
        let run = bench.try_build(&[]);
        assert!(run.code != 0 && run.stderr.contains(told), "{}", run.stderr);
        chown(&store, Some(0), None).unwrap();
    }
    fs_err::set_permissions(&store, PermissionsExt::from_mode(0o700)).unwrap();
    // The stores of other versions are theirs.
    for version in ["store-v0", "store-v2"] {
        let other = bench.path("home").join(version);
        fs_err::create_dir(&other).unwrap();
        fs_err::write(other.join("file"), "theirs").unwrap();
        assert_eq!(bench.build(&[]).cached(), 1);
        assert_eq!(Run::of(bench.rbuild().args(["cache", "prune", "--all"])).code, 0);
        assert_eq!(fs_err::read_to_string(other.join("file")).unwrap(), "theirs");
        bench.build(&[]);
    }
}

/// Nothing of the store can be read by others, but what is in snapshots, which its own directory hides.
fn closed(directory: &Path) {
    for entry in fs_err::read_dir(directory).unwrap().map(Result::unwrap) {
        let metadata = entry.metadata().unwrap();
        assert_eq!(metadata.permissions().mode() & 0o077, 0, "{}", entry.path().display());
        if metadata.is_dir() && !entry.file_name().to_string_lossy().starts_with("snapshots") {
            closed(&entry.path());
        }
    }
}
