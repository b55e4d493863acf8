//! The client against a registry: every answer, fault and lie that the wire can bring.

#![expect(clippy::unwrap_used, reason = "clippy knows test functions, and not the ones they call")]

mod auth;
mod faults;
mod hostile;
mod mirrors;
mod pull;
mod push;
mod real;
mod referrers;
mod resolve;
mod stream;
mod table;
mod trust;

use std::io::{self, BufRead, BufReader, Cursor, Read, Write};
use std::net::TcpListener;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use oci_spec::image::{Descriptor, Digest, MediaType, Platform};
use registry::testing::{Logged, Registry};
use registry::{Client, Credentials, Error, Options, Retry, Timeouts};
use sha2::{Digest as _, Sha256};

/// Options whose waits do not slow a test down.
fn quick() -> Options {
    Options {
        retry: Retry { attempts: 4, first_wait: Duration::from_millis(1), ..Retry::default() },
        timeouts: Timeouts { connect: Duration::from_secs(5), answer: Duration::from_secs(5), ..Timeouts::default() },
        ..Options::default()
    }
}

fn client() -> Client {
    Client::new(quick()).unwrap()
}

/// A client that knows the user `user` of a registry.
fn client_of(registry: &Registry) -> Client {
    let credentials = Credentials::default().with_password(&registry.host(), "user", "hunter2");
    Client::new(Options { credentials, ..quick() }).unwrap()
}

fn platform(text: &str) -> Platform {
    let mut parts = text.split('/');
    let mut platform = Platform::default();
    platform.set_os(parts.next().unwrap().into());
    platform.set_architecture(parts.next().unwrap().into());
    platform.set_variant(parts.next().map(str::to_owned));
    platform
}

fn config(platform: &str) -> Vec<u8> {
    let (os, architecture) = platform.split_once('/').unwrap();
    let rootfs = serde_json::json!({"type": "layers", "diff_ids": []});
    serde_json::json!({"os": os, "architecture": architecture, "rootfs": rootfs}).to_string().into_bytes()
}

fn digest(bytes: &[u8]) -> Digest {
    let hex = Sha256::digest(bytes).iter().fold(String::new(), |hex, byte| format!("{hex}{byte:02x}"));
    format!("sha256:{hex}").parse().unwrap()
}

fn descriptor(bytes: &[u8]) -> Descriptor {
    Descriptor::new(MediaType::ImageLayerGzip, bytes.len() as u64, digest(bytes))
}

/// Bytes without a pattern that a shifted copy would share.
fn content(length: usize) -> Vec<u8> {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut bytes = Vec::with_capacity(length + 8);
    while bytes.len() < length {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        bytes.extend_from_slice(&(state ^ (state >> 29)).to_le_bytes());
    }
    bytes.truncate(length);
    bytes
}

/// An opener for `push_blob`.
fn opener(bytes: &[u8]) -> impl Fn() -> io::Result<Box<dyn Read + Send>> {
    let bytes = bytes.to_vec();
    move || Ok(Box::new(Cursor::new(bytes.clone())))
}

/// Methods and paths, without the probe for the scheme.
fn lines(log: &[Logged]) -> Vec<String> {
    let seen = log.iter().filter(|entry| entry.path != "/v2/");
    seen.map(|entry| format!("{} {} {}", entry.method, entry.path, entry.status)).collect()
}

fn count(log: &[Logged], method: &str, part: &str) -> usize {
    log.iter().filter(|entry| entry.method == method && entry.path.contains(part)).count()
}

#[track_caller]
fn pull(registry: &Registry, name: &str, bytes: &[u8]) -> Result<Vec<u8>, Error> {
    let mut out = Vec::new();
    client().pull_blob(&registry.reference(name), &descriptor(bytes), &mut out).map(|()| out)
}

/// A server that has no blob, and tells the most requests that it had at once.
fn counting() -> (String, Arc<AtomicUsize>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let host = listener.local_addr().unwrap().to_string();
    let (now, most) = (Arc::new(AtomicUsize::new(0)), Arc::<AtomicUsize>::default());
    let told = Arc::clone(&most);
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let (stream, now, most) = (stream.unwrap(), Arc::clone(&now), Arc::clone(&most));
            std::thread::spawn(move || {
                let mut lines = BufReader::new(&stream).lines();
                while let Some(Ok(line)) = lines.next() {
                    // The question for the scheme comes before, and is no transfer.
                    if line.starts_with("HEAD") {
                        most.fetch_max(now.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
                        std::thread::sleep(Duration::from_millis(10));
                        now.fetch_sub(1, Ordering::SeqCst);
                    }
                    if !line.is_empty() {
                        continue;
                    }
                    (&stream).write_all(b"HTTP/1.1 404 Not Found\r\ncontent-length: 0\r\n\r\n").unwrap();
                }
            });
        }
    });
    (host, told)
}

#[test]
fn a_host_gets_so_many_requests_at_once_from_all_threads() {
    let hosts = [counting(), counting()];
    let client = Client::new(Options { requests: 2, ..quick() }).unwrap();
    std::thread::scope(|scope| {
        for (host, _) in &hosts {
            let (client, reference) = (&client, registry::reference::parse(&format!("{host}/x")).unwrap());
            for number in 0..6_u8 {
                let reference = reference.clone();
                scope.spawn(move || assert!(!client.has_blob(&reference, &digest(&[number])).unwrap()));
            }
        }
    });
    for (_, most) in hosts {
        assert!((1..=2).contains(&most.load(Ordering::SeqCst)));
    }
}

#[test]
fn a_client_is_shared_between_threads() {
    fn is_shared<T: Send + Sync>(_: &T) {}
    is_shared(&client());
    let registry = Registry::start().unwrap();
    let bytes = content(100_000);
    registry.put_blob("x", MediaType::ImageLayerGzip, &bytes);
    let (client, reference) = (client(), registry.reference("x:1"));
    std::thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| {
                let mut out = Vec::new();
                client.pull_blob(&reference, &descriptor(&bytes), &mut out).unwrap();
                assert_eq!(out, bytes);
            });
        }
    });
}
