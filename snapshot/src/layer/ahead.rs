//! Reading on another thread: a layer is decompressed while what came before is being written.

use std::io::{self, Read};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread::{Builder, JoinHandle};

/// The size of the pieces that are handed over, and how many of them may wait: 2 MiB in all.
const PIECE: usize = 256 * 1024;
const WAITING: usize = 8;

/// Reads ahead of its reader on a thread of its own.
#[derive(Debug)]
pub struct ReadAhead {
    pieces: Option<Receiver<io::Result<Vec<u8>>>>,
    piece: Vec<u8>,
    at: usize,
    thread: Option<JoinHandle<()>>,
}

impl ReadAhead {
    /// Starts to read `inner`.
    pub fn new(inner: impl Read + Send + 'static) -> io::Result<Self> {
        let (sender, pieces) = sync_channel(WAITING);
        let thread = Builder::new().name("layer-read".to_owned()).spawn(move || read_all(inner, &sender))?;
        Ok(Self { pieces: Some(pieces), piece: Vec::new(), at: 0, thread: Some(thread) })
    }
}

impl Read for ReadAhead {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while self.at == self.piece.len() {
            let next = self.pieces.as_ref().and_then(|pieces| pieces.recv().ok());
            let Some(next) = next else {
                // The end, or a panic that must not look like one.
                if let Some(Err(panic)) = self.thread.take().map(JoinHandle::join) {
                    std::panic::resume_unwind(panic);
                }
                return Ok(0);
            };
            self.piece = next?;
            self.at = 0;
        }
        let read = (&self.piece[self.at..]).read(buffer)?;
        self.at += read;
        Ok(read)
    }
}

impl Drop for ReadAhead {
    fn drop(&mut self) {
        self.pieces = None;
        self.thread.take().map(JoinHandle::join);
    }
}

fn read_all(mut inner: impl Read, sender: &SyncSender<io::Result<Vec<u8>>>) {
    loop {
        let mut piece = Vec::with_capacity(PIECE);
        let result = (&mut inner).take(PIECE as u64).read_to_end(&mut piece);
        let ended = piece.is_empty() || result.is_err();
        // What was read before an error still counts. Nobody listens any more when the reader is gone.
        let delivered = piece.is_empty() || sender.send(Ok(piece)).is_ok();
        if let Err(error) = result {
            sender.send(Err(error)).ok();
        }
        if ended || !delivered {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn everything_arrives_in_order() {
        let bytes: Vec<u8> = (0..1_000_000u32).flat_map(u32::to_le_bytes).collect();
        for length in [0, 1, PIECE - 1, PIECE, PIECE + 1, bytes.len()] {
            let mut out = Vec::new();
            ReadAhead::new(io::Cursor::new(bytes[..length].to_vec())).unwrap().read_to_end(&mut out).unwrap();
            assert!(out == bytes[..length], "{length}");
        }
    }

    #[test]
    fn an_error_comes_after_what_was_read() {
        struct Broken(u8);
        impl Read for Broken {
            fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
                self.0 += 1;
                if self.0 > 3 { Err(io::ErrorKind::ConnectionReset.into()) } else { Ok(buffer.len().min(10)) }
            }
        }
        let mut out = Vec::new();
        let error = ReadAhead::new(Broken(0)).unwrap().read_to_end(&mut out).unwrap_err();
        assert_eq!((error.kind(), out.len()), (io::ErrorKind::ConnectionReset, 30));
    }

    #[test]
    fn dropping_it_early_ends_the_thread() {
        let mut endless = ReadAhead::new(io::repeat(7)).unwrap();
        endless.read_exact(&mut [0; 10]).unwrap();
    }
}
