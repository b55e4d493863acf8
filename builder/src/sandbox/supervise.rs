//! Starting the step's process, and answering its calls where root is emulated.
//!
//! ```text
//! process 1 ── fork ──▶ the step: filters itself, sends the listener, gives up capabilities, becomes its user, execve
//!    │ gives up capabilities                     │
//!    └ thread "root" ◀── the listener ───────────┘  answers until process 1 ends
//! ```
//!
//! Filters need `CAP_SYS_ADMIN`, and nothing of the step's is executed before they are in force. A call that is made before
//! the thread listens waits for it. Where no root is emulated process 1 needs none of the calls that a step may not make:
//! it filters itself and gives up its capabilities before it forks, and the step has nothing to wait for. Only that the old
//! root is left, which the stub does meanwhile, every step waits for.

use std::io::{ErrorKind, Read, Write};
use std::os::unix::net::UnixStream;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::thread::{Builder, JoinHandle};

use rustix::process::{Pid, Signal, kill_process};
use rustix::thread::CapabilitySet;

use super::emulate::{self, Emulation, RootEmulation};
use super::seccomp::{self, Handler, Listener, Program};
use super::spec::{Attempt, Failure};
use super::{capabilities, system};

const FORK: &str = "fork the step";

/// A step that runs.
#[derive(Debug)]
pub(super) struct Started {
    /// Its first process.
    pub(super) pid: Pid,
    root: Option<JoinHandle<Result<(), Failure>>>,
}

/// Makes the filters, for all processes that are copies of this one.
pub(super) fn prepare() {
    seccomp::default();
    emulate::program(RootEmulation::Full);
}

/// Forks `step`, a process of one thread, and confines it and this process to what a step may do.
pub(super) fn start(
    emulation: Option<RootEmulation>,
    step: impl FnOnce() -> Result<u8, Failure>,
    report: impl FnOnce(Failure) -> u8,
) -> Result<Started, Failure> {
    if let Some((emulation, program)) = emulation.and_then(|kind| Some((kind, emulate::program(kind)?))) {
        return emulated((emulation, program), step, report);
    }
    filter_as_usual()?;
    capabilities::confine(CapabilitySet::empty())?;
    // Nothing is left for this process to do before the step's program runs, so it needs no memory of its own until then.
    system::fork_in_memory(|| step().unwrap_or_else(report)).map(Started::alone).attempt(|| FORK.to_owned())
}

/// Forks a step that filters itself for the emulation of root, and answers its calls where the filter does not.
fn emulated(
    (emulation, program): (RootEmulation, &Program),
    step: impl FnOnce() -> Result<u8, Failure>,
    report: impl FnOnce(Failure) -> u8,
) -> Result<Started, Failure> {
    let (ours, theirs) = UnixStream::pair().attempt(|| "make a socket pair".to_owned())?;
    let mut ends = Some((ours, theirs));
    let pid = fork(|| {
        let begun = ends.take().map_or(Ok(()), |(ours, theirs)| {
            drop(ours);
            filter(emulation, program, &theirs)?;
            // Process 1 has given up what the step may not reach through it.
            (&theirs).read_exact(&mut [0]).attempt(|| "wait for process 1".to_owned())
        });
        begun.and_then(|()| capabilities::confine(CapabilitySet::empty())).and_then(|()| step()).unwrap_or_else(report)
    })?;
    let Some((ours, theirs)) = ends else { return Ok(Started::alone(pid)) };
    drop(theirs);
    let answers = emulation == RootEmulation::Full;
    // To read what belongs to programs that let nobody read them. No process of the step has it: none traces this one.
    capabilities::confine(if answers { CapabilitySet::SYS_PTRACE } else { CapabilitySet::empty() })?;
    match (&ours).write_all(&[0]) {
        Err(error) if error.kind() == ErrorKind::BrokenPipe => {} // the step has ended, and reported why
        told => told.attempt(|| "tell the step to go on".to_owned())?,
    }
    if !answers {
        return Ok(Started::alone(pid));
    }
    // The thread begins while the step still installs its filter.
    answer(move || Listener::receive(&ours), pid, Emulation::new)
}

fn filter_as_usual() -> Result<(), Failure> {
    seccomp::install(seccomp::default()).attempt(|| "filter the calls of the step".to_owned())
}

fn fork(step: impl FnOnce() -> u8) -> Result<Pid, Failure> {
    system::fork(step).attempt(|| FORK.to_owned())
}

/// Puts this process, which is about to become the step's, under its filter.
fn filter(emulation: RootEmulation, program: &Program, socket: &UnixStream) -> Result<(), Failure> {
    let action = || "filter the calls of the step for the emulation of root".to_owned();
    if emulation != RootEmulation::Full {
        return seccomp::install(program).attempt(action);
    }
    emulate::begin().attempt(|| "begin the emulation of root".to_owned())?;
    let listener = seccomp::install_with_listener(program).attempt(action)?;
    Listener::send(&listener, socket).attempt(|| "send the listener of the step's filter".to_owned())
}

/// Has a thread answer the calls of `step`, which come from what `receive` gets, with what `handler` makes there.
pub(super) fn answer<H: Handler>(
    receive: impl FnOnce() -> std::io::Result<Option<Listener>> + Send + 'static,
    step: Pid,
    handler: impl FnOnce() -> H + Send + 'static,
) -> Result<Started, Failure> {
    let serve = move || match receive()? {
        Some(listener) => Ok(listener.serve(&mut handler())?),
        None => Ok(()), // the step has ended before, and reported why
    };
    let thread = Builder::new().name("rbuild-root".to_owned()).spawn(move || {
        let served: std::thread::Result<std::io::Result<()>> = catch_unwind(AssertUnwindSafe(serve));
        let failed = match served {
            Ok(Ok(())) => return Ok(()),
            Ok(Err(error)) => Failure::new("answer the calls of the step", error),
            Err(_) => Failure::new("answer the calls of the step", std::io::Error::other("the handler panicked")),
        };
        // Nobody answers it any more; its end tells process 1.
        match kill_process(step, Signal::KILL) {
            Ok(()) | Err(rustix::io::Errno::SRCH) => Err(failed),
            Err(error) => Err(Failure::new("kill the step, whose calls nobody answers,", error)),
        }
    });
    let root = Some(thread.attempt(|| "start a thread that answers calls".to_owned())?);
    Ok(Started { pid: step, root })
}

impl Started {
    /// A process that nobody answers for.
    pub(super) fn alone(pid: Pid) -> Self {
        Self { pid, root: None }
    }

    /// Tells whether the emulation failed, after the step has ended.
    pub(super) fn check(self) -> Result<(), Failure> {
        match self.root {
            Some(thread) if thread.is_finished() => thread.join().unwrap_or(Ok(())),
            _ => Ok(()),
        }
    }
}
