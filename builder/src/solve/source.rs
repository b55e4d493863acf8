//! Layers of images: fetched, verified and unpacked, several at once, each into its own directory.

use std::io::{self, Read};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use oci_spec::image::Digest;
use snapshot::digest::HashingReader;
use snapshot::{Layer, Unpacked, View, layer};

use crate::graph::PinnedImage;
use crate::layout;

use super::World;
use super::error::Cause;
use super::tree::TreeLayer;

/// Layers in flight at a time: enough to keep two cores decompressing while others wait for the network.
const CONCURRENT_LAYERS: usize = 4;

/// Makes sure that every layer of an image has its directory and its index. The caller holds the image's lock.
pub(super) fn unpack(world: &World<'_>, image: &PinnedImage, layers: &[Arc<TreeLayer>]) -> Result<(), Cause> {
    let Some(top) = layers.last() else { return Ok(()) };
    // Another process may be at it: it is pulled once.
    let lock = world.store.lock(&format!("image-{}", top.id().0.digest()), &|| world.cancel.is_cancelled())?;
    let _lock = lock.ok_or(Cause::Cancelled)?;
    let present: Vec<bool> =
        layers.iter().map(|layer| layer.snapshot(world).is_some() && layer.stored_index(world).is_some()).collect();
    let next = AtomicUsize::new(0);
    let unpacked: Vec<Mutex<Option<Result<Unpacked, Cause>>>> = layers.iter().map(|_| Mutex::new(None)).collect();
    std::thread::scope(|scope| {
        for _ in 0..CONCURRENT_LAYERS.min(layers.len()) {
            scope.spawn(|| {
                loop {
                    let position = next.fetch_add(1, Ordering::Relaxed);
                    let Some(slot) = unpacked.get(position) else { return };
                    if !present[position] {
                        let result = unpack_one(world, image, &image.layers[position]);
                        *slot.lock().unwrap_or_else(PoisonError::into_inner) = Some(result);
                    }
                }
            });
        }
    });
    let (mut view, mut dirs) = (View::default(), Vec::new());
    for (layer, slot) in layers.iter().zip(unpacked) {
        if let Some(result) = slot.into_inner().unwrap_or_else(PoisonError::into_inner) {
            let unpacked = result?;
            layer.keep_index(world, Arc::clone(unpacked.index()))?;
            layer.keep_snapshot(unpacked.settle(&view, &dirs, layer.id())?);
        }
        view.push(layer.stored_index(world).expect("present, or just kept"));
        dirs.push(layer.snapshot(world).expect("present, or just kept").dir.clone());
    }
    Ok(())
}

fn unpack_one(world: &World<'_>, image: &PinnedImage, layer: &Layer) -> Result<Unpacked, Cause> {
    fetch(world, image, layer)?;
    let blob = world.store.blobs().open(layer.blob.digest())?;
    let mut tar = HashingReader::new(layer::decompress(blob, layer::Limits::default().bytes)?);
    let snapshots = world.store.snapshots();
    let unpacked = snapshot::unpack(&mut tar, snapshots.prepare()?, snapshots.flavour())?;
    // The digest is of the whole stream, and tar ends before it does.
    io::copy(&mut tar.by_ref(), &mut io::sink())?;
    same(image, &layer.diff_id, &tar.finish())?;
    Ok(unpacked)
}

fn same(image: &PinnedImage, expected: &Digest, found: &Digest) -> Result<(), Cause> {
    if expected == found {
        return Ok(());
    }
    let reference = image.reference.whole();
    Err(Cause::DiffId { reference, expected: expected.to_string(), found: found.to_string() })
}

/// Makes sure that the store has the blob of an image's layer.
pub(crate) fn fetch(world: &World<'_>, image: &PinnedImage, layer: &Layer) -> Result<(), Cause> {
    let (digest, size) = (layer.blob.digest(), layer.blob.size());
    if world.store.blobs().has(digest) == Some(size) {
        return Ok(());
    }
    if let Some(path) = &image.layout {
        let mut file = layout::open(path, digest).map_err(|source| Cause::Layout(Box::new(source)))?;
        world.store.blobs().ingest(Some((digest, size)), &mut file)?;
        return Ok(());
    }
    let mut writer = world.store.blobs().writer()?;
    world
        .client
        .pull_blob(&image.reference, &layer.blob, &mut writer)
        .map_err(|source| Cause::Fetch { reference: image.reference.whole(), source: Box::new(source) })?;
    writer.commit(Some((digest, size)))?;
    Ok(())
}
