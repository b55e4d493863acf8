//! A tree's directories as the lower layers of an overlay; those of a tall tree are made one.

use std::io;
use std::path::{Path, PathBuf};

use snapshot::digest::sha256;
use snapshot::{ChangeSink, Kind, SnapshotId, TreeWriter};

use super::World;
use super::error::Cause;
use super::tree::Tree;

/// The most lower layers of an overlay: the kernel takes 500, and is slower with each.
const LOWERS_MAX: usize = 128;

/// How many layers at a time are made one.
const STOREY: usize = LOWERS_MAX / 2;

/// Returns the directories, top first, at most [`LOWERS_MAX`].
pub(super) fn lowers(world: &World<'_>, tree: &Tree) -> Result<Vec<PathBuf>, Cause> {
    let flat = flattened(tree.layers().len());
    let mut dirs = Vec::new();
    if flat > 0 {
        dirs.push(flatten(world, &tree.below(flat))?);
    }
    dirs.extend(tree.dirs_from(flat, world)?);
    dirs.reverse();
    Ok(dirs)
}

/// How many layers of a tree of that height are made one: the same for many steps in a row.
fn flattened(height: usize) -> usize {
    if height <= LOWERS_MAX { 0 } else { (height - STOREY) / STOREY * STOREY }
}

/// The directory of a whole tree, which stays in the store as the layers' own do.
fn flatten(world: &World<'_>, tree: &Tree) -> Result<PathBuf, Cause> {
    let (Some(made), Some(top)) = (tree.identity(), tree.layers().len().checked_sub(1)) else {
        return Err(Cause::Cancelled);
    };
    let snapshots = world.store.snapshots();
    let id = SnapshotId(sha256(format!("flattened {made}").as_bytes()));
    if let Some(snapshot) = snapshots.get(&id) {
        return Ok(snapshot.dir);
    }
    let view = tree.view(world)?;
    let active = snapshots.prepare()?;
    active.adopt_root_of(&tree.dir(top, world)?)?;
    let mut writer = TreeWriter::new(active.upper(), snapshots.flavour())?;
    for (path, found) in view.walk(Path::new(".")) {
        if matches!(found.entry.kind, Kind::File { .. }) {
            writer.copy_file(&path, &found.entry, &tree.open(&found, world)?)?;
        } else {
            writer.entry(&path, &found.entry, &mut io::empty())?;
        }
    }
    writer.finish()?;
    Ok(active.commit(&id)?.dir)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tall_trees_fit_and_share_what_was_made_one() {
        for height in 0..1000 {
            let flat = flattened(height);
            assert!(flat <= height && height - flat + usize::from(flat > 0) <= LOWERS_MAX, "{height}");
        }
        assert_eq!([128, 129, 191, 192, 255, 256].map(flattened), [0, 64, 64, 128, 128, 192]);
    }
}
