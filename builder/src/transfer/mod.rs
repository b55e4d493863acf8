//! An image, or an index with all its images, from one place to others: registries, OCI layouts, archives, the store.
//!
//! ```text
//! Place ─▶ Source ─▶ Parts (manifests, children first; blobs, each once) ─▶ registry │ layout │ archive │ store
//! ```
//!
//! Documents are passed on byte for byte, so a digest is the same wherever an image is. What refers is written after
//! what it refers to, and a name last of all.

mod archive;
mod directory;
mod parts;
mod place;
mod remote;
mod source;
mod stored;

use std::io;
use std::path::PathBuf;

use oci_spec::image::{Descriptor, Digest, Platform};
use registry::Reference;
use snapshot::Store;

use crate::layout::LayoutError;
use crate::parallel;
use crate::progress::Step;

pub use parts::Parts;
pub use place::{Place, PlaceError};
pub use source::Source;

/// Blobs in flight at a time.
const CONCURRENT_BLOBS: usize = 4;

/// What a transfer stands on.
#[derive(Debug, Clone, Copy)]
pub struct Machine<'a> {
    /// Speaks to registries.
    pub client: &'a registry::Client,
    /// rbuild's store, for places in it.
    pub store: Option<&'a Store>,
    /// Is told what happens.
    pub step: &'a Step<'a>,
}

/// Which images of an index.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Choice {
    /// All, and the index itself.
    All,
    /// All, and what refers to any of them. From registries to registries only: elsewhere nothing would list it.
    AllWithReferrers,
    /// The one for a platform, without the index.
    One(Platform),
}

/// Why an image did not arrive.
#[derive(Debug, thiserror::Error)]
pub enum TransferError {
    /// A registry.
    #[error(transparent)]
    Registry(#[from] Box<registry::Error>),
    /// A layout or archive that is read.
    #[error(transparent)]
    Layout(#[from] LayoutError),
    /// The store.
    #[error(transparent)]
    Store(#[from] snapshot::Error),
    /// A file that is written.
    #[error("cannot write `{}`", path.display())]
    Write {
        /// The file or directory.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A document that cannot be followed.
    #[error("cannot copy `{image}`: {problem}")]
    Image {
        /// Where it is.
        image: String,
        /// What is wrong with it.
        problem: String,
    },
    /// A blob whose bytes cannot be read where they should be.
    #[error("cannot read blob `{digest}` of `{image}`")]
    Blob {
        /// Where it should be.
        image: String,
        /// The blob.
        digest: Digest,
        /// Why.
        source: io::Error,
    },
    /// A place in the store, for a caller that gave none.
    #[error("`{place}` is in rbuild's store, which is not open here")]
    NoStore {
        /// The place.
        place: String,
    },
}

impl From<registry::Error> for TransferError {
    fn from(error: registry::Error) -> Self {
        Self::Registry(Box::new(error))
    }
}

impl TransferError {
    /// Whether a registry is at fault.
    pub fn is_registry(&self) -> bool {
        matches!(self, Self::Registry(_))
    }
}

/// Copies an image to every one of some places; answers what it is.
///
/// Places of one registry share blobs: the first repository gets them, the others mount them from it.
pub fn copy(machine: &Machine<'_>, from: &Place, to: &[Place], choice: &Choice) -> Result<Descriptor, TransferError> {
    let source = Source::open(machine, from)?;
    // Where one image is meant, the index is not: archives for docker and the store hold images.
    let one = to.iter().any(|place| matches!(place, Place::DockerArchive { .. } | Place::Store(_)));
    let host = Choice::One(host());
    let mut parts = Parts::collect(&source, if one && *choice == Choice::All { &host } else { choice })?;
    if *choice == Choice::AllWithReferrers {
        if let Some(other) = to.iter().find(|place| !matches!(place, Place::Registry(_))) {
            return Err(source.wrong(format!("what refers to it cannot go to `{other}` in this version")));
        }
        parts.add_referrers(&source)?;
    }
    for layer in &parts.foreign {
        let (layer, kind) = (short(layer), layer.media_type());
        machine.step.note(format_args!("{layer} is left where it is: a `{kind}` may not be distributed"));
    }
    let mut done: Vec<&Reference> = Vec::new();
    for place in to {
        match place {
            Place::Registry(reference) => {
                remote::write(machine, &source, &parts, reference, &done)?;
                done.push(reference);
            }
            Place::Layout { path, pick } => directory::write(machine, &source, &parts, path, pick.as_deref())?,
            Place::OciArchive { path, pick } => archive::write_oci(&source, &parts, path, pick.as_deref())?,
            Place::DockerArchive { path, pick } => archive::write_docker(&source, &parts, path, pick.as_deref())?,
            Place::Store(name) => stored::write(machine, &source, &parts, name)?,
        }
        machine.step.note(format_args!("{place} {}", parts.root().digest()));
    }
    Ok(parts.root().clone())
}

/// The platform of this machine.
pub fn host() -> Platform {
    (&crate::graph::platform::Platform::host()).into()
}

/// The same repository, and a digest in it.
pub(crate) fn by_digest(reference: &Reference, digest: &Digest) -> Reference {
    let (registry, repository) = (reference.registry().to_owned(), reference.repository().to_owned());
    Reference::with_digest(registry, repository, digest.to_string())
}

/// Does something with every item, several at a time; after the first failure nothing more is begun.
pub(crate) fn each<T: Sync, E: Send>(items: &[T], work: impl Fn(&T) -> Result<(), E> + Sync) -> Result<(), E> {
    parallel::each(items, CONCURRENT_BLOBS, work).map(drop)
}

/// A blob as logs name it.
pub(crate) fn short(blob: &Descriptor) -> String {
    format!("{:.12} ({} bytes)", blob.digest().digest(), blob.size())
}
