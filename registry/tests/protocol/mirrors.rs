//! Images read from mirrors, and registries by other names.

use std::io;
use std::net::TcpListener;
use std::path::Path;

use oci_spec::image::MediaType;
use registry::testing::{Access, Fault, Registry, When};
use registry::{Client, Credentials, Error, Options, Registries, reference};

use super::{config, content, count, descriptor, digest, opener, platform, quick};

/// A client for which `name.test/team` is `own`, with a mirror.
fn client(mirror: &str, own: &Registry) -> Client {
    let rules = format!(
        "[[registry]]\nprefix = \"name.test/team\"\nlocation = \"{}/real\"\n[[registry.mirror]]\nlocation = \"{mirror}/copy\"",
        own.host()
    );
    let registries = Registries::parse(Path::new("registries.conf"), &rules).unwrap();
    let credentials = Credentials::default().with_password(&own.host(), "user", "hunter2");
    Client::new(Options { registries, credentials, ..quick() }).unwrap()
}

#[test]
fn a_mirror_is_asked_first_and_gets_no_push() {
    let (mirror, own) = (Registry::start().unwrap(), Registry::start().unwrap());
    let image = mirror.put_image("copy/x", "1", &config("linux/amd64"), &[b"layer"]);
    let name = reference::parse("name.test/team/x:1").unwrap();
    let client = client(&mirror.host(), &own);
    let found = client.resolve(&name, &platform("linux/amd64")).unwrap();
    assert_eq!(found.descriptor.digest(), image.digest());
    client.pull_blob(&name, &found.manifest.layers()[0], &mut Vec::new()).unwrap();
    assert!(own.take_log().is_empty());
    client.push_blob(&name, &descriptor(b"abc"), None, &opener(b"abc")).unwrap();
    assert_eq!(own.blob("real/x", &digest(b"abc")).unwrap(), b"abc");
    assert!(mirror.take_log().iter().all(|entry| entry.method == "GET"));
}

#[test]
fn what_a_mirror_does_not_give_comes_from_the_registry() {
    for fault in [Fault::Status(404), Fault::Status(403), Fault::Status(503), Fault::Reset] {
        let (mirror, own) = (Registry::start().unwrap(), Registry::start().unwrap());
        let image = own.put_image("real/x", "1", &config("linux/amd64"), &[b"layer"]);
        mirror.fault(When::path("copy/x").always(), fault);
        let name = reference::parse("name.test/team/x:1").unwrap();
        let client = client(&mirror.host(), &own);
        assert_eq!(*client.manifest(&name).unwrap().descriptor.digest(), *image.digest());
        client.pull_blob(&name, &descriptor(b"layer"), &mut Vec::new()).unwrap();
    }
}

#[test]
fn a_blob_goes_on_where_the_mirror_broke_off() {
    let (mirror, own) = (Registry::start().unwrap(), Registry::start().unwrap());
    let bytes = content(500_000);
    mirror.put_blob("copy/x", MediaType::ImageLayerGzip, &bytes);
    own.put_blob("real/x", MediaType::ImageLayerGzip, &bytes);
    mirror.fault(When::path("blobs/"), Fault::BreakAfter(200_000));
    mirror.fault(When::path("blobs/").after(1).always(), Fault::Status(404));
    let mut out = Vec::new();
    let name = reference::parse("name.test/team/x:1").unwrap();
    client(&mirror.host(), &own).pull_blob(&name, &descriptor(&bytes), &mut out).unwrap();
    assert!(out == bytes);
    let log = own.take_log();
    assert!(log.iter().any(|entry| entry.header("range").is_some()), "{log:?}");
}

#[test]
fn a_mirror_that_lies_is_not_believed() {
    let (mirror, own) = (Registry::start().unwrap(), Registry::start().unwrap());
    mirror.put_wrong_blob("copy/x", &digest(b"right"), b"wrong");
    own.put_blob("real/x", MediaType::ImageLayerGzip, b"right");
    let name = reference::parse("name.test/team/x:1").unwrap();
    let error = client(&mirror.host(), &own).pull_blob(&name, &descriptor(b"right"), &mut Vec::new()).unwrap_err();
    assert!(matches!(error, Error::WrongDigest { .. }), "{error}");
}

#[test]
fn an_error_names_the_mirrors_and_they_get_no_password() {
    let basic = Access::Basic { username: "user".into(), password: "hunter2".into() };
    let (mirror, own) = (Registry::with_access(basic.clone()).unwrap(), Registry::with_access(basic).unwrap());
    let name = reference::parse("name.test/team/x:1").unwrap();
    let error = client(&mirror.host(), &own).manifest(&name).unwrap_err();
    assert!(matches!(error, Error::NotFound { .. }), "{error}");
    let expected =
        format!("; before it the mirror `{}/copy/x`: no credentials are known for this registry)", mirror.host());
    assert!(error.to_string().ends_with(&expected), "{error}");
    assert!(mirror.take_log().iter().all(|entry| entry.header("authorization").is_none()));
    assert_eq!(count(&own.take_log(), "GET", "manifests"), 2);
}

#[test]
fn a_mirror_that_is_not_there_is_asked_once() {
    let own = Registry::start().unwrap();
    let image = own.put_image("real/x", "1", &config("linux/amd64"), &[b"layer"]);
    // An address that no other test uses, at which nobody listens at first.
    let listener = TcpListener::bind("127.78.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    drop(listener);
    let (client, name) = (client(&address.to_string(), &own), reference::parse("name.test/team/x:1").unwrap());
    assert_eq!(client.manifest(&name).unwrap().descriptor, image);
    let listener = TcpListener::bind(address).unwrap();
    listener.set_nonblocking(true).unwrap();
    client.pull_blob(&name, &descriptor(b"layer"), &mut Vec::new()).unwrap();
    let missing = client.manifest(&reference::parse("name.test/team/y:1").unwrap()).unwrap_err();
    assert!(missing.to_string().ends_with(&format!("`{address}/copy/y`: gave no answer before)")), "{missing}");
    assert_eq!(listener.accept().unwrap_err().kind(), io::ErrorKind::WouldBlock);
}

#[test]
fn a_mirror_in_trouble_is_asked_twice_and_the_registry_often() {
    let (mirror, own) = (Registry::start().unwrap(), Registry::start().unwrap());
    for registry in [&mirror, &own] {
        registry.fault(When::path("manifests/").always(), Fault::Status(503));
    }
    client(&mirror.host(), &own).manifest(&reference::parse("name.test/team/x:1").unwrap()).unwrap_err();
    assert_eq!(count(&mirror.take_log(), "GET", "manifests"), 2);
    assert_eq!(count(&own.take_log(), "GET", "manifests"), 4);
}
