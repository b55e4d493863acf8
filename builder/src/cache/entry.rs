//! A step of a cache as an image: the step's layer, and a second layer with its index. Plain documents, which every
//! registry takes; the record is an annotation, so that one request tells all.

use std::collections::BTreeMap;
use std::io::{Cursor, Read};
use std::path::Path;

use oci_spec::image::{Descriptor, MediaType};
use serde::{Deserialize, Serialize};
use serde_json::json;
use snapshot::digest::sha256;
use snapshot::{ChangeSink, Compression, Entry, Kind, Layer, LayerIndex, Metadata, Mtime, Store, Xattrs, layer};

use crate::graph::platform::Platform;
use crate::solve::cache::Record;

/// The annotation of a manifest that holds one step's record.
const RECORD: &str = "dev.rbuild.cache.record.v1";
/// The annotation of an image's manifest that holds the records of its own layers: definition key → record.
pub(crate) const RECORDS: &str = "dev.rbuild.cache.records.v1";
/// The file that holds the index, in its layer.
const INDEX: &str = "index";
/// Largest index, in bytes, compressed or not: some million files.
const INDEX_LIMIT: u64 = 512 << 20;

/// A manifest as it is read and written here.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Manifest {
    schema_version: u32,
    media_type: MediaType,
    config: Descriptor,
    layers: Vec<Descriptor>,
    #[serde(default)]
    annotations: BTreeMap<String, String>,
}

/// The documents of one image.
#[derive(Debug)]
pub(super) struct Document {
    pub(super) manifest: Vec<u8>,
    pub(super) config: Vec<u8>,
    pub(super) config_descriptor: Descriptor,
}

/// What was read of one manifest.
#[derive(Debug)]
pub(super) struct Told {
    pub(super) record: Record,
    pub(super) index: Option<Descriptor>,
}

/// Makes the documents of some layers; `annotation` is the one that says what they are.
fn document(layers: &[&Layer], created: &str, name: &str, annotation: Option<(&str, String)>) -> Document {
    let platform = Platform::host();
    let diff_ids: Vec<_> = layers.iter().map(|layer| layer.diff_id.clone()).collect();
    let history: Vec<_> = layers.iter().map(|_| json!({"created": created, "created_by": name})).collect();
    let config = json!({
        "architecture": platform.architecture,
        "os": platform.os,
        "created": created,
        "config": {},
        "rootfs": {"type": "layers", "diff_ids": diff_ids},
        "history": history,
    });
    let config = config.to_string().into_bytes();
    let config_descriptor = Descriptor::new(MediaType::ImageConfig, config.len() as u64, sha256(&config));
    let manifest = Manifest {
        schema_version: 2,
        media_type: MediaType::ImageManifest,
        config: config_descriptor.clone(),
        layers: layers.iter().map(|layer| layer.blob.clone()).collect(),
        annotations: annotation.map(|(key, value)| (key.to_owned(), value)).into_iter().collect(),
    };
    let manifest = serde_json::to_vec(&manifest).expect("a manifest is plain data");
    Document { manifest, config, config_descriptor }
}

/// The documents of a step whose layer is `layer`.
pub(super) fn write(record: &Record, layer: &Layer, index: Option<&Layer>) -> Document {
    let told = told(record);
    let text = serde_json::to_string(&told).expect("a record is plain data");
    let layers: Vec<&Layer> = std::iter::once(layer).chain(index).collect();
    document(&layers, &record.created, &record.name, Some((RECORD, text)))
}

/// The documents of what a cache mount has.
pub(super) fn write_mount(layer: &Layer, created: &str) -> Document {
    document(&[layer], created, "RUN --mount=type=cache", None)
}

/// The layer of a cache mount's manifest.
pub(super) fn read_mount(manifest: &[u8]) -> Option<Descriptor> {
    let manifest: Manifest = serde_json::from_slice(manifest).ok()?;
    manifest.layers.into_iter().next()
}

/// What of a record leaves the machine: the values of variables stay.
pub(super) fn told(record: &Record) -> Record {
    Record { fields: Vec::new(), ..record.clone() }
}

/// Reads the manifest of a step; none when it is not one, or contradicts itself.
pub(super) fn read(manifest: &[u8]) -> Option<Told> {
    let manifest: Manifest = serde_json::from_slice(manifest).ok()?;
    let record: Record = serde_json::from_str(manifest.annotations.get(RECORD)?).ok()?;
    let (blob, listed) = (&record.layer.as_ref()?.blob, manifest.layers.first()?);
    if blob.digest() != listed.digest() || blob.size() != listed.size() {
        return None;
    }
    Some(Told { record, index: manifest.layers.get(1).cloned() })
}

