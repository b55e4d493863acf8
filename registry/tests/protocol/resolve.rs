//! From references to images for a platform.

use oci_spec::image::{Descriptor, MediaType};
use registry::testing::Registry;
use registry::{Error, Resolved};

use super::{client, config, count, digest, platform};

const DOCKER_MANIFEST: &str = "application/vnd.docker.distribution.manifest.v2+json";
const DOCKER_LIST: &str = "application/vnd.docker.distribution.manifest.list.v2+json";
const OCI: &str = "application/vnd.oci.image.manifest.v1+json";

#[track_caller]
fn resolve(registry: &Registry, wanted: &str) -> Result<Resolved, Error> {
    client().resolve(&registry.reference("x:1"), &platform(wanted))
}

fn image(registry: &Registry, of: &str) -> Descriptor {
    let (os, rest) = of.split_once('/').unwrap();
    let config = config(&format!("{os}/{}", rest.split('/').next().unwrap()));
    let mut image = registry.put_image("x", "", &config, &[of.as_bytes()]);
    image.set_platform(Some(platform(of)));
    image
}

#[test]
fn an_image_in_no_index_is_taken_as_it_is() {
    let registry = Registry::start().unwrap();
    let image = registry.put_image("x", "1", &config("linux/arm64"), &[b"layer"]);
    let found = resolve(&registry, "linux/amd64").unwrap();
    assert_eq!(found.descriptor, image);
    assert_eq!(digest(&found.manifest_bytes), *image.digest());
    assert_eq!(found.config, config("linux/arm64"));
    assert_eq!(*found.manifest.layers()[0].digest(), digest(b"layer"));
}

#[test]
fn a_config_that_is_known_is_not_fetched() {
    let registry = Registry::start().unwrap();
    registry.put_image("x", "1", &config("linux/amd64"), &[b"layer"]);
    let (client, reference) = (client(), registry.reference("x:1"));
    let resolve = |known: &'static [u8]| {
        registry.take_log();
        let known = if known.is_empty() { config("linux/amd64") } else { known.to_vec() };
        let found = client.resolve_knowing(&reference, &platform("linux/amd64"), &|_| Some(known.clone())).unwrap();
        assert_eq!(found.config, config("linux/amd64"));
        count(&registry.take_log(), "GET", "/blobs/")
    };
    assert_eq!(resolve(b""), 0);
    assert_eq!(resolve(b"something else"), 1);
}

#[test]
fn docker_types_are_understood() {
    let registry = Registry::start().unwrap();
    let config =
        registry.put_blob("x", MediaType::Other("application/vnd.docker.container.image.v1+json".into()), b"{}");
    let layer = MediaType::Other("application/vnd.docker.image.rootfs.diff.tar.gzip".into());
    let layer = registry.put_blob("x", layer, b"layer");
    let manifest =
        serde_json::json!({"schemaVersion": 2, "mediaType": DOCKER_MANIFEST, "config": config, "layers": [layer]});
    let mut image = registry.put_manifest("x", "", DOCKER_MANIFEST, manifest.to_string().as_bytes());
    image.set_platform(Some(platform("linux/amd64")));
    let list = serde_json::json!({"schemaVersion": 2, "mediaType": DOCKER_LIST, "manifests": [image]});
    registry.put_manifest("x", "1", DOCKER_LIST, list.to_string().as_bytes());
    let found = resolve(&registry, "linux/amd64").unwrap();
    assert_eq!(found.descriptor, image);
    assert_eq!(found.config, b"{}");
}

