//! Into a tar archive: an OCI layout, and with `manifest.json` what `docker load` reads. The same bytes each time.

use std::io::Write;
use std::path::Path;

use serde_json::{Value, json};

use super::directory::{index_of, marker, replace};
use super::{Parts, Source, TransferError};
use crate::export::archive::{blob_path, member};

/// The size of a block (POSIX.1-2017, pax, "ustar Interchange Format").
const BLOCK: usize = 512;

/// Writes an archive of an OCI layout.
pub(super) fn write_oci(
    source: &Source<'_>,
    parts: &Parts,
    path: &Path,
    tag: Option<&str>,
) -> Result<(), TransferError> {
    write(source, parts, path, &[("index.json", index_of(parts.root(), tag, None))])
}

/// Writes an archive for `docker load`.
pub(super) fn write_docker(
    source: &Source<'_>,
    parts: &Parts,
    path: &Path,
    name: Option<&str>,
) -> Result<(), TransferError> {
    let image =
        parts.image().ok_or_else(|| source.wrong("a docker archive holds one image, and this is none".into()))?;
    let name = match name.map(registry::reference::parse) {
        Some(parsed) => Some(parsed?),
        None => None,
    };
    let tags: Vec<String> = name.iter().map(registry::Reference::whole).collect();
    let layers: Vec<String> = image.layers().iter().map(|layer| blob_path(layer.digest())).collect();
    let manifest: Value = json!([{"Config": blob_path(image.config().digest()), "RepoTags": tags, "Layers": layers}]);
    let tag = name.as_ref().and_then(registry::Reference::tag);
    let index = index_of(parts.root(), tag, tags.first().map(String::as_str));
    write(source, parts, path, &[("manifest.json", manifest.to_string().into_bytes()), ("index.json", index)])
}

fn write(source: &Source<'_>, parts: &Parts, path: &Path, last: &[(&str, Vec<u8>)]) -> Result<(), TransferError> {
    let failed = |source| TransferError::Write { path: path.to_owned(), source };
    replace(path, |out| {
        for directory in ["blobs/", "blobs/sha256/"] {
            begin(out, directory, 0).map_err(failed)?;
        }
        for blob in &parts.blobs {
            begin(out, &blob_path(blob.digest()), blob.size()).map_err(failed)?;
            source.write(blob, out)?;
            pad(out, blob.size()).map_err(failed)?;
        }
        let mut file = |name: &str, bytes: &[u8]| {
            let size = bytes.len() as u64;
            begin(out, name, size).and_then(|()| out.write_all(bytes)).and_then(|()| pad(out, size))
        };
        for (descriptor, bytes) in &parts.documents {
            file(&blob_path(descriptor.digest()), bytes).map_err(failed)?;
        }
        file("oci-layout", &marker()).map_err(failed)?;
        for (name, bytes) in last {
            file(name, bytes).map_err(failed)?;
        }
        out.write_all(&[0; 2 * BLOCK]).map_err(failed)
    })
}

fn begin(out: &mut dyn Write, name: &str, size: u64) -> std::io::Result<()> {
    out.write_all(member(name, size)?.as_bytes())
}

fn pad(out: &mut dyn Write, size: u64) -> std::io::Result<()> {
    let used = usize::try_from(size % BLOCK as u64).unwrap_or_default();
    let rest = (BLOCK - used) % BLOCK;
    out.write_all(&[0; BLOCK][..rest])
}
