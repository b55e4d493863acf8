//! Images in OCI image layouts (OCI image spec, `image-layout.md`), as directories or archives: found by tag, digest and
//! platform, every document held against its digest. Archives of `docker save` are read as if they were layouts.

pub(crate) mod docker;
mod files;
#[cfg(test)]
mod tests;

use std::collections::HashMap;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use oci_spec::image::{Descriptor, Digest, DigestAlgorithm, ImageIndex, ImageManifest, Platform};
use registry::Kind;
use serde::de::DeserializeOwned;
use snapshot::digest::HashingReader;

use crate::graph::named::LayoutName;
use files::Files;

/// The largest manifest, index or config, in bytes; containerd's limit for metadata.
const DOCUMENT_LIMIT: u64 = 8 << 20;
/// Deepest nesting of indexes.
const DEPTH_LIMIT: u32 = 4;
/// Most names that an error lists.
const NAMES_SHOWN: usize = 16;
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

/// Images, and the blobs that they are made of.
#[derive(Debug)]
pub struct Layout {
    path: PathBuf,
    files: Files,
    /// What `index.json` lists.
    images: Vec<Descriptor>,
    /// Blobs that do not lie below `blobs/`.
    blobs: HashMap<Digest, Blob>,
}

/// A blob of an archive of `docker save`.
#[derive(Debug)]
enum Blob {
    /// Made while the archive was opened.
    Made(Vec<u8>),
    /// A file of this name.
    Named(String),
}

/// An image of a layout.
#[derive(Debug, Clone)]
pub struct LayoutImage {
    /// Describes its manifest.
    pub descriptor: Descriptor,
    /// The manifest's bytes.
    pub bytes: Vec<u8>,
    /// The manifest.
    pub manifest: ImageManifest,
    /// The config's bytes.
    pub config: Vec<u8>,
}

/// Finds the image of a platform.
pub fn resolve(name: &LayoutName, platform: &Platform) -> Result<LayoutImage, LayoutError> {
    Layout::directory(&name.path)?.resolve(name.pick.as_deref(), platform)
}

/// Opens a blob of a layout in a directory. Its bytes are not verified yet.
pub fn open(path: &Path, digest: &Digest) -> Result<Box<dyn Read + Send>, LayoutError> {
    let (images, blobs) = (Vec::new(), HashMap::new());
    Layout { path: path.to_owned(), files: Files::Directory(path.to_owned()), images, blobs }.open(digest)
}

impl Layout {
    /// Opens a layout in a directory.
    pub fn directory(path: &Path) -> Result<Self, LayoutError> {
        Self::of_files(path, Files::Directory(path.to_owned()))
    }

    /// Opens an archive of an OCI layout, or one of `docker save`.
    pub fn archive(path: &Path) -> Result<Self, LayoutError> {
        let files = Files::archive(path).map_err(|source| LayoutError::Read { path: path.to_owned(), source })?;
        if files.has("index.json") || !files.has("manifest.json") {
            return Self::of_files(path, files);
        }
        let (images, blobs) = docker::read(path, &files)?;
        Ok(Self { path: path.to_owned(), files, images, blobs })
    }

    fn of_files(path: &Path, files: Files) -> Result<Self, LayoutError> {
        let index = files.open("index.json").and_then(|file| limited(file, DOCUMENT_LIMIT));
        let index = index.map_err(|source| LayoutError::Read { path: path.to_owned(), source })?;
        let index: ImageIndex = parse(path, "index.json", &index)?;
        Ok(Self { path: path.to_owned(), files, images: index.manifests().clone(), blobs: HashMap::new() })
    }

    /// What a tag or digest names; without one the only image, else the one tagged `latest`.
    pub fn find(&self, pick: Option<&str>) -> Result<Vec<&Descriptor>, LayoutError> {
        let all = || self.images.iter();
        let found: Vec<&Descriptor> = match pick {
            Some(digest) if is_digest(digest) => all().filter(|found| found.digest().as_ref() == digest).collect(),
            Some(tag) => all().filter(|found| is_named(found, tag)).collect(),
            None if all().all(|found| found.digest() == self.images[0].digest()) => all().take(1).collect(),
            None => all().filter(|found| is_named(found, "latest")).collect(),
        };
        if !found.is_empty() {
            return Ok(found);
        }
        let names: Vec<&str> = all().filter_map(tag_of).take(NAMES_SHOWN).collect();
        let names = if names.is_empty() { "none with a name".to_owned() } else { format!("`{}`", names.join("`, `")) };
        let wanted = format!("`{}`; it has {names}", pick.unwrap_or("latest").escape_default());
        Err(LayoutError::NoImage { path: self.path.clone(), wanted })
    }