#[test]
fn an_index_gives_the_nearest_image_for_the_platform() {
    let registry = Registry::start().unwrap();
    let images: Vec<Descriptor> =
        ["windows/amd64", "linux/amd64", "linux/arm/v6", "linux/arm/v7", "linux/arm64/v8", "unknown/unknown"]
            .map(|of| image(&registry, of))
            .into();
    registry.put_index("x", "1", &images);
    for (wanted, at) in [
        ("linux/amd64", 1),
        ("linux/amd64/v3", 1),
        ("linux/arm/v7", 3),
        ("linux/arm", 3),
        ("linux/arm/v6", 2),
        ("linux/arm64", 4),
        ("linux/arm64/v8", 4),
    ] {
        assert_eq!(resolve(&registry, wanted).unwrap().descriptor, images[at], "{wanted}");
    }
    let error = resolve(&registry, "linux/s390x").unwrap_err();
    assert_eq!(
        error.to_string(),
        format!(
            "`{}/x:1` has no image for linux/s390x; it has linux/amd64, linux/arm/v6, linux/arm/v7, linux/arm64/v8, \
             windows/amd64",
            registry.host()
        )
    );
}

#[test]
fn an_index_may_be_in_an_index() {
    let registry = Registry::start().unwrap();
    let wanted = image(&registry, "linux/arm64");
    let inner = registry.put_index("x", "", &[image(&registry, "linux/amd64"), wanted.clone()]);
    registry.put_index("x", "1", &[inner]);
    assert_eq!(resolve(&registry, "linux/arm64").unwrap().descriptor, wanted);
    assert!(matches!(resolve(&registry, "linux/s390x"), Err(Error::NoPlatform { .. })));
}

#[test]
fn an_image_without_platform_is_told_by_its_config() {
    let registry = Registry::start().unwrap();
    let bare = |of: &str| registry.put_image("x", "", &config(of), &[of.as_bytes()]);
    let wanted = bare("linux/arm64");
    registry.put_index("x", "1", &[bare("linux/amd64"), wanted.clone()]);
    assert_eq!(resolve(&registry, "linux/arm64").unwrap().descriptor, wanted);
    let Err(Error::NoPlatform { available, .. }) = resolve(&registry, "linux/s390x") else { panic!() };
    assert_eq!(available, "linux/amd64, linux/arm64");
}

#[test]
fn what_is_no_image_is_passed_over_in_an_index_and_refused_outside() {
    let registry = Registry::start().unwrap();
    let config = registry.put_blob("x", MediaType::Other("application/vnd.cncf.helm.config.v1+json".into()), b"{}");
    let manifest = serde_json::json!({"schemaVersion": 2, "config": config, "layers": []}).to_string();
    let chart = registry.put_manifest("x", "1", OCI, manifest.as_bytes());
    let error = resolve(&registry, "linux/amd64").unwrap_err().to_string();
    assert!(error.ends_with("its config is `application/vnd.cncf.helm.config.v1+json`: not an image"), "{error}");
    let other = Descriptor::new(MediaType::Other("application/x".into()), 1, digest(b"x"));
    let wanted = image(&registry, "linux/amd64");
    let bare = registry.put_image("x", "", &super::config("linux/arm64"), &[]);
    registry.put_index("x", "1", &[chart, other, wanted.clone(), bare.clone()]);
    assert_eq!(resolve(&registry, "linux/amd64").unwrap().descriptor, wanted);
    assert_eq!(resolve(&registry, "linux/arm64").unwrap().descriptor, bare);
}

#[test]
fn an_empty_index_has_no_image() {
    let registry = Registry::start().unwrap();
    registry.put_index("x", "1", &[]);
    let error = resolve(&registry, "linux/amd64").unwrap_err().to_string();
    assert!(error.ends_with("has no image for linux/amd64; it has none"), "{error}");
}

