//! The one seam between what makes a layer's changes and what stores them.

use std::io::Read;
use std::path::Path;

use crate::entry::Entry;

/// Receives the changes of one layer, in order: parents before children, names sorted bytewise within a directory.
///
/// Every path is relative to the image's root, has only normal components and is never empty (the root itself is
/// given as `.`). A sink may rely on it: sources refuse everything else.
pub trait ChangeSink {
    /// Why a change could not be stored.
    type Error;

    /// Adds or replaces `path`. For a regular file `content` yields exactly the size that `entry` says; a sink reads
    /// all of it. For every other type it is empty.
    fn entry(&mut self, path: &Path, entry: &Entry, content: &mut dyn Read) -> Result<(), Self::Error>;

    /// Adds `path` as another name of the regular file `target`, which came earlier in this layer.
    fn hard_link(&mut self, path: &Path, target: &Path) -> Result<(), Self::Error>;

    /// Removes `path` (and everything below it) of the layers underneath.
    fn whiteout(&mut self, path: &Path) -> Result<(), Self::Error>;

    /// Hides everything that the layers underneath have in `directory`; comes right after the directory's own entry.
    fn opaque(&mut self, directory: &Path) -> Result<(), Self::Error>;
}
