//! What a caller may choose about a [`Client`](crate::Client).

use std::path::PathBuf;
use std::time::Duration;

use crate::{Credentials, Registries};

/// Settings of a [`Client`](crate::Client); the default pulls anonymously over https.
///
/// Proxies are those of the system (`https_proxy` and its kin, read by the HTTP library), never for loopback hosts.
#[derive(Debug, Clone)]
pub struct Options {
    /// Value of the `User-Agent` header of every request.
    pub user_agent: String,
    /// Where to look for the credentials that a registry asks for.
    pub credentials: Credentials,
    /// Hosts (`host` for every port, or `host:port`) that may be spoken to over plain http when they do not answer
    /// TLS. Loopback hosts always may.
    pub insecure: Vec<String>,
    /// Mirrors, other locations, insecure and blocked registries.
    pub registries: Registries,
    /// Certificates beyond the system's.
    pub certificates: Certificates,
    /// How long to wait for one answer.
    pub timeouts: Timeouts,
    /// How often, and for how long, to try again.
    pub retry: Retry,
    /// Most requests under way to one registry at once, whatever number of threads ask for them; at least one. Token
    /// services are not counted.
    pub requests: usize,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            user_agent: concat!("rbuild/", env!("CARGO_PKG_VERSION")).to_owned(),
            credentials: Credentials::default(),
            insecure: Vec::new(),
            registries: Registries::default(),
            certificates: Certificates::default(),
            timeouts: Timeouts::default(),
            retry: Retry::default(),
            requests: 16,
        }
    }
}

/// Where certificates are that the system does not have. Files are read when a host is first spoken to.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Certificates {
    /// Files of authorities in PEM form, trusted for every host.
    pub authorities: Vec<PathBuf>,
    /// Directories like docker's `certs.d`: `HOST[:PORT]/` in one has authorities (`*.crt`) that are trusted for that
    /// host alone, and the certificate (`*.cert`) and key (`*.key`) that it, and nobody else, is shown.
    pub directories: Vec<PathBuf>,
}

/// Time limits of one request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Timeouts {
    /// Longest wait for a connection, TLS included; for a mirror it is 3 s at most.
    pub connect: Duration,
    /// Longest wait from the end of a request to its status line, and longest silence within a body.
    pub answer: Duration,
    /// Slowest acceptable transfer, in bytes per second, averaged over a whole body and counted after `answer`: a peer
    /// that sends one byte at a time does not hold a build for ever.
    pub slowest: u64,
}

impl Default for Timeouts {
    fn default() -> Self {
        Self { connect: Duration::from_secs(10), answer: Duration::from_secs(25), slowest: 16 * 1024 }
    }
}

/// Limits of trying again after an answer or a failure that may pass: 408, 429, 5xx, resets, time-outs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Retry {
    /// Most tries of one request, the first included; of a blob transfer, most tries in a row without progress.
    pub attempts: u32,
    /// Upper bound of the first wait; it doubles with every try, and the wait is drawn at random below it.
    pub first_wait: Duration,
    /// Upper bound of any one wait, unless the registry names a longer one with `Retry-After`.
    pub longest_wait: Duration,
    /// Time after which no further try is begun, counted from the first. A `Retry-After` beyond it ends the request.
    pub budget: Duration,
}

impl Default for Retry {
    fn default() -> Self {
        Self {
            attempts: 5,
            first_wait: Duration::from_millis(500),
            longest_wait: Duration::from_secs(8),
            budget: Duration::from_secs(30),
        }
    }
}
