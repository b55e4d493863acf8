//! Tries what a step needs, for real, in children that leave nothing behind.

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::BufReader;
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};

use rustix::fs::{Mode, mkdirat};
use rustix::mount::MountAttrFlags;
use rustix::pipe::{PipeFlags, pipe_with};
use rustix::process::WaitOptions;
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::describe::Network;
use super::emulate::RootEmulation;
use super::rootfs::{self, Layers, OldRoot};
use super::spec::{Attempt, Failure, Ground, Processes};
use super::target::{Kind, Targets, attach};
use super::userns::{hear, say};
use super::{emulate, filesystem, furnish, init, seccomp, system};

/// Where the rehearsed root is.
#[derive(Debug, Clone)]
pub(super) enum Place {
    /// In memory: tells what the kernel allows.
    Memory,
    /// In new directories of this one: tells also whether its file system can hold them.
    Directory(PathBuf),
}

/// Runs `attempt` in a child. The caller must have one thread.
pub(super) fn in_child<T: Serialize + DeserializeOwned>(
    attempt: impl FnOnce() -> Result<T, Failure>,
) -> Result<T, Failure> {
    let (answers, answer) = pipe_with(PipeFlags::CLOEXEC).attempt(|| "make a pipe".to_owned())?;
    let mut answer = Some(File::from(answer));
    let mut attempt = Some(attempt);
    let child = system::fork(|| {
        let said = answer.take().zip(attempt.take()).map(|(mut answer, attempt)| say(&mut answer, &attempt()));
        u8::from(!matches!(said, Some(Ok(()))))
    })
    .attempt(|| "fork".to_owned())?;
    drop(answer.take());
    let result = hear(&mut BufReader::new(File::from(answers)));
    rustix::process::waitpid(Some(child), WaitOptions::empty()).attempt(|| "wait for a child".to_owned())?;
    result
}

/// Rehearses a step with processes of its own, or else among those of rbuild. Only for a user namespace of its own: that
/// is what keeps a step from tracing the processes that it sees.
pub(super) fn rehearse_any(place: &Place, emulation: Option<RootEmulation>) -> Result<Ground, Failure> {
    let own = Ground { user_xattr: true, processes: Processes::Own, mounts: true, emulation };
    let shared = Ground { processes: Processes::Shared, ..own };
    // The first failure counts: what stands in the way of more is what is worth telling.
    rehearse(place, own).or_else(|failure| rehearse(place, shared).map_err(|_| failure))
}

/// Makes the namespaces and the root of a step in children, as its init does; returns `ground` when that worked.
pub(super) fn rehearse(place: &Place, ground: Ground) -> Result<Ground, Failure> {
    let Place::Directory(parent) = place else { return in_namespaces(None, ground) };
    let directory = parent.join(format!("rehearsal-{}", std::process::id()));
    fs_err::create_dir(&directory).attempt(|| format!("make a directory in `{}`", parent.display()))?;
    let result = in_namespaces(Some(&directory), ground);
    let removed = fs_err::remove_dir_all(&directory).attempt(|| format!("remove `{}`", directory.display()));
    result.and_then(|ground| removed.map(|()| ground))
}

fn in_namespaces(directory: Option<&Path>, ground: Ground) -> Result<Ground, Failure> {
    in_child(|| {
        init::isolate(Network::Host, ground.processes)
            .attempt(|| "make mount, pid, ipc, uts and cgroup namespaces".to_owned())?;
        in_child(|| make_root(directory, ground).map(|()| ground))
    })
}

fn make_root(directory: Option<&Path>, ground: Ground) -> Result<(), Failure> {
    rootfs::make_private()?;
    let memory = filesystem::new("tmpfs", &[("mode", "0700")], MountAttrFlags::empty())
        .attempt(|| "mount a tmpfs".to_owned())?;
    let hidden = rustix::fs::open("/", rustix::fs::OFlags::PATH | rustix::fs::OFlags::CLOEXEC, Mode::empty())
        .attempt(|| "open `/`".to_owned())?;
    attach(&memory, hidden).attempt(|| "mount a tmpfs".to_owned())?;
    let base = directory.map_or_else(|| PathBuf::from(format!("/proc/self/fd/{}", memory.as_raw_fd())), Path::to_owned);
    let path = |name: &str| base.join(name).into_os_string();
    for name in ["lower", "upper", "work"] {
        mkdirat(rustix::fs::CWD, path(name), Mode::from_raw_mode(0o700))
            .attempt(|| format!("make a directory in `{}`", base.display()))?;
    }
    let lowers: [OsString; 1] = [path("lower")];
    let layers = Layers::open(&lowers, &path("upper"), &path("work"), ground.user_xattr)?;
    let proc = furnish::gather_proc(ground.processes)?;
    layers.mount(OsStr::new(&path("upper")))?;
    if rootfs::pivot()? == OldRoot::Over {
        rootfs::leave_old_root()?;
    }
    let root = rustix::fs::open("/", rustix::fs::OFlags::PATH | rustix::fs::OFlags::CLOEXEC, Mode::empty())
        .attempt(|| "open the root".to_owned())?;
    Targets::new(root, layers.into_upper()).place(proc, Path::new("/proc"), Kind::Directory)?;
    match ground.emulation.and_then(emulate::program) {
        // Nobody listens afterwards, nor is anything left to do.
        Some(program) => seccomp::install_with_listener(program)
            .map(drop)
            .attempt(|| "filter the calls of a step and listen to them".to_owned()),
        None => seccomp::install(seccomp::default()).attempt(|| "filter the calls of a step".to_owned()),
    }
}
