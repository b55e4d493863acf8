//! The one place that touches a path inside an untrusted tree.
//!
//! Everything goes through a directory descriptor: `Root::directory` resolves beneath the root without following any
//! symbolic link, and names are then used relative to what it returned. Only [`Root::open_in`] follows links, inside
//! the root.

mod measure;

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Component, Path, PathBuf};

use rustix::fs::{AtFlags, CWD, FileType, Mode, OFlags, RawDir, ResolveFlags};
use rustix::io::Errno;

use crate::Error;

pub(crate) use measure::{last_change, measure};

/// Flags with which every descriptor here is opened.
const SAFE: OFlags = OFlags::CLOEXEC.union(OFlags::NOFOLLOW);

/// A directory whose content is not trusted.
#[derive(Debug)]
pub struct Root {
    fd: OwnedFd,
    path: PathBuf,
}

impl Root {
    /// Opens `directory`, whose own path is trusted.
    pub fn open(directory: &Path) -> Result<Self, Error> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let fd = rustix::fs::open(directory, flags, Mode::empty()).map_err(Error::io("open directory", directory))?;
        Ok(Self { fd, path: directory.to_owned() })
    }

    /// Returns the directory itself.
    pub(crate) fn into_fd(self) -> OwnedFd {
        self.fd
    }

    /// Returns the path that the root was opened with.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Opens the regular file `path`, relative to the root, for reading; a symbolic link in any component is an error.
    pub fn open_file(&self, path: &Path) -> Result<fs_err::File, Error> {
        let at = || self.path.join(path);
        let (parent, name) = split(path).ok_or_else(|| Error::NotDirectory { path: at() })?;
        let parent = self.directory(parent).map_err(Error::io("open the directory of", &at()))?;
        let file = open_regular(parent.as_fd(), name).map_err(Error::io("open", &at()))?;
        Ok(fs_err::File::from_parts(file, at()))
    }

    /// Opens what `path` leads to when symbolic links are followed with this directory as the root (openat2's
    /// `RESOLVE_IN_ROOT`): `..` and absolute links cannot leave it.
    pub fn open_in(&self, path: &Path) -> Result<fs_err::File, Error> {
        let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK | OFlags::NOCTTY;
        let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
        let at = self.path.join(path.strip_prefix("/").unwrap_or(path));
        let fd = retrying(|| rustix::fs::openat2(&self.fd, path, flags, Mode::empty(), resolve));
        Ok(fs_err::File::from_parts(File::from(fd.map_err(Error::io("open", &at))?), at))
    }

    /// Opens a directory below the root as a place (`O_PATH`) for other calls; follows no symbolic link.
    pub(crate) fn directory(&self, path: &Path) -> Result<OwnedFd, Errno> {
        self.open_literal(path, OFlags::PATH | OFlags::DIRECTORY)
    }

    /// Opens a directory below the root for reading and for `f*` calls; follows no symbolic link.
    pub(crate) fn readable_directory(&self, path: &Path) -> Result<OwnedFd, Errno> {
        self.open_literal(path, OFlags::RDONLY | OFlags::DIRECTORY)
    }

    fn open_literal(&self, path: &Path, flags: OFlags) -> Result<OwnedFd, Errno> {
        let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
        if !path.components().all(|component| matches!(component, Component::Normal(_) | Component::CurDir)) {
            return Err(Errno::XDEV);
        }
        let path = if path.as_os_str().is_empty() { Path::new(".") } else { path };
        match retrying(|| rustix::fs::openat2(&self.fd, path, flags | SAFE, Mode::empty(), resolve)) {
            // Kernels before 5.6, some seccomp profiles, and paths longer than PATH_MAX.
            Err(Errno::NOSYS | Errno::PERM | Errno::NAMETOOLONG) => self.open_stepwise(path, flags),
            other => other,
        }
    }

    /// Does [`Root::open_literal`] one component at a time.
    fn open_stepwise(&self, path: &Path, flags: OFlags) -> Result<OwnedFd, Errno> {
        let step = OFlags::PATH | OFlags::DIRECTORY | SAFE;
        let mut current = rustix::fs::openat(&self.fd, ".", step, Mode::empty())?;
        for component in path.components() {
            current = rustix::fs::openat(&current, component.as_os_str(), step, Mode::empty())?;
        }
        rustix::fs::openat(&current, ".", flags | SAFE, Mode::empty())
    }
}

