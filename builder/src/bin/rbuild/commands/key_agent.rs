//! An ssh agent for the keys of `--ssh NAME=KEY`: OpenSSH's own, which knows every kind of key.

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};

use anyhow::{Context, bail};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tempfile::TempDir;

/// What the agent lives for: says who the agent is, and ends when its standard input does, however rbuild ends.
const COMPANION: &str = "echo \"$SSH_AGENT_PID\" && exec cat >/dev/null";

/// A running agent; ends with the value.
#[derive(Debug)]
pub(crate) struct KeyAgent {
    directory: TempDir,
    agent: Pid,
    companion: Child,
    /// Closed when the agent shall end.
    input: Option<ChildStdin>,
}

impl KeyAgent {
    /// Starts an agent that has the keys.
    pub(crate) fn start(keys: &[PathBuf]) -> Result<Self, anyhow::Error> {
        let directory = tempfile::Builder::new().prefix("rbuild-agent-").tempdir()?;
        let mut companion = Command::new("ssh-agent")
            .arg("-a")
            .arg(directory.path().join("socket"))
            .args(["sh", "-c", COMPANION])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .context("cannot run `ssh-agent`: install it (Debian: apt-get install openssh-client)")?;
        let (input, mut line) = (companion.stdin.take(), String::new());
        let output = companion.stdout.take().context("the agent has no output")?;
        BufReader::new(output).read_line(&mut line).context("the agent does not answer")?;
        let Ok(agent) = line.trim().parse().map(Pid::from_raw) else { bail!("`ssh-agent` does not start") };
        let agent = Self { directory, agent, companion, input };
        keys.iter().try_for_each(|key| agent.add(key))?;
        Ok(agent)
    }

    /// The agent's socket.
    pub(crate) fn socket(&self) -> PathBuf {
        self.directory.path().join("socket")
    }

    /// Hands a key over as `ssh-add` reads it from a pipe: neither its mode nor its owner matters then.
    fn add(&self, key: &Path) -> Result<(), anyhow::Error> {
        let shown = key.display();
        let file = fs_err::File::open(key).with_context(|| format!("cannot read the ssh key `{shown}`"))?;
        let output = Command::new("ssh-add")
            .args(["-q", "-"])
            .env("SSH_AUTH_SOCK", self.socket())
            // Nobody is asked for a passphrase.
            .env("SSH_ASKPASS_REQUIRE", "force")
            .env("SSH_ASKPASS", "false")
            .stdin(Stdio::from(file.into_parts().0))
            .output()
            .context("cannot run `ssh-add`: install it (Debian: apt-get install openssh-client)")?;
        if output.status.success() {
            return Ok(());
        }
        let said = String::from_utf8_lossy(&output.stderr).trim().to_owned();
        let why = if said.is_empty() { "it has a passphrase, or is no private key".to_owned() } else { said };
        bail!("cannot load the ssh key `{shown}`: {why}; a key with a passphrase has to be in an agent of yours")
    }
}

impl Drop for KeyAgent {
    fn drop(&mut self) {
        // It lives as long as its companion, so the id is its own.
        kill(self.agent, Signal::SIGTERM).ok();
        drop(self.input.take());
        self.companion.wait().ok();
    }
}
