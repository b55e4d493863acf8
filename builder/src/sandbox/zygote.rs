//! The process that the inits of all steps are copies of.
//!
//! To execute and link a program takes longer than to furnish a root. So rbuild does that once, before its first step: the
//! program waits, with one thread and nothing open but a socket, and becomes two whenever a step comes. The copy is a
//! child of rbuild itself (`CLONE_PARENT`), which kills it and waits for it.
//!
//! A step comes as one byte with descriptors: the specification, the channel, both outputs, and standard input if there
//! is any. The zygote ends with the other end of its socket, so with rbuild, however that ends.

use std::fs::File;
use std::io::{self, IoSlice, IoSliceMut};
use std::net::Shutdown;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, Stdio};
use std::sync::{Mutex, MutexGuard, PoisonError};

use nix::cmsg_space;
use nix::sys::socket::{ControlMessage, ControlMessageOwned, MsgFlags, UnixAddr, recvmsg, sendmsg};
use rustix::process::{Pid, WaitOptions, waitpid};

use super::error::SandboxError;
use super::spec::INIT;
use super::{program, system};

/// What a new step brings.
pub(super) struct Order {
    /// The text of a [`Spec`](super::spec::Spec).
    pub(super) spec: OwnedFd,
    /// To rbuild.
    pub(super) channel: OwnedFd,
    /// Standard output and standard error of the step.
    pub(super) outputs: [OwnedFd; 2],
    /// Its standard input, if that is not empty.
    pub(super) stdin: Option<OwnedFd>,
}

/// The waiting process. Dropping it ends it; the steps that it has begun go on.
#[derive(Debug)]
pub(super) struct Zygote {
    socket: UnixStream,
    child: Child,
    /// Inits that have nothing left to do but to end.
    leaving: Mutex<Vec<Pid>>,
}

impl Zygote {
    /// Starts the running program from sealed memory.
    pub(super) fn start() -> Result<Self, SandboxError> {
        let failed = |source| SandboxError::Program { source };
        let program = program::sealed_copy().map_err(failed)?;
        let (socket, theirs) =
            UnixStream::pair().map_err(|source| SandboxError::Descriptor { what: "a socket pair", source })?;
        let child = Command::new(format!("/proc/self/fd/{}", program.as_raw_fd()))
            .arg0(INIT)
            .env_clear()
            .stdin(Stdio::from(OwnedFd::from(theirs)))
            .stdout(Stdio::null())
            .spawn()
            .map_err(failed)?;
        Ok(Self { socket, child, leaving: Mutex::default() })
    }

    /// Takes an init that is ending, with the namespaces of its step, for which nobody has to wait at once: the kernel
    /// takes its time to unmount what is mounted there.
    pub(super) fn see_off(&self, init: Pid) {
        self.leaving().push(init);
    }

    /// Waits for the inits that were ending. To be called before a root is mounted: overlayfs warns of a lower directory
    /// that is still the upper one of another mount.
    pub(super) fn wait_for_leaving(&self) {
        for init in std::mem::take(&mut *self.leaving()) {
            let waited = rustix::io::retry_on_intr(|| waitpid(Some(init), WaitOptions::empty()));
            debug_assert!(waited.is_ok(), "an init is a child that nobody else waits for");
        }
    }

    fn leaving(&self) -> MutexGuard<'_, Vec<Pid>> {
        self.leaving.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Has a copy of it take the order.
    pub(super) fn send(&self, order: &Order) -> io::Result<()> {
        let [stdout, stderr] = &order.outputs;
        let fixed = [&order.spec, &order.channel, stdout, stderr];
        let descriptors: Vec<i32> = fixed.into_iter().chain(&order.stdin).map(AsRawFd::as_raw_fd).collect();
        let control = [ControlMessage::ScmRights(&descriptors)];
        let flags = MsgFlags::MSG_NOSIGNAL;
        sendmsg::<UnixAddr>(self.socket.as_raw_fd(), &[IoSlice::new(&[0])], &control, flags, None)?;
        Ok(())
    }
}

impl Drop for Zygote {
    fn drop(&mut self) {
        self.wait_for_leaving();
        let ended = self.socket.shutdown(Shutdown::Both).and_then(|()| self.child.wait());
        debug_assert!(ended.is_ok(), "a child that was not waited for ends with its socket, and can be waited for");
    }
}

/// The life of the zygote. Returns at its end, and in each copy the exit code that `take` gives.
pub(super) fn live(take: impl Fn(Order) -> u8) -> io::Result<u8> {
    let socket = UnixStream::from(OwnedFd::from(system::take_stdin()?));
    // What the terminal sends to rbuild's process group is for rbuild to answer.
    rustix::process::setsid()?;
    while let Some(order) = receive(&socket)? {
        if system::fork_sibling()? {
            drop(socket);
            let [stdout, stderr] = &order.outputs;
            nix::unistd::dup2_stdout(stdout)?;
            nix::unistd::dup2_stderr(stderr)?;
            return Ok(take(order));
        }
    }
    Ok(0)
}

/// Waits for an order; none comes any more when rbuild is gone.
fn receive(socket: &UnixStream) -> io::Result<Option<Order>> {
    let mut byte = [0];
    let mut parts = [IoSliceMut::new(&mut byte)];
    let mut space = cmsg_space!([i32; 5]);
    let flags = MsgFlags::MSG_CMSG_CLOEXEC;
    let message = loop {
        match recvmsg::<UnixAddr>(socket.as_raw_fd(), &mut parts, Some(&mut space), flags) {
            Err(nix::errno::Errno::EINTR) => {}
            result => break result?,
        }
    };
    let mut files: Vec<File> = Vec::new();
    for control in message.cmsgs()? {
        if let ControlMessageOwned::ScmRights(descriptors) = control {
            files.extend(system::adopt(&descriptors));
        }
    }
    let mut files = files.into_iter().map(OwnedFd::from);
    let mut next = || files.next();
    let (Some(spec), Some(channel), Some(stdout), Some(stderr)) = (next(), next(), next(), next()) else {
        return Ok(None);
    };
    Ok(Some(Order { spec, channel, outputs: [stdout, stderr], stdin: next() }))
}
