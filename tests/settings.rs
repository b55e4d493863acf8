//! What the flags say of every step: network, names of hosts, limits, time.

use std::path::{Path, PathBuf};
use std::process::Command;

use crate::common::{Bench, RBUILD, Run};
use crate::sandbox::bench::{is_root, processes};

#[test]
fn the_network_of_a_build_is_that_of_its_steps() {
    let bench = Bench::with("FROM {busybox}\nRUN ls /sys/class/net >/net\n");
    assert_eq!(bench.image(&["--network=none"]).text("net"), "lo\n");
    // /dev/net/tun is not for everybody; what a plain user is told without it is a test of the sandbox.
    if fs_err::File::open("/dev/net/tun").is_ok() {
        assert_eq!(bench.image(&["--network=private", "--no-cache"]).text("net"), "lo\ntap0\n");
    }
    let bench = Bench::with("FROM {busybox}\nRUN --network=host true\n");
    let told = "`RUN --network=host` wants the network of the machine";
    let run = bench.try_build(&["--network=private"]);
    assert_eq!(run.code, 1);
    assert!(run.stderr.contains(told), "{}", run.stderr);
}

#[test]
fn settings_of_a_build_are_those_of_its_steps_and_of_no_layer() {
    let text = "FROM {busybox}\nRUN (cat /etc/hosts; df -k /dev/shm; ulimit -n; ulimit -Hn) >/seen\n";
    let bench = Bench::with(text);
    let flags = ["--add-host=db:192.0.2.7", "--add-host=me=host-gateway", "--shm-size=1m", "--ulimit=nofile=40:50"];
    let image = bench.image(&flags);
    let seen = image.text("seen");
    assert!(seen.contains("192.0.2.7\tdb\n127.0.0.1\tme\n"), "{seen}");
    assert!(seen.contains(" 1024 ") && seen.ends_with("40\n50\n"), "{seen}");
    assert!(bench.build(&[]).stderr.contains("CACHED"), "settings are in no key");
    assert_eq!(image.layers.last().unwrap().keys().collect::<Vec<_>>(), ["seen"]);
}

#[test]
fn a_limit_can_only_be_lowered() {
    let bench = Bench::with("FROM {busybox}\nRUN true\n");
    let run = bench.try_build(&["--ulimit=nofile=999999999999"]);
    assert_eq!(run.code, 1, "{}", run.stderr);
    assert!(run.stderr.contains("its limit `nofile`, 999999999999, is above that of rbuild itself"), "{}", run.stderr);
}

/// A machine gives rbuild a cgroup in which it may limit steps, or the build says what is in the way.
#[test]
fn memory_and_processors_are_limited_or_a_warning_says_why_not() {
    let bench = Bench::with("FROM {busybox}\nRUN head -c 200000000 /dev/zero | tail >/dev/null\n");
    let run = bench.try_build(&["--memory=64m", "--cpus=1.5"]);
    let warning = "warning: the memory and processors of steps are not limited: cannot ";
    assert_eq!(run.code == 0, run.stderr.contains(warning), "{}", run.stderr);
    assert!(!bench.build(&[]).stderr.contains(warning));
}

#[test]
fn a_step_that_takes_too_long_is_ended() {
    let bench = Bench::with("FROM {busybox}\nRUN trap '' TERM; (setsid sleep 3127 &); sleep 3127\n");
    let begun = std::time::Instant::now();
    let run = bench.try_build(&["--timeout=1s"]);
    assert_eq!(run.code, 1, "{}", run.stderr);
    assert!(run.stderr.contains("took longer than 1 seconds and was ended"), "{}", run.stderr);
    assert!(begun.elapsed().as_secs() < 60);
    assert_eq!(processes("sleep 3127"), [0; 0]);
    bench.assert_clean();
}

/// A directory of a cgroup with a limit of memory, which needs root; gone with the value.
struct Confined(PathBuf);

