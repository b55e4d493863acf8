//! Files and directories under construction, each locked (flock) by the process that makes it for as long as it lives.
//!
//! A name whose lock can be taken belongs to nobody any more: [`sweep`] removes it.

use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use fs_err::os::unix::fs::OpenOptionsExt;
use rustix::fs::{FlockOperation, Mode, OFlags};
use rustix::io::Errno;

use crate::Error;
use crate::digest::hex;
use crate::path::remove_tree;

/// Returns a path in `directory` that nobody can predict (96 random bits).
pub(crate) fn random_path(directory: &Path) -> Result<PathBuf, Error> {
    let mut bytes = [0; 12];
    getrandom::fill(&mut bytes).map_err(|error| Error::io("choose a name in", directory)(io::Error::other(error)))?;
    Ok(directory.join(hex(&bytes)))
}

/// A file that is deleted when dropped, unless it was persisted.
#[derive(Debug)]
pub(crate) struct TempFile {
    file: fs_err::File,
    path: PathBuf,
    persisted: bool,
}

impl TempFile {
    /// Creates a file, mode 0600, in `directory`.
    pub(crate) fn create(directory: &Path) -> Result<Self, Error> {
        loop {
            let path = random_path(directory)?;
            let file = fs_err::OpenOptions::new().read(true).write(true).create_new(true).mode(0o600).open(&path)?;
            if locked(&file, &path)? {
                return Ok(Self { file, path, persisted: false });
            }
        }
    }

    pub(crate) fn file(&mut self) -> &mut fs_err::File {
        &mut self.file
    }

    /// Makes the bytes durable.
    pub(crate) fn sync(&mut self) -> Result<(), Error> {
        Ok(self.file.sync_all()?)
    }

    /// Renames the file to `target`, whose directory is made if it is not there. Without [`TempFile::sync`] before and
    /// [`sync_directory_of`] after that, a crash may lose it or tear it.
    pub(crate) fn publish(mut self, target: &Path) -> Result<(), Error> {
        match (fs_err::rename(&self.path, target), target.parent()) {
            (Err(error), Some(directory)) if error.kind() == io::ErrorKind::NotFound => {
                ensure_directory(directory)?;
                fs_err::rename(&self.path, target)?;
            }
            (renamed, _) => renamed?,
        }
        self.persisted = true;
        Ok(())
    }
}

impl Drop for TempFile {
    fn drop(&mut self) {
        if !self.persisted {
            // What cannot be removed now is removed by the next sweep.
            fs_err::remove_file(&self.path).ok();
        }
    }
}

/// A directory of [`Store::scratch`](crate::Store::scratch) that is deleted when dropped, unless it became an object.
#[derive(Debug)]
pub struct TempDirectory {
    /// Holds the lock.
    lock: fs_err::File,
    path: PathBuf,
    persisted: bool,
}

impl TempDirectory {
    /// Creates a directory, mode 0700, in `directory`.
    pub(crate) fn create(directory: &Path) -> Result<Self, Error> {
        loop {
            let path = random_path(directory)?;
            create_directory(&path)?;
            let lock = match fs_err::File::open(&path) {
                // A sweep was faster.
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                other => other?,
            };
            if locked(&lock, &path)? {
                return Ok(Self { lock, path, persisted: false });
            }
        }
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Removes the directory with all that is in it.
    pub(crate) fn delete(mut self) -> Result<(), Error> {
        self.persisted = true;
        remove_tree(&self.path)
    }

    /// Renames the directory to `target`, not durably; returns `false` (and deletes it) when `target` exists.
    pub(crate) fn persist(mut self, target: &Path) -> Result<bool, Error> {
        match rustix::fs::rename(&self.path, target) {
            Ok(()) => {
                self.persisted = true;
                Ok(true)
            }
            Err(Errno::EXIST | Errno::NOTEMPTY) => Ok(false),
            Err(error) => Err(Error::io("commit", target)(error)),
        }
    }
}

impl Drop for TempDirectory {
    fn drop(&mut self) {
        if !self.persisted {
            // What cannot be removed now is removed by the next sweep.
            remove_tree(&self.path).ok();
        }
        rustix::fs::flock(&self.lock, FlockOperation::Unlock).ok();
    }
}

/// Creates a directory with mode 0700 whatever the umask; its parent must exist.
pub(crate) fn create_directory(path: &Path) -> Result<(), Error> {
    rustix::fs::mkdir(path, Mode::RWXU).map_err(Error::io("create directory", path))
}

/// Creates a directory with mode 0700 unless there is one. Where nobody can say what there is, the error is why.
pub(crate) fn ensure_directory(path: &Path) -> Result<(), Error> {
    // There usually is.
    if path.is_dir() {
        return Ok(());
    }
    match rustix::fs::mkdir(path, Mode::RWXU) {
        Err(Errno::EXIST) => match fs_err::metadata(path) {
            Ok(there) if there.is_dir() => Ok(()),
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error.into()),
            _ => Err(Error::io("create directory", path)(Errno::EXIST)),
        },
        other => other.map_err(Error::io("create directory", path)),
    }
}

