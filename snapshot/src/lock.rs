//! Locks with names, between the threads and the processes that share a store.
//!
//! A lock is an flock(2) on `<store>/locks/<name>`, so the kernel releases what a killed process held. The file is
//! removed by whoever held the lock, before it is released; who gets the lock of a file that is no longer there tries
//! again with the one that is.

use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use fs_err::os::unix::fs::OpenOptionsExt;
use rustix::fs::FlockOperation;
use rustix::io::Errno;

use crate::Error;

/// How long to wait before a lock that somebody has is tried again: short beside a step, long beside a system call.
const PAUSE: Duration = Duration::from_millis(10);

/// A lock that is held until this is dropped.
#[derive(Debug)]
pub struct NamedLock {
    file: fs_err::File,
    path: PathBuf,
}

impl NamedLock {
    /// Waits for the lock `path`; none when `give_up` says so before it is there.
    pub(crate) fn wait(path: &Path, give_up: &dyn Fn() -> bool) -> Result<Option<Self>, Error> {
        loop {
            if let Some(lock) = Self::attempt(path)? {
                return Ok(Some(lock));
            }
            if give_up() {
                return Ok(None);
            }
            std::thread::sleep(PAUSE);
        }
    }

    fn attempt(path: &Path) -> Result<Option<Self>, Error> {
        let mut options = fs_err::OpenOptions::new();
        let file = options.write(true).create(true).truncate(false).mode(0o600).open(path)?;
        match rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => {}
            Err(Errno::WOULDBLOCK | Errno::INTR) => return Ok(None),
            Err(error) => return Err(Error::io("lock", path)(error)),
        }
        let ours = file.metadata()?;
        match fs_err::symlink_metadata(path) {
            Ok(there) if (there.dev(), there.ino()) == (ours.dev(), ours.ino()) => {
                Ok(Some(Self { file, path: path.to_owned() }))
            }
            Ok(_) => Ok(None),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error.into()),
        }
    }
}

impl Drop for NamedLock {
    fn drop(&mut self) {
        // A file that stays costs a directory entry. The lock is given back by name, for a child process that is just
        // being started has it too until it executes its program.
        fs_err::remove_file(&self.path).ok();
        rustix::fs::flock(&self.file, FlockOperation::Unlock).ok();
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    #[test]
    fn one_holds_it_at_a_time_and_nothing_is_left() {
        let root = tempfile::tempdir().unwrap();
        let path = root.path().join("name");
        let (inside, most, entered) = (AtomicUsize::new(0), AtomicUsize::new(0), AtomicUsize::new(0));
        std::thread::scope(|scope| {
            for _ in 0..8 {
                scope.spawn(|| {
                    for _ in 0..5 {
                        let lock = NamedLock::wait(&path, &|| false).unwrap().unwrap();
                        most.fetch_max(inside.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
                        entered.fetch_add(1, Ordering::SeqCst);
                        inside.fetch_sub(1, Ordering::SeqCst);
                        drop(lock);
                    }
                });
            }
        });
        assert_eq!((most.into_inner(), entered.into_inner()), (1, 40));
        assert_eq!(fs_err::read_dir(root.path()).unwrap().count(), 0);
    }

    #[test]
    fn who_waits_can_give_up() {
        let root = tempfile::tempdir().unwrap();
        let path = root.path().join("name");
        let held = NamedLock::wait(&path, &|| true).unwrap();
        assert!(held.is_some());
        assert!(NamedLock::wait(&path, &|| true).unwrap().is_none());
        drop(held);
        assert!(NamedLock::wait(&path, &|| true).unwrap().is_some());
    }
}
