//! The bytes of a blob, from the thread that fetches it to the one that unpacks it: in pieces, and never many ahead.

use std::io::{self, Cursor, Read, Write};
use std::sync::mpsc::{Receiver, Sender, SyncSender, channel, sync_channel};

/// Bytes handed over at once: for each piece a thread may have to be woken.
const PIECE: usize = 256 * 1024;

/// Pieces that wait for the reader: together 1 MiB.
const AHEAD: usize = 4;

/// Returns both ends. The reader is at the end once the writer is gone; writing fails once the reader is.
pub(super) fn relay() -> (RelayWriter, RelayReader) {
    let ((to, from), (back, emptied)) = (sync_channel(AHEAD), channel());
    (RelayWriter { piece: Vec::new(), to, emptied }, RelayReader { piece: Cursor::default(), from, back })
}

/// The end of the thread that fetches. What is not flushed is lost.
pub(super) struct RelayWriter {
    piece: Vec<u8>,
    to: SyncSender<Vec<u8>>,
    /// Pieces that were read, to be filled again: memory that is new costs a page fault for each 4 KiB.
    emptied: Receiver<Vec<u8>>,
}

impl Write for RelayWriter {
    fn write(&mut self, buffer: &[u8]) -> io::Result<usize> {
        if self.piece.capacity() == 0 {
            self.piece = self.emptied.try_recv().unwrap_or_else(|_| Vec::with_capacity(PIECE));
        }
        let taken = buffer.len().min(PIECE - self.piece.len());
        self.piece.extend(&buffer[..taken]);
        if self.piece.len() == PIECE {
            self.flush()?;
        }
        Ok(taken)
    }

    fn flush(&mut self) -> io::Result<()> {
        if self.piece.is_empty() {
            return Ok(());
        }
        self.to.send(std::mem::take(&mut self.piece)).map_err(|_| io::ErrorKind::BrokenPipe.into())
    }
}

/// The end of the thread that unpacks.
pub(super) struct RelayReader {
    piece: Cursor<Vec<u8>>,
    from: Receiver<Vec<u8>>,
    back: Sender<Vec<u8>>,
}

impl RelayReader {
    /// Takes the next piece, and gives the last one back. A writer that is gone needs it no more.
    fn turn(&mut self, next: Vec<u8>) {
        let mut read = std::mem::replace(&mut self.piece, Cursor::new(next)).into_inner();
        if read.capacity() > 0 {
            read.clear();
            self.back.send(read).ok();
        }
    }
}

impl Read for RelayReader {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        loop {
            let read = self.piece.read(buffer)?;
            if read > 0 || buffer.is_empty() {
                return Ok(read);
            }
            match self.from.recv() {
                Ok(piece) => self.turn(piece),
                Err(_) => return Ok(0),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read() {
        let bytes: Vec<u8> = (0..5 * PIECE / 2).map(|at| u8::try_from(at % 251).unwrap()).collect();
        let (mut writer, mut reader) = relay();
        let read = std::thread::scope(|scope| {
            let reading = scope.spawn(move || {
                let mut read = Vec::new();
                reader.read_to_end(&mut read).map(|_| read)
            });
            for part in bytes.chunks(1000) {
                writer.write_all(part).unwrap();
            }
            writer.flush().unwrap();
            drop(writer);
            reading.join().unwrap().unwrap()
        });
        assert_eq!(read, bytes);
    }

    #[test]
    fn the_writer_learns_that_the_reader_is_gone() {
        let (mut writer, reader) = relay();
        writer.write_all(b"kept for later").unwrap();
        drop(reader);
        assert_eq!(writer.flush().unwrap_err().kind(), io::ErrorKind::BrokenPipe);
        assert_eq!(writer.write_all(&vec![0; PIECE]).unwrap_err().kind(), io::ErrorKind::BrokenPipe);
    }
}
