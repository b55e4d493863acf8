//! What a step creates: whose it is, and devices, which only seem to be.
//!
//! Root creates most, and its files are root's already: then the kernel goes on. For others the file is made here, so that
//! nobody ever sees it without its owner.

use std::ffi::CString;
use std::os::fd::OwnedFd;
use std::rc::Rc;

use rustix::fs::{CWD, FileType, Mode, OFlags, ResolveFlags, mkdirat, mknodat, openat, openat2, symlinkat};
use rustix::io::Errno;
use snapshot::Owner;
use snapshot::owner::Device;

use super::super::seccomp::{Call, Reply};
use super::credentials::Credentials;
use super::place::Place;
use super::rules::TMPFILE;
use super::{Caller, Emulation, record};

/// Permissions, setuid, setgid and the sticky bit.
const PERMISSIONS: u32 = 0o7777;

/// How a file is to be opened (`struct open_how`).
struct How {
    flags: u32,
    mode: u32,
    resolve: u64,
}

impl How {
    fn of(caller: &Caller<'_>) -> Result<(Option<usize>, usize, Self), Errno> {
        let how = |flags, mode| Self { flags, mode, resolve: 0 };
        Ok(match caller.call {
            Call::Open => (None, 0, how(caller.word(1), caller.word(2))),
            Call::Openat => (Some(0), 1, how(caller.word(2), caller.word(3))),
            Call::Openat2 => {
                let mut bytes = [0; 24];
                caller.read(caller.argument(2), &mut bytes)?;
                let number = |at: usize| {
                    let field: [u8; 8] = bytes[at..at + 8].try_into().expect("eight bytes are eight bytes");
                    u64::from_ne_bytes(field)
                };
                let low = |number: u64| u32::try_from(number).map_err(|_| Errno::INVAL);
                (Some(0), 1, Self { flags: low(number(0))?, mode: low(number(8))?, resolve: number(16) })
            }
            _ => {
                let flags = libc::O_CREAT | libc::O_WRONLY | libc::O_TRUNC;
                (None, 0, how(flags.cast_unsigned(), caller.word(1)))
            }
        })
    }

    /// The directory from which the kernel is to find the path, if it may not find it otherwise.
    fn base(&self, caller: &Caller<'_>, named: &Named, other_root: bool) -> Result<Option<OwnedFd>, Errno> {
        let confined = ResolveFlags::BENEATH | ResolveFlags::IN_ROOT;
        // Without such a restriction a path of another root would be found in this one.
        let elsewhere = other_root && !ResolveFlags::from_bits_retain(self.resolve).intersects(confined);
        if self.resolve == 0 || elsewhere {
            return Ok(None);
        }
        let base = match named.directory {
            libc::AT_FDCWD => Place::of_cwd(caller.thread())?,
            descriptor => Place::of_descriptor(caller.thread(), descriptor)?,
        };
        openat(CWD, &*base.path, OFlags::PATH | OFlags::CLOEXEC, Mode::empty()).map(Some)
    }
}

impl Emulation {
    pub(super) fn open(&mut self, caller: &Caller<'_>) -> Result<Reply, Errno> {
        let Ok((directory, path, how)) = How::of(caller) else { return Ok(Reply::Continue) };
        let temporary = how.flags & TMPFILE != 0;
        if !temporary && how.flags & libc::O_CREAT.cast_unsigned() == 0 {
            return Ok(Reply::Continue);
        }
        let Some(named) = self.named(caller, directory, path, temporary) else { return Ok(Reply::Continue) };
        let other_root = self.namer(caller).other_root;
        let found = Place::of_path(self.namer(caller), named.directory, &named.path, true);
        if !temporary && found.as_ref().is_ok_and(|place| record::status(place).is_ok()) {
            return Ok(Reply::Continue);
        }
        let follow = how.flags & (libc::O_EXCL | libc::O_NOFOLLOW).cast_unsigned() == 0;
        let place =
            if temporary { found? } else { Place::of_new(self.namer(caller), named.directory, &named.path, follow)? };
        let base = how.base(caller, &named, other_root)?;
        let mut flags = OFlags::from_bits_retain(how.flags) | OFlags::CLOEXEC;
        if other_root {
            // The kernel would follow links here; what is open already has none.
            flags.set(OFlags::NOFOLLOW, !temporary);
        }
        let mode = Mode::from_raw_mode(how.mode & PERMISSIONS);
        let _masked = Masked::of(caller);
        let open = || match &base {
            None => openat(CWD, &*place.path, flags, mode),
            Some(base) => openat2(base, &*named.path, flags, mode, ResolveFlags::from_bits_retain(how.resolve)),
        };
        let file = self.owners.make((&named.who, named.owner), || {
            let file = open()?;
            Place::of_own(&file).map(|place| (file, place))
        })?;
        Ok(Reply::Descriptor { file, close_on_exec: how.flags & libc::O_CLOEXEC.cast_unsigned() != 0 })
    }

    pub(super) fn make_directory(&mut self, caller: &Caller<'_>) -> Result<Reply, Errno> {
        let (directory, path) = at(caller, Call::Mkdirat);
        let Some(named) = self.named(caller, directory, path, false) else { return Ok(Reply::Continue) };
        let mode = Mode::from_raw_mode(caller.word(path + 1) & PERMISSIONS);
        self.make(caller, &named, |place| mkdirat(CWD, &*place.path, mode))
    }

