//! The distribution project's registry behind TLS of our own authority, and behind a token service of ours.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;

use base64::Engine;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use registry::{Certificates, Client, Credentials, Error, Options, Pushed, Reference};
use tempfile::TempDir;
use url::form_urlencoded;

use super::real::{HTPASSWD, Real};
use super::{content, descriptor, opener, quick};

fn openssl(directory: &Path, arguments: &str) {
    let mut command = Command::new("openssl");
    command.args(arguments.split(' ')).current_dir(directory).stdout(Stdio::null()).stderr(Stdio::null());
    let status = command.status().expect("this test makes certificates: apt-get install openssl");
    assert!(status.success(), "openssl {arguments}");
}

/// An authority, and a certificate of the server and one of the client that it vouches for.
fn authority() -> TempDir {
    let directory = tempfile::tempdir().unwrap();
    let new = "-newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 2";
    let at = directory.path();
    openssl(at, &format!("req -x509 {new} -subj /CN=authority -keyout ca.key -out ca.crt"));
    let addresses = (0..=40).map(|last| format!("IP:127.77.0.{last}")).collect::<Vec<_>>().join(",");
    fs_err::write(at.join("names"), format!("subjectAltName={addresses}\n")).unwrap();
    for name in ["server", "client"] {
        openssl(at, &format!("req {new} -subj /CN={name} -keyout {name}.key -out {name}.csr"));
        let sign =
            format!("x509 -req -in {name}.csr -CA ca.crt -CAkey ca.key -CAcreateserial -days 2 -out {name}.cert");
        openssl(at, &format!("{sign} -extfile names"));
    }
    directory
}

/// A registry that shows the server's certificate; `more` goes into its `tls` section, or after it.
fn behind_tls(files: &Path, more: &str) -> Real {
    let read = |name: &str| fs_err::read(files.join(name)).unwrap();
    let tls = format!("  tls:\n    certificate: DIR/cert\n    key: DIR/key\n{more}");
    let (cert, key, ca) = (read("server.cert"), read("server.key"), read("ca.crt"));
    Real::start(&tls, &[("cert", &cert), ("key", &key), ("ca", &ca), ("htpasswd", HTPASSWD.as_bytes())])
}

fn push(certificates: Certificates, reference: &Reference) -> Result<Pushed, Error> {
    let client = Client::new(Options { certificates, ..quick() }).unwrap();
    let bytes = content(9_000_000);
    let pushed = client.push_blob(reference, &descriptor(&bytes), None, &opener(&bytes))?;
    let mut out = Vec::new();
    client.pull_blob(reference, &descriptor(&bytes), &mut out)?;
    assert!(out == bytes);
    Ok(pushed)
}

#[test]
fn an_authority_of_our_own_is_trusted_where_it_is_named() {
    let files = authority();
    let real = behind_tls(files.path(), "");
    let reference = real.reference("x");
    let error = push(Certificates::default(), &reference).unwrap_err();
    assert!(matches!(error, Error::Untrusted { .. }), "{error}");
    let authorities = vec![files.path().join("ca.crt")];
    assert_eq!(push(Certificates { authorities, ..Certificates::default() }, &reference).unwrap(), Pushed::Uploaded);
    // In docker's layout it holds for the host whose directory it is in.
    for (host, is_trusted) in [(real.host.as_str(), true), ("other.test", false)] {
        let directory = files.path().join("certs.d").join(host);
        fs_err::create_dir_all(&directory).unwrap();
        fs_err::copy(files.path().join("ca.crt"), directory.join("ca.crt")).unwrap();
        let directories = vec![files.path().join("certs.d")];
        let pushed = push(Certificates { directories, ..Certificates::default() }, &reference);
        assert_eq!(pushed.is_ok(), is_trusted, "{pushed:?}");
        fs_err::remove_dir_all(&directory).unwrap();
    }
}

