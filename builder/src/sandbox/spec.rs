//! What goes between `run` and a step's init: the specification one way, reports the other. JSON, because both ends are
//! the same program and neither is on disk; paths and arguments are any bytes.

use std::ffi::OsString;
use std::io;
use std::path::{Path, PathBuf};

use rustix::fs::{Statx, StatxTimestamp};
use serde::{Deserialize, Serialize};

use super::cgroup::Group;
use super::describe::{Content, Mount, Network, Process, Root};
use super::emulate::RootEmulation;
use super::error::SandboxError;
use super::settings::Settings;

/// The name that makes a process the init of a step.
pub(super) const INIT: &str = "rbuild-init";

/// Everything that the init must know. The bytes of standard input come on a descriptor of their own.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Spec {
    #[serde(with = "texts")]
    pub(super) lowers: Vec<OsString>,
    pub(super) upper: OsString,
    pub(super) work: OsString,
    pub(super) argv: Vec<OsString>,
    pub(super) env: Vec<(OsString, OsString)>,
    pub(super) cwd: OsString,
    pub(super) user: String,
    pub(super) hostname: String,
    pub(super) network: Network,
    pub(super) settings: Settings,
    /// The cgroup that the step is in, if it has one of its own.
    pub(super) group: Option<OsString>,
    pub(super) mounts: Vec<ExtraMount>,
    pub(super) ground: Ground,
}

/// What is known of a step before it comes: enough to make its namespaces, and all of its root that is not in its layers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Frame {
    pub(super) ground: Ground,
    pub(super) network: Network,
    /// The size of its `/dev/shm`, in bytes.
    pub(super) shm_size: Option<u64>,
    /// The cgroup that it is in, if it has one of its own.
    pub(super) group: Option<OsString>,
}

/// What the machine made of a rung when it was tried.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Ground {
    /// Where overlayfs keeps its marks; see `Sandbox::user_xattr`.
    pub(super) user_xattr: bool,
    pub(super) processes: Processes,
    /// Whether anything can be mounted; otherwise there are no namespaces either.
    pub(super) mounts: bool,
    /// How root, who has a single id there, gets others; nothing where ids are real. Where nothing can be mounted: whether
    /// the processes of every step only seem to be their users'; nothing if that is up to the step.
    pub(super) emulation: Option<RootEmulation>,
}

/// Which processes a step sees.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Processes {
    /// Its own, in a pid namespace.
    Own,
    /// Those that rbuild sees. A container whose `/proc` has masked parts gets no new one, and the old one would show
    /// the wrong processes in a new pid namespace.
    Shared,
}

/// [`Mount`] with paths that may be any bytes.
#[derive(Debug, Serialize, Deserialize)]
pub(super) enum ExtraMount {
    Bind { source: OsString, target: OsString, readonly: bool },
    Tmpfs { target: OsString, size: Option<u64>, readonly: bool },
    Layers { lowers: Vec<OsString>, writes: Option<[OsString; 2]>, source: OsString, target: OsString },
    File { content: Content, target: OsString, mode: u32, uid: u32, gid: u32 },
}

/// A list of paths, of which there may be hundreds, as texts: serde writes an `OsString` as a list of numbers.
mod texts {
    use std::ffi::OsString;
    use std::os::unix::ffi::OsStringExt;

    use serde::{Deserialize, Deserializer, Serialize, Serializer};

    #[derive(Serialize, Deserialize)]
    #[serde(untagged)]
    enum Text<S> {
        Utf8(S),
        Other(Vec<u8>),
    }

    pub(super) fn serialize<S: Serializer>(list: &[OsString], serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(list.iter().map(|text| match text.to_str() {
            Some(text) => Text::Utf8(text),
            None => Text::Other(text.as_encoded_bytes().to_vec()),
        }))
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<OsString>, D::Error> {
        let list = Vec::<Text<String>>::deserialize(deserializer)?;
        let text = |text: Text<String>| match text {
            Text::Utf8(text) => text.into(),
            Text::Other(bytes) => OsString::from_vec(bytes),
        };
        Ok(list.into_iter().map(text).collect())
    }
}

impl Spec {
    /// Puts together what `run` was given.
    pub(super) fn new(root: &Root, process: &Process, mounts: &[Mount], ground: Ground, group: Option<&Group>) -> Self {
        Self {
            lowers: root.lowers.iter().map(|path| path.clone().into_os_string()).collect(),
            upper: root.upper.clone().into_os_string(),
            work: root.work.clone().into_os_string(),
            argv: process.argv.clone(),
            env: process.env.clone(),
            cwd: process.cwd.clone().into_os_string(),
            user: process.user.clone(),
            hostname: process.hostname.clone(),
            network: process.network,
            settings: process.settings.clone(),
            group: group.map(|group| group.path().into()),
            mounts: mounts.iter().map(ExtraMount::from).collect(),
            ground,
        }
    }
}

impl Frame {
    /// The frame of a step.
    pub(super) fn of(spec: &Spec) -> Self {
        Self { ground: spec.ground, network: spec.network, shm_size: spec.settings.shm_size, group: spec.group.clone() }
    }
}

impl From<&Mount> for ExtraMount {
    fn from(mount: &Mount) -> Self {
        match mount {
            Mount::Bind { source, target, readonly } => {
                Self::Bind { source: source.into(), target: target.into(), readonly: *readonly }
            }
            Mount::Tmpfs { target, size, readonly } => {
                Self::Tmpfs { target: target.into(), size: *size, readonly: *readonly }
            }
            Mount::Layers { lowers, writes, source, target } => Self::Layers {
                lowers: lowers.iter().map(Into::into).collect(),
                writes: writes.as_ref().map(|writes| [(&writes.upper).into(), (&writes.work).into()]),
                source: source.into(),
                target: target.into(),
            },
            Mount::File { content, target, mode, uid, gid } => {
                Self::File { content: content.clone(), target: target.into(), mode: *mode, uid: *uid, gid: *gid }
            }
        }
    }
}

/// What the init says; one line each.
#[derive(Debug, Serialize, Deserialize)]
pub(super) enum Report {
    /// The step's process was started.
    Begun,
    /// The step could not be started.
    Failed(Failure),
    /// The step's process has ended, with the code that `ExitStatus` describes.
    Ended {
        code: i32,
        made: Made,
        /// Nothing of the step is left: nobody has to wait for the end of its namespaces.
        last: bool,
    },
}

/// What was attempted in vain, in words that follow "cannot".
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Failure {
    pub(super) action: String,
    pub(super) errno: Option<i32>,
    /// The error's own words where it has no number.
    pub(super) detail: String,
    /// The step asks for what its root does not have; the machine is not at fault.
    pub(super) of_step: bool,
}

impl Failure {
    /// Names what failed with `source`.
    pub(super) fn new(action: impl Into<String>, source: impl Into<io::Error>) -> Self {
        let source = source.into();
        Self { action: action.into(), errno: source.raw_os_error(), detail: source.to_string(), of_step: false }
    }

