//! What `builds export` makes and `builds import` reads: gzip(tar(`build.json`, one OCI archive a service)).
//!
//! Convox reads it; `rbuild.json` and `log.txt`, which it skips, keep what it forgets. Everything streams.

mod docker;
mod export;
mod import;

pub use export::{Exporter, export};
pub use import::{Imported, import};

use std::io;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::record::ServiceImage;
use super::transfer::TransferError;

/// `rbuild.json`.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", default)]
pub struct Extra {
    /// The commit that was built.
    pub git_sha: String,
    /// The entrypoint of the image that was built last.
    pub entrypoint: String,
    /// The images as they were when the archive was made.
    pub images: Vec<ServiceImage>,
}

/// Why an archive cannot be written or read.
#[derive(Debug, thiserror::Error)]
pub enum ArchiveError {
    /// The stream.
    #[error("cannot {action} the archive")]
    Stream {
        /// `read` or `write`.
        action: &'static str,
        /// Why.
        source: io::Error,
    },
    /// A blob of an image that cannot be had.
    #[error("cannot export the image of the service `{service}`")]
    Image {
        /// The service.
        service: String,
        /// Why.
        source: Box<TransferError>,
    },
    /// A build without images.
    #[error("the build has no images to export")]
    NoImages,
    /// No `build.json`.
    #[error("the archive has no build.json: it is not an export of a build")]
    NoBuild,
    /// A document that does not parse.
    #[error("`{document}` of the archive is malformed")]
    Document {
        /// Its name.
        document: String,
        /// Why.
        source: serde_json::Error,
    },
    /// A document that is absurdly large.
    #[error("`{document}` of the archive is larger than {limit} bytes")]
    TooLarge {
        /// Its name.
        document: String,
        /// The most that is read.
        limit: u64,
    },
    /// An image archive that is none.
    #[error("`{}` of the archive is {problem}", path.display())]
    NotAnImage {
        /// The image archive.
        path: PathBuf,
        /// What is wrong.
        problem: &'static str,
    },
    /// A blob that an image names and the archive does not have.
    #[error("the archive is incomplete: `{}` names the blob `{digest}` and does not have it", path.display())]
    Missing {
        /// The image archive.
        path: PathBuf,
        /// The blob.
        digest: String,
    },
    /// A blob that is not what its name says.
    #[error("the archive is damaged: `{name}` in `{}`", path.display())]
    Damaged {
        /// The image archive.
        path: PathBuf,
        /// The file in it.
        name: String,
        /// What was found.
        source: Box<snapshot::Error>,
    },
    /// A service that the manifest names and the archive does not have.
    #[error("the archive has no image for the service `{0}`")]
    NoService(String),
    /// An image's documents.
    #[error(transparent)]
    Transfer(#[from] TransferError),
    /// The store.
    #[error("cannot keep the images in the store")]
    Store(#[from] snapshot::Error),
}
