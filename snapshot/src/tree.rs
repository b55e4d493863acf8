//! Changes → a directory, with exact modes, owners, times and attributes.
//!
//! Nothing is ever followed: a path whose parent is a symbolic link is an error. A directory gets its metadata when
//! the writer ends, deepest first, so that neither a read-only directory nor its time stands in the way.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::io::BufRead;
use std::ops::Bound;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use fs_err::File;
use rustix::fs::{AtFlags, FileType, Mode, OFlags, RenameFlags, XattrFlags, makedev};
use rustix::io::Errno;

use crate::entry::{Entry, Kind, Metadata};
use crate::index::implied_directory;
use crate::owner::{self, Owner};
use crate::path::{Root, remove_at, split, through_proc};
use crate::sink::write_content;
use crate::xattr::Source;
use crate::{ChangeSink, Error};

mod copy;
mod metadata;

use metadata::{granted, owner, record, set_mode, set_open, times};

/// How a directory writes down what it removes from the layers below.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Flavour {
    /// As overlayfs reads it in the initial user namespace: `trusted.overlay.*`.
    Trusted,
    /// As overlayfs reads it with the mount option `userxattr`: `user.overlay.*`.
    UserXattr,
    /// The same, and owners and devices in attributes too (see [`mod@owner`]): for a user namespace with a
    /// single id.
    Single,
    /// Not at all: the directory is a whole tree.
    Plain,
}

impl Flavour {
    /// The attribute that makes a directory opaque.
    fn opaque(self) -> Option<&'static str> {
        match self {
            Self::Trusted => Some("trusted.overlay.opaque"),
            Self::UserXattr | Self::Single => Some("user.overlay.opaque"),
            Self::Plain => None,
        }
    }
}

/// A [`ChangeSink`] that writes into a directory.
///
/// Of two changes to one path the later one stands; directories merge. Directories that are missing above a path are
/// made as [`implied_directory`].
#[derive(Debug)]
pub struct TreeWriter {
    root: Root,
    flavour: Flavour,
    /// Directories that still lack their metadata.
    directories: BTreeMap<PathBuf, Metadata>,
    /// The directory of the last change: most have the same one as the one before.
    parent: Option<(PathBuf, OwnedFd)>,
    /// What a new file belongs to, where that is certain: then it need not be given away.
    owner: Option<(u32, u32)>,
    /// The permissions that a new file can be made with: neither the umask nor a default access list takes them away.
    granted: Mode,
}

impl TreeWriter {
    /// Writes into `root`, an existing directory.
    pub fn new(root: &Path, flavour: Flavour) -> Result<Self, Error> {
        let root = Root::open(root)?;
        let status = rustix::fs::fstat(&root).map_err(Error::io("read the status of", root.path()))?;
        let gives_group = Mode::from_raw_mode(status.st_mode).contains(Mode::SGID);
        let own = (rustix::process::geteuid().as_raw(), rustix::process::getegid().as_raw());
        let owner = match flavour {
            Flavour::Single => Some((0, 0)),
            Flavour::Plain => None,
            Flavour::Trusted | Flavour::UserXattr => (!gives_group).then_some(own),
        };
        // What others have made in a whole tree may have access lists of its own.
        let granted = if flavour == Flavour::Plain { Mode::empty() } else { granted(root.as_fd()) };
        Ok(Self { root, flavour, directories: BTreeMap::new(), parent: None, owner, granted })
    }

    /// Gives the directories their metadata.
    pub fn finish(mut self) -> Result<(), Error> {
        self.parent = None;
        for (path, metadata) in std::mem::take(&mut self.directories).iter().rev() {
            self.apply_to_directory(path, metadata)?;
        }
        Ok(())
    }

