//! A blob into a writer: every byte once, in order, over as many connections as it takes.

use std::io::{self, Read, Write};

use oci_spec::image::Descriptor;
use reqwest::header::{CONTENT_ENCODING, CONTENT_RANGE, HeaderValue, RANGE};
use reqwest::{Method, StatusCode};

use super::{Client, malformed};
use crate::auth::Access;
use crate::digest::Digester;
use crate::retry::Backoff;
use crate::transport::{Request, Response, unreachable};
use crate::{Action, Error, Reference};

/// Bytes read at once.
const BUFFER: usize = 64 * 1024;

/// How far a pull has come.
pub(super) struct Progress<'a> {
    out: &'a mut dyn Write,
    /// None where `out` sees to it.
    digester: Option<Digester>,
    /// Bytes written.
    done: u64,
    /// Bytes promised.
    size: u64,
    /// Whether the next request may ask for the rest only.
    ranged: bool,
}

impl<'a> Progress<'a> {
    pub(super) fn new(descriptor: &Descriptor, out: &'a mut dyn Write) -> Self {
        Self { out, digester: None, done: 0, size: descriptor.size(), ranged: true }
    }

    /// The same, and the digest is to be right.
    pub(super) fn verifying(
        reference: &Reference,
        descriptor: &Descriptor,
        out: &'a mut dyn Write,
    ) -> Result<Self, Error> {
        let (repository, digest) = (reference.repository().to_owned(), descriptor.digest().clone());
        let action = Action::PullBlob { repository, digest };
        let digester = Some(Digester::new(descriptor.digest().algorithm(), &action)?);
        Ok(Self { digester, ..Self::new(descriptor, out) })
    }
}

/// Pulls from one place. What a place before has given is not asked for again.
pub(super) fn pull(
    client: &Client,
    access: &Access,
    descriptor: &Descriptor,
    progress: &mut Progress<'_>,
) -> Result<(), Error> {
    progress.ranged = true;
    let mut backoff = client.backoff(access);
    loop {
        let before = (progress.done, progress.ranged);
        match go_on(client, access, descriptor, progress, &mut backoff) {
            Ok(()) => break,
            Err(error) => {
                if progress.done > before.0 {
                    backoff.progress();
                }
                // A range that was refused is asked for differently, at once and once.
                let is_new_way = before.1 && !progress.ranged;
                if !is_new_way && !backoff.again(&error) {
                    return Err(error.with_attempts(backoff.failures()));
                }
            }
        }
    }
    match progress.digester.clone() {
        Some(digester) => digester.check(descriptor.digest(), &access.action),
        None => Ok(()),
    }
}

/// Makes one request for what is missing, and writes what comes.
fn go_on(
    client: &Client,
    access: &Access,
    descriptor: &Descriptor,
    progress: &mut Progress<'_>,
    backoff: &mut Backoff<'_>,
) -> Result<(), Error> {
    if progress.done > 0 && progress.done == progress.size {
        return Ok(());
    }
    let mut request = Request::new(&access.action, Method::GET, access.url(&["blobs", descriptor.digest().as_ref()]));
    let is_range = progress.done > 0 && progress.ranged;
    if is_range && let Ok(range) = HeaderValue::from_str(&format!("bytes={}-", progress.done)) {
        request.headers.insert(RANGE, range);
    }
    client.attempt(access, &request, backoff, &mut |response| {
        if response.header(CONTENT_ENCODING.as_str()).is_some_and(|encoding| encoding != "identity") {
            return Err(malformed(&access.action, "the blob comes in an encoding that was not asked for"));
        }
        match response.status() {
            StatusCode::OK => {
                check_length(access, response.length(), progress.size)?;
                copy(access, response, progress, 0)
            }
            StatusCode::PARTIAL_CONTENT if is_range => match range_start(&response, progress.size) {
                Some(start) if start <= progress.done => copy(access, response, progress, start),
                _ => {
                    progress.ranged = false;
                    Err(malformed(&access.action, "the registry sends another range than the one asked for"))
                }
            },
            StatusCode::RANGE_NOT_SATISFIABLE if is_range => {
                progress.ranged = false;
                Err(response.refusal(&access.action))
            }
            _ => Err(response.refusal(&access.action)),
        }
    })
}

fn check_length(access: &Access, length: Option<u64>, expected: u64) -> Result<(), Error> {
    match length {
        Some(actual) if actual != expected => {
            Err(Error::WrongSize { action: Box::new(access.action.clone()), expected, actual })
        }
        _ => Ok(()),
    }
}

/// Reads where a range begins: `bytes first-last/size` (RFC 9110, section 14.4). None if it is not a part of the blob.
fn range_start(response: &Response, size: u64) -> Option<u64> {
    let (range, total) = response.header(CONTENT_RANGE.as_str())?.strip_prefix("bytes ")?.split_once('/')?;
    let (first, last) = range.split_once('-')?;
    let (first, last): (u64, u64) = (first.trim().parse().ok()?, last.trim().parse().ok()?);
    let is_whole = total == "*" || total.trim().parse() == Ok(size);
    (is_whole && first <= last && last < size).then_some(first)
}

/// Writes a body that begins at `start`, without what is written already.
fn copy(access: &Access, response: Response, progress: &mut Progress<'_>, start: u64) -> Result<(), Error> {
    let url = response.url.clone();
    let mut body = response.body();
    let mut skip = progress.done - start;
    let mut buffer = vec![0; BUFFER];
    loop {
        let count = match body.read(&mut buffer) {
            Ok(0) if progress.done == progress.size => return Ok(()),
            Ok(0) => {
                let source = io::Error::new(io::ErrorKind::UnexpectedEof, "the content broke off");
                return Err(unreachable(&access.action, &url, Box::new(source)));
            }
            Ok(count) => count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            // All bytes are there: how the connection ended is of no interest.
            Err(_) if progress.done == progress.size => return Ok(()),
            Err(source) => return Err(unreachable(&access.action, &url, Box::new(source))),
        };
        let passed = usize::try_from(skip).unwrap_or(usize::MAX).min(count);
        skip -= passed as u64;
        let bytes = &buffer[passed..count];
        if bytes.len() as u64 > progress.size - progress.done {
            let (expected, actual) = (progress.size, progress.done.saturating_add(bytes.len() as u64));
            return Err(Error::WrongSize { action: Box::new(access.action.clone()), expected, actual });
        }
        let write = |source| Error::Write { action: Box::new(access.action.clone()), source };
        progress.out.write_all(bytes).map_err(write)?;
        if let Some(digester) = &mut progress.digester {
            digester.update(bytes);
        }
        progress.done += bytes.len() as u64;
    }
}
