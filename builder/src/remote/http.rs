//! Files behind http(s), kept in the store and fetched again unless the server says by an `ETag` that they did not change.
//!
//! Never from https to http by a redirect, never to this machine from elsewhere; a file is held against its checksum
//! before anything sees it.

use std::borrow::Cow;
use std::error::Error as StdError;
use std::io::{self, Read};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use oci_spec::image::Digest;
use percent_encoding::percent_decode_str;
use reqwest::StatusCode;
use reqwest::blocking::{Client, Response};
use reqwest::header::{
    ACCEPT_ENCODING, AUTHORIZATION, CONTENT_DISPOSITION, ETAG, HeaderMap, HeaderName, HeaderValue, IF_NONE_MATCH,
    LAST_MODIFIED, RETRY_AFTER,
};
use reqwest::redirect;
use serde::{Deserialize, Serialize};
use snapshot::Store;
use url::{Host, Url};

use super::access::{Access, SecretError};
use super::location::shown;
use super::waiting::{Pump, Waited, pause, receive, start};

/// The largest file, in bytes: as large as the largest layer.
const SIZE_LIMIT: u64 = 64 << 30;
/// Most redirects of one request.
const REDIRECT_LIMIT: usize = 10;
/// How long a connection may take.
const CONNECT: Duration = Duration::from_secs(30);
/// How long a whole download may take.
const WHOLE: Duration = Duration::from_hours(1);
/// How often a server is asked for a file.
const ATTEMPTS: u32 = 5;
/// How long to wait before it is asked for the second time; twice as long before each further time.
const FIRST_WAIT: Duration = Duration::from_millis(300);
/// The longest that a server may make a build wait (`Retry-After`).
const LONGEST_WAIT: Duration = Duration::from_secs(30);
/// The kind of record that the store keeps downloads as.
pub(crate) const KIND: &str = "http";

/// Why a file could not be fetched.
#[derive(Debug, thiserror::Error)]
pub enum HttpError {
    /// The HTTP library could not be set up.
    #[error("cannot set up the HTTP client")]
    Setup(#[source] reqwest::Error),
    /// No answer, or a redirect that is not followed.
    #[error("cannot fetch `{url}`")]
    Unreachable {
        /// The URL.
        url: String,
        /// Whether it may be otherwise a moment later.
        is_passing: bool,
        /// Why.
        source: Box<dyn StdError + Send + Sync>,
    },
    /// The answer is not the file.
    #[error("cannot fetch `{url}`: the server answers {status}")]
    Status {
        /// The URL.
        url: String,
        /// The status.
        status: StatusCode,
        /// How long the server wants to be left alone.
        after: Option<Duration>,
    },
    /// A secret for the server.
    #[error(transparent)]
    Secret(#[from] SecretError),
    /// The build was cancelled.
    #[error("the build was cancelled")]
    Cancelled,
    /// Larger than any layer may be.
    #[error("`{url}` is larger than {limit} bytes")]
    TooLarge {
        /// The URL.
        url: String,
        /// The limit.
        limit: u64,
    },
    /// Other bytes than were required.
    #[error("`{url}` has the digest {found}, not {expected}")]
    Checksum {
        /// The URL.
        url: String,
        /// What was required.
        expected: String,
        /// What it is.
        found: String,
    },
    /// The store.
    #[error("cannot keep `{url}` in the store")]
    Store {
        /// The URL.
        url: String,
        /// Why.
        source: snapshot::Error,
    },
}

impl HttpError {
    /// How long to wait before asking again after `failures` of them; none where that is of no use.
    fn wait(&self, failures: u32) -> Option<Duration> {
        let after = match self {
            Self::Unreachable { is_passing: true, .. } => None,
            Self::Status { status, after, .. } if matches!(status.as_u16(), 408 | 429 | 500 | 502..=504) => *after,
            _ => return None,
        };
        let wait = after.unwrap_or(FIRST_WAIT * 2_u32.pow(failures - 1));
        (failures < ATTEMPTS && wait <= LONGEST_WAIT).then_some(wait)
    }
}

/// A file that was fetched: its bytes are a blob of the store.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Download {
    /// The digest of its bytes.
    pub digest: Digest,
    /// Their number.
    pub size: u64,
    /// The file name of `Content-Disposition`.
    pub name: Option<String>,
    /// `Last-Modified`, in seconds since the epoch.
    pub modified: Option<i64>,
    etag: Option<String>,
}

impl Download {
    /// Checks the digest.
    pub fn check(&self, url: &str, checksum: Option<&str>) -> Result<(), HttpError> {
        match checksum {
            Some(expected) if !expected.eq_ignore_ascii_case(self.digest.as_ref()) => Err(HttpError::Checksum {
                url: shown(url),
                expected: expected.to_owned(),
                found: self.digest.to_string(),
            }),
            _ => Ok(()),
        }
    }

