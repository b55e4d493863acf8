//! `type=inline`: the records of an image's own layers in its own manifest.

use std::collections::BTreeMap;

use oci_spec::image::Descriptor;
use serde_json::Value;
use snapshot::digest::sha256;

use crate::image::Image;
use crate::solve::cache::Record;
use crate::solve::key::CacheKey;

use super::entry::{self, RECORDS};

/// Adds records to an image's manifest, which gets another digest by that; its config stays.
pub fn annotate(image: &mut Image, records: &[(CacheKey, Record)]) {
    let told: BTreeMap<String, Record> = records.iter().map(|(key, record)| (key.hex(), entry::told(record))).collect();
    let text = serde_json::to_string(&told).expect("records are plain data");
    let mut manifest: Value = serde_json::from_slice(&image.manifest).expect("it was made as JSON");
    manifest["annotations"][RECORDS] = text.into();
    image.manifest = manifest.to_string().into_bytes();
    let media_type = image.descriptor.media_type().clone();
    image.descriptor = Descriptor::new(media_type, image.manifest.len() as u64, sha256(&image.manifest));
}
