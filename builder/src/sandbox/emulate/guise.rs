//! Making a file as somebody else: the kernel then gives it the owner and the group that it would give it, where that
//! somebody may make one.
//!
//! Works on the calling thread alone, and on what it is for files alone (credentials(7), "File system user ID").

use std::io;

use nix::unistd::getgroups;
use rustix::io::Errno;

use super::credentials::Credentials;

/// Who this thread is for files, as long as this lives.
#[derive(Debug)]
pub(super) struct Guise {
    /// Who it is again afterwards.
    uid: u32,
    gid: u32,
    groups: Vec<u32>,
}

impl Guise {
    /// Takes on what a process of the step seems to be.
    pub(super) fn of(who: &Credentials) -> Result<Self, Errno> {
        let groups = getgroups().map_err(|error| Errno::from_raw_os_error(error as i32))?;
        let groups = groups.into_iter().map(nix::unistd::Gid::as_raw).collect();
        let guise = Self { uid: ask(libc::SYS_setfsuid, KEEP), gid: ask(libc::SYS_setfsgid, KEEP), groups };
        take_groups(&who.groups)?;
        take(libc::SYS_setfsgid, who.gid.file_system)?;
        take(libc::SYS_setfsuid, who.uid.file_system)?;
        Ok(guise)
    }
}

impl Drop for Guise {
    fn drop(&mut self) {
        let again = take(libc::SYS_setfsuid, self.uid)
            .and_then(|()| take(libc::SYS_setfsgid, self.gid))
            .and_then(|()| take_groups(&self.groups));
        again.expect("a thread of root can be who it was before");
    }
}

/// No id at all: who asks for it stays who it is.
const KEEP: u32 = u32::MAX;

/// Becomes `id` with one of two calls that never fail; returns who it was.
fn ask(call: libc::c_long, id: u32) -> u32 {
    // SAFETY: the calls take a number and no memory, and change this thread's id alone.
    let before = unsafe { libc::syscall(call, id) };
    u32::try_from(before).unwrap_or(KEEP)
}

fn take(call: libc::c_long, id: u32) -> Result<(), Errno> {
    ask(call, id);
    // An id that the user namespace does not have is not taken.
    if ask(call, KEEP) == id { Ok(()) } else { Err(Errno::INVAL) }
}

fn take_groups(groups: &[u32]) -> Result<(), Errno> {
    // SAFETY: the call reads as many ids as it is told, which live over it, and changes this thread's groups alone.
    match unsafe { libc::syscall(libc::SYS_setgroups, groups.len(), groups.as_ptr()) } {
        0 => Ok(()),
        _ => Err(Errno::from_io_error(&io::Error::last_os_error()).unwrap_or(Errno::PERM)),
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use rustix::fs::{CWD, Mode, mkdirat, stat};

    use super::super::super::probe::in_child;
    use super::super::super::spec::Attempt;
    use super::super::credentials::Change;
    use super::*;

    #[test]
    fn what_is_made_is_the_other_s_as_long_as_it_lasts() {
        let directory = tempfile::tempdir().unwrap();
        let path = |name: &str| directory.path().join(name);
        for (name, mode, group) in [("open", 0o777, 0), ("group", 0o2770, 8), ("closed", 0o755, 0)] {
            fs_err::create_dir(path(name)).unwrap();
            std::os::unix::fs::chown(path(name), None, Some(group)).unwrap();
            fs_err::set_permissions(path(name), PermissionsExt::from_mode(mode)).unwrap();
        }
        fs_err::set_permissions(directory.path(), PermissionsExt::from_mode(0o755)).unwrap();
        let mut user = Credentials::root();
        user.set_groups(vec![8]).unwrap();
        user.change_gid(Change::One(1001)).unwrap();
        user.change_uid(Change::One(1000)).unwrap();
        let refused = in_child(|| {
            let make = |name: &str| mkdirat(CWD, path(name), Mode::RWXU);
            let guise = Guise::of(&user).attempt(|| "become a user".to_owned())?;
            make("open/theirs").and_then(|()| make("group/theirs")).attempt(|| "make a directory".to_owned())?;
            let refused = make("closed/theirs").err().map(Errno::raw_os_error);
            drop(guise);
            make("closed/ours").attempt(|| "make a directory as root".to_owned())?;
            Ok(refused)
        });
        assert_eq!(refused.unwrap(), Some(libc::EACCES));
        let owner = |name: &str| stat(path(name)).map(|found| (found.st_uid, found.st_gid)).unwrap();
        let owners = ["open/theirs", "group/theirs", "closed/ours"].map(owner);
        assert_eq!(owners, [(1000, 1001), (1000, 8), (0, 0)]);
    }
}
