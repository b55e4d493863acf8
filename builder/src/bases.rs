//! Between the Dockerfile and its graph: every image that it names, pinned to one manifest, concurrently.

use std::collections::BTreeMap;
use std::sync::Arc;

use oci_spec::image::{Descriptor, Digest, DigestAlgorithm};
use snapshot::BlobStore;

use crate::dockerfile::Span;
use crate::graph::PinnedImage;
use crate::graph::config::ImageConfig;
use crate::graph::platform::{Platform, PlatformError};
use crate::graph::references::ImageName;
use crate::layout::{self, LayoutError};
use crate::parallel;
use crate::progress::Reporter;

/// Why an image could not be pinned.
#[derive(Debug, thiserror::Error)]
pub enum BaseError {
    /// The registry did not give it.
    #[error("cannot resolve the base image `{reference}`")]
    Resolve {
        /// The image.
        reference: String,
        /// The lines that name it.
        span: Span,
        /// Why.
        source: Box<registry::Error>,
    },
    /// An OCI layout did not give it.
    #[error("cannot use the named context `{name}`")]
    Layout {
        /// The context, by its canonical name.
        name: String,
        /// The lines that name it.
        span: Span,
        /// Why.
        source: Box<LayoutError>,
    },
    /// Its config is not one.
    #[error("the config of `{reference}` is not an image config")]
    Config {
        /// The image.
        reference: String,
        /// The lines that name it.
        span: Span,
        /// What the JSON reader says.
        source: serde_json::Error,
    },
    /// Its config names fewer or more layers than its manifest.
    #[error("`{reference}` is malformed: its manifest has {layers} layers and its config {diff_ids}")]
    LayerCount {
        /// The image.
        reference: String,
        /// The lines that name it.
        span: Span,
        /// Layers of the manifest.
        layers: usize,
        /// diff_ids of the config.
        diff_ids: usize,
    },
    /// The store.
    #[error("cannot use the store")]
    Store(#[from] snapshot::Error),
    /// A name that changed between selection and resolution; cannot happen for names that the graph selected.
    #[error(transparent)]
    Platform(#[from] PlatformError),
}

impl BaseError {
    /// The lines of the Dockerfile that name the image.
    pub fn span(&self) -> Option<Span> {
        match self {
            Self::Resolve { span, .. }
            | Self::Layout { span, .. }
            | Self::Config { span, .. }
            | Self::LayerCount { span, .. } => Some(*span),
            Self::Store(_) | Self::Platform(_) => None,
        }
    }
}

/// Images that are looked up at a time: each waits for its registry.
const CONCURRENT: usize = 16;

/// Where images are looked up.
#[derive(Debug, Clone, Copy)]
pub struct Places<'a> {
    /// The registries.
    pub client: &'a registry::Client,
    /// Where configs are kept, so that none is fetched twice.
    pub configs: Option<&'a BlobStore>,
}

/// Pins every image, many at once; the first error ends it.
pub fn resolve(
    places: Places<'_>,
    images: &BTreeMap<ImageName, Span>,
    reporter: &Reporter<'_>,
) -> Result<BTreeMap<ImageName, Arc<PinnedImage>>, BaseError> {
    let images: Vec<(&ImageName, Span)> = images.iter().map(|(name, span)| (name, *span)).collect();
    let pinned = parallel::each(&images, CONCURRENT, |&(name, span)| {
        let step = reporter.start(&format!("resolve {}", name.reference), None);
        step.finish(pin(places, name, span)).map(|image| (name.clone(), Arc::new(image)))
    });
    Ok(pinned?.into_iter().collect())
}

fn pin(places: Places<'_>, name: &ImageName, span: Span) -> Result<PinnedImage, BaseError> {
    let shown = || name.reference.clone();
    let reference = match registry::reference::parse(&name.reference) {
        // A context may have a name that no image has.
        Err(_) if name.layout.is_some() => registry::reference::parse("oci-layout"),
        reference => reference,
    };
    let reference = reference.expect("the graph made it from a reference");
    let platform: Platform = name.platform.parse()?;
    let wanted = oci_spec::image::Platform::from(&platform);
    let (digest, manifest, config) = if let Some(layout) = &name.layout {
        let found = layout::resolve(layout, &wanted);
        let found = found.map_err(|source| BaseError::Layout { name: shown(), span, source: Box::new(source) })?;
        (found.descriptor.digest().clone(), found.manifest, found.config)
    } else {
        let known = |config: &Descriptor| places.configs?.read(config.digest(), config.size()).ok();
        let found = places.client.resolve_knowing(&reference, &wanted, &known);
        let found =
            found.map_err(|source| BaseError::Resolve { reference: shown(), span, source: Box::new(source) })?;
        keep(places, &found)?;
        (found.descriptor.digest().clone(), found.manifest, found.config)
    };
    let config: ImageConfig =
        serde_json::from_slice(&config).map_err(|source| BaseError::Config { reference: shown(), span, source })?;
    let layers = manifest.layers();
    if layers.len() != config.rootfs.diff_ids.len() {
        let (layers, diff_ids) = (layers.len(), config.rootfs.diff_ids.len());
        return Err(BaseError::LayerCount { reference: shown(), span, layers, diff_ids });
    }
    let layers = layers.iter().zip(&config.rootfs.diff_ids).map(|(blob, diff_id)| layer(blob, diff_id)).collect();
    let layout = name.layout.as_ref().map(|layout| layout.path.clone());
    Ok(PinnedImage { reference, layout, manifest: digest, config, layers })
}

/// Keeps a config for the next build.
fn keep(places: Places<'_>, found: &registry::Resolved) -> Result<(), BaseError> {
    let config = found.manifest.config();
    let Some(configs) = places.configs else { return Ok(()) };
    // To look it up counts as a use of it. The store takes no other digests than those of SHA-256.
    let is_kept = configs.has(config.digest()) == Some(config.size());
    if !is_kept && *config.digest().algorithm() == DigestAlgorithm::Sha256 {
        configs.ingest(Some((config.digest(), config.size())), &mut found.config.as_slice())?;
    }
    Ok(())
}

fn layer(blob: &Descriptor, diff_id: &Digest) -> snapshot::Layer {
    snapshot::Layer { diff_id: diff_id.clone(), blob: blob.clone() }
}
