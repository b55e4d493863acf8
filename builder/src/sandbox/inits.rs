//! The inits of steps: one is made while the step before still runs, and waits for its own.
//!
//! It has its namespaces and everything of its root that is not in layers; that takes longer than the rest. Nothing of a
//! step is in it before the step comes, and it ends with rbuild as every init does.

use std::io::Read;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use rustix::pipe::{PipeFlags, pipe_with};
use rustix::process::Pid;

use super::error::SandboxError;
use super::reap;
use super::run::{Running, sealed};
use super::spec::{Frame, Spec};
use super::zygote::{self, Order, Zygote};

/// The most that an init may take to say its first word, which takes less than a millisecond.
const BEGINNING: Duration = Duration::from_mins(1);

/// What makes inits.
#[derive(Debug)]
pub(super) struct Inits {
    /// The one that waits. Before the zygote, for it ends first.
    waiting: Mutex<Option<Waiting>>,
    /// How many more steps are to come.
    expected: AtomicUsize,
    zygote: Zygote,
}

/// An init that waits for its step. Dropping it ends it.
#[derive(Debug)]
pub(super) struct Waiting {
    frame: Frame,
    /// Takes the step.
    steps: OwnedFd,
    running: Running,
}

impl Inits {
    /// Starts the zygote.
    pub(super) fn start() -> Result<Self, SandboxError> {
        Ok(Self { waiting: Mutex::default(), expected: AtomicUsize::new(0), zygote: Zygote::start()? })
    }

    /// Learns that so many more steps are to come, if all goes well.
    pub(super) fn expect(&self, steps: usize) {
        self.expected.fetch_add(steps, Ordering::Relaxed);
    }

    /// Has a step begin: in the init that waits, if that is one for it.
    pub(super) fn begin(&self, spec: &Spec, stdin: Option<&[u8]>) -> Result<Running, SandboxError> {
        let frame = Frame::of(spec);
        let waiting = self.waiting().take().filter(|waiting| waiting.is_for(&frame));
        let waiting = waiting.map_or_else(|| Waiting::order(&self.zygote, frame), Ok)?;
        waiting.begin(spec, stdin)?;
        self.zygote.wait_for_leaving();
        waiting.mount()
    }

    /// Makes the init of the next step, if there is one to come. To be called when a step has begun, for until then its
    /// own init has much to do.
    pub(super) fn prepare(&self, frame: Frame) {
        let expected = self.expected.try_update(Ordering::Relaxed, Ordering::Relaxed, |steps| steps.checked_sub(1));
        // A group is that of one step.
        if expected.unwrap_or(0) < 2 || frame.group.is_some() {
            return;
        }
        let mut waiting = self.waiting();
        if waiting.is_none() {
            // What fails here fails again when the step comes, and is reported then.
            *waiting = Waiting::order(&self.zygote, frame).ok();
        }
    }

    /// Takes an init that is ending; see [`Zygote::see_off`].
    pub(super) fn see_off(&self, init: Pid) {
        self.zygote.see_off(init);
    }

    fn waiting(&self) -> MutexGuard<'_, Option<Waiting>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Waiting {
    fn order(zygote: &Zygote, frame: Frame) -> Result<Self, SandboxError> {
        let make = |what| move |source: std::io::Error| SandboxError::Descriptor { what, source };
        let pipe = || pipe_with(PipeFlags::CLOEXEC).map_err(|error| make("a pipe")(error.into()));
        let (steps, their_steps) = zygote::packets().map_err(make("a socket pair"))?;
        let (mut channel, theirs) = UnixStream::pair().map_err(make("a socket pair"))?;
        let ((stdout, their_stdout), (stderr, their_stderr)) = (pipe()?, pipe()?);
        let order = Order { frame, steps: their_steps, channel: theirs.into(), outputs: [their_stdout, their_stderr] };
        let begin = |source| SandboxError::Watch { action: "begin the init", source };
        zygote.send(&order).map_err(begin)?;
        let frame = order.frame;
        // Or the outputs and the channel would never end.
        drop((order.steps, order.channel, order.outputs));
        let init = first_word(&mut channel).map_err(begin)?;
        let running = Running::new(init, channel, [stdout, stderr]);
        running.do_not_block().map_err(make("a pipe"))?;
        Ok(Self { frame, steps, running })
    }

    /// Tells whether it can take a step with this frame: it is alive and nothing has failed.
    fn is_for(&self, frame: &Frame) -> bool {
        self.frame == *frame && matches!(reap::ready([&self.running.channel], Some(0)), Ok([false]))
    }

    /// Gives it its step, for which it makes everything ready.
    fn begin(&self, spec: &Spec, stdin: Option<&[u8]>) -> Result<(), SandboxError> {
        let make = |what| move |source: std::io::Error| SandboxError::Descriptor { what, source };
        let bytes = serde_json::to_vec(spec).map_err(|error| make("the specification of the step")(error.into()))?;
        let spec = sealed("spec", &bytes).map_err(make("a memfd for the specification"))?;
        let stdin =
            stdin.map(|bytes| sealed("stdin", bytes)).transpose().map_err(make("a memfd for standard input"))?;
        let files: Vec<_> = [Some(&spec), stdin.as_ref()].into_iter().flatten().map(AsFd::as_fd).collect();
        self.tell(&files)
    }

    /// Lets it mount the root and start the step.
    fn mount(self) -> Result<Running, SandboxError> {
        self.tell(&[])?;
        Ok(self.running)
    }

    fn tell(&self, files: &[BorrowedFd<'_>]) -> Result<(), SandboxError> {
        match zygote::send(&self.steps, &[0], files) {
            // The init has ended, and said why or not: whoever watches it learns that.
            Err(error)
                if matches!(error.kind(), std::io::ErrorKind::BrokenPipe | std::io::ErrorKind::ConnectionReset) =>
            {
                Ok(())
            }
            sent => sent.map_err(|source| SandboxError::Watch { action: "begin the step", source }),
        }
    }
}

/// Waits for what an init says first: its process id.
fn first_word(channel: &mut UnixStream) -> std::io::Result<Pid> {
    let mut word = [0; 4];
    channel.set_read_timeout(Some(BEGINNING))?;
    channel.read_exact(&mut word)?;
    Pid::from_raw(i32::from_ne_bytes(word)).ok_or_else(|| std::io::ErrorKind::InvalidData.into())
}