    /// The name of the file: the URL's last component, else what the server calls it.
    pub fn file_name(&self, url: &str) -> Option<String> {
        url_name(url).or_else(|| self.name.clone())
    }
}

/// The HTTP client, made when it is first needed.
#[derive(Debug, Default)]
pub struct Http(Mutex<Option<Client>>);

impl Http {
    /// Makes sure that the store has the file behind `url` as it is now.
    pub(super) fn download(
        &self,
        access: &Access,
        store: &Store,
        url: &str,
        checksum: Option<&str>,
    ) -> Result<Download, HttpError> {
        let kept = |source| HttpError::Store { url: shown(url), source };
        let key = blake3::hash(url.as_bytes()).to_hex();
        let known: Option<Download> =
            store.get_record(KIND, &key).and_then(|bytes| serde_json::from_slice(&bytes).ok());
        let known = known.filter(|known| store.blobs().has_verified(&known.digest, known.size));
        if let (Some(known), Some(_)) = (&known, checksum)
            && known.check(url, checksum).is_ok()
        {
            return Ok(known.clone());
        }
        let mut failures = 0;
        let fetched = loop {
            let error = match self.fetch(access, store, url, known.as_ref()) {
                Ok(fetched) => break fetched,
                Err(error) => error,
            };
            failures += 1;
            let Some(wait) = error.wait(failures) else { return Err(error) };
            if !pause(wait, &access.cancel) {
                return Err(HttpError::Cancelled);
            }
        };
        let download = match (fetched, known) {
            (None, Some(known)) => {
                known.check(url, checksum)?;
                return Ok(known);
            }
            (None, None) => return Err(status_of(url, StatusCode::NOT_MODIFIED, &HeaderMap::new())),
            (Some(download), _) => download,
        };
        download.check(url, checksum)?;
        let record = serde_json::to_vec(&download).expect("a download is plain data");
        store.put_record(KIND, &key, &record).map_err(kept)?;
        Ok(download)
    }

    /// Asks once; none where the file is still the one that is known.
    fn fetch(
        &self,
        access: &Access,
        store: &Store,
        url: &str,
        known: Option<&Download>,
    ) -> Result<Option<Download>, HttpError> {
        let response = self.ask(access, url, known)?;
        match response.status() {
            StatusCode::NOT_MODIFIED if known.is_some() => Ok(None),
            status if !status.is_success() || status == StatusCode::PARTIAL_CONTENT => {
                Err(status_of(url, status, response.headers()))
            }
            _ => keep(access, store, url, response).map(Some),
        }
    }

    fn ask(&self, access: &Access, url: &str, known: Option<&Download>) -> Result<Response, HttpError> {
        let mut request = self.client()?.get(url).header(ACCEPT_ENCODING, "identity");
        if let Some(authorization) = access.http(url)? {
            let mut value = HeaderValue::from_str(&authorization).expect("a secret for a header is printable");
            value.set_sensitive(true);
            request = request.header(AUTHORIZATION, value);
        }
        // A date says nothing of a file that was replaced within its second, or under an old date: without a tag the
        // file is fetched again (RFC 9110, section 8.8.2).
        if let Some(etag) = known.and_then(|known| known.etag.as_ref()) {
            request = request.header(IF_NONE_MATCH, etag);
        }
        let failed = |source: reqwest::Error| {
            let is_passing = !source.is_redirect() && !source.is_builder();
            HttpError::Unreachable { url: shown(url), is_passing, source: source.without_url().into() }
        };
        let sent = start(move || request.send()).map_err(|error| unreachable(url, error))?;
        match receive(&sent, &access.cancel) {
            Waited::Ready(response) => response.map_err(failed),
            Waited::Ended => Err(unreachable(url, "the request ended without an answer")),
            Waited::Cancelled => Err(HttpError::Cancelled),
        }
    }

