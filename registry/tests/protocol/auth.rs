//! Who gets which credentials, and when.

use std::sync::Arc;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use oci_spec::image::MediaType;
use registry::credentials::edit;
use registry::testing::{Access, Fault, Logged, Registry, When};
use registry::{Client, Credentials, Error, Options, Pushed};

use super::{client, client_of, config, count, descriptor, digest, opener, quick};

fn basic_registry() -> Registry {
    Registry::with_access(Access::Basic { username: "user".into(), password: "hunter2".into() }).unwrap()
}

fn token_access(uses: Option<u32>, realm: Option<String>) -> Access {
    Access::Token { username: "user".into(), password: "hunter2".into(), uses, realm }
}

fn token_registry(uses: Option<u32>) -> Registry {
    Registry::with_access(token_access(uses, None)).unwrap()
}

#[track_caller]
fn problem(error: &Error) -> &'static str {
    let text = format!("{error} {error:?}");
    assert!(!text.contains("hunter2") && !text.contains(&secret()), "{text}");
    let Error::Unauthorized { problem, .. } = error else { panic!("{error}") };
    problem
}

/// The password as Basic has it.
fn secret() -> String {
    STANDARD.encode("user:hunter2")
}

fn has_secret(entry: &Logged) -> bool {
    entry.headers.values().any(|value| value.contains(&secret()) || value.contains("Bearer"))
}

#[test]
fn basic_is_sent_once_it_is_asked_for() {
    let registry = basic_registry();
    registry.put_image("x", "1", &config("linux/amd64"), &[]);
    let client = client_of(&registry);
    client.manifest(&registry.reference("x:1")).unwrap();
    client.manifest(&registry.reference("x:1")).unwrap();
    let statuses: Vec<u16> = registry.take_log().iter().map(|entry| entry.status).collect();
    // The question, the answer, and no second question.
    assert_eq!(statuses, [401, 200, 200]);
    let pushed = client.push_blob(&registry.reference("x"), &descriptor(b"abc"), None, &opener(b"abc"));
    assert_eq!(pushed.unwrap(), Pushed::Uploaded);
}

#[test]
fn missing_and_wrong_passwords_are_told_apart() {
    for registry in [basic_registry(), token_registry(None)] {
        registry.put_image("x", "1", &config("linux/amd64"), &[]);
        let reference = registry.reference("x:1");
        let error = client().manifest(&reference).unwrap_err();
        assert!(problem(&error).contains("credentials"));
        let wrong = Credentials::default().with_password(&registry.host(), "user", "wrong");
        let client = Client::new(Options { credentials: wrong, ..quick() }).unwrap();
        assert!(problem(&client.manifest(&reference).unwrap_err()).ends_with("refuses the credentials"));
    }
    let error = client().manifest(&basic_registry().reference("x:1")).unwrap_err();
    assert_eq!(problem(&error), "no credentials are known for this registry");
}

#[test]
fn everyone_may_pull_what_is_public() {
    let registry = token_registry(None);
    registry.put_image("public/x", "1", &config("linux/amd64"), &[]);
    client().manifest(&registry.reference("public/x:1")).unwrap();
    let log = registry.take_log();
    let token = log.iter().find(|entry| entry.path == "/token").unwrap();
    assert_eq!(token.query, "service=test&scope=repository%3Apublic%2Fx%3Apull");
    assert_eq!(token.header("authorization"), None);
}

#[test]
fn a_token_is_fetched_once_for_many_requests_and_threads() {
    let registry = token_registry(None);
    for number in 0..4_u8 {
        registry.put_blob("x", MediaType::ImageLayerGzip, &[number]);
    }
    let client = Arc::new(client_of(&registry));
    client.has_blob(&registry.reference("x"), &digest(&[0])).unwrap();
    std::thread::scope(|scope| {
        for number in 0..4_u8 {
            let (client, reference) = (Arc::clone(&client), registry.reference("x"));
            scope.spawn(move || client.pull_blob(&reference, &descriptor(&[number]), &mut Vec::new()).unwrap());
        }
    });
    let log = registry.take_log();
    assert_eq!(count(&log, "GET", "/token"), 1);
    let token = log.iter().find(|entry| entry.path == "/token").unwrap();
    assert_eq!(token.header("authorization").unwrap(), format!("Basic {}", secret()));
    // The password goes to the token service alone.
    assert!(
        log.iter()
            .filter(|entry| entry.path != "/token")
            .all(|entry| { entry.header("authorization").is_none_or(|value| value.starts_with("Bearer ")) })
    );
}

