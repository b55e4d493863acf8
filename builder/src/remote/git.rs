//! Git repositories, through the `git` program: which commit a ref is, and that commit's files.
//!
//! git runs with an environment of its own: no configuration of the user or the system, no prompts, no hooks, and no
//! protocol that reads this machine's files (CVE-2022-39253).

use std::io;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::Duration;

use rustix::fs::{AtFlags, CWD, Timespec, Timestamps};
use rustix::process::{Pid, Signal, kill_process_group};
use snapshot::{Store, TempDirectory};

use crate::context::{ContextError, Ignore, LocalContext};
use crate::paths;

use super::access::{Access, SecretError};
use super::location::{GitSource, Times, is_commit, shown};
use super::waiting::{Waited, receive, start};

/// The variables of the caller that git gets: to find itself, to speak through a proxy, and for ssh's keys.
const PASSED: [&str; 9] = [
    "PATH",
    "HOME",
    "SSH_AUTH_SOCK",
    "http_proxy",
    "https_proxy",
    "HTTPS_PROXY",
    "no_proxy",
    "NO_PROXY",
    "GIT_SSL_CAINFO",
];

/// How git reaches servers by ssh, unless the caller's own `GIT_SSH_COMMAND` says it: never by asking.
const SSH: (&str, &str) = ("GIT_SSH_COMMAND", "ssh -oBatchMode=yes");

/// What ssh says when it is refused, and what to do.
const ADVICE: [(&str, &str); 2] = [
    ("Host key verification failed", "add the host's key to ~/.ssh/known_hosts: `ssh-keyscan HOST` shows it"),
    (
        "Permission denied (publickey",
        "give rbuild a key that the host takes: `--ssh default=FILE`, or `--ssh default` for an agent",
    ),
];

/// How long a killed git may take to be gone.
const KILLED: Duration = Duration::from_secs(2);

/// All branches and tags, for a fetch.
const EVERYTHING: [&str; 2] = ["+refs/heads/*:refs/remotes/origin/*", "+refs/tags/*:refs/tags/*"];

/// The most of git's own words that an error shows, in bytes.
const SHOWN: usize = 2000;

