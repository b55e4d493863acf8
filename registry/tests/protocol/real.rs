//! The client, and the registry in memory beside it, against the distribution project's own registry.

use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU8, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use registry::{Client, Credentials, Error, Options, Pushed, Reference, reference};
use tempfile::TempDir;

use super::{config, content, descriptor, digest, opener, platform, quick};

const OCI: &str = "application/vnd.oci.image.manifest.v1+json";
/// `user` with the password `hunter2`, as `htpasswd -B` writes it.
pub(super) const HTPASSWD: &str = "user:$2b$04$JkdjymRCwhELRUrOjFbY4el03u6lf1pKnJNCRFBw0hvyccOrQHx0K\n";

/// A `docker-registry` of our own, on a free port, with its files in a directory of its own.
pub(super) struct Real {
    process: Child,
    pub(super) host: String,
    directory: TempDir,
}

impl Real {
    /// `more` goes to the end of the configuration; `DIR` in it is the directory, which has `files`.
    pub(super) fn start(more: &str, files: &[(&str, &[u8])]) -> Self {
        // An address of its own: the ports that are freed here go to no other test.
        static NUMBER: AtomicU8 = AtomicU8::new(1);
        let address = Ipv4Addr::new(127, 77, 0, NUMBER.fetch_add(1, Ordering::Relaxed));
        let listener = TcpListener::bind((address, 0)).unwrap();
        let host = listener.local_addr().unwrap().to_string();
        drop(listener);
        let directory = tempfile::tempdir().unwrap();
        let at = |name: &str| directory.path().join(name);
        for (name, bytes) in files {
            fs_err::write(at(name), bytes).unwrap();
        }
        let text = format!(
            "version: 0.1\nlog:\n  level: error\nstorage:\n  filesystem:\n    rootdirectory: DIR/storage\nhttp:\n  addr: {host}\n{more}"
        );
        fs_err::write(at("config.yml"), text.replace("DIR", directory.path().to_str().unwrap())).unwrap();
        let mut command = Command::new("docker-registry");
        let log = fs_err::File::create(at("log")).unwrap().into_file();
        command.arg("serve").arg(at("config.yml")).stdout(log).stderr(Stdio::null());
        let process = command.spawn().expect("this test needs a registry: apt-get install docker-registry");
        let mut real = Self { process, host, directory };
        let end = Instant::now() + Duration::from_secs(20);
        while TcpStream::connect(&real.host).is_err() {
            assert!(real.process.try_wait().unwrap().is_none(), "docker-registry has ended");
            assert!(Instant::now() < end, "docker-registry does not listen");
            thread::sleep(Duration::from_millis(20));
        }
        real
    }

    /// The requests that it has answered, a line each.
    pub(super) fn log(&self) -> String {
        fs_err::read_to_string(self.directory.path().join("log")).unwrap()
    }

    pub(super) fn reference(&self, name: &str) -> Reference {
        reference::parse(&format!("{}/{name}", self.host)).unwrap()
    }

    fn client(&self, password: Option<&str>) -> Client {
        let credentials = Credentials::default();
        let credentials = match password {
            Some(password) => credentials.with_password(&self.host, "user", password),
            None => credentials,
        };
        Client::new(Options { credentials, ..quick() }).unwrap()
    }
}

impl Drop for Real {
    fn drop(&mut self) {
        self.process.kill().unwrap();
        self.process.wait().unwrap();
    }
}

