//! What can go wrong between a client and a registry, in the words of the one who reads it.

mod exchange;

use std::error::Error as StdError;
use std::io;
use std::path::PathBuf;
use std::time::Duration;

use oci_spec::image::Digest;

pub use exchange::{Action, Answer, AnswerError, Exchange};

use crate::transport::find_cause;

/// A manifest names a blob that its repository does not have (distribution-spec, "Error Codes").
const BLOB_IN_MANIFEST: &str = "MANIFEST_BLOB_UNKNOWN";

/// Every failure of this crate. A variant names what was attempted; it never shows a query, a credential or userinfo.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The registry answers that it has no such manifest, blob or repository (404, `MANIFEST_UNKNOWN`, …).
    #[error("cannot {}: the registry does not have it{answer} ({exchange})", exchange.action)]
    NotFound {
        /// What was attempted, and where.
        exchange: Box<Exchange>,
        /// What the registry said.
        answer: Answer,
    },
    /// The registry wants credentials: none are known for it, or it refuses those that are (401).
    #[error("cannot {}: {problem}{answer} ({exchange})", exchange.action)]
    Unauthorized {
        /// What was attempted, and where.
        exchange: Box<Exchange>,
        /// Whether credentials were sent.
        problem: &'static str,
        /// What the registry said.
        answer: Answer,
    },
    /// The registry knows the caller and refuses (403, `DENIED`).
    #[error("cannot {}: access is denied{answer} ({exchange})", exchange.action)]
    Denied {
        /// What was attempted, and where.
        exchange: Box<Exchange>,
        /// What the registry said.
        answer: Answer,
    },
    /// The registry still asks to wait after the last try (429), or asks for a longer wait than the budget has.
    #[error("cannot {}: the registry limits requests{answer} ({exchange})", exchange.action)]
    RateLimited {
        /// What was attempted, and where.
        exchange: Box<Exchange>,
        /// What the registry said.
        answer: Answer,
    },
    /// Any other answer that the protocol does not allow here.
    #[error("cannot {}: the registry refused{answer} ({exchange})", exchange.action)]
    Refused {
        /// What was attempted, and where.
        exchange: Box<Exchange>,
        /// What the registry said.
        answer: Answer,
    },
    /// No whole answer came: name resolution, connection, reset, time-out, or a body that broke off.
    #[error("cannot {}: no answer from the registry ({exchange})", exchange.action)]
    Unreachable {
        /// What was attempted, and where.
        exchange: Box<Exchange>,
        /// The last failure.
        source: Box<dyn StdError + Send + Sync>,
    },
    /// The TLS handshake failed: the certificate is not one that this system trusts, or the peer does not speak TLS.
    #[error("cannot {}: no trusted TLS connection ({exchange})", exchange.action)]
    Untrusted {
        /// What was attempted, and where.
        exchange: Box<Exchange>,
        /// What the handshake found.
        source: Box<dyn StdError + Send + Sync>,
    },
    /// The first answer of a host of this machine is not clearly one to plain http. It never leaves the client, which asks
    /// such a host for its scheme and begins anew.
    #[error("the registry may not speak plain http")]
    Scheme,
    /// A redirect, upload location, page link or token realm leads where this client does not go.
    #[error("cannot {}: refused to go to `{to}`: {problem} ({exchange})", exchange.action)]
    Forbidden {
        /// What was attempted, and where.
        exchange: Box<Exchange>,
        /// The address, without userinfo and query.
        to: String,
        /// The rule that it breaks.
        problem: &'static str,
    },
    /// The bytes do not have the digest that was promised.
    #[error("cannot {action}: the digest of the content is `{actual}`, not `{expected}`")]
    WrongDigest {
        /// What was attempted.
        action: Box<Action>,
        /// The digest that was asked for or announced.
        expected: Digest,
        /// The digest of the bytes.
        actual: Digest,
    },
    /// The bytes are fewer or more than the descriptor says.
    #[error("cannot {action}: the content has {actual} bytes, not {expected}")]
    WrongSize {
        /// What was attempted.
        action: Box<Action>,
        /// Bytes promised by the descriptor.
        expected: u64,
        /// Bytes seen, or announced by `Content-Length`; of an endless body, the first count that is too many.
        actual: u64,
    },
    /// A body exceeds the cap of its kind.
    #[error("cannot {action}: {what} is larger than {limit} bytes")]
    TooLarge {
        /// What was attempted.
        action: Box<Action>,
        /// The thing that is too large.
        what: &'static str,
        /// The cap in bytes.
        limit: u64,
    },
    /// The registry's answer does not follow the specification.
    #[error("cannot {action}: {problem}")]
    Malformed {
        /// What was attempted.
        action: Box<Action>,
        /// The rule that the answer breaks.
        problem: String,
    },
    /// A JSON document of the registry does not parse.
    #[error("cannot {action}: {what} is not valid JSON of its kind")]
    Json {
        /// What was attempted.
        action: Box<Action>,
        /// The document.
        what: &'static str,
        /// Where it breaks.
        source: serde_json::Error,
    },
    /// An index has no manifest for the platform.
    #[error("`{reference}` has no image for {wanted}; it has {available}")]
    NoPlatform {
        /// The image.
        reference: String,
        /// The platform asked for, as `os/architecture/variant`.
        wanted: String,
        /// The platforms of the index, or `none`.
        available: String,
    },
    /// The digest algorithm is one that this client cannot compute.
    #[error("cannot {action}: digest algorithm `{algorithm}` is not supported")]
    Algorithm {
        /// What was attempted.
        action: Box<Action>,
        /// The algorithm's name.
        algorithm: String,
    },
    /// The caller's writer failed.
    #[error("cannot {action}: the content could not be written")]
    Write {
        /// What was attempted.
        action: Box<Action>,
        /// The writer's error.
        source: io::Error,
    },
    /// The caller's reader failed.
    #[error("cannot {action}: the content could not be read")]
    Read {
        /// What was attempted.
        action: Box<Action>,
        /// The reader's error.
        source: io::Error,
    },
    /// A reference does not follow the naming rules.
    #[error("`{reference}` is not an image reference: {problem}")]
    Reference {
        /// The text, with control characters escaped.
        reference: String,
        /// The rule that it breaks.
        problem: &'static str,
    },
    /// An entry of [`Options::insecure`](crate::Options::insecure) is not `host` or `host:port`.
    #[error("`{host}` is not a registry host (`host` or `host:port`)")]
    InsecureHost {
        /// The entry.
        host: String,
    },
    /// The HTTP client could not be set up: no root certificates, or a user agent that is not a header value.
    #[error("cannot set up the HTTP client")]
    Setup {
        /// What is missing.
        source: reqwest::Error,
    },
    /// A rule blocks the registry.
    #[error("`{name}` is blocked by the rule for `{prefix}`")]
    Blocked {
        /// Registry and repository.
        name: String,
        /// The rule's prefix.
        prefix: String,
    },
    /// A file of rules for registries cannot be read.
    #[error("cannot read the rules for registries")]
    RegistriesFile {
        /// The failure; it names the path.
        source: io::Error,
    },
    /// A file of rules for registries is malformed.
    #[error("`{}` is not a file of rules for registries: {problem}", path.display())]
    RegistriesSyntax {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        problem: String,
    },
    /// A certificate cannot be read.
    #[error("cannot read the certificates for a registry")]
    CertificateFile {
        /// The failure; it names the path.
        source: io::Error,
    },
    /// A certificate is malformed.
    #[error("cannot use the certificate `{}`: {problem}", path.display())]
    Certificate {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        problem: &'static str,
    },
    /// A credential file cannot be read.
    #[error("cannot read the registry credentials")]
    CredentialFile {
        /// The failure; it names the path.
        source: io::Error,
    },
    /// A credential file cannot be written.
    #[error("cannot write the registry credentials")]
    CredentialWrite {
        /// The failure; it names the path.
        source: io::Error,
    },
    /// A credential file is not of the form of docker's `config.json`.
    #[error("`{}` is not a registry credential file: {problem}", path.display())]
    CredentialSyntax {
        /// The file.
        path: PathBuf,
        /// The problem; it quotes nothing from the file but names of keys.
        problem: String,
    },
    /// A credential helper failed. Its output is not shown: it may hold a secret.
    #[error("credential helper `docker-credential-{helper}` for `{host}` failed: {problem}")]
    CredentialHelper {
        /// The helper's suffix, as configured, with control characters escaped.
        helper: String,
        /// The registry.
        host: String,
        /// How it failed.
        problem: String,
    },
}

