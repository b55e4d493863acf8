//! The command line of rbuild.

mod debug;

use std::io::Write;
use std::process::ExitCode;

fn main() -> ExitCode {
    if let Some(code) = builder::sandbox::init_if_child() {
        return code;
    }
    debug::debug().unwrap_or_else(|error| {
        let told = writeln!(std::io::stderr(), "error: {error:#}");
        ExitCode::from(if told.is_ok() { 125 } else { 70 })
    })
}
