//! Blobs and manifests, written.

use std::io::{self, Cursor, Read};

use oci_spec::image::MediaType;
use registry::testing::{Fault, Registry, When};
use registry::{Error, Pushed};

use super::{client, content, count, descriptor, digest, lines, opener};

const OCI: &str = "application/vnd.oci.image.manifest.v1+json";

#[track_caller]
fn push(registry: &Registry, bytes: &[u8], mount_from: Option<&str>) -> Result<Pushed, Error> {
    client().push_blob(&registry.reference("x"), &descriptor(bytes), mount_from, &opener(bytes))
}

#[test]
fn a_blob_is_uploaded_once() {
    let registry = Registry::start().unwrap();
    for length in [0, 1, 100, 65_536, 3_000_000] {
        let bytes = content(length);
        assert_eq!(push(&registry, &bytes, None).unwrap(), Pushed::Uploaded);
        assert_eq!(registry.blob("x", &digest(&bytes)).unwrap(), bytes);
        assert_eq!(push(&registry, &bytes, None).unwrap(), Pushed::Existed);
        let log = registry.take_log();
        assert_eq!(
            (count(&log, "POST", "uploads"), count(&log, "PUT", "uploads"), count(&log, "PATCH", "")),
            (1, 1, 0)
        );
    }
}

#[test]
fn a_blob_is_mounted_from_another_repository() {
    let registry = Registry::start().unwrap();
    registry.put_blob("base", MediaType::ImageLayerGzip, b"abc");
    assert_eq!(push(&registry, b"abc", Some("base")).unwrap(), Pushed::Mounted);
    assert_eq!(registry.blob("x", &digest(b"abc")).unwrap(), b"abc");
    let log = registry.take_log();
    assert_eq!((count(&log, "PUT", ""), count(&log, "HEAD", "")), (0, 0));
}

#[test]
fn a_refused_mount_becomes_an_upload() {
    let registry = Registry::start().unwrap();
    // 202: the registry begins an upload instead, and that one is used.
    assert_eq!(push(&registry, b"abc", Some("base")).unwrap(), Pushed::Uploaded);
    assert_eq!(count(&registry.take_log(), "POST", "uploads"), 1);
    for status in [400, 403, 404, 405] {
        let bytes = format!("blob {status}").into_bytes();
        registry.fault(When::path("mount="), Fault::Status(status));
        assert_eq!(push(&registry, &bytes, Some("base")).unwrap(), Pushed::Uploaded, "{status}");
        assert_eq!(registry.blob("x", &digest(&bytes)).unwrap(), bytes);
    }
    let error = push(&registry, b"other", Some("../x")).unwrap_err();
    assert!(matches!(error, Error::Reference { .. }), "{error}");
}

#[test]
fn a_lost_upload_begins_anew() {
    for fault in [Fault::ForgetUploads, Fault::Reset, Fault::Status(500), Fault::Status(503), Fault::Status(416)] {
        let registry = Registry::start().unwrap();
        let bytes = content(200_000);
        registry.fault(When::path("uploads/").method("PUT"), fault.clone());
        assert_eq!(push(&registry, &bytes, None).unwrap(), Pushed::Uploaded, "{fault:?}");
        assert_eq!(registry.blob("x", &digest(&bytes)).unwrap(), bytes);
        assert_eq!(count(&registry.take_log(), "POST", "uploads"), 2, "{fault:?}");
    }
}

#[test]
fn a_lost_final_answer_is_found_by_looking() {
    let registry = Registry::start().unwrap();
    registry.fault(When::path("uploads/").method("PUT"), Fault::LoseAnswer);
    assert_eq!(push(&registry, b"abc", None).unwrap(), Pushed::Uploaded);
    let log = registry.take_log();
    assert_eq!((count(&log, "PUT", "uploads"), count(&log, "HEAD", "blobs")), (1, 2));
}

#[test]
fn content_that_is_damaged_on_its_way_is_sent_again() {
    let registry = Registry::start().unwrap();
    let body = br#"{"errors":[{"code":"DIGEST_INVALID"}]}"#.to_vec();
    let fault = Fault::Answer { status: 400, headers: Vec::new(), body };
    registry.fault(When::path("uploads/").method("PUT"), fault);
    assert_eq!(push(&registry, b"abc", None).unwrap(), Pushed::Uploaded);
}

