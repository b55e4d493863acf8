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
pub mod entry;
pub mod index;
pub mod sink;

pub use entry::{Content, Entry, Kind, Metadata, Mtime, Xattrs};
pub use index::{LayerIndex, View};
pub use sink::ChangeSink;
