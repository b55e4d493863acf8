//! Connections: a thread each, request after request, with the scripted faults on the way in and out.

use std::io::{self, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::thread;

use super::fault::{Fault, Random, spoil_reply, spoil_request};
use super::http::{Head, Reply, read_body, read_head};
use super::{Logged, Shared, access, blobs, manifests};
use crate::transport::lock;

/// Accepts connections until the registry is dropped.
pub(super) fn accept(listener: &TcpListener, shared: &Arc<Shared>) {
    for stream in listener.incoming() {
        if shared.stopped.load(Ordering::SeqCst) {
            return;
        }
        let Ok(stream) = stream else { continue };
        let shared = Arc::clone(shared);
        // A client that goes away in the middle is what these tests are about.
        thread::spawn(move || drop(serve(&stream, &shared)));
    }
}

/// Serves one connection.
fn serve(stream: &TcpStream, shared: &Shared) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let mut from = BufReader::new(stream);
    while let Some(mut head) = read_head(&mut from)? {
        if shared.stopped.load(Ordering::SeqCst) {
            return Ok(());
        }
        let mut rules = lock(&shared.rules);
        let struck = rules.iter_mut().filter_map(|rule| rule.strikes(&head).then(|| rule.fault.clone()));
        let mut faults: Vec<Fault> = struck.collect();
        drop(rules);
        faults.extend(lock(&shared.random).as_mut().and_then(Random::next));
        let mut entry = Logged {
            method: head.method.clone(),
            path: head.path.clone(),
            query: head.query.clone(),
            headers: head.headers.clone(),
            body: 0,
            status: 0,
        };
        if faults.contains(&Fault::Reset) {
            lock(&shared.log).push(entry);
            return Ok(());
        }
        let body = read_body(&head, &mut from)?;
        entry.body = body.len() as u64;
        if faults.contains(&Fault::ForgetUploads) {
            lock(&shared.store).uploads.clear();
        }
        spoil_request(&faults, &mut head);
        // An answer that is scripted whole is given instead of doing what was asked.
        let is_scripted = faults.iter().any(|fault| matches!(fault, Fault::Status(_) | Fault::Answer { .. }));
        let mut reply = if is_scripted { Reply::default() } else { route(shared, &head, body) };
        spoil_reply(&faults, &mut reply);
        let is_lost = faults.contains(&Fault::LoseAnswer);
        entry.status = if is_lost { 0 } else { reply.status };
        // Before the answer is sent: who has it finds the request in the log.
        lock(&shared.log).push(entry);
        if is_lost || !send(stream, &head, &reply, &faults)? {
            return Ok(());
        }
    }
    Ok(())
}

/// Answers a request.
fn route(shared: &Shared, head: &Head, body: Vec<u8>) -> Reply {
    if head.path == "/token" {
        return access::token(shared, head, &body);
    }
    if let Some(refusal) = access::refusal(shared, head) {
        return refusal;
    }
    let Some(path) = head.path.strip_prefix("/v2/") else { return Reply::error(404, "NOT_FOUND") };
    if path.is_empty() {
        return Reply::new(200);
    }
    for part in ["/blobs/uploads/", "/blobs/", "/manifests/", "/referrers/", "/tags/list"] {
        let Some((repository, rest)) = path.split_once(part) else { continue };
        return match part {
            "/blobs/uploads/" => blobs::upload(shared, head, repository, rest, &body),
            "/blobs/" => blobs::blob(shared, head, repository, rest),
            "/manifests/" => manifests::manifest(shared, head, repository, rest, body),
            "/referrers/" => manifests::referrers(shared, repository, rest),
            _ => manifests::tags(shared, head, repository),
        };
    }
    Reply::error(404, "NOT_FOUND")
}

/// Sends an answer; false if the connection ends with it.
fn send(mut stream: &TcpStream, head: &Head, reply: &Reply, faults: &[Fault]) -> io::Result<bool> {
    let mut body: &[u8] = if head.method == "HEAD" { &[] } else { &reply.body };
    let (mut keeps, mut pause) = (true, None);
    for fault in faults {
        match fault {
            Fault::Stall(time) => thread::sleep(*time),
            Fault::Trickle(time) => pause = Some(*time),
            Fault::BreakAfter(length) if *length < body.len() => (body, keeps) = (&body[..*length], false),
            Fault::Endless => {
                reply.write_head(&mut stream, None)?;
                loop {
                    stream.write_all(&[b'x'; 16 * 1024])?;
                }
            }
            _ => {}
        }
    }
    reply.write_head(&mut stream, Some(reply.body.len()))?;
    match pause {
        Some(time) => {
            for byte in body {
                thread::sleep(time);
                stream.write_all(&[*byte])?;
            }
        }
        None => stream.write_all(body)?,
    }
    Ok(keeps)
}
