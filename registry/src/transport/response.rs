//! The answer to one request: its body within a cap and a pace, and what a refusal says.

use std::io::{self, Cursor, Read};
use std::time::{Duration, Instant};

use reqwest::StatusCode;
use reqwest::blocking::Response as HttpResponse;
use reqwest::header::{CONTENT_LENGTH, HeaderMap, LOCATION};
use serde::Deserialize;
use url::Url;

use super::slots::Slot;
use super::unreachable;
use crate::retry::retry_after;
use crate::{Action, Answer, AnswerError, Error, Exchange, Timeouts};

/// Largest error envelope that is read, in bytes.
const ENVELOPE_LIMIT: u64 = 64 * 1024;
/// Most entries of an envelope that are kept.
const ENTRY_LIMIT: usize = 4;
/// Longest text of an entry, in characters.
const TEXT_LIMIT: usize = 300;

/// An answer; its body is not read yet.
pub(crate) struct Response {
    inner: HttpResponse,
    /// The address that answered, after redirects.
    pub(crate) url: Url,
    /// Whether a redirect led to another origin than the request's.
    pub(crate) is_foreign: bool,
    /// Held until the body is read.
    pub(crate) slot: Option<Slot>,
    pace: Pace,
    /// What of the body was looked at before.
    seen: Vec<u8>,
}

/// The slowest transfer that is waited for.
#[derive(Debug, Clone)]
pub(crate) struct Pace {
    started: Instant,
    grace: Duration,
    slowest: u64,
}

impl Pace {
    pub(crate) fn new(timeouts: &Timeouts) -> Self {
        Self { started: Instant::now(), grace: timeouts.answer, slowest: timeouts.slowest }
    }

    /// Fails when so many bytes should have come earlier.
    fn check(&self, bytes: u64) -> io::Result<()> {
        let due = bytes.checked_div(self.slowest).unwrap_or(u64::MAX);
        if self.started.elapsed() > self.grace.saturating_add(Duration::from_secs(due)) {
            let text = format!("fewer than {} bytes per second", self.slowest);
            return Err(io::Error::new(io::ErrorKind::TimedOut, text));
        }
        Ok(())
    }
}

impl Response {
    pub(crate) fn new(inner: HttpResponse, url: Url, pace: Pace) -> Self {
        Self { inner, url, is_foreign: false, slot: None, pace, seen: Vec::new() }
    }

    pub(crate) fn status(&self) -> StatusCode {
        self.inner.status()
    }

    pub(crate) fn headers(&self) -> &HeaderMap {
        self.inner.headers()
    }

    /// A header that is one line of visible ASCII.
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers().get(name).and_then(|value| value.to_str().ok()).map(str::trim)
    }

    /// The announced length of the body.
    pub(crate) fn length(&self) -> Option<u64> {
        self.header(CONTENT_LENGTH.as_str())?.parse().ok()
    }

    /// The body, which fails when it comes too slowly.
    pub(crate) fn body(self) -> impl Read {
        let inner = Cursor::new(self.seen).chain(self.inner);
        BodyReader { inner, pace: self.pace, bytes: 0, _slot: self.slot }
    }

    /// Reads a whole body of at most `limit` bytes.
    pub(crate) fn read(self, action: &Action, what: &'static str, limit: u64) -> Result<Vec<u8>, Error> {
        let too_large = || Error::TooLarge { action: Box::new(action.clone()), what, limit };
        if self.length().is_some_and(|length| length > limit) {
            return Err(too_large());
        }
        let url = self.url.clone();
        let mut bytes = Vec::new();
        let result = self.body().take(limit + 1).read_to_end(&mut bytes);
        result.map_err(|source| unreachable(action, &url, Box::new(source)))?;
        if bytes.len() as u64 > limit { Err(too_large()) } else { Ok(bytes) }
    }

    /// Says whether this is how an https server answers plain http: Go's and nginx's 400, or a redirect to itself.
    pub(crate) fn wants_tls(&mut self, https: &Url) -> bool {
        if self.status().is_redirection() {
            let to = self.header(LOCATION.as_str()).and_then(|location| self.url.join(location).ok());
            return to.is_some_and(|to| to.scheme() == "https" && to.host() == https.host());
        }
        if self.status() != StatusCode::BAD_REQUEST {
            return false;
        }
        let body = BodyReader { inner: &mut self.inner, pace: self.pace.clone(), bytes: 0, _slot: None };
        // A body that breaks off has said enough or nothing.
        body.take(ENVELOPE_LIMIT).read_to_end(&mut self.seen).unwrap_or_default();
        String::from_utf8_lossy(&self.seen).contains("HTTPS")
    }

    /// Turns an answer that the caller cannot use into an error.
    pub(crate) fn refusal(self, action: &Action) -> Error {
        let exchange = Box::new(Exchange::new(action, &self.url));
        let status = self.status();
        let answer = self.answer();
        match status {
            StatusCode::NOT_FOUND => Error::NotFound { exchange, answer },
            StatusCode::UNAUTHORIZED => {
                Error::Unauthorized { exchange, problem: "the registry asks for other credentials", answer }
            }
            StatusCode::FORBIDDEN => Error::Denied { exchange, answer },
            StatusCode::TOO_MANY_REQUESTS => Error::RateLimited { exchange, answer },
            _ => Error::Refused { exchange, answer },
        }
    }

    /// Reads the error envelope.
    pub(crate) fn answer(self) -> Answer {
        let (status, retry_after) = (self.status().as_u16(), retry_after(self.headers()));
        let mut text = Vec::new();
        // The status stands, whether its explanation arrives or not.
        self.body().take(ENVELOPE_LIMIT).read_to_end(&mut text).unwrap_or_default();
        Answer { status, errors: envelope(&text), retry_after }
    }
}