#[test]
fn schema_1_is_named() {
    let registry = Registry::start().unwrap();
    let media_type = "application/vnd.docker.distribution.manifest.v1+prettyjws";
    registry.put_manifest("x", "1", media_type, br#"{"schemaVersion":1,"fsLayers":[]}"#);
    let error = resolve(&registry, "linux/amd64").unwrap_err().to_string();
    assert!(error.contains(media_type), "{error}");
}

#[test]
fn nesting_and_number_have_limits() {
    let registry = Registry::start().unwrap();
    let mut inner = registry.put_index("x", "", &[]);
    for _ in 0..10 {
        inner = registry.put_index("x", "1", &[inner]);
    }
    let error = resolve(&registry, "linux/amd64").unwrap_err().to_string();
    assert!(error.ends_with("nested more than 4 deep"), "{error}");
    registry.take_log();
    let many: Vec<Descriptor> =
        (0..100).map(|n| registry.put_image("x", "", &config("linux/arm64"), &[&[n]])).collect();
    registry.put_index("x", "1", &many);
    let error = resolve(&registry, "linux/amd64").unwrap_err().to_string();
    assert!(error.ends_with("none of the first 32 manifests of its index is the image"), "{error}");
    assert!(count(&registry.take_log(), "GET", "manifests") <= 32);
}

#[test]
fn an_index_that_lies_about_its_manifests_is_refused() {
    let registry = Registry::start().unwrap();
    let right = image(&registry, "linux/amd64");
    let mut size = right.clone();
    size.set_size(7);
    let mut kind = right.clone();
    kind.set_media_type(MediaType::ImageIndex);
    for lie in [size, kind] {
        registry.put_index("x", "1", &[lie]);
        let error = resolve(&registry, "linux/amd64").unwrap_err();
        assert!(matches!(error, Error::WrongSize { .. } | Error::Malformed { .. }), "{error}");
    }
}

#[test]
fn a_config_that_is_wrong_or_huge_is_refused() {
    let registry = Registry::start().unwrap();
    let put = |config: &Descriptor| {
        let manifest = serde_json::json!({"schemaVersion": 2, "config": config, "layers": []}).to_string();
        registry.put_manifest("x", "1", OCI, manifest.as_bytes());
    };
    let right = registry.put_blob("x", MediaType::ImageConfig, b"{}");
    registry.put_wrong_blob("x", right.digest(), b"[]");
    put(&right);
    assert!(matches!(resolve(&registry, "linux/amd64"), Err(Error::WrongDigest { .. })));
    put(&Descriptor::new(MediaType::ImageConfig, 1 << 40, digest(b"x")));
    assert!(matches!(resolve(&registry, "linux/amd64"), Err(Error::TooLarge { .. })));
    put(&Descriptor::new(MediaType::ImageConfig, 2, "md5:0123".parse::<oci_spec::image::Digest>().unwrap()));
    assert!(matches!(resolve(&registry, "linux/amd64"), Err(Error::Algorithm { .. })));
}

#[test]
fn documents_that_are_not_of_their_kind_are_refused() {
    let registry = Registry::start().unwrap();
    let config = registry.put_blob("x", MediaType::ImageConfig, b"{}");
    let odd_layer = Descriptor::new(MediaType::Other("text/html".into()), 1, digest(b"x"));
    let index = "application/vnd.oci.image.index.v1+json";
    for (media_type, document) in [
        (OCI, serde_json::json!({"schemaVersion": 2})),
        (OCI, serde_json::json!({"schemaVersion": 1, "config": config, "layers": []})),
        (OCI, serde_json::json!({"schemaVersion": 2, "config": config, "layers": null})),
        (OCI, serde_json::json!({"schemaVersion": 2, "config": config, "layers": [odd_layer]})),
        (
            OCI,
            serde_json::json!({"schemaVersion": 2, "config": {"mediaType": "x", "digest": "sha256:../..", "size": 1}, "layers": []}),
        ),
        (
            OCI,
            serde_json::json!({"schemaVersion": 2, "config": {"mediaType": "x", "digest": digest(b"x"), "size": -1}, "layers": []}),
        ),
        (OCI, serde_json::json!([2, null, null, config, []])),
        (index, serde_json::json!({"schemaVersion": 2})),
        (index, serde_json::json!({"schemaVersion": 3, "manifests": []})),
        (index, serde_json::json!({"schemaVersion": 2, "manifests": [{}]})),
        (index, serde_json::json!({"schemaVersion": 2, "manifests": {}})),
        ("text/html", serde_json::json!({})),
    ] {
        registry.put_manifest("x", "1", media_type, document.to_string().as_bytes());
        let result = resolve(&registry, "linux/amd64");
        assert!(matches!(result, Err(Error::Malformed { .. } | Error::Json { .. })), "{document}: {result:?}");
    }
}