    /// Adds or replaces the regular file `path` with the bytes of `source`, an open file: as a clone where the file
    /// system can, else copied by the kernel.
    pub fn copy_file(&mut self, path: &Path, entry: &Entry, source: &File) -> Result<(), Error> {
        let (parent, name) = self.place(path)?;
        let file = self.create(parent.as_fd(), name, path, &entry.metadata)?;
        let size = if let Kind::File { size } = entry.kind { size } else { 0 };
        let copied = copy::copy_bytes(source, &file, size).map_err(Error::io("copy", path))?;
        if copied != size {
            return Err(Error::ShortContent { path: path.to_owned(), size });
        }
        self.apply_to_open(file.as_fd(), path, &entry.metadata)?;
        self.parent = Some(parent.into_kept());
        Ok(())
    }

    /// Gives a directory of the tree other metadata than it has been given.
    pub(crate) fn describe(&mut self, directory: &Path, metadata: Metadata) {
        self.directories.insert(directory.to_owned(), metadata);
    }

    /// Takes back the whiteout of `path`.
    pub(crate) fn remove_whiteout(&mut self, path: &Path) -> Result<(), Error> {
        let (parent, name) = self.place(path)?;
        rustix::fs::unlinkat(&parent, name, AtFlags::empty()).map_err(Error::io("remove the whiteout of", path))?;
        self.parent = Some(parent.into_kept());
        Ok(())
    }

    /// Moves what is no directory to where nothing is.
    pub(crate) fn rename(&mut self, from: &Path, to: &Path) -> Result<(), Error> {
        let (old_parent, old) = split(from).ok_or_else(|| Error::NotDirectory { path: from.to_owned() })?;
        let old_parent = self.root.directory(old_parent).map_err(|error| not_directory(old_parent, error))?;
        let (parent, name) = self.place(to)?;
        rustix::fs::renameat_with(&old_parent, old, &parent, name, RenameFlags::NOREPLACE)
            .map_err(Error::io("rename to", to))?;
        self.parent = Some(parent.into_kept());
        Ok(())
    }

    /// Removes `path` and everything below it, whoever made it, if it is there.
    pub(crate) fn clear(&mut self, path: &Path) -> Result<(), Error> {
        let (parent, name) = self.place(path)?;
        remove_at(parent.as_fd(), name).map_err(Error::io("replace", path))?;
        self.forget(path);
        Ok(())
    }

    /// Removes a directory if this writer has made it.
    pub(crate) fn remove_directory(&mut self, path: &Path) -> Result<(), Error> {
        if !self.directories.contains_key(path) {
            return Ok(());
        }
        let (parent, name) = self.place(path)?;
        self.remove(parent.as_fd(), name, path)
    }

