//! Process 1 of a step: makes of the root what it can, waits for its step, makes the rest, starts the step's own process,
//! and waits for it.

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::FileExt;
use std::os::unix::net::UnixStream;

use rustix::fs::{CWD, FileType, Mode, OFlags, fstat, major, minor, openat};
use rustix::process::{Pid, Signal, set_parent_process_death_signal};

use super::describe::Network;
use super::furnish::Furniture;
use super::init::{BROKEN, send};
use super::reap::{self, Subreaper};
use super::rootfs::{self, Layers, OldRoot};
use super::spec::{Attempt, Failure, Frame, Made, Processes, Report, Spec};
use super::supervise::{self, Started};
use super::target::Targets;
use super::{bare, capabilities, step, system, zygote};

/// What process 1 has in common with the stub.
pub(super) struct Links {
    /// The stub holds the other end, and says by closing it that it ends.
    pub(super) lifeline: OwnedFd,
    /// Takes a byte when the stub is to leave the old root, and gives it back when that is done.
    pub(super) departure: UnixStream,
}

/// The life of process 1; returns its exit code. The step comes from `steps`.
pub(super) fn process_one(frame: &Frame, steps: &OwnedFd, channel: &mut UnixStream, links: &Links) -> u8 {
    let report = match frame.ground.processes {
        Processes::Own => in_pid_namespace(frame, steps, channel, links),
        Processes::Shared => among_others(frame, steps, channel, links),
    };
    let sent = match report {
        Ok(None) => Ok(()),
        Ok(Some(report)) => send(channel, &report),
        Err(failure) => send(channel, &Report::Failed(failure)),
    };
    if sent.is_ok() { 0 } else { BROKEN }
}

/// Nothing is reported when no step comes.
fn in_pid_namespace(
    frame: &Frame,
    steps: &OwnedFd,
    channel: &mut UnixStream,
    links: &Links,
) -> Result<Option<Report>, Failure> {
    set_parent_process_death_signal(Some(Signal::KILL)).attempt(|| "ask to die with the stub".to_owned())?;
    // A process 1 has no parent that it could ask for: the stub's end of the pipe tells that it was there until now.
    let [gone] = reap::ready([&links.lifeline], Some(0)).attempt(|| "look for the stub".to_owned())?;
    if gone {
        return Err(Failure::new("find the stub alive", io::Error::from(io::ErrorKind::NotFound)));
    }
    let furniture = prepare(frame)?;
    let Some((spec, stdin)) = receive(steps)? else { return Ok(None) };
    let Some(made) = furnish(&spec, furniture, (steps, &links.departure))? else { return Ok(None) };
    let step = start(&spec, stdin.as_ref(), channel, &links.departure)?;
    begun(channel)?;
    let code = reap::until_ended(step.pid).attempt(|| "wait for the step".to_owned())?;
    step.check()?;
    let last = reap::is_last().attempt(|| "look for what the step left".to_owned())?;
    Ok(Some(Report::Ended { code, made, last }))
}

/// Nothing is reported when no step comes, or when the stub has gone or has ordered the end.
fn among_others(
    frame: &Frame,
    steps: &OwnedFd,
    channel: &mut UnixStream,
    links: &Links,
) -> Result<Option<Report>, Failure> {
    let subreaper = Subreaper::new().attempt(|| "become a subreaper".to_owned())?;
    let furniture = frame.ground.mounts.then(|| prepare(frame)).transpose()?;
    let [abandoned, _] = reap::ready([&links.lifeline, steps], None).attempt(|| "wait for a step".to_owned())?;
    if abandoned {
        return Ok(None);
    }
    let Some((spec, stdin)) = receive(steps)? else { return Ok(None) };
    let (made, step) = match furniture {
        Some(furniture) => {
            let Some(made) = furnish(&spec, furniture, (steps, &links.departure))? else { return Ok(None) };
            (made, start(&spec, stdin.as_ref(), channel, &links.departure)?)
        }
        None => (Made::default(), bare::start(spec, stdin.as_ref(), channel)?),
    };
    begun(channel)?;
    let code = subreaper.until_ended(step.pid, &links.lifeline).attempt(|| "wait for the step".to_owned());
    subreaper.kill_all().attempt(|| "kill what the step left".to_owned())?;
    step.check()?;
    Ok(code?.map(|code| Report::Ended { code, made, last: false }))
}