impl Confined {
    fn new() -> Self {
        let root = Path::new("/sys/fs/cgroup");
        let (controller, file) = if root.join("memory").exists() {
            (root.join("memory"), "memory.limit_in_bytes")
        } else {
            (root.to_owned(), "memory.max")
        };
        let group = controller.join(format!("rbuild-test-{}", std::process::id()));
        fs_err::create_dir(&group).unwrap();
        let confined = Self(group);
        fs_err::write(confined.0.join(file), "500000000").unwrap();
        confined
    }
}

impl Drop for Confined {
    fn drop(&mut self) {
        let removed = fs_err::remove_dir(&self.0);
        assert!(removed.is_ok() || std::thread::panicking(), "{removed:?}");
    }
}

#[test]
fn a_step_that_the_kernel_kills_for_want_of_memory_says_so() {
    if !is_root() {
        return; // a plain user makes no cgroup
    }
    let bench = Bench::with("FROM {busybox}\nRUN true\nRUN tail /dev/zero\n");
    let group = Confined::new();
    let mut command = Command::new("/bin/sh");
    let script = "echo $$ >\"$0\" && exec \"$@\"";
    command.args(["-c", script]).arg(group.0.join("cgroup.procs")).arg(RBUILD).args(["--progress", "plain", "."]);
    command.env("RBUILD_HOME", bench.path("home")).current_dir(bench.context());
    let run = Run::of(&mut command);
    assert_eq!(run.code, 1, "{}", run.stderr);
    let told = "`RUN tail /dev/zero` exited with status 137, and the kernel killed a process for want of memory";
    assert!(run.stderr.contains(told), "{}", run.stderr);
}

#[test]
fn the_proxies_of_docker_s_configuration_reach_the_steps_and_no_key() {
    let bench = Bench::with("FROM {busybox}\nRUN env | grep -i http_proxy | sort\n");
    let directory = bench.path("docker");
    fs_err::create_dir(&directory).unwrap();
    let file = directory.join("config.json");
    fs_err::write(&file, r#"{"proxies": {"default": {"httpProxy": "http://proxy.invalid:1"}}}"#).unwrap();
    let build = || {
        let mut command = bench.rbuild();
        Run::of(command.env("DOCKER_CONFIG", &directory).args(["--progress", "plain", "."]))
    };
    let run = build();
    assert!(run.stderr.contains(" http_proxy=http://proxy.invalid:1\n"), "{}", run.stderr);
    assert!(run.stderr.contains(" HTTP_PROXY=http://proxy.invalid:1\n"), "{}", run.stderr);
    fs_err::write(&file, r#"{"proxies": {"default": {"httpProxy": "http://other.invalid:1"}}}"#).unwrap();
    assert_eq!(build().cached(), 1);
}

#[test]
fn the_variables_of_docker_count_where_no_flag_says_otherwise() {
    let bench = Bench::with("FROM scratch\nARG TARGETARCH\nLABEL arch=$TARGETARCH\n");
    let build = |variable: (&str, &str), arguments: &[&str]| {
        let mut command = bench.rbuild();
        Run::of(command.env(variable.0, variable.1).args(arguments).arg("."))
    };
    let platform = |value: &str, arguments: &[&str]| {
        let run = build(("DOCKER_DEFAULT_PLATFORM", value), &[&["-q", "-t", "arch:1"], arguments].concat());
        let inspected = Run::of(bench.rbuild().args(["inspect", "store:arch:1"]));
        (run.code, inspected.stdout.contains("s390x"), run.stderr)
    };
    assert!(platform("linux/s390x", &[]).1);
    assert!(!platform("linux/s390x", &["--platform", "linux/arm64"]).1);
    assert!(!platform("", &[]).1);
    let (code, _, told) = platform("plan9/mips", &[]);
    assert!(code == 2 && told.starts_with("error: DOCKER_DEFAULT_PLATFORM: `plan9/mips`"), "{told}");

    let progress = |value: &str, arguments: &[&str]| build(("BUILDKIT_PROGRESS", value), arguments).stderr;
    assert!(progress("json", &[]).starts_with('{'));
    assert_eq!(progress("none", &[]), "");
    assert!(!progress("quiet", &["--progress", "plain"]).is_empty());
    assert_eq!(progress("loud", &[]), "error: BUILDKIT_PROGRESS cannot be `loud`\n");
}
