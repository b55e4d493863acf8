//! One call on a path that leads out of the step's root: opening, entering and executing what is there.

use std::ffi::CString;
use std::io::Write;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};

use rustix::fs::{
    CWD, FileType, Mode, OFlags, ResolveFlags, fcntl_getfl, fcntl_setfl, fstat, openat, openat2, readlinkat,
};
use rustix::io::Errno;

use super::super::filesystem;
use super::super::seccomp::{Argument, Instead, Notification, PAST, Reply};
use super::place::Place;

/// A call, and where its path leads.
pub(super) struct Request<'a> {
    pub(super) notification: &'a Notification<'a>,
    pub(super) place: Place,
    /// The path of the place, for this process.
    pub(super) path: CString,
    /// What the path leads through.
    held: Option<OwnedFd>,
}

impl<'a> Request<'a> {
    pub(super) fn new(notification: &'a Notification<'a>, place: Place, held: Option<OwnedFd>) -> Result<Self, Errno> {
        let path = CString::new(place.path()).map_err(|_| Errno::INVAL)?;
        Ok(Self { notification, place, path, held })
    }

    pub(super) fn open(&self, flags: u32, mode: u32) -> Result<Reply, Errno> {
        if flags & libc::O_PATH.cast_unsigned() != 0 {
            return self.open_as_path(flags);
        }
        self.give(flags, |flags| openat(CWD, &self.path, flags, Mode::from_raw_mode(mode)))
    }

    /// openat2(2) with its `struct open_how`: flags, mode and restrictions, 64 bits each.
    pub(super) fn open_how(&self) -> Result<Reply, Errno> {
        let mut how = [0; 24];
        self.notification.read(self.notification.argument(2), &mut how)?;
        let field = |number: usize| u64::from_ne_bytes(how[8 * number..][..8].try_into().expect("eight bytes"));
        let resolve = ResolveFlags::from_bits_retain(field(2));
        if resolve.intersects(ResolveFlags::IN_ROOT | ResolveFlags::BENEATH) {
            return Ok(Reply::Continue);
        }
        let [flags, mode] = [field(0), field(1)].map(|value| (value & 0xffff_ffff) as u32);
        let path = flags & libc::O_PATH.cast_unsigned();
        if path != 0 && resolve.is_empty() {
            return self.open_as_path(flags);
        }
        // Under restrictions it is not opened again by its name; what is open for reading does for what only names it.
        let flags = flags & !path;
        self.give(flags, |flags| openat2(CWD, &self.path, flags, Mode::from_raw_mode(mode), resolve))
    }

