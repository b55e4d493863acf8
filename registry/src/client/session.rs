//! The requests of one upload: POST begins it, PATCH adds to it, GET asks how far it is, PUT makes it a blob.
//!
//! When which of them is sent is the matter of [`super::upload`], which has the content at hand, and of
//! [`super::stream`], which is handed it piece by piece.

use oci_spec::image::Digest;
use reqwest::header::{CONTENT_RANGE, CONTENT_TYPE, HeaderValue, LOCATION, RANGE};
use reqwest::{Method, StatusCode};
use url::Url;

use super::{Client, check_stated, malformed};
use crate::auth::Access;
use crate::origin::shown;
use crate::retry::Backoff;
use crate::transport::{Body, Request, Response};
use crate::{Error, Exchange};

/// Size of a chunk in bytes: it is held in memory, so that a broken one can be sent again.
pub(super) const CHUNK: u64 = 8 * 1024 * 1024;
/// Largest chunk that a registry may demand, in bytes.
const CHUNK_LIMIT: u64 = 64 * 1024 * 1024;
/// The header in which a registry names its smallest chunk.
const CHUNK_MIN_LENGTH: &str = "oci-chunk-min-length";

/// Where an upload goes on.
#[derive(Debug, Clone)]
pub(super) struct Location {
    url: Url,
    /// Size of its chunks in bytes.
    pub(super) chunk: u64,
}

/// What an upload's requests need to know.
#[derive(Clone, Copy)]
pub(super) struct Session<'a> {
    pub(super) client: &'a Client,
    pub(super) access: &'a Access,
}

impl Session<'_> {
    /// POST: asks for a place to upload to.
    pub(super) fn begin(&self) -> Result<Location, Error> {
        let access = self.access;
        let request = Request::new(&access.action, Method::POST, access.url(&["blobs", "uploads", ""]));
        self.client.exchange(access, &request, &mut |response| match response.status() {
            StatusCode::ACCEPTED => location(self.client, access, &response),
            _ => Err(response.refusal(&access.action)),
        })
    }

    /// Sends one chunk, which begins at `start`; after a failure that may pass, or when the registry says that it is
    /// elsewhere (416), what it does not have of it.
    pub(super) fn send(
        &self,
        at: &mut Location,
        start: u64,
        chunk: &[u8],
        backoff: &mut Backoff<'_>,
    ) -> Result<(), Error> {
        let mut sent = 0;
        while sent < chunk.len() {
            let error = match self.patch(at, start + sent as u64, &chunk[sent..], backoff) {
                Ok((next, stated)) => {
                    *at = next;
                    // Fewer bytes than were sent: the rest follows.
                    let taken = stated.and_then(|stated| within(stated, start, chunk)).filter(|taken| *taken > sent);
                    sent = taken.unwrap_or(chunk.len());
                    continue;
                }
                Err(error) => error,
            };
            let is_elsewhere = matches!(&error, Error::Refused { answer, .. } if answer.status == 416);
            if !(if is_elsewhere { backoff.again_after_any() } else { backoff.again(&error) }) {
                return Err(error);
            }
            let Some((next, offset)) = self.status(at)? else { return Err(error) };
            let Some(taken) = within(offset, start, chunk) else { return Err(error) };
            (*at, sent) = (next, taken);
        }
        backoff.progress();
        Ok(())
    }

    /// PATCH of one part, which begins at `start`. Answers where to go on, and how much the registry says to have.
    fn patch(
        &self,
        at: &Location,
        start: u64,
        part: &[u8],
        backoff: &mut Backoff<'_>,
    ) -> Result<(Location, Option<u64>), Error> {
        let access = self.access;
        let mut request = Request::new(&access.action, Method::PATCH, at.url.clone());
        request.headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/octet-stream"));
        let last = (start + part.len() as u64).saturating_sub(1);
        if let Ok(range) = HeaderValue::from_str(&format!("{start}-{last}")) {
            request.headers.insert(CONTENT_RANGE, range);
        }
        request.body = Body::Bytes(part);
        self.client.attempt(access, &request, backoff, &mut |response| match response.status() {
            StatusCode::ACCEPTED | StatusCode::NO_CONTENT | StatusCode::CREATED => {
                let next = location(self.client, access, &response)?;
                Ok((Location { chunk: at.chunk, ..next }, offset(&response)))
            }
            _ => Err(response.refusal(&access.action)),
        })
    }

    /// GET: asks how much of an upload has arrived. None if the registry does not say.
    fn status(&self, at: &Location) -> Result<Option<(Location, u64)>, Error> {
        let access = self.access;
        let request = Request::new(&access.action, Method::GET, at.url.clone());
        self.client.exchange(access, &request, &mut |response| {
            if response.status() != StatusCode::NO_CONTENT {
                return Err(response.refusal(&access.action));
            }
            let Some(offset) = offset(&response) else { return Ok(None) };
            let next = if response.header(LOCATION.as_str()).is_some() {
                Location { chunk: at.chunk, ..location(self.client, access, &response)? }
            } else {
                at.clone()
            };
            Ok(Some((next, offset)))
        })
    }

    /// PUT with the digest: makes the upload a blob.
    pub(super) fn finish(
        &self,
        at: Location,
        digest: &Digest,
        body: Body<'_>,
        backoff: &mut Backoff<'_>,
    ) -> Result<(), Error> {
        let access = self.access;
        let mut url = at.url;
        url.query_pairs_mut().append_pair("digest", digest.as_ref());
        let mut request = Request::new(&access.action, Method::PUT, url);
        request.headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/octet-stream"));
        request.body = body;
        self.client.attempt(access, &request, backoff, &mut |response| match response.status() {
            StatusCode::CREATED | StatusCode::OK | StatusCode::NO_CONTENT => {
                check_stated(&response, digest, &access.action)
            }
            _ => Err(response.refusal(&access.action)),
        })
    }

    /// DELETE: gives an upload up.
    pub(super) fn cancel(&self, at: Location) -> Result<(), Error> {
        let access = self.access;
        let request = Request::new(&access.action, Method::DELETE, at.url);
        let mut backoff = self.client.backoff(access);
        self.client.attempt(access, &request, &mut backoff, &mut |response| match response.status() {
            status if status.is_success() => Ok(()),
            _ => Err(response.refusal(&access.action)),
        })
    }
}

