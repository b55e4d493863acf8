//! Records under stress: processes that die, run at the same time, are watched.

use std::collections::BTreeSet;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use super::{App, shown};
use crate::common::peer;

fn app(run: &str) -> App {
    let app = App::with("services:\n  web: {}\n");
    app.file("Dockerfile", &format!("FROM {{busybox}}\nRUN {run}\n"));
    app
}

/// Starts a build and waits until its step says that it runs.
fn started(app: &App) -> Child {
    let mut command = app.command(&["build", "-a", "myapp"]);
    let mut build = command.stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
    let mut lines = BufReader::new(build.stdout.take().unwrap()).lines();
    assert!(lines.any(|line| line.unwrap().contains("it runs")), "the build did not run");
    // Somebody has to read on.
    std::thread::spawn(move || lines.for_each(drop));
    build
}

#[test]
fn a_killed_build_was_interrupted() {
    let app = app("echo it runs; sleep 60");
    let mut build = started(&app);
    let running = shown(&app.run(&["builds", "-a", "myapp"]));
    assert!(running.ends_with("BXXXXXXXXXX  running           now               \n"), "{running}");
    build.kill().unwrap();
    build.wait().unwrap();
    let after = app.json(&["builds", "-a", "myapp", "--json"]);
    assert_eq!((&after[0]["status"], &after[0]["reason"]), (&"failed".into(), &"interrupted".into()));
    let id = after[0]["id"].as_str().unwrap();
    assert!(app.run(&["builds", "logs", "-a", "myapp", id]).contains("it runs"));
}

#[test]
fn a_cancelled_build_says_so() {
    let app = app("echo it runs; sleep 60");
    let mut build = started(&app);
    let pid = rustix::process::Pid::from_raw(i32::try_from(build.id()).unwrap()).unwrap();
    rustix::process::kill_process(pid, rustix::process::Signal::INT).unwrap();
    assert_eq!(build.wait().unwrap().code(), Some(130));
    let after = app.json(&["builds", "-a", "myapp", "--json"]);
    assert_eq!((&after[0]["status"], &after[0]["reason"]), (&"failed".into(), &"cancelled".into()));
}

#[test]
fn a_log_is_followed_from_elsewhere() {
    // The step ends when the test has seen what it says: they meet in the directory of a cache mount.
    let app =
        app("--mount=type=cache,target=/c touch /c/here; echo it runs; until test -e /c/go; do sleep 0.1; done; \
        echo it ends");
    let mut build = started(&app);
    let id = app.json(&["builds", "-a", "myapp", "--json"])[0]["id"].as_str().unwrap().to_owned();
    let mut logs = app.command(&["builds", "logs", "-f", "-a", "myapp", &id]);
    let mut logs = logs.stdout(Stdio::piped()).spawn().unwrap();
    let lines = BufReader::new(logs.stdout.take().unwrap()).lines().map(Result::unwrap);
    let mut seen = Vec::new();
    for line in lines {
        if line.contains("it runs") && !line.contains("RUN") {
            assert!(build.try_wait().unwrap().is_none(), "the line came when the build had ended");
            let here = peer("find", &[app.home().join("store-v1/mounts").to_str().unwrap(), "-name", "here"]);
            fs_err::write(Path::new(here.trim_end()).with_file_name("go"), "").unwrap();
        }
        seen.push(line);
    }
    assert!(build.wait().unwrap().success() && logs.wait().unwrap().success());
    assert!(seen.iter().any(|line| line.ends_with("it ends")), "{seen:?}");
}

#[test]
fn records_are_whole_whenever_a_command_is_killed() {
    let app = App::with("services:\n  web: {}\n");
    app.file("Dockerfile", "FROM scratch\nCOPY convox.yml /\n");
    for round in 0..16_u64 {
        let variable = format!("A={round}");
        for arguments in [&["build", "-a", "myapp"][..], &["env", "set", "-a", "myapp", &variable]] {
            let mut command = app.command(arguments).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
            // Whatever it is at by then, or has done: all of it has to be right.
            std::thread::sleep(Duration::from_millis(round * round));
            command.kill().unwrap();
            command.wait().unwrap();
        }
    }
    for build in app.json(&["builds", "-a", "myapp", "-l", "100", "--json"]).as_array().unwrap() {
        assert!(build["status"] == "complete" || build["reason"] == "interrupted", "{build}");
        app.run(&["builds", "info", "-a", "myapp", build["id"].as_str().unwrap(), "--verbose"]);
    }
    app.build(&[]);
    app.run(&["deploy", "-a", "myapp"]);
    assert_eq!(app.json(&["releases", "-a", "myapp", "-l", "100", "--json"])[0]["build"], app.newest().as_str());
}