/// Reads the records that an image has of its own layers.
pub(super) fn read_inline(manifest: &[u8]) -> BTreeMap<String, Record> {
    let Ok(manifest) = serde_json::from_slice::<Manifest>(manifest) else { return BTreeMap::new() };
    let records = manifest.annotations.get(RECORDS).and_then(|text| serde_json::from_str(text).ok());
    let mut records: BTreeMap<String, Record> = records.unwrap_or_default();
    let listed = |layer: &Layer| manifest.layers.iter().any(|blob| blob.digest() == layer.blob.digest());
    records.retain(|_, record| record.layer.as_ref().is_some_and(listed));
    records
}

/// Writes an index as a layer into the store.
pub(super) fn pack_index(store: &Store, index: &LayerIndex) -> Result<Layer, snapshot::Error> {
    let bytes = index.encode();
    let metadata = Metadata { mode: 0o644, uid: 0, gid: 0, mtime: Mtime::default(), xattrs: Xattrs::new() };
    let entry = Entry { kind: Kind::File { size: bytes.len() as u64 }, metadata };
    let mut writer = store.layer_writer(Compression::default())?;
    writer.entry(Path::new(INDEX), &entry, &mut bytes.as_slice())?;
    Ok(writer.finish()?.0)
}

/// Reads an index from the bytes of its layer; none when it is not one.
pub(super) fn unpack_index(bytes: Vec<u8>) -> Option<LayerIndex> {
    let mut archive = tar::Archive::new(layer::decompress(Cursor::new(bytes), INDEX_LIMIT).ok()?);
    let mut entry = archive.entries().ok()?.next()?.ok()?;
    let mut index = Vec::new();
    entry.read_to_end(&mut index).ok()?;
    LayerIndex::decode(&index).ok()
}

/// Largest index that is fetched, in bytes.
pub(super) fn is_acceptable(index: &Descriptor) -> bool {
    index.size() <= INDEX_LIMIT
}

#[cfg(test)]
mod tests {
    use super::*;
    use snapshot::{Flavour, SnapshotId};

    fn record() -> Record {
        let blob = Descriptor::new(MediaType::ImageLayerGzip, 4_u64, sha256(b"blob"));
        Record {
            made: SnapshotId(sha256(b"made")),
            on: vec!["on".into()],
            layer: Some(Layer { diff_id: sha256(b"tar"), blob }),
            compression: Compression::default(),
            created: "2024-01-01T00:00:00Z".into(),
            name: "RUN true".into(),
            milliseconds: 7,
            content: None,
            fields: vec![crate::solve::key::Field { name: "variable".into(), value: "PASSWORD=x".into() }],
        }
    }

    #[test]
    fn a_record_comes_back_without_the_values_of_variables() {
        let record = record();
        let layer = record.layer.clone().unwrap();
        let document = write(&record, &layer, None);
        assert!(!String::from_utf8_lossy(&document.manifest).contains("PASSWORD"));
        assert_eq!(read(&document.manifest).unwrap().record, Record { fields: Vec::new(), ..record });
    }

    #[test]
    fn a_manifest_that_contradicts_itself_is_no_record() {
        let record = record();
        let other = Layer {
            blob: Descriptor::new(MediaType::ImageLayerGzip, 5_u64, sha256(b"other")),
            ..record.layer.clone().unwrap()
        };
        assert!(read(&write(&record, &other, None).manifest).is_none());
        assert!(read(b"{}").is_none());
        assert!(read(b"").is_none());
        assert!(read_inline(b"[]").is_empty());
    }

    #[test]
    fn an_index_travels_in_a_layer() {
        let root = tempfile::tempdir().unwrap();
        let store = Store::open(root.path(), Flavour::Plain).unwrap();
        let index = LayerIndex::default();
        let layer = pack_index(&store, &index).unwrap();
        let mut bytes = Vec::new();
        store.blobs().open(layer.blob.digest()).unwrap().read_to_end(&mut bytes).unwrap();
        assert_eq!(unpack_index(bytes), Some(index));
        assert_eq!(unpack_index(b"nonsense".to_vec()), None);
    }
}
