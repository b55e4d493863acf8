//! Process 1 of a step: makes the root, starts the step's own process, and waits for it.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;

use rustix::fs::{CWD, FileType, Mode, OFlags, fstat, major, minor, openat};
use rustix::process::{Pid, Signal, set_parent_process_death_signal};

use super::describe::Network;
use super::furnish::Furniture;
use super::init::{BROKEN, send};
use super::reap::{self, Subreaper};
use super::rootfs::{self, Layers};
use super::spec::{Attempt, Failure, Made, Processes, Report, Spec};
use super::supervise::{self, Started};
use super::target::Targets;
use super::{bare, step, system};

/// The life of process 1; returns its exit code. The stub holds the other end of `lifeline`.
pub(super) fn process_one(spec: &Spec, stdin: Option<&File>, channel: &mut UnixStream, lifeline: &OwnedFd) -> u8 {
    let report = match spec.ground.processes {
        Processes::Own => in_pid_namespace(spec, stdin, channel, lifeline).map(Some),
        Processes::Shared => among_others(spec, stdin, channel, lifeline),
    };
    let sent = match report {
        Ok(None) => Ok(()),
        Ok(Some(report)) => send(channel, &report),
        Err(failure) => send(channel, &Report::Failed(failure)),
    };
    if sent.is_ok() { 0 } else { BROKEN }
}

fn in_pid_namespace(
    spec: &Spec,
    stdin: Option<&File>,
    channel: &mut UnixStream,
    lifeline: &OwnedFd,
) -> Result<Report, Failure> {
    set_parent_process_death_signal(Some(Signal::KILL)).attempt(|| "ask to die with the stub".to_owned())?;
    // A process 1 has no parent that it could ask for: the stub's end of the pipe tells that it was there until now.
    let [gone] = reap::ready([lifeline], Some(0)).attempt(|| "look for the stub".to_owned())?;
    if gone {
        return Err(Failure::new("find the stub alive", io::Error::from(io::ErrorKind::NotFound)));
    }
    let made = furnish(spec)?;
    let step = start(spec, stdin, channel)?;
    let code = reap::until_ended(step.pid).attempt(|| "wait for the step".to_owned())?;
    step.check()?;
    Ok(Report::Ended { code, made })
}

/// Nothing is reported when the stub has gone or has ordered the end.
fn among_others(
    spec: &Spec,
    stdin: Option<&File>,
    channel: &mut UnixStream,
    lifeline: &OwnedFd,
) -> Result<Option<Report>, Failure> {
    let subreaper = Subreaper::new().attempt(|| "become a subreaper".to_owned())?;
    let (made, step) = if spec.ground.mounts {
        (furnish(spec)?, start(spec, stdin, channel)?)
    } else {
        (Made::default(), bare::start(spec, stdin, channel)?)
    };
    let code = subreaper.until_ended(step.pid, lifeline).attempt(|| "wait for the step".to_owned());
    subreaper.kill_all().attempt(|| "kill what the step left".to_owned())?;
    step.check()?;
    Ok(code?.map(|code| Report::Ended { code, made }))
}

/// Starts the step. From then on process 1 can do no more than root of the step: it is the parent of a hostile process,
/// which may trace it.
fn start(spec: &Spec, stdin: Option<&File>, channel: &mut UnixStream) -> Result<Started, Failure> {
    supervise::start(
        spec.ground.emulation,
        || step::execute(spec, stdin),
        |failure| {
            let sent = send(channel, &Report::Failed(failure));
            if sent.is_ok() { 0 } else { BROKEN }
        },
    )
}

/// Forks a step that confines itself.
pub(super) fn fork(channel: &mut UnixStream, step: impl FnOnce() -> Result<u8, Failure>) -> Result<Pid, Failure> {
    let step = || {
        step().unwrap_or_else(|failure| {
            let sent = send(channel, &Report::Failed(failure));
            if sent.is_ok() { 0 } else { BROKEN }
        })
    };
    system::fork(step).attempt(|| "fork the step".to_owned())
}

/// Makes the root and goes there.
fn furnish(spec: &Spec) -> Result<Made, Failure> {
    rootfs::make_private()?;
    nix::unistd::sethostname(&spec.hostname).attempt(|| format!("set the host name `{}`", spec.hostname))?;
    if spec.network == Network::None {
        system::loopback_up().attempt(|| "bring the loopback interface up".to_owned())?;
    }
    system::leave_keyring();
    rustix::process::umask(Mode::empty());

    let layers = Layers::open(&spec.lowers, &spec.upper, &spec.work, spec.ground.user_xattr)?;
    let furniture = Furniture::gather(spec, layers.upper())?;
    layers.mount(&spec.upper)?;
    rootfs::pivot()?;
    let root = openat(CWD, "/", OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())
        .attempt(|| "open the root".to_owned())?;
    let mut targets = Targets::new(root, layers.into_upper());
    furniture.place(&mut targets)?;
    let made = targets.finish()?;
    own_null(CWD, "/dev/null").attempt(|| "open `/dev/null`".to_owned())?;
    Ok(made)
}

/// Exchanges the host's `/dev/null`, whose owner and mode root of a step could change, for the step's.
pub(super) fn own_null(directory: impl AsFd, path: &str) -> io::Result<()> {
    let null = openat(directory, path, OFlags::NOFOLLOW | OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())?;
    let found = fstat(&null)?;
    let device = (major(found.st_rdev), minor(found.st_rdev));
    if FileType::from_raw_mode(found.st_mode) != FileType::CharacterDevice || device != (1, 3) {
        return Err(rustix::io::Errno::NODEV.into());
    }
    Ok(nix::unistd::dup2_stdin(null.as_fd())?)
}