/// Makes the entries of the directory that holds `path` durable.
pub(crate) fn sync_directory_of(path: &Path) -> Result<(), Error> {
    let directory = path.parent().unwrap_or(Path::new("."));
    Ok(fs_err::File::open(directory)?.sync_all()?)
}

/// Locks a fresh file; `false` when a sweep was faster and has removed it.
fn locked(file: &fs_err::File, path: &Path) -> Result<bool, Error> {
    rustix::fs::flock(file, FlockOperation::LockExclusive).map_err(Error::io("lock", path))?;
    let ours = file.metadata()?;
    match fs_err::symlink_metadata(path) {
        Ok(there) => Ok((there.dev(), there.ino()) == (ours.dev(), ours.ino())),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(error.into()),
    }
}

/// Removes everything in `directory` whose owner is dead.
pub(crate) fn sweep(directory: &Path) -> Result<(), Error> {
    let entries = match fs_err::read_dir(directory) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        other => other?,
    };
    for entry in entries {
        let path = entry?.path();
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let lock = match rustix::fs::open(&path, flags, Mode::empty()) {
            Ok(lock) => lock,
            Err(Errno::NOENT) => continue,
            Err(error) => return Err(Error::io("open", &path)(error)),
        };
        match rustix::fs::flock(&lock, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => remove_tree(&path)?,
            Err(Errno::WOULDBLOCK) => {}
            Err(error) => return Err(Error::io("lock", &path)(error)),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sweep_removes_what_nobody_holds() {
        let root = tempfile::tempdir().unwrap();
        let held_file = TempFile::create(root.path()).unwrap();
        let held = TempDirectory::create(root.path()).unwrap();
        fs_err::write(root.path().join("stale"), "x").unwrap();
        fs_err::create_dir_all(root.path().join("dead/fs/a/b")).unwrap();
        sweep(root.path()).unwrap();
        let mut left: Vec<_> = fs_err::read_dir(root.path()).unwrap().map(|e| e.unwrap().path()).collect();
        left.sort();
        let mut expected = vec![held_file.path.clone(), held.path.clone()];
        expected.sort();
        assert_eq!(left, expected);
        drop((held_file, held));
        assert_eq!(fs_err::read_dir(root.path()).unwrap().count(), 0);
    }

    #[test]
    fn what_cannot_be_looked_at_is_not_said_to_exist() {
        let root = tempfile::tempdir().unwrap();
        let endless = root.path().join("endless");
        std::os::unix::fs::symlink(&endless, &endless).unwrap();
        let error = ensure_directory(&endless).unwrap_err();
        assert!(matches!(&error, Error::File(error) if error.kind() != io::ErrorKind::AlreadyExists), "{error}");
        fs_err::write(root.path().join("file"), "").unwrap();
        let error = ensure_directory(&root.path().join("file")).unwrap_err();
        assert!(matches!(&error, Error::Io { source, .. } if source.kind() == io::ErrorKind::AlreadyExists), "{error}");
    }

    #[test]
    fn what_is_being_made_survives_sweeps() {
        let root = tempfile::tempdir().unwrap();
        let done = std::sync::atomic::AtomicBool::new(false);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                while !done.load(std::sync::atomic::Ordering::Relaxed) {
                    sweep(root.path()).unwrap();
                }
            });
            for _ in 0..200 {
                let directory = TempDirectory::create(root.path()).unwrap();
                fs_err::write(directory.path().join("f"), "x").unwrap();
                let mut file = TempFile::create(root.path()).unwrap();
                file.sync().unwrap();
                fs_err::metadata(&file.path).unwrap();
            }
            done.store(true, std::sync::atomic::Ordering::Relaxed);
        });
    }

    #[test]
    fn losing_the_race_deletes_the_loser() {
        let root = tempfile::tempdir().unwrap();
        let target = root.path().join("target");
        for won in [true, false] {
            let active = TempDirectory::create(root.path()).unwrap();
            fs_err::write(active.path().join("f"), "x").unwrap();
            assert_eq!(active.persist(&target).unwrap(), won);
        }
        assert_eq!(fs_err::read_dir(root.path()).unwrap().count(), 1);
    }
}
