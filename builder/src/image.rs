//! Config + layers → the two documents of an image. Pure.

use oci_spec::image::{Descriptor, Digest, MediaType};
use serde::Serialize;
use snapshot::{Layer, digest::sha256};

use crate::graph::config::ImageConfig;

/// An image, complete but for the bytes of its layers.
#[derive(Debug, Clone, PartialEq)]
pub struct Image {
    /// Describes `manifest`.
    pub descriptor: Descriptor,
    /// The manifest's JSON.
    pub manifest: Vec<u8>,
    /// Describes `config`.
    pub config_descriptor: Descriptor,
    /// The config's JSON.
    pub config: Vec<u8>,
    /// The layers, bottom first, as the manifest lists them.
    pub layers: Vec<Layer>,
}

/// The manifest, in the order in which the OCI image spec lists its members.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Manifest<'a> {
    schema_version: u32,
    media_type: MediaType,
    config: &'a Descriptor,
    layers: Vec<Descriptor>,
}

/// Assembles an image. `made` says for each layer when it was made; none for the base's. `epoch` replaces all times of
/// this build.
///
/// History entries without a time take that of the layer they made, or of the entry before them, so that a build which
/// makes no new layer gives the same bytes again.
pub fn assemble(mut config: ImageConfig, layers: Vec<Layer>, made: &[Option<&str>], epoch: Option<&str>) -> Image {
    date(&mut config, made, epoch);
    config.rootfs.diff_ids = layers.iter().map(|layer| layer.diff_id.clone()).collect();
    let config = serde_json::to_vec(&config).expect("a config is plain data");
    let config_descriptor = describe(MediaType::ImageConfig, &config);
    let manifest = Manifest {
        schema_version: 2,
        media_type: MediaType::ImageManifest,
        config: &config_descriptor,
        layers: layers.iter().map(|layer| oci(&layer.blob)).collect(),
    };
    let manifest = serde_json::to_vec(&manifest).expect("a manifest is plain data");
    let descriptor = describe(MediaType::ImageManifest, &manifest);
    Image { descriptor, manifest, config_descriptor, config, layers }
}

/// Dates the history and the image.
fn date(config: &mut ImageConfig, made: &[Option<&str>], epoch: Option<&str>) {
    let mut layer = 0;
    let mut last = config.created.clone();
    for entry in &mut config.history {
        let of_layer = if entry.empty_layer { None } else { made.get(layer).copied().flatten() };
        layer += usize::from(!entry.empty_layer);
        if entry.created.is_none() {
            entry.created = epoch.or(of_layer).map(str::to_owned).or_else(|| last.clone());
        }
        last.clone_from(&entry.created);
    }
    config.created = last.or_else(|| epoch.map(str::to_owned));
}

/// A layer's descriptor in an OCI manifest: a Docker media type becomes its OCI twin, the bytes stay.
fn oci(blob: &Descriptor) -> Descriptor {
    let media_type = match blob.media_type() {
        MediaType::Other(other) => match other.as_str() {
            "application/vnd.docker.image.rootfs.diff.tar.gzip" => MediaType::ImageLayerGzip,
            "application/vnd.docker.image.rootfs.diff.tar.zstd" => MediaType::ImageLayerZstd,
            "application/vnd.docker.image.rootfs.diff.tar" => MediaType::ImageLayer,
            _ => blob.media_type().clone(),
        },
        known => known.clone(),
    };
    Descriptor::new(media_type, blob.size(), blob.digest().clone())
}

fn describe(media_type: MediaType, bytes: &[u8]) -> Descriptor {
    let digest: Digest = sha256(bytes);
    Descriptor::new(media_type, bytes.len() as u64, digest)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::graph::config::History;
    use crate::graph::platform::Platform;

    fn config(empty: &[bool]) -> ImageConfig {
        let mut config = ImageConfig::scratch(&Platform::host());
        config.history = empty.iter().map(|&empty_layer| History { empty_layer, ..History::default() }).collect();
        config
    }

    fn layer(text: &str) -> Layer {
        let blob = Descriptor::new(MediaType::ImageLayerGzip, text.len() as u64, sha256(text.as_bytes()));
        Layer { diff_id: sha256(b"x"), blob }
    }

    #[test]
    fn times_come_from_the_layers() {
        let image =
            assemble(config(&[false, true, false]), vec![layer("a"), layer("b")], &[Some("1"), Some("2")], None);
        let config: ImageConfig = serde_json::from_slice(&image.config).unwrap();
        let times: Vec<_> = config.history.iter().map(|entry| entry.created.as_deref().unwrap()).collect();
        assert_eq!((times, config.created.as_deref()), (vec!["1", "1", "2"], Some("2")));
    }

    #[test]
    fn an_epoch_replaces_every_time() {
        let image = assemble(config(&[true, false]), vec![layer("a")], &[Some("1")], Some("0"));
        let config: ImageConfig = serde_json::from_slice(&image.config).unwrap();
        assert!(config.history.iter().all(|entry| entry.created.as_deref() == Some("0")));
        assert_eq!(config.created.as_deref(), Some("0"));
    }

    #[test]
    fn docker_layers_are_listed_by_their_oci_names() {
        let docker = MediaType::Other("application/vnd.docker.image.rootfs.diff.tar.gzip".into());
        let blob = Descriptor::new(docker, 1_u64, sha256(b"a"));
        assert_eq!(oci(&blob).media_type(), &MediaType::ImageLayerGzip);
    }
}
