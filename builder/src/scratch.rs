//! Directories of the store that last as long as this process needs them.

use std::io;
use std::path::Path;

use rustix::fs::{FlockOperation, Mode, OFlags};
use snapshot::Store;
use tempfile::TempDir;

/// A temporary directory in the store. Its lock tells other processes that it is in use; afterwards it is removed.
#[derive(Debug)]
pub struct Scratch {
    directory: TempDir,
    /// Dropped, and so released, after the directory is gone.
    _lock: rustix::fd::OwnedFd,
}

impl Scratch {
    /// Makes an empty one.
    pub fn new(store: &Store) -> io::Result<Self> {
        let directory = TempDir::new_in(store.path().join("tmp"))?;
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let lock = rustix::fs::open(directory.path(), flags, Mode::empty())?;
        rustix::fs::flock(&lock, FlockOperation::LockExclusive)?;
        Ok(Self { directory, _lock: lock })
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        self.directory.path()
    }
}
