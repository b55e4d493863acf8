//! The init of a step: two processes of this same program.
//!
//! The *stub* is what rbuild spawns. It makes the namespaces and stays outside of the pid namespace: it is there to kill
//! process 1 when rbuild asks for it or is gone, and to end after everything of the step is dead. *Process 1* makes the
//! root, starts the step, and waits for it. When process 1 ends, the kernel kills what is left in its namespace, and
//! the stub's `wait` returns only after that.

use std::fs::File;
use std::io::{self, IoSliceMut, Write};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::fs::FileExt;
use std::os::unix::net::UnixStream;
use std::process::ExitCode;

use nix::cmsg_space;
use nix::sched::{CloneFlags, unshare};
use nix::sys::socket::{ControlMessageOwned, MsgFlags, UnixAddr, recvmsg};
use nix::sys::wait::{WaitStatus, waitpid};
use nix::unistd::Pid;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{CWD, FileType, Mode, OFlags, fstat, major, minor, openat};
use rustix::process::{PidfdFlags, Signal, pidfd_open, pidfd_send_signal, set_parent_process_death_signal};

use super::describe::Network;
use super::furnish::Furniture;
use super::rootfs::{self, Layers};
use super::spec::{Attempt, Failure, INIT, Made, Report, Spec};
use super::target::Targets;
use super::{capabilities, step, system};

/// The exit code of an init that could not even report (`EX_SOFTWARE`).
const BROKEN: u8 = 70;

/// What `ps` calls it: it has no file that it could be called after.
const NAME: &std::ffi::CStr = c"rbuild-init";

/// Runs the init of a step if this process was spawned as one, and returns its exit code.
///
/// Must be the first statement of `main`: the init makes namespaces and forks, and must have one thread.
pub fn init_if_child() -> Option<ExitCode> {
    if std::env::args_os().next()? != INIT {
        return None;
    }
    let code = system::take_stdin().map(|channel| UnixStream::from(OwnedFd::from(channel))).and_then(|mut channel| {
        let (spec, stdin) = receive(&channel)?;
        stub(&spec, stdin.as_ref(), &mut channel).or_else(|failure| {
            send(&mut channel, &Report::Failed(failure))?;
            Ok(0)
        })
    });
    Some(ExitCode::from(code.unwrap_or(BROKEN)))
}

/// Takes the specification, and standard input if there is any, from the socket.
fn receive(channel: &UnixStream) -> io::Result<(Spec, Option<File>)> {
    let mut byte = [0];
    let mut parts = [IoSliceMut::new(&mut byte)];
    let mut space = cmsg_space!([i32; 2]);
    let flags = MsgFlags::MSG_CMSG_CLOEXEC;
    let message = recvmsg::<UnixAddr>(channel.as_raw_fd(), &mut parts, Some(&mut space), flags)?;
    let mut files = Vec::new();
    for control in message.cmsgs()? {
        if let ControlMessageOwned::ScmRights(descriptors) = control {
            files.extend(system::adopt(&descriptors));
        }
    }
    let mut files = files.into_iter();
    let spec = files.next().ok_or(io::ErrorKind::InvalidInput)?;
    let mut bytes = vec![0; usize::try_from(spec.metadata()?.len()).map_err(io::Error::other)?];
    spec.read_exact_at(&mut bytes, 0)?;
    Ok((serde_json::from_slice(&bytes)?, files.next()))
}

fn send(channel: &mut UnixStream, report: &Report) -> io::Result<()> {
    let mut line = serde_json::to_vec(report)?;
    line.push(b'\n');
    channel.write_all(&line)
}

/// The life of the stub; returns its exit code.
fn stub(spec: &Spec, stdin: Option<&File>, channel: &mut UnixStream) -> Result<u8, Failure> {
    set_parent_process_death_signal(Some(Signal::KILL)).attempt(|| "ask to die with rbuild".to_owned())?;
    let parent = rustix::process::getppid().map_or(0, |pid| pid.as_raw_nonzero().get());
    if u32::try_from(parent) != Ok(spec.parent) {
        return Err(Failure::new("find rbuild alive", io::Error::from(io::ErrorKind::NotFound)));
    }
    rustix::thread::set_name(NAME).attempt(|| "take a name".to_owned())?;
    rustix::process::setsid().attempt(|| "begin a session".to_owned())?;
    isolate(spec.network).attempt(|| "make namespaces".to_owned())?;

    let (lifeline, held) =
        rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC).attempt(|| "make a pipe to process 1".to_owned())?;
    let (mut lifeline, mut held) = (Some(lifeline), Some(held));
    let one = system::fork(|| {
        drop(held.take());
        process_one(spec, stdin, channel, lifeline.take())
    })
    .attempt(|| "fork process 1".to_owned())?;
    drop(lifeline.take());
    watch(one, channel).attempt(|| "wait for process 1".to_owned())
}

/// Leaves the namespaces of rbuild, all but the user namespace, and the network's where the step shares it.
pub(super) fn isolate(network: Network) -> io::Result<()> {
    let mut flags = CloneFlags::CLONE_NEWNS
        | CloneFlags::CLONE_NEWPID
        | CloneFlags::CLONE_NEWIPC
        | CloneFlags::CLONE_NEWUTS
        | CloneFlags::CLONE_NEWCGROUP;
    flags.set(CloneFlags::CLONE_NEWNET, network == Network::None);
    Ok(unshare(flags)?)
}

