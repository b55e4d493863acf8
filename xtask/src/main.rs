//! Chores of the project: `cargo xtask setup|demo|test|bench|steps|compare|stop`.
//!
//! Here live the arguments alone. Everything that is set up goes below one state directory ([`state`]), nothing below the
//! user's home, and a piece that is finished is not made again.

mod apt;
mod bases;
mod bench;
mod command;
mod compare;
mod debian;
mod demo;
mod demo_app;
mod peers;
mod rbuild;
mod registry;
mod setup;
mod state;
mod steps;
mod test;
mod users;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, Subcommand};

use crate::rbuild::Profile;
use crate::setup::Part;
use crate::state::State;

/// Sets the machine up for rbuild, and runs the demo, the tests and the benchmarks on it.
#[derive(Debug, Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask", max_term_width = 100)]
struct Arguments {
    #[command(subcommand)]
    chore: Chore,
}

#[derive(Debug, Subcommand)]
enum Chore {
    /// Install what is missing, make the base images, start the registry on loopback
    Setup,
    /// Set up, build fixtures/hello with a release build of rbuild, push it and run it
    Demo {
        /// Build fixtures/apps/shop instead, an app of several services, and fetch its page
        #[arg(long)]
        app: bool,
    },
    /// Set up, then run `cargo test --workspace`
    Test {
        /// Passed to `cargo test` as they are
        #[arg(last = true)]
        arguments: Vec<String>,
    },
    /// Compare rbuild with Debian's buildah: wall time, CPU time and peak memory
    Bench(bench::Arguments),
    /// Measure what a step costs on every rung, beside crun and Debian's buildah
    Steps(steps::Arguments),
    /// Compare what rbuild and Debian's buildah make of cases of fixtures/builds
    Compare(compare::Arguments),
    /// Stop the registry that the set-up started
    Stop,
    /// Run commands and write down what they cost (the bench calls this, once a sample)
    #[command(hide = true)]
    Measure {
        /// The task, a JSON file
        task: PathBuf,
    },
}

fn main() -> ExitCode {
    match run(Arguments::parse().chore) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(chore: Chore) -> anyhow::Result<ExitCode> {
    let state = State::open()?;
    match chore {
        Chore::Setup => {
            setup::run(&state, &Part::ALL, Profile::Release)?;
        }
        Chore::Demo { app: false } => demo::run(&state)?,
        Chore::Demo { app: true } => demo_app::run(&state)?,
        Chore::Test { arguments } => return test::run(&state, &arguments),
        Chore::Bench(arguments) => bench::run(&state, &arguments)?,
        Chore::Steps(arguments) => steps::run(&state, &arguments)?,
        Chore::Compare(arguments) => compare::run(&state, &arguments)?,
        Chore::Stop => registry::stop(&state)?,
        Chore::Measure { task } => bench::measure::child(&task)?,
    }
    Ok(ExitCode::SUCCESS)
}