    /// Opens the directory that `path` goes into, making what is missing.
    fn place<'a>(&mut self, path: &'a Path) -> Result<(Parent, &'a OsStr), Error> {
        let (directory, name) = split(path).ok_or_else(|| Error::NotDirectory { path: path.to_owned() })?;
        if let Some((known, fd)) = self.parent.take_if(|(known, _)| known.as_os_str() == directory.as_os_str()) {
            return Ok((Parent { path: known, fd }, name));
        }
        let fd = match self.root.directory(directory) {
            Ok(fd) => fd,
            Err(Errno::NOENT) => self.make_directories(directory)?,
            Err(error) => return Err(not_directory(directory, error)),
        };
        Ok((Parent { path: directory.to_owned(), fd }, name))
    }

    /// Makes `directory` and what is missing above it.
    fn make_directories(&mut self, directory: &Path) -> Result<OwnedFd, Error> {
        let missing: Vec<&Path> = directory
            .ancestors()
            .take_while(|above| !above.as_os_str().is_empty() && self.root.directory(above).err() == Some(Errno::NOENT))
            .collect();
        for above in missing.into_iter().rev() {
            let (parent, name) = split(above).ok_or_else(|| Error::NotDirectory { path: above.to_owned() })?;
            let parent = self.root.directory(parent).map_err(|error| not_directory(parent, error))?;
            rustix::fs::mkdirat(&parent, name, Mode::RWXU).map_err(Error::io("create directory", above))?;
            self.directories.insert(above.to_owned(), implied_directory().metadata);
        }
        self.root.directory(directory).map_err(|error| not_directory(directory, error))
    }

    /// Creates the regular file `name`, replacing what is there; with its mode, where that can be.
    fn create(
        &mut self,
        parent: BorrowedFd<'_>,
        name: &OsStr,
        path: &Path,
        metadata: &Metadata,
    ) -> Result<File, Error> {
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let mode = if self.is_granted(metadata) { Mode::from_raw_mode(metadata.mode) } else { Mode::RUSR | Mode::WUSR };
        let fd = self.replacing(parent, name, path, "create", || rustix::fs::openat(parent, name, flags, mode))?;
        Ok(File::from_parts(fd.into(), path))
    }

    /// Makes something new with `make`, once more after removing what stands in its place.
    fn replacing<T>(
        &mut self,
        parent: BorrowedFd<'_>,
        name: &OsStr,
        path: &Path,
        action: &'static str,
        mut make: impl FnMut() -> Result<T, Errno>,
    ) -> Result<T, Error> {
        match make() {
            Err(Errno::EXIST) => {}
            other => return other.map_err(Error::io(action, path)),
        }
        self.remove(parent, name, path)?;
        make().map_err(Error::io(action, path))
    }

    /// Removes what is at `path`: a directory only when this writer has made it, or it is empty.
    fn remove(&mut self, parent: BorrowedFd<'_>, name: &OsStr, path: &Path) -> Result<(), Error> {
        let removed = if self.directories.contains_key(path) {
            remove_at(parent, name)
        } else {
            match rustix::fs::unlinkat(parent, name, AtFlags::empty()) {
                Err(Errno::ISDIR) => rustix::fs::unlinkat(parent, name, AtFlags::REMOVEDIR),
                other => other,
            }
        };
        removed.map_err(Error::io("replace", path))?;
        self.parent = None;
        self.forget(path);
        Ok(())
    }

    /// Gives up the directories at and below `path`, which are gone.
    fn forget(&mut self, path: &Path) {
        let below = self.directories.range::<Path, _>((Bound::Included(path), Bound::Unbounded));
        let gone: Vec<PathBuf> = below.take_while(|(p, _)| p.starts_with(path)).map(|(p, _)| p.clone()).collect();
        for path in gone {
            self.directories.remove(&path);
        }
    }

    fn make_directory(&mut self, path: &Path, metadata: &Metadata) -> Result<(), Error> {
        if split(path).is_some() {
            let (parent, name) = self.place(path)?;
            match rustix::fs::mkdirat(&parent, name, Mode::RWXU) {
                Ok(()) => {}
                Err(Errno::EXIST) if is_directory(parent.as_fd(), name) => {}
                Err(Errno::EXIST) => {
                    self.remove(parent.as_fd(), name, path)?;
                    rustix::fs::mkdirat(&parent, name, Mode::RWXU).map_err(Error::io("create directory", path))?;
                }
                Err(error) => return Err(Error::io("create directory", path)(error)),
            }
            self.parent = Some(parent.into_kept());
        }
        self.directories.insert(path.to_owned(), metadata.clone());
        Ok(())
    }

    fn make_file(
        &mut self,
        path: &Path,
        size: u64,
        metadata: &Metadata,
        content: &mut dyn BufRead,
    ) -> Result<(), Error> {
        let (parent, name) = self.place(path)?;
        let mut file = self.create(parent.as_fd(), name, path, metadata)?;
        write_content(path, size, content, &mut file)?;
        self.apply_to_open(file.as_fd(), path, metadata)?;
        self.parent = Some(parent.into_kept());
        Ok(())
    }

    /// Makes what has neither bytes nor a descriptor: links, devices, FIFOs.
    fn make_special(&mut self, path: &Path, entry: &Entry) -> Result<(), Error> {
        let (parent, name) = self.place(path)?;
        let at = parent.as_fd();
        let (metadata, flavour) = (&entry.metadata, self.flavour);
        let mode = Mode::from_raw_mode(metadata.mode);
        let device = |kind, device| match flavour {
            // A file, which its attribute makes a device.
            Flavour::Single if kind != FileType::Fifo => rustix::fs::mknodat(at, name, FileType::RegularFile, mode, 0),
            _ => rustix::fs::mknodat(at, name, kind, mode, device),
        };
        self.replacing(at, name, path, "create", || match &entry.kind {
            Kind::Symlink { target } => rustix::fs::symlinkat(target.as_slice(), at, name),
            Kind::CharDevice { major, minor } => device(FileType::CharacterDevice, makedev(*major, *minor)),
            Kind::BlockDevice { major, minor } => device(FileType::BlockDevice, makedev(*major, *minor)),
            Kind::Fifo => device(FileType::Fifo, 0),
            Kind::Directory | Kind::File { .. } => Err(Errno::INVAL),
        })?;
        let nofollow = AtFlags::SYMLINK_NOFOLLOW;
        let (uid, gid) = owner(path, metadata)?;
        if flavour == Flavour::Single {
            record(&through_proc(at, name), entry).map_err(Error::io("write down the owner of", path))?;
        } else if self.owner != Some((metadata.uid, metadata.gid)) {
            rustix::fs::chownat(at, name, uid, gid, nofollow).map_err(Error::io("set the owner of", path))?;
        }
        if !matches!(entry.kind, Kind::Symlink { .. }) {
            // Just made here, where nobody else writes: not a link that could be followed.
            rustix::fs::chmodat(at, name, mode, AtFlags::empty()).map_err(Error::io("set the mode of", path))?;
        }
        for (key, value) in &metadata.xattrs {
            rustix::fs::lsetxattr(through_proc(at, name), key.as_slice(), value, XattrFlags::empty())
                .map_err(Error::io("set an extended attribute of", path))?;
        }
        rustix::fs::utimensat(at, name, &times(metadata), nofollow).map_err(Error::io("set the time of", path))?;
        self.parent = Some(parent.into_kept());
        Ok(())
    }

    fn apply_to_directory(&self, path: &Path, metadata: &Metadata) -> Result<(), Error> {
        let fd = self.root.readable_directory(path).map_err(Error::io("open directory", path))?;
        self.give(fd.as_fd(), path, metadata)?;
        set_mode(fd.as_fd(), path, metadata)?;
        set_open(fd.as_fd(), path, metadata)
    }

    /// Whether a file that is made with this mode has it.
    fn is_granted(&self, metadata: &Metadata) -> bool {
        metadata.mode & !self.granted.as_raw_mode() == 0
    }

    /// Gives an open file or directory to its owner.
    fn give(&self, fd: BorrowedFd<'_>, path: &Path, metadata: &Metadata) -> Result<(), Error> {
        let (uid, gid) = owner(path, metadata)?;
        if self.flavour != Flavour::Single {
            return rustix::fs::fchown(fd, uid, gid).map_err(Error::io("set the owner of", path));
        }
        let owner = Owner { uid: metadata.uid, gid: metadata.gid, device: None };
        owner::write(Source::Open(fd), FileType::RegularFile, owner).map_err(Error::io("write down the owner of", path))
    }

    /// Gives a new file its metadata. Writing and a new owner take away setuid and capabilities: they come last.
    fn apply_to_open(&self, fd: BorrowedFd<'_>, path: &Path, metadata: &Metadata) -> Result<(), Error> {
        if self.owner != Some((metadata.uid, metadata.gid)) {
            self.give(fd, path, metadata)?;
        }
        if !self.is_granted(metadata) {
            set_mode(fd, path, metadata)?;
        }
        set_open(fd, path, metadata)
    }
}

