//! Killing rbuild at the worst moment: nothing survives, nothing stays mounted, the next build works.

use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use registry::testing::{Fault, Logged, Registry, When};

use crate::common::{Bench, registry_with_base};
use crate::sandbox::bench::is_root;

/// How long a killed build may take to be gone.
const PATIENCE: Duration = Duration::from_secs(10);

/// A build that is in the middle of a RUN whose processes can be told from all others, while the init of the next waits.
fn start(bench: &Bench, rung: &str, marker: &str) -> Child {
    bench.dockerfile(&format!(
        "FROM {{busybox}}\nRUN echo first >/first\nRUN (trap '' TERM; setsid sleep {marker}) & touch /{marker} & sleep {marker}\n\
         RUN true\n"
    ));
    let mut command = bench.rbuild();
    let child = command.args(["--progress", "plain", "--isolation", rung, "."]).stderr(Stdio::null()).spawn().unwrap();
    wait_for("the step to run", || processes(marker) >= 2);
    child
}

fn wait_for(what: &str, mut done: impl FnMut() -> bool) {
    let begun = Instant::now();
    while !done() {
        assert!(begun.elapsed() < 12 * PATIENCE, "waited in vain for {what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// An argument that no other process of the machine has: seconds to sleep, by this test run and a number.
fn marker(number: u64) -> String {
    (1_000_000_000 + u64::from(std::process::id()) * 10 + number).to_string()
}

/// Processes of the whole machine that have the marker as an argument of their own.
fn processes(marker: &str) -> usize {
    let Ok(entries) = fs_err::read_dir("/proc") else { return 0 };
    entries
        .filter_map(Result::ok)
        .filter_map(|entry| fs_err::read(entry.path().join("cmdline")).ok())
        .filter(|line| line.split(|byte| *byte == 0).any(|argument| argument == marker.as_bytes()))
        .count()
}

/// All that descends from a process.
fn descendants(of: u32) -> Vec<u32> {
    let Ok(tasks) = fs_err::read_dir(format!("/proc/{of}/task")) else { return Vec::new() };
    let children = tasks.filter_map(|task| fs_err::read_to_string(task.ok()?.path().join("children")).ok());
    let children: Vec<u32> =
        children.flat_map(|list| list.split_whitespace().map(|pid| pid.parse().unwrap()).collect::<Vec<_>>()).collect();
    children.iter().flat_map(|&child| std::iter::once(child).chain(descendants(child))).collect()
}

/// Whether a process is there that is not dead and only waited for by nobody.
fn lives(process: u32) -> bool {
    fs_err::read_to_string(format!("/proc/{process}/stat")).is_ok_and(|stat| !stat.contains(") Z "))
}

fn mounts(bench: &Bench) -> usize {
    let path = bench.path("home").display().to_string();
    fs_err::read_to_string("/proc/self/mountinfo").unwrap().lines().filter(|line| line.contains(&path)).count()
}

/// Kills a build on every rung that root can have; `code` is how it ends.
fn killed_by(signal: Signal, marker: &str, code: Option<i32>) {
    for rung in if is_root() { &["root", "range", "single", "chroot"][..] } else { &["range", "single"] } {
        let bench = Bench::new();
        let mut child = start(&bench, rung, marker);
        let is_init = |process: &u32| {
            fs_err::read_to_string(format!("/proc/{process}/comm")).is_ok_and(|name| name == "rbuild-init\n")
        };
        // Each of them is two processes.
        wait_for("the next init", || descendants(child.id()).iter().filter(|process| is_init(process)).count() == 4);
        let all = descendants(child.id());
        kill(Pid::from_raw(i32::try_from(child.id()).unwrap()), signal).unwrap();
        assert_eq!(child.wait().unwrap().code(), code, "{rung}");
        wait_for("every process to be gone", || processes(marker) == 0 && !all.iter().any(|process| lives(*process)));
        assert_eq!(mounts(&bench), 0, "{rung}");
        bench.dockerfile("FROM {busybox}\nRUN echo first >/first\nRUN echo second >/second\n");
        let run = bench.build(&["--isolation", rung]);
        assert_eq!(run.cached(), 1, "the first step ended before the kill on {rung}: {}", run.stderr);
        bench.assert_clean();
    }
}

#[test]
fn sigkill_leaves_nothing() {
    killed_by(Signal::SIGKILL, &marker(1), None);
}

#[test]
fn ctrl_c_ends_the_build() {
    killed_by(Signal::SIGINT, &marker(2), Some(130));
}

#[test]
fn sigterm_ends_the_build() {
    killed_by(Signal::SIGTERM, &marker(3), Some(130));
}

#[test]
fn a_build_that_is_cancelled_while_it_is_pushed_moves_no_tag() {
    let registry = Registry::start().unwrap();
    registry.fault(When::path("/v2/app/blobs/uploads/").method("POST").always(), Fault::Stall(Duration::from_secs(2)));
    let bench = Bench::with("FROM {busybox}\nCOPY f /\n");
    bench.file("f", "copied");
    let name = format!("{}/app:1", registry.host());
    let mut child = bench.rbuild().args(["-t", &name, "--push", "."]).stderr(Stdio::null()).spawn().unwrap();
    let begun = |request: &Logged| request.path.starts_with("/v2/app/blobs/uploads/");
    wait_for("the push to begin", || registry.take_log().iter().any(begun));
    kill(Pid::from_raw(i32::try_from(child.id()).unwrap()), Signal::SIGINT).unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(130));
    assert!(registry.tags("app").is_empty());
}

/// Interrupts a build once, when `begun`; returns what it says on standard error.
fn interrupted(bench: &Bench, begun: impl FnMut() -> bool) -> String {
    let child = bench.rbuild().arg(".").stderr(Stdio::piped()).spawn().unwrap();
    wait_for("the registry to be asked", begun);
    kill(Pid::from_raw(i32::try_from(child.id()).unwrap()), Signal::SIGINT).unwrap();
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(130));
    String::from_utf8_lossy(&output.stderr).into_owned()
}

#[test]
fn a_layer_that_comes_slowly_is_not_waited_for() {
    let registry = registry_with_base();
    // After the config, the layer: it would take hours.
    registry.fault(When::path("/blobs/").after(1).always(), Fault::Trickle(Duration::from_millis(20)));
    let bench = Bench::with(&format!("FROM {}/library/busybox\nRUN true\n", registry.host()));
    let mut blobs = 0;
    let said = interrupted(&bench, || {
        blobs += registry.take_log().iter().filter(|request| request.path.contains("/blobs/")).count();
        blobs == 2
    });
    // A build that is ended says nothing.
    assert!(said.contains("the build was cancelled"), "{said}");
    bench.assert_clean();
}

#[test]
fn a_cancelled_build_waits_for_no_registry() {
    let registry = Registry::start().unwrap();
    registry.fault(When::path("/v2/").always(), Fault::Stall(6 * PATIENCE));
    let bench = Bench::with(&format!("FROM {}/base:1\n", registry.host()));
    let begun = Instant::now();
    interrupted(&bench, || !registry.take_log().is_empty());
    assert!(begun.elapsed() < 3 * PATIENCE, "{:?}", begun.elapsed());
}

#[test]
fn the_third_signal_ends_what_waits_for_a_registry() {
    let registry = Registry::start().unwrap();
    registry.fault(When::path("/v2/").always(), Fault::Stall(PATIENCE));
    let bench = Bench::with(&format!("FROM {}/base:1\n", registry.host()));
    let mut child = bench.rbuild().arg(".").stderr(Stdio::null()).spawn().unwrap();
    wait_for("the registry to be asked", || !registry.take_log().is_empty());
    let mut sent = 0;
    let ended = loop {
        if let Some(ended) = child.try_wait().unwrap() {
            break ended;
        }
        kill(Pid::from_raw(i32::try_from(child.id()).unwrap()), Signal::SIGINT).unwrap();
        sent += 1;
        // Signals of one kind that are pending are one: a busy machine may take more than three.
        std::thread::sleep(Duration::from_millis(200));
    };
    assert!(sent >= 3 && ended.code() == Some(130), "{sent}: {ended}");
}

#[test]
fn a_large_file_is_not_read_to_its_end() {
    let bench = Bench::new();
    fs_err::File::create(bench.context().join("big")).unwrap().set_len(3 << 30).unwrap();
    // What a step made is digested before it is copied.
    let made = "FROM {busybox} AS a\nRUN truncate -s 400G /big\nFROM scratch\nCOPY --from=a /big /\n";
    for dockerfile in ["FROM scratch\nCOPY big /\n", made] {
        bench.dockerfile(dockerfile);
        let mut command = bench.rbuild();
        let mut child = command.args(["--progress", "plain", "."]).stderr(Stdio::piped()).spawn().unwrap();
        let mut log = BufReader::new(child.stderr.take().unwrap()).lines().map(Result::unwrap);
        assert!(log.any(|line| line.contains("COPY ")));
        kill(Pid::from_raw(i32::try_from(child.id()).unwrap()), Signal::SIGINT).unwrap();
        let cancelled = Instant::now();
        let rest: Vec<String> = log.collect();
        assert_eq!(child.wait().unwrap().code(), Some(130));
        assert!(cancelled.elapsed() < PATIENCE && rest.iter().any(|line| line.ends_with(" CANCELED")), "{rest:?}");
        bench.assert_clean();
    }
}

#[test]
fn a_daemon_does_not_outlive_its_step() {
    let marker = marker(4);
    let bench = Bench::with(&format!("FROM {{busybox}}\nRUN setsid sleep {marker} & echo started >/started\n"));
    assert_eq!(bench.image(&[]).text("started"), "started\n");
    assert_eq!(processes(&marker), 0);
}

#[test]
fn a_failing_step_ends_the_others() {
    let marker = marker(5);
    let bench = Bench::with(&format!(
        "FROM {{busybox}} AS slow\nRUN sleep {marker}\nFROM {{busybox}} AS bad\nRUN sleep 1; exit 3\nFROM scratch\n\
         COPY --from=slow /etc/passwd /a\nCOPY --from=bad /etc/passwd /b\n"
    ));
    let begun = Instant::now();
    let run = bench.try_build(&["--jobs", "2"]);
    assert!(run.stderr.contains("exited with status 3"), "{}", run.stderr);
    assert!(begun.elapsed() < Duration::from_mins(1));
    assert_eq!(processes(&marker), 0);
}

#[test]
fn a_closed_pipe_does_not_hang_a_build() {
    let bench = Bench::with("FROM {busybox}\nRUN for i in $(seq 2000); do echo line $i; done; touch /done\n");
    let script = format!("{} --progress plain . 2>&1 | head -n 3 >/dev/null", crate::common::RBUILD);
    let home = bench.path("home");
    let status = Command::new("timeout")
        .args(["60", "sh", "-c", &script])
        .env("RBUILD_HOME", home)
        .current_dir(bench.context())
        .status()
        .unwrap();
    assert_ne!(status.code(), Some(124), "it hung");
}
