//! Looking steps up, and fetching what of them is needed.

use std::collections::HashMap;
use std::io::Write;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use oci_spec::image::Descriptor;
use snapshot::{Layer, LayerIndex};

use crate::solve::World;
use crate::solve::key::CacheKey;

use super::place::{Place, PlaceError};
use super::{Caches, Imported, Origin, Source, entry, give_up, lock};

/// Look-ups in flight: each is one small request.
const CONCURRENT_LOOKUPS: usize = 16;

/// The tag of a key.
pub(super) fn tag(key: &CacheKey) -> String {
    format!("k-{}", key.hex())
}

impl Caches {
    /// Looks keys up, all at the same time.
    pub(crate) fn find(&self, world: &World<'_>, keys: &[&CacheKey]) -> HashMap<CacheKey, Imported> {
        if !self.can_import() || keys.is_empty() {
            return HashMap::new();
        }
        let found = Mutex::new(HashMap::new());
        let next = AtomicUsize::new(0);
        std::thread::scope(|scope| {
            for _ in 0..CONCURRENT_LOOKUPS.min(keys.len()) {
                scope.spawn(|| {
                    while let Some(key) = keys.get(next.fetch_add(1, Ordering::Relaxed)) {
                        if let Some(imported) = self.from.iter().find_map(|source| look_up(world, source, key)) {
                            lock(&found).insert((*key).clone(), imported);
                        }
                    }
                });
            }
        });
        found.into_inner().unwrap_or_default()
    }
}

fn look_up(world: &World<'_>, source: &Source, key: &CacheKey) -> Option<Imported> {
    if source.given_up.load(Ordering::Relaxed) || world.cancel.is_cancelled() {
        return None;
    }
    let found = try_look_up(world, source, key);
    found.unwrap_or_else(|error| {
        give_up(world, &source.given_up, "read", &source.place, &error);
        None
    })
}

fn try_look_up(world: &World<'_>, source: &Source, key: &CacheKey) -> Result<Option<Imported>, PlaceError> {
    let place = &source.place;
    if source.inline.get().is_none() {
        // Asked twice by look-ups that begin at the same time: that costs less than making them wait.
        let manifest = place.own_manifest(world.client)?;
        let records = manifest.map(|bytes| counted(world, bytes)).map(|bytes| entry::read_inline(&bytes));
        source.inline.get_or_init(|| records.unwrap_or_default());
    }
    let inline = source.inline.get().and_then(|records| records.get(&key.hex()));
    if let Some(record) = inline {
        let origin = Origin { place: place.clone(), index: None };
        return Ok(Some(Imported { record: record.clone(), origin }));
    }
    let manifest = place.manifest(world.client, &tag(key))?;
    let told = manifest.map(|bytes| counted(world, bytes)).and_then(|bytes| entry::read(&bytes));
    Ok(told.map(|told| Imported { record: told.record, origin: Origin { place: place.clone(), index: told.index } }))
}

fn counted(world: &World<'_>, bytes: Vec<u8>) -> Vec<u8> {
    world.reporter.totals().down.fetch_add(bytes.len() as u64, Ordering::Relaxed);
    bytes
}

impl Origin {
    /// Makes sure that the store has the blob of a layer.
    pub(crate) fn fetch(&self, world: &World<'_>, layer: &Layer) -> Result<(), PlaceError> {
        fetch(world, &self.place, &layer.blob)
    }

    /// The index of the layer; none when the cache does not have it.
    pub(crate) fn fetch_index(&self, world: &World<'_>) -> Option<LayerIndex> {
        let blob = self.index.as_ref().filter(|blob| entry::is_acceptable(blob))?;
        let mut bytes = Vec::new();
        // Without it the layer is fetched, whose index is the same.
        fetch(world, &self.place, blob).ok()?;
        let mut file = world.store.blobs().open(blob.digest()).ok()?;
        std::io::Read::read_to_end(&mut file, &mut bytes).ok()?;
        entry::unpack_index(bytes)
    }
}

/// Makes sure that the store has a blob of a place.
pub(super) fn fetch(world: &World<'_>, place: &Place, blob: &Descriptor) -> Result<(), PlaceError> {
    let (digest, size) = (blob.digest(), blob.size());
    if world.store.blobs().has_verified(digest, size) {
        return Ok(());
    }
    let mut writer = world.store.blobs().writer()?;
    place.read_blob(world.client, blob, &mut writer)?;
    writer.flush()?;
    writer.commit(Some((digest, size)))?;
    world.reporter.totals().down.fetch_add(size, Ordering::Relaxed);
    Ok(())
}