    fn give(&self, flags: u32, open: impl FnOnce(OFlags) -> Result<OwnedFd, Errno>) -> Result<Reply, Errno> {
        let close_on_exec = flags & libc::O_CLOEXEC.cast_unsigned() != 0;
        let asked = OFlags::from_bits_retain(flags);
        if let Some(text) = self.place.own_text() {
            return Ok(Reply::Descriptor { file: in_memory(text.as_bytes())?, close_on_exec });
        }
        if self.place.is_masked() {
            return Ok(Reply::Descriptor { file: self.nothing(asked)?, close_on_exec });
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

    /// What a step gets to see of a file that it may not see, as where `/dev/null` is mounted over it.
    fn nothing(&self, asked: OFlags) -> Result<OwnedFd, Errno> {
        let found = rustix::fs::stat(&self.path)?;
        if FileType::from_raw_mode(found.st_mode) == FileType::Directory {
            return Err(Errno::NOENT);
        }
        openat(CWD, c"/dev/null", (asked - OFlags::NOFOLLOW) | OFlags::CLOEXEC, Mode::empty())
    }

    /// A descriptor that only names a file (`O_PATH`) is one that the kernel hands to nobody: the caller opens it itself, in
    /// the directory that it is in.
    fn open_as_path(&self, flags: u32) -> Result<Reply, Errno> {
        if self.place.is_masked() {
            return Err(Errno::NOENT);
        }
        let path = self.path.as_bytes();
        let slash = path.iter().rposition(|&byte| byte == b'/').ok_or(Errno::NOENT)?;
        let (parent, name) = (&path[..=slash], &path[slash + 1..]);
        let name = CString::new(if name.is_empty() { b".".as_slice() } else { name }).map_err(|_| Errno::INVAL)?;
        let parent = openat(CWD, parent, OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?;
        let [mode, unused, past] = [0, 0, PAST].map(|number| Argument::Number(number.into()));
        let call =
            [Argument::Descriptor(parent), Argument::Text(name), Argument::Number(flags.into()), mode, unused, past];
        Ok(instead(libc::SYS_openat, call.into()))
    }

    /// What the link that the call names says.
    pub(super) fn link(&self) -> Result<Vec<u8>, Errno> {
        let link = match &self.held {
            Some(held) => readlinkat(held, c"", Vec::new())?,
            None => readlinkat(CWD, &self.path, Vec::new())?,
        };
        Ok(link.into_bytes())
    }

    /// chdir(2): the caller enters the open directory.
    pub(super) fn enter(&self) -> Result<Reply, Errno> {
        let directory = self.open_plainly(OFlags::RDONLY | OFlags::DIRECTORY)?;
        Ok(instead(libc::SYS_fchdir, vec![Argument::Descriptor(directory)]))
    }

    /// execve(2) with the arguments and the environment of the call. The caller executes the program by the path that it has
    /// in the caller's root, so that it is called after it and, if it is a script, is found by its interpreter; what has no
    /// path there is executed as it is open.
    pub(super) fn execute(&self, [arguments, environment]: [usize; 2]) -> Result<Reply, Errno> {
        let program = openat(CWD, &self.path, OFlags::PATH | OFlags::CLOEXEC, Mode::empty())?;
        let kept = |number| Argument::Number(self.notification.argument(number));
        if let Some(path) = self.path_in_root(&program)? {
            let call = vec![Argument::Text(path), kept(arguments), kept(environment)];
            return Ok(instead(libc::SYS_execve, call));
        }
        let program = self.open_plainly(OFlags::RDONLY)?;
        let flags = Argument::Number(u64::from(libc::AT_EMPTY_PATH.cast_unsigned()));
        let named = [Argument::Descriptor(program), Argument::Text(CString::default())];
        let call = named.into_iter().chain([kept(arguments), kept(environment), flags]).collect();
        Ok(instead(libc::SYS_execveat, call))
    }

    /// The path of a file in the caller's root, if it is there.
    fn path_in_root(&self, file: &OwnedFd) -> Result<Option<CString>, Errno> {
        let path = readlinkat(CWD, format!("/proc/self/fd/{}", file.as_raw_fd()), Vec::new())?;
        let Some(inside) = self.seen(path.to_bytes())? else { return Ok(None) };
        let (known, found) = (fstat(file)?, rustix::fs::stat(&path));
        let same = found.is_ok_and(|found| (found.st_dev, found.st_ino) == (known.st_dev, known.st_ino));
        Ok(if same { Some(CString::new(inside).map_err(|_| Errno::INVAL)?) } else { None })
    }

    /// What the caller calls the file that is `path` for this process; nothing when it is not beneath its root.
    pub(super) fn seen<'b>(&self, path: &'b [u8]) -> Result<Option<&'b [u8]>, Errno> {
        let root = readlinkat(CWD, format!("/proc/{}/root", self.notification.thread()), Vec::new())?;
        Ok(match path.strip_prefix(root.to_bytes().strip_suffix(b"/").unwrap_or(root.to_bytes())) {
            Some([]) => Some(b"/"),
            Some(rest) if rest.starts_with(b"/") => Some(rest),
            _ => None,
        })
    }

    /// utimensat(2).
    pub(super) fn change_times(&self) -> Result<Reply, Errno> {
        let file = self.open_plainly(OFlags::RDONLY)?;
        let call = [Argument::Descriptor(file), Argument::Number(0), Argument::Number(self.notification.argument(2))];
        Ok(instead(libc::SYS_utimensat, call.into()))
    }

    /// A call on attributes. Files of the kernel have none, and opening one can have effects.
    pub(super) fn attributes(&self, number: libc::c_long, arguments: &[usize]) -> Result<Reply, Errno> {
        if filesystem::is_of_kernel(&rustix::fs::statfs(&self.path)?) {
            return Err(Errno::NOTSUP);
        }
        self.on_descriptor(number, OFlags::RDONLY, arguments)
    }

    /// The form of the call that takes a descriptor in the place of a path, with these `arguments` of the call.
    pub(super) fn on_descriptor(
        &self,
        number: libc::c_long,
        flags: OFlags,
        arguments: &[usize],
    ) -> Result<Reply, Errno> {
        let file = self.open_plainly(flags)?;
        let kept = arguments.iter().map(|&number| Argument::Number(self.notification.argument(number)));
        Ok(instead(number, [Argument::Descriptor(file)].into_iter().chain(kept).collect()))
    }

    fn open_plainly(&self, flags: OFlags) -> Result<OwnedFd, Errno> {
        openat(CWD, &self.path, flags | OFlags::CLOEXEC | OFlags::NONBLOCK | OFlags::NOCTTY, Mode::empty())
    }
}

fn instead(number: libc::c_long, arguments: Vec<Argument>) -> Reply {
    Reply::Instead(Instead { number, arguments, then: None })
}

fn in_memory(text: &[u8]) -> Result<OwnedFd, Errno> {
    let memory = rustix::fs::memfd_create("mounts", rustix::fs::MemfdFlags::CLOEXEC)?;
    let mut file = std::fs::File::from(memory);
    let written = file.write_all(text);
    written.map_err(|error| Errno::from_io_error(&error).unwrap_or(Errno::IO))?;
    rustix::fs::seek(file.as_fd(), rustix::fs::SeekFrom::Start(0))?;
    Ok(file.into())
}