#[test]
fn a_client_shows_its_certificate_to_the_host_that_it_is_for() {
    let files = authority();
    let real = behind_tls(files.path(), "    clientcas:\n      - DIR/ca\n");
    let root = files.path().join("certs.d");
    let directory = root.join(&real.host);
    fs_err::create_dir_all(&directory).unwrap();
    fs_err::copy(files.path().join("ca.crt"), directory.join("ca.crt")).unwrap();
    let certificates = || Certificates { directories: vec![root.clone()], ..Certificates::default() };
    push(certificates(), &real.reference("x")).unwrap_err();
    for name in ["client.cert", "client.key"] {
        fs_err::copy(files.path().join(name), directory.join(name)).unwrap();
    }
    assert_eq!(push(certificates(), &real.reference("x")).unwrap(), Pushed::Uploaded);
    fs_err::remove_file(directory.join("client.cert")).unwrap();
    let error = push(certificates(), &real.reference("x")).unwrap_err();
    assert!(error.to_string().contains("client.key`: it has no certificate"), "{error}");
    fs_err::write(directory.join("client.cert"), "no").unwrap();
    let error = push(certificates(), &real.reference("x")).unwrap_err();
    assert!(matches!(error, Error::Certificate { .. }), "{error}");
}

#[test]
fn what_speaks_http_2_is_spoken_to_in_it() {
    let files = authority();
    let real = behind_tls(files.path(), "");
    let certificates = Certificates { authorities: vec![files.path().join("ca.crt")], ..Certificates::default() };
    let client = Client::new(Options { certificates, ..quick() }).unwrap();
    let reference = real.reference("x");
    // Large ones side by side, each of several windows of the protocol, and a refusal before the end of the body.
    thread::scope(|scope| {
        for number in 0..4 {
            let (client, reference) = (&client, &reference);
            scope.spawn(move || {
                let bytes = content(9_000_000 + number);
                client.push_blob(reference, &descriptor(&bytes), None, &opener(&bytes)).unwrap();
                let mut out = Vec::new();
                client.pull_blob(reference, &descriptor(&bytes), &mut out).unwrap();
                assert!(out == bytes);
            });
        }
    });
    let wrong = client.push_blob(&reference, &descriptor(b"right"), None, &opener(b"wrong")).unwrap_err();
    assert!(matches!(wrong, Error::WrongDigest { .. }), "{wrong}");
    let log = real.log();
    let (new, old) = (log.matches(" HTTP/2.0\"").count(), log.matches(" HTTP/1.").count());
    // One in plain http, which finds out that TLS is wanted.
    assert!(new >= 16 && old <= 1, "{log}");
}

/// A token service: whoever has the password gets what is asked for, for some seconds.
struct Tokens {
    host: String,
    given: Arc<AtomicU32>,
}

