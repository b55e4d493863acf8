//! One execution of a step, however many builds need it at once: in one process and in several.

use std::path::Path;

use crate::common::{Bench, Run};

/// How many builds run at once.
const BUILDS: usize = 8;

/// A step that takes long enough for all builds to need it, and another one on it.
const DOCKERFILE: &str = "FROM {busybox}\nRUN sleep 0.4 && echo one >/one\nRUN sleep 0.1 && echo two >/two\n";

#[test]
fn eight_processes_run_each_step_once() {
    let bench = Bench::with(DOCKERFILE);
    let runs: Vec<Run> = std::thread::scope(|scope| {
        let builds: Vec<_> = (0..BUILDS).map(|_| scope.spawn(|| bench.build(&[]))).collect();
        builds.into_iter().map(|build| build.join().unwrap()).collect()
    });
    assert_eq!((Run::executions(&runs, "echo one"), Run::executions(&runs, "echo two")), (1, 1));
    let images: std::collections::BTreeSet<&str> =
        runs.iter().map(|run| run.stderr.lines().last().unwrap_or_default()).collect();
    assert_eq!(images.len(), 1, "{images:?}");
    bench.assert_clean();
    assert_eq!(locks(&bench.path("home")), 0);
}

#[test]
fn whoever_waits_for_a_killed_build_goes_on_itself() {
    let bench = Bench::with("FROM {busybox}\nRUN test -e /proc/1 && sleep 2 && echo one >/one\n");
    let mut first = bench.rbuild().args(["--progress", "quiet", "."]).spawn().unwrap();
    let begun = std::time::Instant::now();
    while locks(&bench.path("home")) == 0 && begun.elapsed().as_secs() < 20 {
        std::thread::sleep(std::time::Duration::from_millis(10));
    }
    std::thread::scope(|scope| {
        let second = scope.spawn(|| bench.build(&[]));
        std::thread::sleep(std::time::Duration::from_millis(500));
        first.kill().unwrap();
        first.wait().unwrap();
        assert_eq!(Run::executions(&[second.join().unwrap()], "echo one"), 1);
    });
}

fn locks(home: &Path) -> usize {
    let steps = |name: &std::ffi::OsStr| !name.to_string_lossy().starts_with("image-");
    let Ok(entries) = fs_err::read_dir(home.join("store-v1/locks")) else { return 0 };
    entries.filter(|entry| steps(&entry.as_ref().unwrap().file_name())).count()
}
