//! The one seam between what makes a layer's changes and what stores them.

use std::fmt;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::path::Path;

use crate::Error;
use crate::entry::{Content, Entry, Kind};

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

/// Bytes of a file that are read at a time.
const BUFFER: u64 = 128 * 1024;

/// Buffers the bytes of the file that `entry` describes, in no more memory than it has bytes.
pub fn buffered<R: Read>(entry: &Entry, content: R) -> BufReader<R> {
    let size = if let Kind::File { size } = entry.kind { size } else { 0 };
    BufReader::with_capacity(usize::try_from(size.min(BUFFER)).expect("128 KiB"), content)
}

/// Writes the `size` bytes of the file `path` to `out`, from where they lie.
pub(crate) fn write_content(
    path: &Path,
    size: u64,
    content: &mut dyn BufRead,
    out: &mut dyn Write,
) -> Result<(), Error> {
    let mut left = size;
    while left > 0 {
        let bytes = match content.fill_buf() {
            Ok([]) => return Err(Error::ShortContent { path: path.to_owned(), size }),
            Ok(bytes) => bytes,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(source) => return Err(Error::Content { path: path.to_owned(), source }),
        };
        let count = usize::try_from(left).map_or(bytes.len(), |left| left.min(bytes.len()));
        out.write_all(&bytes[..count]).map_err(Error::io("write", path))?;
        content.consume(count);
        left -= count as u64;
    }
    Ok(())
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
    /// all of it. For every other type it is empty. It is buffered, since a tar stream's bytes already are: a sink
    /// writes and digests them where they lie.
    fn entry(&mut self, path: &Path, entry: &Entry, content: &mut dyn BufRead) -> Result<(), Self::Error>;

    /// Adds `path` as another name of `target`, which is no directory and came earlier in this layer.
    fn hard_link(&mut self, path: &Path, target: &Path) -> Result<(), Self::Error>;

    /// Removes `path` (and everything below it) of the layers underneath; what this layer has there stays.
    fn whiteout(&mut self, path: &Path) -> Result<(), Self::Error>;

    /// Hides everything that the layers underneath have in `directory`; comes after the directory's own entry, if it
    /// has one.
    fn opaque(&mut self, directory: &Path) -> Result<(), Self::Error>;
}