#[test]
fn a_registry_that_refuses_the_whole_gets_chunks() {
    for status in [405, 411, 413, 501] {
        let registry = Registry::start().unwrap();
        let bytes = content(20_000_000);
        registry.fault(When::path("uploads/").method("PUT"), Fault::Status(status));
        assert_eq!(push(&registry, &bytes, None).unwrap(), Pushed::Uploaded, "{status}");
        assert!(registry.blob("x", &digest(&bytes)).unwrap() == bytes);
        let log = registry.take_log();
        let parts: Vec<&str> = log
            .iter()
            .filter(|entry| entry.method == "PATCH")
            .filter_map(|entry| entry.header("content-range"))
            .collect();
        assert_eq!(parts, ["0-8388607", "8388608-16777215", "16777216-19999999"]);
    }
}

#[test]
fn a_connection_that_breaks_under_a_large_body_leads_to_chunks() {
    let registry = Registry::start().unwrap();
    let bytes = content(9_000_000);
    registry.fault(When::path("uploads/").method("PUT"), Fault::Reset);
    assert_eq!(push(&registry, &bytes, None).unwrap(), Pushed::Uploaded);
    assert_eq!(count(&registry.take_log(), "PATCH", "uploads"), 2);
}

#[test]
fn a_broken_chunk_is_resumed_from_what_the_registry_has() {
    for fault in [Fault::Reset, Fault::LoseAnswer, Fault::Status(502)] {
        let registry = Registry::start().unwrap();
        let bytes = content(20_000_000);
        registry.fault(When::path("uploads/").method("PUT"), Fault::Status(413));
        registry.fault(When::path("uploads/").method("PATCH").after(1), fault.clone());
        assert_eq!(push(&registry, &bytes, None).unwrap(), Pushed::Uploaded, "{fault:?}");
        assert!(registry.blob("x", &digest(&bytes)).unwrap() == bytes);
        let log = registry.take_log();
        assert_eq!((count(&log, "POST", "uploads"), count(&log, "GET", "uploads")), (2, 1), "{fault:?}");
    }
}

#[test]
fn the_smallest_chunk_is_the_registrys() {
    let registry = Registry::start().unwrap();
    registry.set_least_chunk(10_000_000);
    registry.fault(When::path("uploads/").method("PUT"), Fault::Status(413));
    let bytes = content(15_000_000);
    push(&registry, &bytes, None).unwrap();
    assert_eq!(count(&registry.take_log(), "PATCH", "uploads"), 2);
    registry.set_least_chunk(1 << 40);
    let error = push(&registry, b"abc", None).unwrap_err();
    assert!(matches!(error, Error::Malformed { .. }), "{error}");
}

#[test]
fn an_upload_goes_where_the_location_says() {
    // Absolute, to another origin, with a query of its own.
    let (registry, other) = (Registry::start().unwrap(), Registry::start().unwrap());
    let begun = client().push_blob(&other.reference("x"), &descriptor(b"first"), None, &opener(b"first"));
    assert_eq!(begun.unwrap(), Pushed::Uploaded);
    other.fault(
        When::path("uploads/").method("PUT"),
        Fault::Answer { status: 201, headers: Vec::new(), body: Vec::new() },
    );
    other.take_log();
    let location = format!("http://{}/v2/x/blobs/uploads/z?a=b&c=d", other.host());
    registry.fault(When::path("uploads/").method("POST"), Fault::SetHeader("location", location));
    assert_eq!(push(&registry, b"abc", None).unwrap(), Pushed::Uploaded);
    let log = other.take_log();
    assert_eq!(lines(&log), ["PUT /v2/x/blobs/uploads/z 201"]);
    assert!(log[0].query.starts_with("a=b&c=d&digest=sha256%3A"), "{}", log[0].query);
}

