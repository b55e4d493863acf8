//! The content digest of what was selected: how entries are framed.
//!
//! | in the digest | not in it |
//! |---|---|
//! | the order and names of the matches | the path of a match |
//! | path relative to the match, type, mode | mtime, ctime |
//! | size and bytes, link target, device number | owner and group on the host |
//! | extended attributes that a layer can hold | labels, access lists |
//! | which names of a match are links to one file | links from elsewhere |
//!
//! Every field is framed: a number of fixed width, or bytes after their length. A file's bytes enter as their own
//! blake3, which is what `Memo` remembers.

use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use snapshot::{Content, Entry, Kind};

use super::local::Selected;

/// Changes when the framing does, so that no old digest is mistaken for a new one.
const DOMAIN: &[u8] = b"rbuild context digest 1";

/// What a digest is made of, entry by entry.
pub(super) struct Digester {
    hasher: blake3::Hasher,
    frame: Vec<u8>,
}

impl Digester {
    pub(super) fn new() -> Self {
        let mut hasher = blake3::Hasher::new();
        hasher.update(DOMAIN);
        Self { hasher, frame: Vec::new() }
    }

    /// Begins one match.
    pub(super) fn selected(&mut self, selected: &Selected) {
        self.frame.push(b'S');
        self.bytes(selected.name.as_bytes());
        self.flush();
    }

    pub(super) fn entry(&mut self, relative: &Path, entry: &Entry, content: Option<Content>) {
        let tag = match entry.kind {
            Kind::Directory => b'd',
            Kind::File { .. } => b'f',
            Kind::Symlink { .. } => b'l',
            Kind::CharDevice { .. } => b'c',
            Kind::BlockDevice { .. } => b'b',
            Kind::Fifo => b'p',
        };
        self.frame.push(tag);
        self.bytes(relative.as_os_str().as_bytes());
        self.number(entry.metadata.mode.into());
        self.number(entry.metadata.xattrs.len() as u64);
        for (name, value) in &entry.metadata.xattrs {
            self.bytes(name);
            self.bytes(value);
        }
        match &entry.kind {
            Kind::Directory | Kind::Fifo => {}
            Kind::File { size } => self.number(*size),
            Kind::Symlink { target } => self.bytes(target),
            Kind::CharDevice { major, minor } | Kind::BlockDevice { major, minor } => {
                self.number((*major).into());
                self.number((*minor).into());
            }
        }
        if let Some(content) = content {
            self.frame.extend_from_slice(&content.0);
        }
        self.flush();
    }

    /// Another name of the file that came as `first`.
    pub(super) fn link(&mut self, relative: &Path, first: &Path) {
        self.frame.push(b'h');
        self.bytes(relative.as_os_str().as_bytes());
        self.bytes(first.as_os_str().as_bytes());
        self.flush();
    }

    fn number(&mut self, number: u64) {
        self.frame.extend_from_slice(&number.to_le_bytes());
    }

    fn bytes(&mut self, bytes: &[u8]) {
        self.number(bytes.len() as u64);
        self.frame.extend_from_slice(bytes);
    }

    /// Gives the hasher larger pieces than single fields, which it is faster with.
    fn flush(&mut self) {
        if self.frame.len() >= 16 * 1024 {
            self.hasher.update(&self.frame);
            self.frame.clear();
        }
    }

    pub(super) fn finish(mut self) -> blake3::Hash {
        self.hasher.update(&self.frame);
        self.hasher.finalize()
    }
}
