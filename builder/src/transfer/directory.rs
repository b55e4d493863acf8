//! Into an OCI layout in a directory; one that is there gains the image and loses none.

use std::collections::HashMap;
use std::io::Write;
use std::path::Path;

use oci_spec::image::Descriptor;
use serde_json::{Value, json};
use snapshot::digest::HashingReader;

use super::{Machine, Parts, Source, TransferError, each, short};
use crate::export::archive::{blob_path, merged_index};
use crate::whole;

/// The annotation that holds a tag (OCI image spec, `annotations.md`).
const REF_NAME: &str = "org.opencontainers.image.ref.name";
/// The annotation that holds a whole name: containerd, and so docker, and podman look for it.
const WHOLE_NAME: &str = "io.containerd.image.name";

pub(super) fn write(
    machine: &Machine<'_>,
    source: &Source<'_>,
    parts: &Parts,
    path: &Path,
    tag: Option<&str>,
) -> Result<(), TransferError> {
    let failed = |source| TransferError::Write { path: path.to_owned(), source };
    fs_err::create_dir_all(path.join("blobs/sha256")).map_err(failed)?;
    for descriptor in parts.blobs.iter().chain(parts.documents.iter().map(|(descriptor, _)| descriptor)) {
        let directory = path.join("blobs").join(descriptor.digest().algorithm().as_ref());
        fs_err::create_dir_all(directory).map_err(failed)?;
    }
    each(&parts.blobs, |blob| -> Result<(), TransferError> {
        let target = path.join(blob_path(blob.digest()));
        if has(&target, blob) {
            return Ok(());
        }
        replace(&target, |out| source.write(blob, out))?;
        machine.step.note(format_args!("{} written", short(blob)));
        Ok(())
    })?;
    let put = |name: &str, bytes: &[u8]| {
        let target = path.join(name);
        let failed = |source| TransferError::Write { path: target.clone(), source };
        replace(&target, |out| out.write_all(bytes).map_err(failed))
    };
    for (descriptor, bytes) in &parts.documents {
        put(&blob_path(descriptor.digest()), bytes)?;
    }
    put("oci-layout", &marker())?;
    let index = path.join("index.json");
    let merged = merged_index(&index, &index_of(parts.root(), tag, None)).map_err(failed)?;
    put("index.json", &merged)
}

/// The file that says what the directory is.
pub(super) fn marker() -> Vec<u8> {
    json!({ "imageLayoutVersion": "1.0.0" }).to_string().into_bytes()
}

/// An index with one image, which has a tag or also a whole name.
pub(super) fn index_of(root: &Descriptor, tag: Option<&str>, name: Option<&str>) -> Vec<u8> {
    let mut named = root.clone();
    let annotations: HashMap<String, String> = [(REF_NAME, tag), (WHOLE_NAME, name)]
        .into_iter()
        .filter_map(|(key, value)| Some((key.to_owned(), value?.to_owned())))
        .collect();
    // What another index said of it is not true of this one.
    named.set_annotations((!annotations.is_empty()).then_some(annotations));
    let named = serde_json::to_value(named).expect("a descriptor is plain data");
    let media_type = "application/vnd.oci.image.index.v1+json";
    let index: Value = json!({"schemaVersion": 2, "mediaType": media_type, "manifests": [named]});
    index.to_string().into_bytes()
}

/// Whether a file has a blob's bytes already.
fn has(path: &Path, blob: &Descriptor) -> bool {
    let Ok(file) = fs_err::File::open(path) else { return false };
    if !file.metadata().is_ok_and(|metadata| metadata.len() == blob.size()) {
        return false;
    }
    let mut reader = HashingReader::new(file);
    std::io::copy(&mut reader, &mut std::io::sink()).is_ok() && reader.finish() == *blob.digest()
}

/// Writes a file whole or not at all.
pub(super) fn replace(
    path: &Path,
    write: impl FnOnce(&mut dyn Write) -> Result<(), TransferError>,
) -> Result<(), TransferError> {
    whole::write(path, 0o644, |source| TransferError::Write { path: path.to_owned(), source }, write)
}
