//! Whole files: the public suites, our fixtures, a second parser, hostile input. What one function does is tested
//! beside it.

// mod differential;
mod fixtures;
// mod hostile;
mod suites;
// mod typed;

use std::path::PathBuf;

/// The root of the repository.
fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("..")
}