struct BodyReader<R> {
    inner: R,
    pace: Pace,
    bytes: u64,
    _slot: Option<Slot>,
}

impl<R: Read> Read for BodyReader<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.inner.read(buffer)?;
        self.bytes += count as u64;
        if count > 0 {
            self.pace.check(self.bytes)?;
        }
        Ok(count)
    }
}

#[derive(Deserialize)]
struct Envelope {
    #[serde(default)]
    errors: Vec<Entry>,
}

#[derive(Deserialize)]
struct Entry {
    #[serde(default)]
    code: serde_json::Value,
    #[serde(default)]
    message: serde_json::Value,
}

/// Parses an error envelope (distribution specification, "Error Codes"); none if it is something else.
fn envelope(text: &[u8]) -> Vec<AnswerError> {
    let Ok(envelope) = serde_json::from_slice::<Envelope>(text) else { return Vec::new() };
    let entry = |entry: Entry| AnswerError { code: plain(&entry.code), message: plain(&entry.message) };
    envelope.errors.into_iter().take(ENTRY_LIMIT).map(entry).filter(|entry| !entry.code.is_empty()).collect()
}

/// Makes foreign text fit for a line of a terminal: one line, no control or direction characters, not long.
fn plain(value: &serde_json::Value) -> String {
    let text = value.as_str().unwrap_or_default();
    let is_odd = |c: char| {
        c.is_control() || matches!(c, '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
    };
    let mut short: String = text.chars().take(TEXT_LIMIT).map(|c| if is_odd(c) { ' ' } else { c }).collect();
    if text.chars().nth(TEXT_LIMIT).is_some() {
        short.push('…');
    }
    short.trim().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_envelope_is_cut_to_harmless_text() {
        let text = format!(
            r#"{{"errors":[{{"code":"DENIED","message":"no\u001b[31m\nway"}},{{"code":7}},{{"code":"X","message":"{}"}}]}}"#,
            "y".repeat(1000)
        );
        let errors = envelope(text.as_bytes());
        assert_eq!((errors[0].code.as_str(), errors[0].message.as_str()), ("DENIED", "no [31m way"));
        assert_eq!(errors.len(), 2);
        assert!(errors[1].message.chars().count() <= TEXT_LIMIT + 1);
        for text in ["", "<html>", "[]", r#"{"errors":{}}"#, r#"{"errors":[[]]}"#] {
            assert_eq!(envelope(text.as_bytes()), Vec::new(), "{text}");
        }
    }

    #[test]
    fn a_pace_allows_the_grace_and_then_the_rate() {
        let timeouts = Timeouts { answer: Duration::ZERO, slowest: 10, ..Timeouts::default() };
        let pace = Pace::new(&timeouts);
        std::thread::sleep(Duration::from_millis(5));
        assert!(pace.check(1).is_err() && pace.check(100).is_ok());
    }
}
