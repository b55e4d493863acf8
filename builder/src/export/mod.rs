//! A solved image to where it is wanted: the store's tags, a registry, an archive, a directory.

mod ahead;
pub(crate) mod archive;
pub mod compression;
pub mod output;
mod push;
mod rootfs;
mod streams;
pub mod tags;
mod uploads;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use snapshot::Layer;

use crate::image::Image;
use crate::solve::tree::Tree;
use crate::solve::{Cause, World};

pub use ahead::pushing;
pub use compression::CompressionError;
pub use output::{Destination, Output, OutputError, OutputSpec};
pub use uploads::Uploads;

/// Why an output could not be made.
#[derive(Debug, thiserror::Error)]
pub enum ExportError {
    /// A layer could not be made or fetched.
    #[error("cannot make the image's layers")]
    Layers(#[source] Box<Cause>),
    /// A registry did not take the image.
    #[error("cannot push `{reference}`")]
    Push {
        /// The name that was pushed.
        reference: String,
        /// Why.
        source: Box<registry::Error>,
    },
    /// The destination could not be written.
    #[error("cannot write `{}`", path.display())]
    Write {
        /// The destination.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// The destination could not be written.
    #[error("cannot write `{}`", path.display())]
    Tree {
        /// The destination.
        path: PathBuf,
        /// Why.
        source: Box<snapshot::Error>,
    },
    /// The store.
    #[error(transparent)]
    Store(#[from] snapshot::Error),
    /// The caller cancelled the build when its steps were done.
    #[error("the build was cancelled")]
    Cancelled,
}

/// Fails where a file that is written when all is built has no place: nobody should wait for the steps to learn that.
pub fn check_file(path: &Path) -> std::io::Result<()> {
    if path.is_dir() {
        return Err(std::io::ErrorKind::IsADirectory.into());
    }
    let directory = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    if fs_err::metadata(directory)?.is_dir() { Ok(()) } else { Err(std::io::ErrorKind::NotADirectory.into()) }
}

/// The same of the archives among outputs.
pub(crate) fn check(outputs: &[Output]) -> Result<(), ExportError> {
    let archive = |output: &Output| match output {
        Output::Oci { destination: Destination::File(path), tar: true }
        | Output::Docker { destination: Destination::File(path) }
        | Output::Tar { destination: Destination::File(path) } => Some(path.clone()),
        Output::Push
        | Output::Store
        | Output::Local { .. }
        | Output::Oci { .. }
        | Output::Docker { destination: Destination::Stdout }
        | Output::Tar { destination: Destination::Stdout } => None,
    };
    outputs.iter().filter_map(archive).try_for_each(|path| {
        let checked = check_file(&path);
        checked.map_err(|source| ExportError::Write { path, source })
    })
}

/// Fails once the build is cancelled: a cancelled build moves no name.
pub(crate) fn wanted(world: &World<'_>) -> Result<(), ExportError> {
    if world.cancel.is_cancelled() { Err(ExportError::Cancelled) } else { Ok(()) }
}

impl From<Cause> for ExportError {
    fn from(cause: Cause) -> Self {
        Self::Layers(Box::new(cause))
    }
}

/// An image and the tree that it came from.
#[derive(Debug)]
pub struct Exported<'a> {
    /// The documents.
    pub image: &'a Image,
    /// The layers' files.
    pub tree: &'a Tree,
    /// The names given with `-t`.
    pub tags: &'a [registry::Reference],
}

/// Keeps the image in the store under its names.
pub fn store(world: &World<'_>, exported: &Exported<'_>) -> Result<(), ExportError> {
    let image = exported.image;
    for (blob, bytes) in [(&image.config_descriptor, &image.config), (&image.descriptor, &image.manifest)] {
        if !world.store.blobs().has_verified(blob.digest(), blob.size()) {
            world.store.blobs().ingest(None, &mut bytes.as_slice())?;
        }
    }
    let origins = origins(exported.tree);
    for tag in exported.tags {
        tags::put_with_origins(world.store, tag, image, &origins)?;
    }
    Ok(())
}

/// Where the layers of a tree come from that a registry has.
fn origins(tree: &Tree) -> BTreeMap<String, String> {
    let images = tree.layers().iter().filter_map(|layer| layer.image());
    let pulled = images.filter(|(image, _)| image.layout.is_none());
    pulled.map(|(image, layer)| (layer.blob.digest().to_string(), image.reference.whole())).collect()
}

/// Makes one output; `uploads` were begun for it.
pub fn export(
    world: &World<'_>,
    output: &Output,
    exported: &Exported<'_>,
    uploads: &Uploads,
) -> Result<(), ExportError> {
    match output {
        Output::Push => push::push(world, exported, uploads),
        Output::Store => {
            for (position, layer) in exported.image.layers.iter().enumerate() {
                open_layer(world, exported.tree, position, layer)?;
            }
            Ok(())
        }
        Output::Oci { destination, tar: true } => archive::oci(world, exported, destination),
        Output::Oci { destination, tar: false } => archive::layout(world, exported, destination),
        Output::Docker { destination } => archive::docker(world, exported, destination),
        Output::Local { destination } => rootfs::directory(world, exported.tree, destination),
        Output::Tar { destination } => rootfs::tar(world, exported.tree, destination),
    }
}

/// Makes sure that the store has the bytes of a layer, and opens them.
fn open_layer(world: &World<'_>, tree: &Tree, position: usize, layer: &Layer) -> Result<fs_err::File, Cause> {
    if let Some((image, pulled)) = tree.layers()[position].image().filter(|(_, pulled)| *pulled == layer) {
        crate::solve::fetch(world, image, pulled)?;
    }
    tree.obtain(position, layer, world)?;
    Ok(world.store.blobs().open_verified(layer.blob.digest())?)
}
