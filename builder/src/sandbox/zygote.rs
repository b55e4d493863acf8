//! The process that the inits of all steps are copies of.
//!
//! To execute and link a program takes longer than to furnish a root. So rbuild does that once, before its first step: the
//! program waits, with one thread and nothing open but a socket, and becomes two whenever an init is wanted. The copy is a
//! child of rbuild itself (`CLONE_PARENT`), which kills it and waits for it.
//!
//! An order is one message: the [`Frame`] of a step, with descriptors. The zygote ends with the other end of its socket,
//! so with rbuild, however that ends.

use std::fs::File;
use std::io::{self, IoSlice, IoSliceMut};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, Stdio};
use std::sync::{Mutex, MutexGuard, PoisonError};

use nix::cmsg_space;
use nix::sys::socket::{
    AddressFamily, ControlMessage, ControlMessageOwned, MsgFlags, Shutdown, SockFlag, SockType, UnixAddr, recvmsg,
    sendmsg, shutdown, socketpair,
};
use rustix::process::{Pid, WaitOptions, waitpid};

use super::error::SandboxError;
use super::spec::{Frame, INIT};
use super::{program, system};

/// More bytes than any message has, the longest path among them.
const MOST_MESSAGE: usize = 16 << 10;
/// More descriptors than any message brings.
const MOST_DESCRIPTORS: usize = 4;

/// What a new init is given.
pub(super) struct Order {
    pub(super) frame: Frame,
    /// Where its step will come from.
    pub(super) steps: OwnedFd,
    /// To rbuild.
    pub(super) channel: OwnedFd,
    /// Standard output and standard error of the step.
    pub(super) outputs: [OwnedFd; 2],
}

/// The waiting process. Dropping it ends it; the steps that it has begun go on.
#[derive(Debug)]
pub(super) struct Zygote {
    socket: OwnedFd,
    child: Child,
    /// Inits that have nothing left to do but to end.
    leaving: Mutex<Vec<Pid>>,
}

impl Zygote {
    /// Starts the running program where nobody can write it.
    pub(super) fn start() -> Result<Self, SandboxError> {
        let failed = |source| SandboxError::Program { source };
        let program = program::sealed().map_err(failed)?;
        let (socket, theirs) =
            packets().map_err(|source| SandboxError::Descriptor { what: "a socket pair", source })?;
        let child = Command::new(format!("/proc/self/fd/{}", program.as_raw_fd()))
            .arg0(INIT)
            .env_clear()
            .stdin(Stdio::from(theirs))
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
        let descriptors = [&order.steps, &order.channel, stdout, stderr].map(AsFd::as_fd);
        send(&self.socket, &serde_json::to_vec(&order.frame)?, &descriptors)
    }
}

impl Drop for Zygote {
    fn drop(&mut self) {
        self.wait_for_leaving();
        let ended = shutdown(self.socket.as_raw_fd(), Shutdown::Both).map_err(io::Error::from);
        let ended = ended.and_then(|()| self.child.wait());
        debug_assert!(ended.is_ok(), "a child that was not waited for ends with its socket, and can be waited for");
    }
}

/// The life of the zygote. Each copy ends with the exit code that `take` gives, and at once: what it has would only be
/// copied to be given back, and rbuild waits for its end.
pub(super) fn live(take: impl Fn(Order) -> u8) -> io::Result<u8> {
    let socket = OwnedFd::from(system::take_stdin()?);
    // What the terminal sends to rbuild's process group is for rbuild to answer.
    rustix::process::setsid()?;
    // For the steps, once for all of them. Nothing here counts on a signal: sockets are written to without SIGPIPE.
    system::default_signals();
    while let Some(order) = wait(&socket)? {
        if system::fork_sibling()? {
            drop(socket);
            let [stdout, stderr] = &order.outputs;
            nix::unistd::dup2_stdout(stdout)?;
            nix::unistd::dup2_stderr(stderr)?;
            system::leave(take(order));
        }
    }
    Ok(0)
}

/// Waits for an order; none comes any more when rbuild is gone.
fn wait(socket: &OwnedFd) -> io::Result<Option<Order>> {
    let Some((bytes, descriptors)) = receive(socket)? else { return Ok(None) };
    let [steps, channel, stdout, stderr] =
        <[OwnedFd; 4]>::try_from(descriptors).map_err(|_| io::Error::from(io::ErrorKind::InvalidData))?;
    Ok(Some(Order { frame: serde_json::from_slice(&bytes)?, steps, channel, outputs: [stdout, stderr] }))
}

/// Two ends of a socket that keeps messages apart.
pub(super) fn packets() -> io::Result<(OwnedFd, OwnedFd)> {
    Ok(socketpair(AddressFamily::Unix, SockType::SeqPacket, None, SockFlag::SOCK_CLOEXEC)?)
}

/// Sends a message, which has at least one byte.
pub(super) fn send(socket: &OwnedFd, bytes: &[u8], descriptors: &[BorrowedFd<'_>]) -> io::Result<()> {
    let descriptors: Vec<i32> = descriptors.iter().map(AsRawFd::as_raw_fd).collect();
    let control = [ControlMessage::ScmRights(&descriptors)];
    sendmsg::<UnixAddr>(socket.as_raw_fd(), &[IoSlice::new(bytes)], &control, MsgFlags::MSG_NOSIGNAL, None)?;
    Ok(())
}

/// Waits for a message; none comes any more when the other end is closed.
pub(super) fn receive(socket: impl AsFd) -> io::Result<Option<(Vec<u8>, Vec<OwnedFd>)>> {
    let mut bytes = vec![0; MOST_MESSAGE];
    let mut parts = [IoSliceMut::new(&mut bytes)];
    let mut space = cmsg_space!([i32; MOST_DESCRIPTORS]);
    let flags = MsgFlags::MSG_CMSG_CLOEXEC;
    let message = loop {
        match recvmsg::<UnixAddr>(socket.as_fd().as_raw_fd(), &mut parts, Some(&mut space), flags) {
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
    let length = message.bytes;
    bytes.truncate(length);
    Ok((length > 0).then(|| (bytes, files.into_iter().map(OwnedFd::from).collect())))
}
