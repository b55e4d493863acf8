//! A registry that means harm: what it may not make the client do, read, or say.

use std::io::{Read, Write};
use std::net::TcpListener;
use std::thread;
use std::time::{Duration, Instant};

use oci_spec::image::MediaType;
use registry::testing::{Fault, Registry, When};
use registry::{Client, Error, Options};

use super::{client, config, content, count, descriptor, digest, pull, quick};

fn redirect(to: &str) -> Fault {
    Fault::Answer { status: 307, headers: vec![("location", to.to_owned())], body: Vec::new() }
}

#[test]
fn a_redirect_to_storage_is_followed() {
    let (registry, storage) = (Registry::start().unwrap(), Registry::start().unwrap());
    let bytes = content(1000);
    storage.put_blob("s", MediaType::ImageLayerGzip, &bytes);
    let to = format!("http://{}/v2/s/blobs/{}?sig=x", storage.host(), digest(&bytes));
    registry.fault(When::path("blobs/").always(), redirect(&to));
    storage.fault(When::path("blobs/"), Fault::BreakAfter(400));
    assert_eq!(pull(&registry, "x:1", &bytes).unwrap(), bytes);
    // Resumed by way of the registry: a signed address may have expired.
    assert_eq!(count(&registry.take_log(), "GET", "blobs"), 2);
    assert_eq!(storage.take_log()[1].header("range"), Some("bytes=400-"));
}

#[test]
fn a_redirect_where_we_do_not_go_is_refused() {
    for to in [
        "http://registry.test/x",
        "http://user:pw@127.0.0.1/x",
        "file:///etc/passwd",
        "ftp://127.0.0.1/x",
        "gopher://127.0.0.1/x",
    ] {
        let registry = Registry::start().unwrap();
        registry.fault(When::path("blobs/").always(), redirect(to));
        let error = pull(&registry, "x:1", b"abc").unwrap_err();
        assert!(matches!(error, Error::Forbidden { .. }), "{to}: {error}");
        assert!(!error.to_string().contains("pw"), "{error}");
        assert_eq!(count(&registry.take_log(), "GET", "blobs"), 1);
    }
}

#[test]
fn redirects_have_an_end() {
    let registry = Registry::start().unwrap();
    registry.fault(When::path("x").always(), redirect("/v2/x/manifests/1"));
    let error = client().manifest(&registry.reference("x:1")).unwrap_err();
    assert!(matches!(error, Error::Forbidden { .. }), "{error}");
    assert_eq!(count(&registry.take_log(), "GET", "manifests"), 6);
    let registry = Registry::start().unwrap();
    registry.fault(When::path("manifests/").always(), Fault::Status(307));
    let error = client().manifest(&registry.reference("x:1")).unwrap_err();
    assert!(matches!(error, Error::Malformed { .. }), "{error}");
}

#[test]
fn an_upload_location_where_we_do_not_go_is_refused() {
    for to in ["http://registry.test/x", "file:///tmp/x", "http://u:p@127.0.0.1:1/x", "http://[", ""] {
        let registry = Registry::start().unwrap();
        registry.fault(When::path("uploads/").method("POST").always(), Fault::SetHeader("location", to.to_owned()));
        let open = super::opener(b"abc");
        let error = client().push_blob(&registry.reference("x"), &descriptor(b"abc"), None, &open).unwrap_err();
        assert!(matches!(error, Error::Forbidden { .. } | Error::Malformed { .. }), "{to}: {error}");
    }
}

#[test]
fn the_next_page_of_tags_is_the_registrys_own() {
    let (registry, other) = (Registry::start().unwrap(), Registry::start().unwrap());
    registry.put_manifest("x", "1", "application/x", b"{}");
    let link = |address: String| Fault::SetHeader("link", format!("<{address}>; rel=\"next\""));
    registry.fault(When::path("tags/"), link(format!("http://{}/v2/x/tags/list", other.host())));
    let error = client().tags(&registry.reference("x")).unwrap_err();
    assert!(matches!(error, Error::Forbidden { .. }), "{error}");
    assert_eq!(other.take_log(), []);
    // A page that names itself as the next.
    registry.fault(When::path("tags/").after(1).always(), link("/v2/x/tags/list?n=1000".to_owned()));
    assert_eq!(client().tags(&registry.reference("x")).unwrap(), ["1"]);
}

#[test]
fn a_tag_that_is_none_is_not_passed_on() {
    for body in [r#"{"tags":["\u001b[31m"]}"#, r#"{"tags":["a b"]}"#, r#"{"tags":7}"#, "[]x", "{"] {
        let registry = Registry::start().unwrap();
        let fault = Fault::Answer { status: 200, headers: Vec::new(), body: body.into() };
        registry.fault(When::path("tags/").always(), fault);
        let error = client().tags(&registry.reference("x")).unwrap_err();
        assert!(!error.to_string().contains('\u{1b}'), "{error}");
    }
}

