//! Who uses what: stamps of the last use, and the leases of those who are at work.
//!
//! The modification time of a blob, index, record, snapshot's folder or mount is when it was made or last found. A
//! lease is a file in `leases`, locked by its holder, whose own modification time says since when it is held. What
//! was used since the oldest lease of the living began is never removed. Marking a use and removing exclude each
//! other by the store's `lock`, so whoever has marked a thing and found it there can rely on it.

use std::io::Write;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use rustix::fs::{AtFlags, CWD, FlockOperation, Mode, OFlags, Timespec, Timestamps, UTIME_NOW, UTIME_OMIT};
use rustix::io::Errno;

use crate::Error;
use crate::temp::{TempFile, sweep};

/// How long to wait for those who mark a use: each needs microseconds.
const PATIENCE: Duration = Duration::from_secs(5);

/// A point in time as a file system gives it: seconds and nanoseconds since the epoch.
pub(crate) type Stamp = (i64, i64);

/// When the content of a file, or the names in a directory, last changed.
pub(crate) fn stamp(metadata: &std::fs::Metadata) -> Stamp {
    (metadata.mtime(), metadata.mtime_nsec())
}

/// Marks uses.
#[derive(Debug, Clone)]
pub(crate) struct Uses(Arc<Mutex<fs_err::File>>);

impl Uses {
    /// Opens the lock of the store in `root`.
    pub(crate) fn open_at(root: &Path) -> Result<Self, Error> {
        Ok(Self(Arc::new(Mutex::new(open_lock(&root.join("lock"))?))))
    }

    /// Says that `path` is used now; `false` when it is not there.
    pub(crate) fn mark(&self, path: &Path) -> bool {
        self.shared(|| touch(path))
    }

    /// Puts something at `path` with `put`, and says that it is used now. What was there may have been marked by somebody
    /// else, so that what takes its place must not be older.
    pub(crate) fn replace(&self, path: &Path, put: impl FnOnce() -> Result<(), Error>) -> Result<(), Error> {
        self.shared(|| {
            put()?;
            touch(path);
            Ok(())
        })
    }

    /// Does something while nothing is removed.
    fn shared<T>(&self, act: impl FnOnce() -> T) -> T {
        // Its threads share one lock of the kernel's.
        let lock = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        // A file system without locks, or one that is read-only, has nothing removed from it either.
        let locked = rustix::io::retry_on_intr(|| rustix::fs::flock(&*lock, FlockOperation::LockShared)).is_ok();
        let result = act();
        if locked {
            rustix::fs::flock(&*lock, FlockOperation::Unlock).ok();
        }
        result
    }
}

/// Sets the time of the last use; `false` when there is nothing at `path`.
fn touch(path: &Path) -> bool {
    let omit = Timespec { tv_sec: 0, tv_nsec: UTIME_OMIT };
    let times = Timestamps { last_access: omit, last_modification: Timespec { tv_sec: 0, tv_nsec: UTIME_NOW } };
    let marked = rustix::fs::utimensat(CWD, path, &times, AtFlags::SYMLINK_NOFOLLOW);
    marked.is_ok() || (marked != Err(Errno::NOENT) && fs_err::symlink_metadata(path).is_ok())
}

fn open_lock(path: &Path) -> Result<fs_err::File, Error> {
    let flags = OFlags::RDWR | OFlags::CREATE | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let fd = rustix::fs::open(path, flags, Mode::RUSR | Mode::WUSR).map_err(Error::io("open", path))?;
    Ok(fs_err::File::from_parts(fd.into(), path))
}

/// As long as it lives, nothing that was made or found since it began is removed, by any process.
#[derive(Debug)]
pub struct Lease {
    /// Deleted, and so given back, with this.
    _file: TempFile,
}

impl Lease {
    /// Takes a lease; `holder` says to people for what.
    pub(super) fn take(leases: &Path, holder: &str) -> Result<Self, Error> {
        let mut file = TempFile::create(leases)?;
        writeln!(file.file(), "{holder}, process {}", std::process::id())?;
        Ok(Self { _file: file })
    }
}

/// The right to remove: nobody marks a use until this is dropped.
#[derive(Debug)]
pub(crate) struct Removal {
    /// Holds the lock.
    _lock: fs_err::File,
    /// Since when the oldest living lease is held.
    horizon: Option<Stamp>,
}

impl Removal {
    /// Waits for those who mark a use right now.
    pub(super) fn begin(root: &Path) -> Result<Self, Error> {
        let lock = open_lock(&root.join("lock"))?;
        let begun = Instant::now();
        loop {
            match rustix::fs::flock(&lock, FlockOperation::NonBlockingLockExclusive) {
                Ok(()) => break,
                Err(Errno::WOULDBLOCK | Errno::INTR) if begun.elapsed() < PATIENCE => {
                    std::thread::sleep(Duration::from_millis(1));
                }
                Err(Errno::WOULDBLOCK) => return Err(Error::Busy { path: root.to_owned() }),
                Err(error) => return Err(Error::io("lock", root)(error)),
            }
        }
        Ok(Self { _lock: lock, horizon: horizon(&root.join("leases"))? })
    }

    /// Whether a lease holds what was last used then.
    pub(super) fn holds(&self, used: Stamp) -> bool {
        self.horizon.is_some_and(|horizon| used >= horizon)
    }
}

fn horizon(leases: &Path) -> Result<Option<Stamp>, Error> {
    sweep(leases)?;
    let mut oldest = None;
    for entry in fs_err::read_dir(leases)? {
        let path: PathBuf = entry?.path();
        // One that is gone by now has been given back.
        let Ok(metadata) = fs_err::symlink_metadata(&path) else { continue };
        let since = stamp(&metadata);
        oldest = Some(oldest.map_or(since, |oldest: Stamp| oldest.min(since)));
    }
    Ok(oldest)
}