/// Why a repository could not be read.
#[derive(Debug, thiserror::Error)]
pub enum GitError {
    /// There is no git, or it cannot be run.
    #[error("cannot run `git`, which reads `{source_name}`: install it (Debian: apt-get install git)")]
    Run {
        /// What was to be read.
        source_name: String,
        /// Why.
        source: io::Error,
    },
    /// git failed.
    #[error("git cannot read `{source_name}`: {message}")]
    Failed {
        /// What was to be read.
        source_name: String,
        /// What git says.
        message: String,
    },
    /// No branch or tag of this name.
    #[error("`{source_name}` has no ref `{reference}`")]
    NoReference {
        /// The repository.
        source_name: String,
        /// The ref.
        reference: String,
    },
    /// Another commit than the one that was required.
    #[error("`{source_name}` is commit {found}, not {expected}")]
    Checksum {
        /// The repository and ref.
        source_name: String,
        /// What was required.
        expected: String,
        /// What it is.
        found: String,
    },
    /// A secret for the server.
    #[error(transparent)]
    Secret(#[from] SecretError),
    /// The build was cancelled.
    #[error("the build was cancelled")]
    Cancelled,
    /// The files of a commit could not be put in place.
    #[error("cannot prepare the files of `{source_name}`")]
    Files {
        /// The repository.
        source_name: String,
        /// Why.
        source: io::Error,
    },
    /// The directory in the repository.
    #[error("cannot use the directory `{subdir}` of `{source_name}`")]
    Subdir {
        /// The repository.
        source_name: String,
        /// The directory.
        subdir: String,
        /// Why.
        source: ContextError,
    },
}

/// The files of a commit, for as long as this lives.
#[derive(Debug)]
pub struct Checkout {
    /// When the commit was made, in seconds since 1970.
    pub made: Option<i64>,
    directory: PathBuf,
    _scratch: TempDirectory,
}

impl Checkout {
    /// The directory that the source names.
    pub fn path(&self) -> &Path {
        &self.directory
    }
}

/// Finds the commit of a source: a whole commit is itself, a branch goes before a tag of the same name, and what is
/// neither may be the beginning of a commit.
pub(super) fn resolve(access: &Access, store: &Store, source: &GitSource) -> Result<String, GitError> {
    let commit = match &source.reference {
        _ if source.by_commit => source.checksum.clone().unwrap_or_default(),
        Some(reference) if is_commit(reference) => reference.to_ascii_lowercase(),
        reference => {
            let wanted = reference.as_deref().unwrap_or("HEAD");
            let git = Git { access, source, directory: None };
            let listed = git.run(&["ls-remote", "--", &source.remote, wanted, &format!("{wanted}^{{}}")])?;
            match choose(&listed, wanted) {
                Some(commit) => commit,
                None => complete(access, store, source, wanted)?,
            }
        }
    };
    match &source.checksum {
        Some(expected) if !commit.starts_with(expected.as_str()) => {
            Err(GitError::Checksum { source_name: source.to_string(), expected: expected.clone(), found: commit })
        }
        _ => Ok(commit),
    }
}

/// The commit that begins with `wanted`, for which the history is fetched; servers know whole commits alone.
fn complete(access: &Access, store: &Store, source: &GitSource, wanted: &str) -> Result<String, GitError> {
    let unknown = || GitError::NoReference { source_name: shown(&source.remote), reference: wanted.to_owned() };
    if wanted.len() < 7 || !wanted.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        return Err(unknown());
    }
    let failed = |error: io::Error| GitError::Files { source_name: shown(&source.remote), source: error };
    let scratch = store.scratch().map_err(io::Error::other).map_err(failed)?;
    let git = Git { access, source, directory: Some(scratch.path()) };
    git.run(&["init", "-q", "--bare", "--template=", "."])?;
    git.run(&["fetch", "-q", "--filter=blob:none", "--", &source.remote, EVERYTHING[0], EVERYTHING[1]])?;
    let found = git.run(&["rev-parse", "--verify", "--quiet", &format!("{wanted}^{{commit}}")]);
    let found = found.map_err(|error| if matches!(error, GitError::Cancelled) { error } else { unknown() })?;
    Ok(found.trim().to_owned())
}

/// The commit among the lines of `git ls-remote`; an annotated tag is peeled.
fn choose(listed: &str, wanted: &str) -> Option<String> {
    let lines: Vec<(&str, &str)> = listed.lines().filter_map(|line| line.split_once('\t')).collect();
    let names =
        [wanted.to_owned(), format!("refs/heads/{wanted}"), format!("refs/tags/{wanted}"), format!("refs/{wanted}")];
    names.iter().find_map(|name| {
        let peeled = format!("{name}^{{}}");
        let found = |name: &str| lines.iter().find(|(_, listed)| *listed == name).map(|(commit, _)| *commit);
        found(&peeled).or_else(|| found(name)).filter(|commit| is_commit(commit)).map(str::to_owned)
    })
}

/// Fetches the files of `commit`. They carry the commit's time, unless the source says otherwise, and the modes 0644 and
/// 0755, whatever the umask.
pub(super) fn checkout(access: &Access, store: &Store, source: &GitSource, commit: &str) -> Result<Checkout, GitError> {
    let failed = |error: io::Error| GitError::Files { source_name: shown(&source.remote), source: error };
    let scratch = store.scratch().map_err(io::Error::other).map_err(failed)?;
    let top = scratch.path().join("tree");
    fs_err::create_dir(&top).map_err(failed)?;
    let git = Git { access, source, directory: Some(&top) };
    fetch(&git, commit)?;
    git.run(&["-c", "advice.detachedHead=false", "checkout", "-q", "--force", "--detach", commit])?;
    if source.submodules && top.join(".gitmodules").is_file() {
        git.run(&["submodule", "--quiet", "update", "--init", "--recursive", "--depth=1"])?;
    }
    let made = git.run(&["show", "-s", "--format=%ct", "HEAD"])?.trim().parse().ok();
    if !source.keep_git_dir {
        remove_git_dirs(&top).map_err(failed)?;
    }
    settle(&top, made.filter(|_| source.times == Times::Commit)).map_err(failed)?;
    let directory = match &source.subdir {
        Some(subdir) => beneath(&top, subdir).map_err(|error| GitError::Subdir {
            source_name: shown(&source.remote),
            subdir: subdir.clone(),
            source: error,
        })?,
        None => top,
    };
    Ok(Checkout { made, directory, _scratch: scratch })
}