/// Waits for process 1, and kills it as soon as rbuild says anything or hangs up.
fn watch(one: Pid, channel: &UnixStream) -> io::Result<u8> {
    let pid = rustix::process::Pid::from_raw(one.as_raw()).ok_or(io::ErrorKind::InvalidInput)?;
    let process = pidfd_open(pid, PidfdFlags::empty())?;
    let mut ready = [PollFd::new(&process, PollFlags::IN), PollFd::new(channel, PollFlags::IN | PollFlags::RDHUP)];
    while let Err(error) = poll(&mut ready, None) {
        if error != rustix::io::Errno::INTR {
            return Err(error.into());
        }
    }
    if ready[0].revents().is_empty() {
        pidfd_send_signal(&process, Signal::KILL)?;
    }
    Ok(exit_code(waitpid(one, None)?).and_then(|code| u8::try_from(code).ok()).unwrap_or(BROKEN))
}

/// The exit code of a process that has ended, as `ExitStatus` describes it.
fn exit_code(status: WaitStatus) -> Option<i32> {
    match status {
        WaitStatus::Exited(_, code) => Some(code),
        WaitStatus::Signaled(_, signal, _) => Some(128 + signal as i32),
        _ => None,
    }
}

/// The life of process 1; returns its exit code.
fn process_one(spec: &Spec, stdin: Option<&File>, channel: &mut UnixStream, lifeline: Option<OwnedFd>) -> u8 {
    let result = die_with_stub(lifeline).and_then(|()| furnish(spec)).and_then(|made| {
        let step = system::fork(|| {
            step::execute(spec, stdin).unwrap_or_else(|failure| {
                let sent = send(channel, &Report::Failed(failure));
                if sent.is_ok() { 0 } else { BROKEN }
            })
        })
        .attempt(|| "fork the step".to_owned())?;
        reap_until(step).map(|code| Report::Ended { code, made }).attempt(|| "wait for the step".to_owned())
    });
    let sent = send(channel, &result.unwrap_or_else(Report::Failed));
    if sent.is_ok() { 0 } else { BROKEN }
}

/// A process 1 has no parent that it could ask for: the stub's end of a pipe tells that it is there.
fn die_with_stub(lifeline: Option<OwnedFd>) -> Result<(), Failure> {
    let gone = || Failure::new("find the stub alive", io::Error::from(io::ErrorKind::NotFound));
    let lifeline = lifeline.ok_or_else(gone)?;
    set_parent_process_death_signal(Some(Signal::KILL)).attempt(|| "ask to die with the stub".to_owned())?;
    let mut ready = [PollFd::new(&lifeline, PollFlags::IN)];
    match poll(&mut ready, Some(&Timespec::default())) {
        Ok(0) => Ok(()),
        Ok(_) => Err(gone()),
        Err(error) => Err(Failure::new("look for the stub", error)),
    }
}

/// Makes the root, goes there, and gives up what the step may not have. From then on process 1 can do no more than root
/// of the step: it is the parent of a hostile process, which may trace it.
fn furnish(spec: &Spec) -> Result<Made, Failure> {
    rootfs::make_private()?;
    nix::unistd::sethostname(&spec.hostname).attempt(|| format!("set the host name `{}`", spec.hostname))?;
    if spec.network == Network::None {
        system::loopback_up().attempt(|| "bring the loopback interface up".to_owned())?;
    }
    system::leave_keyring();
    rustix::process::umask(Mode::empty());

    let layers = Layers::open(&spec.lowers, &spec.upper, &spec.work, spec.user_xattr)?;
    let furniture = Furniture::gather(spec, layers.upper())?;
    layers.mount(&spec.upper)?;
    rootfs::pivot()?;
    let root = openat(CWD, "/", OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())
        .attempt(|| "open the root".to_owned())?;
    let mut targets = Targets::new(root, layers.into_upper());
    furniture.place(&mut targets)?;
    let made = targets.finish()?;
    own_null().attempt(|| "open `/dev/null`".to_owned())?;
    capabilities::confine()?;
    Ok(made)
}

/// Exchanges the host's `/dev/null`, whose owner and mode root of a step could change, for the step's.
fn own_null() -> io::Result<()> {
    let null = openat(CWD, "/dev/null", OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())?;
    let found = fstat(&null)?;
    let device = (major(found.st_rdev), minor(found.st_rdev));
    if FileType::from_raw_mode(found.st_mode) != FileType::CharacterDevice || device != (1, 3) {
        return Err(rustix::io::Errno::NODEV.into());
    }
    Ok(nix::unistd::dup2_stdin(null.as_fd())?)
}

/// Reaps whatever ends until `main` does.
fn reap_until(main: Pid) -> io::Result<i32> {
    loop {
        match waitpid(None, None) {
            Ok(status) if status.pid() == Some(main) => {
                if let Some(code) = exit_code(status) {
                    return Ok(code);
                }
            }
            Ok(_) | Err(nix::errno::Errno::EINTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
}