impl ChangeSink for TreeWriter {
    type Error = Error;

    fn entry(&mut self, path: &Path, entry: &Entry, content: &mut dyn BufRead) -> Result<(), Error> {
        match &entry.kind {
            Kind::Directory => self.make_directory(path, &entry.metadata),
            Kind::File { size } => self.make_file(path, *size, &entry.metadata, content),
            Kind::CharDevice { major: 0, minor: 0 } if self.flavour != Flavour::Plain => {
                let reason = "overlayfs takes the device 0:0 for a whiteout";
                Err(Error::Unrepresentable { path: path.to_owned(), reason })
            }
            _ => self.make_special(path, entry),
        }
    }

    fn hard_link(&mut self, path: &Path, target: &Path) -> Result<(), Error> {
        let refused = || Error::LinkTarget { path: path.to_owned(), target: target.to_owned() };
        let (from, old) = split(target).ok_or_else(refused)?;
        if target.starts_with(path) {
            return Err(refused());
        }
        let (parent, name) = self.place(path)?;
        let from = self.root.directory(from).map_err(|_| refused())?;
        if !exists(from.as_fd(), old).map_err(Error::io("link", target))? {
            return Err(refused());
        }
        let none = AtFlags::empty();
        let at = parent.as_fd();
        self.replacing(at, name, path, "link", || rustix::fs::linkat(&from, old, at, name, none))?;
        self.parent = Some(parent.into_kept());
        Ok(())
    }

