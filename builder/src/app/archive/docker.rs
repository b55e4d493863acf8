//! Archives of `docker save`, which Convox's second version exported: a config and layers by path, images by their tags.

use std::collections::BTreeMap;
use std::io::Read;
use std::path::{Component, Path};

use flate2::read::MultiGzDecoder;
use oci_spec::image::{Descriptor, Digest, MediaType};
use snapshot::Store;
use snapshot::digest::HashingReader;

use super::ArchiveError;
use super::import::parse;
use crate::app::transfer::{self, WholeImage};
use crate::graph::config::ImageConfig;
use crate::layout::docker::{Saved, manifest};

/// The largest config, in bytes.
const CONFIG_LIMIT: u64 = 8 << 20;
/// Most links that lead to a file.
const LINKS: usize = 8;

/// The files of an image archive; their bytes are in the store.
#[derive(Debug, Default)]
pub(super) struct Files {
    /// Digest and size by path.
    pub(super) names: BTreeMap<String, (Digest, u64)>,
    /// Links to other paths.
    pub(super) links: BTreeMap<String, String>,
}

impl Files {
    fn find(&self, name: &str) -> Option<&(Digest, u64)> {
        let mut name = normal(Path::new(name));
        for _ in 0..LINKS {
            if let Some(found) = self.names.get(&name) {
                return Some(found);
            }
            name.clone_from(self.links.get(&name)?);
        }
        None
    }
}

/// A path without `.` and `..`.
pub(super) fn normal(path: &Path) -> String {
    let mut parts = Vec::new();
    for component in path.components() {
        match component {
            Component::Normal(part) => parts.push(part.to_string_lossy()),
            Component::ParentDir => _ = parts.pop(),
            _ => {}
        }
    }
    parts.join("/")
}

/// The images by service: a tag is `<service>.<build>`.
pub(super) fn images(
    store: &Store,
    path: &Path,
    document: &[u8],
    files: &Files,
) -> Result<Vec<(String, WholeImage)>, ArchiveError> {
    let saved: Vec<Saved> = parse("manifest.json", document)?;
    let mut images = Vec::new();
    for saved in &saved {
        let image = image(store, path, saved, files)?;
        for tag in saved.repo_tags.iter().flatten() {
            let tag = tag.rsplit_once(':').map_or("", |(_, tag)| tag);
            let service = tag.split('.').next().unwrap_or_default();
            if !service.is_empty() {
                images.push((service.to_owned(), image.clone()));
            }
        }
    }
    if images.is_empty() {
        let problem = "without a tag that names a service";
        return Err(ArchiveError::NotAnImage { path: path.to_owned(), problem });
    }
    Ok(images)
}

/// Makes an OCI image of one entry; the layers have to be what the config says.
fn image(store: &Store, path: &Path, saved: &Saved, files: &Files) -> Result<WholeImage, ArchiveError> {
    let find = |name: &str| {
        let missing = || ArchiveError::Missing { path: path.to_owned(), digest: name.to_owned() };
        files.find(name).cloned().ok_or_else(missing)
    };
    let (config, config_size) = find(&saved.config)?;
    let parsed: ImageConfig = parse(&saved.config, &store.blobs().read(&config, CONFIG_LIMIT)?)?;
    if parsed.rootfs.diff_ids.len() != saved.layers.len() {
        let problem = "an image whose config has another number of layers than its manifest";
        return Err(ArchiveError::NotAnImage { path: path.to_owned(), problem });
    }
    let mut layers = Vec::new();
    for (name, diff_id) in saved.layers.iter().zip(&parsed.rootfs.diff_ids) {
        let (digest, size) = find(name)?;
        let media_type = layer_type(store, &digest, diff_id).map_err(|source| ArchiveError::Damaged {
            path: path.to_owned(),
            name: name.clone(),
            source: Box::new(source),
        })?;
        layers.push(Descriptor::new(media_type, size, digest));
    }
    let config = Descriptor::new(MediaType::ImageConfig, config_size, config);
    let bytes = manifest(&config, &layers);
    let (digest, size) = store.blobs().ingest(None, &mut bytes.as_slice())?;
    Ok(transfer::stored(store, Descriptor::new(MediaType::ImageManifest, size, digest))?)
}

/// The media type of a layer, whose bytes have to be those that the config names.
fn layer_type(store: &Store, digest: &Digest, diff_id: &Digest) -> Result<MediaType, snapshot::Error> {
    if digest == diff_id {
        return Ok(MediaType::ImageLayer);
    }
    let mut tar = HashingReader::new(MultiGzDecoder::new(store.blobs().open(digest)?));
    std::io::copy(&mut tar.by_ref(), &mut std::io::sink()).map_err(snapshot::Error::Incoming)?;
    let found = tar.finish();
    if found == *diff_id {
        Ok(MediaType::ImageLayerGzip)
    } else {
        Err(snapshot::Error::DigestMismatch { expected: diff_id.clone(), found })
    }
}
