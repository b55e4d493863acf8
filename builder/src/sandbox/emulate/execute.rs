//! execve(2) of programs that are setuid or setgid. The kernel runs them as root, as which it runs everything.

use std::io::Read;

use rustix::fs::{FileType, Mode, OFlags};
use rustix::io::Errno;
use snapshot::Owner;

use super::super::seccomp::{Call, Reply};
use super::place::Place;
use super::{Caller, Emulation, record};

impl Emulation {
    /// Always lets the kernel go on. Should that fail, the caller has ids already that it would not have: only a caller
    /// that did not expect a failure notices, for it has no other program to run.
    pub(super) fn execute(&mut self, caller: &Caller<'_>) -> Result<Reply, Errno> {
        let place = match caller.call {
            Call::Execveat => self.place(caller, Some(0), 1, caller.word(4)),
            _ => self.place(caller, None, 0, 0),
        };
        let Ok(place) = place else { return Ok(Reply::Continue) };
        let Ok(found) = record::status(&place) else { return Ok(Reply::Continue) };
        let mode = Mode::from_raw_mode(found.st_mode);
        let program = FileType::from_raw_mode(found.st_mode) == FileType::RegularFile && found.st_mode & 0o111 != 0;
        if !program {
            return Ok(Reply::Continue);
        }
        let setuid = mode.contains(Mode::SUID);
        // Without the permission to execute the bit means something else (inode(7)).
        let setgid = mode.contains(Mode::SGID | Mode::XGRP);
        let heeded = (setuid || setgid) && !is_script(&place);
        let owner = heeded.then(|| self.owners.find(&place).unwrap_or(Owner::ROOT));
        let uid = owner.filter(|_| setuid).map(|owner| owner.uid);
        let gid = owner.filter(|_| setgid).map(|owner| owner.gid);
        self.change(caller, |who| {
            who.execute(uid, gid);
            Ok(())
        })?;
        Ok(Reply::Continue)
    }
}

/// The kernel does not heed the bits on scripts.
fn is_script(place: &Place) -> bool {
    let mut magic = [0; 2];
    let opened = rustix::fs::open(&*place.path, OFlags::RDONLY | OFlags::NONBLOCK | OFlags::CLOEXEC, Mode::empty());
    opened.is_ok_and(|file| std::fs::File::from(file).read(&mut magic).is_ok_and(|read| &magic[..read] == b"#!"))
}
