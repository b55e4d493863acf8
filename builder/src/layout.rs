//! Images in OCI image layouts (OCI image spec, `image-layout.md`): found by tag, digest and platform, every document
//! held against its digest.

use std::io::{self, Read};
use std::path::{Path, PathBuf};

use oci_spec::image::{Descriptor, Digest, DigestAlgorithm, ImageIndex, ImageManifest, MediaType, Platform};
use serde::de::DeserializeOwned;
use snapshot::digest::HashingReader;

use crate::graph::named::LayoutName;

/// The largest manifest, index or config, in bytes; containerd's limit for metadata.
const DOCUMENT_LIMIT: u64 = 8 << 20;
/// Deepest nesting of indexes.
const DEPTH_LIMIT: u32 = 4;
/// The annotation that holds a tag.
const REF_NAME: &str = "org.opencontainers.image.ref.name";

/// Why a layout does not give an image.
#[derive(Debug, thiserror::Error)]
pub enum LayoutError {
    /// A file of it.
    #[error("cannot read the OCI layout `{}`", path.display())]
    Read {
        /// The layout.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A document that is malformed.
    #[error("`{document}` of the OCI layout `{}` is malformed", path.display())]
    Json {
        /// The layout.
        path: PathBuf,
        /// Which.
        document: String,
        /// Why.
        source: serde_json::Error,
    },
    /// A document or blob that is not what its name says.
    #[error("`{digest}` of the OCI layout `{}` is {problem}", path.display())]
    Blob {
        /// The layout.
        path: PathBuf,
        /// Which.
        digest: String,
        /// What is wrong.
        problem: &'static str,
    },
    /// No such image.
    #[error("the OCI layout `{}` has no image {wanted}", path.display())]
    NoImage {
        /// The layout.
        path: PathBuf,
        /// What was looked for.
        wanted: String,
    },
}

/// An image of a layout.
#[derive(Debug, Clone)]
pub struct LayoutImage {
    /// The digest of its manifest.
    pub digest: Digest,
    /// The manifest.
    pub manifest: ImageManifest,
    /// The config's bytes.
    pub config: Vec<u8>,
}

/// Finds the image of a platform.
pub fn resolve(name: &LayoutName, platform: &Platform) -> Result<LayoutImage, LayoutError> {
    let path = &name.path;
    let index = fs_err::File::open(path.join("index.json")).and_then(|file| limited(file, DOCUMENT_LIMIT));
    let index = index.map_err(|source| LayoutError::Read { path: path.clone(), source })?;
    let index: ImageIndex = parse(path, "index.json", &index)?;
    let no_image = |wanted: String| LayoutError::NoImage { path: path.clone(), wanted };
    let candidates: Vec<&Descriptor> = match name.pick.as_deref() {
        Some(digest) if digest.contains(':') => {
            index.manifests().iter().filter(|found| found.digest().as_ref() == digest).collect()
        }
        Some(tag) => index.manifests().iter().filter(|found| tag_of(found) == Some(tag)).collect(),
        None if index.manifests().len() == 1 => index.manifests().iter().collect(),
        None => index.manifests().iter().filter(|found| tag_of(found) == Some("latest")).collect(),
    };
    if candidates.is_empty() {
        let wanted = name.pick.as_deref().unwrap_or("latest");
        return Err(no_image(format!("`{wanted}`")));
    }
    let found = choose(path, &candidates, platform, 0)?;
    found.ok_or_else(|| no_image(format!("for `{}/{}`", platform.os(), platform.architecture())))
}

fn tag_of(descriptor: &Descriptor) -> Option<&str> {
    descriptor.annotations().as_ref()?.get(REF_NAME).map(String::as_str)
}

/// The best image among descriptors; those without a platform are told apart by their config.
fn choose(
    path: &Path,
    descriptors: &[&Descriptor],
    platform: &Platform,
    depth: u32,
) -> Result<Option<LayoutImage>, LayoutError> {
    let mut ranked: Vec<(u32, &Descriptor)> = descriptors
        .iter()
        .filter_map(|found| match found.platform() {
            Some(offered) => registry::rank(platform, offered).map(|rank| (rank, *found)),
            None => Some((u32::MAX, *found)),
        })
        .collect();
    ranked.sort_by_key(|(rank, _)| *rank);
    for (_, descriptor) in ranked {
        let is_index = matches!(descriptor.media_type(), MediaType::ImageIndex)
            || descriptor.media_type().as_ref() == "application/vnd.docker.distribution.manifest.list.v2+json";
        let bytes = document(path, descriptor)?;
        let digest = descriptor.digest();
        if is_index {
            if depth >= DEPTH_LIMIT {
                let digest = digest.to_string();
                return Err(LayoutError::Blob { path: path.to_owned(), digest, problem: "an index nested too deep" });
            }
            let inner: ImageIndex = parse(path, digest.as_ref(), &bytes)?;
            let inner: Vec<&Descriptor> = inner.manifests().iter().collect();
            if let Some(found) = choose(path, &inner, platform, depth + 1)? {
                return Ok(Some(found));
            }
            continue;
        }
        let manifest: ImageManifest = parse(path, digest.as_ref(), &bytes)?;
        let config = document(path, manifest.config())?;
        if descriptor.platform().is_none() && !suits(&config, platform) {
            continue;
        }
        return Ok(Some(LayoutImage { digest: digest.clone(), manifest, config }));
    }
    Ok(None)
}

/// Whether a config is of the platform.
fn suits(config: &[u8], platform: &Platform) -> bool {
    serde_json::from_slice::<Platform>(config).is_ok_and(|offered| registry::rank(platform, &offered).is_some())
}

/// Opens a blob. Its bytes are not verified yet.
pub fn open(path: &Path, digest: &Digest) -> Result<fs_err::File, LayoutError> {
    if *digest.algorithm() != DigestAlgorithm::Sha256 {
        let digest = digest.to_string();
        return Err(LayoutError::Blob { path: path.to_owned(), digest, problem: "not named by a sha256 digest" });
    }
    let file = fs_err::File::open(path.join("blobs/sha256").join(digest.digest()));
    file.map_err(|source| LayoutError::Read { path: path.to_owned(), source })
}

/// A small blob, verified.
fn document(path: &Path, descriptor: &Descriptor) -> Result<Vec<u8>, LayoutError> {
    let digest = descriptor.digest();
    let mut file = HashingReader::new(open(path, digest)?);
    let bytes = limited(&mut file, DOCUMENT_LIMIT);
    let bytes = bytes.map_err(|source| LayoutError::Read { path: path.to_owned(), source })?;
    if file.finish() == *digest {
        return Ok(bytes);
    }
    Err(LayoutError::Blob { path: path.to_owned(), digest: digest.to_string(), problem: "not what its digest says" })
}

fn limited(file: impl Read, limit: u64) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    let read = file.take(limit + 1).read_to_end(&mut bytes)?;
    if read as u64 > limit { Err(io::ErrorKind::FileTooLarge.into()) } else { Ok(bytes) }
}

fn parse<T: DeserializeOwned>(path: &Path, document: &str, bytes: &[u8]) -> Result<T, LayoutError> {
    serde_json::from_slice(bytes).map_err(|source| LayoutError::Json {
        path: path.to_owned(),
        document: document.to_owned(),
        source,
    })
}