    pub(super) fn make_link(&mut self, caller: &Caller<'_>) -> Result<Reply, Errno> {
        let (directory, path) = if caller.call == Call::Symlinkat { (Some(1), 2) } else { (None, 1) };
        let Some(named) = self.named(caller, directory, path, false) else { return Ok(Reply::Continue) };
        let target = caller.read_path(caller.argument(0))?;
        self.make(caller, &named, |place| symlinkat(&*target, CWD, &*place.path))
    }

    /// Sockets and FIFOs are real, devices are files with a record where owners have one.
    pub(super) fn make_node(&mut self, caller: &Caller<'_>) -> Result<Reply, Errno> {
        let (directory, path) = at(caller, Call::Mknodat);
        let (mode, number) = (caller.word(path + 1), u64::from(caller.word(path + 2)));
        let block = match mode & libc::S_IFMT {
            libc::S_IFBLK => Some(true),
            libc::S_IFCHR => Some(false),
            _ => None,
        };
        let permissions = Mode::from_raw_mode(mode & PERMISSIONS);
        let Some(block) = block else {
            let Some(named) = self.named(caller, directory, path, false) else { return Ok(Reply::Continue) };
            let kind = match FileType::from_raw_mode(mode) {
                FileType::Unknown => FileType::RegularFile,
                kind => kind,
            };
            return self.make(caller, &named, |place| mknodat(CWD, &*place.path, kind, permissions, 0));
        };
        if !self.credentials(caller).capable() {
            return Err(Errno::PERM);
        }
        if self.owners.are_real() {
            return Ok(Reply::Continue);
        }
        let mut named = self.any(caller, directory, path, false)?;
        let (major, minor) = (rustix::fs::major(number), rustix::fs::minor(number));
        named.owner.device = Some(Device { block, major, minor });
        self.make(caller, &named, |place| mknodat(CWD, &*place.path, FileType::RegularFile, permissions, 0))
    }

    /// Makes something that is not there, and writes down whose it is.
    fn make(
        &mut self,
        caller: &Caller<'_>,
        named: &Named,
        make: impl FnOnce(&Place) -> Result<(), Errno>,
    ) -> Result<Reply, Errno> {
        let place = Place::of_new(self.namer(caller), named.directory, &named.path, false)?;
        let _masked = Masked::of(caller);
        self.owners.make((&named.who, named.owner), || make(&place).map(|()| ((), place)))?;
        Ok(Reply::Value(0))
    }

    /// What is to be made where, unless it is root's, or cannot be: then the kernel can go on.
    fn named(&self, caller: &Caller<'_>, directory: Option<usize>, path: usize, inside: bool) -> Option<Named> {
        if self.owners.are_real() && self.credentials(caller).makes_files_of_root() {
            return None;
        }
        self.any(caller, directory, path, inside).ok().filter(|named| named.owner != Owner::ROOT)
    }

    /// What is to be made where, in the directory that the path names if it is `inside` that.
    fn any(&self, caller: &Caller<'_>, directory: Option<usize>, path: usize, inside: bool) -> Result<Named, Errno> {
        let directory = directory.map_or(libc::AT_FDCWD, |number| caller.descriptor(number));
        let path = caller.read_path(caller.argument(path))?;
        let namer = self.namer(caller);
        let parent = if inside {
            Place::of_path(namer, directory, &path, true)?
        } else {
            Place::of_parent(namer, directory, &path)?
        };
        let who = self.credentials(caller);
        let owner = self.owner_of_new(&who, &parent)?;
        Ok(Named { directory, path, owner, who })
    }

    /// The caller's, but for the group where the directory gives its own (inode(7), "The set-group-ID bit").
    fn owner_of_new(&self, who: &Credentials, parent: &Place) -> Result<Owner, Errno> {
        let group = self.owners.find(parent).map_or(0, |owner| owner.gid);
        let (uid, gid) = (who.uid.file_system, who.gid.file_system);
        // Most of the time it is root in a directory of root's.
        let gives = group != gid && record::status(parent)?.st_mode & libc::S_ISGID != 0;
        Ok(Owner { uid, gid: if gives { group } else { gid }, device: None })
    }
}

/// Something that is to be made.
struct Named {
    directory: i32,
    path: CString,
    owner: Owner,
    /// Who makes it.
    who: Rc<Credentials>,
}

/// Where the arguments of a call that may be `at_form` name what is to be made.
fn at(caller: &Caller<'_>, at_form: Call) -> (Option<usize>, usize) {
    if caller.call == at_form { (Some(0), 1) } else { (None, 0) }
}

/// The caller's umask, as long as it lives. It keeps that of this process, nothing else of which makes files.
struct Masked(Mode);

impl Masked {
    fn of(caller: &Caller<'_>) -> Self {
        let mask = caller.line_of_status("Umask").and_then(|text| u32::from_str_radix(&text, 8).ok());
        Self(rustix::process::umask(Mode::from_raw_mode(mask.unwrap_or(0o022))))
    }
}

impl Drop for Masked {
    fn drop(&mut self) {
        rustix::process::umask(self.0);
    }
}
