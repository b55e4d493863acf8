//! The names of images in the store: one record a name.

use std::collections::BTreeMap;

use jiff::Timestamp;
use oci_spec::image::Descriptor;
use serde::{Deserialize, Serialize};
use snapshot::digest::sha256;
use snapshot::{Layer, Store};

use crate::image::Image;

/// Which kind of record the store keeps them as.
const KIND: &str = "tags";

/// What a name stands for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tag {
    /// The name, canonical.
    pub name: String,
    /// The image's manifest.
    pub manifest: Descriptor,
    /// The image's config.
    pub config: Descriptor,
    /// The image's layers: what keeps their blobs from being pruned.
    pub layers: Vec<Layer>,
    /// Where layers come from that were pulled, by their blob's digest: a build that fetches no layer leaves it there.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub origins: BTreeMap<String, String>,
    /// When the name was given, RFC 3339.
    pub tagged: String,
}

/// Gives an image a name; the name's earlier image loses it.
pub fn put(store: &Store, name: &registry::Reference, image: &Image) -> Result<(), snapshot::Error> {
    put_with_origins(store, name, image, &BTreeMap::new())
}

/// As [`put`], for an image some of whose layers may still be where they were found.
pub fn put_with_origins(
    store: &Store,
    name: &registry::Reference,
    image: &Image,
    origins: &BTreeMap<String, String>,
) -> Result<(), snapshot::Error> {
    let tag = Tag {
        name: name.whole(),
        manifest: image.descriptor.clone(),
        config: image.config_descriptor.clone(),
        layers: image.layers.clone(),
        origins: origins.clone(),
        tagged: Timestamp::now().to_string(),
    };
    let bytes = serde_json::to_vec(&tag).expect("a tag is plain data");
    store.put_record(KIND, &key(&tag.name), &bytes)
}

/// All names, sorted.
pub fn list(store: &Store) -> Result<Vec<Tag>, snapshot::Error> {
    let mut tags: Vec<Tag> = store
        .record_keys(KIND)?
        .iter()
        .filter_map(|key| store.peek_record(KIND, key))
        .filter_map(|bytes| serde_json::from_slice(&bytes).ok())
        .collect();
    tags.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(tags)
}

/// A name may hold what a file name may not.
pub(crate) fn key(name: &str) -> String {
    sha256(name.as_bytes()).digest().to_owned()
}
