//! Nothing of a step outlives it, whoever ends first.

use std::io::{BufRead, BufReader, Read};
use std::process::Stdio;
use std::time::{Duration, Instant};

use super::bench::{SANDBOX_FAILED, on_every_rung, on_rungs_with_mounts, processes};

/// A number of seconds to sleep that marks the processes of one test.
fn mark() -> String {
    static NEXT: std::sync::atomic::AtomicU32 = std::sync::atomic::AtomicU32::new(1);
    let next = NEXT.fetch_add(1, std::sync::atomic::Ordering::SeqCst);
    format!("sleep 9{}{next:03}", std::process::id())
}

/// Waits until nothing runs under `mark`: the kernel needs a moment to bury a namespace that nobody waits for.
fn assert_gone(mark: &str) {
    let begun = Instant::now();
    while !processes(mark).is_empty() {
        assert!(begun.elapsed() < Duration::from_secs(20), "{mark} still runs: {:?}", processes(mark));
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// Ten daemons that have left the session, ignore what can be ignored, and hold both outputs.
fn daemons(mark: &str) -> String {
    format!("for n in 1 2 3 4 5 6 7 8 9 10; do setsid sh -c \"trap '' TERM HUP INT; {mark}; true\" & done; sleep 0.2; ")
}

#[test]
fn daemons_die_with_the_step_and_do_not_hold_it_up() {
    on_every_rung(|bench| {
        let mark = mark();
        let begun = Instant::now();
        let outcome = bench.sh(&format!("{} echo done; exit 3", daemons(&mark)));
        assert_eq!((outcome.code, outcome.stdout.as_str()), (3, "done\n"));
        assert!(begun.elapsed() < Duration::from_secs(20));
        assert_eq!(processes(&mark), [0_u32; 0], "everything is dead when the step has ended");
    });
}

#[test]
fn output_is_handed_over_as_it_comes() {
    on_every_rung(|bench| {
        let mut child =
            bench.command(&["/bin/sh", "-c", "echo first; sleep 30"]).stdout(Stdio::piped()).spawn().unwrap();
        let begun = Instant::now();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        assert_eq!(line, "first\n");
        assert!(begun.elapsed() < Duration::from_secs(20));
        child.kill().unwrap();
        child.wait().unwrap();
    });
}

#[test]
fn steps_of_many_threads_do_not_hold_each_other_up() {
    on_rungs_with_mounts(|bench| {
        bench.option("--parallel=8");
        let mut command = bench.command(&["/bin/sh", "-c", "sleep 0.5; sleep 60 & touch /made"]);
        for name in ["upper", "work"] {
            for number in 0..8 {
                fs_err::create_dir(bench.path(name).join(number.to_string())).unwrap();
            }
        }
        bench.give();
        let begun = Instant::now();
        assert_eq!(super::bench::outcome(&mut command).code, 0);
        assert!(begun.elapsed() < Duration::from_secs(20), "{:?}", begun.elapsed());
        assert_eq!(bench.upper().iter().filter(|path| path.ends_with("/made")).count(), 8);
    });
}

/// Whoever kills one of them finds the next one started.
#[test]
fn processes_that_start_each_other_for_ever_are_ended() {
    on_every_rung(|bench| {
        let mark = mark();
        fs_err::write(bench.path("root/chain"), "/bin/sh /chain \"$1\" &\n").unwrap();
        bench.renew();
        let start = format!("for n in 1 2 3 4 5 6 7 8; do sh /chain '{mark}' & done; sleep 0.3; ");
        assert_eq!(bench.sh(&format!("{start} exit 4")).code, 4);
        assert_eq!(processes(&mark), [0_u32; 0]);
        bench.option("--cancel-after=300");
        assert_eq!(bench.sh(&format!("{start} sleep 30")).code, SANDBOX_FAILED);
        assert_eq!(processes(&mark), [0_u32; 0]);
    });
}

#[test]
fn a_killed_rbuild_leaves_no_process() {
    on_every_rung(|bench| {
        let mark = mark();
        let script = format!("{} echo ready; {mark}", daemons(&mark));
        let mut child = bench.command(&["/bin/sh", "-c", &script]).stdout(Stdio::piped()).spawn().unwrap();
        let mut ready = [0; 6];
        child.stdout.as_mut().unwrap().read_exact(&mut ready).unwrap();
        assert!(processes(&mark).len() > 10);
        child.kill().unwrap();
        child.wait().unwrap();
        assert_gone(&mark);
    });
}

#[test]
fn a_killed_stub_leaves_no_process() {
    on_every_rung(|bench| {
        let mark = mark();
        let script = format!("{} echo ready; {mark}", daemons(&mark));
        let mut child =
            bench.command(&["/bin/sh", "-c", &script]).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let mut ready = [0; 6];
        child.stdout.as_mut().unwrap().read_exact(&mut ready).unwrap();
        let children = fs_err::read_to_string(format!("/proc/{0}/task/{0}/children", child.id())).unwrap();
        // The first one is the zygote.
        let stub = children.split_whitespace().last().unwrap().parse().unwrap();
        nix::sys::signal::kill(nix::unistd::Pid::from_raw(stub), nix::sys::signal::Signal::SIGKILL).unwrap();
        let output = child.wait_with_output().unwrap();
        assert_eq!(output.status.code(), Some(SANDBOX_FAILED));
        let told = String::from_utf8(output.stderr).unwrap();
        assert!(told.contains("the init of the step ended without a report (signal: 9 (SIGKILL))"), "{told}");
        assert_gone(&mark);
    });
}

#[test]
fn cancelling_kills_everything_before_it_returns() {
    on_every_rung(|bench| {
        let mark = mark();
        bench.option("--cancel-after=700");
        let begun = Instant::now();
        let outcome = bench.sh(&format!("{} {mark}", daemons(&mark)));
        assert_eq!((outcome.code, outcome.stderr.as_str()), (SANDBOX_FAILED, "error: the step was cancelled\n"));
        assert!(begun.elapsed() < Duration::from_secs(20));
        assert_eq!(processes(&mark), [0_u32; 0]);
    });
}

#[test]
fn a_step_that_never_reads_or_stops_writing_can_be_cancelled() {
    on_every_rung(|bench| {
        bench.option("--cancel-after=300");
        let begun = Instant::now();
        let outcome = bench.sh("trap '' TERM INT; while :; do :; done & yes");
        assert_eq!(outcome.code, SANDBOX_FAILED);
        assert!(begun.elapsed() < Duration::from_secs(20));
    });
}
