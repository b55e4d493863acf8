//! The command line of rbuild.

mod args;
mod commands;
mod peers;
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
    let mut arguments = std::env::args_os();
    let program = arguments.next().unwrap_or_else(|| "rbuild".into());
    let arguments = peers::plain(arguments.collect());
    let cli = match args::Cli::try_parse_from(std::iter::once(&program).chain(&arguments)) {
        Ok(cli) => cli,
        Err(error) => {
            let words: Vec<String> = arguments.iter().map(|word| word.to_string_lossy().into_owned()).collect();
            let refused = commands::app::usage::refused(&error, &words);
            let refused = refused.or_else(|| peers::refused(&error, &words));
            match refused.or_else(|| args::explained(&error)) {
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
