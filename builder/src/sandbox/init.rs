//! The life of a step's init.

use std::process::ExitCode;

/// Runs the init of a step if this process was spawned as one, and returns its exit code.
///
/// Must be the first statement of `main`: the init makes namespaces and forks, and must have one thread.
pub fn init_if_child() -> Option<ExitCode> {
    None
}