#[test]
fn a_push_asks_for_more_than_a_pull() {
    let registry = token_registry(None);
    let client = client_of(&registry);
    let reference = registry.reference("x:1");
    assert!(!client.has_blob(&reference, &digest(b"abc")).unwrap());
    client.push_blob(&reference, &descriptor(b"abc"), None, &opener(b"abc")).unwrap();
    client.push_manifest(&reference, "application/vnd.oci.image.manifest.v1+json", b"{}").unwrap();
    assert!(client.has_blob(&reference, &digest(b"abc")).unwrap());
    let log = registry.take_log();
    let scopes: Vec<&str> =
        log.iter().filter(|entry| entry.path == "/token").map(|entry| entry.query.as_str()).collect();
    assert_eq!(scopes.len(), 2, "{scopes:?}");
    assert!(scopes[0].contains("scope=repository%3Ax%3Apull&"), "{scopes:?}");
    assert!(scopes[1].contains("scope=repository%3Ax%3Apull%2Cpush"), "{scopes:?}");
}

#[test]
fn a_mount_asks_for_both_repositories() {
    let registry = token_registry(None);
    registry.put_blob("base", MediaType::ImageLayerGzip, b"abc");
    let client = client_of(&registry);
    let pushed = client.push_blob(&registry.reference("x"), &descriptor(b"abc"), Some("base"), &opener(b"abc"));
    assert_eq!(pushed.unwrap(), Pushed::Mounted);
    let log = registry.take_log();
    assert!(log.iter().any(|entry| entry.path == "/token" && entry.query.matches("scope=").count() == 2));
}

#[test]
fn a_mount_from_what_is_kept_from_us_becomes_an_upload() {
    let registry = token_registry(None);
    registry.put_blob("denied/base", MediaType::ImageLayerGzip, b"abc");
    let client = client_of(&registry);
    let pushed = client.push_blob(&registry.reference("x"), &descriptor(b"abc"), Some("denied/base"), &opener(b"abc"));
    assert_eq!(pushed.unwrap(), Pushed::Uploaded);
}

#[test]
fn a_token_that_ends_in_the_middle_is_renewed() {
    for uses in 1..6 {
        let registry = token_registry(Some(uses));
        let client = client_of(&registry);
        for number in 0..5_u8 {
            let bytes = vec![number; 100_000];
            client.push_blob(&registry.reference("x"), &descriptor(&bytes), None, &opener(&bytes)).unwrap();
            assert_eq!(registry.blob("x", &digest(&bytes)).unwrap(), bytes);
        }
        let manifest = client.push_manifest(&registry.reference("x:1"), "application/x", b"{}");
        assert_eq!(manifest.unwrap(), digest(b"{}"));
    }
}

#[test]
fn an_identity_token_is_sent_by_post() {
    let registry = token_registry(None);
    registry.put_image("x", "1", &config("linux/amd64"), &[]);
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("config.json");
    let auths = serde_json::json!({"auths": {registry.host(): {"identitytoken": "refresh"}}});
    fs_err::write(&path, auths.to_string()).unwrap();
    let credentials = Credentials::from_files([path]).unwrap();
    let client = Client::new(Options { credentials, ..quick() }).unwrap();
    client.manifest(&registry.reference("x:1")).unwrap();
    let log = registry.take_log();
    let token = log.iter().find(|entry| entry.path == "/token").unwrap();
    assert_eq!((token.method.as_str(), token.query.as_str()), ("POST", ""));
}