    /// Names what the step asks for in vain.
    pub(super) fn of_step(action: impl Into<String>, reason: &dyn std::fmt::Display) -> Self {
        Self { action: action.into(), errno: None, detail: reason.to_string(), of_step: true }
    }

    /// The error of the system, as it was where it happened.
    pub(super) fn source(&self) -> io::Error {
        self.errno.map_or_else(|| io::Error::other(self.detail.clone()), io::Error::from_raw_os_error)
    }
}

impl From<Failure> for SandboxError {
    fn from(failure: Failure) -> Self {
        if failure.of_step {
            return Self::InvalidStep { reason: format!("cannot {}: {}", failure.action, failure.detail) };
        }
        let source = failure.source();
        Self::Setup { action: failure.action, source }
    }
}

/// Says what was attempted when a result is an error.
pub(super) trait Attempt<T> {
    /// `action` follows "cannot" and is made only when needed.
    fn attempt(self, action: impl FnOnce() -> String) -> Result<T, Failure>;
}

impl<T, E: Into<io::Error>> Attempt<T> for Result<T, E> {
    fn attempt(self, action: impl FnOnce() -> String) -> Result<T, Failure> {
        self.map_err(|error| Failure::new(action(), error))
    }
}

/// What was made in the root to mount on, and how the directories around it were. Paths are relative to the root.
#[derive(Debug, Default, Serialize, Deserialize)]
pub(super) struct Made {
    /// In the order of making: a directory before what is in it.
    pub(super) stubs: Vec<Stub>,
    /// Every directory on the way to a stub, the root (the empty path) first.
    pub(super) directories: Vec<Directory>,
}

/// One mount point that the image does not have.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Stub {
    path: OsString,
    pub(super) directory: bool,
}

impl Stub {
    /// A stub at `path`.
    pub(super) fn new(path: &Path, directory: bool) -> Self {
        Self { path: path.into(), directory }
    }

    /// Where it is.
    pub(super) fn path(&self) -> PathBuf {
        PathBuf::from(&self.path)
    }
}

/// A directory that got a stub, or is an ancestor of one.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Directory {
    path: OsString,
    /// Whether the upper directory had it before: otherwise it is there only because of the stub.
    pub(super) in_upper: bool,
    /// Its modification time before.
    pub(super) modified: Time,
    /// What it was when the step began.
    pub(super) begun: Option<State>,
}

impl Directory {
    /// A directory at `path` before anything was made in it.
    pub(super) fn new(path: &Path, in_upper: bool, modified: Time) -> Self {
        Self { path: path.into(), in_upper, modified, begun: None }
    }

    /// Where it is.
    pub(super) fn path(&self) -> PathBuf {
        PathBuf::from(&self.path)
    }
}

/// What tells whether a step touched a directory. The change time alone would do where the clock of the file system is
/// finer than a step is quick, which it is not before Linux 6.13.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct State {
    pub(super) modified: Time,
    pub(super) changed: Time,
    pub(super) mode: u32,
    pub(super) uid: u32,
    pub(super) gid: u32,
}

impl From<&Statx> for State {
    fn from(found: &Statx) -> Self {
        Self {
            modified: Time::from(found.stx_mtime),
            changed: Time::from(found.stx_ctime),
            mode: found.stx_mode.into(),
            uid: found.stx_uid,
            gid: found.stx_gid,
        }
    }
}

/// A time of a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Time {
    pub(super) seconds: i64,
    pub(super) nanoseconds: u32,
}

impl From<StatxTimestamp> for Time {
    fn from(time: StatxTimestamp) -> Self {
        Self { seconds: time.tv_sec, nanoseconds: time.tv_nsec }
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::ffi::OsStringExt;

    use super::*;

    #[test]
    fn a_list_of_paths_comes_back_whatever_its_bytes_are() {
        #[derive(Serialize, Deserialize)]
        struct List(#[serde(with = "texts")] Vec<OsString>);

        let list: Vec<OsString> = vec!["".into(), "a/\"é\n".into(), OsString::from_vec(vec![0xff, b'a', 0x80])];
        let text = serde_json::to_string(&List(list.clone())).unwrap();
        assert_eq!(serde_json::from_str::<List>(&text).unwrap().0, list, "{text}");
    }
}
