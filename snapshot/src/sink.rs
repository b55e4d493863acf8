//! The one seam between what makes a layer's changes and what stores them.

use std::fmt;
use std::io::Read;
use std::path::Path;

use crate::entry::{Content, Entry};

/// The bytes of a file on their way into a layer: exactly as many as the entry says.
pub enum Bytes<'a> {
    /// Read at once. Their digest, where somebody has it already and vouches for it.
    Now(&'a mut dyn Read, Option<Content>),
    /// Of this digest, and read only if nobody has them: whoever reads them gets these bytes or an error.
    Later(Box<dyn Read + Send>, Content),
}

impl Bytes<'_> {
    /// Their digest, where it is known.
    pub fn digest(&self) -> Option<Content> {
        match self {
            Self::Now(_, digest) => *digest,
            Self::Later(_, digest) => Some(*digest),
        }
    }

    /// Yields them.
    pub fn reader(&mut self) -> &mut dyn Read {
        match self {
            Self::Now(reader, _) => reader,
            Self::Later(reader, _) => reader,
        }
    }
}

impl<'a> From<&'a mut dyn Read> for Bytes<'a> {
    fn from(reader: &'a mut dyn Read) -> Self {
        Self::Now(reader, None)
    }
}

impl fmt::Debug for Bytes<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Bytes").field("digest", &self.digest()).finish_non_exhaustive()
    }
}

/// Receives the changes of one layer.
///
/// Every path is relative to the image's root, has only normal components and is never empty (the root itself is
/// given as `.`): sources refuse everything else. Of a tar stream nothing else is promised: changes come in any order,
/// a directory may come after what is below it or never (then it is only implied), a path may come twice (the later
/// one stands), and a hard link may name a file of a layer below. `diff::changes` promises more: parents first, names
/// sorted bytewise, each path once, every directory described, links to earlier files of the same layer.
pub trait ChangeSink {
    /// Why a change could not be stored.
    type Error;

    /// Adds or replaces `path`. For a regular file `content` yields exactly the size that `entry` says; a sink reads
    /// all of it. For every other type it is empty.
    fn entry(&mut self, path: &Path, entry: &Entry, content: &mut dyn Read) -> Result<(), Self::Error>;

    /// Adds `path` as another name of `target`, which is no directory and came earlier in this layer.
    fn hard_link(&mut self, path: &Path, target: &Path) -> Result<(), Self::Error>;

    /// Removes `path` (and everything below it) of the layers underneath; what this layer has there stays.
    fn whiteout(&mut self, path: &Path) -> Result<(), Self::Error>;

    /// Hides everything that the layers underneath have in `directory`; comes after the directory's own entry, if it
    /// has one.
    fn opaque(&mut self, directory: &Path) -> Result<(), Self::Error>;
}