impl Error {
    /// Says whether the same request may succeed a little later.
    ///
    /// That holds for a manifest that is refused for a blob, too: whoever pushes it has seen its blobs arrive, and
    /// docker-registry does not find one for a moment while somebody else mounts or pushes the same (its driver
    /// `filesystem` writes the link of a blob in place).
    pub(crate) fn is_passing(&self) -> bool {
        match self {
            Self::Unreachable { .. } | Self::RateLimited { .. } => true,
            Self::Refused { answer, .. } | Self::NotFound { answer, .. } => {
                matches!(answer.status, 408 | 500 | 502 | 503 | 504) || answer.has(BLOB_IN_MANIFEST)
            }
            _ => false,
        }
    }

    /// Says whether content came that was not the one promised: it may have been damaged on its way.
    pub(crate) fn is_corrupt(&self) -> bool {
        matches!(self, Self::WrongDigest { .. })
    }

    /// Says whether no other place can mend it: content was taken that is not the right one, or could not be kept.
    pub(crate) fn is_final(&self) -> bool {
        matches!(self, Self::WrongDigest { action, .. } if matches!(**action, Action::PullBlob { .. }))
            || matches!(self, Self::Write { .. })
    }

    /// How long the registry asked to wait.
    pub(crate) fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::RateLimited { answer, .. } | Self::Refused { answer, .. } => answer.retry_after,
            _ => None,
        }
    }

    /// Says whether nobody listens: the other scheme would find nobody either.
    pub(crate) fn is_connect(&self) -> bool {
        use io::ErrorKind::{ConnectionRefused, HostUnreachable, NetworkUnreachable, TimedOut};
        let Self::Unreachable { source, .. } = self else { return false };
        let is_silent = |kind| matches!(kind, ConnectionRefused | HostUnreachable | NetworkUnreachable | TimedOut);
        source.downcast_ref::<reqwest::Error>().is_some_and(|error| error.is_timeout() || error.is_dns())
            || find_cause::<io::Error>(&**source).is_some_and(|error| is_silent(error.kind()))
    }

    /// Says whether the peer speaks TLS and its certificate is not trusted.
    pub(crate) fn is_certificate(&self) -> bool {
        let Self::Untrusted { source, .. } = self else { return false };
        matches!(find_cause(&**source), Some(rustls::Error::InvalidCertificate(_)))
    }

    /// Notes how many tries were made.
    pub(crate) fn with_attempts(mut self, attempts: u32) -> Self {
        if let Some(exchange) = self.exchange_mut() {
            exchange.attempts = attempts.max(1);
        }
        self
    }

    /// Notes which mirrors were asked before.
    pub(crate) fn with_mirrors(mut self, mirrors: Vec<String>) -> Self {
        if let Some(exchange) = self.exchange_mut() {
            exchange.mirrors = mirrors;
        }
        self
    }

    /// The failure in a few words, for a list of mirrors.
    pub(crate) fn brief(&self) -> String {
        match self {
            Self::NotFound { .. } => "does not have it".to_owned(),
            Self::Unauthorized { problem, .. } => (*problem).to_owned(),
            Self::Denied { .. } => "denies access".to_owned(),
            Self::RateLimited { .. } => "limits requests".to_owned(),
            Self::Refused { answer, .. } => format!("refused{answer}"),
            Self::Unreachable { .. } => "gave no answer".to_owned(),
            Self::Untrusted { .. } => "has no trusted certificate".to_owned(),
            other => other.to_string(),
        }
    }

    fn exchange_mut(&mut self) -> Option<&mut Exchange> {
        match self {
            Self::NotFound { exchange, .. }
            | Self::Unauthorized { exchange, .. }
            | Self::Denied { exchange, .. }
            | Self::RateLimited { exchange, .. }
            | Self::Refused { exchange, .. }
            | Self::Unreachable { exchange, .. }
            | Self::Untrusted { exchange, .. }
            | Self::Forbidden { exchange, .. } => Some(exchange),
            _ => None,
        }
    }
}
