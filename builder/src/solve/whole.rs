//! Whole trees for steps that run where layers cannot be stacked: one a stage, written by its steps one after another.
//!
//! A tree that a step has left is kept for the next step of its stage, which only needs the layers of the COPYs between
//! them. A step that fails takes its tree with it. Whoever finds none makes one from the layers.

use std::fmt;
use std::path::Path;
use std::sync::{Mutex, PoisonError};

use snapshot::{SnapshotId, Whole};

use super::World;
use super::error::Cause;
use super::tree::Tree;

/// The trees that no step is using.
#[derive(Default)]
pub struct Wholes(Mutex<Vec<Kept>>);

struct Kept {
    /// What it is made of, bottom first.
    layers: Vec<SnapshotId>,
    whole: Whole,
}

impl fmt::Debug for Wholes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Wholes").finish_non_exhaustive()
    }
}

impl Wholes {
    /// Returns the tree of all layers of `tree`, for a step to write.
    pub(super) fn take(&self, world: &World<'_>, tree: &Tree) -> Result<Whole, Cause> {
        let directories = tree.dirs(world)?;
        let layers = ids(tree);
        let (mut whole, have) = match self.take_nearest(&layers) {
            Some(kept) => (kept.whole, kept.layers.len()),
            None => (Whole::new(world.store.snapshots().prepare()?), 0),
        };
        for directory in &directories[have..] {
            if world.cancel.is_cancelled() {
                return Err(Cause::Cancelled);
            }
            whole.push(directory)?;
        }
        whole.observe()?;
        Ok(whole)
    }

    /// The tree that lacks the fewest of `layers` and has no others.
    fn take_nearest(&self, layers: &[SnapshotId]) -> Option<Kept> {
        let mut kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let fits = kept.iter().enumerate().filter(|(_, kept)| layers.starts_with(&kept.layers));
        let nearest = fits.max_by_key(|(_, kept)| kept.layers.len())?.0;
        Some(kept.swap_remove(nearest))
    }

    /// Moves what a step has changed into the directory of its layer, and keeps the tree for the next step on `tree`.
    pub(super) fn settle(&self, mut whole: Whole, tree: &Tree, upper: &Path) -> Result<(), Cause> {
        whole.changes(upper)?;
        let kept = Kept { layers: ids(tree), whole };
        self.0.lock().unwrap_or_else(PoisonError::into_inner).push(kept);
        Ok(())
    }
}

fn ids(tree: &Tree) -> Vec<SnapshotId> {
    tree.layers().iter().map(|layer| layer.id().clone()).collect()
}
