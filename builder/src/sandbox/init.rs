//! The init of a step: two processes of this same program.
//!
//! The *stub* is a copy of the [`zygote`] and a child of rbuild. It makes the namespaces and stays outside of the pid namespace: it is there to kill
//! process 1 when rbuild asks for it or is gone, and to end after everything of the step is dead. *Process 1* makes the
//! root, starts the step, and waits for it ([`process_one`]). When it ends, the kernel kills what is left in its pid
//! namespace, and the stub's `wait` returns only after that.
//!
//! Where there can be no pid namespace ([`Processes::Shared`]), process 1 is an ordinary process, and both it and the
//! stub are subreapers that kill what is left.

use std::fs::File;
use std::io::{self, Write};
use std::os::fd::OwnedFd;
use std::os::unix::fs::FileExt;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::ExitCode;

use nix::sched::{CloneFlags, unshare};
use rustix::pipe::{PipeFlags, pipe_with};
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};

use super::cgroup;
use super::describe::Network;
use super::network;
use super::process_one::process_one;
use super::reap::{self, Subreaper};
use super::spec::{Attempt, Failure, INIT, Processes, Report, Spec};
use super::zygote::{self, Order};
use super::{supervise, system};

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
    let ended = read(order.spec).and_then(|spec| {
        channel.write_all(&std::process::id().to_ne_bytes())?;
        stub(&spec, order.stdin.map(File::from).as_ref(), &mut channel).or_else(|failure| {
            send(&mut channel, &Report::Failed(failure))?;
            Ok(0)
        })
    });
    ended.unwrap_or(BROKEN)
}

fn read(spec: OwnedFd) -> io::Result<Spec> {
    let spec = File::from(spec);
    let mut bytes = vec![0; usize::try_from(spec.metadata()?.len()).map_err(io::Error::other)?];
    spec.read_exact_at(&mut bytes, 0)?;
    Ok(serde_json::from_slice(&bytes)?)
}

/// Says something to rbuild.
pub(super) fn send(channel: &mut UnixStream, report: &Report) -> io::Result<()> {
    let mut line = serde_json::to_vec(report)?;
    line.push(b'\n');
    channel.write_all(&line)
}

/// The life of the stub; returns its exit code.
fn stub(spec: &Spec, stdin: Option<&File>, channel: &mut UnixStream) -> Result<u8, Failure> {
    rustix::thread::set_name(NAME).attempt(|| "take a name".to_owned())?;
    rustix::process::setsid().attempt(|| "begin a session".to_owned())?;
    spec.group.as_ref().map_or(Ok(()), |group| cgroup::enter(Path::new(group)))?;
    let subreaper = match spec.ground.processes {
        Processes::Own => None,
        Processes::Shared => Some(Subreaper::new().attempt(|| "become a subreaper".to_owned())?),
    };
    let uplink = (spec.network == Network::Private).then(network::join_new).transpose()?;
    if spec.ground.mounts {
        isolate(spec.network, spec.ground.processes).attempt(|| "make namespaces".to_owned())?;
    }

    let (lifeline, held) = pipe_with(PipeFlags::CLOEXEC).attempt(|| "make a pipe to process 1".to_owned())?;
    let (mut lifeline, mut held) = (Some(lifeline), Some(held));
    let one = system::fork(|| {
        drop(held.take());
        lifeline.take().map_or(BROKEN, |lifeline| process_one(spec, stdin, channel, &lifeline))
    })
    .attempt(|| "fork process 1".to_owned())?;
    drop(lifeline.take());
    let code = watch(one, channel, held, spec.ground.processes).attempt(|| "wait for process 1".to_owned())?;
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

/// Waits for process 1, and ends it as soon as rbuild says anything or hangs up.
fn watch(one: Pid, channel: &UnixStream, held: Option<OwnedFd>, processes: Processes) -> io::Result<u8> {
    let process = pidfd_open(one, PidfdFlags::empty())?;
    let [mut ended, _] = reap::ready([&process, channel], None)?;
    if !ended && processes == Processes::Shared {
        drop(held); // tells it to kill the step's processes, which would survive it
        [ended] = reap::ready([&process], Some(PATIENCE))?;
    }
    if !ended {
        pidfd_send_signal(&process, Signal::KILL)?;
    }
    Ok(u8::try_from(reap::until_ended(one)?).unwrap_or(BROKEN))
}
