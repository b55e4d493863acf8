//! What passes is waited for; what does not is said.

use std::time::{Duration, Instant};

use oci_spec::image::MediaType;
use registry::testing::{Fault, Registry, When};
use registry::{Client, Error, Options, Retry, Timeouts};

use super::{client, config, content, count, descriptor, digest, pull, quick};

fn limited(status: u16, after: &str) -> Fault {
    Fault::Answer { status, headers: vec![("retry-after", after.to_owned())], body: Vec::new() }
}

#[test]
fn what_passes_is_tried_again() {
    for fault in [
        Fault::Status(429),
        Fault::Status(408),
        Fault::Status(500),
        Fault::Status(502),
        Fault::Status(503),
        Fault::Status(504),
        Fault::Reset,
        Fault::LoseAnswer,
        Fault::BreakAfter(10),
    ] {
        let registry = Registry::start().unwrap();
        let image = registry.put_image("x", "1", &config("linux/amd64"), &[]);
        registry.put_blob("x", MediaType::ImageLayerGzip, &content(1000));
        registry.fault(When::path("manifests/").times(3), fault.clone());
        registry.fault(When::path("blobs/").times(3), fault.clone());
        assert_eq!(client().manifest(&registry.reference("x:1")).unwrap().descriptor, image, "{fault:?}");
        pull(&registry, "x:1", &content(1000)).unwrap();
    }
}

#[test]
fn attempts_end_and_are_counted() {
    let registry = Registry::start().unwrap();
    registry.fault(When::path("manifests/").always(), Fault::Status(503));
    let error = client().manifest(&registry.reference("x:1")).unwrap_err();
    assert!(error.to_string().contains("the registry refused: HTTP 503"), "{error}");
    assert!(error.to_string().ends_with(", 4 attempts)"), "{error}");
    assert_eq!(count(&registry.take_log(), "GET", "manifests"), 4);
}

#[test]
fn what_does_not_pass_is_not_tried_again() {
    for status in [400, 403, 404, 405, 501] {
        let registry = Registry::start().unwrap();
        registry.fault(When::path("manifests/").always(), Fault::Status(status));
        assert!(client().manifest(&registry.reference("x:1")).is_err());
        assert_eq!(count(&registry.take_log(), "GET", "manifests"), 1, "{status}");
    }
}

#[test]
fn a_bad_request_is_told_as_the_registry_tells_it() {
    let registry = Registry::start().unwrap();
    let body = br#"{"errors":[{"code":"NAME_INVALID","message":"no"}]}"#.to_vec();
    registry.fault(When::path("manifests/").always(), Fault::Answer { status: 400, headers: Vec::new(), body });
    let error = client().manifest(&registry.reference("x:1")).unwrap_err();
    assert!(error.to_string().contains("NAME_INVALID"), "{error}");
}

#[test]
fn retry_after_is_waited_for() {
    let registry = Registry::start().unwrap();
    registry.put_image("x", "1", &config("linux/amd64"), &[]);
    registry.fault(When::path("manifests/"), limited(429, "1"));
    let started = Instant::now();
    client().manifest(&registry.reference("x:1")).unwrap();
    assert!(started.elapsed() >= Duration::from_secs(1));
}

#[test]
fn a_retry_after_beyond_the_budget_ends_at_once() {
    let registry = Registry::start().unwrap();
    registry.fault(When::path("manifests/").always(), limited(429, "3600"));
    let error = client().manifest(&registry.reference("x:1")).unwrap_err();
    let Error::RateLimited { exchange, answer } = error else { panic!("{error}") };
    assert_eq!((exchange.attempts, answer.retry_after), (1, Some(Duration::from_hours(1))));
}

#[test]
fn nobody_listening_is_unreachable() {
    // A port that nobody is given by chance.
    let error = client().manifest(&"127.0.0.1:1/x:1".parse().unwrap()).unwrap_err();
    assert!(matches!(&error, Error::Unreachable { exchange, .. } if exchange.attempts == 4), "{error}");
    let mut chain = Vec::new();
    let mut next: Option<&dyn std::error::Error> = Some(&error);
    while let Some(error) = next {
        chain.push(error.to_string());
        next = error.source();
    }
    assert!(chain.last().unwrap().contains("refused"), "{chain:?}");
}

#[test]
fn silence_has_an_end() {
    let registry = Registry::start().unwrap();
    registry.put_image("x", "1", &config("linux/amd64"), &[]);
    let timeouts = Timeouts { answer: Duration::from_millis(400), ..Timeouts::default() };
    let client = Client::new(Options { timeouts, ..quick() }).unwrap();
    registry.fault(When::path("manifests/"), Fault::Stall(Duration::from_secs(2)));
    client.manifest(&registry.reference("x:1")).unwrap();
    registry.fault(When::path("manifests/").always(), Fault::Stall(Duration::from_secs(2)));
    let error = client.manifest(&registry.reference("x:1")).unwrap_err();
    assert!(matches!(error, Error::Unreachable { .. }), "{error}");
}

#[test]
fn a_body_that_trickles_has_an_end() {
    let registry = Registry::start().unwrap();
    registry.put_image("x", "1", &config("linux/amd64"), &[]);
    registry.fault(When::path("manifests/").always(), Fault::Trickle(Duration::from_millis(20)));
    let timeouts = Timeouts { answer: Duration::from_millis(300), slowest: 100_000, ..Timeouts::default() };
    let retry = Retry { attempts: 2, ..quick().retry };
    let client = Client::new(Options { timeouts, retry, ..quick() }).unwrap();
    let started = Instant::now();
    let error = client.manifest(&registry.reference("x:1")).unwrap_err();
    assert!(matches!(error, Error::Unreachable { .. }), "{error}");
    assert!(started.elapsed() < Duration::from_secs(3));
}

#[test]
fn a_manifest_that_is_damaged_on_its_way_is_fetched_again() {
    let registry = Registry::start().unwrap();
    let image = registry.put_image("x", "1", &config("linux/amd64"), &[]);
    for fault in [Fault::Flip(30), Fault::Truncate(50)] {
        registry.fault(When::path("manifests/"), fault.clone());
        assert_eq!(client().manifest(&registry.reference("x:1")).unwrap().descriptor, image, "{fault:?}");
        registry.take_log();
    }
}

#[test]
fn an_answer_to_an_upload_that_comes_late_is_waited_for() {
    let registry = Registry::start().unwrap();
    registry.fault(When::path("uploads/").method("PUT"), Fault::Stall(Duration::from_millis(500)));
    let bytes = content(100_000);
    client().push_blob(&registry.reference("x"), &descriptor(&bytes), None, &super::opener(&bytes)).unwrap();
    assert_eq!(registry.blob("x", &digest(&bytes)).unwrap(), bytes);
}
