//! Snapshots: one directory a layer.
use std::path::{Path, PathBuf};

use oci_spec::image::Digest;
use serde::{Deserialize, Serialize};

use crate::Error;
use crate::index::View;
use crate::tree::Flavour;

/// Names a snapshot: chain_id for a pulled layer, the cache key for a built vertex.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct SnapshotId(pub Digest);
/// The chain_id of `diff_id` over `parent` (OCI image-spec, config.md, "Layer ChainID").
pub fn chain_id(_parent: Option<&SnapshotId>, _diff_id: &Digest) -> SnapshotId {
    todo!()
}
/// A committed snapshot.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Snapshot {
    /// Its name.
    pub id: SnapshotId,
    /// The layer's directory, for `lowerdir`.
    pub dir: PathBuf,
}
/// All snapshots of one flavour.
#[derive(Debug, Clone)]
pub struct Snapshots {}
impl Snapshots {
    /// How they write whiteouts.
    pub fn flavour(&self) -> Flavour {
        todo!()
    }
    /// A committed one.
    pub fn get(&self, _id: &SnapshotId) -> Option<Snapshot> {
        todo!()
    }
    /// Starts one.
    pub fn prepare(&self) -> Result<Active, Error> {
        todo!()
    }
}
/// A snapshot being written; dropped = deleted.
#[derive(Debug)]
pub struct Active {}
impl Active {
    /// The upper directory.
    pub fn upper(&self) -> &Path {
        todo!()
    }
    /// The overlay's work directory.
    pub fn work(&self) -> &Path {
        todo!()
    }
    /// Gives `upper` the metadata of the root directory of `below`: call before mounting.
    pub fn adopt_root(&self, _below: &View) -> Result<(), Error> {
        todo!()
    }
    /// Renames it into place; when another process was first, its snapshot is returned.
    pub fn commit(self, _id: &SnapshotId) -> Result<Snapshot, Error> {
        todo!()
    }
}