#[test]
fn a_lie_about_the_digest_is_found() {
    let registry = Registry::start().unwrap();
    let image = registry.put_image("x", "1", &config("linux/amd64"), &[]);
    let other = registry.put_image("x", "2", &config("linux/arm64"), &[]);
    // By tag: the header does not fit the bytes.
    let lie = Fault::SetHeader("docker-content-digest", other.digest().to_string());
    registry.fault(When::path("manifests/1").always(), lie.clone());
    let error = client().manifest(&registry.reference("x:1")).unwrap_err();
    assert!(matches!(error, Error::WrongDigest { .. }), "{error}");
    // By digest: another manifest comes, with a header that fits it.
    let (media_type, bytes) = registry.manifest("x", "2").unwrap();
    let headers = vec![("content-type", media_type), ("docker-content-digest", other.digest().to_string())];
    registry.fault(When::path("manifests/sha256").always(), Fault::Answer { status: 200, headers, body: bytes });
    let by_digest = registry.reference(&format!("x@{}", image.digest()));
    let error = client().manifest(&by_digest).unwrap_err();
    assert!(matches!(error, Error::WrongDigest { .. }), "{error}");
    // HEAD of a blob.
    registry.put_blob("x", MediaType::ImageLayerGzip, b"abc");
    registry.fault(When::path("blobs/").always(), lie);
    let error = client().has_blob(&registry.reference("x"), &digest(b"abc")).unwrap_err();
    assert!(matches!(error, Error::WrongDigest { .. }), "{error}");
    // Not a digest at all.
    registry.fault(When::path("manifests/2"), Fault::SetHeader("docker-content-digest", "../../etc".into()));
    let error = client().manifest(&registry.reference("x:2")).unwrap_err();
    assert!(matches!(error, Error::Malformed { .. }), "{error}");
}

#[test]
fn a_digest_of_another_algorithm_is_checked_by_it() {
    let registry = Registry::start().unwrap();
    registry.put_image("x", "1", &config("linux/amd64"), &[]);
    let wrong = format!("sha512:{}", "0".repeat(128));
    registry.fault(When::path("manifests/").always(), Fault::SetHeader("docker-content-digest", wrong));
    let error = client().manifest(&registry.reference("x:1")).unwrap_err();
    assert!(matches!(error, Error::WrongDigest { .. }), "{error}");
}

#[test]
fn an_endless_body_has_an_end() {
    let registry = Registry::start().unwrap();
    registry.put_image("x", "1", &config("linux/amd64"), &[]);
    registry.put_blob("x", MediaType::ImageLayerGzip, b"abc");
    for part in ["manifests/", "tags/", "blobs/"] {
        registry.fault(When::path(part).always(), Fault::Endless);
    }
    let started = Instant::now();
    let error = client().manifest(&registry.reference("x:1")).unwrap_err();
    assert!(matches!(error, Error::TooLarge { limit: 4_194_304, .. }), "{error}");
    let error = client().tags(&registry.reference("x")).unwrap_err();
    assert!(matches!(error, Error::TooLarge { .. }), "{error}");
    let error = pull(&registry, "x:1", b"abc").unwrap_err();
    assert!(matches!(error, Error::WrongSize { expected: 3, .. }), "{error}");
    let registry = Registry::start().unwrap();
    let headers = vec![("content-length-x", String::new())];
    let body = vec![b'x'; 10 * 1024 * 1024];
    registry.fault(When::path("manifests/").always(), Fault::Answer { status: 400, headers, body });
    let error = client().manifest(&registry.reference("x:1")).unwrap_err();
    assert!(matches!(error, Error::Refused { .. }), "{error}");
    assert!(started.elapsed() < Duration::from_secs(20));
}

#[test]
fn a_body_in_an_encoding_is_refused() {
    let registry = Registry::start().unwrap();
    registry.put_image("x", "1", &config("linux/amd64"), &[]);
    registry.put_blob("x", MediaType::ImageLayerGzip, b"abc");
    registry.fault(When::path("x").always(), Fault::SetHeader("content-encoding", "gzip".into()));
    assert!(matches!(client().manifest(&registry.reference("x:1")), Err(Error::Malformed { .. })));
    assert!(matches!(pull(&registry, "x:1", b"abc"), Err(Error::Malformed { .. })));
}

#[test]
fn what_a_registry_says_is_shown_in_one_harmless_line() {
    let registry = Registry::start().unwrap();
    let body = br#"{"errors":[{"code":"DENIED","message":"\u001b]0;x\u0007::error::\r\n##vso[\u202e"}]}"#.to_vec();
    registry.fault(When::path("manifests/").always(), Fault::Answer { status: 403, headers: Vec::new(), body });
    let error = client().manifest(&registry.reference("x:1")).unwrap_err();
    assert!(matches!(error, Error::Denied { .. }), "{error}");
    assert!(!error.to_string().contains(|c: char| c.is_control() || c == '\u{202e}'), "{error}");
}

