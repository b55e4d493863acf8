//! BLAKE3 of framed fields: the digests of trees.
//!
//! Every field is a number of fixed width, or bytes after their length: no two lists of fields are the same bytes.

use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use crate::entry::{Content, Kind, Xattrs};

/// How much is gathered before the hasher gets it, which it is faster with than with single fields.
const FRAME: usize = 16 * 1024;

/// A digest that is given fields. Each record of them begins with a tag.
#[derive(Debug)]
pub struct Framed {
    hasher: blake3::Hasher,
    frame: Vec<u8>,
}

impl Framed {
    /// Begins one; `domain` keeps the digests of one purpose and version apart from those of others.
    pub fn new(domain: &[u8]) -> Self {
        let mut hasher = blake3::Hasher::new();
        hasher.update(domain);
        Self { hasher, frame: Vec::new() }
    }

    /// Begins a record.
    pub fn tag(&mut self, tag: u8) {
        if self.frame.len() >= FRAME {
            self.hasher.update(&self.frame);
            self.frame.clear();
        }
        self.frame.push(tag);
    }

    /// Adds a number.
    pub fn number(&mut self, number: u64) {
        self.frame.extend_from_slice(&number.to_le_bytes());
    }

    /// Adds bytes.
    pub fn bytes(&mut self, bytes: &[u8]) {
        self.number(bytes.len() as u64);
        self.frame.extend_from_slice(bytes);
    }

    /// Begins the record of an entry: its type and path.
    pub fn entry(&mut self, path: &Path, kind: &Kind) {
        self.tag(match kind {
            Kind::Directory => b'd',
            Kind::File { .. } => b'f',
            Kind::Symlink { .. } => b'l',
            Kind::CharDevice { .. } => b'c',
            Kind::BlockDevice { .. } => b'b',
            Kind::Fifo => b'p',
        });
        self.bytes(path.as_os_str().as_bytes());
    }

    /// Adds what there is to say of a type: a size, a target, a device number.
    pub fn kind(&mut self, kind: &Kind) {
        match kind {
            Kind::Directory | Kind::Fifo => {}
            Kind::File { size } => self.number(*size),
            Kind::Symlink { target } => self.bytes(target),
            Kind::CharDevice { major, minor } | Kind::BlockDevice { major, minor } => {
                self.number((*major).into());
                self.number((*minor).into());
            }
        }
    }

    /// Adds extended attributes.
    pub fn xattrs(&mut self, xattrs: &Xattrs) {
        self.number(xattrs.len() as u64);
        for (name, value) in xattrs {
            self.bytes(name);
            self.bytes(value);
        }
    }

    /// Adds what the bytes of a file are.
    pub fn content(&mut self, Content(digest): Content) {
        self.frame.extend_from_slice(&digest);
    }

    /// The digest of all.
    pub fn finish(mut self) -> blake3::Hash {
        self.hasher.update(&self.frame);
        self.hasher.finalize()
    }
}
