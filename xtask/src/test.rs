//! `cargo test --workspace`, told where the set-up put things.
//!
//! | variable             | value                                                             |
//! |----------------------|-------------------------------------------------------------------|
//! | RBUILD_TEST_REGISTRY | `127.0.0.1:PORT`; it holds the bases of [`crate::bases`]           |
//! | RBUILD_TEST_USER     | a plain user with 65536 subordinate uids and gids                 |
//! | RBUILD_SUITES        | conformance suites; the caller's own, else `../shared/suites`     |

use std::process::ExitCode;

use anyhow::{Context, Result};

use crate::command::line;
use crate::rbuild::{self, Profile};
use crate::setup::{self, Part};
use crate::state::{State, environment};
use crate::users::PLAIN_USER;

/// Sets up and runs the tests. The tests write last, and their exit code is ours.
pub(crate) fn run(state: &State, arguments: &[String]) -> Result<ExitCode> {
    let registry = setup::run(state, &[Part::Test], Profile::Dev)?;
    let mut tests = rbuild::cargo(state);
    tests.args(["test", "--workspace"]).args(arguments);
    tests.env("RBUILD_TEST_REGISTRY", registry.address()).env("RBUILD_TEST_USER", PLAIN_USER);
    let suites = state.source("../shared/suites");
    if environment("RBUILD_SUITES").is_none() && suites.is_dir() {
        tests.env("RBUILD_SUITES", suites);
    }
    let status = tests.status().with_context(|| format!("starting `{}`", line(&tests)))?;
    // A signal has no code; cargo's own codes fit into a byte.
    let code = status.code().and_then(|code| u8::try_from(code).ok()).unwrap_or(1);
    Ok(ExitCode::from(code))
}