/// Makes a repository that has `commit`.
fn fetch(git: &Git<'_>, commit: &str) -> Result<(), GitError> {
    let remote = &git.source.remote;
    let object_format = if commit.len() == 64 { "--object-format=sha256" } else { "--object-format=sha1" };
    git.run(&["init", "-q", object_format, "--template=", "."])?;
    git.run(&["remote", "add", "--", "origin", &shown(remote)])?;
    match git.run(&["fetch", "-q", "--depth=1", "--no-tags", "--", remote, commit]) {
        // Servers may refuse a commit by its name, and plain file servers cannot give part of a history.
        Err(GitError::Failed { .. }) => {
            git.run(&["fetch", "-q", "--no-tags", "--", remote, EVERYTHING[0], EVERYTHING[1]])?;
        }
        fetched => drop(fetched?),
    }
    Ok(())
}

/// The directory `subdir`, whose links lead nowhere out of `top`.
fn beneath(top: &Path, subdir: &str) -> Result<PathBuf, ContextError> {
    let context = LocalContext::open(top, Ignore::default())?;
    let found = context.directory(subdir)?;
    Ok(top.join(found))
}

/// git for one source, in a directory.
struct Git<'a> {
    access: &'a Access,
    source: &'a GitSource,
    directory: Option<&'a Path>,
}

impl Git<'_> {
    /// Runs git and returns what it prints.
    fn run(&self, arguments: &[&str]) -> Result<String, GitError> {
        let mut command = Command::new("git");
        command.env_clear().envs(self.environment()?);
        command.args([
            "-c",
            "core.hooksPath=/dev/null",
            "-c",
            "core.symlinks=true",
            "-c",
            "http.followRedirects=initial",
        ]);
        command.args(arguments).current_dir(self.directory.unwrap_or(Path::new("/")));
        let output = self.wait(&mut command)?;
        if output.status.success() {
            return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
        }
        let remote = &self.source.remote;
        let said = String::from_utf8_lossy(&output.stderr).replace(remote, &shown(remote));
        let mut message: String = said.trim().chars().take(SHOWN).collect();
        for (_, advice) in ADVICE.iter().filter(|(refusal, _)| said.contains(refusal)) {
            message.extend(["\n", advice]);
        }
        Err(GitError::Failed { source_name: self.source.to_string(), message })
    }

    /// The variables that git sees. A secret is among them, and so in no list of processes that others can read.
    fn environment(&self) -> Result<Vec<(String, String)>, SecretError> {
        let passed = PASSED.iter().filter_map(|name| paths::variable(name).map(|value| (*name, value)));
        let mut variables: Vec<(String, String)> = passed.map(|(name, value)| (name.to_owned(), value)).collect();
        let ssh = paths::variable(SSH.0);
        let mut set = |name: &str, value: &str| variables.push((name.to_owned(), value.to_owned()));
        for (name, value) in [
            ("GIT_CONFIG_NOSYSTEM", "1"),
            ("GIT_CONFIG_GLOBAL", "/dev/null"),
            ("GIT_TERMINAL_PROMPT", "0"),
            ("GIT_ASKPASS", "true"),
            ("GIT_ALLOW_PROTOCOL", "http:https:ssh:git"),
            (SSH.0, ssh.as_deref().unwrap_or(SSH.1)),
            ("GIT_HTTP_LOW_SPEED_LIMIT", "1000"),
            ("GIT_HTTP_LOW_SPEED_TIME", "60"),
            ("LC_ALL", "C.UTF-8"),
        ] {
            set(name, value);
        }
        // The authorities that rbuild's own client trusts instead of the system's.
        if let Some(file) = paths::variable("SSL_CERT_FILE") {
            set("GIT_SSL_CAINFO", &file);
        }
        if let Some(agent) = self.access.agent.as_ref().and_then(|agent| agent.to_str()) {
            set("SSH_AUTH_SOCK", agent);
        }
        if let Some((key, value)) = self.access.git(&self.source.remote)? {
            set("GIT_CONFIG_COUNT", "1");
            set("GIT_CONFIG_KEY_0", &key);
            set("GIT_CONFIG_VALUE_0", &value);
        }
        Ok(variables)
    }

    /// Waits for git, which has a process group of its own: when the build is cancelled, all of it is killed.
    fn wait(&self, command: &mut Command) -> Result<Output, GitError> {
        let failed = |error| GitError::Run { source_name: shown(&self.source.remote), source: error };
        command.process_group(0).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let child = command.spawn().map_err(failed)?;
        let group = Pid::from_child(&child);
        let ended = start(move || child.wait_with_output()).map_err(failed)?;
        match receive(&ended, &self.access.cancel) {
            Waited::Ready(output) => output.map_err(failed),
            Waited::Ended => Err(failed(io::ErrorKind::BrokenPipe.into())),
            Waited::Cancelled => {
                // It may have ended by itself, and is gone when its output has.
                kill_process_group(group, Signal::KILL).ok();
                drop(ended.recv_timeout(KILLED));
                Err(GitError::Cancelled)
            }
        }
    }
}

