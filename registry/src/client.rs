//! The registry client: one method for each thing a builder asks of a registry.

use std::io::{self, Read, Write};

use oci_spec::image::{Descriptor, Digest, ImageManifest, Platform};

use crate::{Error, Options, Reference};

/// A client of any number of registries. Cheap to share: all methods take `&self` from any thread.
#[derive(Debug)]
pub struct Client {
    options: Options,
}

/// A manifest or index as the registry holds it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Manifest {
    /// Media type, size, and the digest computed from `bytes`.
    pub descriptor: Descriptor,
    /// The document, unchanged.
    pub bytes: Vec<u8>,
}

/// One image, chosen for a platform.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Resolved {
    /// The chosen image manifest.
    pub descriptor: Descriptor,
    /// It, parsed.
    pub manifest: ImageManifest,
    /// It, unchanged.
    pub manifest_bytes: Vec<u8>,
    /// The image config, unchanged; verified against its descriptor.
    pub config: Vec<u8>,
}

/// How a blob came to be in a repository.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pushed {
    /// It was there.
    Existed,
    /// The registry took it from another of its repositories.
    Mounted,
    /// It was uploaded.
    Uploaded,
}

#[expect(clippy::unused_self, clippy::unimplemented, unused_variables, reason = "signatures first")]
impl Client {
    /// Makes a client; connects to nothing.
    pub fn new(options: Options) -> Result<Self, Error> {
        Ok(Self { options })
    }

    /// Fetches the manifest or index that a tag or digest names.
    pub fn manifest(&self, reference: &Reference) -> Result<Manifest, Error> {
        unimplemented!()
    }

    /// Follows a reference to the one image for a platform, through an index where there is one.
    pub fn resolve(&self, reference: &Reference, platform: &Platform) -> Result<Resolved, Error> {
        unimplemented!()
    }

    /// Streams a blob into `out`.
    pub fn pull_blob(&self, reference: &Reference, descriptor: &Descriptor, out: &mut dyn Write) -> Result<(), Error> {
        unimplemented!()
    }

    /// Says whether the repository has a blob.
    pub fn has_blob(&self, reference: &Reference, digest: &Digest) -> Result<bool, Error> {
        unimplemented!()
    }

    /// Makes the repository have a blob: it is there, or mounted from another repository, or uploaded.
    pub fn push_blob(
        &self,
        reference: &Reference,
        descriptor: &Descriptor,
        mount_from: Option<&str>,
        open: &dyn Fn() -> io::Result<Box<dyn Read + Send>>,
    ) -> Result<Pushed, Error> {
        unimplemented!()
    }

    /// Puts a manifest or index under the reference's tag, or under its digest.
    pub fn push_manifest(&self, reference: &Reference, media_type: &str, bytes: &[u8]) -> Result<Digest, Error> {
        unimplemented!()
    }

    /// Lists the tags of a repository.
    pub fn tags(&self, reference: &Reference) -> Result<Vec<String>, Error> {
        unimplemented!()
    }
}
