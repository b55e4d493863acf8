//! `/proc`, `/sys`, terminals, and devices where none can be made, for a step that can have no mounts: a process outside
//! of its root opens the files of the container for it, and looks at them for it.
//!
//! Calls with a path that leads there ([`place`]) are answered by a thread of process 1, with the ids of the caller
//! ([`Caller`]); all others go on as they are. Where nobody can answer for the caller (a directory that it enters, a program
//! that it becomes) it makes another call instead ([`Instead`](super::seccomp::Instead)), on an open file. A process whose
//! working directory is there, or that has a directory of there open, goes on from it without help; the way back is shown
//! to it ([`base`]). Calls of i386 find the empty directories that the root has.

use std::ffi::CString;
use std::os::fd::AsRawFd;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use rustix::fs::{CWD, FileType, Mode, OFlags, ResolveFlags, fstat, openat, openat2};
use rustix::io::Errno;

use super::seccomp::{Abi, Action, Call, Condition, Handler, Notification, PAST, Reply, Rule, Test};

mod base;
mod caller;
mod look;
mod place;
mod request;

use base::Base;
use caller::Caller;
use place::{Place, Seen};
use request::Request;

/// What the kernel does with a last component that is a link.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Links {
    Follow,
    Keep,
}

/// Which device nodes a step uses.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Devices {
    /// Those of its root.
    OfRoot,
    /// Those of the container, where none can be made.
    OfContainer,
}

/// The calls whose paths are looked at. `AT_EMPTY_PATH` says that there is none.
pub(super) fn rules(abi: Abi) -> Vec<Rule> {
    if abi == Abi::I386 {
        return Vec::new();
    }
    let always = [
        Call::Open,
        Call::Openat2,
        Call::Stat,
        Call::Lstat,
        Call::Access,
        Call::Faccessat,
        Call::Faccessat2,
        Call::Readlink,
        Call::Readlinkat,
        Call::Statfs,
        Call::Chmod,
        Call::Fchmodat,
        Call::Chown,
        Call::Lchown,
        Call::Chdir,
        Call::Getcwd,
        Call::Execve,
        Call::Truncate,
        Call::Getxattr,
        Call::Lgetxattr,
        Call::Setxattr,
        Call::Lsetxattr,
        Call::Listxattr,
        Call::Llistxattr,
        Call::Removexattr,
        Call::Lremovexattr,
    ];
    let unless_empty = [(Call::Fstatat, 3), (Call::Statx, 2), (Call::Fchownat, 4), (Call::Execveat, 4)];
    let empty = |argument| Condition { argument, mask: libc::AT_EMPTY_PATH.cast_unsigned(), test: Test::Any };
    let always = always.iter().map(|call| Rule::always(*call, Action::Notify));
    let unless = unless_empty.iter().map(|(call, argument)| Rule {
        call: *call,
        cases: vec![(empty(*argument), Action::Allow)],
        otherwise: Action::Notify,
    });
    // Without a path it changes the times of what its descriptor is open on.
    let no_path = Condition { argument: 1, mask: u32::MAX, test: Test::Is(0) };
    let times = Rule { call: Call::Utimensat, cases: vec![(no_path, Action::Allow)], otherwise: Action::Notify };
    let past = Condition { argument: 5, mask: u32::MAX, test: Test::Is(PAST) };
    let open = Rule { call: Call::Openat, cases: vec![(past, Action::Allow)], otherwise: Action::Notify };
    always.chain(unless).chain([times, open]).collect()
}

/// Answers the calls of one step.
pub(super) struct Injector {
    /// The path of the step's root, which a step must not see.
    root: Vec<u8>,
    devices: Devices,
    caller: Caller,
}

/// Which arguments of a call say what it is about.
#[derive(Debug, Clone, Copy)]
struct Named {
    /// The directory that a relative path begins in; without one that is the working directory.
    directory: Option<usize>,
    path: usize,
    links: Links,
}

impl Injector {
    /// For the step whose root is `root`.
    pub(super) fn new(root: &Path, devices: Devices) -> std::io::Result<Self> {
        let root = fs_err::canonicalize(root)?.as_os_str().as_bytes().to_vec();
        Ok(Self { root, devices, caller: Caller::default() })
    }