#[test]
fn an_upload_follows_a_redirect_with_its_body() {
    let (registry, other) = (Registry::start().unwrap(), Registry::start().unwrap());
    other.fault(When::path("/elsewhere"), Fault::Status(201));
    let headers = vec![("location", format!("http://{}/elsewhere", other.host()))];
    registry.fault(When::path("uploads/").method("PUT"), Fault::Answer { status: 307, headers, body: Vec::new() });
    let bytes = content(100_000);
    assert_eq!(push(&registry, &bytes, None).unwrap(), Pushed::Uploaded);
    assert_eq!(other.take_log()[0].body, 100_000);
}

#[test]
fn a_missing_location_is_named() {
    let registry = Registry::start().unwrap();
    registry.fault(When::path("uploads/").method("POST"), Fault::DropHeader("location"));
    let error = push(&registry, b"abc", None).unwrap_err().to_string();
    assert!(error.ends_with("the registry does not say where to upload to (no `Location`)"), "{error}");
}

#[test]
fn content_that_is_not_its_descriptors_is_never_a_blob() {
    let registry = Registry::start().unwrap();
    let bytes = content(100_000);
    let mut flipped = bytes.clone();
    flipped[50_000] ^= 1;
    let longer = [&bytes[..], b"x"].concat();
    for wrong in [&flipped[..], &bytes[..99_999], &longer] {
        let result = client().push_blob(&registry.reference("x"), &descriptor(&bytes), None, &opener(wrong));
        assert!(matches!(result, Err(Error::WrongDigest { .. } | Error::WrongSize { .. })), "{result:?}");
        assert!(registry.blob("x", &digest(&bytes)).is_none() && registry.blob("x", &digest(wrong)).is_none());
    }
}

#[test]
fn a_reader_that_fails_is_named() {
    struct Broken;
    impl Read for Broken {
        fn read(&mut self, _: &mut [u8]) -> io::Result<usize> {
            Err(io::Error::other("bad disk"))
        }
    }
    let registry = Registry::start().unwrap();
    let open = || Ok(Box::new(Cursor::new(b"ab").chain(Broken)) as Box<dyn Read + Send>);
    let error = client().push_blob(&registry.reference("x"), &descriptor(b"abc"), None, &open).unwrap_err();
    assert!(matches!(&error, Error::Read { source, .. } if source.to_string() == "bad disk"), "{error:?}");
    let open = || Err(io::ErrorKind::NotFound.into());
    let error = client().push_blob(&registry.reference("x"), &descriptor(b"abc"), None, &open).unwrap_err();
    assert!(matches!(error, Error::Read { .. }), "{error:?}");
}

#[test]
fn a_manifest_is_put_under_its_tag_or_digest() {
    let registry = Registry::start().unwrap();
    let bytes = br#"{"schemaVersion":2,"layers":[]}"#;
    assert_eq!(client().push_manifest(&registry.reference("x:1"), OCI, bytes).unwrap(), digest(bytes));
    assert_eq!(registry.manifest("x", "1").unwrap(), (OCI.to_owned(), bytes.to_vec()));
    let by_digest = registry.reference(&format!("y@{}", digest(bytes)));
    client().push_manifest(&by_digest, OCI, bytes).unwrap();
    assert!(registry.tags("y").is_empty() && registry.manifest("y", digest(bytes).as_ref()).is_some());
    let error = client().push_manifest(&by_digest, OCI, b"{}").unwrap_err();
    assert!(matches!(error, Error::WrongDigest { .. }), "{error}");
}

#[test]
fn a_manifest_is_put_again_after_a_fault() {
    for fault in [Fault::Reset, Fault::LoseAnswer, Fault::Status(503), Fault::Status(429)] {
        let registry = Registry::start().unwrap();
        registry.fault(When::path("manifests/").times(2), fault.clone());
        client().push_manifest(&registry.reference("x:1"), OCI, b"{}").unwrap();
        assert_eq!(count(&registry.take_log(), "PUT", "manifests"), 3, "{fault:?}");
    }
}

