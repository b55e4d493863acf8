//! A cache in an OCI layout. `index.json` names the manifests by `org.opencontainers.image.ref.name`, like any layout's;
//! whoever changes it holds the lock (flock) of `.lock`, and everything is written whole and then renamed.

use std::collections::BTreeMap;
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};

use oci_spec::image::{Descriptor, Digest, MediaType};
use rustix::fs::FlockOperation;
use serde_json::{Value, json};
use snapshot::digest::sha256;

use super::place::PlaceError;
use crate::whole;

/// Largest document of a layout, in bytes: an index of some hundred thousand steps.
const DOCUMENT_LIMIT: u64 = 64 << 20;
/// The annotation that names a manifest of a layout (OCI image spec, annotations.md).
const REF_NAME: &str = "org.opencontainers.image.ref.name";

/// The manifest with a tag; none when there is none.
pub(super) fn manifest(layout: &Path, tag: &str) -> Result<Option<Vec<u8>>, PlaceError> {
    let index = index(layout)?;
    let Some(digest) = index.get(tag) else { return Ok(None) };
    let bytes = limited(fs_err::File::open(blob_path(layout, digest))?)?;
    if sha256(&bytes) != *digest {
        return Err(PlaceError::Damaged { digest: digest.clone() });
    }
    Ok(Some(bytes))
}

/// Writes the bytes of a blob into `out`, which has to verify them.
pub(super) fn read_blob(layout: &Path, blob: &Descriptor, out: &mut dyn Write) -> Result<(), PlaceError> {
    let file = fs_err::File::open(blob_path(layout, blob.digest()))?;
    io::copy(&mut file.take(blob.size().saturating_add(1)), out)?;
    Ok(())
}

/// Makes the layout have a blob; returns the bytes that were written for it.
pub(super) fn write_blob(
    layout: &Path,
    blob: &Descriptor,
    open: &dyn Fn() -> io::Result<Box<dyn Read + Send>>,
) -> Result<u64, PlaceError> {
    let target = blob_path(layout, blob.digest());
    if target.exists() {
        return Ok(0);
    }
    fs_err::create_dir_all(layout.join("blobs/sha256"))?;
    whole::copy(&target, &mut open()?)?;
    Ok(blob.size())
}

/// Gives a manifest its tags.
pub(super) fn write_manifest(layout: &Path, tags: &[String], bytes: &[u8]) -> Result<(), PlaceError> {
    fs_err::create_dir_all(layout.join("blobs/sha256"))?;
    whole::copy(&blob_path(layout, &sha256(bytes)), &mut &*bytes)?;
    add_to_index(layout, tags, bytes)
}

fn blob_path(layout: &Path, digest: &Digest) -> PathBuf {
    layout.join("blobs").join(digest.algorithm().as_ref()).join(digest.digest())
}

fn limited(file: impl Read) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    let read = file.take(DOCUMENT_LIMIT + 1).read_to_end(&mut bytes)?;
    if read as u64 > DOCUMENT_LIMIT { Err(io::ErrorKind::FileTooLarge.into()) } else { Ok(bytes) }
}

/// Tag → digest of the manifest. A layout that is not there is empty.
fn index(layout: &Path) -> Result<BTreeMap<String, Digest>, PlaceError> {
    let value = index_document(layout)?;
    let manifests = value["manifests"].as_array().cloned().unwrap_or_default();
    let named = manifests.iter().filter_map(|manifest| {
        let name = manifest["annotations"][REF_NAME].as_str()?;
        Some((name.to_owned(), manifest["digest"].as_str()?.parse().ok()?))
    });
    Ok(named.collect())
}

fn index_document(layout: &Path) -> Result<Value, PlaceError> {
    let path = layout.join("index.json");
    let file = match fs_err::File::open(&path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(json!({})),
        file => file?,
    };
    serde_json::from_slice(&limited(file)?).map_err(|source| PlaceError::Index { path, source })
}

fn add_to_index(layout: &Path, tags: &[String], manifest: &[u8]) -> Result<(), PlaceError> {
    let mut options = fs_err::OpenOptions::new();
    let lock = options.write(true).create(true).truncate(false).open(layout.join(".lock"))?;
    rustix::fs::flock(&lock, FlockOperation::LockExclusive).map_err(io::Error::from)?;
    let index = index_document(layout)?;
    let mut manifests = index["manifests"].as_array().cloned().unwrap_or_default();
    manifests
        .retain(|known| known["annotations"][REF_NAME].as_str().is_none_or(|name| !tags.iter().any(|tag| tag == name)));
    manifests.extend(tags.iter().map(|tag| {
        json!({
            "mediaType": MediaType::ImageManifest,
            "digest": sha256(manifest),
            "size": manifest.len(),
            "annotations": { REF_NAME: tag },
        })
    }));
    let index = json!({"schemaVersion": 2, "mediaType": MediaType::ImageIndex, "manifests": manifests});
    whole::copy(&layout.join("index.json"), &mut index.to_string().as_bytes())?;
    whole::copy(&layout.join("oci-layout"), &mut br#"{"imageLayoutVersion":"1.0.0"}"#.as_slice())?;
    Ok(())
}
