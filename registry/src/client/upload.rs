//! The upload of one blob: in one request if the registry takes it so, in chunks if not, from the beginning when the
//! registry has lost it.
//!
//! A failed try is followed by a look whether the blob is there: the answer to the last request may be what was lost.

use std::io::{self, Read};

use oci_spec::image::Descriptor;
use reqwest::header::{CONTENT_RANGE, CONTENT_TYPE, HeaderValue, LOCATION, RANGE};
use reqwest::{Method, StatusCode};
use url::Url;

use super::content::{Content, Failure};
use super::{Client, check_stated, malformed};
use crate::auth::Access;
use crate::origin::shown;
use crate::retry::Backoff;
use crate::transport::{Body, Request, Response, lock};
use crate::{Error, Exchange};

/// Size of a chunk in bytes: it is held in memory, so that a broken one can be sent again.
const CHUNK: u64 = 8 * 1024 * 1024;
/// Largest chunk that a registry may demand, in bytes.
const CHUNK_LIMIT: u64 = 64 * 1024 * 1024;
/// The header in which a registry names its smallest chunk.
const CHUNK_MIN_LENGTH: &str = "oci-chunk-min-length";

/// Where an upload goes on.
#[derive(Debug, Clone)]
pub(super) struct Location {
    url: Url,
    /// Size of its chunks in bytes.
    chunk: u64,
}

/// The upload of one blob.
pub(super) struct Upload<'a> {
    client: &'a Client,
    access: &'a Access,
    descriptor: &'a Descriptor,
    open: &'a dyn Fn() -> io::Result<Box<dyn Read + Send>>,
    /// An upload that was begun by a mount.
    pub(super) begun: Option<Location>,
}

impl<'a> Upload<'a> {
    pub(super) fn new(
        client: &'a Client,
        access: &'a Access,
        descriptor: &'a Descriptor,
        open: &'a dyn Fn() -> io::Result<Box<dyn Read + Send>>,
    ) -> Self {
        Self { client, access, descriptor, open, begun: None }
    }

    pub(super) fn run(mut self) -> Result<(), Error> {
        let mut backoff = self.client.transport.backoff();
        let mut in_chunks = false;
        loop {
            let Err(error) = self.try_once(in_chunks, &mut backoff) else { return Ok(()) };
            let goes_on = match after(&error) {
                // A connection that breaks under a large body is how some proxies say "too large".
                After::Again => {
                    in_chunks |= matches!(error, Error::Unreachable { .. }) && self.descriptor.size() > CHUNK;
                    backoff.again(&error)
                }
                After::Anew => backoff.again_after_any(),
                After::InChunks => !std::mem::replace(&mut in_chunks, true),
                After::Never => false,
            };
            if !goes_on {
                return Err(error.with_attempts(backoff.failures()));
            }
            if self.client.find_blob(self.access, self.descriptor.digest())? {
                return Ok(());
            }
        }
    }

    /// Begins an upload and brings it to its end.
    fn try_once(&mut self, in_chunks: bool, backoff: &mut Backoff<'_>) -> Result<(), Error> {
        let begun = match self.begun.take() {
            Some(begun) => begun,
            None => self.begin()?,
        };
        let failure = Failure::default();
        let result = if in_chunks { self.chunks(begun, &failure, backoff) } else { self.whole(begun, &failure) };
        // What went wrong with the content explains what the registry made of it.
        match lock(&failure).take() {
            Some(error) => Err(error),
            None => result,
        }
    }

    /// POST: asks for a place to upload to.
    fn begin(&self) -> Result<Location, Error> {
        let access = self.access;
        let request = Request::new(&access.action, Method::POST, access.url(&["blobs", "uploads", ""]));
        self.client.exchange(access, &request, &mut |response| match response.status() {
            StatusCode::ACCEPTED => location(self.client, access, &response),
            _ => Err(response.refusal(&access.action)),
        })
    }

    fn content(&self, failure: &Failure) -> Result<Content, Error> {
        *lock(failure) = None;
        let action = &self.access.action;
        let inner = (self.open)().map_err(|source| Error::Read { action: Box::new(action.clone()), source })?;
        Content::new(inner, action, self.descriptor, failure)
    }

    /// PUT of everything. What is small is sent from memory: then a refusal that comes before the end of the body is
    /// heard, and not only that the connection broke.
    fn whole(&self, begun: Location, failure: &Failure) -> Result<(), Error> {
        if self.descriptor.size() <= CHUNK {
            let mut bytes = Vec::new();
            let read = self.content(failure)?.read_to_end(&mut bytes);
            read.map_err(|source| Error::Read { action: Box::new(self.access.action.clone()), source })?;
            return self.finish(begun, if bytes.is_empty() { Body::Empty } else { Body::Bytes(&bytes) });
        }
        let open = || self.content(failure).map(|content| Box::new(content) as Box<dyn Read + Send>);
        self.finish(begun, Body::Stream { size: self.descriptor.size(), open: &open })
    }

