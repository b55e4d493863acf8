//! `/proc`, `/sys`, terminals, and devices where none can be made, for a step that can have no mounts: a process outside
//! of its root opens the files of the container for it, and looks at them for it.
//!
//! Calls with a path that leads there ([`place`]) are answered by a thread of process 1, with the ids of the caller
//! ([`Caller`]); all others go on as they are. What it cannot answer (a program executed or a directory entered by such a
//! path, a relative path that leads there, calls of i386) finds the empty directories that the root has instead.

use std::ffi::CString;
use std::io::Write;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use rustix::fs::{CWD, Mode, OFlags, ResolveFlags, fcntl_getfl, fcntl_setfl, openat, openat2};
use rustix::io::Errno;

use super::seccomp::{Abi, Action, Call, Condition, Handler, Notification, Program, Reply, Rule, Test, assemble};

mod caller;
mod look;
mod place;

use caller::Caller;
use place::{Place, Seen};

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
pub(super) fn filter() -> Program {
    let always = [
        Call::Open,
        Call::Openat,
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
    ];
    let unless_empty = [(Call::Fstatat, 3), (Call::Statx, 2), (Call::Fchownat, 4)];
    let empty = |argument| Condition { argument, mask: libc::AT_EMPTY_PATH.cast_unsigned(), test: Test::Any };
    assemble(|abi| {
        if abi == Abi::I386 {
            return Vec::new();
        }
        let always = always.iter().map(|call| Rule::always(*call, Action::Notify));
        let unless = unless_empty.iter().map(|(call, argument)| Rule {
            call: *call,
            cases: vec![(empty(*argument), Action::Allow)],
            otherwise: Action::Notify,
        });
        always.chain(unless).collect()
    })
}

/// Answers the calls of one step.
pub(super) struct Injector {
    /// The path of the step's root, which a step must not see.
    root: Vec<u8>,
    devices: Devices,
    caller: Caller,
}

/// A call on a path that leads out of the root.
struct Request<'a> {
    notification: &'a Notification<'a>,
    path: CString,
    place: Place,
}

impl Injector {
    /// For the step whose root is `root`.
    pub(super) fn new(root: &Path, devices: Devices) -> std::io::Result<Self> {
        let root = fs_err::canonicalize(root)?.as_os_str().as_bytes().to_vec();
        Ok(Self { root, devices, caller: Caller::default() })
    }

    /// Reads the path of a call; nothing when it does not lead out of the root.
    fn request<'a>(
        &mut self,
        notification: &'a Notification<'a>,
        (argument, links): (usize, Links),
    ) -> Result<Option<Request<'a>>, Errno> {
        let address = notification.argument(argument);
        let thread = notification.thread();
        let path = match notification.read_path(address) {
            Err(Errno::PERM) => {
                self.caller.become_one(thread)?;
                notification.read_path(address)?
            }
            path => path?,
        };
        let device = || if self.devices == Devices::OfContainer { Seen::device(path.to_bytes()) } else { None };
        let Some(seen) = Seen::of(path.to_bytes(), links).or_else(device) else { return Ok(None) };
        self.caller.become_one(thread)?;
        let place = seen.place(thread)?;
        if place.is_masked() {
            return Err(Errno::NOENT);
        }
        let path = CString::new(place.path()).map_err(|_| Errno::INVAL)?;
        Ok(Some(Request { notification, path, place }))
    }

    fn answer(&mut self, call: Call, notification: &Notification<'_>) -> Result<Reply, Errno> {
        let word = |number| notification.word(number);
        let Some(which) = path_of(call, notification) else { return Ok(Reply::Continue) };
        let Some(request) = self.request(notification, which)? else { return Ok(Reply::Continue) };
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
            Call::Readlink => self.read_link(&request, 1),
            Call::Readlinkat => self.read_link(&request, 2),
            Call::Chmod | Call::Fchmodat | Call::Chown | Call::Lchown | Call::Fchownat
                if request.place.is_protected() || request.place.is_device() =>
            {
                Err(Errno::ROFS)
            }
            Call::Chmod => look::change_mode(path, word(1)).map(done),
            Call::Fchmodat => look::change_mode(path, word(2)).map(done),
            Call::Chown => look::change_owner(path, (word(1), word(2)), 0).map(done),
            Call::Lchown => {
                look::change_owner(path, (word(1), word(2)), libc::AT_SYMLINK_NOFOLLOW.cast_unsigned()).map(done)
            }
            Call::Fchownat => look::change_owner(path, (word(2), word(3)), word(4)).map(done),
            _ => Ok(Reply::Continue),
        }
    }

    /// Links of `/proc` show where things are for rbuild: the step's root is taken away from the front.
    fn read_link(&self, request: &Request<'_>, buffer: usize) -> Result<Reply, Errno> {
        let to = match request.place.own_link() {
            Some(text) => text.into_bytes(),
            None => rustix::fs::readlinkat(CWD, &request.path, Vec::new())?.into_bytes(),
        };
        let shown = match to.strip_prefix(self.root.as_slice()) {
            Some([]) => b"/",
            Some(rest) if rest.starts_with(b"/") => rest,
            _ => to.as_slice(),
        };
        let size = usize::try_from(request.notification.argument(buffer + 1)).map_err(|_| Errno::INVAL)?;
        let shown = &shown[..shown.len().min(size)];
        request.notification.write(request.notification.argument(buffer), shown)?;
        Ok(Reply::Value(i64::try_from(shown.len()).map_err(|_| Errno::OVERFLOW)?))
    }
}

