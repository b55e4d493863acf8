//! rbuild's side of a step: has its init started, hands over output, cancels, and cleans up.

use std::fs::File;
use std::io::{self, Read, Seek, Write};
use std::net::Shutdown;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::UnixStream;
use std::os::unix::process::ExitStatusExt;
use std::time::Instant;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{MemfdFlags, Mode, OFlags, memfd_create};
use rustix::io::Errno;
use rustix::process::{Pid, Signal, WaitOptions, kill_process, waitpid};

use super::cancel::Cancel;
use super::describe::{ExitStatus, Mount, Process, Root, Stream};
use super::error::SandboxError;
use super::inits::Inits;
use super::spec::{Frame, Made, Report, Spec};
use super::{program, settings, stubs};

/// `OVL_MAX_STACK` of the kernel.
const MOST_LAYERS: usize = 500;
/// Bytes read from an output at once.
const CHUNK: usize = 64 * 1024;
/// The most that a report may have: thousands of mount points.
const MOST_REPORT: usize = 4 << 20;
/// Seconds that the init has to kill the step before it is killed itself.
const PATIENCE: i64 = 5;

/// Refuses what no init could run, so that nothing fails half-way for a reason that was plain before.
pub(super) fn check(root: &Root, process: &Process, mounts: &[Mount]) -> Result<(), SandboxError> {
    let invalid = |reason: &str| Err(SandboxError::InvalidStep { reason: reason.to_owned() });
    if root.lowers.len() > MOST_LAYERS {
        return Err(SandboxError::TooManyLayers { count: root.lowers.len(), limit: MOST_LAYERS });
    }
    if process.argv.is_empty() {
        return invalid("it has no program");
    }
    let nul = |text: &std::ffi::OsStr| text.as_bytes().contains(&0);
    if process.argv.iter().any(|argument| nul(argument)) || nul(process.cwd.as_os_str()) {
        return invalid("an argument or the working directory has a NUL in it");
    }
    if process.env.iter().any(|(name, value)| nul(name) || nul(value)) {
        return invalid("a variable of its environment has a NUL in it");
    }
    if process.env.iter().any(|(name, _)| name.is_empty() || name.as_bytes().contains(&b'=')) {
        return invalid("a variable of its environment has no name, or a name with `=` in it");
    }
    check_lengths(process)?;
    if process.hostname.len() > 64 || process.hostname.contains(|letter: char| letter.is_whitespace() || letter == '\0')
    {
        return invalid("its host name has more than 64 bytes, or white space in it");
    }
    settings::check(&process.settings)?;
    for mount in mounts {
        let target = mount.target();
        if nul(target.as_os_str()) || !target.is_absolute() {
            return invalid("the target of a mount is not an absolute path");
        }
        if let Mount::Layers { lowers, .. } = mount
            && lowers.len() > MOST_LAYERS
        {
            return Err(SandboxError::TooManyLayers { count: lowers.len(), limit: MOST_LAYERS });
        }
    }
    Ok(())
}

/// Refuses an argument or a variable that is longer than a program may get one, whatever they come to (execve(2),
/// "Limits on size of arguments and environment").
fn check_lengths(process: &Process) -> Result<(), SandboxError> {
    const PAGES: usize = 32;
    let most = PAGES * rustix::param::page_size() - 1;
    let arguments = process.argv.iter().enumerate();
    let arguments = arguments.map(|(number, argument)| (format!("its argument {number}"), argument.len()));
    let variables = process.env.iter();
    let variables = variables
        .map(|(name, value)| (format!("its variable `{}`", name.display()), name.len() + "=".len() + value.len()));
    match arguments.chain(variables).find(|(_, length)| *length > most) {
        Some((what, length)) => Err(SandboxError::TooLong { what, length, most }),
        None => Ok(()),
    }
}

/// Runs one step.
pub(super) fn run(
    inits: &Inits,
    spec: &Spec,
    stdin: Option<&[u8]>,
    cancel: &Cancel,
    output: &mut dyn FnMut(Stream, &[u8]),
) -> Result<ExitStatus, SandboxError> {
    if cancel.is_cancelled() {
        return Err(SandboxError::Cancelled);
    }
    let mut running = inits.begin(spec, stdin)?;
    // Read while the root is made.
    let kills = settings::memory_kills();
    let deadline = spec.settings.timeout.and_then(|timeout| Instant::now().checked_add(timeout));
    let watched = running.watch(cancel, deadline, output, &|| inits.prepare(Frame::of(spec)));
    if cancel.is_cancelled() {
        running.end();
        return Err(SandboxError::Cancelled);
    }
    let report = watched.map_err(|source| SandboxError::Watch { action: "read the output", source })?;
    if let Some(after) = spec.settings.timeout.filter(|_| running.timed_out) {
        running.end();
        return Err(SandboxError::TimedOut { after });
    }
    let Some((code, made)) = verdict(&report)? else {
        let status = running.end();
        let status = status.map_or_else(|| "it could not be waited for".to_owned(), |status| status.to_string());
        return Err(SandboxError::InitDied { status });
    };
    match running.init.take() {
        // A group cannot be removed before its last process is gone.
        Some(init) if spec.group.is_none() => inits.see_off(init),
        init => {
            running.init = init;
            running.end();
        }
    }
    let upper = spec.upper.as_ref();
    if !made.stubs.is_empty() {
        stubs::remove(upper, &made, &stubs::look(upper, &made)?)?;
    }
    Ok(ExitStatus { code, out_of_memory: code != 0 && settings::memory_kills() > kills })
}

