//! Root of a user namespace with one id, who seems to have all of them; and processes of real root who seem to be others,
//! because in a container without namespaces the kernel does not let them become root again.
//!
//! The step's calls that ask for or change ids, owners and devices are answered by [`Emulation`], in process 1:
//!
//! ```text
//! rules.rs        which calls are handed over, and which a filter alone answers
//! mod.rs          a call ─▶ who makes it, what it names ─▶
//!   ids.rs          set*id, get*id, groups, capset, prctl          credentials.rs: what the kernel's rules make of them
//!   status.rs       stat, statx: what is recorded, over the rest   identity.rs: which process has which
//!   ownership.rs    chown                                          owners.rs: whose a file is, in it or
//!   create.rs       files, directories, links, devices             record.rs: beside it
//!                                                                  guise.rs: making one as somebody else
//!                                                                  place.rs: a path of the step, as seen from here,
//!                                                                  beneath.rs: where its root is another
//!   execute.rs      programs that are setuid or setgid
//!   attributes.rs   the names of attributes, without those that hold records
//!   peer.rs         who is at the other end of a socket
//! ```
//!
//! Whatever needs no lie the kernel does itself. It is consistent, not strict: the kernel takes every process of the step
//! for root, so one that seems to be somebody else can still read and write every file. It protects nothing from the
//! step; what does is the user namespace, or the container.

mod attributes;
mod beneath;
mod create;
mod credentials;
mod execute;
mod guise;
mod identity;
mod ids;
mod owners;
mod ownership;
mod peer;
mod place;
mod record;
mod rules;
mod status;

use std::ffi::CString;
use std::rc::Rc;

use rustix::io::Errno;

use self::credentials::Credentials;
use self::identity::Identities;
use self::owners::Owners;
use self::place::{Namer, Place};
use self::record::Records;
use super::seccomp::{Abi, Call, Handler, Notification, Reply};

pub(super) use self::identity::begin;
pub use self::rules::RootEmulation;
pub(super) use self::rules::{program, rules_beside};

/// Answers the calls of one step.
#[derive(Debug)]
pub(super) struct Emulation {
    identities: Identities,
    owners: Owners,
}

impl Emulation {
    /// A step whose processes and files are all root's.
    pub(super) fn new() -> Self {
        Self::with(Owners::Recorded(Records::default()))
    }

    /// A step whose processes alone are all root's, in a root that is not this process's.
    pub(super) fn with_real_owners() -> Self {
        Self::with(Owners::Real)
    }

    /// Every process begins as root.
    fn with(owners: Owners) -> Self {
        Self { identities: Identities::new(), owners }
    }

    fn dispatch(&mut self, caller: &Caller<'_>) -> Result<Reply, Errno> {
        match caller.call {
            // Handed over for others, and true.
            call if self.owners.are_real() && rules::LOOKS.contains(&call) => Ok(Reply::Continue),
            Call::Stat
            | Call::Lstat
            | Call::Fstat
            | Call::Fstatat
            | Call::Statx
            | Call::StatOld
            | Call::LstatOld
            | Call::FstatOld => self.status(caller),
            Call::Chown
            | Call::Lchown
            | Call::Fchown
            | Call::Fchownat
            | Call::Chown16
            | Call::Lchown16
            | Call::Fchown16 => self.chown(caller),
            Call::Open | Call::Openat | Call::Openat2 | Call::Creat => self.open(caller),
            Call::Mkdir | Call::Mkdirat => self.make_directory(caller),
            Call::Symlink | Call::Symlinkat => self.make_link(caller),
            Call::Mknod | Call::Mknodat => self.make_node(caller),
            Call::Execve | Call::Execveat => self.execute(caller),
            Call::Listxattr | Call::Llistxattr | Call::Flistxattr => self.list_attributes(caller),
            Call::Chroot => self.change_root(caller),
            Call::Getsockopt => self.peer(caller),
            Call::Setrlimit | Call::Prlimit64 => Ok(Reply::Value(0)),
            _ => self.ids(caller),
        }
    }

