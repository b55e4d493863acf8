//! The upload of a blob while it is made: its digest is known at its end only.
//!
//! Bytes go out in chunks, each of which is kept until the registry has it. When the upload is lost nevertheless,
//! nothing more is sent, and [`Upload::finish`] pushes the blob from its beginning as
//! [`Client::push_blob`](super::Client::push_blob) does: by then the caller has all of it.

use std::fmt;
use std::io::{self, Read};

use oci_spec::image::Descriptor;

use super::session::{Location, Session};
use super::{Client, Pushed, push};
use crate::auth::Access;
use crate::transport::Body;
use crate::{Action, Error};

/// An upload in progress, of [`Client::begin_upload`]. Dropped before [`Upload::finish`] it leaves no blob.
pub struct Upload {
    client: Client,
    access: Access,
    /// Where it goes on; none when it is lost.
    at: Option<Location>,
    /// Bytes not sent yet, fewer than a chunk.
    pending: Vec<u8>,
    /// Bytes that the registry has.
    sent: u64,
}

impl fmt::Debug for Upload {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let is_lost = self.at.is_none();
        f.debug_struct("Upload").field("sent", &self.sent).field("is_lost", &is_lost).finish_non_exhaustive()
    }
}

impl io::Write for Upload {
    fn write(&mut self, buffer: &[u8]) -> io::Result<usize> {
        self.send(buffer);
        Ok(buffer.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Upload {
    pub(super) fn begin(client: &Client, access: Access) -> Result<Self, Error> {
        let at = Some(Session { client, access: &access }.begin()?);
        Ok(Self { client: client.clone(), access, at, pending: Vec::new(), sent: 0 })
    }

    /// Takes the next bytes; a whole chunk is sent before it returns.
    ///
    /// An upload that is lost is no error here: [`Upload::finish`] begins anew, or says why it cannot.
    pub fn send(&mut self, mut bytes: &[u8]) {
        while let Some(at) = self.at.as_ref().filter(|_| !bytes.is_empty()) {
            let chunk = usize::try_from(at.chunk).unwrap_or(usize::MAX);
            let room = chunk.saturating_sub(self.pending.len()).min(bytes.len());
            self.pending.extend_from_slice(&bytes[..room]);
            bytes = &bytes[room..];
            if self.pending.len() >= chunk {
                self.send_pending();
            }
        }
    }

    /// Whether nothing is sent any more: [`Upload::finish`] would begin anew.
    pub fn is_lost(&self) -> bool {
        self.at.is_none()
    }

    fn send_pending(&mut self) {
        let Some(at) = &mut self.at else { return };
        let session = Session { client: &self.client, access: &self.access };
        let mut backoff = self.client.backoff(&self.access);
        if session.send(at, self.sent, &self.pending, &mut backoff).is_ok() {
            self.sent += self.pending.len() as u64;
        } else {
            self.at = None;
        }
        self.pending.clear();
    }

    /// Makes the upload the descriptor's blob.
    ///
    /// The bytes sent have to be its content. If the upload was lost, `open` gives the content from its beginning and
    /// all of it is pushed again.
    pub fn finish(
        mut self,
        descriptor: &Descriptor,
        open: &dyn Fn() -> io::Result<Box<dyn Read + Send>>,
    ) -> Result<Pushed, Error> {
        let (repository, digest) = (self.access.target.name(), descriptor.digest().clone());
        self.access.action = Action::PushBlob { repository, digest };
        if self.at.is_some() && self.sent + self.pending.len() as u64 != descriptor.size() {
            let (expected, actual) = (descriptor.size(), self.sent + self.pending.len() as u64);
            let action = Box::new(self.access.action.clone());
            self.cancel();
            return Err(Error::WrongSize { action, expected, actual });
        }
        if !self.pending.is_empty() && self.sent > 0 {
            self.send_pending();
        }
        let session = Session { client: &self.client, access: &self.access };
        let mut backoff = self.client.backoff(&self.access);
        // What is less than a chunk goes in one request.
        let body = if self.pending.is_empty() { Body::Empty } else { Body::Bytes(&self.pending) };
        if let Some(at) = self.at
            && session.finish(at, descriptor.digest(), body, &mut backoff).is_ok()
        {
            self.client.placed.insert(&self.access, descriptor.digest());
            return Ok(Pushed::Uploaded);
        }
        // It looks first: the answer to the last request may be all that was lost.
        push::push(&self.client, &self.access, descriptor, None, open)
    }

    /// Gives the upload up: nobody needs the blob, or its repository has it.
    pub fn cancel(self) {
        if let Some(at) = self.at {
            // The registry forgets an upload that nobody continues; asking it to is mere politeness.
            drop(Session { client: &self.client, access: &self.access }.cancel(at));
        }
    }
}
