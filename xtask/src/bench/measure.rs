//! What a sequence of commands costs: wall time, CPU time of the whole process tree, the largest resident set in it.
//!
//! The numbers are those of getrusage(2) for waited-for children, so every sample runs below a process of its own (`xtask measure`),
//! whose counters begin at zero. That process is a subreaper, prctl(2): a descendant that outlives its parent becomes its child and
//! is waited for too, so reaped grandchildren and daemons both count. Wall time ends when the last command does.
//!
//! Peak memory is the largest single process, not the sum of the tree. A command inherits the peak of the process that forked it, so
//! that about 5 MiB are the least that can be seen.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use nix::errno::Errno;
use nix::sys::prctl::set_child_subreaper;
use nix::sys::resource::{UsageWho, getrusage};
use nix::sys::time::TimeVal;
use nix::sys::wait::{WaitStatus, wait};
use nix::unistd::{Pid, Uid};
use serde::{Deserialize, Serialize};

use crate::command::{command, line, quiet, tail};
use crate::peers;

/// A command: the program and its arguments.
pub(crate) type Words = Vec<OsString>;

/// The cost of one build.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Sample {
    pub(crate) wall: Duration,
    /// User and system time.
    pub(crate) cpu: Duration,
    pub(crate) peak_kib: u64,
}

impl Sample {
    /// The median of each number by itself.
    ///
    /// # Panics
    /// If there are no samples; `-n` is at least 1.
    pub(crate) fn median(samples: &[Self]) -> Self {
        fn middle<T: Ord + Copy>(samples: &[Sample], number: impl Fn(&Sample) -> T) -> T {
            let mut numbers: Vec<T> = samples.iter().map(number).collect();
            numbers.sort_unstable();
            numbers[(numbers.len() - 1) / 2]
        }
        Self {
            wall: middle(samples, |sample| sample.wall),
            cpu: middle(samples, |sample| sample.cpu),
            peak_kib: middle(samples, |sample| sample.peak_kib),
        }
    }
}

/// What the measuring process is to do.
#[derive(Debug, Serialize, Deserialize)]
struct Task {
    commands: Vec<Words>,
    log: PathBuf,
    /// Where the sample is written.
    sample: PathBuf,
}

/// Runs the commands one after another in a measuring process.
pub(crate) fn sample(commands: &[Words], environment: &BTreeMap<&str, PathBuf>, log: &Path) -> Result<Sample> {
    let (task_file, sample_file) = (log.with_extension("task"), log.with_extension("sample"));
    let task = Task { commands: commands.to_vec(), log: log.to_owned(), sample: sample_file.clone() };
    fs_err::write(&task_file, serde_json::to_vec(&task)?)?;
    let program = std::env::current_exe().context("finding this program")?;
    quiet(command(program, ["measure"]).arg(&task_file).envs(environment))?;
    Ok(serde_json::from_slice(&fs_err::read(sample_file)?)?)
}

/// The measuring process.
pub(crate) fn child(task: &Path) -> Result<()> {
    let task: Task = serde_json::from_slice(&fs_err::read(task)?)?;
    set_child_subreaper(true).context("becoming a subreaper")?;
    if Uid::effective().is_root() {
        peers::enter_mount_namespace()?;
    }
    let begin = Instant::now();
    for words in &task.commands {
        run(words, &task.log)?;
    }
    let wall = begin.elapsed();
    while !matches!(wait(), Err(Errno::ECHILD)) {}
    let usage = getrusage(UsageWho::RUSAGE_CHILDREN).context("reading the resource usage")?;
    let cpu = duration(usage.user_time()) + duration(usage.system_time());
    let peak_kib = u64::try_from(usage.max_rss()).context("a negative resident set")?;
    fs_err::write(&task.sample, serde_json::to_vec(&Sample { wall, cpu, peak_kib })?)?;
    Ok(())
}

/// Runs one command and reaps whatever else ends in the meantime.
fn run(words: &Words, log: &Path) -> Result<()> {
    let (program, arguments) = words.split_first().context("an empty command")?;
    let output = fs_err::File::create(log)?;
    let mut command = command(program, arguments);
    command.stdin(Stdio::null()).stdout(output.try_clone()?.into_file()).stderr(output.into_file());
    let child = command.spawn().with_context(|| format!("starting `{}`", line(&command)))?;
    let child = Pid::from_raw(i32::try_from(child.id()).context("a process id beyond i32")?);
    let end = loop {
        match wait() {
            Ok(end) if end.pid() == Some(child) => break end,
            Ok(_) | Err(Errno::EINTR) => {}
            Err(error) => return Err(error).with_context(|| format!("waiting for `{}`", line(&command))),
        }
    };
    if end != WaitStatus::Exited(child, 0) {
        bail!("`{}` failed ({end:?}):\n{}", line(&command), tail(&fs_err::read_to_string(log)?));
    }
    Ok(())
}

fn duration(time: TimeVal) -> Duration {
    let micros = u64::try_from(time.tv_usec()).unwrap_or(0);
    Duration::from_secs(u64::try_from(time.tv_sec()).unwrap_or(0)) + Duration::from_micros(micros)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_is_taken_number_by_number() {
        let sample =
            |wall, cpu, peak_kib| Sample { wall: Duration::from_secs(wall), cpu: Duration::from_secs(cpu), peak_kib };
        assert_eq!(Sample::median(&[sample(9, 1, 5), sample(1, 2, 4), sample(2, 3, 9)]), sample(2, 2, 5));
        assert_eq!(Sample::median(&[sample(4, 1, 1), sample(3, 1, 1)]), sample(3, 1, 1));
    }
}