/// What the report says: the first failure, or else how the step ended; nothing when the init could not say it.
fn verdict(report: &[u8]) -> Result<Option<(i32, Made)>, SandboxError> {
    let mut ended = None;
    for line in report.split(|&byte| byte == b'\n').filter(|line| !line.is_empty()) {
        match serde_json::from_slice(line) {
            Ok(Report::Begun) => {}
            Ok(Report::Failed(failure)) => return Err(failure.into()),
            Ok(Report::Ended { code, made, last: _ }) => ended = Some((code, made)),
            Err(source) => return Err(SandboxError::Watch { action: "read the report", source: source.into() }),
        }
    }
    Ok(ended)
}

/// What a report says after the first `heard` bytes, in whole lines, which are counted as heard.
fn words<'a>(report: &'a [u8], heard: &mut usize) -> impl Iterator<Item = Report> + 'a {
    let new = &report[*heard..];
    let whole = new.iter().rposition(|&byte| byte == b'\n').map_or(0, |end| end + 1);
    *heard += whole;
    // What is no report is found when all of it is read.
    new[..whole].split(|&byte| byte == b'\n').filter_map(|line| serde_json::from_slice(line).ok())
}

/// A spawned init. Dropping it ends it, and with it everything of the step.
#[derive(Debug)]
pub(super) struct Running {
    init: Option<Pid>,
    pub(super) channel: UnixStream,
    outputs: [Output; 2],
    /// Whether it was ended because of its deadline.
    timed_out: bool,
}

/// The reading end of one output.
#[derive(Debug)]
struct Output {
    stream: Stream,
    pipe: File,
    /// Whether the other end is open.
    open: bool,
}

impl Output {
    fn new(stream: Stream, pipe: OwnedFd) -> Self {
        Self { stream, pipe: File::from(pipe), open: true }
    }

    /// Hands over one chunk, if there is any. Tells whether there was.
    fn drain_once(&mut self, buffer: &mut [u8], output: &mut dyn FnMut(Stream, &[u8])) -> io::Result<bool> {
        match self.pipe.read(buffer) {
            Ok(0) => self.open = false,
            Ok(count) => {
                output(self.stream, &buffer[..count]);
                return Ok(true);
            }
            Err(error) if is_temporary(&error) => {}
            Err(error) => return Err(error),
        }
        Ok(false)
    }
}

fn is_temporary(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted)
}

impl Running {
    /// Takes an init with the reading ends of its outputs.
    pub(super) fn new(init: Pid, channel: UnixStream, [stdout, stderr]: [OwnedFd; 2]) -> Self {
        let outputs = [Output::new(Stream::Stdout, stdout), Output::new(Stream::Stderr, stderr)];
        Self { init: Some(init), channel, outputs, timed_out: false }
    }

    /// Lets no read wait.
    pub(super) fn do_not_block(&self) -> io::Result<()> {
        let ours = [self.outputs[0].pipe.as_fd(), self.outputs[1].pipe.as_fd(), self.channel.as_fd()];
        Ok(ours.into_iter().try_for_each(|ours| rustix::io::ioctl_fionbio(ours, true))?)
    }

    /// Hands over output until everything of the step is dead: the init says so, or it has closed the channel after that.
    /// Returns what it reported. At the deadline the step is ended. `begun` is called once the step begins.
    fn watch(
        &mut self,
        cancel: &Cancel,
        deadline: Option<Instant>,
        output: &mut dyn FnMut(Stream, &[u8]),
        begun: &dyn Fn(),
    ) -> io::Result<Vec<u8>> {
        let (mut report, mut heard) = (Vec::new(), 0);
        let mut buffer = vec![0; CHUNK];
        let mut patience: Option<Timespec> = None;
        loop {
            let left = deadline.filter(|_| patience.is_none()).map(until).transpose()?;
            let mut ready = self.wait(cancel, (patience.as_ref(), left.as_ref()))?;
            if ready.nothing && patience.is_some() {
                self.kill()?;
            } else if ready.nothing {
                (self.timed_out, ready.cancelled) = (true, true);
            }
            for (stream, _) in self.outputs.iter_mut().zip(ready.outputs).filter(|(_, ready)| *ready) {
                stream.drain_once(&mut buffer, output)?;
            }
            if ready.cancelled {
                patience = Some(Timespec { tv_sec: PATIENCE, tv_nsec: 0 });
                self.hang_up()?;
            }
            if ready.channel {
                let mut over = self.read_report(&mut report)?;
                for word in words(&report, &mut heard) {
                    match word {
                        Report::Begun => begun(),
                        Report::Ended { last, .. } => over |= last,
                        Report::Failed(_) => {}
                    }
                }
                if over {
                    break;
                }
            }
        }
        for stream in &mut self.outputs {
            while stream.open && stream.drain_once(&mut buffer, output)? {}
        }
        Ok(report)
    }

