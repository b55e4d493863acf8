//! Reaches paths inside a context: relative to an open directory, through no symbolic link, never out of the root.
//!
//! Links are followed by `resolve`, as text, inside the root. What is opened here has no link left in it, so a link
//! that somebody puts there in the meantime is an error and no way out (the class of CVE-2018-15664).

use std::ffi::{CString, OsStr};
use std::fs::File;
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Component, Path, PathBuf};

use rustix::fs::{AtFlags, FileType, Mode, OFlags, RawDir, ResolveFlags};
use rustix::io::Errno;
use snapshot::{Entry, Kind, Metadata, Mtime, Xattrs};

use super::memo::{Identity, Stamp};

#[cfg(test)]
mod tests;

const DIRECTORY: OFlags = OFlags::RDONLY.union(OFlags::DIRECTORY).union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC);
/// `O_NONBLOCK` for the FIFO that a file is exchanged for between its stat and its opening.
const FILE: OFlags =
    OFlags::RDONLY.union(OFlags::NOFOLLOW).union(OFlags::NONBLOCK).union(OFlags::NOCTTY).union(OFlags::CLOEXEC);

/// What `lstat` says of one name.
#[derive(Debug, Clone, Copy)]
pub(super) struct Stat {
    pub(super) file_type: FileType,
    pub(super) identity: Identity,
    mode: u32,
    links: u64,
    device: (u32, u32),
}

/// One name of a directory.
#[derive(Debug, Clone)]
pub(super) struct Name {
    pub(super) text: CString,
    /// As the directory says it; some file systems say `Unknown`.
    pub(super) file_type: FileType,
}

impl Name {
    pub(super) fn as_os_str(&self) -> &OsStr {
        OsStr::from_bytes(self.text.as_bytes())
    }
}

/// Opens the directory `path` below `root`; an empty path is the root.
pub(super) fn open_directory(root: BorrowedFd<'_>, path: &Path) -> io::Result<OwnedFd> {
    let path = if path.as_os_str().is_empty() { Path::new(".") } else { path };
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
    match rustix::fs::openat2(root, path, DIRECTORY, Mode::empty(), resolve) {
        // gVisor has no openat2, and the seccomp profiles of old container engines forbid it.
        Err(Errno::NOSYS | Errno::PERM) => open_directory_stepwise(root, path),
        opened => Ok(opened?),
    }
}

/// The same, with one `openat` for each component.
fn open_directory_stepwise(root: BorrowedFd<'_>, path: &Path) -> io::Result<OwnedFd> {
    let mut directory = rustix::fs::openat(root, ".", DIRECTORY, Mode::empty())?;
    for component in path.components() {
        match component {
            Component::CurDir => {}
            Component::Normal(name) => directory = open_subdirectory(directory.as_fd(), name)?,
            Component::ParentDir | Component::RootDir | Component::Prefix(_) => return Err(Errno::XDEV.into()),
        }
    }
    Ok(directory)
}

/// Opens the directory `name` of `directory`.
pub(super) fn open_subdirectory(directory: BorrowedFd<'_>, name: &OsStr) -> io::Result<OwnedFd> {
    Ok(rustix::fs::openat(directory, name, DIRECTORY, Mode::empty())?)
}

/// Whether something was not opened because a symbolic link stands there.
pub(super) fn is_link(error: &io::Error) -> bool {
    error.raw_os_error() == Some(Errno::LOOP.raw_os_error())
}

/// The stat of `name` in `directory`; links are not followed. An empty name is the directory.
pub(super) fn stat(directory: BorrowedFd<'_>, name: &OsStr) -> io::Result<Stat> {
    let stat = rustix::fs::statat(directory, name, AtFlags::SYMLINK_NOFOLLOW | AtFlags::EMPTY_PATH)?;
    Ok(Stat::new(&stat))
}

/// The stat of an open file.
pub(super) fn stat_open(file: BorrowedFd<'_>) -> io::Result<Stat> {
    Ok(Stat::new(&rustix::fs::fstat(file)?))
}

/// The names in a directory, sorted bytewise.
pub(super) fn names(directory: BorrowedFd<'_>) -> io::Result<Vec<Name>> {
    let mut buffer = [MaybeUninit::uninit(); 16 * 1024];
    let mut listing = RawDir::new(directory, &mut buffer);
    let mut names = Vec::new();
    while let Some(entry) = listing.next() {
        let entry = entry?;
        if !matches!(entry.file_name().to_bytes(), b"." | b"..") {
            names.push(Name { text: entry.file_name().to_owned(), file_type: entry.file_type() });
        }
    }
    names.sort_unstable_by(|a, b| a.text.as_bytes().cmp(b.text.as_bytes()));
    Ok(names)
}

