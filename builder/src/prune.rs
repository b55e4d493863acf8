//! Removing what the store need not keep.

use snapshot::store::Referenced;
use snapshot::{Error, Store};

use crate::app::records;
use crate::export::tags;
use crate::solve::cache;

/// What stays.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Keep {
    /// The images that have a name, and the content of cache mounts.
    Images,
    /// Nothing.
    Nothing,
}

/// Removes cached steps, unpacked layers and the blobs of unnamed images. Returns the bytes freed.
pub fn prune(store: &Store, keep: Keep) -> Result<u64, Error> {
    let mut kept = Referenced { mounts: keep == Keep::Images, ..Referenced::default() };
    match keep {
        Keep::Images => {
            for tag in tags::list(store)? {
                kept.blobs.extend([tag.manifest.digest().clone(), tag.config.digest().clone()]);
                kept.blobs.extend(tag.layers.iter().map(|layer| layer.blob.digest().clone()));
            }
            // The images of apps that are nowhere else.
            kept.blobs.extend(records::kept_blobs(store.path().parent().unwrap_or(store.path())));
        }
        Keep::Nothing => tags::clear(store)?,
    }
    // Records first: a step must not be found whose layer is gone.
    cache::clear(store)?;
    store.remove_unreferenced(&kept)
}
