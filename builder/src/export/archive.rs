//! OCI image layouts, as a directory or an archive, and archives for `docker load`.
//!
//! The layout is the OCI image spec's `image-layout.md`. A docker archive is the same layout with the `manifest.json`
//! that `docker load` and podman look for, its paths pointing into `blobs/`.

use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};

use oci_spec::image::{Descriptor, Digest};
use serde_json::{Value, json};

use crate::solve::World;
use crate::whole;

use super::output::Destination;
use super::{ExportError, Exported, open_layer};

/// One file of a layout.
enum Content<'a> {
    Bytes(Vec<u8>),
    Layer { position: usize, blob: &'a Descriptor },
}

/// Writes an OCI archive.
pub(super) fn oci(world: &World<'_>, exported: &Exported<'_>, destination: &Destination) -> Result<(), ExportError> {
    write_archive(world, exported, destination, files(exported, false))
}

/// Writes an archive for `docker load`.
pub(super) fn docker(world: &World<'_>, exported: &Exported<'_>, destination: &Destination) -> Result<(), ExportError> {
    write_archive(world, exported, destination, files(exported, true))
}

/// Writes a layout directory; one that is there gains this image and loses none.
pub(super) fn layout(world: &World<'_>, exported: &Exported<'_>, destination: &Destination) -> Result<(), ExportError> {
    let directory = match destination {
        Destination::File(path) => path.clone(),
        Destination::Stdout => PathBuf::from("-"),
    };
    let failed = |source| ExportError::Write { path: directory.clone(), source };
    fs_err::create_dir_all(directory.join("blobs/sha256")).map_err(failed)?;
    for (name, content) in files(exported, false) {
        let path = directory.join(&name);
        match content {
            Content::Bytes(bytes) if name == "index.json" => {
                let bytes = merged_index(&path, &bytes).map_err(failed)?;
                whole::copy(&path, &mut bytes.as_slice()).map_err(failed)?;
            }
            Content::Bytes(bytes) => whole::copy(&path, &mut bytes.as_slice()).map_err(failed)?,
            Content::Layer { position, .. } => {
                let mut file = open_layer(world, exported.tree, position, &exported.image.layers[position])?;
                whole::copy(&path, &mut file).map_err(failed)?;
            }
        }
    }
    Ok(())
}

/// The index of an earlier layout with this image in place of those that had its names.
pub(crate) fn merged_index(path: &Path, new: &[u8]) -> io::Result<Vec<u8>> {
    let earlier = match fs_err::read(path) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(new.to_vec()),
        Err(error) => return Err(error),
    };
    let mut earlier: Value = serde_json::from_slice(&earlier)?;
    let new: Value = serde_json::from_slice(new)?;
    let name = |manifest: &Value| manifest["annotations"]["org.opencontainers.image.ref.name"].clone();
    let added = new["manifests"].as_array().cloned().unwrap_or_default();
    let Some(manifests) = earlier["manifests"].as_array_mut() else { return Ok(serde_json::to_vec(&new)?) };
    manifests.retain(|old| {
        !added.iter().any(|new| name(new) == name(old) && (!name(old).is_null() || new["digest"] == old["digest"]))
    });
    manifests.extend(added);
    Ok(serde_json::to_vec(&earlier)?)
}

