//! Being whoever makes a call: only that user may look into its processes, and may open what it may open.
//!
//! Works on the calling thread alone: ids belong to threads, it is the C library that gives all threads of a process the
//! same (credentials(7), nptl(7)).

use std::io;

use rustix::io::Errno;

/// The ids that the thread has taken.
#[derive(Debug, Default, PartialEq, Eq, Clone, Copy)]
pub(super) struct Caller {
    uid: u32,
    gid: u32,
}

impl Caller {
    /// Takes the ids of the process of `thread`. Privileges are kept, as root is the effective and saved user all the
    /// while; only for files it is the caller.
    pub(super) fn become_one(&mut self, thread: i32) -> Result<(), Errno> {
        let status = status(thread)?;
        let id = |name: &str| field(&status, name)?.split_whitespace().next()?.parse().ok();
        let (Some(uid), Some(gid)) = (id("Uid:"), id("Gid:")) else { return Err(Errno::SRCH) };
        let wanted = Self { uid, gid };
        if wanted == *self {
            return Ok(());
        }
        // Root first: it alone may take any other id. Only by becoming root for files (setfsuid, no other call) does a thread
        // get back the capabilities that it loses when it becomes another for them (capabilities(7)).
        // SAFETY: the call takes a number and no memory, and changes this thread's id alone.
        unsafe { libc::syscall(libc::SYS_setfsuid, 0) };
        for (call, first) in [(libc::SYS_setresuid, 0), (libc::SYS_setresgid, gid), (libc::SYS_setresuid, uid)] {
            // SAFETY: the calls take numbers and no memory, and change this thread's ids alone.
            if unsafe { libc::syscall(call, first, 0, 0) } != 0 {
                return Err(Errno::from_io_error(&io::Error::last_os_error()).unwrap_or(Errno::PERM));
            }
        }
        for (call, id) in [(libc::SYS_setfsgid, gid), (libc::SYS_setfsuid, uid)] {
            // SAFETY: as above; these return the id before and cannot fail for one that was just taken.
            unsafe { libc::syscall(call, id) };
        }
        *self = wanted;
        Ok(())
    }
}

/// The process that a thread is of.
pub(super) fn process_of(thread: i32) -> Result<i32, Errno> {
    field(&status(thread)?, "Tgid:").and_then(|id| id.trim().parse().ok()).ok_or(Errno::SRCH)
}

fn status(thread: i32) -> Result<String, Errno> {
    let read = fs_err::read(format!("/proc/{thread}/status"));
    let bytes = read.map_err(|error| Errno::from_io_error(&error).unwrap_or(Errno::SRCH))?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

fn field<'a>(status: &'a str, name: &str) -> Option<&'a str> {
    status.lines().find_map(|line| line.strip_prefix(name))
}
