//! What a step costs by itself: to `/bin/true` and back, committed, on every rung; beside crun, which only starts a process
//! in a root, and Debian's buildah, which does that in a container that it has already.
//!
//! The cost of one is the time of a build with many such steps, less that of a build with one, by the number of the others.

use std::fmt::Write as _;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use clap::Args;
use nix::unistd::Uid;
use serde_json::Value;

use crate::bases::Base;
use crate::command::{command, quiet};
use crate::peers;
use crate::rbuild::{self, Profile};
use crate::setup::{self, Part};
use crate::state::State;

mod install;

/// Steps that count in a build.
const STEPS: u32 = 40;
/// Runs of a peer that count in a sample.
const RUNS: u32 = 10;
const RUNGS: [&str; 4] = ["root", "range", "single", "chroot"];

/// Arguments of `cargo xtask steps`.
#[derive(Debug, Args)]
pub(crate) struct Arguments {
    /// Samples of each row, taken in turn; the table shows their medians and the least of them
    #[arg(short = 'n', long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..))]
    samples: u32,
    /// Directory for stores and roots; should be a tmpfs
    #[arg(long, default_value = "/dev/shm")]
    scratch: PathBuf,
    /// Measure this rbuild instead of a release build of the workspace
    #[arg(long, value_name = "FILE")]
    rbuild: Option<PathBuf>,
    /// Measure the processor time of installing packages instead
    #[arg(long)]
    install: bool,
}

/// What all rows share.
struct Bench {
    scratch: tempfile::TempDir,
    rbuild: PathBuf,
    base: String,
}

/// Sets up, measures and prints the table.
pub(crate) fn run(state: &State, arguments: &Arguments) -> Result<()> {
    ensure!(Uid::effective().is_root(), "the peers run as root alone: run it as root");
    let registry = setup::run(state, &[Part::Bench], Profile::Release)?;
    let rbuild = match &arguments.rbuild {
        Some(path) => fs_err::canonicalize(path)?,
        None => rbuild::compile(state, Profile::Release)?.path,
    };
    peers::enter_mount_namespace()?;
    let scratch = tempfile::Builder::new().prefix("rbuild-steps-").tempdir_in(&arguments.scratch)?;
    let bench = Bench { scratch, rbuild, base: registry.reference(Base::Debian.image()) };
    if arguments.install {
        println!("{}", install::table(&bench, arguments.samples)?);
        return Ok(());
    }
    bench.prepare()?;
    let mut rows: Vec<(String, Vec<Duration>)> = RUNGS.map(|rung| (format!("rbuild, {rung}"), Vec::new())).into();
    rows.extend(["crun run", "buildah run"].map(|peer| (peer.to_owned(), Vec::new())));
    for _ in 0..arguments.samples {
        for (row, rung) in rows.iter_mut().zip(RUNGS) {
            row.1.push(bench.step(rung)?);
        }
        rows[RUNGS.len()].1.push(bench.crun()?);
        rows[RUNGS.len() + 1].1.push(bench.buildah()?);
    }
    let mut table = "| to `/bin/true` and back | median, ms | least, ms |\n|---|---|---|\n".to_owned();
    for (name, mut samples) in rows {
        samples.sort_unstable();
        let milliseconds = |sample: Duration| sample.as_secs_f64() * 1000.0;
        let (median, least) = (milliseconds(median(&samples)), milliseconds(samples[0]));
        writeln!(table, "| {name} | {median:.1} | {least:.1} |")?;
    }
    println!("{table}");
    Ok(())
}

impl Bench {
    fn path(&self, name: &str) -> PathBuf {
        self.scratch.path().join(name)
    }

    /// Makes the contexts, a store for each rung with the base image in it, crun's bundle and buildah's container.
    fn prepare(&self) -> Result<()> {
        for steps in [1, STEPS + 1] {
            let context = self.path(&steps.to_string());
            fs_err::create_dir(&context)?;
            let mut dockerfile = format!("FROM {}\n", self.base);
            for step in 0..steps {
                writeln!(dockerfile, "RUN [\"/bin/true\", \"{step}\"]")?;
            }
            fs_err::write(context.join("Dockerfile"), dockerfile)?;
        }
        for rung in RUNGS {
            self.build(rung, 1)?;
        }
        let bundle = self.path("bundle");
        fs_err::create_dir(&bundle)?;
        let output = format!("type=local,dest={}", bundle.join("rootfs").display());
        let mut export = command(&self.rbuild, ["--quiet", "-o", &output]);
        quiet(export.arg(self.path("1")).env("RBUILD_HOME", self.path("home-root")))?;
        quiet(command("crun", ["spec"]).current_dir(&bundle))?;
        let config = bundle.join("config.json");
        let mut spec: Value = serde_json::from_slice(&fs_err::read(&config)?)?;
        spec["process"]["terminal"] = false.into();
        spec["process"]["args"] = vec!["/bin/true"].into();
        fs_err::write(&config, serde_json::to_vec(&spec)?)?;
        let from = ["from", "--quiet", "--pull", "--tls-verify=false", "--name", "steps", &self.base];
        quiet(&mut self.buildah_command(&from))
    }

    /// The time of a build, in which nothing comes from the cache but the base.
    fn build(&self, rung: &str, steps: u32) -> Result<Duration> {
        let arguments = ["--isolation", rung, "--no-cache", "--quiet", "-t", "steps:1"];
        let mut build = command(&self.rbuild, arguments);
        build.arg(self.path(&steps.to_string())).env("RBUILD_HOME", self.path(&format!("home-{rung}")));
        timed(|| quiet(&mut build))
    }

    fn step(&self, rung: &str) -> Result<Duration> {
        let one = self.build(rung, 1)?;
        let all = self.build(rung, STEPS + 1)?;
        all.checked_sub(one).map(|rest| rest / STEPS).context("many steps took less time than one")
    }

    fn crun(&self) -> Result<Duration> {
        let bundle = self.path("bundle");
        let run = || quiet(command("crun", ["--cgroup-manager=disabled", "run", "--bundle"]).arg(&bundle).arg("steps"));
        Ok(timed(|| (0..RUNS).try_for_each(|_| run()))? / RUNS)
    }

    fn buildah(&self) -> Result<Duration> {
        let run = || quiet(&mut self.buildah_command(&["run", "--network", "host", "steps", "/bin/true"]));
        Ok(timed(|| (0..RUNS).try_for_each(|_| run()))? / RUNS)
    }

    fn buildah_command(&self, arguments: &[&str]) -> std::process::Command {
        let directory = |name: &str| self.path(name).display().to_string();
        let mut buildah = command("buildah", ["--root", &directory("storage"), "--runroot", &directory("run")]);
        buildah.args(arguments);
        buildah
    }
}

/// The one in the middle of sorted samples, of which there is at least one.
fn median(samples: &[Duration]) -> Duration {
    samples[(samples.len() - 1) / 2]
}

fn timed(action: impl FnOnce() -> Result<()>) -> Result<Duration> {
    let begun = Instant::now();
    action()?;
    Ok(begun.elapsed())
}