    /// Waits for anything to happen: for `patience` at most when the step has been told to end, else for what is `left`
    /// until its deadline.
    fn wait(&self, cancel: &Cancel, (patience, left): (Option<&Timespec>, Option<&Timespec>)) -> io::Result<Ready> {
        let mut descriptors = vec![PollFd::new(&self.channel, PollFlags::IN)];
        let open = self.outputs.iter().filter(|output| output.open);
        descriptors.extend(open.map(|output| PollFd::new(&output.pipe, PollFlags::IN)));
        let wakeup = cancel.wakeup();
        if patience.is_none() {
            descriptors.push(PollFd::new(&wakeup, PollFlags::IN));
        }
        let count = match poll(&mut descriptors, patience.or(left)) {
            Err(Errno::INTR) => return Ok(Ready::default()),
            result => result?,
        };
        let mut flags = descriptors.iter().map(|descriptor| !descriptor.revents().is_empty());
        let mut next = || flags.next().unwrap_or_default();
        let channel = next();
        let outputs = [self.outputs[0].open && next(), self.outputs[1].open && next()];
        Ok(Ready { nothing: count == 0, channel, outputs, cancelled: next() })
    }

    /// Reads what the init has said; tells whether it has closed the channel.
    fn read_report(&mut self, report: &mut Vec<u8>) -> io::Result<bool> {
        let mut buffer = [0; 4096];
        match self.channel.read(&mut buffer) {
            Ok(0) => Ok(true),
            Ok(count) if report.len() + count > MOST_REPORT => Err(io::ErrorKind::FileTooLarge.into()),
            Ok(count) => {
                report.extend_from_slice(&buffer[..count]);
                Ok(false)
            }
            Err(error) if is_temporary(&error) => Ok(false),
            Err(error) if error.kind() == io::ErrorKind::ConnectionReset => Ok(true),
            Err(error) => Err(error),
        }
    }

    /// Asks the init to kill the step.
    fn hang_up(&self) -> io::Result<()> {
        match self.channel.shutdown(Shutdown::Write) {
            Err(error) if error.kind() == io::ErrorKind::NotConnected => Ok(()),
            result => result,
        }
    }

    fn kill(&self) -> io::Result<()> {
        self.init.map_or(Ok(()), |init| Ok(kill_process(init, Signal::KILL)?))
    }

    /// Waits for the init, which has been told to end or has ended.
    fn end(&mut self) -> Option<std::process::ExitStatus> {
        let status = self
            .init
            .take()
            .and_then(|init| rustix::io::retry_on_intr(|| waitpid(Some(init), WaitOptions::empty())).ok());
        status.flatten().map(|(_, status)| std::process::ExitStatus::from_raw(status.as_raw()))
    }
}

impl Drop for Running {
    /// Ends the step when an error or a panic of the reader of its output leaves it alone.
    fn drop(&mut self) {
        if self.init.is_some() {
            let hung_up = self.hang_up();
            debug_assert!(hung_up.is_ok(), "a socket can be shut down");
            self.end();
        }
    }
}

/// The time until `deadline`.
fn until(deadline: Instant) -> io::Result<Timespec> {
    Timespec::try_from(deadline.saturating_duration_since(Instant::now())).map_err(io::Error::other)
}

/// What `poll` found.
#[derive(Default)]
struct Ready {
    /// The time is up.
    nothing: bool,
    channel: bool,
    outputs: [bool; 2],
    cancelled: bool,
}

/// Puts `bytes` into memory that cannot change, and opens it for reading alone.
pub(super) fn sealed(name: &str, bytes: &[u8]) -> io::Result<File> {
    let memory = memfd_create(name, MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING)?;
    let mut file = File::from(memory);
    file.write_all(bytes)?;
    file.rewind()?;
    program::seal(&file)?;
    let path = format!("/proc/self/fd/{}", file.as_raw_fd());
    Ok(File::from(rustix::fs::open(path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())?))
}
