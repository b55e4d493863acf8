//! Being whoever makes a call: only that user may look into its processes, and may open what it may open.
//!
//! Works on the calling thread alone: ids belong to threads, it is the C library that gives all threads of a process the
//! same (credentials(7), nptl(7)).

use std::io;

use rustix::io::Errno;

/// The ids that the thread has taken.
#[derive(Debug, Default, PartialEq, Eq, Clone)]
pub(super) struct Caller {
    uid: u32,
    gid: u32,
    /// Before anybody was answered they are those that rbuild was started with, whatever they are.
    groups: Option<Vec<u32>>,
}

impl Caller {
    /// Takes the ids of the process of `thread`. Privileges are kept, as root is the effective and saved user all the
    /// while; only for files it is the caller.
    pub(super) fn become_one(&mut self, thread: i32) -> Result<(), Errno> {
        let wanted = Self::of(&status(thread)?).ok_or(Errno::SRCH)?;
        if wanted == *self {
            return Ok(());
        }
        let Self { uid, gid, groups } = &wanted;
        let (uid, gid, groups) = (*uid, *gid, groups.as_deref().unwrap_or_default());
        // Root first: it alone may take any other id. Only by becoming root for files (setfsuid, no other call) does a
        // thread get back the capabilities that it loses when it becomes another for them (capabilities(7)).
        // SAFETY: the call takes a number and no memory, and changes this thread's id alone.
        unsafe { libc::syscall(libc::SYS_setfsuid, 0) };
        for (call, first) in [(libc::SYS_setresuid, 0), (libc::SYS_setresgid, gid)] {
            // SAFETY: the calls take numbers and no memory, and change this thread's ids alone.
            succeed(unsafe { libc::syscall(call, first, 0, 0) })?;
        }
        // SAFETY: the call reads as many ids as it is told, which live over it, and changes this thread's groups alone.
        succeed(unsafe { libc::syscall(libc::SYS_setgroups, groups.len(), groups.as_ptr()) })?;
        // SAFETY: as above.
        succeed(unsafe { libc::syscall(libc::SYS_setresuid, uid, 0, 0) })?;
        for (call, id) in [(libc::SYS_setfsgid, gid), (libc::SYS_setfsuid, uid)] {
            // SAFETY: as above; these return the id before and cannot fail for one that was just taken.
            unsafe { libc::syscall(call, id) };
        }
        *self = wanted;
        Ok(())
    }

    /// The ids in a `/proc/pid/status`.
    fn of(status: &str) -> Option<Self> {
        let id = |name: &str| field(status, name)?.split_whitespace().next()?.parse().ok();
        let groups =
            field(status, "Groups:")?.split_whitespace().map(|group| group.parse().ok()).collect::<Option<_>>()?;
        Some(Self { uid: id("Uid:")?, gid: id("Gid:")?, groups: Some(groups) })
    }
}

fn succeed(result: libc::c_long) -> Result<(), Errno> {
    if result == 0 {
        return Ok(());
    }
    Err(Errno::from_io_error(&io::Error::last_os_error()).unwrap_or(Errno::PERM))
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_ids_of_a_caller_are_the_real_ones_and_its_groups() {
        let status = "Name:\tsh\nTgid:\t7\nUid:\t1\t2\t3\t4\nGid:\t5\t6\t7\t8\nGroups:\t9 10 \n";
        assert_eq!(Caller::of(status), Some(Caller { uid: 1, gid: 5, groups: Some(vec![9, 10]) }));
        assert_eq!(Caller::of(&status.replace("9 10 ", "")).unwrap().groups, Some(Vec::new()));
        assert_eq!(Caller::of("Name:\tsh\n"), None);
    }
}