impl Tokens {
    fn start(files: PathBuf, seconds: u64) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let host = listener.local_addr().unwrap().to_string();
        let given = Arc::new(AtomicU32::new(0));
        let counter = Arc::clone(&given);
        thread::spawn(move || {
            for stream in listener.incoming() {
                let mut stream = stream.unwrap();
                let mut lines = BufReader::new(stream.try_clone().unwrap()).lines().map_while(Result::ok);
                let head: Vec<String> = lines.by_ref().take_while(|line| !line.is_empty()).collect();
                let Some(target) = head.first().and_then(|line| line.split(' ').nth(1)) else { continue };
                let expected = format!("basic {}", STANDARD.encode("user:hunter2")).to_ascii_lowercase();
                let is_user = head.iter().any(|line| line.to_ascii_lowercase().ends_with(&expected));
                let (status, body) = if is_user {
                    counter.fetch_add(1, Ordering::SeqCst);
                    ("200 OK", format!(r#"{{"token":"{}","expires_in":{seconds}}}"#, sign(&files, target, seconds)))
                } else {
                    ("401 Unauthorized", "{}".to_owned())
                };
                let length = body.len();
                let head = format!("HTTP/1.1 {status}\r\ncontent-length: {length}\r\nconnection: close\r\n\r\n");
                drop(stream.write_all((head + &body).as_bytes()));
            }
        });
        Self { host, given }
    }
}

/// Makes a token as the distribution project's "Token Authentication Implementation" describes it, signed by openssl.
fn sign(files: &Path, target: &str, seconds: u64) -> String {
    let query = target.split_once('?').unwrap_or_default().1;
    let scopes = form_urlencoded::parse(query.as_bytes()).filter(|(key, _)| key == "scope");
    let access: Vec<serde_json::Value> = scopes
        .filter_map(|(_, scope)| {
            let mut parts = scope.split(':');
            let (kind, name, actions) = (parts.next()?, parts.next()?, parts.next()?);
            let actions: Vec<&str> = actions.split(',').collect();
            Some(serde_json::json!({"type": kind, "name": name, "actions": actions}))
        })
        .collect();
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs();
    let pem = fs_err::read_to_string(files.join("server.cert")).unwrap();
    let der: String = pem.lines().filter(|line| !line.starts_with("--")).collect();
    let head = serde_json::json!({"typ": "JWT", "alg": "RS256", "x5c": [der]});
    let claims = serde_json::json!({
        "iss": "issuer", "sub": "user", "aud": "service", "access": access, "jti": now.to_string(),
        "nbf": now - 10, "iat": now, "exp": now + seconds,
    });
    let text = format!("{}.{}", URL_SAFE_NO_PAD.encode(head.to_string()), URL_SAFE_NO_PAD.encode(claims.to_string()));
    let mut command = Command::new("openssl");
    command.args(["dgst", "-sha256", "-sign", "server.key"]).current_dir(files);
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(text.as_bytes()).unwrap();
    let mut signature = Vec::new();
    child.stdout.take().unwrap().read_to_end(&mut signature).unwrap();
    assert!(child.wait().unwrap().success());
    format!("{text}.{}", URL_SAFE_NO_PAD.encode(signature))
}

#[test]
fn a_token_service_guards_the_registry() {
    let files = tempfile::tempdir().unwrap();
    let new = "-newkey rsa:2048 -nodes -days 2 -subj /CN=issuer";
    openssl(files.path(), &format!("req -x509 {new} -keyout server.key -out server.cert"));
    let tokens = Tokens::start(files.path().to_owned(), 300);
    let auth = format!(
        "auth:\n  token:\n    realm: http://{}/token\n    service: service\n    issuer: issuer\n    rootcertbundle: DIR/cert\n",
        tokens.host
    );
    let real = Real::start(&auth, &[("cert", &fs_err::read(files.path().join("server.cert")).unwrap())]);
    let client = |password: &str| {
        let credentials = Credentials::default().with_password(&real.host, "user", password);
        Client::new(Options { credentials, ..quick() }).unwrap()
    };
    let error = client("wrong").manifest(&real.reference("x:1")).unwrap_err();
    assert!(error.to_string().contains("the token service refuses the credentials"), "{error}");
    let client = client("hunter2");
    client.sign_in(&real.host).unwrap();
    let bytes = content(20_000_000);
    let pushed = client.push_blob(&real.reference("a"), &descriptor(&bytes), None, &opener(&bytes)).unwrap();
    assert_eq!(pushed, Pushed::Uploaded);
    // One token for both repositories.
    let pushed = client.push_blob(&real.reference("b"), &descriptor(&bytes), Some("a"), &opener(&bytes)).unwrap();
    assert_eq!(pushed, Pushed::Mounted);
    let mut out = Vec::new();
    client.pull_blob(&real.reference("b"), &descriptor(&bytes), &mut out).unwrap();
    assert!(out == bytes);
    let given = tokens.given.load(Ordering::SeqCst);
    assert!((3..=5).contains(&given), "{given}");
}

#[test]
fn the_first_request_finds_out_that_tls_is_wanted() {
    let files = authority();
    let auth = "auth:\n  htpasswd:\n    realm: here\n    path: DIR/htpasswd\n";
    let real = behind_tls(files.path(), auth);
    let client = || {
        let certificates = Certificates { authorities: vec![files.path().join("ca.crt")], ..Certificates::default() };
        let credentials = Credentials::default().with_password(&real.host, "user", "hunter2");
        Client::new(Options { certificates, credentials, ..quick() }).unwrap()
    };
    let error = client().manifest(&real.reference("x:1")).unwrap_err();
    assert!(matches!(&error, Error::NotFound { exchange, .. } if exchange.url.starts_with("https://")), "{error}");
    let mut upload = client().begin_upload(&real.reference("x")).unwrap();
    upload.send(b"abc");
    assert_eq!(upload.finish(&descriptor(b"abc"), &opener(b"abc")).unwrap(), Pushed::Uploaded);
}
