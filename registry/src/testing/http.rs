//! As much of HTTP/1.1 as a test server needs: messages with a length or in chunks, answers with a length.

use std::collections::BTreeMap;
use std::io::{self, BufRead, Read, Write};

use url::form_urlencoded;

/// Largest head of a request, in bytes.
const HEAD_LIMIT: u64 = 64 * 1024;

/// A request without its body.
#[derive(Debug)]
pub(super) struct Head {
    pub(super) method: String,
    pub(super) path: String,
    pub(super) query: String,
    /// Names in lower case.
    pub(super) headers: BTreeMap<String, String>,
}

/// An answer.
#[derive(Debug, Clone, Default)]
pub(super) struct Reply {
    pub(super) status: u16,
    pub(super) headers: Vec<(String, String)>,
    pub(super) body: Vec<u8>,
    /// The length that is stated, if it is not the body's: the answer to a HEAD has none.
    pub(super) length: Option<usize>,
}

impl Head {
    pub(super) fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).map(String::as_str)
    }

    /// The first value of a query parameter.
    pub(super) fn parameter(&self, name: &str) -> Option<String> {
        form_urlencoded::parse(self.query.as_bytes()).find(|(key, _)| key == name).map(|(_, value)| value.into_owned())
    }
}

impl Reply {
    pub(super) fn new(status: u16) -> Self {
        Self { status, ..Self::default() }
    }

    /// A refusal with the error envelope of the specification.
    pub(super) fn error(status: u16, code: &str) -> Self {
        let body = serde_json::json!({"errors": [{"code": code, "message": code.to_ascii_lowercase()}]});
        Self::new(status).with("content-type", "application/json").body(body.to_string().into_bytes())
    }

    pub(super) fn with(mut self, name: &str, value: impl Into<String>) -> Self {
        self.headers.push((name.to_owned(), value.into()));
        self
    }

    pub(super) fn body(mut self, body: Vec<u8>) -> Self {
        self.body = body;
        self
    }

    /// The value of a header.
    pub(super) fn header_mut(&mut self, name: &str) -> Option<&mut String> {
        self.headers.iter_mut().find(|(key, _)| key.eq_ignore_ascii_case(name)).map(|(_, value)| value)
    }

    /// Writes status line and headers; `length` is what the body is said to have.
    pub(super) fn write_head(&self, to: &mut dyn Write, length: Option<usize>) -> io::Result<()> {
        let mut head = format!("HTTP/1.1 {} Status\r\n", self.status);
        for (name, value) in &self.headers {
            head.push_str(name);
            head.push_str(": ");
            head.push_str(value);
            head.push_str("\r\n");
        }
        match length {
            Some(length) => head.extend(["content-length: ", &length.to_string(), "\r\n\r\n"]),
            None => head.push_str("connection: close\r\n\r\n"),
        }
        to.write_all(head.as_bytes())
    }
}

/// Reads a request's head; none at the end of the connection.
pub(super) fn read_head(from: &mut dyn BufRead) -> io::Result<Option<Head>> {
    let mut limited = from.take(HEAD_LIMIT);
    let mut line = String::new();
    if limited.read_line(&mut line)? == 0 {
        return Ok(None);
    }
    let mut words = line.split_ascii_whitespace();
    let (Some(method), Some(target)) = (words.next(), words.next()) else { return Err(invalid("request line")) };
    let (path, query) = target.split_once('?').unwrap_or((target, ""));
    let mut head = Head { method: method.into(), path: path.into(), query: query.into(), headers: BTreeMap::new() };
    loop {
        let mut line = String::new();
        if limited.read_line(&mut line)? == 0 {
            return Err(invalid("head"));
        }
        let line = line.trim_end();
        if line.is_empty() {
            return Ok(Some(head));
        }
        let (name, value) = line.split_once(':').ok_or_else(|| invalid("header"))?;
        head.headers.insert(name.to_ascii_lowercase(), value.trim().to_owned());
    }
}

/// Reads a request's body.
pub(super) fn read_body(head: &Head, from: &mut dyn BufRead) -> io::Result<Vec<u8>> {
    let mut body = Vec::new();
    if head.header("transfer-encoding").is_none() {
        let length = head.header("content-length").and_then(|text| text.parse().ok()).unwrap_or(0);
        if from.take(length).read_to_end(&mut body)? as u64 != length {
            return Err(invalid("body"));
        }
        return Ok(body);
    }
    loop {
        let mut line = String::new();
        from.read_line(&mut line)?;
        let size = u64::from_str_radix(line.trim(), 16).map_err(|_| invalid("chunk"))?;
        from.take(size).read_to_end(&mut body)?;
        from.read_line(&mut line)?;
        if size == 0 {
            return Ok(body);
        }
    }
}

fn invalid(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, format!("the request's {what} is not HTTP"))
}