#[test]
fn an_image_goes_there_and_comes_back() {
    let real = Real::start("", &[]);
    let client = real.client(None);
    let reference = real.reference("a/b:1");
    assert!(matches!(client.manifest(&reference), Err(Error::NotFound { .. })));
    let (layer, config) = (content(20_000_000), config("linux/amd64"));
    let push = |bytes: &[u8], to: &str, from| {
        client.push_blob(&real.reference(to), &descriptor(bytes), from, &opener(bytes)).unwrap()
    };
    assert_eq!(push(&layer, "a/b", None), Pushed::Uploaded);
    assert_eq!(push(&layer, "a/b", None), Pushed::Existed);
    assert_eq!(push(&config, "a/b", Some("no/such")), Pushed::Uploaded);
    assert_eq!(push(&layer, "c", Some("a/b")), Pushed::Mounted);
    assert_eq!(push(b"", "a/b", None), Pushed::Uploaded);
    let mut config_descriptor = descriptor(&config);
    config_descriptor.set_media_type(oci_spec::image::MediaType::ImageConfig);
    let manifest = serde_json::json!({
        "schemaVersion": 2, "mediaType": OCI, "config": config_descriptor, "layers": [descriptor(&layer)]
    });
    let manifest = manifest.to_string();
    let pushed = client.push_manifest(&reference, OCI, manifest.as_bytes()).unwrap();
    assert_eq!(pushed, digest(manifest.as_bytes()));
    let found = client.resolve(&reference, &platform("linux/amd64")).unwrap();
    assert_eq!((found.manifest_bytes, found.config), (manifest.into_bytes(), config));
    let mut out = Vec::new();
    client.pull_blob(&reference, &found.manifest.layers()[0], &mut out).unwrap();
    assert!(out == layer);
    assert_eq!(client.tags(&reference).unwrap(), ["1"]);
    let by_digest = real.reference(&format!("a/b@{pushed}"));
    assert_eq!(*client.manifest(&by_digest).unwrap().descriptor.digest(), pushed);
}

#[test]
fn a_password_is_asked_for() {
    let auth = "auth:\n  htpasswd:\n    realm: test\n    path: DIR/htpasswd\n";
    let real = Real::start(auth, &[("htpasswd", HTPASSWD.as_bytes())]);
    let reference = real.reference("x:1");
    for (password, expected) in [(None, "no credentials are known"), (Some("wrong"), "refuses the credentials")] {
        let error = real.client(password).manifest(&reference).unwrap_err();
        assert!(matches!(error, Error::Unauthorized { .. }), "{error}");
        assert!(error.to_string().contains(expected), "{error}");
    }
    let client = real.client(Some("hunter2"));
    assert_eq!(client.push_blob(&reference, &descriptor(b"abc"), None, &opener(b"abc")).unwrap(), Pushed::Uploaded);
    let mut out = Vec::new();
    client.pull_blob(&reference, &descriptor(b"abc"), &mut out).unwrap();
    assert_eq!(out, b"abc");
}

#[test]
fn a_blob_that_was_changed_in_its_store_is_found() {
    let real = Real::start("", &[]);
    let client = real.client(None);
    let (reference, bytes) = (real.reference("x"), content(100_000));
    client.push_blob(&reference, &descriptor(&bytes), None, &opener(&bytes)).unwrap();
    let hex = descriptor(&bytes).digest().digest().to_owned();
    let blobs = real.directory.path().join("storage/docker/registry/v2/blobs/sha256");
    let path = blobs.join(&hex[..2]).join(&hex).join("data");
    let mut changed = bytes.clone();
    changed[5] ^= 1;
    fs_err::write(&path, &changed).unwrap();
    let error = client.pull_blob(&reference, &descriptor(&bytes), &mut Vec::new()).unwrap_err();
    assert!(matches!(error, Error::WrongDigest { .. }), "{error}");
    fs_err::write(&path, &bytes[..70_000]).unwrap();
    let error = client.pull_blob(&reference, &descriptor(&bytes), &mut Vec::new()).unwrap_err();
    assert!(matches!(error, Error::WrongSize { .. } | Error::Unreachable { .. }), "{error}");
}

#[test]
fn a_certificate_that_nobody_vouches_for_is_refused() {
    let directory = tempfile::tempdir().unwrap();
    let at = |name: &str| directory.path().join(name);
    let made = Command::new("openssl")
        .args(["req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=localhost"])
        .args(["-addext", "subjectAltName=IP:127.0.0.1", "-keyout"])
        .arg(at("key"))
        .arg("-out")
        .arg(at("cert"))
        .stderr(Stdio::null())
        .status()
        .expect("this test makes a certificate: apt-get install openssl");
    assert!(made.success());
    let (cert, key) = (fs_err::read(at("cert")).unwrap(), fs_err::read(at("key")).unwrap());
    let tls = "  tls:\n    certificate: DIR/cert\n    key: DIR/key\n";
    let real = Real::start(tls, &[("cert", &cert), ("key", &key)]);
    // Loopback is asked in plain http first; this registry says that it wants TLS.
    let error = real.client(Some("hunter2")).manifest(&real.reference("x:1")).unwrap_err();
    assert!(matches!(&error, Error::Untrusted { exchange, .. } if exchange.url.starts_with("https://")), "{error}");
}
