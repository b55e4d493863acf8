//! The files of one match that have several names in it.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::path::{Path, PathBuf};

use super::beneath::Stat;

/// The first name of each file with several links, with what is known of it.
#[derive(Debug)]
pub(super) struct Links<T>(HashMap<(u64, u64), (PathBuf, T)>);

impl<T> Default for Links<T> {
    fn default() -> Self {
        Self(HashMap::new())
    }
}

impl<T> Links<T> {
    /// The name under which the file came first, if it came.
    pub(super) fn first(&self, stat: &Stat) -> Option<&(PathBuf, T)> {
        if stat.has_links() { self.0.get(&stat.inode()) } else { None }
    }

    /// Notes a name of a file, unless one is known or it has no other.
    pub(super) fn note(&mut self, stat: &Stat, name: &Path, known: T) {
        if stat.has_links()
            && let Entry::Vacant(place) = self.0.entry(stat.inode())
        {
            place.insert((name.to_owned(), known));
        }
    }
}
