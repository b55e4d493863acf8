//! All directories of a tree, on several threads.

use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::sync::{Mutex, PoisonError};

use crate::Error;
use crate::path::Root;
use crate::threads::on_cores;

/// More threads than this wait for the kernel's locks.
const THREADS_MAX: usize = 4;

/// So many directories are looked at before a thread has started.
const SHARE: usize = 32;

/// What a look at a directory is told, and the same for the directories that it found.
type Directories<K> = Vec<(PathBuf, K)>;

/// Calls `look` for the root, which it is told `first` of, and for every directory that a look returns; returns what the
/// looks found, in no order. Each thread has one directory open, however many there are.
pub(super) fn walk<K: Send, T: Send>(
    root: &Root,
    first: K,
    look: impl Fn(&OwnedFd, PathBuf, K) -> Result<(T, Directories<K>), Error> + Sync,
) -> Result<Vec<T>, Error> {
    let (mut found, mut wave) = (Vec::new(), vec![(PathBuf::new(), first)]);
    while !wave.is_empty() {
        let threads = THREADS_MAX.min(wave.len().div_ceil(SHARE));
        let left = Mutex::new(wave.into_iter());
        let next = || left.lock().unwrap_or_else(PoisonError::into_inner).next();
        let work = || {
            let (mut found, mut below) = (Vec::new(), Vec::new());
            while let Some((path, told)) = next() {
                let (looked, directories) = look(&super::open(root, &path)?, path, told)?;
                found.push(looked);
                below.extend(directories);
            }
            Ok((found, below))
        };
        let parts: Vec<Result<_, Error>> = on_cores(threads, work);
        wave = Vec::new();
        for part in parts {
            let (looked, below) = part?;
            found.extend(looked);
            wave.extend(below);
        }
    }
    Ok(found)
}
