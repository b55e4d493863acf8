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
//! A file's bytes enter as their own blake3, which is what `Memo` remembers.

use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use snapshot::framed::Framed;
use snapshot::{Content, Entry};

use super::local::Selected;

/// Changes when the framing does, so that no old digest is mistaken for a new one.
const DOMAIN: &[u8] = b"rbuild context digest 1";

/// A digest of what was selected, entry by entry.
pub(super) struct Digester(Framed);

impl Digester {
    pub(super) fn new() -> Self {
        Self(Framed::new(DOMAIN))
    }

    /// Begins one match.
    pub(super) fn selected(&mut self, selected: &Selected) {
        self.0.tag(b'S');
        self.0.bytes(selected.name.as_bytes());
    }

    pub(super) fn entry(&mut self, relative: &Path, entry: &Entry, content: Option<Content>) {
        self.0.entry(relative, &entry.kind);
        self.0.number(entry.metadata.mode.into());
        self.0.xattrs(&entry.metadata.xattrs);
        self.0.kind(&entry.kind);
        if let Some(content) = content {
            self.0.content(content);
        }
    }

    /// Another name of the file that came as `first`.
    pub(super) fn link(&mut self, relative: &Path, first: &Path) {
        self.0.tag(b'h');
        self.0.bytes(relative.as_os_str().as_bytes());
        self.0.bytes(first.as_os_str().as_bytes());
    }

    pub(super) fn finish(self) -> blake3::Hash {
        self.0.finish()
    }
}
