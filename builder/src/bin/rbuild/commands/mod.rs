//! One module a command.

pub(crate) mod app;
pub(crate) mod build;
pub(crate) mod cache;
pub(crate) mod caching;
pub(crate) mod call;
pub(crate) mod copy;
pub(crate) mod debug;
mod doctor;
mod grants;
pub(crate) mod images;
pub(crate) mod inspect;
pub(crate) mod isolation;
mod key_agent;
pub(crate) mod login;
mod proxies;
pub(crate) mod registries;
pub(crate) mod settings;

use std::io;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::Context;
use builder::sandbox::Sandbox;

use crate::args::{Cli, Command};
use crate::report::Failure;

/// Runs what the arguments say.
pub(crate) fn run(cli: Cli) -> Result<ExitCode, Failure> {
    match cli.command {
        None => return build::run(&cli.build),
        Some(Command::Build(args)) => return build::run(&args),
        Some(Command::Deploy(args)) => app::build::deploy(&args),
        Some(Command::Builds(args)) => app::builds::run(&args),
        Some(Command::Releases(args)) => app::releases::run(&args),
        Some(Command::Env(args)) => app::environment::run(&args),
        Some(Command::Registries(args)) => app::racks::registries(&args),
        Some(Command::Rack(args)) => app::racks::rack(&args),
        Some(Command::Apps(args)) => app::racks::apps(&args),
        Some(Command::Run(args)) => return app::run::run(&args),
        Some(Command::Images(args)) => images::run(&args),
        Some(Command::Copy(args)) => copy::copy(&args),
        Some(Command::Push(args)) => copy::push(&args),
        Some(Command::Pull(args)) => copy::pull(&args),
        Some(Command::Inspect(args)) => inspect::inspect(&args),
        Some(Command::Login(args)) => login::login(&args),
        Some(Command::Logout(args)) => login::logout(&args),
        Some(Command::Tags(args)) => inspect::tags(&args),
        Some(Command::Cache(command)) => return cache::run(&command),
        Some(Command::Prune(args)) => cache::run_prune(&args),
        Some(Command::Doctor) => doctor::run(),
        Some(Command::Debug(command)) => return debug::run(&command),
    }?;
    Ok(ExitCode::SUCCESS)
}

/// The state directory.
fn home() -> Result<PathBuf, Failure> {
    let home = builder::paths::home();
    home.ok_or_else(|| Failure::Usage("set RBUILD_HOME or HOME: rbuild does not know where to keep its state".into()))
}

fn make_home(home: &Path) -> Result<(), Failure> {
    // What cannot be looked at seems to exist to whoever makes it: the reason is the other error.
    let made = match fs_err::metadata(home) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => fs_err::create_dir_all(home),
    };
    made.context("cannot make the state directory").map_err(Failure::Environment)
}

/// Steps onto the highest rung; no thread may run yet.
fn enter() -> Result<Sandbox, Failure> {
    isolation::IsolationArgs::default().enter()
}
