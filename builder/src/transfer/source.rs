//! Where an image is read from.

use std::io::{self, Read, Write};

use oci_spec::image::{Descriptor, Digest, Platform};
use registry::Reference;
use snapshot::digest::HashingReader;

use super::{Machine, Place, TransferError};
use crate::export::tags::{self, Tag};
use crate::layout::{Layout, LayoutError};

/// The largest manifest, index or config, in bytes; containerd's limit for metadata.
const DOCUMENT_LIMIT: u64 = 8 << 20;

/// An image that can be read.
#[derive(Debug)]
pub struct Source<'a> {
    machine: Machine<'a>,
    kind: Kind,
    /// Where it is, for messages.
    shown: String,
}

#[derive(Debug)]
enum Kind {
    Registry(Reference),
    Layout { layout: Layout, pick: Option<String> },
    Store(Box<Tag>),
}

impl<'a> Source<'a> {
    /// Opens a place; of a registry nothing is asked yet.
    pub fn open(machine: &Machine<'a>, place: &Place) -> Result<Self, TransferError> {
        let kind = match place {
            Place::Registry(reference) => Kind::Registry(reference.clone()),
            Place::Layout { path, pick } => Kind::Layout { layout: Layout::directory(path)?, pick: pick.clone() },
            Place::OciArchive { path, pick } | Place::DockerArchive { path, pick } => {
                Kind::Layout { layout: Layout::archive(path)?, pick: pick.clone() }
            }
            Place::Store(name) => {
                let store = machine.store.ok_or_else(|| TransferError::NoStore { place: place.to_string() })?;
                let tag = tags::list(store)?.into_iter().find(|tag| tag.name == name.whole());
                let missing = || TransferError::Image {
                    image: place.to_string(),
                    problem: "the store has no image of this name; `rbuild images` lists those that it has".into(),
                };
                Kind::Store(Box::new(tag.ok_or_else(missing)?))
            }
        };
        Ok(Self { machine: *machine, kind, shown: place.to_string() })
    }

    /// The manifest or index that the place names.
    pub(super) fn root(&self) -> Result<(Descriptor, Vec<u8>), TransferError> {
        match &self.kind {
            Kind::Registry(reference) => {
                let found = self.machine.client.manifest(reference)?;
                Ok((found.descriptor, found.bytes))
            }
            Kind::Layout { layout, pick } => match layout.find(pick.as_deref())?.as_slice() {
                [one] => Ok(((*one).clone(), layout.document(one)?)),
                several => Err(self.wrong(format!(
                    "{} images have this name; choose one with `@DIGEST` or `--platform`",
                    several.len()
                ))),
            },
            Kind::Store(tag) => Ok((tag.manifest.clone(), self.document(&tag.manifest)?)),
        }
    }

    /// The image manifest for a platform.
    pub(super) fn image(&self, platform: &Platform) -> Result<(Descriptor, Vec<u8>), TransferError> {
        match &self.kind {
            Kind::Registry(reference) => {
                let found = self.machine.client.resolve(reference, platform)?;
                Ok((found.descriptor, found.manifest_bytes))
            }
            Kind::Layout { layout, pick } => {
                let found = layout.resolve(pick.as_deref(), platform)?;
                Ok((found.descriptor, found.bytes))
            }
            Kind::Store(tag) => {
                let offered = serde_json::from_slice::<Platform>(&self.document(&tag.config)?);
                if offered.is_ok_and(|offered| registry::rank(platform, &offered).is_some()) {
                    return self.root();
                }
                Err(self.wrong(format!("it is not for {}/{}", platform.os(), platform.architecture())))
            }
        }
    }

