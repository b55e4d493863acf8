//! A registry in memory, on a loopback port, for tests: a real server with real faults.
//!
//! It follows the OCI distribution specification as far as a builder uses it (pull with ranges, mount, monolithic and
//! chunked push, tags in pages), asks for Basic or token authentication if told so, logs every request, and fails as a
//! test scripts it. What it is given directly it does not check; what is pushed to it, it does. [`Proxy`] makes any
//! other registry fail likewise.
//!
//! ```
//! # use registry::{Client, Options, testing::Registry};
//! let registry = Registry::start()?;
//! let image = registry.put_image("app", "1", br#"{"os":"linux","architecture":"amd64"}"#, &[b"layer"]);
//! let client = Client::new(Options::default())?;
//! assert_eq!(client.manifest(&registry.reference("app:1"))?.descriptor.digest(), image.digest());
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

mod access;
mod blobs;
mod fault;
mod http;
mod manifests;
mod proxy;
mod server;

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use oci_spec::image::{Descriptor, Digest, MediaType};
use serde_json::json;

pub use access::Access;
pub use fault::{Fault, When};
pub use proxy::Proxy;

use crate::Reference;
use crate::digest::sha256;
use crate::transport::lock;
use access::Tokens;
use fault::Rule;
use http::{Head, Reply};
use server::Server;

/// A registry in memory. It answers as long as it lives.
#[derive(Debug)]
pub struct Registry {
    server: Server,
    shared: Arc<Shared>,
}

/// One request, as it came, and how it was answered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Logged {
    /// The method.
    pub method: String,
    /// The path, still escaped.
    pub path: String,
    /// The query, still escaped; empty if there was none.
    pub query: String,
    /// The headers, names in lower case.
    pub headers: BTreeMap<String, String>,
    /// Bytes of the body.
    pub body: u64,
    /// The status of the answer; 0 if none was given.
    pub status: u16,
}

impl Logged {
    fn new(head: &Head) -> Self {
        let (method, path, query) = (head.method.clone(), head.path.clone(), head.query.clone());
        Self { method, path, query, headers: head.headers.clone(), body: 0, status: 0 }
    }

    /// The value of a header, by its name in lower case.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).map(String::as_str)
    }
}

/// What the connections share.
#[derive(Debug)]
struct Shared {
    access: Access,
    store: Mutex<Store>,
    tokens: Mutex<Tokens>,
}

/// What the registry holds.
#[derive(Debug, Default)]
struct Store {
    repositories: BTreeMap<String, Repository>,
    /// Upload → (repository, bytes so far).
    uploads: BTreeMap<String, (String, Vec<u8>)>,
    next_upload: u64,
    /// Whether there is a referrers API.
    has_referrers: bool,
    /// Smallest chunk but for the last, if chunks have one.
    least_chunk: Option<usize>,
}

#[derive(Debug, Default)]
struct Repository {
    blobs: BTreeMap<String, Vec<u8>>,
    /// Digest → (media type, document).
    manifests: BTreeMap<String, (String, Vec<u8>)>,
    tags: BTreeMap<String, String>,
}

impl Registry {
    /// Starts a registry that everyone may read and write.
    pub fn start() -> io::Result<Self> {
        Self::with_access(Access::Open)
    }

    /// Starts a registry that asks who is there.
    pub fn with_access(access: Access) -> io::Result<Self> {
        let shared = Arc::new(Shared { access, store: Mutex::default(), tokens: Mutex::default() });
        let answering = Arc::clone(&shared);
        let server = Server::start(|address| {
            let host = address.to_string();
            Arc::new(move |head: &Head, body: Vec<u8>, faults: &[Fault]| {
                if faults.contains(&Fault::ForgetUploads) {
                    lock(&answering.store).uploads.clear();
                }
                Ok(route(&answering, &host, head, body))
            })
        })?;
        Ok(Self { server, shared })
    }

    /// `127.0.0.1:port`.
    pub fn host(&self) -> String {
        self.server.address().to_string()
    }

    /// A reference to something here: `app:1` or `app@sha256:…`.
    ///
    /// # Panics
    /// If that is not a reference.
    pub fn reference(&self, name: &str) -> Reference {
        reference(self.server.address(), name)
    }

    /// Scripts a fault.
    pub fn fault(&self, when: When, fault: Fault) {
        lock(&self.server.gate().rules).push(Rule::new(when, fault));
    }

    /// All requests since the start, or since the log was last taken.
    pub fn take_log(&self) -> Vec<Logged> {
        std::mem::take(&mut lock(&self.server.gate().log))
    }

    /// Makes the registry demand chunks of at least so many bytes, and say so.
    pub fn set_least_chunk(&self, bytes: usize) {
        lock(&self.shared.store).least_chunk = Some(bytes);
    }

    /// Gives the registry the referrers API, which it does not have at first.
    pub fn enable_referrers(&self) {
        lock(&self.shared.store).has_referrers = true;
    }

