//! What a file has besides its bytes: mode, owner, attributes and times, as the calls want them.

use std::os::fd::BorrowedFd;
use std::path::Path;

use rustix::fs::{FileType, Gid, Mode, OFlags, Timespec, Timestamps, Uid, XattrFlags};
use rustix::io::Errno;

use crate::Error;
use crate::entry::{Entry, Kind, Metadata};
use crate::owner::{self, Device, Owner};
use crate::xattr::Source;

pub(super) fn set_mode(fd: BorrowedFd<'_>, path: &Path, metadata: &Metadata) -> Result<(), Error> {
    rustix::fs::fchmod(fd, Mode::from_raw_mode(metadata.mode)).map_err(Error::io("set the mode of", path))
}

pub(super) fn set_open(fd: BorrowedFd<'_>, path: &Path, metadata: &Metadata) -> Result<(), Error> {
    for (name, value) in &metadata.xattrs {
        rustix::fs::fsetxattr(fd, name.as_slice(), value, XattrFlags::empty())
            .map_err(Error::io("set an extended attribute of", path))?;
    }
    rustix::fs::futimens(fd, &times(metadata)).map_err(Error::io("set the time of", path))
}

/// Finds out with which permissions files are made in a directory, by one without a name; none where there are no such.
pub(super) fn granted(directory: BorrowedFd<'_>) -> Mode {
    let all = Mode::RWXU | Mode::RWXG | Mode::RWXO;
    let flags = OFlags::WRONLY | OFlags::TMPFILE | OFlags::CLOEXEC;
    let made = rustix::fs::openat(directory, ".", flags, all).and_then(rustix::fs::fstat);
    made.map_or(Mode::empty(), |made| Mode::from_raw_mode(made.st_mode) & all)
}

/// Refuses the ids that mean "leave it" to chown(2).
pub(super) fn owner(path: &Path, metadata: &Metadata) -> Result<(Option<Uid>, Option<Gid>), Error> {
    if metadata.uid == u32::MAX || metadata.gid == u32::MAX {
        return Err(Error::Unrepresentable { path: path.to_owned(), reason: "4294967295 is no owner" });
    }
    Ok((Some(Uid::from_raw(metadata.uid)), Some(Gid::from_raw(metadata.gid))))
}

/// Writes down the owner of what has no descriptor, and what device it stands for.
pub(super) fn record(path: &Path, entry: &Entry) -> Result<(), Errno> {
    let Metadata { uid, gid, .. } = entry.metadata;
    let (kind, device) = match entry.kind {
        Kind::CharDevice { major, minor } => (FileType::RegularFile, Some(Device { block: false, major, minor })),
        Kind::BlockDevice { major, minor } => (FileType::RegularFile, Some(Device { block: true, major, minor })),
        _ => (FileType::Symlink, None),
    };
    owner::write(Source::Path(path), kind, Owner { uid, gid, device })
}

pub(super) fn times(metadata: &Metadata) -> Timestamps {
    let time = Timespec { tv_sec: metadata.mtime.seconds, tv_nsec: i64::from(metadata.mtime.nanoseconds) };
    Timestamps { last_access: time, last_modification: time }
}