#[test]
fn builds_at_the_same_time_have_different_names() {
    let app = App::with("services:\n  web: {}\n");
    app.file("Dockerfile", "FROM scratch\nCOPY convox.yml /\n");
    let spawn = |_| {
        app.command(&["build", "-a", "myapp", "--id"]).stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap()
    };
    let builds: Vec<Child> = (0..8).map(spawn).collect();
    let releases: BTreeSet<String> =
        builds.into_iter().map(|build| String::from_utf8(build.wait_with_output().unwrap().stdout).unwrap()).collect();
    assert_eq!(releases.len(), 8, "{releases:?}");
    let listed = app.json(&["builds", "-a", "myapp", "-l", "100", "--json"]);
    let ids: BTreeSet<&str> = listed.as_array().unwrap().iter().map(|build| build["id"].as_str().unwrap()).collect();
    assert_eq!(ids.len(), 8);
    assert!(listed.as_array().unwrap().iter().all(|build| build["status"] == "complete"));
}

#[test]
fn a_thousand_builds_are_listed_at_once() {
    let app = App::with("services:\n  web: {}\n");
    let builds = app.home().join("racks/local/apps/myapp/builds");
    for number in 0..1000_u32 {
        let letters: String = (0..4).map(|place| char::from(b'A' + (number / 26_u32.pow(place) % 26) as u8)).collect();
        let directory = builds.join(format!("B{letters}"));
        fs_err::create_dir_all(&directory).unwrap();
        let record = serde_json::json!({ "id": format!("B{letters}"), "status": "complete", "manifest": "x".repeat(2000),
            "started": "2025-12-31T03:04:05Z", "ended": "2025-12-31T03:06:05Z" });
        fs_err::write(directory.join("build.json"), record.to_string()).unwrap();
    }
    let begun = Instant::now();
    assert_eq!(app.run(&["builds", "-a", "myapp", "-l", "1000"]).lines().count(), 1001);
    // A tenth of this is what a build with optimisation takes at most; the machine of a test may be busy.
    assert!(begun.elapsed() < Duration::from_secs(5), "{:?}", begun.elapsed());
}

#[test]
fn a_published_build_is_known_on_every_machine() {
    let here = app("echo it ran");
    let run = here.try_run(&["build", "-a", "myapp", "--publish-record"]);
    let told =
        "ERROR: `--publish-record` needs a registry: `rbuild rack params set -r local registry=…` gives the rack one\n";
    assert_eq!((run.code, run.stdout.as_str(), run.stderr.as_str()), (1, "", told));
    let place = here.push_to("published");
    here.build(&["-d", "published", "--publish-record"]);
    let build = here.newest();
    here.build(&["-d", "kept here"]);
    here.file("Dockerfile", "FROM {busybox}\nRUN echo it fails; false\n");
    assert_eq!(here.try_run(&["build", "-a", "myapp", "-d", "failed", "--publish-record"]).code, 1);

    let there = App::with("services:\n  web: {}\n");
    assert_eq!(there.push_to("published"), place);
    let listed = there.json(&["builds", "-a", "myapp", "--json"]);
    let listed: BTreeSet<&str> =
        listed.as_array().unwrap().iter().map(|build| build["description"].as_str().unwrap()).collect();
    assert_eq!(listed, BTreeSet::from(["failed", "published"]));
    assert_eq!(there.digests("myapp", &build), here.digests("myapp", &build));
    let logs = ["builds", "logs", "-a", "myapp", &build];
    assert_eq!(there.run(&logs), here.run(&logs));
    let archive = there.bench.path("build.tgz").display().to_string();
    there.run(&["builds", "export", "-a", "myapp", &build, "-f", &archive]);
    there.run(&["builds", "import", "-a", "other", "-f", &archive]);
    assert_eq!(there.run(&["run", "-a", "other", "web", "echo", "it runs"]), "it runs\n");

    // By its name alone, and a registry that is away.
    let third = App::with("services:\n  web: {}\n");
    third.push_to("published");
    assert_eq!(third.run(&logs), here.run(&logs));
    third.run(&["rack", "params", "set", "registry=127.0.0.1:1/x"]);
    let run = third.try_run(&["builds", "-a", "myapp"]);
    assert!(run.code == 0 && run.stdout.contains("published"), "{}{}", run.stdout, run.stderr);
    assert!(run.stderr.starts_with("warning: builds of other machines may be missing: cannot "), "{}", run.stderr);
}
