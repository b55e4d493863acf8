//! Manifests, blobs and tags, read.

use std::io;

use oci_spec::image::MediaType;
use registry::testing::{Fault, Registry, When};
use registry::{Action, Error};

use super::{client, config, content, count, descriptor, digest, pull, quick};

#[test]
fn a_manifest_comes_by_tag_and_by_digest() {
    let registry = Registry::start().unwrap();
    let image = registry.put_image("a/b", "1", &config("linux/amd64"), &[b"layer"]);
    let by_tag = client().manifest(&registry.reference("a/b:1")).unwrap();
    assert_eq!(by_tag.descriptor, image);
    assert_eq!(digest(&by_tag.bytes), *image.digest());
    let by_digest = client().manifest(&registry.reference(&format!("a/b:no-such-tag@{}", image.digest()))).unwrap();
    assert_eq!(by_digest, by_tag);
}

#[test]
fn a_host_of_this_machine_is_asked_for_nothing_but_what_is_wanted() {
    let registry = Registry::start().unwrap();
    client().manifest(&registry.reference("x:1")).unwrap_err();
    client().begin_upload(&registry.reference("x")).unwrap();
    let log: Vec<(String, String)> = registry.take_log().into_iter().map(|entry| (entry.method, entry.path)).collect();
    assert_eq!(
        log,
        [("GET", "/v2/x/manifests/1"), ("POST", "/v2/x/blobs/uploads/")].map(|(a, b)| (a.into(), b.into()))
    );
}

#[test]
fn what_is_not_there_is_not_found() {
    let registry = Registry::start().unwrap();
    let error = client().manifest(&registry.reference("x:1")).unwrap_err();
    let host = registry.host();
    assert_eq!(
        error.to_string(),
        format!(
            "cannot pull manifest `{host}/x:1`: the registry does not have it: MANIFEST_UNKNOWN (manifest_unknown) \
             (http://{host}/v2/x/manifests/1)"
        )
    );
    let Error::NotFound { exchange, answer } = error else { panic!("{error}") };
    assert_eq!(exchange.action, Action::PullManifest(format!("{host}/x:1")));
    assert_eq!((exchange.attempts, answer.status), (1, 404));
    assert!(matches!(pull(&registry, "x:1", b"abc"), Err(Error::NotFound { .. })));
    assert!(!client().has_blob(&registry.reference("x"), &digest(b"abc")).unwrap());
    assert!(matches!(client().tags(&registry.reference("x")), Err(Error::NotFound { .. })));
}

#[test]
fn a_blob_comes_whole() {
    let registry = Registry::start().unwrap();
    for length in [0, 1, 100, 65_536, 1_000_000] {
        let bytes = content(length);
        registry.put_blob("x", MediaType::ImageLayerGzip, &bytes);
        assert!(client().has_blob(&registry.reference("x"), &digest(&bytes)).unwrap());
        assert_eq!(pull(&registry, "x:1", &bytes).unwrap(), bytes, "{length}");
    }
}

#[test]
fn a_broken_blob_is_resumed_where_it_was() {
    let registry = Registry::start().unwrap();
    let bytes = content(1_000_000);
    registry.put_blob("x", MediaType::ImageLayerGzip, &bytes);
    registry.fault(When::path("blobs/"), Fault::BreakAfter(300_000));
    registry.fault(When::path("blobs/").after(1), Fault::BreakAfter(300_000));
    assert_eq!(pull(&registry, "x:1", &bytes).unwrap(), bytes);
    let log = registry.take_log();
    let ranges: Vec<Option<&str>> =
        log.iter().filter(|entry| entry.path.contains("blobs")).map(|entry| entry.header("range")).collect();
    assert_eq!(ranges, [None, Some("bytes=300000-"), Some("bytes=600000-")]);
}

#[test]
fn a_blob_may_break_more_often_than_there_are_attempts_as_long_as_it_moves() {
    let registry = Registry::start().unwrap();
    let bytes = content(1_000_000);
    registry.put_blob("x", MediaType::ImageLayerGzip, &bytes);
    registry.fault(When::path("blobs/").always(), Fault::BreakAfter(100_000));
    assert_eq!(pull(&registry, "x:1", &bytes).unwrap(), bytes);
    assert_eq!(count(&registry.take_log(), "GET", "blobs"), 10);
}

#[test]
fn a_registry_without_ranges_is_read_again_and_written_once() {
    let bytes = content(500_000);
    for fault in [Fault::IgnoreRange, Fault::WrongRange, Fault::Status(416), Fault::DropHeader("content-range")] {
        let registry = Registry::start().unwrap();
        registry.put_blob("x", MediaType::ImageLayerGzip, &bytes);
        registry.fault(When::path("blobs/"), Fault::BreakAfter(200_000));
        registry.fault(When::path("blobs/").after(1), fault.clone());
        assert_eq!(pull(&registry, "x:1", &bytes).unwrap(), bytes, "{fault:?}");
    }
}