/// Answers every connection with these bytes, whatever is asked.
fn raw(bytes: &'static [u8]) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let host = listener.local_addr().unwrap().to_string();
    thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            let mut request = [0; 4096];
            // The client may be gone: that is its good right.
            drop(stream.read(&mut request));
            drop(stream.write_all(bytes));
        }
    });
    host
}

#[test]
fn what_is_not_http_is_an_error() {
    let many = format!("HTTP/1.1 200 OK\r\n{}", "a: b\r\n".repeat(100_000));
    let long = format!("HTTP/1.1 200 OK\r\na: {}", "b".repeat(10_000_000));
    for bytes in [
        &b""[..],
        b"\0\0\0\0",
        b"SSH-2.0-OpenSSH_9.2\r\n",
        b"HTTP/1.1 999999 x\r\n\r\n",
        b"HTTP/1.1 200 OK\r\ncontent-length: -1\r\n\r\n",
        b"HTTP/1.1 200 OK\r\ncontent-length: 1\r\ncontent-length: 2\r\n\r\nxx",
        b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\nfffffffffffffffffff\r\n",
        b"HTTP/1.1 200 OK\r\ncontent-length: 99999999999999999\r\n\r\n",
        Box::leak(many.into_boxed_str()).as_bytes(),
        Box::leak(long.into_boxed_str()).as_bytes(),
        b"HTTP/1.1 101 Switching Protocols\r\n\r\n",
        b"HTTP/1.1 204 No Content\r\n\r\n",
        b"HTTP/1.1 206 Partial Content\r\ncontent-range: bytes 0-1/2\r\ncontent-length: 2\r\n\r\nab",
        b"HTTP/1.1 200 OK\r\ncontent-type: \xff\xfe\r\ncontent-length: 0\r\n\r\n",
    ] {
        let reference = format!("{}/x:1", raw(bytes)).parse().unwrap();
        let client = client();
        let shown = String::from_utf8_lossy(&bytes[..bytes.len().min(80)]);
        assert!(client.manifest(&reference).is_err(), "{shown}");
        assert!(client.pull_blob(&reference, &descriptor(b"abc"), &mut Vec::new()).is_err(), "{shown}");
        assert!(client.tags(&reference).is_err(), "{shown}");
    }
}

#[test]
fn a_loopback_registry_that_speaks_tls_is_spoken_to_in_tls() {
    // Go's and nginx's way to say so; there is no TLS behind it here, and that is the error.
    for text in ["Client sent an HTTP request to an HTTPS server.\n", "The plain HTTP request was sent to HTTPS port"] {
        let registry = Registry::start().unwrap();
        let fault = Fault::Answer { status: 400, headers: Vec::new(), body: text.into() };
        registry.fault(When::path("/v2/").always(), fault);
        let error = client().manifest(&registry.reference("x:1")).unwrap_err();
        assert!(error.to_string().contains("(https://127.0.0.1:"), "{error}");
    }
}

#[test]
fn a_host_that_is_not_loopback_is_never_spoken_to_in_plain_http() {
    let (listener, host) = not_loopback();
    let seen = thread::spawn(move || {
        let mut first = [0; 1];
        let (mut stream, _) = listener.accept().unwrap();
        stream.read_exact(&mut first).unwrap();
        first[0]
    });
    let error = client().manifest(&format!("{host}/x:1").parse().unwrap()).unwrap_err();
    assert!(matches!(error, Error::Unreachable { .. } | Error::Untrusted { .. }), "{error}");
    // The first byte of a TLS handshake, and not of a request line.
    assert_eq!(seen.join().unwrap(), 22);
}

#[test]
fn an_insecure_host_may_be_plain() {
    let (listener, host) = not_loopback();
    thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            let mut request = [0; 4096];
            let count = stream.read(&mut request).unwrap_or(0);
            let reply: &[u8] = match request[..count].first() {
                Some(22) => b"HTTP/1.1 400 Bad Request\r\n\r\n",
                _ => b"HTTP/1.1 200 OK\r\ncontent-length: 14\r\nconnection: close\r\n\r\n{\"tags\":[\"1\"]}",
            };
            drop(stream.write_all(reply));
        }
    });
    let client = Client::new(Options { insecure: vec![host.clone()], ..quick() }).unwrap();
    assert_eq!(client.tags(&format!("{host}/x").parse().unwrap()).unwrap(), ["1"]);
}

/// A listener, and an address of it that is not a loopback one: Linux takes 0.0.0.0 for this machine.
fn not_loopback() -> (TcpListener, String) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let host = format!("0.0.0.0:{}", listener.local_addr().unwrap().port());
    (listener, host)
}