    /// Finds the image of a platform.
    pub fn resolve(&self, pick: Option<&str>, platform: &Platform) -> Result<LayoutImage, LayoutError> {
        let found = self.choose(&self.find(pick)?, platform, 0)?;
        found.ok_or_else(|| LayoutError::NoImage {
            path: self.path.clone(),
            wanted: format!("for `{}/{}`", platform.os(), platform.architecture()),
        })
    }

    /// The best image among descriptors; those without a platform are told apart by their config.
    fn choose(
        &self,
        descriptors: &[&Descriptor],
        platform: &Platform,
        depth: u32,
    ) -> Result<Option<LayoutImage>, LayoutError> {
        let path = &self.path;
        let mut ranked: Vec<(u32, &Descriptor)> = descriptors
            .iter()
            .filter_map(|found| match found.platform() {
                Some(offered) => registry::rank(platform, offered).map(|rank| (rank, *found)),
                None => Some((u32::MAX, *found)),
            })
            .collect();
        ranked.sort_by_key(|(rank, _)| *rank);
        for (_, descriptor) in ranked {
            let bytes = self.document(descriptor)?;
            let digest = descriptor.digest();
            if Kind::of(descriptor.media_type()) == Some(Kind::Index) {
                if depth >= DEPTH_LIMIT {
                    let digest = digest.to_string();
                    return Err(LayoutError::Blob { path: path.clone(), digest, problem: "an index nested too deep" });
                }
                let inner: ImageIndex = parse(path, digest.as_ref(), &bytes)?;
                let inner: Vec<&Descriptor> = inner.manifests().iter().collect();
                if let Some(found) = self.choose(&inner, platform, depth + 1)? {
                    return Ok(Some(found));
                }
                continue;
            }
            let manifest: ImageManifest = parse(path, digest.as_ref(), &bytes)?;
            let config = self.document(manifest.config())?;
            if descriptor.platform().is_none() && !suits(&config, platform) {
                continue;
            }
            return Ok(Some(LayoutImage { descriptor: descriptor.clone(), bytes, manifest, config }));
        }
        Ok(None)
    }

    /// Opens a blob. Its bytes are not verified yet.
    pub fn open(&self, digest: &Digest) -> Result<Box<dyn Read + Send>, LayoutError> {
        if *digest.algorithm() != DigestAlgorithm::Sha256 {
            let digest = digest.to_string();
            return Err(LayoutError::Blob { path: self.path.clone(), digest, problem: "not named by a sha256 digest" });
        }
        let opened = match self.blobs.get(digest) {
            Some(Blob::Made(bytes)) => return Ok(Box::new(io::Cursor::new(bytes.clone()))),
            Some(Blob::Named(name)) => self.files.open(name),
            None => self.files.open(&format!("blobs/sha256/{}", digest.digest())),
        };
        opened.map_err(|source| LayoutError::Read { path: self.path.clone(), source })
    }

    /// Reads a manifest, index or config, verified.
    pub fn document(&self, descriptor: &Descriptor) -> Result<Vec<u8>, LayoutError> {
        let digest = descriptor.digest();
        let mut file = HashingReader::new(self.open(digest)?);
        let bytes = limited(&mut file, DOCUMENT_LIMIT);
        let bytes = bytes.map_err(|source| LayoutError::Read { path: self.path.clone(), source })?;
        if file.finish() == *digest {
            return Ok(bytes);
        }
        let (path, digest) = (self.path.clone(), digest.to_string());
        Err(LayoutError::Blob { path, digest, problem: "not what its digest says" })
    }
}

/// Whether a text is a digest, and not a name like `app:1`, which has its form.
fn is_digest(text: &str) -> bool {
    text.parse::<Digest>().is_ok_and(|digest| !matches!(digest.algorithm(), DigestAlgorithm::Other(_)))
}

fn tag_of(descriptor: &Descriptor) -> Option<&str> {
    descriptor.annotations().as_ref()?.get(REF_NAME).map(String::as_str)
}

/// Whether an image has a name: as it is written, or as another way to write the same image name.
fn is_named(descriptor: &Descriptor, name: &str) -> bool {
    let whole = |name: &str| registry::reference::parse(name).ok().map(|reference| reference.whole());
    let Some(tag) = tag_of(descriptor) else { return false };
    tag == name || (tag.contains(['/', ':']) && whole(tag).is_some() && whole(tag) == whole(name))
}

/// Whether a config is of the platform.
fn suits(config: &[u8], platform: &Platform) -> bool {
    serde_json::from_slice::<Platform>(config).is_ok_and(|offered| registry::rank(platform, &offered).is_some())
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