#[test]
fn the_realm_may_be_another_host_and_gets_the_password_alone() {
    let service = token_registry(None);
    let realm = format!("http://{}/token", service.host());
    let registry = Registry::with_access(token_access(None, Some(realm))).unwrap();
    registry.put_image("x", "1", &config("linux/amd64"), &[]);
    // The registry does not know the other's tokens: what counts is who is asked what.
    let error = client_of(&registry).manifest(&registry.reference("x:1")).unwrap_err();
    problem(&error);
    assert!(service.take_log().iter().all(|entry| entry.path == "/token" && has_secret(entry)));
    assert!(registry.take_log().iter().all(|entry| !entry.headers.values().any(|v| v.contains(&secret()))));
}

#[test]
fn a_realm_that_is_not_to_be_trusted_gets_nothing() {
    for realm in [
        "http://registry.test/token",
        "http://user:pw@127.0.0.1:1/token",
        "ftp://127.0.0.1/token",
        "file:///etc/passwd",
    ] {
        let registry = Registry::with_access(token_access(None, Some(realm.to_owned()))).unwrap();
        let error = client_of(&registry).manifest(&registry.reference("x:1")).unwrap_err();
        assert!(matches!(error, Error::Forbidden { .. }), "{error}");
        assert!(!error.to_string().contains("pw"), "{error}");
    }
}

#[test]
fn a_token_service_that_redirects_elsewhere_gets_no_second_request() {
    let other = Registry::start().unwrap();
    let registry = token_registry(None);
    let headers = vec![("location", format!("http://{}/token", other.host()))];
    registry.fault(When::path("/token").always(), Fault::Answer { status: 307, headers, body: Vec::new() });
    let error = client_of(&registry).manifest(&registry.reference("x:1")).unwrap_err();
    assert!(matches!(error, Error::Forbidden { .. }), "{error}");
    assert_eq!(other.take_log(), []);
}

#[test]
fn a_redirect_carries_no_credentials_and_its_401_gets_none() {
    for registry in [basic_registry(), token_registry(None)] {
        let storage = basic_registry();
        storage.put_blob("x", MediaType::ImageLayerGzip, b"abc");
        let headers = vec![("location", format!("http://{}/v2/x/blobs/{}?sig=s3cret", storage.host(), digest(b"abc")))];
        registry
            .fault(When::path("blobs/").after(1).always(), Fault::Answer { status: 307, headers, body: Vec::new() });
        let known = Credentials::default().with_password(&registry.host(), "user", "hunter2");
        let known = known.with_password(&storage.host(), "user", "hunter2");
        let client = Client::new(Options { credentials: known, ..quick() }).unwrap();
        let error = client.pull_blob(&registry.reference("x"), &descriptor(b"abc"), &mut Vec::new()).unwrap_err();
        assert!(!error.to_string().contains("s3cret"), "{error}");
        problem(&error);
        let log = storage.take_log();
        assert!(log.len() == 1 && log.iter().all(|entry| entry.header("authorization").is_none()), "{log:?}");
    }
}

#[test]
fn an_upload_elsewhere_carries_no_credentials() {
    let (registry, storage) = (basic_registry(), basic_registry());
    let location = format!("http://{}/v2/x/blobs/uploads/1", storage.host());
    registry.fault(When::path("uploads/").method("POST").always(), Fault::SetHeader("location", location));
    let client = client_of(&registry);
    let error = client.push_blob(&registry.reference("x"), &descriptor(b"abc"), None, &opener(b"abc")).unwrap_err();
    problem(&error);
    assert!(storage.take_log().iter().all(|entry| !has_secret(entry)));
}

