//! Archives of `docker save` that are no OCI layouts: `manifest.json` names a config and layers, and nothing has a
//! digest. A manifest is made for each image; its layers stay as they are.

use std::collections::HashMap;
use std::io::{self, Read};
use std::path::Path;

use oci_spec::image::{Descriptor, Digest, MediaType};
use serde::Deserialize;
use serde_json::json;
use snapshot::digest::{HashingReader, sha256};

use super::files::Files;
use super::{Blob, DOCUMENT_LIMIT, LayoutError, REF_NAME, limited, parse};

/// An entry of `manifest.json`.
#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(crate) struct Saved {
    pub(crate) config: String,
    #[serde(default)]
    pub(crate) repo_tags: Option<Vec<String>>,
    pub(crate) layers: Vec<String>,
}

/// Reads the images of an archive: a descriptor for each of their names, and the blobs that they are made of.
pub(super) fn read(path: &Path, files: &Files) -> Result<(Vec<Descriptor>, HashMap<Digest, Blob>), LayoutError> {
    let failed = |source| LayoutError::Read { path: path.to_owned(), source };
    let text = files.open("manifest.json").and_then(|file| limited(file, DOCUMENT_LIMIT)).map_err(failed)?;
    let saved: Vec<Saved> = parse(path, "manifest.json", &text)?;
    let (mut images, mut blobs) = (Vec::new(), HashMap::new());
    for saved in saved {
        let config = files.open(&saved.config).and_then(|file| limited(file, DOCUMENT_LIMIT)).map_err(failed)?;
        let config_descriptor = Descriptor::new(MediaType::ImageConfig, config.len() as u64, sha256(&config));
        blobs.insert(config_descriptor.digest().clone(), Blob::Made(config));
        let mut layers = Vec::new();
        for name in saved.layers {
            let layer = describe(files, &name).map_err(failed)?;
            blobs.insert(layer.digest().clone(), Blob::Named(name));
            layers.push(layer);
        }
        let manifest = manifest(&config_descriptor, &layers);
        let descriptor = Descriptor::new(MediaType::ImageManifest, manifest.len() as u64, sha256(&manifest));
        blobs.insert(descriptor.digest().clone(), Blob::Made(manifest));
        let names = saved.repo_tags.unwrap_or_default();
        if names.is_empty() {
            images.push(descriptor);
            continue;
        }
        for name in names {
            let mut image = descriptor.clone();
            image.set_annotations(Some([(REF_NAME.to_owned(), name)].into()));
            images.push(image);
        }
    }
    Ok((images, blobs))
}

/// The manifest of an image that has none.
pub(crate) fn manifest(config: &Descriptor, layers: &[Descriptor]) -> Vec<u8> {
    let media_type = MediaType::ImageManifest;
    let manifest = json!({"schemaVersion": 2, "mediaType": media_type, "config": config, "layers": layers});
    manifest.to_string().into_bytes()
}

/// Digests a layer and sees how it is compressed.
fn describe(files: &Files, name: &str) -> io::Result<Descriptor> {
    let mut reader = HashingReader::new(files.open(name)?);
    let mut magic = Vec::new();
    reader.by_ref().take(4).read_to_end(&mut magic)?;
    let media_type = match magic.as_slice() {
        [0x1f, 0x8b, ..] => MediaType::ImageLayerGzip,
        [0x28, 0xb5, 0x2f, 0xfd] => MediaType::ImageLayerZstd,
        _ => MediaType::ImageLayer,
    };
    io::copy(&mut reader, &mut io::sink())?;
    let size = reader.bytes;
    Ok(Descriptor::new(media_type, size, reader.finish()))
}
