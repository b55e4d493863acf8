//! Whole images that are not built here: read with all their platforms, kept in the store, pushed with the same digests.

use std::collections::HashSet;
use std::io::{self, Read};

use oci_spec::image::{Descriptor, ImageIndex, ImageManifest, MediaType};
use registry::{Kind, Reference};
use snapshot::Store;

use crate::progress::Step;
use crate::transfer::{by_digest, each};

/// The largest manifest, index or config, in bytes; containerd's limit for metadata.
const DOCUMENT_LIMIT: u64 = 8 << 20;
/// Most manifests of one image: platforms and what is attested of them.
const MANIFEST_LIMIT: usize = 1000;

/// Why an image cannot be moved.
#[derive(Debug, thiserror::Error)]
pub enum TransferError {
    /// A registry.
    #[error("cannot {action} `{reference}`")]
    Registry {
        /// What was attempted.
        action: &'static str,
        /// The image.
        reference: String,
        /// Why.
        source: Box<registry::Error>,
    },
    /// A document that does not parse.
    #[error("the manifest `{digest}` is malformed")]
    Document {
        /// Its digest.
        digest: String,
        /// Why.
        source: serde_json::Error,
    },
    /// A document that is no image.
    #[error("`{digest}` is `{media_type}`, which is neither an image nor an index of images")]
    NoImage {
        /// Its digest.
        digest: String,
        /// Its media type.
        media_type: String,
    },
    /// An image with absurdly many manifests.
    #[error("the image has more than {MANIFEST_LIMIT} manifests")]
    TooMany,
    /// The store.
    #[error("cannot keep the image in the store")]
    Store(#[from] snapshot::Error),
}

/// A whole image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WholeImage {
    /// Its manifest or index.
    pub root: Descriptor,
    /// Manifests and indexes: what refers comes behind what it refers to, the root last.
    pub documents: Vec<Descriptor>,
    /// Configs and layers, each once.
    pub blobs: Vec<Descriptor>,
}

impl WholeImage {
    /// Everything that it consists of.
    pub fn everything(&self) -> Vec<Descriptor> {
        self.documents.iter().chain(&self.blobs).cloned().collect()
    }
}

/// Whether a document is an index, by its media type.
pub fn is_index(media_type: &MediaType) -> bool {
    Kind::of(media_type) == Some(Kind::Index)
}

/// Walks an image from its root; `read` gives the bytes of a document, which it has verified.
pub fn walk<E: From<TransferError>>(
    root: Descriptor,
    read: &mut dyn FnMut(&Descriptor) -> Result<Vec<u8>, E>,
) -> Result<WholeImage, E> {
    let (mut documents, mut blobs) = (Vec::new(), Vec::new());
    let (mut open, mut seen) = (vec![root.clone()], HashSet::from([root.digest().clone()]));
    while let Some(document) = open.pop() {
        if documents.len() == MANIFEST_LIMIT {
            return Err(TransferError::TooMany.into());
        }
        let bytes = read(&document)?;
        let malformed = |source| TransferError::Document { digest: document.digest().to_string(), source };
        let (mut inner, target) = match Kind::of(document.media_type()) {
            Some(Kind::Index) => {
                let index: ImageIndex = serde_json::from_slice(&bytes).map_err(malformed)?;
                (index.manifests().clone(), &mut open)
            }
            Some(Kind::Image) => {
                let manifest: ImageManifest = serde_json::from_slice(&bytes).map_err(malformed)?;
                (std::iter::once(manifest.config()).chain(manifest.layers()).cloned().collect(), &mut blobs)
            }
            None => {
                let (digest, media_type) = (document.digest().to_string(), document.media_type().to_string());
                return Err(TransferError::NoImage { digest, media_type }.into());
            }
        };
        inner.retain(|descriptor| seen.insert(descriptor.digest().clone()));
        target.extend(inner);
        documents.push(document);
    }
    documents.reverse();
    Ok(WholeImage { root, documents, blobs })
}

