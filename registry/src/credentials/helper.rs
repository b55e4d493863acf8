//! Credential helpers: `docker-credential-<name> get`, as described at <https://github.com/docker/docker-credential-helpers>.
//!
//! A helper's name comes from a file and becomes part of a command, so it is checked; a helper's output is a secret, so
//! it is shown to nobody, not even when it makes no sense.

use std::io::{self, Read, Write};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use serde::Deserialize;

use super::{Credential, server_key};
use crate::Error;

/// Longest helper name; the known ones have up to 20 characters.
const NAME_LIMIT: usize = 64;
/// Largest output, in bytes; cloud tokens have a few thousand.
const OUTPUT_LIMIT: u64 = 64 * 1024;
/// Longest run; a helper that asks a cloud takes a second or two.
const TIME_LIMIT: Duration = Duration::from_secs(30);
/// What a helper prints when it knows the registry not: `credentials.NewErrCredentialsNotFound`.
const NOT_FOUND: &[u8] = b"credentials not found";

/// The user name that stands for an identity token in place of a password.
pub(super) const TOKEN_USER: &str = "<token>";

/// The checked name of a helper.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Helper(String);

impl Helper {
    pub(super) fn new(name: &str) -> Result<Self, String> {
        let is_plain = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.');
        let is_name = !name.is_empty()
            && name.len() <= NAME_LIMIT
            && name.bytes().all(is_plain)
            && name.bytes().next().is_some_and(|b| b.is_ascii_alphanumeric());
        if is_name {
            Ok(Self(name.to_owned()))
        } else {
            Err(format!("`{}` is not a credential helper's name", name.escape_default()))
        }
    }
}

impl Helper {
    /// The suffix of its program.
    pub(super) fn name(&self) -> &str {
        &self.0
    }

    fn command(&self) -> Command {
        Command::new(format!("docker-credential-{}", self.0))
    }

    fn failed(&self, registry: &str, problem: String) -> Error {
        Error::CredentialHelper { helper: self.0.clone(), host: registry.to_owned(), problem }
    }
}

#[derive(Deserialize)]
struct Output {
    #[serde(rename = "Username")]
    username: String,
    #[serde(rename = "Secret")]
    secret: String,
}

/// Asks a helper, found by `PATH`, for the credential of a registry; none if it has none.
pub(super) fn get(helper: &Helper, registry: &str) -> Result<Option<Credential>, Error> {
    run(helper.command(), registry).map_err(|problem| helper.failed(registry, problem))
}

/// Has a helper keep or forget a credential (`store`, `erase`).
pub(super) fn tell(helper: &Helper, verb: &str, registry: &str, input: &[u8]) -> Result<(), Error> {
    let told = call(helper.command(), verb, input)
        .and_then(|(status, _)| if status.success() { Ok(()) } else { Err(format!("`{verb}` ended with {status}")) });
    told.map_err(|problem| helper.failed(registry, problem))
}

/// Runs one helper command.
pub(super) fn run(command: Command, registry: &str) -> Result<Option<Credential>, String> {
    let (status, output) = call(command, "get", server_key(registry).as_bytes())?;
    if !status.success() {
        let text = output.trim_ascii();
        return if text.starts_with(NOT_FOUND) { Ok(None) } else { Err(format!("it ended with {status}")) };
    }
    let output: Output = serde_json::from_slice(&output).map_err(|_| "its output is not of the protocol".to_owned())?;
    Ok(Some(match output.username.as_str() {
        TOKEN_USER => Credential::IdentityToken(output.secret),
        _ => Credential::Password { username: output.username, password: output.secret },
    }))
}

/// Runs a helper with an input, and reads its whole output.
fn call(mut command: Command, verb: &str, input: &[u8]) -> Result<(ExitStatus, Vec<u8>), String> {
    command.arg(verb).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null());
    let mut child = command.spawn().map_err(|error| match error.kind() {
        io::ErrorKind::NotFound => "it is not in PATH".to_owned(),
        _ => format!("it does not start: {error}"),
    })?;
    let answer = ask(&mut child, input);
    if answer.is_err() {
        // It may be gone already; `wait` below reaps it either way.
        drop(child.kill());
    }
    answer.and_then(|output| Ok((finish(&mut child)?, output)))
}

/// Writes the input and reads the whole output.
fn ask(child: &mut Child, input: &[u8]) -> Result<Vec<u8>, String> {
    let (Some(mut stdin), Some(stdout)) = (child.stdin.take(), child.stdout.take()) else {
        return Err("it has no pipes".to_owned());
    };
    match stdin.write_all(input) {
        // A helper that knows its answer without asking may be gone already.
        Ok(()) => {}
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => {}
        Err(error) => return Err(format!("it cannot be written to: {error}")),
    }
    drop(stdin);
    let (sender, receiver) = mpsc::channel();
    // The thread outlives the helper only while something else holds the pipe open; then it ends with this process.
    thread::spawn(move || {
        let mut output = Vec::new();
        let result = stdout.take(OUTPUT_LIMIT + 1).read_to_end(&mut output).map(|_| output);
        // Nobody listens after the time limit.
        drop(sender.send(result));
    });
    let output = receiver
        .recv_timeout(TIME_LIMIT)
        .map_err(|_| format!("no answer within {} s", TIME_LIMIT.as_secs()))?
        .map_err(|error| format!("its output cannot be read: {error}"))?;
    if output.len() as u64 > OUTPUT_LIMIT {
        return Err(format!("its output is larger than {OUTPUT_LIMIT} bytes"));
    }
    Ok(output)
}

/// Waits for the end of a helper that has closed its output; one that lingers is killed.
fn finish(child: &mut Child) -> Result<ExitStatus, String> {
    let end = Instant::now() + Duration::from_secs(2);
    loop {
        match child.try_wait() {
            Ok(Some(status)) => return Ok(status),
            Ok(None) if Instant::now() < end => thread::sleep(Duration::from_millis(5)),
            Ok(None) => {
                child.kill().map_err(|error| format!("it does not end: {error}"))?;
                return child.wait().map_err(|error| format!("it does not end: {error}"));
            }
            Err(error) => return Err(format!("its end cannot be seen: {error}")),
        }
    }
}
