//! A client of the OCI distribution protocol: pulls and pushes manifests and blobs.
//!
//! ```text
//! Client ── resolve / manifest / pull_blob / has_blob / push_blob / begin_upload / push_manifest / tags
//!    │
//!    ├─ auth ───── challenge → token cache ── credentials (config.json, docker-credential-*)
//!    │
//!    └─ transport  one request: scheme, redirects, time-outs, caps, retry with back-off
//! ```
//!
//! The crate speaks HTTP and nothing else: it reads and writes no files but those of credentials, certificates and
//! rules that its caller names, reads no environment variable and prints nothing. Everything that a registry answers is treated as hostile:
//! every body has a cap, every digest is computed here, credentials go to the registry they were stored for and to the
//! token service it names, and `urls` in descriptors are never followed.
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
