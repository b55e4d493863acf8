//! An overlay's upper directory → the changes of a layer.
//!
//! An upper directory holds more than the changes: files that were copied up and left as they were, whiteouts of
//! files that no lower layer has, and the mark "opaque" on every directory that a step made. What is below decides,
//! and it is asked of the [`View`], never of the file system.

use std::collections::HashMap;
use std::ffi::{OsStr, OsString};
use std::io::{self, Read};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, FileType, RawDir, Stat, major, minor};

use crate::entry::{Content, Entry, Kind, Metadata, Mtime};
use crate::index::{Found, View, implied_directory};
use crate::owner::{self, Device};
use crate::path::{Root, names, open_directory, open_regular, through_proc};
use crate::{ChangeSink, Error, Flavour, buffered, layer, xattr};

/// Walks the upper directory `upper`, which nobody may be writing, and passes what it changes in `below` to `sink`:
/// depth-first, parents first, names sorted bytewise.
///
/// A file that equals the one below is no change; a directory that does is one only when something in it is. Times
/// are compared in whole seconds, which is all that a layer keeps, and contents by digest.
///
/// With [`Flavour::Single`] owners and devices are what attributes say; in a tree of another flavour such an attribute is
/// a step's own and means nothing.
pub fn changes<S: ChangeSink>(upper: &Path, flavour: Flavour, below: &View, sink: &mut S) -> Result<(), S::Error>
where
    S::Error: From<Error>,
{
    let top = Root::open(upper)?.into_fd();
    let mut walk = Walk { below, sink, flavour, links: HashMap::new(), pending: Vec::new() };
    walk.root(&top)?;
    let mut levels = vec![Level::open(top, PathBuf::new())?];
    while let Some(level) = levels.last_mut() {
        if let Some(name) = level.names.pop() {
            let below = walk.visit(level, &name)?;
            levels.extend(below);
        } else {
            levels.pop();
            // A directory in which nothing changed is dropped; the root was never pending.
            walk.pending.truncate(levels.len().saturating_sub(1));
        }
    }
    Ok(())
}

/// Refuses an upper directory that has a name which layers reserve for whiteouts. It looks at nothing but names: this is
/// for a step that would only fail when its layer is made.
pub fn check_names(upper: &Path) -> Result<(), Error> {
    let top = Root::open(upper)?.into_fd();
    let mut levels = vec![(directories(top.as_fd(), Path::new(""))?, top, PathBuf::new())];
    while let Some((names, above, path)) = levels.last_mut() {
        let Some(name) = names.pop() else {
            levels.pop();
            continue;
        };
        let path = path.join(&name);
        let fd = open_directory(above.as_fd(), &name).map_err(Error::io("open directory", &path))?;
        levels.push((directories(fd.as_fd(), &path)?, fd, path));
    }
    Ok(())
}

/// Returns the names of the directories in a directory, after a look at all names.
fn directories(fd: BorrowedFd<'_>, path: &Path) -> Result<Vec<OsString>, Error> {
    let mut found = Vec::new();
    let mut buffer = Vec::with_capacity(32 * 1024);
    let mut entries = RawDir::new(fd, buffer.spare_capacity_mut());
    while let Some(entry) = entries.next() {
        let entry = entry.map_err(Error::io("list directory", path))?;
        let name = OsStr::from_bytes(entry.file_name().to_bytes());
        let kind = match entry.file_type() {
            FileType::Unknown => {
                let status = rustix::fs::statat(fd, name, AtFlags::SYMLINK_NOFOLLOW);
                FileType::from_raw_mode(status.map_err(Error::io("read the status of", path))?.st_mode)
            }
            kind => kind,
        };
        // Sockets are no part of a layer.
        if kind != FileType::Socket && layer::is_reserved(name) {
            return Err(Error::ReservedName { path: path.join(name) });
        }
        if kind == FileType::Directory && name != "." && name != ".." {
            found.push(name.to_owned());
        }
    }
    Ok(found)
}

