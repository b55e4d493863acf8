//! A reverse proxy in front of any registry, which lets requests fail: what lies between a client and its registry.

use std::io::{self, BufReader, Read, Write};
use std::net::TcpStream;
use std::sync::Arc;

use super::fault::{Fault, Random, Rule, When};
use super::http::{Head, Reply, read_body, read_head};
use super::server::Server;
use super::{Logged, reference};
use crate::Reference;
use crate::transport::lock;

/// A reverse proxy on a loopback port, for a registry that is spoken to in plain http. It answers as long as it lives.
///
/// It passes requests on, bodies and all, and fails as a test scripts it, or at random. What it loses on the way back
/// the registry has done nevertheless.
#[derive(Debug)]
pub struct Proxy(Server);

impl Proxy {
    /// Starts a proxy for the registry at `host:port`.
    pub fn start(host: &str) -> io::Result<Self> {
        let host = host.to_owned();
        Server::start(|_| Arc::new(move |head: &Head, body: Vec<u8>, _: &[Fault]| pass_on(&host, head, &body)))
            .map(Self)
    }

    /// `127.0.0.1:port`.
    pub fn host(&self) -> String {
        self.0.address().to_string()
    }

    /// A reference to something behind the proxy, by way of it: `app:1` or `app@sha256:…`.
    ///
    /// # Panics
    /// If that is not a reference.
    pub fn reference(&self, name: &str) -> Reference {
        reference(self.0.address(), name)
    }

    /// Scripts a fault.
    pub fn fault(&self, when: When, fault: Fault) {
        lock(&self.0.gate().rules).push(Rule::new(when, fault));
    }

    /// Makes so many requests of a hundred fail: with a 429 or 5xx, a reset, a lost answer, or a body that breaks off.
    /// The same seed fails the same requests, by their number.
    pub fn fail_at_random(&self, seed: u64, percent: u64) {
        *lock(&self.0.gate().random) = Some(Random::new(seed, percent));
    }

    /// All requests since the start, or since the log was last taken.
    pub fn take_log(&self) -> Vec<Logged> {
        std::mem::take(&mut lock(&self.0.gate().log))
    }
}

/// Asks the registry, over a connection of its own.
fn pass_on(host: &str, head: &Head, body: &[u8]) -> io::Result<Reply> {
    let mut stream = TcpStream::connect(host)?;
    stream.set_nodelay(true)?;
    let query = if head.query.is_empty() { String::new() } else { format!("?{}", head.query) };
    let mut text = format!("{} {}{query} HTTP/1.1\r\n", head.method, head.path);
    for (name, value) in head.headers.iter().filter(|(name, _)| !is_of_connection(name)) {
        text.extend([name.as_str(), ": ", value, "\r\n"]);
    }
    text.extend(["content-length: ", &body.len().to_string(), "\r\nconnection: close\r\n\r\n"]);
    stream.write_all(text.as_bytes())?;
    stream.write_all(body)?;
    let mut from = BufReader::new(stream);
    loop {
        let answer = read_head(&mut from)?.ok_or(io::ErrorKind::UnexpectedEof)?;
        // The first words of an answer are its version and status.
        let status = answer.path.parse().map_err(|_| io::Error::from(io::ErrorKind::InvalidData))?;
        if status < 200 {
            continue;
        }
        let length = answer.header("content-length").and_then(|length| length.parse().ok());
        let mut reply = Reply::new(status);
        let headers = answer.headers.iter().filter(|(name, _)| !is_of_connection(name));
        reply.headers = headers.map(|(name, value)| (name.clone(), value.clone())).collect();
        if head.method == "HEAD" {
            reply.length = length;
        } else if length.is_some() || answer.header("transfer-encoding").is_some() {
            reply.body = read_body(&answer, &mut from)?;
        } else if status != 204 {
            from.read_to_end(&mut reply.body)?;
        }
        return Ok(reply);
    }
}

/// Whether a header is about the connection, not the message (RFC 9110, section 7.6.1), or said anew.
fn is_of_connection(name: &str) -> bool {
    matches!(name, "connection" | "keep-alive" | "transfer-encoding" | "content-length")
}