    /// Reads the path of a call; nothing when it does not lead out of the root.
    fn request<'a>(&mut self, notification: &'a Notification<'a>, named: Named) -> Result<Option<Request<'a>>, Errno> {
        let thread = notification.thread();
        let path = self.read_path(notification, named.path)?;
        let path = path.to_bytes();
        let device = || if self.devices == Devices::OfContainer { Seen::device(path) } else { None };
        let seen = if path.starts_with(b"/") {
            Seen::of(path, named.links).or_else(device)
        } else if Base::matters(path) {
            self.caller.become_one(thread)?;
            let directory = named.directory.map_or(libc::AT_FDCWD, |number| notification.word(number).cast_signed());
            let base = Base::of(thread, directory, &self.root);
            let Some((base, path)) = base.and_then(|base| base.join(path).map(|path| (base, path))) else {
                return Ok(None);
            };
            match Seen::of(path.as_bytes(), named.links) {
                None if base.outside => return self.back(notification, &path, named.links).map(Some),
                seen => seen,
            }
        } else {
            None
        };
        let Some(seen) = seen else { return Ok(None) };
        self.caller.become_one(thread)?;
        Request::new(notification, seen.place(thread)?, None).map(Some)
    }

    fn read_path(&mut self, notification: &Notification<'_>, argument: usize) -> Result<CString, Errno> {
        let address = notification.argument(argument);
        match notification.read_path(address) {
            Err(Errno::PERM) => {
                self.caller.become_one(notification.thread())?;
                notification.read_path(address)
            }
            path => path,
        }
    }

    /// A path that leads back into the step's root, for a caller that is outside of it and knows another.
    fn back<'a>(&self, notification: &'a Notification<'a>, path: &str, links: Links) -> Result<Request<'a>, Errno> {
        let directory = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let root = openat(CWD, self.root.as_slice(), directory, Mode::empty())?;
        let mut flags = OFlags::PATH | OFlags::CLOEXEC;
        flags.set(OFlags::NOFOLLOW, links == Links::Keep);
        let file = openat2(root, path, flags, Mode::empty(), ResolveFlags::IN_ROOT)?;
        let directory = FileType::from_raw_mode(fstat(&file)?.st_mode) == FileType::Directory;
        Request::new(notification, Place::held(file.as_raw_fd(), directory), Some(file))
    }

    /// `getcwd`, which does not know what is outside of a root.
    fn working_directory(&mut self, notification: &Notification<'_>) -> Result<Reply, Errno> {
        let thread = notification.thread();
        self.caller.become_one(thread)?;
        let base = Base::of(thread, libc::AT_FDCWD, &self.root);
        let Some(path) = base.as_ref().and_then(Base::path_outside) else { return Ok(Reply::Continue) };
        let path = CString::new(path).map_err(|_| Errno::INVAL)?;
        let bytes = path.to_bytes_with_nul();
        if notification.argument(1) < bytes.len() as u64 {
            return Err(Errno::RANGE);
        }
        notification.write(notification.argument(0), bytes)?;
        Ok(Reply::Value(i64::try_from(bytes.len()).map_err(|_| Errno::OVERFLOW)?))
    }

    fn answer(&mut self, call: Call, notification: &Notification<'_>) -> Result<Reply, Errno> {
        if call == Call::Getcwd {
            return self.working_directory(notification);
        }
        let word = |number| notification.word(number);
        let Some(named) = path_of(call, notification) else { return Ok(Reply::Continue) };
        let Some(request) = self.request(notification, named)? else { return Ok(Reply::Continue) };
        if request.place.is_masked() && !is_shown(call) {
            return Err(Errno::NOENT);
        }
        if changes(call) && (request.place.is_protected() || request.place.is_device()) {
            return Err(Errno::ROFS);
        }
        let path = &request.path;
        let done = |()| Reply::Value(0);
        match call {
            Call::Open => request.open(word(1), word(2)),
            Call::Openat => request.open(word(2), word(3)),
            Call::Openat2 => request.open_how(),
            Call::Stat => look::stat(&request, 0, 1),
            Call::Lstat => look::stat(&request, libc::AT_SYMLINK_NOFOLLOW, 1),
            Call::Fstatat => look::stat(&request, word(3).cast_signed(), 2),
            Call::Statx => look::statx(&request),
            Call::Statfs => look::statfs(&request),
            Call::Access => look::access(path, word(1), 0).map(done),
            Call::Faccessat => look::access(path, word(2), 0).map(done),
            Call::Faccessat2 => look::access(path, word(2), word(3)).map(done),
            Call::Readlink => Self::read_link(&request, 1),
            Call::Readlinkat => Self::read_link(&request, 2),
            Call::Chmod => look::change_mode(path, word(1)).map(done),
            Call::Fchmodat => look::change_mode(path, word(2)).map(done),
            Call::Chown => look::change_owner(path, (word(1), word(2)), 0).map(done),
            Call::Lchown => {
                look::change_owner(path, (word(1), word(2)), libc::AT_SYMLINK_NOFOLLOW.cast_unsigned()).map(done)
            }
            Call::Fchownat => look::change_owner(path, (word(2), word(3)), word(4)).map(done),
            Call::Chdir => request.enter(),
            Call::Execve => request.execute([1, 2]),
            Call::Execveat => request.execute([2, 3]),
            Call::Truncate => request.on_descriptor(libc::SYS_ftruncate, OFlags::WRONLY, &[1]),
            Call::Utimensat => request.change_times(),
            Call::Getxattr => request.attributes(libc::SYS_fgetxattr, &[1, 2, 3]),
            Call::Setxattr => request.attributes(libc::SYS_fsetxattr, &[1, 2, 3, 4]),
            Call::Listxattr => request.attributes(libc::SYS_flistxattr, &[1, 2]),
            Call::Removexattr => request.attributes(libc::SYS_fremovexattr, &[1]),
            // No link has attributes that a step could see or change.
            Call::Lgetxattr | Call::Lsetxattr | Call::Llistxattr | Call::Lremovexattr => Err(Errno::NOTSUP),
            _ => Ok(Reply::Continue),
        }
    }

