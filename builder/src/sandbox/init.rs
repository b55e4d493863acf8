//! The init of a step: two processes of this same program.
//!
//! The *stub* is a copy of the [`zygote`] and a child of rbuild. It makes the namespaces and stays outside of the pid namespace: it is there to kill
//! process 1 when rbuild asks for it or is gone, and to end after everything of the step is dead. *Process 1* makes of the
//! root what it can, waits for its step, makes the rest, starts the step and waits for it ([`process_one`]). When it ends, the kernel kills what is left in its pid
//! namespace, and the stub's `wait` returns only after that.
//!
//! Where there can be no pid namespace ([`Processes::Shared`]), process 1 is an ordinary process, and both it and the
//! stub are subreapers that kill what is left.

use std::io::{self, Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::ExitCode;

use nix::sched::{CloneFlags, unshare};
use rustix::pipe::{PipeFlags, pipe_with};
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};

use super::cgroup;
use super::describe::Network;
use super::network;
use super::process_one::{Links, process_one};
use super::reap::{self, AsDescriptor, Subreaper};
use super::spec::{Attempt, Failure, Frame, INIT, Processes, Report};
use super::zygote::{self, Order};
use super::{rootfs, supervise, system};

/// The exit code of an init that could not even report (`EX_SOFTWARE`).
pub(super) const BROKEN: u8 = 70;
/// Seconds that a process 1 without a pid namespace has to kill the step's processes before it is killed itself.
const PATIENCE: i64 = 3;

/// What `ps` calls it: it has no file that it could be called after.
const NAME: &std::ffi::CStr = c"rbuild-init";

/// Runs the init of a step if this process was spawned as one, and returns its exit code.
///
/// Must be the first statement of `main`: the init makes namespaces and forks, and must have one thread.
pub fn init_if_child() -> Option<ExitCode> {
    if std::env::args_os().next()? != INIT {
        return None;
    }
    supervise::prepare();
    Some(ExitCode::from(zygote::live(begin).unwrap_or(BROKEN)))
}

/// The life of a step's init, which says its process id first; returns its exit code.
fn begin(order: Order) -> u8 {
    let mut channel = UnixStream::from(order.channel);
    let said = channel.write_all(&std::process::id().to_ne_bytes());
    let ended = said.and_then(|()| {
        stub(&order.frame, &order.steps, &mut channel).or_else(|failure| {
            send(&mut channel, &Report::Failed(failure))?;
            Ok(0)
        })
    });
    ended.unwrap_or(BROKEN)
}

/// Says something to rbuild.
pub(super) fn send(channel: &mut UnixStream, report: &Report) -> io::Result<()> {
    let mut line = serde_json::to_vec(report)?;
    line.push(b'\n');
    channel.write_all(&line)
}

/// The life of the stub; returns its exit code.
fn stub(frame: &Frame, steps: &OwnedFd, channel: &mut UnixStream) -> Result<u8, Failure> {
    rustix::thread::set_name(NAME).attempt(|| "take a name".to_owned())?;
    rustix::process::setsid().attempt(|| "begin a session".to_owned())?;
    frame.group.as_ref().map_or(Ok(()), |group| cgroup::enter(Path::new(group)))?;
    let subreaper = match frame.ground.processes {
        Processes::Own => None,
        Processes::Shared => Some(Subreaper::new().attempt(|| "become a subreaper".to_owned())?),
    };
    let uplink = (frame.network == Network::Private).then(network::join_new).transpose()?;
    if frame.ground.mounts {
        isolate(frame.network, frame.ground.processes).attempt(|| "make namespaces".to_owned())?;
    }

    let (lifeline, held) = pipe_with(PipeFlags::CLOEXEC).attempt(|| "make a pipe to process 1".to_owned())?;
    let (departure, asked) = UnixStream::pair().attempt(|| "make a socket pair to process 1".to_owned())?;
    let (mut theirs, mut ours) = (Some(Links { lifeline, departure }), Some((held, asked)));
    let one = system::fork(|| {
        drop(ours.take());
        theirs.take().map_or(BROKEN, |links| process_one(frame, steps, channel, &links))
    })
    .attempt(|| "fork process 1".to_owned())?;
    drop(theirs.take());
    let (held, asked) = ours.unzip();
    let code = watch(one, channel, (held, asked), frame.ground.processes)?;
    drop(uplink);
    if let Some(subreaper) = subreaper {
        subreaper.kill_all().attempt(|| "kill what the step left".to_owned())?;
    }
    Ok(code)
}

/// Leaves the namespaces of rbuild: never the user namespace, and the others as the step needs.
pub(super) fn isolate(network: Network, processes: Processes) -> io::Result<()> {
    let mut flags =
        CloneFlags::CLONE_NEWNS | CloneFlags::CLONE_NEWIPC | CloneFlags::CLONE_NEWUTS | CloneFlags::CLONE_NEWCGROUP;
    flags.set(CloneFlags::CLONE_NEWPID, processes == Processes::Own);
    flags.set(CloneFlags::CLONE_NEWNET, network == Network::None);
    Ok(unshare(flags)?)
}

/// Waits for process 1, and ends it as soon as rbuild says anything or hangs up. Leaves the old root once, when it is
/// `asked` to.
fn watch(
    one: Pid,
    channel: &UnixStream,
    (held, mut asked): (Option<OwnedFd>, Option<UnixStream>),
    processes: Processes,
) -> Result<u8, Failure> {
    let action = || "wait for process 1".to_owned();
    let process = pidfd_open(one, PidfdFlags::empty()).attempt(action)?;
    let mut ended = loop {
        let request = asked.as_ref();
        let other: &dyn AsDescriptor = request.map_or(&process, |request| request);
        let [ended, over, requested] = reap::ready([&process, channel, other], None).attempt(action)?;
        if ended || over {
            break ended;
        }
        if let Some(request) = asked.take().filter(|_| requested) {
            leave_old_root(&request)?;
        }
    };
    if !ended && processes == Processes::Shared {
        drop(held); // tells it to kill the step's processes, which would survive it
        [ended] = reap::ready([&process], Some(PATIENCE)).attempt(action)?;
    }
    if !ended {
        pidfd_send_signal(&process, Signal::KILL).attempt(action)?;
    }
    Ok(u8::try_from(reap::until_ended(one).attempt(action)?).unwrap_or(BROKEN))
}

/// Does what process 1 asks for, which has not started the step yet.
fn leave_old_root(mut request: &UnixStream) -> Result<(), Failure> {
    let mut over = [0];
    let asked = request.read(&mut over).attempt(|| "hear process 1".to_owned())?;
    if asked > 0 && over[0] > 0 {
        rootfs::leave_old_root()?;
    }
    // A process 1 that has ended needs no answer.
    match request.write_all(&over) {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        told => told.attempt(|| "tell the step that the old root is left".to_owned()),
    }
}
