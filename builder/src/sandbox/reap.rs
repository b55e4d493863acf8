//! Waiting for processes to end, and ending them.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::FileExt;

use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::process::{Pid, WaitOptions, WaitStatus, kill_process, wait};

/// The exit code of a process that has ended, as `ExitStatus` describes it.
fn exit_code(status: WaitStatus) -> Option<i32> {
    status.exit_status().or_else(|| status.terminating_signal().map(|signal| 128 + signal))
}

/// Reaps whatever ends until `main` does; returns its exit code.
pub(super) fn until_ended(main: Pid) -> io::Result<i32> {
    loop {
        match wait(WaitOptions::empty()) {
            Ok(Some((pid, status))) if pid == main => {
                if let Some(code) = exit_code(status) {
                    return Ok(code);
                }
            }
            Ok(_) | Err(Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
}

/// Reaps what has ended. Tells whether this process has no children any more: as process 1 of a pid namespace, to which all
/// that lose their parent come, it is the last process there.
pub(super) fn is_last() -> io::Result<bool> {
    loop {
        match wait(WaitOptions::NOHANG) {
            Ok(Some(_)) | Err(Errno::INTR) => {}
            Ok(None) => return Ok(false),
            Err(Errno::CHILD) => return Ok(true),
            Err(error) => return Err(error.into()),
        }
    }
}

/// Waits for descriptors to become ready: for each tells whether it did. All are false when the time is up.
pub(super) fn ready<const N: usize>(descriptors: [&dyn AsDescriptor; N], time: Option<i64>) -> io::Result<[bool; N]> {
    let time = time.map(|seconds| Timespec { tv_sec: seconds, tv_nsec: 0 });
    let mut polled = descriptors
        .map(|descriptor| PollFd::from_borrowed_fd(descriptor.descriptor(), PollFlags::IN | PollFlags::RDHUP));
    loop {
        match poll(&mut polled, time.as_ref()) {
            Err(Errno::INTR) => {}
            Err(error) => return Err(error.into()),
            Ok(_) => return Ok(polled.map(|descriptor| !descriptor.revents().is_empty())),
        }
    }
}

/// [`AsFd`] for a list of different types.
pub(super) trait AsDescriptor {
    /// The descriptor.
    fn descriptor(&self) -> std::os::fd::BorrowedFd<'_>;
}

impl<T: AsFd> AsDescriptor for T {
    fn descriptor(&self) -> std::os::fd::BorrowedFd<'_> {
        self.as_fd()
    }
}

/// Kills what descends from this process where no pid namespace does it: everything that loses its parent becomes a
/// child of this process, its subreaper, which kills its children until it has none.
pub(super) struct Subreaper {
    /// The list of the children. Opened before the step runs, which may change what a path means.
    children: File,
    /// Readable when a child has ended.
    ended: SignalFd,
}

impl Subreaper {
    /// Adopts from now on.
    pub(super) fn new() -> io::Result<Self> {
        rustix::process::set_child_subreaper(Some(rustix::process::getpid()))?;
        let children = File::from(fs_err::File::open("/proc/thread-self/children")?);
        let mut signals = SigSet::empty();
        signals.add(Signal::SIGCHLD);
        signals.thread_block()?;
        Ok(Self { children, ended: SignalFd::with_flags(&signals, SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK)? })
    }

    /// Reaps whatever ends until `main` does, and returns its exit code; nothing when the other end of `lifeline` was
    /// closed before.
    pub(super) fn until_ended(&self, main: Pid, lifeline: &OwnedFd) -> io::Result<Option<i32>> {
        loop {
            let [abandoned, _] = ready([lifeline, &self.ended], None)?;
            if abandoned {
                return Ok(None);
            }
            while self.ended.read_signal()?.is_some() {}
            while let Some((pid, status)) = wait(WaitOptions::NOHANG)? {
                if let Some(code) = exit_code(status).filter(|_| pid == main) {
                    return Ok(Some(code));
                }
            }
        }
    }

    /// Kills and reaps until there is nothing left.
    pub(super) fn kill_all(&self) -> io::Result<()> {
        loop {
            for child in self.list()? {
                match kill_process(child, rustix::process::Signal::KILL) {
                    Ok(()) | Err(Errno::SRCH) => {}
                    Err(error) => return Err(error.into()),
                }
            }
            match wait(WaitOptions::empty()) {
                Ok(_) | Err(Errno::INTR) => {}
                Err(Errno::CHILD) => return Ok(()),
                Err(error) => return Err(error.into()),
            }
        }
    }

    fn list(&self) -> io::Result<Vec<Pid>> {
        let mut bytes = Vec::new();
        let mut buffer = [0; 4096];
        loop {
            let count = self.children.read_at(&mut buffer, bytes.len() as u64)?;
            if count == 0 {
                break;
            }
            bytes.extend_from_slice(&buffer[..count]);
        }
        let text = String::from_utf8_lossy(&bytes);
        Ok(text.split_whitespace().filter_map(|pid| Pid::from_raw(pid.parse().ok()?)).collect())
    }
}