    /// Reads a manifest, index or config, verified.
    pub fn document(&self, descriptor: &Descriptor) -> Result<Vec<u8>, TransferError> {
        match &self.kind {
            Kind::Registry(reference) if registry::Kind::of(descriptor.media_type()).is_some() => {
                let reference = reference.clone_with_digest(descriptor.digest().to_string());
                Ok(self.machine.client.manifest(&reference)?.bytes)
            }
            Kind::Registry(_) if descriptor.size() > DOCUMENT_LIMIT => {
                Err(self.wrong(format!("`{}` has more than {DOCUMENT_LIMIT} bytes", descriptor.digest())))
            }
            Kind::Registry(reference) => {
                let mut bytes = Vec::new();
                self.machine.client.pull_blob(reference, descriptor, &mut bytes)?;
                Ok(bytes)
            }
            Kind::Layout { layout, .. } => Ok(layout.document(descriptor)?),
            Kind::Store(_) => {
                let mut bytes = Vec::new();
                self.write(descriptor, &mut bytes)?;
                Ok(bytes)
            }
        }
    }

    /// Lists what refers to a manifest of the image.
    pub(super) fn referrers(&self, subject: &Digest) -> Result<Vec<Descriptor>, TransferError> {
        match &self.kind {
            Kind::Registry(reference) => {
                Ok(self.machine.client.referrers(&reference.clone_with_digest(subject.to_string()))?)
            }
            Kind::Layout { .. } | Kind::Store(_) => {
                Err(self.wrong("what refers to it is read from registries alone in this version".into()))
            }
        }
    }

    /// Writes a blob into `out`, every byte once. What is there may be used only after `Ok`.
    pub(super) fn write(&self, blob: &Descriptor, out: &mut dyn Write) -> Result<(), TransferError> {
        if let Some(reference) = self.remote(blob) {
            return Ok(self.machine.client.pull_blob(&reference, blob, out)?);
        }
        let failed = |source| self.unreadable(blob, source);
        let mut from = HashingReader::new(self.open_blob(blob).map_err(failed)?.take(blob.size() + 1));
        io::copy(&mut from, out).map_err(failed)?;
        if from.bytes == blob.size() && from.finish() == *blob.digest() {
            return Ok(());
        }
        Err(failed(io::Error::new(io::ErrorKind::InvalidData, "its bytes are not those that its digest names")))
    }

    /// The repository that has a blob, where no file has it.
    pub(super) fn remote(&self, blob: &Descriptor) -> Option<Reference> {
        match &self.kind {
            Kind::Registry(reference) => Some(reference.clone()),
            Kind::Layout { .. } => None,
            Kind::Store(tag) => {
                let known =
                    self.machine.store.is_some_and(|store| store.blobs().has(blob.digest()) == Some(blob.size()));
                let origin = tag.origins.get(blob.digest().as_ref()).filter(|_| !known)?;
                registry::reference::parse(origin).ok()
            }
        }
    }

    /// The repository that a registry may mount a blob from.
    pub(super) fn origin(&self, blob: &Descriptor) -> Option<Reference> {
        match &self.kind {
            Kind::Registry(reference) => Some(reference.clone()),
            Kind::Layout { .. } => None,
            Kind::Store(tag) => registry::reference::parse(tag.origins.get(blob.digest().as_ref())?).ok(),
        }
    }

    /// Opens the file that has a blob. Its bytes are not verified yet.
    pub(super) fn open_blob(&self, blob: &Descriptor) -> io::Result<Box<dyn Read + Send>> {
        match &self.kind {
            Kind::Registry(_) => Err(io::Error::new(io::ErrorKind::NotFound, "no file has it")),
            Kind::Layout { layout, .. } => layout.open(blob.digest()).map_err(|error| match error {
                LayoutError::Read { source, .. } => source,
                other => io::Error::other(other),
            }),
            Kind::Store(_) => {
                let store = self.machine.store.ok_or_else(|| io::Error::other("the store is not open"))?;
                Ok(Box::new(store.blobs().open(blob.digest()).map_err(io::Error::other)?))
            }
        }
    }

    /// The error of a blob that cannot be read.
    pub(super) fn unreadable(&self, blob: &Descriptor, source: io::Error) -> TransferError {
        TransferError::Blob { image: self.shown.clone(), digest: blob.digest().clone(), source }
    }

    /// The error of an image that cannot be followed.
    pub(super) fn wrong(&self, problem: String) -> TransferError {
        TransferError::Image { image: self.shown.clone(), problem }
    }
}
