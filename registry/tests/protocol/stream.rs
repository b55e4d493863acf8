//! Blobs that are sent while they are made.

use registry::testing::{Access, Fault, Registry, When};
use registry::{Client, Error, Pushed};

use super::{client, client_of, content, count, descriptor, digest, opener};

/// Streams bytes in pieces of a size that no chunk is a multiple of.
fn stream(client: &Client, registry: &Registry, bytes: &[u8]) -> Result<Pushed, Error> {
    let mut upload = client.begin_upload(&registry.reference("x"))?;
    bytes.chunks(300_007).for_each(|piece| upload.send(piece));
    upload.finish(&descriptor(bytes), &opener(bytes))
}

#[test]
fn bytes_are_sent_before_their_digest_is_known() {
    let registry = Registry::start().unwrap();
    for length in [0, 1, 5_000_000, 8 << 20, 20_000_000] {
        let bytes = content(length);
        assert_eq!(stream(&client(), &registry, &bytes).unwrap(), Pushed::Uploaded);
        assert!(registry.blob("x", &digest(&bytes)).unwrap() == bytes);
        let log = registry.take_log();
        // What is less than a chunk goes with the last request.
        let chunks = if length < 8 << 20 { 0 } else { length.div_ceil(8 << 20) };
        assert_eq!(count(&log, "PATCH", "uploads"), chunks, "{length}");
        assert_eq!((count(&log, "HEAD", ""), count(&log, "PUT", "")), (0, 1));
    }
}

#[test]
fn a_broken_stream_is_resumed_from_what_the_registry_has() {
    for fault in [Fault::Reset, Fault::LoseAnswer, Fault::Status(502), Fault::Status(416), Fault::Status(429)] {
        for skip in 0..3 {
            let registry = Registry::start().unwrap();
            let bytes = content(20_000_000);
            registry.fault(When::path("uploads/").method("PATCH").after(skip).times(2), fault.clone());
            assert_eq!(stream(&client(), &registry, &bytes).unwrap(), Pushed::Uploaded, "{fault:?}");
            assert!(registry.blob("x", &digest(&bytes)).unwrap() == bytes);
            assert_eq!(count(&registry.take_log(), "POST", "uploads"), 1, "{fault:?} {skip}");
        }
    }
}

#[test]
fn a_lost_stream_is_pushed_anew() {
    for (method, fault) in [
        ("PATCH", Fault::ForgetUploads),
        ("PATCH", Fault::Status(405)),
        ("PUT", Fault::ForgetUploads),
        ("PUT", Fault::Reset),
        ("PUT", Fault::Status(500)),
    ] {
        let registry = Registry::start().unwrap();
        let bytes = content(20_000_000);
        registry.fault(When::path("uploads/").method(method), fault.clone());
        assert_eq!(stream(&client(), &registry, &bytes).unwrap(), Pushed::Uploaded, "{fault:?}");
        assert!(registry.blob("x", &digest(&bytes)).unwrap() == bytes);
        assert_eq!(count(&registry.take_log(), "POST", "uploads"), 2, "{fault:?}");
    }
}

#[test]
fn whoever_sends_can_see_that_it_is_in_vain() {
    let registry = Registry::start().unwrap();
    registry.fault(When::path("uploads/").method("PATCH").after(1), Fault::Status(405));
    let mut upload = client().begin_upload(&registry.reference("x")).unwrap();
    let lost = [0, 1, 2].map(|_| {
        upload.send(&content(8 << 20));
        upload.is_lost()
    });
    assert_eq!(lost, [false, true, true]);
    upload.cancel();
    let log = registry.take_log();
    assert_eq!((count(&log, "PATCH", "uploads"), count(&log, "DELETE", "uploads")), (2, 0));
}

#[test]
fn a_lost_final_answer_is_found_by_looking() {
    let registry = Registry::start().unwrap();
    registry.fault(When::path("uploads/").method("PUT"), Fault::LoseAnswer);
    assert_eq!(stream(&client(), &registry, &content(100_000)).unwrap(), Pushed::Existed);
    assert_eq!(count(&registry.take_log(), "POST", "uploads"), 1);
}

#[test]
fn a_part_that_the_registry_took_half_of_is_completed() {
    let registry = Registry::start().unwrap();
    let bytes = content(10_000_000);
    // It claims to have less than it has: the client goes on from there, is told that it is elsewhere, and looks.
    registry.fault(When::path("uploads/").method("PATCH"), Fault::SetHeader("range", "0-999999".into()));
    assert_eq!(stream(&client(), &registry, &bytes).unwrap(), Pushed::Uploaded);
    assert!(registry.blob("x", &digest(&bytes)).unwrap() == bytes);
}

#[test]
fn a_stream_that_is_not_its_blob_is_none() {
    let registry = Registry::start().unwrap();
    let bytes = content(9_000_000);
    let client = client();
    let mut short = client.begin_upload(&registry.reference("x")).unwrap();
    short.send(&bytes[..8_999_999]);
    let error = short.finish(&descriptor(&bytes), &opener(&bytes)).unwrap_err();
    assert!(matches!(error, Error::WrongSize { actual: 8_999_999, .. }), "{error}");
    // Of the right size, with another digest: the registry refuses it, and the content is pushed from its beginning.
    let mut flipped = bytes.clone();
    flipped[7] ^= 1;
    let mut wrong = client.begin_upload(&registry.reference("x")).unwrap();
    wrong.send(&flipped);
    assert_eq!(wrong.finish(&descriptor(&bytes), &opener(&bytes)).unwrap(), Pushed::Uploaded);
    assert!(registry.blob("x", &digest(&flipped)).is_none());
    assert!(registry.blob("x", &digest(&bytes)).unwrap() == bytes);
    client.begin_upload(&registry.reference("x")).unwrap().cancel();
    assert_eq!(count(&registry.take_log(), "DELETE", "uploads"), 2);
}

#[test]
fn a_token_that_ends_in_the_middle_of_a_stream_is_renewed() {
    for uses in 1..5 {
        let access =
            Access::Token { username: "user".into(), password: "hunter2".into(), uses: Some(uses), realm: None };
        let registry = Registry::with_access(access).unwrap();
        let bytes = content(30_000_000);
        assert_eq!(stream(&client_of(&registry), &registry, &bytes).unwrap(), Pushed::Uploaded);
        assert!(registry.blob("x", &digest(&bytes)).unwrap() == bytes);
    }
}

#[test]
fn nobody_streams_to_where_they_may_not_push() {
    let registry = Registry::start().unwrap();
    registry.fault(When::path("uploads/").always(), Fault::Status(403));
    let error = client().begin_upload(&registry.reference("x")).unwrap_err();
    assert!(matches!(error, Error::Denied { .. }), "{error}");
    assert!(error.to_string().starts_with(&format!("cannot upload a blob to `{}/x`", registry.host())), "{error}");
}