/// The text of the symbolic link `name` in `directory`.
pub(super) fn link_target(directory: BorrowedFd<'_>, name: &OsStr) -> io::Result<Vec<u8>> {
    Ok(rustix::fs::readlinkat(directory, name, Vec::new())?.into_bytes())
}

/// The entry that `name` in `directory` is in a layer; none for a socket, which no layer can hold.
pub(super) fn entry(directory: BorrowedFd<'_>, name: &OsStr, stat: &Stat) -> io::Result<Option<Entry>> {
    let kind = match stat.file_type {
        FileType::Directory => Kind::Directory,
        FileType::RegularFile => Kind::File { size: stat.identity.size },
        FileType::Symlink => Kind::Symlink { target: link_target(directory, name)? },
        FileType::CharacterDevice => Kind::CharDevice { major: stat.device.0, minor: stat.device.1 },
        FileType::BlockDevice => Kind::BlockDevice { major: stat.device.0, minor: stat.device.1 },
        FileType::Fifo => Kind::Fifo,
        FileType::Socket | FileType::Unknown => return Ok(None),
    };
    let xattrs = xattrs(&Attributed::Named(reach(directory, name)))?;
    Ok(Some(Entry { kind, metadata: stat.metadata(xattrs) }))
}

/// The entry of a regular file that is known to have no extended attributes.
pub(super) fn plain_entry(stat: &Stat) -> Entry {
    Entry { kind: Kind::File { size: stat.identity.size }, metadata: stat.metadata(Xattrs::new()) }
}

/// The entry of a regular file that is open.
pub(super) fn entry_of_open(file: &File, stat: &Stat) -> io::Result<Entry> {
    let xattrs = xattrs(&Attributed::Open(file.as_fd()))?;
    Ok(Entry { kind: Kind::File { size: stat.identity.size }, metadata: stat.metadata(xattrs) })
}

impl Stat {
    #[expect(clippy::useless_conversion, reason = "the widths of these fields differ between architectures")]
    fn new(stat: &rustix::fs::Stat) -> Self {
        let stamp = |seconds, nanoseconds| Stamp { seconds, nanoseconds: u32::try_from(nanoseconds).unwrap_or(0) };
        let raw_mode = stat.st_mode;
        let identity = Identity {
            device: stat.st_dev.into(),
            inode: stat.st_ino.into(),
            size: u64::try_from(stat.st_size).unwrap_or(0),
            mtime: stamp(stat.st_mtime.into(), stat.st_mtime_nsec),
            ctime: stamp(stat.st_ctime.into(), stat.st_ctime_nsec),
        };
        let device = (rustix::fs::major(stat.st_rdev), rustix::fs::minor(stat.st_rdev));
        let file_type = FileType::from_raw_mode(raw_mode);
        Self { file_type, identity, mode: raw_mode & 0o7777, links: stat.st_nlink.into(), device }
    }

    /// Whether it is a regular file with other names, wherever they are.
    pub(super) fn has_links(&self) -> bool {
        self.links > 1 && self.file_type == FileType::RegularFile
    }

    /// Which file it is: device and inode.
    pub(super) fn inode(&self) -> (u64, u64) {
        (self.identity.device, self.identity.inode)
    }

    pub(super) fn mtime(&self) -> Mtime {
        let Stamp { seconds, nanoseconds } = self.identity.mtime;
        Mtime { seconds, nanoseconds }
    }

    /// The metadata of the entry in a layer: the host's owner is not part of it.
    fn metadata(&self, xattrs: Xattrs) -> Metadata {
        Metadata { mode: self.mode, uid: 0, gid: 0, mtime: self.mtime(), xattrs }
    }
}

/// A path for the calls that take no directory: `listxattrat` came with Linux 6.13 only. The kernel resolves the
/// first part to the open directory itself, whatever happened to its path; the last component is not followed.
fn reach(directory: BorrowedFd<'_>, name: &OsStr) -> Vec<u8> {
    let mut path = format!("/proc/self/fd/{}", directory.as_raw_fd()).into_bytes();
    path.push(b'/');
    path.extend_from_slice(name.as_bytes());
    path
}

