//! The one way to stop running steps, and what is read for them, from another thread or from a signal handler.

use std::io::{self, BufRead, Read};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use rustix::event::{EventfdFlags, eventfd};

use super::error::SandboxError;

/// Stops every step that runs with it, once and for all. Clones share one state.
#[derive(Debug, Clone)]
pub struct Cancel(Arc<State>);

#[derive(Debug)]
struct State {
    cancelled: AtomicBool,
    /// Readable from the moment of cancellation on; nobody ever reads it.
    wakeup: OwnedFd,
}

impl Cancel {
    /// Makes a flag that is not raised; fails where the process has no free descriptor.
    pub fn new() -> Result<Self, SandboxError> {
        let wakeup = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)
            .map_err(|error| SandboxError::Descriptor { what: "an eventfd", source: error.into() })?;
        Ok(Self(Arc::new(State { cancelled: AtomicBool::new(false), wakeup })))
    }

    /// Kills every step that runs with this flag, and every step that will. Safe to call in a signal handler.
    pub fn cancel(&self) {
        self.0.cancelled.store(true, Ordering::SeqCst);
        let written = rustix::io::write(&self.0.wakeup, &1_u64.to_ne_bytes());
        debug_assert!(matches!(written, Ok(_) | Err(rustix::io::Errno::AGAIN)), "an eventfd takes a small number");
    }

    /// Tells whether [`cancel`](Self::cancel) was called.
    pub fn is_cancelled(&self) -> bool {
        self.0.cancelled.load(Ordering::SeqCst)
    }

    /// Fails once cancelled.
    pub(crate) fn check(&self) -> io::Result<()> {
        if self.is_cancelled() { Err(io::Error::other("the build was cancelled")) } else { Ok(()) }
    }

    /// A descriptor that is readable once cancelled.
    pub(super) fn wakeup(&self) -> BorrowedFd<'_> {
        self.0.wakeup.as_fd()
    }
}

/// A reader that fails once cancelled, with whatever of a large file is left.
#[derive(Debug)]
pub struct UntilCancelled<'a, R>(pub R, pub &'a Cancel);

impl<R: Read> Read for UntilCancelled<'_, R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.1.check()?;
        self.0.read(buffer)
    }
}

impl<R: BufRead> BufRead for UntilCancelled<'_, R> {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        self.1.check()?;
        self.0.fill_buf()
    }

    fn consume(&mut self, count: usize) {
        self.0.consume(count);
    }
}
