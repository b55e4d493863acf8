//! Reading the archive, Convox's own and older ones included. Every blob is verified as it comes; what an image names has
//! to be in its archive.

use std::collections::{BTreeMap, HashSet};
use std::io::{self, Read};
use std::path::Path;

use flate2::read::MultiGzDecoder;
use oci_spec::image::{Descriptor, Digest, ImageIndex};
use serde::de::DeserializeOwned;
use snapshot::Store;

use super::docker::{self, Files};
use super::{ArchiveError, Extra};
use crate::app::record::Build;
use crate::app::transfer::{self, WholeImage};

/// The largest document, in bytes: a `build.json` holds a convox.yml.
const DOCUMENT_LIMIT: u64 = 16 << 20;
/// The largest log that is kept, in bytes.
const LOG_LIMIT: u64 = 256 << 20;

/// What an archive had. The blobs are in the store.
#[derive(Debug)]
pub struct Imported {
    /// The build that was exported.
    pub build: Build,
    /// The image of each service.
    pub images: BTreeMap<String, WholeImage>,
    /// What Convox does not keep.
    pub extra: Option<Extra>,
    /// The log.
    pub log: Vec<u8>,
}

/// Reads an archive.
pub fn import(store: &Store, from: &mut dyn Read) -> Result<Imported, ArchiveError> {
    let failed = |source| ArchiveError::Stream { action: "read", source };
    let mut archive = tar::Archive::new(MultiGzDecoder::new(from));
    let (mut build, mut extra, mut log, mut images) = (None, None, Vec::new(), BTreeMap::new());
    for entry in archive.entries().map_err(failed)? {
        let mut entry = entry.map_err(failed)?;
        if entry.header().entry_type() != tar::EntryType::Regular {
            continue;
        }
        let path = entry.path().map_err(failed)?.into_owned();
        let name = path.display().to_string();
        match name.as_str() {
            "build.json" => build = Some(parse(&name, &limited(&name, &mut entry, DOCUMENT_LIMIT)?)?),
            "rbuild.json" => extra = Some(parse(&name, &limited(&name, &mut entry, DOCUMENT_LIMIT)?)?),
            "log.txt" => log = limited(&name, &mut entry, LOG_LIMIT)?,
            _ if path.extension().is_some_and(|extension| extension == "tar") => {
                images.extend(image_archive(store, &path, &mut entry)?);
            }
            _ => {}
        }
    }
    // A stream that was cut off has no end.
    io::copy(&mut archive.into_inner(), &mut io::sink()).map_err(failed)?;
    let build = build.ok_or(ArchiveError::NoBuild)?;
    Ok(Imported { build, images, extra, log })
}

/// Reads one image archive: of one service when it is an OCI layout, of all that its tags name when it is Docker's.
fn image_archive(store: &Store, path: &Path, from: &mut dyn Read) -> Result<Vec<(String, WholeImage)>, ArchiveError> {
    let failed = |source| ArchiveError::Stream { action: "read", source };
    let mut archive = tar::Archive::new(from);
    let mut files = Files::default();
    for entry in archive.entries().map_err(failed)? {
        let mut entry = entry.map_err(failed)?;
        let inner = entry.path().map_err(failed)?.into_owned();
        let name = inner.strip_prefix("./").unwrap_or(&inner).to_string_lossy().into_owned();
        match entry.header().entry_type() {
            tar::EntryType::Regular => {
                let size = entry.size();
                let expected = blob_digest(&name);
                let stored = store.blobs().ingest(expected.as_ref().map(|digest| (digest, size)), &mut entry);
                let (digest, size) = stored.map_err(|source| ArchiveError::Damaged {
                    path: path.to_owned(),
                    name: name.clone(),
                    source: Box::new(source),
                })?;
                files.names.insert(name, (digest, size));
            }
            tar::EntryType::Symlink | tar::EntryType::Link => {
                let target = entry.link_name().map_err(failed)?.map(std::borrow::Cow::into_owned);
                let target = target.unwrap_or_default();
                let base = if entry.header().entry_type() == tar::EntryType::Symlink {
                    inner.parent().unwrap_or(Path::new("")).join(target)
                } else {
                    target
                };
                files.links.insert(name, docker::normal(&base));
            }
            _ => {}
        }
    }
    let document = |name: &str| -> Result<Option<Vec<u8>>, ArchiveError> {
        let Some((digest, size)) = files.names.get(name) else { return Ok(None) };
        too_large(name, *size, DOCUMENT_LIMIT)?;
        Ok(Some(store.blobs().read(digest, DOCUMENT_LIMIT)?))
    };
    let index = document("index.json")?.map(|bytes| parse::<ImageIndex>("index.json", &bytes)).transpose()?;
    if let Some([root]) = index.as_ref().map(|index| index.manifests().as_slice()) {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        let service = name.split('.').next().unwrap_or_default().to_owned();
        return Ok(vec![(service, layout_image(store, path, root, &files)?)]);
    }
    if let Some(bytes) = document("manifest.json")? {
        return docker::images(store, path, &bytes, &files);
    }
    let problem = "neither an OCI layout with one image nor an archive of `docker save`";
    Err(ArchiveError::NotAnImage { path: path.to_owned(), problem })
}

/// The image of a layout, all of which has to be there.
fn layout_image(store: &Store, path: &Path, root: &Descriptor, files: &Files) -> Result<WholeImage, ArchiveError> {
    let present: HashSet<&Digest> = files.names.values().map(|(digest, _)| digest).collect();
    let missing = |digest: &Digest| ArchiveError::Missing { path: path.to_owned(), digest: digest.to_string() };
    let root = Descriptor::new(root.media_type().clone(), root.size(), root.digest().clone());
    let image = transfer::walk(root, &mut |document| {
        if !present.contains(document.digest()) {
            return Err(missing(document.digest()));
        }
        Ok(transfer::document_of(store, document)?)
    })?;
    match image.blobs.iter().find(|blob| !present.contains(blob.digest())) {
        Some(blob) => Err(missing(blob.digest())),
        None => Ok(image),
    }
}

/// The digest that a file of a layout is named by.
fn blob_digest(name: &str) -> Option<Digest> {
    let hex = name.strip_prefix("blobs/sha256/")?;
    format!("sha256:{hex}").parse().ok()
}

fn limited(name: &str, from: &mut dyn Read, limit: u64) -> Result<Vec<u8>, ArchiveError> {
    let mut bytes = Vec::new();
    let read = from.take(limit + 1).read_to_end(&mut bytes);
    let read = read.map_err(|source| ArchiveError::Stream { action: "read", source })?;
    too_large(name, read as u64, limit).map(|()| bytes)
}

fn too_large(name: &str, size: u64, limit: u64) -> Result<(), ArchiveError> {
    if size > limit { Err(ArchiveError::TooLarge { document: name.to_owned(), limit }) } else { Ok(()) }
}

pub(super) fn parse<T: DeserializeOwned>(name: &str, bytes: &[u8]) -> Result<T, ArchiveError> {
    serde_json::from_slice(bytes).map_err(|source| ArchiveError::Document { document: name.to_owned(), source })
}