/// Removes `.git` of the repository and of its submodules.
fn remove_git_dirs(directory: &Path) -> io::Result<()> {
    for entry in fs_err::read_dir(directory)? {
        let entry = entry?;
        let is_directory = entry.file_type()?.is_dir();
        match (entry.file_name() == ".git", is_directory) {
            (true, true) => fs_err::remove_dir_all(entry.path())?,
            (true, false) => fs_err::remove_file(entry.path())?,
            (false, true) => remove_git_dirs(&entry.path())?,
            (false, false) => {}
        }
    }
    Ok(())
}

/// Gives everything below a directory, and itself, git's own modes and one time, if there is one.
fn settle(directory: &Path, seconds: Option<i64>) -> io::Result<()> {
    use std::os::unix::fs::PermissionsExt;
    for entry in fs_err::read_dir(directory)? {
        let entry = entry?;
        let kind = entry.file_type()?;
        if kind.is_dir() {
            settle(&entry.path(), seconds)?;
            continue;
        }
        if kind.is_file() {
            let mode = if entry.metadata()?.permissions().mode() & 0o100 == 0 { 0o644 } else { 0o755 };
            fs_err::set_permissions(entry.path(), PermissionsExt::from_mode(mode))?;
        }
        set_time(&entry.path(), seconds)?;
    }
    fs_err::set_permissions(directory, PermissionsExt::from_mode(0o755))?;
    set_time(directory, seconds)
}

fn set_time(path: &Path, seconds: Option<i64>) -> io::Result<()> {
    let Some(seconds) = seconds else { return Ok(()) };
    let time = Timespec { tv_sec: seconds, tv_nsec: 0 };
    let times = Timestamps { last_access: time, last_modification: time };
    Ok(rustix::fs::utimensat(CWD, path, &times, AtFlags::SYMLINK_NOFOLLOW)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refs_are_chosen_as_checkout_does() {
        let (one, two, three) = ("1".repeat(40), "2".repeat(40), "3".repeat(40));
        let listed = format!(
            "{one}\trefs/tags/x\n{two}\trefs/tags/x^{{}}\n{three}\trefs/heads/y\n{one}\trefs/tags/y\n{one}\tHEAD\n"
        );
        assert_eq!(choose(&listed, "x"), Some(two.clone()));
        assert_eq!(choose(&listed, "refs/tags/x"), Some(two));
        assert_eq!(choose(&listed, "y"), Some(three));
        assert_eq!(choose(&listed, "HEAD"), Some(one));
        assert_eq!(choose(&listed, "z"), None);
        assert_eq!(choose("not a commit\trefs/heads/z\n", "z"), None);
    }
}
