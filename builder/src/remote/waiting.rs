//! Waiting that ends with the build. What was waited for is left behind on a thread of its own, which the end of the
//! process ends.

use std::io::{self, BufRead, Cursor, Read};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::thread::Builder;
use std::time::{Duration, Instant};

use crate::sandbox::Cancel;

/// How late a cancelled build may be noticed.
const LATE: Duration = Duration::from_millis(50);
/// Bytes that are read at once.
const CHUNK: usize = 64 << 10;
/// Chunks read ahead.
const CHUNKS: usize = 4;

/// What waiting came to.
#[derive(Debug)]
pub(super) enum Waited<T> {
    /// It is there.
    Ready(T),
    /// Nothing more will come.
    Ended,
    /// The build was cancelled.
    Cancelled,
}

/// Does `work` on a thread of its own; the receiver gets what comes of it.
pub(super) fn start<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> io::Result<Receiver<T>> {
    let (sender, receiver) = sync_channel(1);
    // Nobody receives any more when the build was cancelled.
    Builder::new().name("fetch".to_owned()).spawn(move || drop(sender.send(work())))?;
    Ok(receiver)
}

/// Waits for the next value, but not longer than the build lasts.
pub(super) fn receive<T>(receiver: &Receiver<T>, cancel: &Cancel) -> Waited<T> {
    while !cancel.is_cancelled() {
        match receiver.recv_timeout(LATE) {
            Ok(value) => return Waited::Ready(value),
            Err(RecvTimeoutError::Disconnected) => return Waited::Ended,
            Err(RecvTimeoutError::Timeout) => {}
        }
    }
    Waited::Cancelled
}

/// Waits for so long; false if the build was cancelled meanwhile.
pub(super) fn pause(time: Duration, cancel: &Cancel) -> bool {
    let end = Instant::now() + time;
    while !cancel.is_cancelled() {
        let left = end.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return true;
        }
        std::thread::sleep(left.min(LATE));
    }
    false
}

/// A reader whose reads end with the build: they fail then.
#[derive(Debug)]
pub(crate) struct Pump {
    chunks: Receiver<io::Result<Vec<u8>>>,
    chunk: Cursor<Vec<u8>>,
    cancel: Cancel,
}

impl Pump {
    /// Begins to read.
    pub(crate) fn start(reader: impl Read + Send + 'static, cancel: &Cancel) -> io::Result<Self> {
        let (sender, chunks) = sync_channel(CHUNKS);
        Builder::new().name("read".to_owned()).spawn(move || pump(reader, &sender))?;
        Ok(Self { chunks, chunk: Cursor::default(), cancel: cancel.clone() })
    }
}

fn pump(mut reader: impl Read, chunks: &SyncSender<io::Result<Vec<u8>>>) {
    loop {
        let mut chunk = vec![0; CHUNK];
        let read = match reader.read(&mut chunk) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Ok(0) => return,
            read => read,
        };
        let failed = read.is_err();
        let sent = chunks.send(read.map(|length| {
            chunk.truncate(length);
            chunk
        }));
        if failed || sent.is_err() {
            return;
        }
    }
}

impl Read for Pump {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while self.chunk.fill_buf()?.is_empty() {
            match receive(&self.chunks, &self.cancel) {
                Waited::Ready(chunk) => self.chunk = Cursor::new(chunk?),
                Waited::Ended => return Ok(0),
                Waited::Cancelled => return Err(io::Error::other("the build was cancelled")),
            }
        }
        self.chunk.read(buffer)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn everything_is_read_in_order() {
        let bytes: Vec<u8> = (0..CHUNK * 6 + 7).map(|at| u8::try_from(at % 251).unwrap()).collect();
        let mut read = Vec::new();
        let mut pump = Pump::start(Cursor::new(bytes.clone()), &Cancel::new().unwrap()).unwrap();
        pump.read_to_end(&mut read).unwrap();
        assert_eq!(read, bytes);
    }

    #[test]
    fn a_cancelled_build_waits_for_nobody() {
        let (silent, _writer) = io::pipe().unwrap();
        let cancel = Cancel::new().unwrap();
        let mut pump = Pump::start(silent, &cancel).unwrap();
        cancel.cancel();
        assert!(pump.read(&mut [0]).is_err());
        let never = start(|| std::thread::sleep(Duration::from_mins(1))).unwrap();
        assert!(matches!(receive(&never, &cancel), Waited::Cancelled));
    }
}
