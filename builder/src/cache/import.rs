//! Looking steps up, and fetching what of them is needed. A step that is found costs one request, all of them one round
//! trip: the image that a cache's name may be of is asked for only when something is missing.

use std::collections::{BTreeMap, HashMap};
use std::convert::Infallible;
use std::io::Write;
use std::sync::atomic::Ordering;

use oci_spec::image::Descriptor;
use snapshot::{Layer, LayerIndex};

use crate::parallel;
use crate::solve::World;
use crate::solve::cache::Record;
use crate::solve::key::CacheKey;

use super::place::{Place, PlaceError};
use super::{Caches, Imported, Origin, Source, entry, give_up};

/// Look-ups in flight: each is one small request.
const CONCURRENT_LOOKUPS: usize = 16;

/// The tag of a key.
pub(super) fn tag(key: &CacheKey) -> String {
    format!("k-{}", key.hex())
}

impl Caches {
    /// Looks keys up, all at the same time; in one cache after the other, as long as some are missing.
    pub(crate) fn find(&self, world: &World<'_>, keys: &[&CacheKey]) -> HashMap<CacheKey, Imported> {
        let mut found = HashMap::new();
        for source in &self.from {
            let mut missing = keys.to_vec();
            missing.retain(|key| !found.contains_key(*key));
            if missing.is_empty() {
                break;
            }
            found.extend(source.find(world, &missing));
        }
        found
    }
}

impl Source {
    /// Looks keys up: each under its own tag, and what is missing then in the image that the cache's name is of.
    fn find(&self, world: &World<'_>, keys: &[&CacheKey]) -> HashMap<CacheKey, Imported> {
        let look_up = |key: &&CacheKey| Ok::<_, Infallible>(self.ask(world, |place| tagged(world, place, key)));
        let Ok(answers) = parallel::each(keys, CONCURRENT_LOOKUPS, look_up);
        let answers = keys.iter().zip(answers);
        let mut found: HashMap<_, _> = answers.filter_map(|(&key, found)| Some((key.clone(), found?))).collect();
        if found.len() < keys.len() {
            let records = self.inline.get_or_init(|| self.ask(world, |place| inline(world, place)).unwrap_or_default());
            for (key, record) in keys.iter().filter_map(|key| Some((*key, records.get(&key.hex())?))) {
                let origin = || Origin { place: self.place.clone(), index: None, tag: None };
                found.entry(key.clone()).or_insert_with(|| Imported { record: record.clone(), origin: origin() });
            }
        }
        found
    }

    /// Asks the cache for something, unless it failed before or fails now.
    fn ask<T>(&self, world: &World<'_>, read: impl FnOnce(&Place) -> Result<Option<T>, PlaceError>) -> Option<T> {
        if self.given_up.load(Ordering::Relaxed) || world.cancel.is_cancelled() {
            return None;
        }
        read(&self.place).unwrap_or_else(|error| {
            give_up(world, &self.given_up, "read", &self.place, &error);
            None
        })
    }
}

/// What a place has under the tag of a key.
fn tagged(world: &World<'_>, place: &Place, key: &CacheKey) -> Result<Option<Imported>, PlaceError> {
    let tag = tag(key);
    let manifest = place.manifest(world.client, &tag)?;
    let told = manifest.map(|bytes| counted(world, bytes)).and_then(|bytes| entry::read(&bytes));
    Ok(told.map(|told| {
        let origin = Origin { place: place.clone(), index: told.index, tag: Some(tag) };
        Imported { record: told.record, origin }
    }))
}

/// The records in the manifest that a place itself names.
fn inline(world: &World<'_>, place: &Place) -> Result<Option<BTreeMap<String, Record>>, PlaceError> {
    let manifest = place.own_manifest(world.client)?;
    Ok(manifest.map(|bytes| counted(world, bytes)).map(|bytes| entry::read_inline(&bytes)))
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
