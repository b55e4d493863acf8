//! A network of the step's own with a way out: slirp4netns(1), a program of the machine, forwards what leaves it.
//!
//! The program wants a process to find the namespace by and must stay outside itself. So a child makes the namespace and
//! holds it; when the way out is there, the init joins it and the child ends. The program ends with the pipe that the
//! init holds, however the init ends.

use std::fs::File;
use std::io::{self, Read, Seek};
use std::os::fd::{AsFd, OwnedFd};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use nix::sched::{CloneFlags, setns, unshare};
use rustix::fs::{MemfdFlags, memfd_create};
use rustix::pipe::{PipeFlags, pipe_with};
use rustix::process::{Pid, Signal, WaitOptions, set_parent_process_death_signal, waitpid};

use super::spec::{Attempt, Failure};
use super::system;
use super::userns::locate;

const PROGRAM: &str = "slirp4netns";
/// The address at which it answers for the resolvers of the machine (slirp4netns(1), "--disable-dns").
pub(super) const RESOLVER: &str = "10.0.2.3";
/// The most that it may take; it needs some 20 ms.
const PATIENCE: Duration = Duration::from_secs(10);
/// Between two looks for the way out.
const PAUSE: Duration = Duration::from_millis(1);
/// The last of what it said that an error repeats, in bytes.
const MOST_SAID: usize = 1000;
/// The same, in lines.
const LINES_SAID: usize = 3;

/// The running program. Dropping it ends it.
pub(super) struct Uplink {
    child: Child,
}

impl Drop for Uplink {
    fn drop(&mut self) {
        let ended = self.child.kill().and_then(|()| self.child.wait());
        debug_assert!(ended.is_ok(), "a child that was not waited for can be killed and waited for");
    }
}

/// Moves this process, which must have one thread, into a new network namespace with a way out.
pub(super) fn join_new() -> Result<Uplink, Failure> {
    let holder = Holder::start()?;
    let mut said = memfd_create(PROGRAM, MemfdFlags::CLOEXEC)
        .map(File::from)
        .attempt(|| format!("make room for what `{PROGRAM}` says"))?;
    let mut uplink = start(holder.pid, &said)?;
    let path = format!("/proc/{}", holder.pid.as_raw_nonzero());
    let begun = Instant::now();
    while !has_default_route(&path).attempt(|| "read the routes of the step".to_owned())? {
        let ended = uplink.child.try_wait().attempt(|| format!("wait for `{PROGRAM}`"))?;
        if ended.is_some() || begun.elapsed() > PATIENCE {
            return Err(refusal(&mut said));
        }
        std::thread::sleep(PAUSE);
    }
    let namespace = fs_err::File::open(format!("{path}/ns/net")).attempt(|| "open the step's network".to_owned())?;
    setns(namespace.as_fd(), CloneFlags::CLONE_NEWNET).attempt(|| "join the step's network".to_owned())?;
    Ok(uplink)
}

fn start(holder: Pid, said: &File) -> Result<Uplink, Failure> {
    let path = locate(PROGRAM).map_err(|_| {
        let missing = io::Error::new(io::ErrorKind::NotFound, "it is not installed (`apt-get install slirp4netns`)");
        Failure::new(format!("give the step a network of its own, which needs `{PROGRAM}`"), missing)
    })?;
    let copy = || said.try_clone().attempt(|| format!("hand a file to `{PROGRAM}`"));
    let child = Command::new(&path)
        // It ends when its standard input does.
        .args(["--configure", "--mtu=65520", "--disable-host-loopback", "--exit-fd=0"])
        .arg(holder.as_raw_nonzero().to_string())
        .arg("tap0")
        .env_clear()
        .stdin(Stdio::piped())
        .stdout(copy()?)
        .stderr(copy()?)
        .spawn()
        .attempt(|| format!("run `{}`", path.display()))?;
    Ok(Uplink { child })
}

/// What the program said last: the reason stands above its own last words.
fn refusal(said: &mut File) -> Failure {
    let mut text = String::new();
    let read = said.rewind().and_then(|()| said.read_to_string(&mut text));
    let lines: Vec<&str> = text.lines().filter(|line| read.is_ok() && !line.is_empty()).collect();
    let last = lines[lines.len().saturating_sub(LINES_SAID)..].join("; ");
    let last: String =
        if last.is_empty() { "it said nothing".to_owned() } else { last.chars().take(MOST_SAID).collect() };
    Failure::new(format!("give the step a network of its own through `{PROGRAM}`"), io::Error::other(last))
}

/// Whether the namespace of the process has a default route: the last thing that is configured (`proc_pid_net(5)`).
fn has_default_route(process: &str) -> io::Result<bool> {
    let table = fs_err::read_to_string(format!("{process}/net/route"))?;
    Ok(table.lines().skip(1).any(|route| route.split_ascii_whitespace().nth(1) == Some("00000000")))
}

/// A child that is there to have a network namespace. Dropping it ends it.
struct Holder {
    pid: Pid,
    /// The child ends when it is closed.
    release: Option<OwnedFd>,
}

impl Holder {
    fn start() -> Result<Self, Failure> {
        let pipe = || pipe_with(PipeFlags::CLOEXEC).attempt(|| "make a pipe".to_owned());
        let ((made, answer), (commands, release)) = (pipe()?, pipe()?);
        let (mut ours, mut theirs) = (Some((made, release)), Some((answer, commands)));
        let pid = system::fork(|| {
            drop(ours.take());
            theirs.take().map_or(1, |(answer, commands)| u8::from(hold(&answer, &commands).is_err()))
        })
        .attempt(|| "fork".to_owned())?;
        drop(theirs.take());
        let (made, release) = ours.take().unzip();
        let holder = Self { pid, release };
        let count = made.map_or(Ok(0), |made| rustix::io::read(made, &mut [0; 1]));
        match count.attempt(|| "talk to the child".to_owned())? {
            0 => Err(Failure::new("make a network namespace", io::Error::from(io::ErrorKind::PermissionDenied))),
            _ => Ok(holder),
        }
    }
}

impl Drop for Holder {
    fn drop(&mut self) {
        drop(self.release.take());
        let reaped = waitpid(Some(self.pid), WaitOptions::empty());
        debug_assert!(reaped.is_ok(), "the child is ours and nobody else waits for it");
    }
}

fn hold(answer: &OwnedFd, commands: &OwnedFd) -> io::Result<()> {
    set_parent_process_death_signal(Some(Signal::KILL))?;
    unshare(CloneFlags::CLONE_NEWNET)?;
    system::loopback_up()?;
    rustix::io::write(answer, b"\n")?;
    rustix::io::read(commands, &mut [0; 1])?;
    Ok(())
}
