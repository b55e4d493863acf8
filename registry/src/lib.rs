//! A client of the OCI distribution protocol: pulls and pushes manifests and blobs.
//!
//! ```
//! # use std::io::Cursor;
//! # use registry::{Client, Options, testing::Registry};
//! # let registry = Registry::start()?;
//! # let config = br#"{"os":"linux","architecture":"amd64","rootfs":{"type":"layers","diff_ids":[]}}"#;
//! # registry.put_image("app", "1", config, &[b"layer"]);
//! # let (from, to) = (registry.reference("app:1"), registry.reference("copy:1"));
//! # let platform = serde_json::from_str(r#"{"os":"linux","architecture":"amd64"}"#)?;
//! let client = Client::new(Options::default())?;
//! let image = client.resolve(&from, &platform)?;
//! for blob in image.manifest.layers().iter().chain([image.manifest.config()]) {
//!     let mut bytes = Vec::new();
//!     client.pull_blob(&from, blob, &mut bytes)?;
//!     client.push_blob(&to, blob, None, &|| Ok(Box::new(Cursor::new(bytes.clone()))))?;
//! }
//! client.push_manifest(&to, image.descriptor.media_type().as_ref(), &image.manifest_bytes)?;
//! # assert_eq!(client.manifest(&to)?.bytes, image.manifest_bytes);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! ```text
//! Client ── resolve / manifest / pull_blob / has_blob / push_blob / begin_upload / push_manifest / tags / referrers
//!    │
//!    ├─ auth ───── challenge → token cache ── credentials (config.json, docker-credential-*)
//!    │
//!    └─ transport  one request: scheme, redirects, time-outs, caps, slots of a host, retry with back-off
//! ```
//!
//! The crate speaks HTTP and nothing else: it reads and writes no files but those of credentials, certificates and rules
//! that its caller names, reads no environment variable (the HTTP library knows those of proxies) and prints nothing.
//! Everything that a registry answers is treated as hostile: every body has a cap, every digest is computed here,
//! credentials go to the registry they were stored for and to the token service it names, and `urls` in descriptors are
//! never followed.
//!
//! Source of the rules: the [OCI distribution specification] and, for tokens, the [Docker Registry token protocol].
//!
//! [OCI distribution specification]: https://github.com/opencontainers/distribution-spec/blob/main/spec.md
//! [Docker Registry token protocol]: https://distribution.github.io/distribution/spec/auth/

mod auth;
mod client;
pub mod credentials;
mod digest;
mod error;
mod options;
mod origin;
mod platform;
pub mod reference;
mod registries;
mod retry;
mod transport;

pub use client::{Client, Kind, Known, Manifest, Pushed, Resolved, Upload, media_type};
pub use credentials::Credentials;
pub use error::{Action, Answer, AnswerError, Error, Exchange};
pub use oci_spec::distribution::Reference;
pub use options::{Certificates, Options, Retry, Timeouts};
pub use platform::rank;
pub use registries::Registries;
#[cfg(feature = "testing")]
pub mod testing;
