//! What a layer says about one path: its type, metadata and content digest.

use std::collections::BTreeMap;

/// Extended attributes: raw name → raw value, sorted by name.
pub type Xattrs = BTreeMap<Vec<u8>, Vec<u8>>;

/// The blake3 digest of a regular file's bytes. Internal: the OCI digests (`diff_id`, blob) are SHA-256.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Content(pub [u8; 32]);

/// A modification time, as seconds and nanoseconds since the epoch; seconds may be negative.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Mtime {
    /// Whole seconds since the epoch.
    pub seconds: i64,
    /// Nanoseconds, below 1,000,000,000.
    pub nanoseconds: u32,
}

/// Everything about an entry but its type and bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Metadata {
    /// Permission bits with setuid, setgid and sticky: at most `0o7777`.
    pub mode: u32,
    /// Owner, as a layer says it (0 is root of the image).
    pub uid: u32,
    /// Group, as a layer says it.
    pub gid: u32,
    /// Modification time.
    pub mtime: Mtime,
    /// Extended attributes that belong in a layer.
    pub xattrs: Xattrs,
}

/// The type of an entry with what only that type has.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Kind {
    /// A directory.
    Directory,
    /// A regular file of `size` bytes.
    File {
        /// Length in bytes.
        size: u64,
    },
    /// A symbolic link to `target`, which is any bytes.
    Symlink {
        /// The text of the link.
        target: Vec<u8>,
    },
    /// A character device.
    CharDevice {
        /// Major number.
        major: u32,
        /// Minor number.
        minor: u32,
    },
    /// A block device.
    BlockDevice {
        /// Major number.
        major: u32,
        /// Minor number.
        minor: u32,
    },
    /// A FIFO.
    Fifo,
}

/// One path of a tree.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// The type.
    pub kind: Kind,
    /// Mode, owner, time, attributes.
    pub metadata: Metadata,
}
