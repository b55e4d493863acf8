//! From a reference to one image: through an index, or indexes in indexes, to the manifest for a platform.

use oci_spec::image::{Descriptor, ImageConfiguration, ImageIndex, ImageManifest, MediaType, Platform};
use serde::de::DeserializeOwned;

use super::manifest::Kind;
use super::{Client, Known, Manifest, Resolved, malformed};
use crate::auth::Access;
use crate::platform::{is_unknown, rank, shown};
use crate::{Action, Error, Reference, digest};

/// Deepest nesting of indexes; one level is what people publish.
const DEPTH_LIMIT: u32 = 4;
/// Most manifests that one resolution fetches: an index may list many that only their configs tell apart.
const FETCH_LIMIT: u32 = 32;
/// Largest image config, in bytes; containerd's limit for metadata.
const CONFIG_LIMIT: u64 = 8 * 1024 * 1024;
/// Docker's image config.
const DOCKER_CONFIG: &str = "application/vnd.docker.container.image.v1+json";
/// Docker's layers, beside the OCI ones.
const DOCKER_LAYERS: [&str; 5] = [
    "application/vnd.docker.image.rootfs.diff.tar",
    "application/vnd.docker.image.rootfs.diff.tar.gzip",
    "application/vnd.docker.image.rootfs.diff.tar.zstd",
    "application/vnd.docker.image.rootfs.foreign.diff.tar",
    "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip",
];
/// Most platforms that an error lists.
const SHOWN_LIMIT: usize = 16;

/// What is to be resolved.
#[derive(Clone, Copy)]
pub(super) struct Wanted<'a> {
    pub(super) reference: &'a Reference,
    pub(super) platform: &'a Platform,
    /// Configs that need not be fetched.
    pub(super) known: &'a Known<'a>,
}

/// One resolution.
struct Search<'a> {
    client: &'a Client,
    access: Access,
    wanted: Wanted<'a>,
    fetches: u32,
    /// Platforms that were passed over.
    others: Vec<String>,
}

pub(super) fn resolve(client: &Client, access: &Access, wanted: Wanted<'_>) -> Result<Resolved, Error> {
    let access = access.clone();
    let mut search = Search { client, access, wanted, fetches: 1, others: Vec::new() };
    let first = client.fetch_manifest(&search.access, None)?;
    let found = match kind(&search.access.action, first.descriptor.media_type())? {
        Kind::Image => Some(search.load(first)?),
        Kind::Index => search.choose(&first, 1)?,
    };
    found.ok_or_else(|| {
        search.others.sort_unstable();
        search.others.dedup();
        search.others.truncate(SHOWN_LIMIT);
        let available = if search.others.is_empty() { "none".to_owned() } else { search.others.join(", ") };
        Error::NoPlatform { reference: wanted.reference.whole(), wanted: shown(wanted.platform), available }
    })
}