impl AsFd for Root {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

/// The directory that holds a normal path, empty for the root, and the path's name there; none for the root. What
/// `Path::parent` and `Path::file_name` parse a path for, which counts where it is done for every file.
pub fn split(path: &Path) -> Option<(&Path, &OsStr)> {
    let bytes = path.as_os_str().as_bytes();
    if matches!(bytes, b"" | b".") {
        return None;
    }
    let (directory, name) = match bytes.iter().rposition(|byte| *byte == b'/') {
        Some(slash) => (&bytes[..slash.max(1)], &bytes[slash + 1..]),
        None => (&bytes[..0], bytes),
    };
    (!matches!(name, b"" | b"..")).then(|| (Path::new(OsStr::from_bytes(directory)), OsStr::from_bytes(name)))
}

/// Whether a normal path is `directory` or lies below it.
pub(crate) fn is_within(path: &Path, directory: &Path) -> bool {
    let rest = path.as_os_str().as_bytes().strip_prefix(directory.as_os_str().as_bytes());
    rest.is_some_and(|rest| matches!(rest, [] | [b'/', ..]))
}

/// Opens the regular file `name` for reading. A FIFO does not block, a link or another type is an error.
pub(crate) fn open_regular(directory: BorrowedFd<'_>, name: &OsStr) -> Result<File, Errno> {
    let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY | SAFE;
    let fd = rustix::fs::openat(directory, name, flags, Mode::empty())?;
    match FileType::from_raw_mode(rustix::fs::fstat(&fd)?.st_mode) {
        FileType::RegularFile => Ok(File::from(fd)),
        FileType::Directory => Err(Errno::ISDIR),
        _ => Err(Errno::INVAL),
    }
}

/// Opens the directory `name` for reading.
pub(crate) fn open_directory(parent: BorrowedFd<'_>, name: &OsStr) -> Result<OwnedFd, Errno> {
    rustix::fs::openat(parent, name, OFlags::RDONLY | OFlags::DIRECTORY | SAFE, Mode::empty())
}

/// Returns the names in a directory (without `.` and `..`), sorted bytewise.
pub(crate) fn names(directory: BorrowedFd<'_>) -> Result<Vec<OsString>, Errno> {
    let mut names = Vec::new();
    let mut buffer = Vec::with_capacity(32 * 1024);
    let mut entries = RawDir::new(directory, buffer.spare_capacity_mut());
    while let Some(entry) = entries.next() {
        let name = entry?.file_name().to_bytes().to_vec();
        if name != b"." && name != b".." {
            names.push(OsString::from_vec(name));
        }
    }
    names.sort_unstable();
    Ok(names)
}

/// Returns a path for the calls that take no descriptor (`lsetxattr`, `llistxattr`): it leads through procfs to the
/// open directory, and such calls do not follow `name` itself.
pub(crate) fn through_proc(directory: BorrowedFd<'_>, name: &OsStr) -> PathBuf {
    Path::new("/proc/self/fd").join(directory.as_raw_fd().to_string()).join(name)
}

/// Removes a file or a whole tree; what is not there is no error.
///
/// Directories are moved up beside the top before they are emptied, so neither depth nor the number of descriptors
/// grows with a tree that a hostile step made.
pub fn remove_tree(top: &Path) -> Result<(), Error> {
    let parent = top.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let name = top.file_name().ok_or_else(|| Error::NotDirectory { path: top.to_owned() })?;
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    match rustix::fs::openat(CWD, parent, flags, Mode::empty()) {
        Err(Errno::NOENT) => Ok(()),
        Err(error) => Err(Error::io("open directory", parent)(error)),
        Ok(parent) => remove_at(parent.as_fd(), name).map_err(Error::io("remove", top)),
    }
}

/// Does [`remove_tree`] for `name` in an open directory.
pub(crate) fn remove_at(parent: BorrowedFd<'_>, name: &OsStr) -> Result<(), Errno> {
    if remove_one(parent, name)? {
        return Ok(());
    }
    let top = open_to_empty(parent, name)?;
    let mut moved: u64 = 0;
    let mut pending: Vec<OsString> = vec![OsString::from(".")];
    while let Some(next) = pending.pop() {
        let directory = if next == "." { None } else { Some(open_to_empty(top.as_fd(), &next)?) };
        let here = directory.as_ref().map_or(top.as_fd(), AsFd::as_fd);
        for child in names(here)? {
            if remove_one(here, &child)? {
                continue;
            }
            if directory.is_none() {
                pending.push(child);
                continue;
            }
            let unique = loop {
                moved += 1;
                let unique = OsString::from(format!(".rbuild-removed-{moved}"));
                if rustix::fs::statat(&top, &unique, AtFlags::SYMLINK_NOFOLLOW).err() == Some(Errno::NOENT) {
                    break unique;
                }
            };
            open_to_empty(here, &child)?;
            rustix::fs::renameat(here, &child, &top, &unique)?;
            pending.push(unique);
        }
        if directory.is_some() {
            rustix::fs::unlinkat(&top, &next, AtFlags::REMOVEDIR)?;
        }
    }
    rustix::fs::unlinkat(parent, name, AtFlags::REMOVEDIR)
}

/// Opens a directory that is about to be emptied, granting its owner the permission to do so.
fn open_to_empty(parent: BorrowedFd<'_>, name: &OsStr) -> Result<OwnedFd, Errno> {
    let place = rustix::fs::openat(parent, name, OFlags::PATH | OFlags::DIRECTORY | SAFE, Mode::empty())?;
    let mode = Mode::from_raw_mode(rustix::fs::fstat(&place)?.st_mode);
    if !mode.contains(Mode::RWXU) {
        // `name` was a directory a moment ago and nobody else writes here; chmod cannot be given an `O_PATH`.
        rustix::fs::chmodat(parent, name, Mode::RWXU, AtFlags::empty())?;
    }
    open_directory(parent, name)
}

/// Removes a file or an empty directory; `false` when it is a directory with something in it.
fn remove_one(parent: BorrowedFd<'_>, name: &OsStr) -> Result<bool, Errno> {
    match rustix::fs::unlinkat(parent, name, AtFlags::empty()) {
        Ok(()) | Err(Errno::NOENT) => return Ok(true),
        Err(Errno::ISDIR) => {}
        Err(error) => return Err(error),
    }
    match rustix::fs::unlinkat(parent, name, AtFlags::REMOVEDIR) {
        Ok(()) | Err(Errno::NOENT) => Ok(true),
        Err(Errno::NOTEMPTY | Errno::EXIST) => Ok(false),
        Err(error) => Err(error),
    }
}

/// Whether every component of `path` is a plain name of at most `NAME_MAX` bytes.
pub(crate) fn is_normal(path: &Path) -> bool {
    let mut components = path.components().peekable();
    components.peek().is_some()
        && components.all(|component| matches!(component, Component::Normal(name) if name.as_bytes().len() <= 255))
}

/// openat2 says EAGAIN when a rename raced with `..`; the caller may simply ask again.
fn retrying(mut call: impl FnMut() -> Result<OwnedFd, Errno>) -> Result<OwnedFd, Errno> {
    for _ in 0..64 {
        match call() {
            Err(Errno::AGAIN | Errno::INTR) => {}
            other => return other,
        }
    }
    call()
}

#[cfg(test)]
mod tests;
