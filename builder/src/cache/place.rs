//! Where a cache is: a repository of a registry, or an OCI layout in a directory ([`directory`]). Both know manifests by
//! tags, and blobs.

use std::fmt;
use std::io::{self, Read, Write};
use std::path::PathBuf;

use oci_spec::image::{Descriptor, Digest, MediaType};
use registry::{Client, Reference};

use super::directory;

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
            Self::Directory(path) => directory::manifest(path, tag),
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
            Self::Directory(path) => directory::read_blob(path, blob, out),
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
            Self::Directory(path) => directory::write_blob(path, blob, open),
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
            Self::Directory(path) => directory::write_manifest(path, tags, bytes),
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