    fn credentials(&self, caller: &Caller<'_>) -> Rc<Credentials> {
        self.identities.of(caller.thread())
    }

    /// Changes the credentials of the caller.
    fn change(
        &mut self,
        caller: &Caller<'_>,
        change: impl FnOnce(&mut Credentials) -> Result<(), Errno>,
    ) -> Result<(), Errno> {
        let old = self.credentials(caller);
        let mut new = Credentials::clone(&old);
        change(&mut new)?;
        if *old == new { Ok(()) } else { self.identities.set(caller.thread(), new) }
    }

    fn change_root(&mut self, caller: &Caller<'_>) -> Result<Reply, Errno> {
        self.change(caller, |credentials| {
            credentials.changed_root = true;
            Ok(())
        })?;
        Ok(Reply::Continue)
    }

    fn namer(&self, caller: &Caller<'_>) -> Namer {
        let other_root = self.owners.are_real() || self.identities.has_changed_root(caller.thread());
        Namer { thread: caller.thread(), other_root }
    }

    /// The file that two arguments name, a directory (if there is an argument for it) and the address of a path.
    fn place(&self, caller: &Caller<'_>, directory: Option<usize>, path: usize, flags: u32) -> Result<Place, Errno> {
        let place = self.seeming_place(caller, directory, path, flags);
        if caller.is_valid() { place } else { Err(Errno::SRCH) }
    }

    /// [`place`](Self::place), which may be one that another process names: enough for who does nothing with it but look.
    fn seeming_place(
        &self,
        caller: &Caller<'_>,
        directory: Option<usize>,
        path: usize,
        flags: u32,
    ) -> Result<Place, Errno> {
        let directory = directory.map_or(libc::AT_FDCWD, |number| caller.descriptor(number));
        let (empty, nofollow) = (libc::AT_EMPTY_PATH.cast_unsigned(), libc::AT_SYMLINK_NOFOLLOW.cast_unsigned());
        let address = caller.argument(path);
        // Without a path statx names the descriptor (Linux 6.11).
        let path = if address == 0 && flags & empty != 0 { CString::default() } else { caller.peek_path(address)? };
        if path.is_empty() && flags & empty != 0 {
            return match directory {
                libc::AT_FDCWD => Place::of_cwd(caller.thread()),
                descriptor => Place::of_descriptor(caller.thread(), descriptor),
            };
        }
        Place::of_path(self.namer(caller), directory, &path, flags & nofollow == 0)
    }
}

impl Handler for Emulation {
    fn handle(&mut self, notification: &Notification<'_>) -> Reply {
        let (abi, number) = notification.call();
        let known = abi.and_then(|abi| Some((abi, abi.call(number)?)));
        let Some((abi, call)) = known else { return Reply::Continue };
        self.dispatch(&Caller { notification, abi, call }).unwrap_or_else(Reply::Errno)
    }
}

/// A call of the step, and who makes it.
struct Caller<'a> {
    notification: &'a Notification<'a>,
    abi: Abi,
    call: Call,
}

impl<'a> std::ops::Deref for Caller<'a> {
    type Target = Notification<'a>;

    fn deref(&self) -> &Notification<'a> {
        self.notification
    }
}

impl Caller<'_> {
    /// An argument that is a descriptor.
    fn descriptor(&self, number: usize) -> i32 {
        self.word(number).cast_signed()
    }

    /// What the kernel says of the caller in a line of its `/proc/PID/status`.
    fn line_of_status(&self, name: &str) -> Option<String> {
        let text = fs_err::read_to_string(format!("/proc/{}/status", self.thread())).ok()?;
        text.lines().find_map(|line| Some(line.strip_prefix(name)?.strip_prefix(':')?.trim().to_owned()))
    }
}
