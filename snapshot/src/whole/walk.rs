//! All directories of a tree, on several threads.

use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::sync::{Mutex, PoisonError};

use crate::Error;
use crate::path::Root;
use crate::threads::{LOOKING_MAX, on_cores};

/// So many directories are looked at before a thread has started.
const SHARE: usize = 32;

/// What a look at a directory is told, and the same for the directories that it found.
type Directories<K> = Vec<(PathBuf, K)>;

/// Calls `look` for the root, which it is told `first` of, and for every directory that a look returns; returns what the
/// looks found: a directory's before that of those below it. Each thread has one directory open, however many there are.
pub(super) fn walk<K: Send, T: Send>(
    root: &Root,
    first: K,
    look: impl Fn(&OwnedFd, PathBuf, K) -> Result<(T, Directories<K>), Error> + Sync,
) -> Result<Vec<T>, Error> {
    let (mut found, mut wave) = (Vec::new(), vec![(PathBuf::new(), first)]);
    while !wave.is_empty() {
        let threads = LOOKING_MAX.min(wave.len().div_ceil(SHARE));
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

#[cfg(test)]
mod tests {
    use std::collections::HashSet;
    use std::os::fd::AsFd;

    use super::*;
    use crate::path::names;

    #[test]
    fn every_directory_comes_once_and_after_the_one_that_it_is_in() {
        let directory = tempfile::tempdir().unwrap();
        let mut expected = HashSet::from([PathBuf::new()]);
        for number in 0..3 * SHARE {
            let path = PathBuf::from(format!("{number}/below"));
            fs_err::create_dir_all(directory.path().join(&path)).unwrap();
            expected.extend([path.parent().unwrap().to_owned(), path]);
        }
        let looked = walk(&Root::open(directory.path()).unwrap(), 0, |directory, path, depth| {
            let below = names(directory.as_fd()).map_err(Error::io("list directory", &path))?;
            let below = below.into_iter().map(|name| (path.join(name), depth + 1)).collect();
            Ok(((path, depth), below))
        });
        let looked = looked.unwrap();
        assert!(looked.is_sorted_by_key(|(_, depth)| *depth));
        assert_eq!(looked.len(), expected.len());
        assert_eq!(looked.into_iter().map(|(path, _)| path).collect::<HashSet<_>>(), expected);
    }

    #[test]
    fn an_error_names_the_directory() {
        let directory = tempfile::tempdir().unwrap();
        let root = Root::open(directory.path()).unwrap();
        let error = walk(&root, (), |_, path, ()| Ok(((), vec![(path.join("missing"), ())]))).unwrap_err();
        assert_eq!(error.to_string(), "cannot open directory `missing`");
    }
}
