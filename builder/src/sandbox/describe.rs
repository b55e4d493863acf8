//! What a step is: the root, the process and the extra mounts. Data only, and the trait that runs it.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use super::cancel::Cancel;
use super::error::SandboxError;
use super::settings::Settings;

/// The directories of one root file system.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Root {
    /// The layers underneath, top first. When there is none, `upper` itself is the root and holds no whiteouts.
    pub lowers: Vec<PathBuf>,
    /// Takes the changes of the step.
    pub upper: PathBuf,
    /// An empty directory for overlayfs alone, on the file system of `upper`; a new one for every step.
    pub work: PathBuf,
}

/// One process as the image sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Process {
    /// The program and its arguments; a program without `/` is looked up in the `PATH` of `env`.
    pub argv: Vec<OsString>,
    /// The whole environment: nothing is inherited.
    pub env: Vec<(OsString, OsString)>,
    /// The working directory, which must exist in the root.
    pub cwd: PathBuf,
    /// `name|uid[:group|gid]` by the root's own `/etc/passwd` and `/etc/group`; root when empty. `HOME` is set from
    /// there where `env` has none.
    pub user: String,
    /// The host name, which also goes into `/etc/hosts`.
    pub hostname: String,
    /// What of the network the step sees.
    pub network: Network,
    /// What it has as every step of its build.
    pub settings: Settings,
    /// The bytes of standard input; `None` is `/dev/null`.
    pub stdin: Option<Vec<u8>>,
}

/// What of the network a step sees.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub enum Network {
    /// The network namespace of rbuild.
    Host,
    /// A loopback interface and nothing else.
    None,
    /// A network namespace of its own with a way out, which slirp4netns(1) gives; the loopback addresses of the machine
    /// are out of reach.
    Private,
}

/// A mount of the step beside its root and the usual `/proc`, `/sys` and `/dev`.
///
/// Targets are paths of the image: symbolic links in them are followed beneath the root. What is missing of a target is
/// made, and is gone from the upper directory after the step.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Mount {
    /// A file or directory of the host.
    Bind {
        /// A path of the host without a symbolic link in any of its components: one that has any is refused, because
        /// it could be exchanged after it was checked (CVE-2024-23651).
        source: PathBuf,
        /// Where the step sees it.
        target: PathBuf,
        /// Refuses writes.
        readonly: bool,
    },
    /// An empty directory in memory.
    Tmpfs {
        /// Where the step sees it.
        target: PathBuf,
        /// Its limit in bytes; `None` is the kernel's default, half of the memory.
        size: Option<u64>,
        /// Refuses writes.
        readonly: bool,
    },
    /// A stack of layers as one tree, or a part of it.
    Layers {
        /// The layers, top first; none is an empty tree.
        lowers: Vec<PathBuf>,
        /// What takes the writes; without it there can be none.
        writes: Option<Writes>,
        /// What of the tree is mounted, relative to its root. It must have no link in it: one is refused.
        source: PathBuf,
        /// Where the step sees it.
        target: PathBuf,
    },
    /// A file in memory, read-only.
    File {
        /// Its bytes.
        content: Content,
        /// Where the step sees it.
        target: PathBuf,
        /// Its permissions; it can be executed only if they say so.
        mode: u32,
        /// Its owner, as the step sees it.
        uid: u32,
        /// Its group, as the step sees it.
        gid: u32,
    },
}

impl Mount {
    /// Where the step sees it.
    pub fn target(&self) -> &Path {
        match self {
            Self::Bind { target, .. }
            | Self::Tmpfs { target, .. }
            | Self::Layers { target, .. }
            | Self::File { target, .. } => target,
        }
    }
}

/// The directories that an overlay writes to, as in [`Root`].
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Writes {
    /// Takes the changes.
    pub upper: PathBuf,
    /// An empty directory for overlayfs alone, on the file system of `upper`.
    pub work: PathBuf,
}

/// The bytes of a file, which may be secret: they are not shown.
#[derive(Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Content(pub Vec<u8>);

impl std::fmt::Debug for Content {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(formatter, "Content({} bytes)", self.0.len())
    }
}

/// Which of its two outputs a step wrote to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stream {
    /// Descriptor 1.
    Stdout,
    /// Descriptor 2.
    Stderr,
}

/// How the process of a step ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ExitStatus {
    /// Its exit code; 128 + n after signal n; 127 when the program was not found and 126 when it could not be
    /// executed, as Docker has it.
    pub code: i32,
    /// While the process ran, the kernel killed one on this machine for want of memory, and this one did not end well.
    pub out_of_memory: bool,
}

impl ExitStatus {
    /// Tells whether the code is 0.
    pub fn success(self) -> bool {
        self.code == 0
    }
}

/// Runs steps.
pub trait Executor: Sync {
    /// Tells whether it can stack layers. Otherwise a root must be a whole tree (no lowers), no mount may be of
    /// [layers](Mount::Layers), and the sources of binds, which are moved into the tree and back, must be on its file
    /// system and in use by nobody else.
    fn stacks_layers(&self) -> bool;

    /// Prepares for the first process what takes a while. What fails here fails there again, and is reported then.
    fn warm(&self) {}

    /// Learns that so many more processes are to come, if all goes well: while one runs, what the next one needs is
    /// prepared.
    fn expect(&self, _processes: usize) {}

    /// Runs `process` in `root` and hands over its output as it comes. Returns when the process has ended and everything
    /// that it started is dead. Nothing can reach what was mounted for it; the kernel is done with it before the next
    /// process begins, and before the executor is gone. A command that fails is not an `Err`.
    fn run(
        &self,
        root: &Root,
        process: &Process,
        mounts: &[Mount],
        cancel: &Cancel,
        output: &mut dyn FnMut(Stream, &[u8]),
    ) -> Result<ExitStatus, SandboxError>;
}
