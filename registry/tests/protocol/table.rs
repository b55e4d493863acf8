//! Every fault that a registry, or what lies between, can have, on pull and on push: right or refused, never short, and
//! never many requests. And a hundred layers through a proxy that fails every fifth time.

use std::time::Duration;

use oci_spec::image::{Descriptor, MediaType};
use registry::testing::{Access, Fault, Proxy, Registry, When};
use registry::{Client, Credentials, Error, Options, Reference, Retry, Timeouts};
use serde_json::json;

use super::real::Real;
use super::{config, content, descriptor, digest, opener, platform, quick};

const OCI: &str = "application/vnd.oci.image.manifest.v1+json";
/// Most requests of a transfer of one image with one fault; without any it has some eight.
const BUDGET: usize = 30;

/// What has to come of a fault.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Outcome {
    Done,
    Refused,
}

use Outcome::{Done, Refused};

fn faults() -> Vec<(&'static str, Fault, Outcome)> {
    let limited =
        |after: &str| Fault::Answer { status: 429, headers: vec![("retry-after", after.to_owned())], body: Vec::new() };
    vec![
        ("429 without a time", Fault::Status(429), Done),
        ("429 with a short time", limited("0"), Done),
        ("429 with a time beyond the budget", limited("3600"), Refused),
        ("500", Fault::Status(500), Done),
        ("502", Fault::Status(502), Done),
        ("503", Fault::Status(503), Done),
        ("504", Fault::Status(504), Done),
        ("slow to begin", Fault::Stall(Duration::from_millis(300)), Done),
        ("silent", Fault::Stall(Duration::from_millis(1500)), Done),
        ("reset", Fault::Reset, Done),
        ("lost answer", Fault::LoseAnswer, Done),
        ("vanished upload", Fault::ForgetUploads, Done),
        ("403", Fault::Status(403), Refused),
        ("redirect to http on another host", redirect("http://elsewhere.test/"), Refused),
        ("redirect to nowhere", redirect("http://["), Refused),
    ]
}

fn redirect(to: &str) -> Fault {
    Fault::Answer { status: 307, headers: vec![("location", to.to_owned())], body: Vec::new() }
}

fn client() -> Client {
    let timeouts = Timeouts { answer: Duration::from_secs(1), ..Timeouts::default() };
    Client::new(Options { timeouts, ..quick() }).unwrap()
}

fn push(client: &Client, registry: &Registry, layers: &[Vec<u8>]) -> Result<(), Error> {
    push_to(client, &registry.reference("x:1"), layers)
}

fn push_to(client: &Client, reference: &Reference, layers: &[Vec<u8>]) -> Result<(), Error> {
    let config = config("linux/amd64");
    let mut config_descriptor = descriptor(&config);
    config_descriptor.set_media_type(MediaType::ImageConfig);
    client.push_blob(reference, &config_descriptor, None, &opener(&config))?;
    for layer in layers {
        client.push_blob(reference, &descriptor(layer), None, &opener(layer))?;
    }
    let layers: Vec<Descriptor> = layers.iter().map(|layer| descriptor(layer)).collect();
    let manifest = json!({"schemaVersion": 2, "mediaType": OCI, "config": config_descriptor, "layers": layers});
    client.push_manifest(reference, OCI, manifest.to_string().as_bytes()).map(drop)
}

fn pull(client: &Client, registry: &Registry) -> Result<Vec<Vec<u8>>, Error> {
    pull_from(client, &registry.reference("x:1"))
}

fn pull_from(client: &Client, reference: &Reference) -> Result<Vec<Vec<u8>>, Error> {
    let found = client.resolve(reference, &platform("linux/amd64"))?;
    let layer = |layer: &Descriptor| {
        let mut out = Vec::new();
        client.pull_blob(reference, layer, &mut out).map(|()| out)
    };
    found.manifest.layers().iter().map(layer).collect()
}

#[test]
fn each_fault_ends_in_the_right_image_or_the_right_error() {
    std::thread::scope(|scope| {
        for (name, fault, outcome) in faults() {
            scope.spawn(move || {
                for (method, path) in
                    [("HEAD", "blobs/"), ("POST", "uploads/"), ("PUT", "uploads/"), ("PUT", "manifests/")]
                {
                    // The first and the second request of the kind.
                    for skip in 0..2 {
                        strike_push(name, When::path(path).method(method).after(skip), &fault, outcome);
                    }
                }
                for path in ["manifests/", "blobs/"] {
                    strike_pull(name, path, &fault, outcome);
                }
            });
        }
    });
}

#[track_caller]
fn strike_push(name: &str, when: When, fault: &Fault, outcome: Outcome) {
    let layers = [content(100_000)];
    let at = format!("{name} at {when:?}");
    // There is one PUT of a manifest alone.
    let is_struck = when != When::path("manifests/").method("PUT").after(1);
    let registry = Registry::start().unwrap();
    registry.fault(when, fault.clone());
    let result = push(&client(), &registry, &layers);
    let count = registry.take_log().len();
    assert!(count <= BUDGET, "{count} requests; {at}: {result:?}");
    assert_eq!(result.is_ok(), outcome == Done || !is_struck, "{at}: {result:?}");
    // The tag comes last.
    assert_eq!(registry.tags("x").contains("1"), result.is_ok(), "{at}: {result:?}");
    if result.is_ok() {
        assert!(registry.blob("x", &digest(&layers[0])).unwrap() == layers[0], "{at}");
    }
}

