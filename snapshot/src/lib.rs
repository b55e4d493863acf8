//! Everything on disk that is content-addressed: blobs, layers, snapshots and what is known about them.
//!
//! A *layer* is known by its [`LayerIndex`]; its bytes may exist as a directory (a snapshot), as a compressed blob,
//! or both. Everything that makes a layer is a source that walks entries into a [`ChangeSink`]; everything that
//! stores one is such a sink:
//!
//! ```text
//! layer::read (a tar stream)  ─┐                   ┌─ LayerWriter  → tar → gzip → blob
//! diff::changes (an upper dir) ├──▶  ChangeSink ──▶├─ TreeWriter   → a snapshot directory
//! COPY (the builder's)        ─┘                   └─ IndexWriter  → only the index
//! ```
pub mod blob;
pub mod diff;
pub mod digest;
pub mod entry;
pub mod error;
pub mod index;
pub mod layer;
pub mod path;
pub mod sink;
pub mod snapshotter;
pub mod store;
mod temp;
#[cfg(test)]
mod testing;
pub mod tree;
pub mod unpack;
mod xattr;

pub use blob::{BlobStore, BlobWriter};
pub use entry::{Content, Entry, Kind, Metadata, Mtime, Xattrs};
pub use error::Error;
pub use index::{Found, IndexWriter, LayerIndex, Node, View};
pub use layer::{Compression, Layer, LayerWriter, TarError, TarWriter};
pub use sink::ChangeSink;
pub use snapshotter::{Active, Snapshot, SnapshotId, Snapshots, chain_id};
pub use store::Store;
pub use tree::{Flavour, TreeWriter};
pub use unpack::{Unpacked, unpack};
