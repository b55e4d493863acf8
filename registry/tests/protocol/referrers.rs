//! What refers to an image, with the referrers API and without it.

use registry::testing::{Fault, Registry, When};
use serde_json::json;

use super::{client, config, count, digest};

const OCI: &str = "application/vnd.oci.image.manifest.v1+json";

/// A signature of an image.
fn signature(subject: &oci_spec::image::Descriptor, text: &str) -> Vec<u8> {
    json!({"schemaVersion": 2, "mediaType": OCI, "artifactType": "application/x-signature", "subject": subject,
           "annotations": {"text": text}, "layers": []})
    .to_string()
    .into_bytes()
}

#[test]
fn referrers_are_listed_with_and_without_the_api() {
    for has_api in [true, false] {
        let registry = Registry::start().unwrap();
        if has_api {
            registry.enable_referrers();
        }
        let image = registry.put_image("x", "1", &config("linux/amd64"), &[]);
        assert_eq!(client().referrers(&registry.reference("x:1")).unwrap(), []);
        let signatures = ["one", "two"].map(|text| signature(&image, text));
        for bytes in &signatures {
            let by_digest = registry.reference(&format!("x@{}", digest(bytes)));
            client().push_manifest(&by_digest, OCI, bytes).unwrap();
            // The same again changes nothing.
            client().push_manifest(&by_digest, OCI, bytes).unwrap();
        }
        let found = client().referrers(&registry.reference("x:1")).unwrap();
        let mut digests: Vec<String> = found.iter().map(|entry| entry.digest().to_string()).collect();
        let mut expected = signatures.map(|bytes| digest(&bytes).to_string());
        digests.sort();
        expected.sort();
        assert_eq!(digests, expected, "{has_api}");
        assert!(found.iter().all(|entry| entry.artifact_type().is_some()));
        let tag = image.digest().to_string().replace(':', "-");
        assert_eq!(registry.tags("x").contains(&tag), !has_api);
    }
}

#[test]
fn a_list_of_referrers_that_is_none_is_refused() {
    let registry = Registry::start().unwrap();
    let image = registry.put_image("x", "1", &config("linux/amd64"), &[]);
    registry.put_image("x", &image.digest().to_string().replace(':', "-"), &config("linux/amd64"), &[]);
    let error = client().referrers(&registry.reference("x:1")).unwrap_err();
    assert!(error.to_string().ends_with("is no index"), "{error}");
    let endless = Fault::SetHeader("link", "<http://127.0.0.1:1/next>; rel=\"next\"".into());
    registry.enable_referrers();
    registry.fault(When::path("/referrers/"), endless);
    let error = client().referrers(&registry.reference("x:1")).unwrap_err();
    assert!(error.to_string().contains("the next page is on another host"), "{error}");
    registry.fault(When::path("/referrers/").always(), Fault::Endless);
    client().referrers(&registry.reference("x:1")).unwrap_err();
    assert!(count(&registry.take_log(), "GET", "/referrers/") < 10);
}
