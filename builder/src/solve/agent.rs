//! A socket of our own for a step, behind which is the caller's ssh agent.
//!
//! The agent's own socket cannot be given to a step: in a user namespace its owner is nobody there, and its directory is
//! the caller's. What the step says is passed on by rbuild, whom the agent knows.

use std::io;
use std::net::Shutdown;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread::{Builder, JoinHandle};

use rustix::event::{PollFd, PollFlags, poll};
use rustix::fs::Mode;
use rustix::io::Errno;
use rustix::pipe::{PipeFlags, pipe_with};
use snapshot::Active;

use crate::graph::SshOp;

/// The most connections at a time: a step that wants more is out to exhaust rbuild.
const CONNECTIONS: usize = 64;

/// Passes connections on until it is dropped.
#[derive(Debug)]
pub(super) struct Proxy {
    /// The directory of the socket; removed when the proxy ends.
    directory: Active,
    /// The end of a pipe: closing it ends the thread.
    stop: Option<OwnedFd>,
    thread: Option<JoinHandle<()>>,
}

impl Proxy {
    /// Makes a socket in `directory` as `ssh` wants it, and passes on what comes to it to the socket `agent`.
    pub(super) fn start(directory: Active, ssh: &SshOp, agent: &Path) -> io::Result<Self> {
        let opened = fs_err::File::open(directory.upper())?;
        // A socket's address has 108 bytes, which the path of the store may exceed.
        let short = PathBuf::from(format!("/proc/self/fd/{}/agent", opened.as_raw_fd()));
        let listener = UnixListener::bind(&short)?;
        rustix::fs::chmod(&short, Mode::from_raw_mode(ssh.mode))?;
        directory.give(&short, Some(ssh.uid), Some(ssh.gid))?;
        listener.set_nonblocking(true)?;
        let (stopped, stop) = pipe_with(PipeFlags::CLOEXEC)?;
        let agent = agent.to_owned();
        let thread = Builder::new().name("ssh-agent".to_owned()).spawn(move || serve(&listener, &stopped, &agent))?;
        Ok(Self { directory, stop: Some(stop), thread: Some(thread) })
    }

    /// The socket.
    pub(super) fn path(&self) -> PathBuf {
        self.directory.upper().join("agent")
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            let ended = thread.join();
            debug_assert!(ended.is_ok(), "passing on bytes does not panic");
        }
    }
}

/// Takes connections until the other end of `stopped` is closed.
fn serve(listener: &UnixListener, stopped: &OwnedFd, agent: &Path) {
    let open = Arc::new(AtomicUsize::new(0));
    loop {
        let mut ready = [PollFd::new(listener, PollFlags::IN), PollFd::new(stopped, PollFlags::IN)];
        match poll(&mut ready, None) {
            Ok(_) | Err(Errno::INTR) => {}
            Err(_) => return,
        }
        if !ready[1].revents().is_empty() {
            return;
        }
        let Ok((step, _)) = listener.accept() else { continue };
        if open.fetch_add(1, Ordering::SeqCst) >= CONNECTIONS {
            open.fetch_sub(1, Ordering::SeqCst);
            continue;
        }
        let (agent, open) = (agent.to_owned(), Arc::clone(&open));
        let passing = move || {
            // Whatever goes wrong, the step sees a closed connection, as from an agent that has gone.
            pass_on(step, &agent).ok();
            open.fetch_sub(1, Ordering::SeqCst);
        };
        if Builder::new().name("ssh-agent".to_owned()).spawn(passing).is_err() {
            return;
        }
    }
}

/// Passes on both ways until the step's end is closed.
fn pass_on(step: UnixStream, agent: &Path) -> io::Result<()> {
    step.set_nonblocking(false)?;
    let agent = UnixStream::connect(agent)?;
    let (mut answers, mut answered) = (agent.try_clone()?, step.try_clone()?);
    let (mut asks, mut asked) = (step, agent);
    std::thread::scope(|scope| {
        scope.spawn(move || {
            io::copy(&mut answers, &mut answered).ok();
            answered.shutdown(Shutdown::Both).ok();
        });
        io::copy(&mut asks, &mut asked).ok();
        asked.shutdown(Shutdown::Both)
    })
}