#[test]
fn a_manifest_whose_blobs_are_missing_is_refused() {
    let registry = Registry::start().unwrap();
    let bytes = format!(r#"{{"layers":[{{"digest":"{}"}}]}}"#, digest(b"abc"));
    let error = client().push_manifest(&registry.reference("x:1"), OCI, bytes.as_bytes()).unwrap_err();
    assert!(error.to_string().contains("MANIFEST_BLOB_UNKNOWN"), "{error}");
    // A registry may lose sight of a blob while somebody else pushes it.
    assert_eq!(count(&registry.take_log(), "PUT", "manifests"), 4);
    let large = vec![b' '; 4 * 1024 * 1024 + 1];
    let error = client().push_manifest(&registry.reference("x:1"), OCI, &large).unwrap_err();
    assert!(matches!(error, Error::TooLarge { .. }), "{error}");
    let error = client().push_manifest(&registry.reference("x:1"), "a\nb", b"{}").unwrap_err();
    assert!(matches!(error, Error::Malformed { .. }), "{error}");
}

#[test]
fn the_digest_that_a_registry_states_is_compared() {
    let registry = Registry::start().unwrap();
    let lie = Fault::SetHeader("docker-content-digest", digest(b"other").to_string());
    registry.fault(When::path("manifests/").method("PUT").always(), lie.clone());
    let error = client().push_manifest(&registry.reference("x:1"), OCI, b"{}").unwrap_err();
    assert!(matches!(error, Error::WrongDigest { .. }), "{error}");
    registry.fault(When::path("uploads/").method("PUT"), lie);
    let error = push(&registry, b"abc", None).unwrap_err();
    assert!(matches!(error, Error::WrongDigest { .. }), "{error}");
}

#[test]
fn a_refusal_before_the_end_of_the_body_is_heard() {
    // As nginx does when a body is too large: answer at once, then read on for a while.
    let registry = Registry::start().unwrap();
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let location = format!("http://{}/upload", listener.local_addr().unwrap());
    registry.fault(When::path("uploads/").method("POST").always(), Fault::SetHeader("location", location));
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            let mut buffer = [0; 4096];
            drop(stream.read(&mut buffer));
            drop(io::Write::write_all(
                &mut stream,
                b"HTTP/1.1 413 Large\r\nconnection: close\r\ncontent-length: 0\r\n\r\n",
            ));
            drop(io::copy(&mut stream.take(2_000_000), &mut io::sink()));
        }
    });
    for size in [3_000_000, 9_000_000] {
        let error = push(&registry, &content(size), None).unwrap_err();
        assert!(matches!(&error, Error::Refused { answer, .. } if answer.status == 413), "{size}: {error}");
    }
}

#[test]
fn a_blob_that_the_client_has_placed_is_not_asked_for_again() {
    let registry = Registry::start().unwrap();
    registry.put_blob("base", MediaType::ImageLayerGzip, b"mounted");
    registry.put_blob("x", MediaType::ImageLayerGzip, b"found");
    let client = client();
    let push = |to: &str, bytes: &[u8], from| {
        client.push_blob(&registry.reference(to), &descriptor(bytes), from, &opener(bytes)).unwrap()
    };
    let offer = |bytes: &[u8]| client.offer_blob(&registry.reference("x"), &descriptor(bytes), None).unwrap();
    let mut upload = client.begin_upload(&registry.reference("x")).unwrap();
    upload.send(b"streamed");
    upload.finish(&descriptor(b"streamed"), &opener(b"streamed")).unwrap();
    assert_eq!(push("x", b"mounted", Some("base")), Pushed::Mounted);
    assert_eq!(push("x", b"sent", None), Pushed::Uploaded);
    assert_eq!((offer(b"found"), offer(b"nowhere")), (Some(Pushed::Existed), None));
    registry.take_log();
    for bytes in [&b"streamed"[..], b"mounted", b"sent", b"found"] {
        assert_eq!(push("x", bytes, Some("base")), Pushed::Existed);
        assert_eq!(offer(bytes), Some(Pushed::Existed));
    }
    assert_eq!(registry.take_log(), []);
    // It is known of that repository alone.
    assert_eq!(push("y", b"sent", None), Pushed::Uploaded);
    assert_eq!(offer(b"nowhere"), None);
}
