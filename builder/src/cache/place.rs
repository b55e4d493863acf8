//! Where a cache is: a repository of a registry, or an OCI layout in a directory. Both know manifests by tags, and blobs.
//!
//! In a directory, `index.json` names the manifests by `org.opencontainers.image.ref.name`, like any layout's; whoever
//! changes it holds the lock (flock) of `.lock`, and everything is written whole and then renamed.

use std::collections::BTreeMap;
use std::fmt;
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};

use oci_spec::image::{Descriptor, Digest, MediaType};
use registry::{Client, Reference};
use rustix::fs::FlockOperation;
use serde_json::{Value, json};
use snapshot::digest::sha256;

/// Largest document of a layout, in bytes: an index of some hundred thousand steps.
const DOCUMENT_LIMIT: u64 = 64 << 20;
/// The annotation that names a manifest of a layout (OCI image spec, annotations.md).
const REF_NAME: &str = "org.opencontainers.image.ref.name";

/// Where a cache is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Place {
    /// A repository; the tag of the reference names an image with a cache of its own.
    Registry(Reference),
    /// An OCI layout.
    Directory(PathBuf),
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Registry(reference) => write!(f, "{}/{}", reference.registry(), reference.repository()),
            Self::Directory(path) => path.display().fmt(f),
        }
    }
}

/// Why a cache could not be read or written.
#[derive(Debug, thiserror::Error)]
pub enum PlaceError {
    /// The registry.
    #[error(transparent)]
    Registry(#[from] Box<registry::Error>),
    /// A file; the text names it.
    #[error(transparent)]
    File(#[from] io::Error),
    /// The index of a layout.
    #[error("`{}` is no index of an OCI layout", path.display())]
    Index {
        /// The file.
        path: PathBuf,
        /// What the JSON reader says.
        source: serde_json::Error,
    },
    /// The store.
    #[error(transparent)]
    Store(#[from] snapshot::Error),
    /// A blob's bytes are not those of its digest.
    #[error("the blob `{digest}` of the cache is damaged")]
    Damaged {
        /// Its digest.
        digest: Digest,
    },
}

impl From<registry::Error> for PlaceError {
    fn from(error: registry::Error) -> Self {
        Self::Registry(Box::new(error))
    }
}

impl Place {
    /// The repository, if it is one.
    pub(crate) fn repository(&self) -> Option<&Reference> {
        match self {
            Self::Registry(reference) => Some(reference),
            Self::Directory(_) => None,
        }
    }

    fn tagged(reference: &Reference, tag: &str) -> Reference {
        Reference::with_tag(reference.registry().to_owned(), reference.repository().to_owned(), tag.to_owned())
    }

    /// The manifest with a tag; none when there is none.
    pub(super) fn manifest(&self, client: &Client, tag: &str) -> Result<Option<Vec<u8>>, PlaceError> {
        match self {
            Self::Registry(reference) => found(client.manifest(&Self::tagged(reference, tag))),
            Self::Directory(path) => {
                let index = index(path)?;
                let Some(digest) = index.get(tag) else { return Ok(None) };
                let bytes = limited(fs_err::File::open(blob_path(path, digest))?)?;
                if sha256(&bytes) != *digest {
                    return Err(PlaceError::Damaged { digest: digest.clone() });
                }
                Ok(Some(bytes))
            }
        }
    }

    /// The manifest that the reference itself names, which may be an image with a cache in it.
    pub(super) fn own_manifest(&self, client: &Client) -> Result<Option<Vec<u8>>, PlaceError> {
        match self {
            Self::Registry(reference) => found(client.manifest(reference)),
            Self::Directory(_) => Ok(None),
        }
    }

    /// Writes the bytes of a blob into `out`, which has to verify them.
    pub(super) fn read_blob(&self, client: &Client, blob: &Descriptor, out: &mut dyn Write) -> Result<(), PlaceError> {
        match self {
            Self::Registry(reference) => Ok(client.pull_blob(reference, blob, out)?),
            Self::Directory(path) => {
                let file = fs_err::File::open(blob_path(path, blob.digest()))?;
                io::copy(&mut file.take(blob.size().saturating_add(1)), out)?;
                Ok(())
            }
        }
    }

    /// Makes the place have a blob; returns the bytes that were sent for it.
    pub(super) fn write_blob(
        &self,
        client: &Client,
        blob: &Descriptor,
        mount_from: Option<&Reference>,
        open: &dyn Fn() -> io::Result<Box<dyn Read + Send>>,
    ) -> Result<u64, PlaceError> {
        match self {
            Self::Registry(reference) => {
                let mount = mount_from.filter(|from| from.registry() == reference.registry());
                let pushed = client.push_blob(reference, blob, mount.map(Reference::repository), open)?;
                Ok(if pushed == registry::Pushed::Uploaded { blob.size() } else { 0 })
            }
            Self::Directory(path) => {
                let target = blob_path(path, blob.digest());
                if target.exists() {
                    return Ok(0);
                }
                fs_err::create_dir_all(path.join("blobs/sha256"))?;
                replace(&target, &mut open()?)?;
                Ok(blob.size())
            }
        }
    }

    /// Gives a manifest its tags; all that it names is there. A tag that the registry does not give away again stays where
    /// it is, if what it names will do.
    pub(super) fn write_manifest(
        &self,
        client: &Client,
        tags: &[String],
        bytes: &[u8],
        will_do: fn(&[u8]) -> bool,
    ) -> Result<(), PlaceError> {
        match self {
            Self::Registry(reference) => {
                for tag in tags {
                    let reference = Self::tagged(reference, tag);
                    let pushed = client.push_manifest(&reference, MediaType::ImageManifest.as_ref(), bytes);
                    let Err(error) = pushed else { continue };
                    let there = if is_refusal(&error) { found(client.manifest(&reference))? } else { None };
                    if !there.is_some_and(|there| will_do(&there)) {
                        return Err(error.into());
                    }
                }
                Ok(())
            }
            Self::Directory(path) => {
                fs_err::create_dir_all(path.join("blobs/sha256"))?;
                replace(&blob_path(path, &sha256(bytes)), &mut &*bytes)?;
                add_to_index(path, tags, bytes)
            }
        }
    }
}

/// Whether a registry said no, as it does to a tag that is there and may not be moved: with 400, 403, 409 or 412.
fn is_refusal(error: &registry::Error) -> bool {
    matches!(error, registry::Error::Refused { .. } | registry::Error::Denied { .. })
}

fn found(manifest: Result<registry::Manifest, registry::Error>) -> Result<Option<Vec<u8>>, PlaceError> {
    match manifest {
        Ok(manifest) => Ok(Some(manifest.bytes)),
        Err(registry::Error::NotFound { .. }) => Ok(None),
        Err(error) => Err(error.into()),
    }
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
    replace(&layout.join("index.json"), &mut index.to_string().as_bytes())?;
    replace(&layout.join("oci-layout"), &mut br#"{"imageLayoutVersion":"1.0.0"}"#.as_slice())?;
    Ok(())
}

/// Writes a file whole or not at all.
fn replace(path: &Path, content: &mut dyn Read) -> io::Result<()> {
    let mut file = tempfile::NamedTempFile::new_in(path.parent().unwrap_or(Path::new(".")))?;
    io::copy(content, &mut file)?;
    file.as_file().set_permissions(std::os::unix::fs::PermissionsExt::from_mode(0o644))?;
    file.persist(path).map_err(|error| error.error)?;
    Ok(())
}