/// What extended attributes are asked of.
enum Attributed<'a> {
    /// A path made by [`reach`].
    Named(Vec<u8>),
    Open(BorrowedFd<'a>),
}

impl Attributed<'_> {
    /// Fills `buffer` with the NUL-terminated names; returns how many bytes that are.
    fn list(&self, buffer: &mut [u8]) -> Result<usize, Errno> {
        match self {
            Self::Named(path) => rustix::fs::llistxattr(path.as_slice(), buffer),
            Self::Open(file) => rustix::fs::flistxattr(file, buffer),
        }
    }

    fn get(&self, name: &[u8], buffer: &mut [u8]) -> Result<usize, Errno> {
        match self {
            Self::Named(path) => rustix::fs::lgetxattr(path.as_slice(), name, buffer),
            Self::Open(file) => rustix::fs::fgetxattr(file, name, buffer),
        }
    }
}

/// Reads the attributes that belong in a layer.
fn xattrs(of: &Attributed<'_>) -> io::Result<Xattrs> {
    let mut xattrs = Xattrs::new();
    let list = match sized(|buffer| of.list(buffer)) {
        // The file system has no attributes.
        Err(Errno::NOTSUP) => return Ok(xattrs),
        list => list?,
    };
    for name in list.split(|&byte| byte == 0).filter(|name| belongs_in_layer(name)) {
        match sized(|buffer| of.get(name, buffer)) {
            // Removed since it was listed.
            Err(Errno::NODATA) => {}
            value => {
                xattrs.insert(name.to_vec(), value?);
            }
        }
    }
    Ok(xattrs)
}

/// Calls `fill` with a buffer that is large enough.
fn sized(fill: impl Fn(&mut [u8]) -> Result<usize, Errno>) -> Result<Vec<u8>, Errno> {
    let mut small = [0; 256];
    let mut large = Vec::new();
    // The kernel's limits for a list and for a value (XATTR_LIST_MAX, XATTR_SIZE_MAX).
    for size in [256, 65_536] {
        let buffer = if size == small.len() {
            small.as_mut_slice()
        } else {
            large.resize(size, 0);
            large.as_mut_slice()
        };
        match fill(buffer) {
            Err(Errno::RANGE) => {}
            filled => return Ok(buffer[..filled?].to_vec()),
        }
    }
    Err(Errno::RANGE)
}

/// Whether an attribute is the image's business: labels and access lists are the host's, except for capabilities;
/// what overlayfs and rbuild write into layers cannot come from a context, or it could hide files below it.
fn belongs_in_layer(name: &[u8]) -> bool {
    let foreign: [&[u8]; 5] = [b"security.", b"system.", b"trusted.overlay.", b"user.overlay.", b"user.rbuild."];
    name == b"security.capability" || !(name.is_empty() || foreign.iter().any(|prefix| name.starts_with(prefix)))
}

/// Opens files of a context one after another, keeping the directory of the last one open.
#[derive(Debug)]
pub(super) struct Opener<R> {
    root: R,
    parent: Option<(PathBuf, OwnedFd)>,
}

impl<R: AsFd> Opener<R> {
    pub(super) fn new(root: R) -> Self {
        Self { root, parent: None }
    }

    /// Opens the regular file `path`, with its stat; anything else is `InvalidInput`.
    pub(super) fn open(&mut self, path: &Path) -> io::Result<(File, Stat)> {
        let file = self.open_unseen(path)?;
        let stat = stat_open(file.as_fd())?;
        if stat.file_type != FileType::RegularFile {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        Ok((file, stat))
    }

    /// Opens what was a regular file a moment ago, and may be anything by now: the caller asks before it believes the
    /// bytes.
    pub(super) fn open_unseen(&mut self, path: &Path) -> io::Result<File> {
        let Some((parent, name)) = snapshot::path::split(path) else {
            return Err(io::ErrorKind::InvalidInput.into());
        };
        let directory = match self.parent.take() {
            Some((open, directory)) if open.as_os_str() == parent.as_os_str() => self.parent.insert((open, directory)),
            _ => self.parent.insert((parent.to_owned(), open_directory(self.root.as_fd(), parent)?)),
        };
        Ok(File::from(rustix::fs::openat(&directory.1, name, FILE, Mode::empty())?))
    }
}
