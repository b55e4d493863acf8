//! What can go wrong on disk, in a layer's bytes or in a store.

use std::io;
use std::path::{Path, PathBuf};

use oci_spec::image::Digest;

use crate::layer::TarError;

/// Why an operation of this crate failed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A file operation failed; the text (from `fs_err`) names what was attempted and on which path.
    #[error(transparent)]
    File(#[from] io::Error),
    /// A system call on a path failed.
    #[error("cannot {action} `{}`", path.display())]
    Io {
        /// What was attempted, as a verb.
        action: &'static str,
        /// The path, as the layer or the caller names it.
        path: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
    /// The bytes that a blob is made of could not be read from where they come from.
    #[error("cannot read the incoming blob")]
    Incoming(#[source] io::Error),
    /// The bytes of a regular file could not be read from where they come from.
    #[error("cannot read the content of `{}`", path.display())]
    Content {
        /// The file in the layer.
        path: PathBuf,
        /// Why its bytes could not be read.
        source: io::Error,
    },
    /// A regular file ended before the size that its entry announced.
    #[error("the content of `{}` ends before its {size} bytes", path.display())]
    ShortContent {
        /// The file in the layer.
        path: PathBuf,
        /// The announced size in bytes.
        size: u64,
    },
    /// A bundle of a layer could not be compressed.
    #[error("cannot compress the layer")]
    Compress(#[from] flate2::CompressError),
    /// A zstd level was asked for that the encoder does not have.
    #[error("zstd level {level} is not implemented: the level is 1")]
    ZstdLevel {
        /// The level.
        level: u32,
    },
    /// A layer is being written to although that has failed before.
    #[error("the layer has already failed")]
    LayerFailed,
    /// A digest uses an algorithm that the store does not keep.
    #[error("digest `{digest}` is not SHA-256, the only algorithm that the store keeps")]
    Algorithm {
        /// The digest.
        digest: Digest,
    },
    /// A blob is not in the store.
    #[error("blob `{digest}` is not in the store")]
    MissingBlob {
        /// The blob's digest.
        digest: Digest,
    },
    /// Bytes do not have the digest that they were announced with.
    #[error("expected digest `{expected}`, the bytes have `{found}`")]
    DigestMismatch {
        /// The announced digest.
        expected: Digest,
        /// The digest of the bytes.
        found: Digest,
    },
    /// Bytes do not have the length that they were announced with.
    #[error("expected {expected} bytes, found {found}")]
    SizeMismatch {
        /// The announced size.
        expected: u64,
        /// The bytes seen (reading stops one past the announced size).
        found: u64,
    },
    /// Something from outside is larger than its limit.
    #[error("{what} exceeds the limit of {limit}")]
    Limit {
        /// What was limited.
        what: &'static str,
        /// The limit, in the unit that `what` names.
        limit: u64,
    },
    /// The tar stream of a layer or an archive is malformed or hostile.
    #[error("the tar stream is refused")]
    Tar(#[from] TarError),
    /// A file name cannot be stored in a layer.
    #[error("an image layer cannot hold `{}`: names that begin with `.wh.` say what a layer removes", path.display())]
    ReservedName {
        /// The path.
        path: PathBuf,
    },
    /// An entry cannot be written as tar or as a file.
    #[error("`{}` cannot be stored: {reason}", path.display())]
    Unrepresentable {
        /// The path.
        path: PathBuf,
        /// What cannot be held.
        reason: &'static str,
    },
    /// A whiteout was given to a tree that is not a layer.
    #[error("a plain directory cannot hold the whiteout of `{}`", path.display())]
    PlainWhiteout {
        /// The path that the whiteout removes.
        path: PathBuf,
    },
    /// A hard link names something that is not a file of this layer or of those below.
    #[error("`{}` is a hard link to `{}`, which is not a file of the image", path.display(), target.display())]
    LinkTarget {
        /// The link.
        path: PathBuf,
        /// What it names.
        target: PathBuf,
    },
    /// Symbolic links form a loop or a chain of more than 255.
    #[error("too many symbolic links at `{}`", path.display())]
    SymlinkLoop {
        /// The path that was resolved.
        path: PathBuf,
    },
    /// A path component that must be a directory is something else.
    #[error("`{}` is not a directory", path.display())]
    NotDirectory {
        /// The path.
        path: PathBuf,
    },
    /// An upper directory uses an overlay feature whose result is not a plain tree.
    #[error("`{}` has `{xattr}`: it was written by an overlay mount with that feature on", path.display())]
    OverlayFeature {
        /// The path in the upper directory.
        path: PathBuf,
        /// The attribute.
        xattr: &'static str,
    },
    /// A file of the store does not hold what it was written with.
    #[error("`{}` is damaged: {reason}", path.display())]
    Corrupt {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: &'static str,
    },
    /// A snapshot is not what its layer says.
    #[error("snapshot `{}` is damaged at `{}`: {what}", snapshot.display(), path.display())]
    OtherTree {
        /// The snapshot.
        snapshot: PathBuf,
        /// The path in it.
        path: PathBuf,
        /// What is wrong.
        what: &'static str,
    },
    /// A blob of the store had other bytes than its name says. It is removed: it can be made or fetched again.
    #[error("`{}` was damaged, and is removed from the store", path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// How that showed.
        source: Box<Self>,
    },
    /// Others may write in the store, so nothing in it can be trusted.
    #[error(
        "store `{}` can be written by others (mode {mode:04o}): remove it, or make it yours with `chmod 700`",
        path.display()
    )]
    OpenStore {
        /// The store's directory.
        path: PathBuf,
        /// Its permissions.
        mode: u32,
    },
    /// The store belongs to another user.
    #[error("store `{}` belongs to user {owner}, not to user {user}", path.display())]
    ForeignStore {
        /// The store's directory.
        path: PathBuf,
        /// Who owns it.
        owner: u32,
        /// Who asked.
        user: u32,
    },
    /// Something that the store would have to change is in use by another process.
    #[error("store `{}` is in use by another process", path.display())]
    Busy {
        /// The store's directory.
        path: PathBuf,
    },
    /// A record's kind or key cannot be a file name.
    #[error("`{name}` cannot name a record")]
    RecordName {
        /// The kind or key.
        name: String,
    },
}

impl Error {
    /// Makes the mapping for `map_err`: `action` was attempted on `path`.
    pub(crate) fn io<E: Into<io::Error>>(action: &'static str, path: &Path) -> impl FnOnce(E) -> Self {
        move |source| Self::Io { action, path: path.to_owned(), source: source.into() }
    }
}
