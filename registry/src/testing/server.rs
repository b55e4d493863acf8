//! Connections: a thread each, request after request, with the scripted faults on the way in and out.

use std::fmt;
use std::io::{self, BufReader, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;

use super::Logged;
use super::fault::{Fault, Random, Rule, spoil_reply, spoil_request};
use super::http::{Head, Reply, read_body, read_head};
use crate::transport::lock;

/// Answers one request, whose body it is given. The faults are those that strike it, for what only it can do.
pub(super) type Handler = dyn Fn(&Head, Vec<u8>, &[Fault]) -> io::Result<Reply> + Send + Sync;

/// A server on a loopback port. It answers as long as it lives.
#[derive(Debug)]
pub(super) struct Server {
    address: SocketAddr,
    gate: Arc<Gate>,
}

/// What all connections of a server pass.
#[derive(Default)]
pub(super) struct Gate {
    stopped: AtomicBool,
    pub(super) rules: Mutex<Vec<Rule>>,
    pub(super) random: Mutex<Option<Random>>,
    pub(super) log: Mutex<Vec<Logged>>,
}

impl fmt::Debug for Gate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Gate").field("rules", &self.rules).finish_non_exhaustive()
    }
}

impl Server {
    /// Starts a server; `handler` makes what answers for its address.
    pub(super) fn start(handler: impl FnOnce(SocketAddr) -> Arc<Handler>) -> io::Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
        let address = listener.local_addr()?;
        let (gate, handler) = (Arc::<Gate>::default(), handler(address));
        let shared = Arc::clone(&gate);
        thread::Builder::new().name("registry".into()).spawn(move || accept(&listener, &shared, &handler))?;
        Ok(Self { address, gate })
    }

    pub(super) fn address(&self) -> SocketAddr {
        self.address
    }

    pub(super) fn gate(&self) -> &Gate {
        &self.gate
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.gate.stopped.store(true, Ordering::SeqCst);
        // Wakes the acceptor; if that fails, it ends with the process.
        drop(TcpStream::connect(self.address));
    }
}

/// Accepts connections until the server is dropped.
fn accept(listener: &TcpListener, gate: &Arc<Gate>, handler: &Arc<Handler>) {
    for stream in listener.incoming() {
        if gate.stopped.load(Ordering::SeqCst) {
            return;
        }
        let Ok(stream) = stream else { continue };
        let (gate, handler) = (Arc::clone(gate), Arc::clone(handler));
        // A client that goes away in the middle is what these tests are about.
        thread::spawn(move || drop(serve(&stream, &gate, &*handler)));
    }
}

/// Serves one connection.
fn serve(stream: &TcpStream, gate: &Gate, handler: &Handler) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let mut from = BufReader::new(stream);
    while let Some(mut head) = read_head(&mut from)? {
        if gate.stopped.load(Ordering::SeqCst) {
            return Ok(());
        }
        let faults = gate.strike(&head);
        let mut entry = Logged::new(&head);
        if faults.contains(&Fault::Reset) {
            lock(&gate.log).push(entry);
            return Ok(());
        }
        let body = read_body(&head, &mut from)?;
        entry.body = body.len() as u64;
        spoil_request(&faults, &mut head);
        // An answer that is scripted whole is given instead of doing what was asked.
        let is_scripted = faults.iter().any(|fault| matches!(fault, Fault::Status(_) | Fault::Answer { .. }));
        let mut reply = if is_scripted { Reply::default() } else { handler(&head, body, &faults)? };
        spoil_reply(&faults, &mut reply);
        let is_lost = faults.contains(&Fault::LoseAnswer);
        entry.status = if is_lost { 0 } else { reply.status };
        // Before the answer is sent: who has it finds the request in the log.
        lock(&gate.log).push(entry);
        if is_lost || !send(stream, &head, &reply, &faults)? {
            return Ok(());
        }
    }
    Ok(())
}

impl Gate {
    /// What happens to a request.
    fn strike(&self, head: &Head) -> Vec<Fault> {
        let mut rules = lock(&self.rules);
        let struck = rules.iter_mut().filter_map(|rule| rule.strikes(head).then(|| rule.fault.clone()));
        let mut faults: Vec<Fault> = struck.collect();
        drop(rules);
        faults.extend(lock(&self.random).as_mut().and_then(Random::next));
        faults
    }
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
    reply.write_head(&mut stream, Some(reply.length.unwrap_or(reply.body.len())))?;
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
