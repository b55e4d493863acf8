//! The upload of one blob: in one request if the registry takes it so, in chunks if not, from the beginning when the
//! registry has lost it.
//!
//! A failed try is followed by a look whether the blob is there: the answer to the last request may be what was lost.

use std::io::{self, Read};

use oci_spec::image::Descriptor;

use super::content::{Content, Failure};
use super::session::{CHUNK, Location, Session};
use crate::Error;
use crate::auth::Access;
use crate::retry::Backoff;
use crate::transport::{Body, lock};

/// The upload of one blob.
pub(super) struct Upload<'a> {
    pub(super) session: Session<'a>,
    pub(super) descriptor: &'a Descriptor,
    /// Gives the content from its beginning.
    pub(super) open: &'a dyn Fn() -> io::Result<Box<dyn Read + Send>>,
    /// An upload that was begun by a mount.
    pub(super) begun: Option<Location>,
}

impl<'a> Upload<'a> {
    pub(super) fn run(mut self) -> Result<(), Error> {
        let mut backoff = self.session.client.backoff(self.access());
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
            if self.session.client.find_blob(self.access(), self.descriptor.digest())? {
                return Ok(());
            }
        }
    }

    /// Begins an upload and brings it to its end.
    fn try_once(&mut self, in_chunks: bool, backoff: &mut Backoff<'_>) -> Result<(), Error> {
        let begun = match self.begun.take() {
            Some(begun) => begun,
            None => self.session.begin()?,
        };
        let failure = Failure::default();
        let result =
            if in_chunks { self.chunks(begun, &failure, backoff) } else { self.whole(begun, &failure, backoff) };
        // What went wrong with the content explains what the registry made of it.
        match lock(&failure).take() {
            Some(error) => Err(error),
            None => result,
        }
    }

    fn access(&self) -> &'a Access {
        self.session.access
    }

    fn finish(&self, at: Location, body: Body<'_>, backoff: &mut Backoff<'_>) -> Result<(), Error> {
        self.session.finish(at, self.descriptor.digest(), body, backoff)
    }

    fn content(&self, failure: &Failure) -> Result<Content, Error> {
        *lock(failure) = None;
        let action = &self.access().action;
        let inner = (self.open)().map_err(|source| Error::Read { action: Box::new(action.clone()), source })?;
        Content::new(inner, action, self.descriptor, failure)
    }

    /// PUT of everything. What is small is sent from memory: then a refusal that comes before the end of the body is
    /// heard, and not only that the connection broke.
    fn whole(&self, begun: Location, failure: &Failure, backoff: &mut Backoff<'_>) -> Result<(), Error> {
        if self.descriptor.size() <= CHUNK {
            let mut bytes = Vec::new();
            let read = self.content(failure)?.read_to_end(&mut bytes);
            read.map_err(|source| Error::Read { action: Box::new(self.access().action.clone()), source })?;
            return self.finish(begun, if bytes.is_empty() { Body::Empty } else { Body::Bytes(&bytes) }, backoff);
        }
        let open = || self.content(failure).map(|content| Box::new(content) as Box<dyn Read + Send>);
        self.finish(begun, Body::Stream { size: self.descriptor.size(), open: &open }, backoff)
    }

    /// PATCH for each chunk, then PUT of nothing.
    fn chunks(&self, mut at: Location, failure: &Failure, backoff: &mut Backoff<'_>) -> Result<(), Error> {
        let mut content = self.content(failure)?;
        let mut start = 0;
        while start < self.descriptor.size() {
            let mut chunk = Vec::new();
            let read = content.by_ref().take(at.chunk).read_to_end(&mut chunk);
            read.map_err(|source| Error::Read { action: Box::new(self.access().action.clone()), source })?;
            self.session.send(&mut at, start, &chunk, backoff)?;
            start += chunk.len() as u64;
        }
        self.finish(at, Body::Empty, backoff)
    }
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
