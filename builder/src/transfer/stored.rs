//! Into rbuild's store: the blobs, and a name for the image.

use std::io::Write;

use oci_spec::image::{Digest, MediaType};
use registry::Reference;
use serde::Deserialize;
use snapshot::Layer;

use super::{Machine, Parts, Source, TransferError, each, short};
use crate::export::tags;
use crate::image::Image;

/// As much of a config as the store wants to know.
#[derive(Deserialize)]
struct Config {
    rootfs: RootFs,
}

#[derive(Deserialize)]
struct RootFs {
    diff_ids: Vec<Digest>,
}

pub(super) fn write(
    machine: &Machine<'_>,
    source: &Source<'_>,
    parts: &Parts,
    name: &Reference,
) -> Result<(), TransferError> {
    let store = machine.store.ok_or_else(|| TransferError::NoStore { place: format!("store:{}", name.whole()) })?;
    let image = image(source, parts)?;
    each(&parts.blobs, |blob| -> Result<(), TransferError> {
        if store.blobs().has(blob.digest()) == Some(blob.size()) {
            return Ok(());
        }
        let mut out = store.blobs().writer()?;
        source.write(blob, &mut out as &mut dyn Write)?;
        out.commit(Some((blob.digest(), blob.size())))?;
        machine.step.note(format_args!("{} pulled", short(blob)));
        Ok(())
    })?;
    store.blobs().ingest(None, &mut image.manifest.as_slice())?;
    Ok(tags::put(store, name, &image)?)
}

/// The image as the store knows images.
fn image(source: &Source<'_>, parts: &Parts) -> Result<Image, TransferError> {
    let manifest = parts.image().ok_or_else(|| source.wrong("the store holds images, and this is an index".into()))?;
    let config = source.document(manifest.config())?;
    let parsed: Config = serde_json::from_slice(&config)
        .map_err(|error| source.wrong(format!("its config is no image config: {error}")))?;
    let diff_ids = parsed.rootfs.diff_ids;
    if diff_ids.len() != manifest.layers().len() {
        let (layers, count) = (manifest.layers().len(), diff_ids.len());
        return Err(source.wrong(format!("its manifest has {layers} layers and its config {count}")));
    }
    if manifest.layers().iter().any(|layer| matches!(layer.media_type(), MediaType::ImageLayerNonDistributable)) {
        return Err(source.wrong("it has a layer that may not be distributed".into()));
    }
    let layers = manifest.layers().iter().zip(diff_ids);
    let layers = layers.map(|(blob, diff_id)| Layer { diff_id, blob: blob.clone() }).collect();
    let (descriptor, bytes) = parts.documents.last().cloned().expect("there is a root");
    Ok(Image { descriptor, manifest: bytes, config_descriptor: manifest.config().clone(), config, layers })
}