    /// Links of `/proc` show where things are for rbuild: the caller's root is taken away from the front.
    fn read_link(request: &Request<'_>, buffer: usize) -> Result<Reply, Errno> {
        let to = match request.place.own_link() {
            Some(text) => text.into_bytes(),
            None => request.link()?,
        };
        let shown = request.seen(&to)?.unwrap_or(&to);
        let size = usize::try_from(request.notification.argument(buffer + 1)).map_err(|_| Errno::INVAL)?;
        let shown = &shown[..shown.len().min(size)];
        request.notification.write(request.notification.argument(buffer), shown)?;
        Ok(Reply::Value(i64::try_from(shown.len()).map_err(|_| Errno::OVERFLOW)?))
    }
}

/// Whether a call changes what a path names, other than by opening it.
fn changes(call: Call) -> bool {
    use Call::{Chmod, Chown, Fchmodat, Fchownat, Lchown, Removexattr, Setxattr, Truncate, Utimensat};
    matches!(call, Chmod | Fchmodat | Chown | Lchown | Fchownat | Truncate | Utimensat | Setxattr | Removexattr)
}

/// Whether a call may know of a file that no step may see: a list of its directory has its name, too.
fn is_shown(call: Call) -> bool {
    matches!(
        call,
        Call::Access
            | Call::Faccessat
            | Call::Faccessat2
            | Call::Fstatat
            | Call::Getxattr
            | Call::Lgetxattr
            | Call::Listxattr
            | Call::Llistxattr
            | Call::Lstat
            | Call::Open
            | Call::Openat
            | Call::Openat2
            | Call::Stat
            | Call::Statx
    )
}

/// Which arguments of a call name a file, and whether a link in the last component of its path is followed.
fn path_of(call: Call, notification: &Notification<'_>) -> Option<Named> {
    let unless = |flag: i32, argument: usize| {
        if notification.word(argument) & flag.cast_unsigned() == 0 { Links::Follow } else { Links::Keep }
    };
    let (opening, looking) = (libc::O_NOFOLLOW, libc::AT_SYMLINK_NOFOLLOW);
    let (directory, links) = match call {
        Call::Stat
        | Call::Access
        | Call::Statfs
        | Call::Chmod
        | Call::Chown
        | Call::Chdir
        | Call::Execve
        | Call::Truncate
        | Call::Getxattr
        | Call::Setxattr
        | Call::Listxattr
        | Call::Removexattr => (None, Links::Follow),
        Call::Lstat
        | Call::Readlink
        | Call::Lchown
        | Call::Lgetxattr
        | Call::Lsetxattr
        | Call::Llistxattr
        | Call::Lremovexattr => (None, Links::Keep),
        Call::Openat2 | Call::Faccessat | Call::Fchmodat => (Some(0), Links::Follow),
        Call::Readlinkat => (Some(0), Links::Keep),
        Call::Open => (None, unless(opening, 1)),
        Call::Openat => (Some(0), unless(opening, 2)),
        Call::Statx => (Some(0), unless(looking, 2)),
        Call::Fstatat | Call::Faccessat2 | Call::Utimensat => (Some(0), unless(looking, 3)),
        Call::Fchownat | Call::Execveat => (Some(0), unless(looking, 4)),
        _ => return None,
    };
    Some(Named { directory, path: usize::from(directory.is_some()), links })
}

impl Handler for Injector {
    fn handle(&mut self, notification: &Notification<'_>) -> Reply {
        let (abi, number) = notification.call();
        let abi = abi.filter(|abi| *abi != Abi::I386);
        let Some(call) = abi.and_then(|abi| abi.call(number)) else { return Reply::Continue };
        match self.answer(call, notification) {
            Ok(reply) => reply,
            // Whoever may not be looked at finds what its root has; so does one with a path that cannot be read.
            Err(Errno::PERM | Errno::SRCH | Errno::FAULT | Errno::NAMETOOLONG) => Reply::Continue,
            Err(error) => Reply::Errno(error),
        }
    }
}
