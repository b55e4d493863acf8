//! Everything on disk that is content-addressed: blobs, layers, snapshots and what is known about them. Knows tar,
//! overlayfs and digests; no HTTP, no Dockerfile.
//!
//! A *layer* is known by its [`LayerIndex`]; its bytes may exist as a directory (a snapshot), as a compressed blob,
//! or both. Everything that makes a layer is a source that walks entries into a [`ChangeSink`]; everything that
//! stores one is such a sink:
//!
//! ```text
//! layer::read (a tar stream)  ─┐                   ┌─ LayerWriter → tar → gzip → blob
//! diff::changes (an upper dir) ├──▶  ChangeSink ──▶├─ TarWriter   → tar, uncompressed
//! COPY (the builder's)        ─┘                   ├─ TreeWriter  → a directory
//!                                                  └─ IndexWriter → only the index
//! ```
//!
//! A [`View`] stacks indexes and answers for the whole tree without touching a file.
//!
//! # On disk
//!
//! ```text
//! <root>/store-v1/              0700, of one user, shared by any number of processes
//!   lock                        flock: shared by everybody who has the store open, exclusive to remove what is unused
//!   blobs/sha256/<hex>          complete and verified bytes: manifests, configs, compressed layers
//!   segments/<hex of blob>      where in a blob of ours its segments lie: what a later layer copies
//!   indexes/<hex of diff_id>    a layer's index: path → type, mode, owner, time, content digest
//!   snapshots-<flavour>/<hex>/  by chain_id (a pulled layer) or cache key (a built vertex)
//!     fs                        the layer's tree: a lowerdir; whiteouts as its flavour of overlayfs reads them
//!     unsynced                  the boot id, until `syncfs`: after a crash such a snapshot is thrown away
//!   snapshots-<flavour>/tmp/<random>/{fs,work}   being written; flock held by its writer
//!   cache/<kind>/<key>          records of the builder, each sealed with a digest
//!   mounts/                     cache mounts: the builder's, see its `solve::cache_mount`
//!   tags/<reference>            what a reference was resolved to
//!   leases/
//!   locks/<name>                flock: who makes what has this name
//!   tmp/<random>                being written; flock held by its writer
//! ```
//!
//! A name outside `tmp` always stands for something complete: it was written, made durable and then renamed (but for
//! `segments`, which a crash may damage and whose readers check). What is
//! in `tmp` without a lock has no owner and is removed by the next process that opens the store.

pub mod blob;
pub mod diff;
pub mod digest;
pub mod entry;
pub mod error;
pub mod index;
pub mod layer;
pub mod lock;
pub mod path;
pub mod sink;
pub mod snapshotter;
pub mod store;
mod temp;
#[cfg(test)]
mod testing;
pub mod tree;
pub mod unpack;
pub mod whole;
mod xattr;

pub use blob::{BlobStore, BlobWriter};
pub use entry::{Content, Entry, Kind, Metadata, Mtime, Xattrs};
pub use error::Error;
pub use index::{ContentDigest, Found, IndexWriter, LayerIndex, Node, View};
pub use layer::{Compression, Layer, LayerOptions, LayerWriter, SegmentCache, SegmentCounts, TarError, TarWriter};
pub use lock::NamedLock;
pub use sink::ChangeSink;
pub use snapshotter::{Active, Snapshot, SnapshotId, Snapshots, chain_id};
pub use store::Store;
pub use tree::{Flavour, TreeWriter};
pub use unpack::{Unpacked, unpack};
pub use whole::Whole;