    /// Stores a blob.
    pub fn put_blob(&self, repository: &str, media_type: MediaType, bytes: &[u8]) -> Descriptor {
        let digest = sha256(bytes);
        let mut store = lock(&self.shared.store);
        store.repository(repository).blobs.insert(digest.to_string(), bytes.to_vec());
        Descriptor::new(media_type, bytes.len() as u64, digest)
    }

    /// Stores other bytes than the digest says.
    pub fn put_wrong_blob(&self, repository: &str, digest: &Digest, bytes: &[u8]) {
        lock(&self.shared.store).repository(repository).blobs.insert(digest.to_string(), bytes.to_vec());
    }

    /// Stores a manifest or index, with a tag unless that is empty.
    pub fn put_manifest(&self, repository: &str, tag: &str, media_type: &str, bytes: &[u8]) -> Descriptor {
        let digest = sha256(bytes);
        let mut store = lock(&self.shared.store);
        let repository = store.repository(repository);
        repository.manifests.insert(digest.to_string(), (media_type.to_owned(), bytes.to_vec()));
        if !tag.is_empty() {
            repository.tags.insert(tag.to_owned(), digest.to_string());
        }
        Descriptor::new(media_type.into(), bytes.len() as u64, digest)
    }

    /// Stores an OCI image: its config (JSON) and its layers, which are called gzipped tars whatever they are.
    pub fn put_image(&self, repository: &str, tag: &str, config: &[u8], layers: &[&[u8]]) -> Descriptor {
        let put = |bytes: &&[u8]| self.put_blob(repository, MediaType::ImageLayerGzip, bytes);
        let layers: Vec<Descriptor> = layers.iter().map(put).collect();
        let config = self.put_blob(repository, MediaType::ImageConfig, config);
        let media_type = MediaType::ImageManifest;
        let manifest = json!({"schemaVersion": 2, "mediaType": media_type, "config": config, "layers": layers});
        self.put_manifest(repository, tag, media_type.as_ref(), manifest.to_string().as_bytes())
    }

    /// Stores an OCI index of manifests; give each descriptor its platform first.
    pub fn put_index(&self, repository: &str, tag: &str, manifests: &[Descriptor]) -> Descriptor {
        let media_type = MediaType::ImageIndex;
        let index = json!({"schemaVersion": 2, "mediaType": media_type, "manifests": manifests});
        self.put_manifest(repository, tag, media_type.as_ref(), index.to_string().as_bytes())
    }

    /// The blob, if the repository has it.
    pub fn blob(&self, repository: &str, digest: &Digest) -> Option<Vec<u8>> {
        lock(&self.shared.store).find(repository)?.blobs.get(digest.as_ref()).cloned()
    }

    /// The media type and document of a tag or digest, if the repository has it.
    pub fn manifest(&self, repository: &str, name: &str) -> Option<(String, Vec<u8>)> {
        let store = lock(&self.shared.store);
        let repository = store.find(repository)?;
        repository.manifests.get(repository.tags.get(name).map_or(name, String::as_str)).cloned()
    }

    /// Forgets a blob.
    pub fn remove_blob(&self, repository: &str, digest: &Digest) {
        lock(&self.shared.store).repository(repository).blobs.remove(digest.as_ref());
    }

    /// The tags of a repository.
    pub fn tags(&self, repository: &str) -> BTreeSet<String> {
        let store = lock(&self.shared.store);
        store.find(repository).map(|found| found.tags.keys().cloned().collect()).unwrap_or_default()
    }
}

/// A reference to something at an address.
fn reference(address: SocketAddr, name: &str) -> Reference {
    crate::reference::parse(&format!("{address}/{name}")).expect("a test names its image rightly")
}

/// Answers a request to the registry at `host`.
fn route(shared: &Shared, host: &str, head: &Head, body: Vec<u8>) -> Reply {
    if head.path == "/token" {
        return access::token(shared, head, &body);
    }
    if let Some(refusal) = access::refusal(shared, host, head) {
        return refusal;
    }
    let Some(path) = head.path.strip_prefix("/v2/") else { return Reply::error(404, "NOT_FOUND") };
    if path.is_empty() {
        return Reply::new(200);
    }
    for part in ["/blobs/uploads/", "/blobs/", "/manifests/", "/referrers/", "/tags/list"] {
        let Some((repository, rest)) = path.split_once(part) else { continue };
        return match part {
            "/blobs/uploads/" => blobs::upload(shared, head, repository, rest, &body),
            "/blobs/" => blobs::blob(shared, head, repository, rest),
            "/manifests/" => manifests::manifest(shared, head, repository, rest, body),
            "/referrers/" => manifests::referrers(shared, repository, rest),
            _ => manifests::tags(shared, head, repository),
        };
    }
    Reply::error(404, "NOT_FOUND")
}

impl Store {
    /// A repository to read; there may be none.
    fn find(&self, name: &str) -> Option<&Repository> {
        self.repositories.get(name)
    }

    /// A repository to write; made if there is none.
    fn repository(&mut self, name: &str) -> &mut Repository {
        self.repositories.entry(name.to_owned()).or_default()
    }
}
