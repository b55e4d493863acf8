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
//! Where the kernel can stack no directories, a [`Whole`] holds a stack's tree, and makes upper directories of what is
//! changed in it.
//!
//! A [`View`] stacks indexes and answers for the whole tree without touching a file.
//!
//! # On disk
//!
//! ```text
//! <root>/store-v1/              0700, of one user, shared by any number of processes
//!   lock                        flock: shared while a use is marked, exclusive while something is removed
//!   blobs/sha256/<hex>          complete and verified bytes: manifests, configs, compressed layers
//!   segments/<hex of blob>      where in a blob of ours its segments lie: what a later layer copies
//!   indexes/<hex of diff_id>    a layer's index: path → type, mode, owner, time, content digest
//!   snapshots-<flavour>/<hex>/  by chain_id (a pulled layer) or cache key (a built vertex)
//!     fs                        the layer's tree: a lowerdir; whiteouts as its flavour of overlayfs reads them
//!     sealed                    made when the tree was complete: what is younger was changed by somebody else
//!     unsynced                  the boot id, until `syncfs`: after a crash such a snapshot is thrown away
//!   snapshots-<flavour>/tmp/<random>/{fs,work}   being written; flock held by its writer
//!   cache/<kind>/<key>          records of the builder, each sealed with a digest
//!   mounts/                     cache mounts: the builder's, see its `solve::cache_mount`
//!   tags/<reference>            what a reference was resolved to
//!   leases/<random>             flock held by whoever uses the store: what was used since its time is not removed
//!   locks/<name>                flock: who makes what has this name
//!   tmp/<random>                being written; flock held by its writer
//! ```
//!
//! A name outside `tmp` always stands for something complete. Blobs and tags are written, made durable and then
//! renamed. What carries a seal (indexes, records, lists of segments) is renamed as it is, for its readers check it; it
//! names nothing that is not durable, but for snapshots, which do not outlive a crash unsynced. What is in `tmp`
//! without a lock has no owner and is removed by the next process that opens the store.
//!
//! The modification time of a name is its last use: [`Store::lease`] and [`Store::remove`] say what follows.

pub mod blob;
pub mod diff;
pub mod digest;
pub mod entry;
pub mod error;
pub mod framed;
pub mod index;
pub mod layer;
pub mod lock;
pub mod owner;
pub mod path;
pub mod sink;
pub mod snapshotter;
pub mod store;
mod temp;
#[cfg(test)]
mod testing;
pub mod threads;
pub mod tree;
pub mod unpack;
pub mod whole;
mod xattr;

pub use blob::{BlobStore, BlobWriter, Fate, Follower, Watch};
pub use entry::{Content, Entry, Kind, Metadata, Mtime, Xattrs};
pub use error::Error;
pub use index::{ContentDigest, Found, IndexWriter, LayerIndex, Node, View};
pub use layer::{Compression, Layer, LayerOptions, LayerWriter, SegmentCache, SegmentCounts, TarError, TarWriter};
pub use lock::NamedLock;
pub use owner::Owner;
pub use sink::{Bytes, ChangeSink, buffered};
pub use snapshotter::{Active, Snapshot, SnapshotId, Snapshots, chain_id};
pub use store::{Lease, Store};
pub use temp::TempDirectory;
pub use threads::on_cores;
pub use tree::{Flavour, TreeWriter};
pub use unpack::{Unpacked, survey, unpack};
pub use whole::Whole;