/// Waits for the step, and its standard input if that is not empty; none comes when rbuild gives this init up.
fn receive(steps: &OwnedFd) -> Result<Option<(Spec, Option<File>)>, Failure> {
    let receive = || -> io::Result<_> {
        let Some((_, files)) = zygote::receive(steps)? else { return Ok(None) };
        let mut files = files.into_iter().map(File::from);
        let spec = files.next().ok_or(io::ErrorKind::InvalidData)?;
        let mut bytes = vec![0; usize::try_from(spec.metadata()?.len()).map_err(io::Error::other)?];
        spec.read_exact_at(&mut bytes, 0)?;
        Ok(Some((serde_json::from_slice(&bytes)?, files.next())))
    };
    receive().attempt(|| "read what the step is".to_owned())
}

/// Says that what rbuild does for the next step hinders this one no more: two that make roots at the same time wait for the
/// same locks of the kernel, and for a processor.
fn begun(channel: &mut UnixStream) -> Result<(), Failure> {
    send(channel, &Report::Begun).attempt(|| "tell rbuild that the step begins".to_owned())
}

/// Starts the step. From then on process 1 can do no more than root of the step: it is the parent of a hostile process,
/// which may trace it. The step itself begins when the old root has been left.
fn start(
    spec: &Spec,
    stdin: Option<&File>,
    channel: &mut UnixStream,
    mut departure: &UnixStream,
) -> Result<Started, Failure> {
    let user = step::enter(spec)?;
    supervise::start(
        spec.ground.emulation,
        || {
            departure.read_exact(&mut [0]).attempt(|| "wait until the old root is left".to_owned())?;
            step::execute(spec, user, stdin)
        },
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

/// Makes of the root what needs no layers.
fn prepare(frame: &Frame) -> Result<Furniture, Failure> {
    rootfs::make_private()?;
    if frame.network == Network::None {
        system::loopback_up().attempt(|| "bring the loopback interface up".to_owned())?;
    }
    system::leave_keyring();
    rustix::process::umask(Mode::empty());
    capabilities::bound()?;
    let furniture = Furniture::make(frame)?;
    own_null(furniture.dev(), "null").attempt(|| "open `/dev/null`".to_owned())?;
    Ok(furniture)
}

/// Makes the root and goes there. The old one is left to the stub: the kernel waits for all processors then, and the step can
/// be made ready meanwhile. The root is mounted when rbuild says so; nothing is made when it gives this init up.
fn furnish(
    spec: &Spec,
    furniture: Furniture,
    (steps, mut departure): (&OwnedFd, &UnixStream),
) -> Result<Option<Made>, Failure> {
    nix::unistd::sethostname(&spec.hostname).attempt(|| format!("set the host name `{}`", spec.hostname))?;
    let layers = Layers::open(&spec.lowers, &spec.upper, &spec.work, spec.ground.user_xattr)?;
    let furniture = furniture.gather(spec)?;
    if zygote::receive(steps).attempt(|| "wait until the root may be mounted".to_owned())?.is_none() {
        return Ok(None);
    }
    layers.mount(&spec.upper)?;
    let old = rootfs::pivot()?;
    let root = openat(CWD, "/", OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())
        .attempt(|| "open the root".to_owned())?;
    let mut targets = Targets::new(root, layers.into_upper());
    furniture.place(&mut targets)?;
    let old = [u8::from(old == OldRoot::Over)];
    departure.write_all(&old).attempt(|| "have the old root left".to_owned())?;
    targets.finish().map(Some)
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