impl Search<'_> {
    /// Finds the best image of an index: those of the platform, best variant first, then those without a platform.
    fn choose(&mut self, index: &Manifest, depth: u32) -> Result<Option<Resolved>, Error> {
        let action = self.access.action.clone();
        if depth > DEPTH_LIMIT {
            return Err(malformed(&action, format!("its indexes are nested more than {DEPTH_LIMIT} deep")));
        }
        let parsed: ImageIndex = parse(&action, "the index", &index.bytes)?;
        if parsed.schema_version() != 2 {
            return Err(malformed(&action, format!("its index is of schema version {}", parsed.schema_version())));
        }
        let mut candidates: Vec<(u32, &Descriptor)> = Vec::new();
        for descriptor in parsed.manifests() {
            match descriptor.platform() {
                Some(platform) if is_unknown(platform) => {}
                Some(platform) => match rank(self.wanted.platform, platform) {
                    Some(rank) => candidates.push((rank, descriptor)),
                    None => self.others.push(shown(platform)),
                },
                None => candidates.push((u32::MAX, descriptor)),
            }
        }
        candidates.sort_by_key(|(rank, _)| *rank);
        for (_, descriptor) in candidates {
            if let Some(found) = self.open(descriptor, depth)? {
                return Ok(Some(found));
            }
        }
        Ok(None)
    }

    /// Looks into one entry of an index. What is neither image nor index (a signature, a chart) is passed over.
    fn open(&mut self, descriptor: &Descriptor, depth: u32) -> Result<Option<Resolved>, Error> {
        let Some(kind) = Kind::of(descriptor.media_type()) else { return Ok(None) };
        self.fetches += 1;
        if self.fetches > FETCH_LIMIT {
            let problem = format!("none of the first {FETCH_LIMIT} manifests of its index is the image");
            return Err(malformed(&self.access.action, problem));
        }
        let name = self.wanted.reference.clone_with_digest(descriptor.digest().to_string());
        let access = Access { action: Action::PullManifest(name.whole()), ..self.access.clone() };
        let manifest = self.client.fetch_manifest(&access, Some(descriptor))?;
        if kind == Kind::Index {
            return self.choose(&manifest, depth + 1);
        }
        if descriptor.platform().is_none() && !is_image(&manifest.bytes) {
            return Ok(None);
        }
        let mut found = self.load(manifest)?;
        if let Some(platform) = descriptor.platform() {
            found.descriptor.set_platform(Some(platform.clone()));
            return Ok(Some(found));
        }
        let config: ImageConfiguration = parse(&access.action, "the image config", &found.config)?;
        let mut platform = Platform::default();
        platform.set_os(config.os().clone());
        platform.set_architecture(config.architecture().clone());
        platform.set_variant(config.variant().clone());
        if rank(self.wanted.platform, &platform).is_some() {
            return Ok(Some(found));
        }
        self.others.push(shown(&platform));
        Ok(None)
    }

    /// Parses an image manifest and fetches its config.
    fn load(&self, manifest: Manifest) -> Result<Resolved, Error> {
        let action = &self.access.action;
        let parsed: ImageManifest = parse(action, "the image manifest", &manifest.bytes)?;
        if parsed.schema_version() != 2 {
            return Err(malformed(action, format!("its manifest is of schema version {}", parsed.schema_version())));
        }
        if !is_config(parsed.config().media_type()) {
            return Err(malformed(action, format!("its config is `{}`: not an image", parsed.config().media_type())));
        }
        if let Some(layer) = parsed.layers().iter().find(|layer| !is_layer(layer.media_type())) {
            return Err(malformed(action, format!("its layer `{}` is `{}`", layer.digest(), layer.media_type())));
        }
        if parsed.config().size() > CONFIG_LIMIT {
            let action = Box::new(action.clone());
            return Err(Error::TooLarge { action, what: "the image config", limit: CONFIG_LIMIT });
        }
        let is_config = |bytes: &Vec<u8>| digest::check(bytes, parsed.config().digest(), action).is_ok();
        let known = (self.wanted.known)(parsed.config()).filter(is_config);
        let config = known.map_or_else(|| self.fetch(parsed.config()), Ok)?;
        let Manifest { descriptor, bytes } = manifest;
        Ok(Resolved { descriptor, manifest: parsed, manifest_bytes: bytes, config })
    }

    fn fetch(&self, config: &Descriptor) -> Result<Vec<u8>, Error> {
        let mut bytes = Vec::new();
        self.client.pull_blob(self.wanted.reference, config, &mut bytes)?;
        Ok(bytes)
    }
}

/// Says whether a manifest without a platform is that of an image, and not of a signature or chart.
fn is_image(bytes: &[u8]) -> bool {
    serde_json::from_slice::<ImageManifest>(bytes).is_ok_and(|manifest| is_config(manifest.config().media_type()))
}

fn kind(action: &Action, media_type: &MediaType) -> Result<Kind, Error> {
    Kind::of(media_type).ok_or_else(|| {
        let name = media_type.as_ref().escape_default();
        malformed(action, format!("it is `{name}`: neither an image nor an index"))
    })
}

fn is_config(media_type: &MediaType) -> bool {
    *media_type == MediaType::ImageConfig || media_type.as_ref() == DOCKER_CONFIG
}

fn is_layer(media_type: &MediaType) -> bool {
    match media_type {
        MediaType::ImageLayer
        | MediaType::ImageLayerGzip
        | MediaType::ImageLayerZstd
        | MediaType::ImageLayerNonDistributable
        | MediaType::ImageLayerNonDistributableGzip
        | MediaType::ImageLayerNonDistributableZstd => true,
        other => DOCKER_LAYERS.contains(&other.as_ref()),
    }
}

fn parse<T: DeserializeOwned>(action: &Action, what: &'static str, bytes: &[u8]) -> Result<T, Error> {
    serde_json::from_slice(bytes).map_err(|source| Error::Json { action: Box::new(action.clone()), what, source })
}