#[track_caller]
fn strike_pull(name: &str, path: &str, fault: &Fault, outcome: Outcome) {
    let layers = [content(100_000)];
    let registry = Registry::start().unwrap();
    push(&client(), &registry, &layers).unwrap();
    registry.take_log();
    registry.fault(When::path(path).method("GET"), fault.clone());
    let result = pull(&client(), &registry);
    let count = registry.take_log().len();
    let at = format!("{name} at GET {path}");
    assert!(count <= BUDGET, "{count} requests; {at}");
    assert_eq!(result.is_ok(), outcome == Done, "{at}: {:?}", result.err());
    assert!(result.is_err() || result.is_ok_and(|found| found == layers), "{at}");
}

#[test]
fn damage_to_a_body_is_found_and_mended() {
    let layers = [content(100_000)];
    for (name, fault, outcome) in [
        ("truncated", Fault::BreakAfter(50_000), Done),
        ("truncated, and said to be whole", Fault::Truncate(50_000), Refused),
        ("a flipped byte", Fault::Flip(777), Refused),
        ("a wrong range", Fault::WrongRange, Done),
        ("no range", Fault::IgnoreRange, Done),
        ("endless", Fault::Endless, Refused),
    ] {
        let registry = Registry::start().unwrap();
        push(&client(), &registry, &layers).unwrap();
        registry.take_log();
        let blob = || When::path(digest(&layers[0]).digest()).method("GET");
        if matches!(fault, Fault::WrongRange | Fault::IgnoreRange) {
            registry.fault(blob(), Fault::BreakAfter(50_000));
            registry.fault(blob().after(1), fault);
        } else {
            registry.fault(blob(), fault);
        }
        let result = pull(&client(), &registry);
        assert!(registry.take_log().len() <= BUDGET, "{name}");
        assert_eq!(result.is_ok(), outcome == Done, "{name}: {:?}", result.err());
        assert!(result.is_err() || result.is_ok_and(|found| found == layers), "{name}");
    }
}

#[test]
fn a_token_that_expires_in_the_middle_costs_a_request_and_no_more() {
    for uses in 1..4 {
        let access =
            Access::Token { username: "user".into(), password: "hunter2".into(), uses: Some(uses), realm: None };
        let registry = Registry::with_access(access).unwrap();
        let credentials = Credentials::default().with_password(&registry.host(), "user", "hunter2");
        let client = Client::new(Options { credentials, ..quick() }).unwrap();
        let layers = [content(20_000_000), content(100_000)];
        push(&client, &registry, &layers).unwrap();
        assert!(pull(&client, &registry).unwrap() == layers);
        assert!(registry.take_log().len() <= 3 * BUDGET);
    }
}

#[test]
fn an_upload_that_nobody_reads_ends() {
    let registry = Registry::start().unwrap();
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let location = format!("http://{}/upload", listener.local_addr().unwrap());
    registry.fault(When::path("uploads/").method("POST").always(), Fault::SetHeader("location", location));
    // Connections are taken and never read from.
    std::thread::spawn(move || listener.incoming().collect::<Vec<_>>());
    let timeouts = Timeouts { answer: Duration::from_millis(500), slowest: 100_000_000, ..Timeouts::default() };
    let retry = Retry { attempts: 2, ..quick().retry };
    let client = Client::new(Options { timeouts, retry, ..quick() }).unwrap();
    let bytes = content(30_000_000);
    let started = std::time::Instant::now();
    let pushed = client.push_blob(&registry.reference("x"), &descriptor(&bytes), None, &opener(&bytes));
    assert!(matches!(pushed, Err(Error::Unreachable { .. })), "{pushed:?}");
    assert!(started.elapsed() < Duration::from_secs(20), "{:?}", started.elapsed());
}

/// A hundred layers to and from a registry, through a proxy at which every fifth request fails in one of many ways.
fn survive(host: &str, seed: u64) {
    let proxy = Proxy::start(host).unwrap();
    proxy.fail_at_random(seed, 20);
    let reference = proxy.reference(&format!("x{seed}:1"));
    let layers: Vec<Vec<u8>> = (0..100_usize).map(|number| content(2000 + number * 37)[number..].to_vec()).collect();
    let retry = Retry { attempts: 12, first_wait: Duration::from_millis(1), ..Retry::default() };
    let client = Client::new(Options { retry, ..quick() }).unwrap();
    push_to(&client, &reference, &layers).unwrap_or_else(|error| panic!("seed {seed}: {error}"));
    let found = pull_from(&client, &reference).unwrap_or_else(|error| panic!("seed {seed}: {error}"));
    assert!(found == layers, "seed {seed}");
    let log = proxy.take_log();
    let failed = log.iter().filter(|entry| entry.status == 0 || entry.status >= 500 || entry.status == 429).count();
    let share = failed * 100 / log.len();
    assert!((12..=28).contains(&share), "seed {seed}: {share} of a hundred failed");
    assert!(log.len() < 1200, "seed {seed}: {} requests", log.len());
}

#[test]
fn a_hundred_layers_survive_a_proxy_that_fails_at_random() {
    let registry = Registry::start().unwrap();
    let host = registry.host();
    std::thread::scope(|scope| {
        for first in 0..4 {
            let host = &host;
            scope.spawn(move || (first..20).step_by(4).for_each(|seed| survive(host, seed)));
        }
    });
}

#[test]
fn a_hundred_layers_survive_it_before_the_real_registry() {
    let real = Real::start("", &[]);
    std::thread::scope(|scope| {
        for seed in 20..22 {
            let host = &real.host;
            scope.spawn(move || survive(host, seed));
        }
    });
}
