//! One pulled layer → its own snapshot.
use std::io::Read;
use std::path::PathBuf;
use std::sync::Arc;

use crate::Error;
use crate::index::{LayerIndex, View};
use crate::layer::Limits;
use crate::snapshotter::{Active, Snapshot, SnapshotId};
use crate::tree::Flavour;

/// A layer on disk that still lacks what only the layers below know.
#[derive(Debug)]
pub struct Unpacked {}
impl Unpacked {
    /// The layer's index.
    pub fn index(&self) -> &Arc<LayerIndex> {
        todo!()
    }
    /// Copies from below and commits.
    pub fn settle(self, _below: &View, _below_dirs: &[PathBuf], _id: &SnapshotId) -> Result<Snapshot, Error> {
        todo!()
    }
}
/// Unpacks with the default limits.
pub fn unpack(_tar: &mut dyn Read, _active: Active, _flavour: Flavour) -> Result<Unpacked, Error> {
    todo!()
}
/// Unpacks with `limits`.
pub fn unpack_limited(
    _tar: &mut dyn Read,
    _active: Active,
    _flavour: Flavour,
    _limits: Limits,
) -> Result<Unpacked, Error> {
    todo!()
}