/// A directory of the upper tree whose names are being visited.
struct Level {
    fd: OwnedFd,
    path: PathBuf,
    /// Names not yet visited, the next one last.
    names: Vec<OsString>,
    /// Whether empty files marked `overlay.whiteout` are whiteouts here (nested overlays write them so).
    marked_files: bool,
    /// Whether an opaque directory hides everything that is below here.
    hidden: bool,
}

impl Level {
    fn open(fd: OwnedFd, path: PathBuf) -> Result<Self, Error> {
        let mut names = names(fd.as_fd()).map_err(Error::io("list directory", &path))?;
        names.reverse();
        Ok(Self { fd, path, names, marked_files: false, hidden: false })
    }
}

/// A directory on the way to what is visited.
enum Pending {
    /// It will be passed on when something below it is.
    Equal(PathBuf, Entry),
    Passed,
}

struct Walk<'a, S> {
    below: &'a View,
    sink: &'a mut S,
    flavour: Flavour,
    /// Files with several names, by device and inode: the first name in order is the file.
    links: HashMap<(u64, u64), PathBuf>,
    pending: Vec<Pending>,
}

impl<'a, S: ChangeSink> Walk<'a, S>
where
    S::Error: From<Error>,
{
    /// Passes on the root when more than its time changed: every step changes that.
    fn root(&mut self, fd: &OwnedFd) -> Result<(), S::Error> {
        let path = Path::new(".");
        let status = rustix::fs::fstat(fd).map_err(Error::io("read the status of", path))?;
        let (entry, _) = self.describe(&status, Kind::Directory, xattr::Source::Open(fd.as_fd()), path)?;
        let lower = self.below.lookup(path).map_or_else(implied_directory, |found| found.entry.into_owned());
        let time = entry.metadata.mtime;
        let timeless = |entry: &Entry| Metadata { mtime: time, ..entry.metadata.clone() };
        if entry.metadata != timeless(&lower) {
            self.sink.entry(path, &entry, &mut io::empty())?;
        }
        Ok(())
    }

    /// Returns what shows through from below.
    fn lower(&self, level: &Level, path: &Path) -> Option<Found<'a>> {
        if level.hidden { None } else { self.below.lookup(path) }
    }

    /// Visits one name; returns the directory to go on with when it is one.
    fn visit(&mut self, level: &Level, name: &OsStr) -> Result<Option<Level>, S::Error> {
        let path = level.path.join(name);
        let status = rustix::fs::statat(&level.fd, name, AtFlags::SYMLINK_NOFOLLOW);
        let status = status.map_err(Error::io("read the status of", &path))?;
        match FileType::from_raw_mode(status.st_mode) {
            FileType::Directory => return self.directory(level, name, path, &status).map(Some),
            FileType::RegularFile => self.file(level, name, &path, &status)?,
            FileType::CharacterDevice if status.st_rdev == 0 => self.whiteout(level, &path)?,
            FileType::Socket => {}
            _ => self.special(level, name, &path, &status)?,
        }
        Ok(None)
    }

    fn directory(&mut self, above: &Level, name: &OsStr, path: PathBuf, status: &Stat) -> Result<Level, S::Error> {
        let fd = open_directory(above.fd.as_fd(), name).map_err(Error::io("open directory", &path))?;
        let (entry, overlay) = self.describe(status, Kind::Directory, xattr::Source::Open(fd.as_fd()), &path)?;
        let lower = self.lower(above, &path).filter(|found| found.entry.kind == Kind::Directory);
        let mark = overlay.get(&b"opaque"[..]).map(Vec::as_slice);
        // Overlayfs marks every new directory: that says something only where there is one below.
        let opaque = mark == Some(b"y") && lower.is_some();
        let equal = !opaque && lower.is_some_and(|lower| same(&entry, &lower.entry));
        if equal {
            self.pending.push(Pending::Equal(path.clone(), entry));
        } else {
            self.pass_pending()?;
            self.sink.entry(&path, &entry, &mut io::empty())?;
            if opaque {
                self.sink.opaque(&path)?;
            }
            self.pending.push(Pending::Passed);
        }
        let mut level = Level::open(fd, path)?;
        level.marked_files = mark == Some(b"x");
        level.hidden = above.hidden || opaque;
        Ok(level)
    }

    fn file(&mut self, level: &Level, name: &OsStr, path: &Path, status: &Stat) -> Result<(), S::Error> {
        if self.link(path, status)? {
            return Ok(());
        }
        let size = u64::try_from(status.st_size).unwrap_or(0);
        let file = open_regular(level.fd.as_fd(), name).map_err(Error::io("open", path))?;
        let source = xattr::Source::Open(file.as_fd());
        let (entry, overlay) = self.describe(status, Kind::File { size }, source, path)?;
        if level.marked_files && size == 0 && overlay.contains_key(&b"whiteout"[..]) {
            return self.whiteout(level, path);
        }
        let device = !matches!(entry.kind, Kind::File { .. });
        let mut file = fs_err::File::from_parts(file, path);
        if status.st_nlink == 1
            && let Some(lower) = self.lower(level, path)
            && same(&entry, &lower.entry)
            && (device || same_content(&mut file, size, &lower).map_err(Error::io("read", path))?)
        {
            return Ok(());
        }
        self.pass_pending()?;
        if device {
            self.sink.entry(path, &entry, &mut io::empty())
        } else {
            self.sink.entry(path, &entry, &mut buffered(&entry, file))
        }
    }

    /// Passes on links, devices and FIFOs.
    fn special(&mut self, level: &Level, name: &OsStr, path: &Path, status: &Stat) -> Result<(), S::Error> {
        let at = level.fd.as_fd();
        if self.link(path, status)? {
            return Ok(());
        }
        let mut entry = special(at, name, status, path)?;
        self.own(&mut entry, status, xattr::Source::Path(&through_proc(at, name)), path)?;
        let lower = self.lower(level, path);
        if status.st_nlink == 1 && lower.is_some_and(|lower| same(&entry, &lower.entry)) {
            return Ok(());
        }
        self.pass_pending()?;
        self.sink.entry(path, &entry, &mut io::empty())
    }

    /// Does [`describe`] with the owner that the tree's flavour says.
    fn describe(
        &self,
        status: &Stat,
        kind: Kind,
        source: xattr::Source<'_>,
        path: &Path,
    ) -> Result<(Entry, crate::Xattrs), Error> {
        let (mut entry, overlay) = describe(status, kind, source, path)?;
        self.own(&mut entry, status, source, path)?;
        Ok((entry, overlay))
    }

    /// Puts right what the file system could not hold.
    fn own(&self, entry: &mut Entry, status: &Stat, source: xattr::Source<'_>, path: &Path) -> Result<(), Error> {
        if self.flavour != Flavour::Single {
            return Ok(());
        }
        let kind = FileType::from_raw_mode(status.st_mode);
        let owner = owner::read(source, kind).map_err(Error::io("read the owner of", path))?;
        (entry.metadata.uid, entry.metadata.gid) = (owner.uid, owner.gid);
        match owner.device {
            None => {}
            Some(Device { block: true, major, minor }) => entry.kind = Kind::BlockDevice { major, minor },
            Some(Device { block: false, major, minor }) => entry.kind = Kind::CharDevice { major, minor },
        }
        Ok(())
    }

    /// Passes `path` on as a hard link when the same file had a name before; else remembers its name. A file with
    /// several names is always a change, as the links need it in their own layer.
    fn link(&mut self, path: &Path, status: &Stat) -> Result<bool, S::Error> {
        if status.st_nlink < 2 {
            return Ok(false);
        }
        let Some(first) = self.links.get(&(status.st_dev, status.st_ino)).cloned() else {
            self.links.insert((status.st_dev, status.st_ino), path.to_owned());
            return Ok(false);
        };
        self.pass_pending()?;
        self.sink.hard_link(path, &first)?;
        Ok(true)
    }

    fn whiteout(&mut self, level: &Level, path: &Path) -> Result<(), S::Error> {
        if self.lower(level, path).is_none() {
            return Ok(());
        }
        self.pass_pending()?;
        self.sink.whiteout(path)
    }

    /// Passes on the unchanged directories above what is about to be passed on.
    fn pass_pending(&mut self) -> Result<(), S::Error> {
        for pending in &mut self.pending {
            if let Pending::Equal(path, entry) = pending {
                self.sink.entry(path, entry, &mut io::empty())?;
                *pending = Pending::Passed;
            }
        }
        Ok(())
    }
}

