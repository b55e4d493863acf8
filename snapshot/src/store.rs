//! The store.
use std::collections::HashSet;
use std::path::Path;
use std::sync::Arc;

use oci_spec::image::Digest;

use crate::Error;
use crate::blob::BlobStore;
use crate::index::LayerIndex;
use crate::snapshotter::{SnapshotId, Snapshots};
use crate::tree::Flavour;

/// Bytes on disk by kind.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Usage {
    /// Blobs.
    pub blobs: u64,
    /// Snapshots.
    pub snapshots: u64,
    /// Indexes and records.
    pub records: u64,
}
/// What `remove_unreferenced` keeps.
#[derive(Debug, Clone, Default)]
pub struct Referenced {
    /// Blobs.
    pub blobs: HashSet<Digest>,
    /// Snapshots.
    pub snapshots: HashSet<SnapshotId>,
    /// Indexes, by diff_id.
    pub indexes: HashSet<Digest>,
}
/// An open store.
#[derive(Debug)]
pub struct Store {}
impl Store {
    /// Opens or creates `<root>/store-v1`.
    pub fn open(_root: &Path, _flavour: Flavour) -> Result<Self, Error> {
        todo!()
    }
    /// `<root>/store-v1`.
    pub fn path(&self) -> &Path {
        todo!()
    }
    /// The blobs.
    pub fn blobs(&self) -> &BlobStore {
        todo!()
    }
    /// The snapshots of this store's flavour.
    pub fn snapshots(&self) -> &Snapshots {
        todo!()
    }
    /// The index of the layer `diff_id`; `None` when absent or damaged.
    pub fn index(&self, _diff_id: &Digest) -> Option<Arc<LayerIndex>> {
        todo!()
    }
    /// Stores an index.
    pub fn put_index(&self, _diff_id: &Digest, _index: &LayerIndex) -> Result<(), Error> {
        todo!()
    }
    /// A record; `None` when absent or damaged.
    pub fn get_record(&self, _kind: &str, _key: &str) -> Option<Vec<u8>> {
        todo!()
    }
    /// Stores a record.
    pub fn put_record(&self, _kind: &str, _key: &str, _value: &[u8]) -> Result<(), Error> {
        todo!()
    }
    /// Bytes on disk.
    pub fn usage(&self) -> Result<Usage, Error> {
        todo!()
    }
    /// Removes what `keep` does not name; returns the bytes freed.
    pub fn remove_unreferenced(&self, _keep: &Referenced) -> Result<u64, Error> {
        todo!()
    }
}
