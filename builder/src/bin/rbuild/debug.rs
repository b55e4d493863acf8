//! `rbuild debug`: hidden; the parts of rbuild, one at a time, for its tests and for finding out what a machine does.

use std::ffi::OsString;
use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::Context;
use builder::sandbox::{Cancel, Executor, Mount, Network, Process, Root, Stream, doctor, enter};
use clap::{Parser, Subcommand};

#[derive(Parser)]
#[command(name = "rbuild")]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Hidden commands.
    Debug {
        #[command(subcommand)]
        command: Debug,
    },
}

#[derive(Subcommand)]
enum Debug {
    /// Runs one process in one root file system.
    Run(Box<Run>),
    /// Tells what the machine allows, with overlayfs tried in a directory.
    Doctor {
        /// An existing directory.
        directory: PathBuf,
    },
}

#[derive(clap::Args)]
struct Run {
    /// The rung; the highest that works if not given.
    #[arg(long)]
    rung: Option<String>,
    /// A layer underneath; the top one first.
    #[arg(long)]
    lower: Vec<PathBuf>,
    #[arg(long)]
    upper: PathBuf,
    #[arg(long)]
    work: PathBuf,
    /// NAME=VALUE.
    #[arg(long)]
    env: Vec<String>,
    #[arg(long, default_value = "/")]
    cwd: PathBuf,
    #[arg(long, default_value_t = 0)]
    uid: u32,
    #[arg(long, default_value_t = 0)]
    gid: u32,
    #[arg(long, value_delimiter = ',')]
    groups: Vec<u32>,
    #[arg(long, default_value = "step")]
    hostname: String,
    /// Give the step no network.
    #[arg(long)]
    no_network: bool,
    /// The text of standard input.
    #[arg(long)]
    stdin: Option<String>,
    /// SOURCE:TARGET, read-write.
    #[arg(long)]
    bind: Vec<String>,
    /// SOURCE:TARGET, read-only.
    #[arg(long)]
    bind_readonly: Vec<String>,
    #[arg(long)]
    tmpfs: Vec<PathBuf>,
    /// Cancel after so many milliseconds.
    #[arg(long)]
    cancel_after: Option<u64>,
    /// Run it so many times and tell the least and the median time.
    #[arg(long)]
    repeat: Option<usize>,
    /// Run it so many times at once, in the directories `0`, `1`, … of the upper and work directories.
    #[arg(long)]
    parallel: Option<usize>,
    #[arg(last = true)]
    argv: Vec<OsString>,
}

/// Runs `rbuild debug …`.
pub(crate) fn debug() -> anyhow::Result<ExitCode> {
    let Command::Debug { command } = Arguments::parse().command;
    match command {
        Debug::Run(run) => run.run(),
        Debug::Doctor { directory } => {
            writeln!(std::io::stdout(), "{:#?}", doctor(&directory))?;
            Ok(ExitCode::SUCCESS)
        }
    }
}

impl Run {
    fn run(&self) -> anyhow::Result<ExitCode> {
        let sandbox = enter(self.rung.as_deref())?;
        let cancel = Cancel::new()?;
        let root = Root { lowers: self.lower.clone(), upper: self.upper.clone(), work: self.work.clone() };
        let (process, mounts) = (self.process()?, self.mounts()?);
        if let Some(after) = self.cancel_after {
            let cancel = cancel.clone();
            std::thread::spawn(move || {
                std::thread::sleep(Duration::from_millis(after));
                cancel.cancel();
            });
        }
        let mut show = |stream, bytes: &[u8]| {
            let written = match stream {
                Stream::Stdout => std::io::stdout().write_all(bytes).and_then(|()| std::io::stdout().flush()),
                Stream::Stderr => std::io::stderr().write_all(bytes),
            };
            written.expect("the test reads what is written");
        };
        if let Some(count) = self.parallel {
            let codes: Vec<i32> = std::thread::scope(|scope| {
                let run = |number: usize| {
                    let (upper, work) = (self.upper.join(number.to_string()), self.work.join(number.to_string()));
                    let root = Root { upper, work, ..root.clone() };
                    let (sandbox, process, mounts, cancel) = (&sandbox, &process, &mounts, &cancel);
                    scope.spawn(move || sandbox.run(&root, process, mounts, cancel, &mut |_, _| ()))
                };
                let running: Vec<_> = (0..count).map(run).collect();
                running
                    .into_iter()
                    .map(|step| Ok(step.join().expect("a step does not panic")?.code))
                    .collect::<anyhow::Result<_>>()
            })?;
            return Ok(ExitCode::from(u8::try_from(codes.into_iter().max().unwrap_or_default())?));
        }
        let mut times = Vec::new();
        let mut code = 0;
        for _ in 0..self.repeat.unwrap_or(1) {
            let begun = Instant::now();
            code = sandbox.run(&root, &process, &mounts, &cancel, &mut show)?.code;
            times.push(begun.elapsed());
            if self.repeat.is_some() {
                fs_err::remove_dir_all(&self.work)?;
                fs_err::create_dir(&self.work)?;
            }
        }
        if self.repeat.is_some() {
            times.sort();
            writeln!(std::io::stderr(), "min {:?} median {:?}", times[0], times[times.len() / 2])?;
        }
        Ok(ExitCode::from(u8::try_from(code)?))
    }

    fn process(&self) -> anyhow::Result<Process> {
        let env = self.env.iter().map(|pair| pair.split_once('=').context("--env needs NAME=VALUE"));
        Ok(Process {
            argv: self.argv.clone(),
            env: env.map(|pair| pair.map(|(name, value)| (name.into(), value.into()))).collect::<Result<_, _>>()?,
            cwd: self.cwd.clone(),
            uid: self.uid,
            gid: self.gid,
            groups: self.groups.clone(),
            hostname: self.hostname.clone(),
            network: if self.no_network { Network::None } else { Network::Host },
            stdin: self.stdin.clone().map(String::into_bytes),
        })
    }

    fn mounts(&self) -> anyhow::Result<Vec<Mount>> {
        let mut mounts = Vec::new();
        for (pairs, readonly) in [(&self.bind, false), (&self.bind_readonly, true)] {
            for pair in pairs {
                let (source, target) = pair.split_once(':').context("a bind needs SOURCE:TARGET")?;
                mounts.push(Mount::Bind { source: source.into(), target: target.into(), readonly });
            }
        }
        mounts.extend(self.tmpfs.iter().map(|target| Mount::Tmpfs { target: target.clone(), size: Some(1 << 20) }));
        Ok(mounts)
    }
}
