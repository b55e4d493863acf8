//! What git knows of the directory that is built: the commit, and a description. Nothing where there is no repository,
//! no commit or no git.

use std::path::Path;
use std::process::{Command, Stdio};

/// The commit that is checked out.
pub fn sha(directory: &Path) -> Option<String> {
    git(directory, &["rev-parse", "HEAD"])
}

/// `build <commit> <subject>` of a tree without changes.
pub fn description(directory: &Path) -> Option<String> {
    git(directory, &["diff", "--quiet"])?;
    git(directory, &["log", "-n", "1", "--pretty=%h %s", "--abbrev=10"]).map(|subject| format!("build {subject}"))
}

/// What a git command says; none when it fails.
fn git(directory: &Path, arguments: &[&str]) -> Option<String> {
    let mut command = Command::new("git");
    command.arg("-C").arg(directory).args(arguments).stdin(Stdio::null()).stderr(Stdio::null());
    let output = command.output().ok().filter(|output| output.status.success())?;
    Some(String::from_utf8_lossy(&output.stdout).trim().to_owned())
}
