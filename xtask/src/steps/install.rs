//! What the emulation of root costs a step that uses it much: the processor time of installing packages on every rung.
//!
//! Everything is downloaded before, into the layer below, and counted are rbuild and all that it has started.

use std::fmt::Write as _;
use std::time::Duration;

use anyhow::Result;
use nix::sys::resource::{UsageWho, getrusage};
use nix::sys::time::TimeValLike;

use super::{Bench, RUNGS, median};
use crate::command::{command, quiet};

const PACKAGES: &str = "nginx postgresql openssh-server sudo procps";

/// The rung that others are compared with: what it has in common with `single` is no emulation.
const COMPARED: &str = "range";

/// Measures, and returns the table.
pub(super) fn table(bench: &Bench, samples: u32) -> Result<String> {
    let context = bench.path("install");
    fs_err::create_dir(&context)?;
    let apt = "DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends";
    let dockerfile = format!(
        "FROM {}\nRUN apt-get update && {apt} -d {PACKAGES}\nARG SAMPLE\nRUN {apt} --no-download {PACKAGES}\n",
        bench.base
    );
    fs_err::write(context.join("Dockerfile"), dockerfile)?;
    let mut rows = RUNGS.map(|rung| (rung, Vec::new()));
    for sample in 0..=samples {
        for (rung, row) in &mut rows {
            let took = install(bench, rung, sample)?;
            // The first one downloads.
            if sample > 0 {
                row.push(took);
            }
        }
    }
    let rows = rows.map(|(rung, mut samples)| {
        samples.sort_unstable();
        (rung, median(&samples), samples[0])
    });
    let compared = rows.iter().find(|row| row.0 == COMPARED).map_or(Duration::MAX, |row| row.1).as_secs_f64();
    let mut table = format!(
        "| processor time of an installation | median, s | least, s | against {COMPARED} |\n|---|---|---|---|\n"
    );
    for (rung, median, least) in rows {
        let (median, least) = (median.as_secs_f64(), least.as_secs_f64());
        let more = (median / compared - 1.0) * 100.0;
        writeln!(table, "| rbuild, {rung} | {median:.2} | {least:.2} | {more:+.0} % |")?;
    }
    Ok(table)
}

/// The processor time of one build that installs, whatever was installed before.
fn install(bench: &Bench, rung: &str, sample: u32) -> Result<Duration> {
    let sample = format!("SAMPLE={sample}");
    let mut build = command(&bench.rbuild, ["--isolation", rung, "--quiet", "--build-arg", &sample, "-t", "install:1"]);
    build.arg(bench.path("install")).env("RBUILD_HOME", bench.path(&format!("home-{rung}")));
    let before = used()?;
    quiet(&mut build)?;
    Ok(used()?.saturating_sub(before))
}

/// The processor time of all children that have ended.
fn used() -> Result<Duration> {
    let usage = getrusage(UsageWho::RUSAGE_CHILDREN)?;
    let microseconds = usage.user_time().num_microseconds() + usage.system_time().num_microseconds();
    Ok(Duration::from_micros(u64::try_from(microseconds)?))
}
