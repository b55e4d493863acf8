//! What an image is made of: its documents, children before parents, and its blobs, each once.

use std::collections::HashSet;

use oci_spec::image::{Descriptor, Digest, ImageIndex, ImageManifest};
use registry::Kind;
use serde::de::DeserializeOwned;

use super::source::Source;
use super::{Choice, TransferError};

/// Deepest nesting of indexes.
const DEPTH_LIMIT: u32 = 4;
/// Most manifests of one index; the largest published ones have some dozens.
const MANIFEST_LIMIT: usize = 1000;
/// Most bytes of all manifests together: they are held in memory.
const BYTES_LIMIT: usize = 64 << 20;
/// What the media types of layers that may not be distributed have in them; nobody but their owner serves them.
const FOREIGN: [&str; 2] = [".nondistributable.", ".foreign."];

/// All of an image, or of an index with its images.
#[derive(Debug)]
pub struct Parts {
    /// Descriptor and bytes of each manifest and index; the root is the last.
    pub(super) documents: Vec<(Descriptor, Vec<u8>)>,
    /// Configs and layers.
    pub(super) blobs: Vec<Descriptor>,
    /// Layers that stay where they are: their media type says that they may not be distributed.
    pub(super) foreign: Vec<Descriptor>,
    seen: HashSet<Digest>,
    /// Bytes of all documents.
    bytes: usize,
}

impl Parts {
    /// Reads all documents of an image.
    pub fn collect(source: &Source<'_>, choice: &Choice) -> Result<Self, TransferError> {
        let (root, bytes) = match choice {
            Choice::All | Choice::AllWithReferrers => source.root()?,
            Choice::One(platform) => source.image(platform)?,
        };
        let mut parts =
            Self { documents: Vec::new(), blobs: Vec::new(), foreign: Vec::new(), seen: HashSet::new(), bytes: 0 };
        parts.add(source, root, bytes, 0)?;
        Ok(parts)
    }

    /// Adds what refers to the image, or to an image of the index: signatures, attestations, and what refers to those.
    pub(super) fn add_referrers(&mut self, source: &Source<'_>) -> Result<(), TransferError> {
        // They are written before the root, which gets the name.
        let (root, bytes) = self.documents.pop().expect("there is a root");
        let mut open: Vec<Digest> = self.documents.iter().map(|(document, _)| document.digest().clone()).collect();
        open.push(root.digest().clone());
        self.seen.insert(root.digest().clone());
        while let Some(subject) = open.pop() {
            for referrer in source.referrers(&subject)? {
                if self.seen.insert(referrer.digest().clone()) {
                    self.check_count(source)?;
                    open.push(referrer.digest().clone());
                    let bytes = source.document(&referrer)?;
                    self.add(source, referrer, bytes, 0)?;
                }
            }
        }
        self.documents.push((root, bytes));
        Ok(())
    }

    fn check_count(&self, source: &Source<'_>) -> Result<(), TransferError> {
        if self.documents.len() >= MANIFEST_LIMIT || self.bytes > BYTES_LIMIT {
            return Err(source.wrong(format!(
                "it has more than {MANIFEST_LIMIT} manifests, or more than {BYTES_LIMIT} bytes of them"
            )));
        }
        Ok(())
    }

    /// Describes the image or index as a whole.
    pub fn root(&self) -> &Descriptor {
        &self.documents.last().expect("there is a root").0
    }

    /// The bytes of the image or index as a whole.
    pub fn root_bytes(&self) -> &[u8] {
        &self.documents.last().expect("there is a root").1
    }

    /// All image manifests.
    pub fn images(&self) -> impl Iterator<Item = (&Descriptor, ImageManifest)> {
        self.documents
            .iter()
            .filter(|(descriptor, _)| Kind::of(descriptor.media_type()) == Some(Kind::Image))
            .filter_map(|(descriptor, bytes)| Some((descriptor, serde_json::from_slice(bytes).ok()?)))
    }

    /// The manifest of the one image that this is; none of an index.
    pub(super) fn image(&self) -> Option<ImageManifest> {
        match self.documents.as_slice() {
            [(_, bytes)] => serde_json::from_slice(bytes).ok(),
            _ => None,
        }
    }

    fn add(
        &mut self,
        source: &Source<'_>,
        descriptor: Descriptor,
        bytes: Vec<u8>,
        depth: u32,
    ) -> Result<(), TransferError> {
        self.bytes += bytes.len();
        let digest = descriptor.digest();
        let wrong = |problem| source.wrong(format!("`{digest}` is malformed: {problem}"));
        let media_type = registry::media_type(descriptor.media_type().as_ref(), &bytes).map_err(wrong)?;
        match Kind::of(&media_type) {
            Some(Kind::Image) => {
                let image: ImageManifest = parse(source, digest, &bytes)?;
                let is_foreign =
                    |layer: &Descriptor| FOREIGN.iter().any(|part| layer.media_type().as_ref().contains(part));
                for blob in std::iter::once(image.config()).chain(image.layers()) {
                    if self.seen.insert(blob.digest().clone()) {
                        (if is_foreign(blob) { &mut self.foreign } else { &mut self.blobs }).push(blob.clone());
                    }
                }
            }
            Some(Kind::Index) if depth >= DEPTH_LIMIT => {
                return Err(source.wrong(format!("its indexes are nested more than {DEPTH_LIMIT} deep")));
            }
            Some(Kind::Index) => {
                let index: ImageIndex = parse(source, digest, &bytes)?;
                for child in index.manifests() {
                    if !self.seen.insert(child.digest().clone()) {
                        continue;
                    }
                    if Kind::of(child.media_type()).is_none() {
                        let media_type = child.media_type().to_string();
                        return Err(source.wrong(format!(
                            "its index lists a `{}`, which is neither an image nor an index",
                            media_type.escape_default()
                        )));
                    }
                    self.check_count(source)?;
                    self.add(source, child.clone(), source.document(child)?, depth + 1)?;
                }
            }
            None => {
                let media_type = media_type.to_string();
                return Err(source.wrong(format!("it is a `{}`, and no image", media_type.escape_default())));
            }
        }
        self.documents.push((descriptor, bytes));
        Ok(())
    }
}

fn parse<T: DeserializeOwned>(source: &Source<'_>, digest: &Digest, bytes: &[u8]) -> Result<T, TransferError> {
    serde_json::from_slice(bytes).map_err(|error| source.wrong(format!("`{digest}` is malformed: {error}")))
}