    fn whiteout(&mut self, path: &Path) -> Result<(), Error> {
        if self.flavour == Flavour::Plain {
            return Err(Error::PlainWhiteout { path: path.to_owned() });
        }
        let (parent, name) = self.place(path)?;
        match rustix::fs::mknodat(&parent, name, FileType::CharacterDevice, Mode::empty(), makedev(0, 0)) {
            Err(Errno::EXIST) if is_directory(parent.as_fd(), name) => self.opaque(path)?,
            // What this layer brings itself already hides what is below.
            Ok(()) | Err(Errno::EXIST) => {}
            Err(error) => return Err(Error::io("create the whiteout of", path)(error)),
        }
        self.parent = Some(parent.into_kept());
        Ok(())
    }

    fn opaque(&mut self, directory: &Path) -> Result<(), Error> {
        let Some(attribute) = self.flavour.opaque() else {
            return Err(Error::PlainWhiteout { path: directory.to_owned() });
        };
        let fd = match self.root.readable_directory(directory) {
            Ok(fd) => fd,
            Err(Errno::NOENT) => {
                self.make_directories(directory)?;
                self.root.readable_directory(directory).map_err(Error::io("open directory", directory))?
            }
            Err(error) => return Err(not_directory(directory, error)),
        };
        rustix::fs::fsetxattr(&fd, attribute, b"y", XattrFlags::empty())
            .map_err(Error::io("make opaque the directory", directory))
    }
}

/// The directory of the change at hand, with its path, so that it can be kept for the next one.
struct Parent {
    path: PathBuf,
    fd: OwnedFd,
}

impl Parent {
    fn into_kept(self) -> (PathBuf, OwnedFd) {
        (self.path, self.fd)
    }
}

impl AsFd for Parent {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

fn exists(parent: BorrowedFd<'_>, name: &OsStr) -> Result<bool, Errno> {
    match rustix::fs::statat(parent, name, AtFlags::SYMLINK_NOFOLLOW) {
        Ok(_) => Ok(true),
        Err(Errno::NOENT) => Ok(false),
        Err(error) => Err(error),
    }
}

fn is_directory(parent: BorrowedFd<'_>, name: &OsStr) -> bool {
    let status = rustix::fs::statat(parent, name, AtFlags::SYMLINK_NOFOLLOW);
    status.is_ok_and(|status| FileType::from_raw_mode(status.st_mode) == FileType::Directory)
}

fn not_directory(path: &Path, error: Errno) -> Error {
    match error {
        Errno::NOTDIR | Errno::LOOP | Errno::XDEV => Error::NotDirectory { path: path.to_owned() },
        _ => Error::io("open directory", path)(error),
    }
}

#[cfg(test)]
mod tests;
