//! The command line of rbuild.

mod args;
mod commands;
mod report;
mod signals;
mod ui;

use std::panic::catch_unwind;
use std::process::ExitCode;

use clap::Parser;

fn main() -> ExitCode {
    // A step's init is this same program: it must not read arguments or start threads.
    if let Some(code) = builder::sandbox::init_if_child() {
        return code;
    }
    let arguments = std::env::args_os().skip(1).map(|word| word.to_string_lossy().into_owned());
    let cli = match args::Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => {
            let refused = commands::app::usage::refused(&error, &arguments.collect::<Vec<_>>());
            match refused.or_else(|| args::explained(&error).map(report::Failure::Usage)) {
                Some(failure) => return report::failure(&failure),
                None => error.exit(),
            }
        }
    };
    match catch_unwind(|| commands::run(cli)) {
        Ok(Ok(code)) => report::done(code),
        Ok(Err(failure)) => report::failure(&failure),
        Err(_) => report::bug(),
    }
}