#[test]
fn answers_of_a_token_service_that_are_none_are_refused() {
    for (status, body) in [
        (200, String::new()),
        (200, "{}".to_owned()),
        (200, r#"{"token":""}"#.to_owned()),
        (200, r#"{"token":"hunter2\nx"}"#.to_owned()),
        (200, r#"{"token":{"hunter2":1}}"#.to_owned()),
        (200, "x".repeat(2 * 1024 * 1024)),
        (404, "{}".to_owned()),
        (400, "{}".to_owned()),
    ] {
        let registry = token_registry(None);
        let fault = Fault::Answer { status, headers: Vec::new(), body: body.into_bytes() };
        registry.fault(When::path("/token").always(), fault);
        let error = client_of(&registry).manifest(&registry.reference("x:1")).unwrap_err();
        let is_named = matches!(error, Error::Malformed { .. } | Error::TooLarge { .. } | Error::Refused { .. });
        assert!(is_named, "{error:?}");
        assert!(!format!("{error:?}").contains("hunter2"), "{error:?}");
    }
}

#[test]
fn a_token_service_is_asked_again_after_a_fault() {
    for fault in [Fault::Status(503), Fault::Reset, Fault::BreakAfter(3)] {
        let registry = token_registry(None);
        registry.put_image("x", "1", &config("linux/amd64"), &[]);
        registry.fault(When::path("/token").times(2), fault);
        client_of(&registry).manifest(&registry.reference("x:1")).unwrap();
    }
}

#[test]
fn a_challenge_that_cannot_be_met_is_named() {
    let registry = basic_registry();
    registry.fault(When::path("x").always(), Fault::SetHeader("www-authenticate", "Negotiate".into()));
    let error = client_of(&registry).manifest(&registry.reference("x:1")).unwrap_err();
    assert!(problem(&error).contains("neither Basic nor Bearer"));
}

#[test]
fn debug_of_a_client_in_use_shows_no_secret() {
    let registry = token_registry(None);
    registry.put_image("x", "1", &config("linux/amd64"), &[]);
    let client = client_of(&registry);
    client.manifest(&registry.reference("x:1")).unwrap();
    let text = format!("{client:?}");
    assert!(!text.contains("hunter2") && !text.contains("token-"), "{text}");
}

#[test]
fn who_signs_in_may_keep_an_identity_token_instead_of_the_password() {
    let registry = token_registry(None);
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("config.json");
    let token = client_of(&registry).sign_in(&registry.host()).unwrap().unwrap();
    assert_eq!(format!("{token:?}"), "IdentityToken([redacted])");
    edit::store_token(&path, &registry.host(), "user", &token).unwrap();
    let text = fs_err::read_to_string(&path).unwrap();
    assert!(!text.contains("hunter2") && !text.contains(&secret()), "{text}");
    registry.take_log();
    let credentials = Credentials::from_files([path]).unwrap();
    let client = Client::new(Options { credentials, ..quick() }).unwrap();
    assert!(client.sign_in(&registry.host()).is_ok());
    client.push_blob(&registry.reference("x"), &descriptor(b"abc"), None, &opener(b"abc")).unwrap();
    let log = registry.take_log();
    let asked: Vec<&str> =
        log.iter().filter(|entry| entry.path == "/token").map(|entry| entry.method.as_str()).collect();
    assert_eq!(asked, ["POST", "POST"]);
    assert!(!log.iter().any(|entry| entry.headers.values().any(|value| value.contains(&secret()))));
    // A registry that has no tokens has none to keep.
    let basic = basic_registry();
    assert_eq!(client_of(&basic).sign_in(&basic.host()).unwrap(), None);
}

#[test]
fn an_identity_token_that_is_replaced_is_used_from_then_on() {
    let registry = token_registry(None);
    // The service takes the first, gives a token that is not good, and another identity token, which is.
    let body = br#"{"access_token": "stale", "refresh_token": "refresh"}"#.to_vec();
    registry.fault(When::path("/token"), Fault::Answer { status: 200, headers: Vec::new(), body });
    let text = serde_json::json!({"auths": {registry.host(): {"identitytoken": "first"}}}).to_string();
    let credentials = Credentials::default().with_text("test", &text).unwrap();
    let client = Client::new(Options { credentials, ..quick() }).unwrap();
    let reference = registry.reference("x");
    assert!(matches!(client.has_blob(&reference, &digest(b"")), Err(Error::Unauthorized { .. })));
    assert!(!client.has_blob(&reference, &digest(b"")).unwrap());
    assert_eq!(count(&registry.take_log(), "POST", "/token"), 2);
}