/// How much of an upload the registry says to have: `Range: 0-<last byte>`.
fn offset(response: &Response) -> Option<u64> {
    let last = response.header(RANGE.as_str())?.trim_start_matches("bytes=").strip_prefix("0-")?;
    let last: u64 = last.parse().ok()?;
    // `0-0` is what registries say of nothing, too.
    Some(if last == 0 { 0 } else { last.saturating_add(1) })
}

/// How much of a chunk, which begins at `start`, lies before an offset of the upload; none if the offset is elsewhere.
fn within(offset: u64, start: u64, chunk: &[u8]) -> Option<usize> {
    usize::try_from(offset.checked_sub(start)?).ok().filter(|taken| *taken <= chunk.len())
}

/// Reads where an upload goes on, and checks that it may go there.
pub(super) fn location(client: &Client, access: &Access, response: &Response) -> Result<Location, Error> {
    let action = &access.action;
    let text = response.header(LOCATION.as_str()).filter(|text| !text.is_empty());
    let text = text.ok_or_else(|| malformed(action, "the registry does not say where to upload to (no `Location`)"))?;
    let mut url = response.url.join(text).map_err(|_| malformed(action, "the upload's `Location` is not a URL"))?;
    url.set_fragment(None);
    client.transport.rules.may_follow(&response.url, &url).map_err(|problem| Error::Forbidden {
        exchange: Box::new(Exchange::new(action, &response.url)),
        to: shown(&url),
        problem,
    })?;
    let least = response.header(CHUNK_MIN_LENGTH).and_then(|text| text.parse::<u64>().ok()).unwrap_or_default();
    if least > CHUNK_LIMIT {
        return Err(malformed(action, format!("the registry wants chunks of at least {least} bytes")));
    }
    Ok(Location { url, chunk: least.max(CHUNK) })
}
