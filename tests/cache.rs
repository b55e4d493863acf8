//! The step cache: what is found again, and what must not be.

use std::fs::FileTimes;
use std::os::unix::fs::PermissionsExt;

use crate::common::Bench;

const THREE_STEPS: &str = "FROM {busybox}\nRUN echo one >/one\nCOPY src /src\nRUN cat /src/* >/all\n";

fn bench() -> Bench {
    let bench = Bench::with(THREE_STEPS);
    bench.file("src/a", "aaaa");
    bench.file("src/b", "bbbb");
    bench
}

#[test]
fn a_second_build_runs_nothing_and_gives_the_same_image() {
    let bench = bench();
    let first = bench.image(&[]).manifest;
    let second = bench.build(&["-o", &format!("type=oci,dest={}", bench.path("again.tar").display())]);
    assert_eq!(second.cached(), 3, "{}", second.stderr);
    assert_eq!(bench.image(&[]).manifest, first);
}

#[test]
fn changes_miss_and_only_from_where_they_matter() {
    type Change = fn(&Bench);
    let cases: [(&str, Change, usize); 7] = [
        ("nothing", |_| (), 3),
        ("a touched file", |b| _ = b.file("src/a", "aaaa"), 3),
        ("new bytes", |b| _ = b.file("src/a", "AAAA"), 1),
        (
            "a mode",
            |b| fs_err::set_permissions(b.context().join("src/a"), PermissionsExt::from_mode(0o600)).unwrap(),
            1,
        ),
        ("a name", |b| fs_err::rename(b.context().join("src/a"), b.context().join("src/c")).unwrap(), 1),
        ("a file that nobody copies", |b| _ = b.file("other", "x"), 3),
        ("the first command", |b| b.dockerfile(&THREE_STEPS.replace("echo one", "echo uno")), 0),
    ];
    for (name, change, cached) in cases {
        let bench = bench();
        bench.build(&[]);
        change(&bench);
        let run = bench.build(&[]);
        assert_eq!(run.cached(), cached, "{name}: {}", run.stderr);
    }
}

/// Same size, same modification time, other bytes: a stat comparison calls that unchanged.
#[test]
fn bytes_that_hide_behind_an_old_time_are_seen() {
    let bench = bench();
    bench.build(&[]);
    let path = bench.context().join("src/a");
    let before = fs_err::metadata(&path).unwrap().modified().unwrap();
    fs_err::write(&path, "XXXX").unwrap();
    let file = fs_err::File::options().write(true).open(&path).unwrap();
    file.file().set_times(FileTimes::new().set_modified(before)).unwrap();
    assert_eq!(bench.image(&[]).text("all"), "XXXXbbbb");
}

#[test]
fn arguments_are_in_the_key_where_they_can_be_seen() {
    let dockerfile = "FROM {busybox}\nRUN true\nARG V=1\nRUN echo $V >/v\n";
    let bench = Bench::with(dockerfile);
    bench.build(&[]);
    assert_eq!(bench.build(&["--build-arg", "V=2"]).cached(), 1);
    assert_eq!(bench.build(&["--build-arg", "V=2"]).cached(), 2);
    assert_eq!(bench.build(&["--build-arg", "V=2", "--build-arg", "HTTP_PROXY=http://proxy.invalid"]).cached(), 2);
    assert_eq!(bench.build(&["--build-arg", "UNUSED=2"]).cached(), 2);
}

#[test]
fn an_argument_in_a_destination_is_in_the_key() {
    let bench = Bench::with("FROM scratch\nARG D=one\nCOPY f /$D\n");
    bench.file("f", "x");
    bench.build(&[]);
    assert_eq!(bench.image(&["--build-arg", "D=two"]).top(), "- 0644 0:0 two\n");
}

#[test]
fn no_cache_runs_everything() {
    let bench = bench();
    bench.build(&[]);
    assert_eq!(bench.build(&["--no-cache"]).cached(), 0);
}

#[test]
fn two_stages_share_their_equal_steps() {
    let bench =
        Bench::with("FROM {busybox} AS a\nRUN echo x >/x\nFROM {busybox} AS b\nRUN echo x >/x\nCOPY --from=a /x /y\n");
    let run = bench.build(&[]);
    assert_eq!(run.stderr.lines().filter(|line| line.contains("RUN echo x")).count(), 1, "{}", run.stderr);
    assert_eq!(bench.image(&[]).text("y"), "x\n");
}

#[test]
fn a_cached_build_survives_the_loss_of_its_directories() {
    let bench = bench();
    let first = bench.image(&[]).manifest;
    let store = bench.path("home").join("store-v1");
    for entry in fs_err::read_dir(&store).unwrap() {
        let entry = entry.unwrap();
        if entry.file_name().to_string_lossy().starts_with("snapshots") {
            for snapshot in fs_err::read_dir(entry.path()).unwrap() {
                fs_err::remove_dir_all(snapshot.unwrap().path()).unwrap();
            }
        }
    }
    assert_eq!(bench.image(&[]).manifest, first);
    bench.dockerfile(&format!("{THREE_STEPS}RUN cat /all /one >/more\n"));
    assert_eq!(bench.image(&[]).text("more"), "aaaabbbbone\n");
}