    /// PATCH for each chunk, then PUT of nothing.
    fn chunks(&self, mut at: Location, failure: &Failure, backoff: &mut Backoff<'_>) -> Result<(), Error> {
        let mut content = self.content(failure)?;
        let mut start = 0;
        while start < self.descriptor.size() {
            let mut chunk = Vec::new();
            let read = content.by_ref().take(at.chunk).read_to_end(&mut chunk);
            read.map_err(|source| Error::Read { action: Box::new(self.access.action.clone()), source })?;
            let end = start + chunk.len() as u64;
            let mut sent = 0;
            while start + sent < end {
                let part = &chunk[usize::try_from(sent).unwrap_or(chunk.len())..];
                match self.patch(&at, start + sent, part) {
                    Ok(next) => (at, sent) = (next, end - start),
                    Err(error) if backoff.again(&error) => {
                        let Some((next, offset)) = self.status(&at)?.filter(|(_, at)| (start..=end).contains(at))
                        else {
                            return Err(error);
                        };
                        (at, sent) = (next, offset - start);
                    }
                    Err(error) => return Err(error),
                }
            }
            backoff.progress();
            start = end;
        }
        self.finish(at, Body::Empty)
    }

    /// PATCH of one part, which begins at `start`.
    fn patch(&self, at: &Location, start: u64, part: &[u8]) -> Result<Location, Error> {
        let access = self.access;
        let mut request = Request::new(&access.action, Method::PATCH, at.url.clone());
        request.headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/octet-stream"));
        let last = (start + part.len() as u64).saturating_sub(1);
        if let Ok(range) = HeaderValue::from_str(&format!("{start}-{last}")) {
            request.headers.insert(CONTENT_RANGE, range);
        }
        request.body = Body::Bytes(part);
        self.client.attempt(access, &request, &mut |response| match response.status() {
            StatusCode::ACCEPTED | StatusCode::NO_CONTENT | StatusCode::CREATED => {
                let next = location(self.client, access, &response)?;
                Ok(Location { chunk: at.chunk, ..next })
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
            let last =
                response.header(RANGE.as_str()).and_then(|range| range.trim_start_matches("bytes=").strip_prefix("0-"));
            let Some(last) = last.and_then(|last| last.parse::<u64>().ok()) else { return Ok(None) };
            let next = if response.header(LOCATION.as_str()).is_some() {
                Location { chunk: at.chunk, ..location(self.client, access, &response)? }
            } else {
                at.clone()
            };
            // `0-0` is what registries say of nothing, too.
            Ok(Some((next, if last == 0 { 0 } else { last.saturating_add(1) })))
        })
    }

    /// PUT with the digest: makes the upload a blob.
    fn finish(&self, at: Location, body: Body<'_>) -> Result<(), Error> {
        let (access, digest) = (self.access, self.descriptor.digest());
        let mut url = at.url;
        url.query_pairs_mut().append_pair("digest", digest.as_ref());
        let mut request = Request::new(&access.action, Method::PUT, url);
        request.headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/octet-stream"));
        request.body = body;
        self.client.attempt(access, &request, &mut |response| match response.status() {
            StatusCode::CREATED | StatusCode::OK | StatusCode::NO_CONTENT => {
                check_stated(&response, digest, &access.action)
            }
            _ => Err(response.refusal(&access.action)),
        })
    }
}

/// Reads where an upload goes on, and checks that it may go there.
pub(super) fn location(client: &Client, access: &Access, response: &Response) -> Result<Location, Error> {
    let action = &access.action;
    let text = response.header(LOCATION.as_str()).filter(|text| !text.is_empty());
    let text = text.ok_or_else(|| malformed(action, "the registry does not say where to upload to (no `Location`)"))?;
    let mut url = response.url.join(text).map_err(|_| malformed(action, "the upload's `Location` is not a URL"))?;
    url.set_fragment(None);
    client.transport.rules.may_follow(&response.url, &url).map_err(|problem| Error::Forbidden {
        exchange: Box::new(Exchange { action: action.clone(), url: shown(&response.url), attempts: 1 }),
        to: shown(&url),
        problem,
    })?;
    let least = response.header(CHUNK_MIN_LENGTH).and_then(|text| text.parse::<u64>().ok()).unwrap_or_default();
    if least > CHUNK_LIMIT {
        return Err(malformed(action, format!("the registry wants chunks of at least {least} bytes")));
    }
    Ok(Location { url, chunk: least.max(CHUNK) })
}

/// What follows a failed try.
enum After {
    /// The same once more, from the beginning.
    Again,
    /// Once more, though the registry's answer was final: it has lost the upload, or got it damaged.
    Anew,
    /// In chunks: the registry does not take it whole.
    InChunks,
    Never,
}

fn after(error: &Error) -> After {
    let says = |codes: &[&str]| match error {
        Error::NotFound { answer, .. } | Error::Refused { answer, .. } => {
            answer.errors.iter().any(|entry| codes.contains(&entry.code.as_str()))
        }
        _ => false,
    };
    match error {
        error if error.is_passing() => After::Again,
        Error::Refused { answer, .. } if matches!(answer.status, 405 | 411 | 413 | 501) => After::InChunks,
        Error::Refused { answer, .. } if answer.status == 416 => After::Anew,
        _ if says(&["BLOB_UPLOAD_UNKNOWN", "BLOB_UPLOAD_INVALID", "DIGEST_INVALID", "SIZE_INVALID"]) => After::Anew,
        _ => After::Never,
    }
}