/// Makes the entry of a link, a device or a FIFO.
pub(crate) fn special(at: BorrowedFd<'_>, name: &OsStr, status: &Stat, path: &Path) -> Result<Entry, Error> {
    let (major, minor) = (major(status.st_rdev), minor(status.st_rdev));
    let kind = match FileType::from_raw_mode(status.st_mode) {
        FileType::Symlink => {
            let target = rustix::fs::readlinkat(at, name, Vec::new()).map_err(Error::io("read link", path))?;
            Kind::Symlink { target: target.into_bytes() }
        }
        FileType::CharacterDevice => Kind::CharDevice { major, minor },
        FileType::BlockDevice => Kind::BlockDevice { major, minor },
        FileType::Fifo => Kind::Fifo,
        _ => {
            let reason = "its type is unknown";
            return Err(Error::Unrepresentable { path: path.to_owned(), reason });
        }
    };
    let place = through_proc(at, name);
    Ok(describe(status, kind, xattr::Source::Path(&place), path)?.0)
}

/// Makes the entry of a file that has this status; the second result is what overlayfs wrote beside it.
pub(crate) fn describe(
    status: &Stat,
    kind: Kind,
    source: xattr::Source<'_>,
    path: &Path,
) -> Result<(Entry, crate::Xattrs), Error> {
    let found = xattr::read(source, &kind).map_err(Error::io("read the extended attributes of", path))?;
    for (name, xattr) in [(&b"metacopy"[..], "overlay.metacopy"), (b"redirect", "overlay.redirect")] {
        if found.overlay.contains_key(name) {
            return Err(Error::OverlayFeature { path: path.to_owned(), xattr });
        }
    }
    let nanoseconds = u32::try_from(status.st_mtime_nsec).unwrap_or(0);
    let metadata = Metadata {
        mode: status.st_mode & 0o7777,
        uid: status.st_uid,
        gid: status.st_gid,
        mtime: Mtime { seconds: status.st_mtime, nanoseconds },
        xattrs: found.kept,
    };
    Ok((Entry { kind, metadata }, found.overlay))
}

/// Whether two entries are the same to a layer, whose times have no fractions of a second. A symbolic link's mode
/// means nothing.
pub(crate) fn same(upper: &Entry, lower: &Entry) -> bool {
    let whole = |entry: &Entry| {
        let mut metadata = entry.metadata.clone();
        metadata.mtime.nanoseconds = 0;
        if let Kind::Symlink { .. } = entry.kind {
            metadata.mode = 0o777;
        }
        metadata
    };
    upper.kind == lower.kind && whole(upper) == whole(lower)
}

/// Whether a file has the content of the one below; reads it from its beginning and goes back there.
fn same_content(file: &mut fs_err::File, size: u64, lower: &Found<'_>) -> io::Result<bool> {
    use std::io::Seek;
    let Some(expected) = lower.content else { return Ok(false) };
    let mut state = blake3::Hasher::new();
    let read = io::copy(&mut file.take(size), &mut state)?;
    file.rewind()?;
    Ok(read == size && Content(*state.finalize().as_bytes()) == expected)
}

#[cfg(test)]
mod tests;
