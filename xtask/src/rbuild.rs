//! Compiling rbuild, and running it with a store of its own.

use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context, Result};
use serde_json::Value;

use crate::command::{command, line};
use crate::state::{State, environment, environment_names};

/// How rbuild is compiled.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Profile {
    Dev,
    Release,
}

/// A compiled rbuild.
#[derive(Debug)]
pub(crate) struct Rbuild {
    pub(crate) path: PathBuf,
}

impl Rbuild {
    /// Begins a command of rbuild whose store lies below the state directory.
    pub(crate) fn command(&self, state: &State) -> Result<Command> {
        let mut rbuild = command(&self.path, [""; 0]);
        rbuild.env("RBUILD_HOME", state.subdirectory("rbuild")?);
        Ok(rbuild)
    }
}

/// The cargo that runs this program.
pub(crate) fn cargo(state: &State) -> Command {
    let mut cargo = command(environment("CARGO").unwrap_or_else(|| "cargo".into()), [""; 0]);
    cargo.current_dir(&state.workspace);
    // What `cargo run` says about xtask would reach build scripts, some of which then compile their crates again.
    for name in environment_names() {
        if ["CARGO_PKG_", "CARGO_MANIFEST_"].iter().any(|prefix| name.as_encoded_bytes().starts_with(prefix.as_bytes()))
        {
            cargo.env_remove(name);
        }
    }
    cargo
}

/// Compiles rbuild; cargo says where the executable lies.
pub(crate) fn compile(state: &State, profile: Profile) -> Result<Rbuild> {
    let mut build = cargo(state);
    build.args(["build", "--package", "builder", "--bin", "rbuild", "--message-format", "json-render-diagnostics"]);
    if profile == Profile::Release {
        build.arg("--release");
    }
    // The messages of the compiler go to the terminal.
    let output = build
        .stderr(std::process::Stdio::inherit())
        .output()
        .with_context(|| format!("starting `{}`", line(&build)))?;
    anyhow::ensure!(output.status.success(), "`{}` failed ({})", line(&build), output.status);
    let path = executable(&String::from_utf8_lossy(&output.stdout)).context("cargo named no executable of rbuild")?;
    Ok(Rbuild { path })
}

/// Finds the executable in cargo's messages, one JSON object a line.
fn executable(messages: &str) -> Option<PathBuf> {
    messages.lines().find_map(|message| {
        let message: Value = serde_json::from_str(message).ok()?;
        let rbuild = message["target"]["name"] == "rbuild" && message["reason"] == "compiler-artifact";
        message["executable"].as_str().filter(|_| rbuild).map(PathBuf::from)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_executable_is_found_among_cargo_s_messages() {
        let messages = r#"{"reason":"compiler-artifact","target":{"name":"build-script-build"},"executable":"/t/b"}
{"reason":"compiler-artifact","target":{"name":"rbuild"},"executable":"/t/release/rbuild"}
{"reason":"build-finished","success":true}"#;
        assert_eq!(executable(messages), Some(PathBuf::from("/t/release/rbuild")));
        assert_eq!(executable(""), None);
    }
}
