//! A directory of the host as a build context.

use std::ffi::OsString;
use std::io::Read;
use std::path::{Path, PathBuf};

use snapshot::Entry;

use super::error::ContextError;
use super::ignore::Ignore;
use super::memo::Memo;

/// A directory as a build context. Nothing outside it can be reached through it.
#[derive(Debug)]
pub struct LocalContext {
    root: std::os::fd::OwnedFd,
    ignore: Ignore,
}

/// One match of a source pattern.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Selected {
    /// Where the match is: relative to the root, free of symbolic links; empty for the root itself.
    pub path: PathBuf,
    /// The name that the destination gives it when the destination is a directory: the last component as the pattern
    /// matched it, before a link was followed. Empty for a directory, whose entries are copied rather than itself.
    /// It is part of the digest.
    pub name: OsString,
    /// Whether the match is a directory.
    pub directory: bool,
}

impl LocalContext {
    /// Opens the directory `root` as a context in which `ignore` hides paths.
    pub fn open(root: &Path, ignore: Ignore) -> Result<Self, ContextError> {
        let _ = (root, ignore);
        todo!()
    }

    /// Returns what `pattern` selects, sorted by path as the pattern sees it: a literal path, or wildcards as in
    /// [`super::glob`]. A leading `/` is the root, `..` stops there. Symbolic links on the way to a match and a match
    /// that is one are followed inside the root.
    ///
    /// A literal path that does not exist or is ignored is an error; wildcards that match nothing select nothing.
    pub fn select(&self, pattern: &str) -> Result<Vec<Selected>, ContextError> {
        let _ = (pattern, &self.root, &self.ignore);
        todo!()
    }

    /// Calls `visit` for the entry at `at` and for those below it: depth-first, parents first, names sorted bytewise,
    /// ignored ones left out. Paths are relative to `at`, whose own is empty.
    ///
    /// `exclude` are the patterns of `COPY --exclude`, relative to `at` (to its parent when it is not a directory).
    pub fn walk<E: From<ContextError>>(
        &self,
        at: &Selected,
        exclude: &Ignore,
        visit: &mut dyn FnMut(&Path, &Entry) -> Result<(), E>,
    ) -> Result<(), E> {
        let _ = (at, exclude, visit);
        todo!()
    }

    /// Walks each of `selected` (the index is the first argument of `visit`) and hands out the bytes too. Returns the
    /// digest of what was handed out: where it differs from an earlier [`LocalContext::digest`], the context changed.
    pub fn copy<E: From<ContextError>>(
        &self,
        selected: &[Selected],
        exclude: &Ignore,
        visit: &mut dyn FnMut(usize, &Path, &Entry, &mut dyn Read) -> Result<(), E>,
    ) -> Result<blake3::Hash, E> {
        let _ = (selected, exclude, visit);
        todo!()
    }

    /// Returns the content digest of `selected`.
    pub fn digest(&self, selected: &[Selected], exclude: &Ignore, memo: &Memo) -> Result<blake3::Hash, ContextError> {
        let _ = (selected, exclude, memo);
        todo!()
    }

    /// Opens the regular file `path`, ignored or not. No component of `path` may be a symbolic link.
    pub fn open_file(&self, path: &Path) -> Result<std::fs::File, ContextError> {
        let _ = path;
        todo!()
    }
}

/// Reads the ignore file that applies: `<dockerfile>.dockerignore` beside the Dockerfile, else `.dockerignore` in
/// `root`, else nothing is ignored.
pub fn load_ignore(root: &Path, dockerfile: Option<&Path>) -> Result<Ignore, ContextError> {
    let _ = (root, dockerfile);
    todo!()
}