    fn client(&self) -> Result<Client, HttpError> {
        let mut slot = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(client) = &*slot {
            return Ok(client.clone());
        }
        // Another part of the process may have chosen a provider already, or may do so right now: both are fine.
        if rustls::crypto::CryptoProvider::get_default().is_none() {
            drop(rustls::crypto::ring::default_provider().install_default());
        }
        let client = Client::builder()
            .user_agent(concat!("rbuild/", env!("CARGO_PKG_VERSION")))
            .redirect(redirect::Policy::custom(follow))
            .referer(false)
            .connect_timeout(CONNECT)
            .timeout(WHOLE)
            .build()
            .map_err(HttpError::Setup)?;
        *slot = Some(client.clone());
        Ok(client)
    }
}

/// The last component of a URL's path.
pub fn url_name(url: &str) -> Option<String> {
    let url = Url::parse(url).ok()?;
    let path = url.path();
    // What is no text stays as it is written.
    let decoded = percent_decode_str(path).decode_utf8().unwrap_or(Cow::Borrowed(path));
    safe_name(decoded.rsplit('/').next()?)
}

/// A name that can only be that of a file in a directory.
fn safe_name(name: &str) -> Option<String> {
    let plain = !matches!(name, "" | "." | "..") && name.len() <= 255;
    (plain && !name.contains(|c: char| c == '/' || c.is_control())).then(|| name.to_owned())
}

fn unreachable(url: &str, source: impl Into<Box<dyn StdError + Send + Sync>>) -> HttpError {
    HttpError::Unreachable { url: shown(url), is_passing: true, source: source.into() }
}

/// An answer that is no file. `Retry-After` is read where it is a number of seconds, which servers that mean it send.
fn status_of(url: &str, status: StatusCode, headers: &HeaderMap) -> HttpError {
    let after = text(headers, &RETRY_AFTER).and_then(|seconds| seconds.trim().parse().ok());
    HttpError::Status { url: shown(url), status, after: after.map(Duration::from_secs) }
}

fn keep(access: &Access, store: &Store, url: &str, response: Response) -> Result<Download, HttpError> {
    let headers = response.headers().clone();
    let body = Pump::start(response, &access.cancel).map_err(|error| unreachable(url, error))?;
    let kept = |source| HttpError::Store { url: shown(url), source };
    let mut body = Body { inner: body.take(SIZE_LIMIT + 1), failure: None };
    let ingested = store.blobs().ingest(None, &mut body);
    if access.cancel.is_cancelled() {
        return Err(HttpError::Cancelled);
    }
    if let Some(source) = body.failure {
        return Err(unreachable(url, source));
    }
    let (digest, size) = ingested.map_err(kept)?;
    if size > SIZE_LIMIT {
        store.blobs().remove(&digest).map_err(kept)?;
        return Err(HttpError::TooLarge { url: shown(url), limit: SIZE_LIMIT });
    }
    let last_modified = text(&headers, &LAST_MODIFIED);
    let modified = last_modified.as_deref().and_then(|date| jiff::fmt::rfc2822::parse(date).ok());
    Ok(Download {
        digest,
        size,
        name: text(&headers, &CONTENT_DISPOSITION).and_then(|value| disposition(&value)),
        modified: modified.map(|time| time.timestamp().as_second()),
        etag: text(&headers, &ETAG),
    })
}

/// Tells a failing server from a failing disk.
struct Body<R> {
    inner: R,
    failure: Option<io::Error>,
}

impl<R: Read> Read for Body<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.inner.read(buffer).map_err(|error| {
            let kind = error.kind();
            if kind != io::ErrorKind::Interrupted {
                self.failure = Some(error);
            }
            kind.into()
        })
    }
}

fn text(headers: &HeaderMap, name: &HeaderName) -> Option<String> {
    headers.get(name).and_then(|value| value.to_str().ok()).map(str::to_owned)
}

/// The `filename` of a `Content-Disposition` (RFC 6266).
fn disposition(value: &str) -> Option<String> {
    let name = value.split(';').skip(1).find_map(|part| {
        let (key, value) = part.split_once('=')?;
        key.trim().eq_ignore_ascii_case("filename").then(|| value.trim().trim_matches('"'))
    })?;
    safe_name(name.rsplit('/').next()?)
}

fn follow(attempt: redirect::Attempt<'_>) -> redirect::Action {
    let Some(from) = attempt.previous().last() else { return attempt.follow() };
    let to = attempt.url();
    let refused = if attempt.previous().len() > REDIRECT_LIMIT {
        Some("too many redirects")
    } else if from.scheme() == "https" && to.scheme() != "https" {
        Some("a redirect leaves https")
    } else if !to.username().is_empty() || to.password().is_some() {
        Some("a redirect holds a user name")
    } else if is_near(to) && !is_near(from) {
        Some("a redirect leads to this machine or link")
    } else {
        None
    };
    match refused {
        Some(reason) => attempt.error(reason),
        None => attempt.follow(),
    }
}

/// Whether a host is this machine, or on the link where clouds keep their metadata services.
fn is_near(url: &Url) -> bool {
    match url.host() {
        Some(Host::Domain(name)) => {
            let name = name.trim_end_matches('.').to_ascii_lowercase();
            name == "localhost" || name.ends_with(".localhost")
        }
        Some(Host::Ipv4(address)) => address.is_loopback() || address.is_unspecified() || address.is_link_local(),
        Some(Host::Ipv6(address)) => match address.to_ipv4_mapped() {
            Some(v4) => v4.is_loopback() || v4.is_unspecified() || v4.is_link_local(),
            None => address.is_loopback() || address.is_unspecified() || address.is_unicast_link_local(),
        },
        None => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_those_of_files() {
        for (url, name) in [
            ("https://h/a/b.tgz?x=/y", Some("b.tgz")),
            ("https://h/a%20b%C3%A4", Some("a bä")),
            ("https://h/a%2Fb", Some("b")),
            ("https://h/50%&%zz%FF", Some("50%&%zz%FF")),
            ("https://h/%2e%2e", None),
            ("https://h/a%00", None),
            ("https://h/a/", None),
            ("https://h", None),
            ("https://h/a/..", None),
            ("not a url", None),
        ] {
            assert_eq!(url_name(url).as_deref(), name, "{url}");
        }
        for (header, name) in [
            ("attachment; filename=\"x.bin\"", Some("x.bin")),
            ("attachment; FileName=x", Some("x")),
            ("attachment; filename=\"../../etc/x\"", Some("x")),
            ("attachment; filename=..", None),
            ("inline", None),
        ] {
            assert_eq!(disposition(header).as_deref(), name, "{header}");
        }
    }
}