/// The files of a layout, in the order in which they are written: what refers comes after what it refers to.
fn files<'a>(exported: &Exported<'a>, docker: bool) -> Vec<(String, Content<'a>)> {
    let image = exported.image;
    let mut files: Vec<(String, Content<'a>)> = Vec::new();
    for (position, layer) in image.layers.iter().enumerate() {
        let name = blob_path(layer.blob.digest());
        if files.iter().all(|(known, _)| *known != name) {
            files.push((name, Content::Layer { position, blob: &layer.blob }));
        }
    }
    files.push((blob_path(image.config_descriptor.digest()), Content::Bytes(image.config.clone())));
    files.push((blob_path(image.descriptor.digest()), Content::Bytes(image.manifest.clone())));
    files.push(("oci-layout".into(), Content::Bytes(json(&json!({ "imageLayoutVersion": "1.0.0" })))));
    if docker {
        files.push(("manifest.json".into(), Content::Bytes(json(&docker_manifest(exported)))));
    }
    files.push(("index.json".into(), Content::Bytes(json(&index(exported)))));
    files
}

fn json(value: &Value) -> Vec<u8> {
    serde_json::to_vec(value).expect("a document is plain data")
}

/// Where a layout has a blob.
pub(crate) fn blob_path(digest: &Digest) -> String {
    format!("blobs/{}/{}", digest.algorithm(), digest.digest())
}

fn index(exported: &Exported<'_>) -> Value {
    let descriptor = serde_json::to_value(&exported.image.descriptor).expect("a descriptor is plain data");
    let mut manifests: Vec<Value> = exported
        .tags
        .iter()
        .map(|tag| {
            let mut named = descriptor.clone();
            // The short tag is what `skopeo copy oci:PATH:TAG` and umoci look for; the full name is containerd's.
            named["annotations"] = json!({
                "io.containerd.image.name": tag.whole(),
                "org.opencontainers.image.ref.name": tag.tag().unwrap_or("latest"),
            });
            named
        })
        .collect();
    if manifests.is_empty() {
        manifests.push(descriptor);
    }
    json!({ "schemaVersion": 2, "mediaType": "application/vnd.oci.image.index.v1+json", "manifests": manifests })
}

fn docker_manifest(exported: &Exported<'_>) -> Value {
    let image = exported.image;
    let layers: Vec<String> = image.layers.iter().map(|layer| blob_path(layer.blob.digest())).collect();
    let tags: Vec<String> = exported.tags.iter().map(registry::Reference::whole).collect();
    json!([{ "Config": blob_path(image.config_descriptor.digest()), "RepoTags": tags, "Layers": layers }])
}

fn write_archive(
    world: &World<'_>,
    exported: &Exported<'_>,
    destination: &Destination,
    files: Vec<(String, Content<'_>)>,
) -> Result<(), ExportError> {
    with_writer(destination, |out| {
        let failed = |source| ExportError::Write { path: shown(destination), source };
        let mut archive = tar::Builder::new(out);
        for directory in ["blobs/", "blobs/sha256/"] {
            append(&mut archive, directory, 0, &mut io::empty()).map_err(failed)?;
        }
        for (name, content) in files {
            match content {
                Content::Bytes(bytes) => append(&mut archive, &name, bytes.len() as u64, &mut bytes.as_slice()),
                Content::Layer { position, blob } => {
                    let mut file = open_layer(world, exported.tree, position, &exported.image.layers[position])?;
                    append(&mut archive, &name, blob.size(), &mut file)
                }
            }
            .map_err(failed)?;
        }
        archive.into_inner().and_then(Write::flush).map_err(failed)
    })
}

fn append(archive: &mut tar::Builder<&mut dyn Write>, name: &str, size: u64, content: &mut dyn Read) -> io::Result<()> {
    archive.append(&member(name, size)?, content)
}

/// The header of a file in an archive of a layout, or of a directory when the name ends with `/`; the same for the same
/// name and size. Names that ustar cannot hold are an error: digests longer than SHA-384's are none that it could.
pub(crate) fn member(name: &str, size: u64) -> io::Result<tar::Header> {
    let mut header = tar::Header::new_ustar();
    let directory = name.ends_with('/');
    header.set_entry_type(if directory { tar::EntryType::Directory } else { tar::EntryType::Regular });
    header.set_mode(if directory { 0o755 } else { 0o644 });
    header.set_size(size);
    header.set_mtime(0);
    header.set_path(name)?;
    header.set_cksum();
    Ok(header)
}

/// Gives `write` the destination: standard output, a device or pipe that is there, or a file that appears whole or not at
/// all.
pub(super) fn with_writer(
    destination: &Destination,
    write: impl FnOnce(&mut dyn Write) -> Result<(), ExportError>,
) -> Result<(), ExportError> {
    let path = match destination {
        Destination::Stdout => return write(&mut io::stdout().lock()),
        Destination::File(path) => path,
    };
    whole::write(path, 0o644, |source| ExportError::Write { path: path.clone(), source }, write)
}

/// A destination as errors name it.
pub(super) fn shown(destination: &Destination) -> PathBuf {
    match destination {
        Destination::File(path) => path.clone(),
        Destination::Stdout => PathBuf::from("standard output"),
    }
}