/// Which argument of a call is its path, and whether a link in its last component is followed.
fn path_of(call: Call, notification: &Notification<'_>) -> Option<(usize, Links)> {
    let unless = |flag: i32, argument: usize| {
        if notification.word(argument) & flag.cast_unsigned() == 0 { Links::Follow } else { Links::Keep }
    };
    let (opening, looking) = (libc::O_NOFOLLOW, libc::AT_SYMLINK_NOFOLLOW);
    Some(match call {
        Call::Stat | Call::Access | Call::Statfs | Call::Chmod | Call::Chown => (0, Links::Follow),
        Call::Lstat | Call::Readlink | Call::Lchown => (0, Links::Keep),
        Call::Openat2 | Call::Faccessat | Call::Fchmodat => (1, Links::Follow),
        Call::Readlinkat => (1, Links::Keep),
        Call::Open => (0, unless(opening, 1)),
        Call::Openat => (1, unless(opening, 2)),
        Call::Statx => (1, unless(looking, 2)),
        Call::Fstatat | Call::Faccessat2 => (1, unless(looking, 3)),
        Call::Fchownat => (1, unless(looking, 4)),
        _ => return None,
    })
}

impl Handler for Injector {
    fn handle(&mut self, notification: &Notification<'_>) -> Reply {
        let (abi, number) = notification.call();
        let Some(call) = abi.and_then(|abi| abi.call(number)) else { return Reply::Continue };
        match self.answer(call, notification) {
            Ok(reply) => reply,
            // Whoever may not be looked at finds what its root has; so does one with a path that cannot be read.
            Err(Errno::PERM | Errno::SRCH | Errno::FAULT | Errno::NAMETOOLONG) => Reply::Continue,
            Err(error) => Reply::Errno(error),
        }
    }
}

impl Request<'_> {
    fn open(&self, flags: u32, mode: u32) -> Result<Reply, Errno> {
        self.give(flags, |flags| openat(CWD, &self.path, flags, Mode::from_raw_mode(mode)))
    }

    /// openat2(2) with its `struct open_how`: flags, mode and restrictions, 64 bits each.
    fn open_how(&self) -> Result<Reply, Errno> {
        let mut how = [0; 24];
        self.notification.read(self.notification.argument(2), &mut how)?;
        let field = |number: usize| u64::from_ne_bytes(how[8 * number..][..8].try_into().expect("eight bytes"));
        let resolve = ResolveFlags::from_bits_retain(field(2));
        if resolve.intersects(ResolveFlags::IN_ROOT | ResolveFlags::BENEATH) {
            return Ok(Reply::Continue);
        }
        let [flags, mode] = [field(0), field(1)].map(|value| (value & 0xffff_ffff) as u32);
        self.give(flags, |flags| openat2(CWD, &self.path, flags, Mode::from_raw_mode(mode), resolve))
    }

    fn give(&self, flags: u32, open: impl FnOnce(OFlags) -> Result<OwnedFd, Errno>) -> Result<Reply, Errno> {
        let close_on_exec = flags & libc::O_CLOEXEC.cast_unsigned() != 0;
        let asked = OFlags::from_bits_retain(flags);
        if let Some(text) = self.place.own_text() {
            return Ok(Reply::Descriptor { file: in_memory(text.as_bytes())?, close_on_exec });
        }
        let writes = asked.intersects(OFlags::WRONLY | OFlags::RDWR | OFlags::TRUNC) && !asked.contains(OFlags::PATH);
        if writes && self.place.is_protected() {
            return Err(Errno::ROFS);
        }
        // A pipe without another end must not keep everybody waiting; nor is a terminal taken.
        let file = open(asked | OFlags::CLOEXEC | OFlags::NONBLOCK | OFlags::NOCTTY)?;
        if !asked.intersects(OFlags::NONBLOCK | OFlags::PATH) {
            fcntl_setfl(&file, fcntl_getfl(&file)? - OFlags::NONBLOCK)?;
        }
        Ok(Reply::Descriptor { file, close_on_exec })
    }
}

fn in_memory(text: &[u8]) -> Result<OwnedFd, Errno> {
    let memory = rustix::fs::memfd_create("mounts", rustix::fs::MemfdFlags::CLOEXEC)?;
    let mut file = std::fs::File::from(memory);
    let written = file.write_all(text);
    written.map_err(|error| Errno::from_io_error(&error).unwrap_or(Errno::IO))?;
    rustix::fs::seek(file.as_fd(), rustix::fs::SeekFrom::Start(0))?;
    Ok(file.into())
}