#[test]
fn a_range_that_begins_too_early_is_cut() {
    let registry = Registry::start().unwrap();
    let bytes = content(1000);
    registry.put_blob("x", MediaType::ImageLayerGzip, &bytes);
    registry.fault(When::path("blobs/"), Fault::BreakAfter(500));
    let headers = vec![("content-range", "bytes 100-999/1000".to_owned())];
    let body = bytes[100..].to_vec();
    registry.fault(When::path("blobs/").after(1), Fault::Answer { status: 206, headers, body });
    assert_eq!(pull(&registry, "x:1", &bytes).unwrap(), bytes);
}

#[test]
fn a_short_or_long_blob_is_refused_before_it_is_written() {
    let registry = Registry::start().unwrap();
    let bytes = content(1000);
    for other in [999, 1001] {
        registry.put_wrong_blob("x", &digest(&bytes), &content(other));
        let mut out = Vec::new();
        let result = client().pull_blob(&registry.reference("x"), &descriptor(&bytes), &mut out);
        assert!(matches!(result, Err(Error::WrongSize { expected: 1000, .. })), "{result:?}");
        assert!(out.is_empty());
    }
}

#[test]
fn a_flipped_byte_is_found() {
    let registry = Registry::start().unwrap();
    let bytes = content(1000);
    registry.put_blob("x", MediaType::ImageLayerGzip, &bytes);
    registry.fault(When::path("blobs/"), Fault::Flip(700));
    let error = pull(&registry, "x:1", &bytes).unwrap_err();
    assert!(matches!(&error, Error::WrongDigest { expected, .. } if *expected == digest(&bytes)), "{error}");
    // The caller begins again.
    assert_eq!(pull(&registry, "x:1", &bytes).unwrap(), bytes);
}

#[test]
fn a_writer_that_fails_is_no_reason_to_try_again() {
    struct Full;
    impl io::Write for Full {
        fn write(&mut self, _: &[u8]) -> io::Result<usize> {
            Err(io::ErrorKind::StorageFull.into())
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }
    let registry = Registry::start().unwrap();
    let bytes = content(1000);
    registry.put_blob("x", MediaType::ImageLayerGzip, &bytes);
    let error = client().pull_blob(&registry.reference("x"), &descriptor(&bytes), &mut Full).unwrap_err();
    assert!(matches!(&error, Error::Write { source, .. } if source.kind() == io::ErrorKind::StorageFull), "{error}");
    assert_eq!(count(&registry.take_log(), "GET", "blobs"), 1);
}

#[test]
fn tags_come_from_all_pages() {
    let registry = Registry::start().unwrap();
    let tags: Vec<String> = (0..2500).map(|number| format!("t{number:05}")).collect();
    for tag in &tags {
        registry.put_manifest("x", tag, "application/vnd.oci.image.manifest.v1+json", b"{}");
    }
    assert_eq!(client().tags(&registry.reference("x")).unwrap(), tags);
    assert_eq!(count(&registry.take_log(), "GET", "tags/list"), 3);
}

#[test]
fn the_user_agent_is_the_callers() {
    let registry = Registry::start().unwrap();
    let client = registry::Client::new(registry::Options { user_agent: "someone/7".into(), ..quick() }).unwrap();
    client.has_blob(&registry.reference("x"), &digest(b"")).unwrap();
    assert!(registry.take_log().iter().all(|entry| entry.header("user-agent") == Some("someone/7")));
    let client = registry::Client::new(registry::Options { user_agent: "a\nb".into(), ..quick() }).unwrap();
    let error = client.has_blob(&registry.reference("x"), &digest(b"")).unwrap_err();
    assert!(matches!(error, Error::Setup { .. }), "{error}");
}

#[test]
fn a_blob_may_go_by_another_algorithm() {
    use sha2::{Digest as _, Sha512};
    let registry = Registry::start().unwrap();
    let bytes = content(1000);
    let hex = Sha512::digest(&bytes).iter().fold(String::new(), |hex, byte| format!("{hex}{byte:02x}"));
    let mut by_sha512 = descriptor(&bytes);
    by_sha512.set_digest(format!("sha512:{hex}").parse().unwrap());
    registry.put_wrong_blob("x", by_sha512.digest(), &bytes);
    let mut out = Vec::new();
    client().pull_blob(&registry.reference("x"), &by_sha512, &mut out).unwrap();
    assert_eq!(out, bytes);
    by_sha512.set_digest("blake3:00".parse().unwrap());
    let error = client().pull_blob(&registry.reference("x"), &by_sha512, &mut out).unwrap_err();
    assert!(matches!(error, Error::Algorithm { .. }), "{error}");
}
