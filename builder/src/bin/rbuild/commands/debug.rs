//! `rbuild debug`: hidden; the parts of rbuild, one at a time, for its tests and for finding out what a machine does.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::Context;
use builder::build::BuildError;
use builder::sandbox::{Cancel, Executor, Mount, Network, Process, Root, Settings, Stream, doctor, enter};

use crate::report::{Dockerfile, Failure};
use crate::ui;

/// `rbuild debug`.
#[derive(Debug, clap::Subcommand)]
pub(crate) enum DebugCommand {
    /// Print the syntax tree of a Dockerfile
    Ast {
        /// The Dockerfile
        file: PathBuf,
    },
    /// Tell what the machine allows, with overlayfs tried in a directory
    Doctor {
        /// An existing directory
        directory: PathBuf,
    },
    /// Run one process in one root file system
    Run(Box<Run>),
}

/// `rbuild debug run`.
#[derive(Debug, clap::Args)]
pub(crate) struct Run {
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
    #[arg(long, default_value = "")]
    user: String,
    #[arg(long, default_value = "step")]
    hostname: String,
    /// Give the step no network.
    #[arg(long, conflicts_with = "private_network")]
    no_network: bool,
    /// Give the step a network of its own with a way out.
    #[arg(long)]
    private_network: bool,
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

/// Runs a part of rbuild; the exit code is its own.
pub(crate) fn run(command: &DebugCommand) -> Result<ExitCode, Failure> {
    match command {
        DebugCommand::Ast { file } => ast(file)?,
        DebugCommand::Doctor { directory } => ui::print(&format!("{:#?}\n", doctor(directory))),
        DebugCommand::Run(run) => return run.run().map_err(Failure::Sandbox),
    }
    Ok(ExitCode::SUCCESS)
}

fn ast(file: &Path) -> Result<(), Failure> {
    let bytes = fs_err::read(file).context("cannot read the Dockerfile")?;
    let tree = builder::dockerfile::parse_tree(&bytes).map_err(|errors| {
        let (name, text) = (file.display().to_string(), String::from_utf8_lossy(&bytes).into_owned());
        Failure::Build {
            error: Box::new(BuildError::Parse(errors)),
            dockerfile: Dockerfile { name, text },
            is_told: true,
        }
    })?;
    ui::print(&tree.to_sexpr());
    Ok(())
}

impl Run {
    fn run(&self) -> anyhow::Result<ExitCode> {
        let sandbox = enter(self.rung.as_deref(), None, self.upper.parent().unwrap_or(Path::new("/")))?;
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
            ui::pass_on(stream == Stream::Stderr, bytes);
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
            ui::note(&format!("min {:?} median {:?}", times[0], times[times.len() / 2]));
        }
        Ok(ExitCode::from(u8::try_from(code)?))
    }

    fn process(&self) -> anyhow::Result<Process> {
        let env = self.env.iter().map(|pair| pair.split_once('=').context("--env needs NAME=VALUE"));
        Ok(Process {
            argv: self.argv.clone(),
            env: env.map(|pair| pair.map(|(name, value)| (name.into(), value.into()))).collect::<Result<_, _>>()?,
            cwd: self.cwd.clone(),
            user: self.user.clone(),
            hostname: self.hostname.clone(),
            network: match (self.no_network, self.private_network) {
                (true, _) => Network::None,
                (_, true) => Network::Private,
                _ => Network::Host,
            },
            settings: Settings::default(),
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
        mounts.extend(self.tmpfs.iter().map(|target| Mount::Tmpfs {
            target: target.clone(),
            size: Some(1 << 20),
            readonly: false,
        }));
        Ok(mounts)
    }
}