#[test]
fn pruning_keeps_named_images_and_nothing_else() {
    let bench = bench();
    bench.build(&["-t", "kept:1"]);
    let prune = |arguments: &[&str]| crate::common::Run::of(bench.rbuild().arg("prune").args(arguments));
    assert!(prune(&[]).stdout.starts_with("freed "));
    let images = crate::common::Run::of(bench.rbuild().arg("images"));
    assert!(images.stdout.contains("docker.io/library/kept:1"), "{}", images.stdout);
    assert_eq!(bench.build(&[]).cached(), 0);
    assert_eq!(prune(&["--all"]).code, 0);
    assert_eq!(crate::common::Run::of(bench.rbuild().arg("images")).stdout.lines().count(), 1);
}

#[test]
fn a_step_that_makes_something_else_each_time_is_found_out() {
    let bench = Bench::with("FROM {busybox}\nRUN echo 1 >/x\nCOPY src /src\n");
    bench.file("src/a", "a");
    bench.build(&[]);
    let run = bench.build(&["--cache-verify", "100%"]);
    assert!(run.stderr.contains("verify [stage-0 2/3] RUN echo 1"), "{}", run.stderr);
    bench.dockerfile("FROM {busybox}\nRUN cat /proc/sys/kernel/random/uuid >/x\n");
    bench.build(&[]);
    let run = bench.try_build(&["--cache-verify", "100%"]);
    assert!(run.code == 1 && run.stderr.contains("`/x` changed"), "{}", run.stderr);
}

/// What stands behind a hit is not looked up, unless the hit is run again.
#[test]
fn a_step_that_reads_another_stage_is_verified() {
    let dockerfile = "FROM {busybox} AS a\nRUN echo 1 >/x\nFROM {busybox} AS b\nCOPY --from=a /x /y\nFROM {busybox}\n\
                      COPY --from=b /y /z\nRUN --mount=from=a,target=/a cp /a/x /w\n";
    let bench = Bench::with(dockerfile);
    let first = bench.image(&["--cache-to", "type=local,dest=cache,mode=max"]).manifest;
    let run = bench.build(&["--cache-verify", "100%"]);
    let verified = |log: &str| log.lines().filter(|line| line.contains(" verify [")).count();
    assert_eq!((run.cached(), verified(&run.stderr)), (4, 4), "{}", run.stderr);
    // The same where the steps are in another cache alone.
    fs_err::rename(bench.path("home"), bench.path("away")).unwrap();
    let run = bench.build(&["--cache-from", "type=local,src=cache", "--cache-verify", "100%"]);
    assert!(run.stderr.contains("0 steps run, 4 cached") && verified(&run.stderr) == 4, "{}", run.stderr);
    let last = bench.image(&["--cache-from", "type=local,src=cache"]);
    assert_eq!(last.manifest, first);
}

#[test]
fn the_umask_of_a_check_out_can_be_left_out() {
    let bench = Bench::with("FROM scratch\nCOPY src /src\n");
    for (file, mode) in [("src/a", 0o640), ("src/b", 0o710)] {
        fs_err::set_permissions(bench.file(file, "x"), PermissionsExt::from_mode(mode)).unwrap();
    }
    fs_err::set_permissions(bench.context().join("src"), PermissionsExt::from_mode(0o700)).unwrap();
    let listing = bench.image(&["--context-mode", "git"]).top();
    assert_eq!(listing, "d 0755 0:0 src\n- 0644 0:0 src/a\n- 0755 0:0 src/b\n");
    fs_err::set_permissions(bench.context().join("src/a"), PermissionsExt::from_mode(0o600)).unwrap();
    assert_eq!(bench.build(&["--context-mode=git"]).cached(), 1);
    assert_eq!(bench.build(&[]).cached(), 0);
}

#[test]
fn keeping_going_finishes_what_does_not_depend_on_the_failure() {
    let dockerfile = "FROM {busybox} AS bad\nRUN false\nFROM {busybox} AS good\nRUN echo x >/x\nFROM {busybox}\n\
                      COPY --from=bad /y /\nCOPY --from=good /x /\n";
    for (arguments, kept) in [(&["--jobs", "1"][..], 0), (&["--jobs", "1", "--keep-going"], 1)] {
        let bench = Bench::with(dockerfile);
        let run = bench.try_build(arguments);
        assert!(run.code == 1 && run.stderr.contains("`RUN false` exited with status 1"), "{}", run.stderr);
        assert_eq!(bench.build(&["--target", "good"]).cached(), kept);
    }
}