/// Reads what a reference names in a registry; its manifests are in the store afterwards.
pub fn describe(client: &registry::Client, store: &Store, from: &Reference) -> Result<WholeImage, TransferError> {
    let failed = |source| TransferError::Registry { action: "read", reference: from.whole(), source: Box::new(source) };
    let root = client.manifest(from).map_err(failed)?;
    let keep = |bytes: &[u8]| store.blobs().ingest(None, &mut &*bytes).map_err(TransferError::from);
    keep(&root.bytes)?;
    let descriptor = root.descriptor.clone();
    walk(descriptor, &mut |document| {
        if document.digest() == root.descriptor.digest() {
            return Ok(root.bytes.clone());
        }
        let found = client.manifest(&by_digest(from, document.digest())).map_err(failed)?;
        keep(&found.bytes)?;
        Ok(found.bytes)
    })
}

/// Reads an image whose documents are in the store.
pub fn stored(store: &Store, root: Descriptor) -> Result<WholeImage, TransferError> {
    walk(root, &mut |document| document_of(store, document))
}

/// A document of the store.
pub fn document_of(store: &Store, document: &Descriptor) -> Result<Vec<u8>, TransferError> {
    Ok(store.blobs().read(document.digest(), DOCUMENT_LIMIT)?)
}

/// Makes sure that the store has a blob.
pub fn fetch(
    client: &registry::Client,
    store: &Store,
    from: &Reference,
    blob: &Descriptor,
) -> Result<(), TransferError> {
    let (digest, size) = (blob.digest(), blob.size());
    if store.blobs().has(digest) == Some(size) {
        return Ok(());
    }
    let mut writer = store.blobs().writer()?;
    client.pull_blob(from, blob, &mut writer).map_err(|source| TransferError::Registry {
        action: "fetch a layer of",
        reference: from.whole(),
        source: Box::new(source),
    })?;
    writer.commit(Some((digest, size)))?;
    Ok(())
}

/// Makes sure that the store has any part of an image, its documents included.
pub fn fetch_any(
    client: &registry::Client,
    store: &Store,
    from: &Reference,
    part: &Descriptor,
) -> Result<(), TransferError> {
    if Kind::of(part.media_type()).is_none() {
        return fetch(client, store, from, part);
    }
    let failed = |source| TransferError::Registry { action: "read", reference: from.whole(), source: Box::new(source) };
    let document = client.manifest(&by_digest(from, part.digest())).map_err(failed)?;
    store.blobs().ingest(Some((part.digest(), part.size())), &mut document.bytes.as_slice())?;
    Ok(())
}

/// Makes sure that the store has every blob of an image.
pub fn fetch_all(
    client: &registry::Client,
    store: &Store,
    from: &Reference,
    image: &WholeImage,
) -> Result<(), TransferError> {
    each(&image.blobs, |blob| fetch(client, store, from, blob))
}

/// Pushes an image whose documents are in the store under a tag. Blobs come from the store, or from `from`: mounted when
/// it is of the same registry, else fetched.
pub fn push(
    client: &registry::Client,
    store: &Store,
    image: &WholeImage,
    (from, to): (Option<&Reference>, &Reference),
    step: &Step<'_>,
) -> Result<(), TransferError> {
    let failed = |source| TransferError::Registry { action: "push", reference: to.whole(), source: Box::new(source) };
    let mount = from.filter(|from| from.registry() == to.registry()).map(Reference::repository);
    each(&image.blobs, |blob| {
        let open = || -> io::Result<Box<dyn Read + Send>> {
            if let Some(from) = from {
                fetch(client, store, from, blob).map_err(io::Error::other)?;
            }
            Ok(Box::new(store.blobs().open(blob.digest()).map_err(io::Error::other)?))
        };
        client.push_blob(to, blob, mount, &open).map(drop).map_err(failed)
    })?;
    for document in &image.documents {
        let bytes = document_of(store, document)?;
        let target = if *document == image.root { to.clone() } else { by_digest(to, document.digest()) };
        client.push_manifest(&target, document.media_type().as_ref(), &bytes).map_err(failed)?;
    }
    step.note(format_args!("{} {}", to.whole(), image.root.digest()));
    Ok(())
}
