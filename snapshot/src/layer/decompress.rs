//! Compressed layers → their tar stream, by what their first bytes say.

use std::io::{self, BufRead, BufReader, Read};

use flate2::bufread::GzDecoder;
use ruzstd::decoding::errors::{FrameDecoderError, ReadFrameHeaderError};
use ruzstd::decoding::{BlockDecodingStrategy, FrameDecoder};

use crate::Error;

const GZIP: &[u8] = &[0x1f, 0x8b];
const ZSTD: &[u8] = &[0x28, 0xb5, 0x2f, 0xfd];

/// The largest zstd window in bytes: what `zstd --long` (27 bits) needs, and all the memory that a frame may ask for.
const WINDOW_MAX: u64 = 128 * 1024 * 1024;

const BUFFER: usize = 128 * 1024;

/// Returns the decompressed bytes of `blob`: gzip (any number of members, and zeros that fill up a block of a tape, which
/// `gzip` and GNU tar skip, too), zstd (any number of frames), or, when it
/// is neither, the bytes themselves. Reading fails once more than `limit` bytes have come out, so that a small blob
/// cannot fill the disk.
pub fn decompress<'a>(blob: impl Read + Send + 'a, limit: u64) -> Result<Box<dyn Read + Send + 'a>, Error> {
    let mut blob = BufReader::with_capacity(BUFFER, blob);
    let mut magic = Vec::new();
    (&mut blob).take(ZSTD.len() as u64).read_to_end(&mut magic).map_err(Error::Incoming)?;
    let whole = io::Cursor::new(magic.clone()).chain(blob);
    if magic.starts_with(GZIP) {
        return Ok(Box::new(Limited { inner: Gzip::new(whole), left: limit, limit }));
    }
    let is_skippable = |magic: &[u8]| magic.len() == 4 && magic[0] & 0xf0 == 0x50 && magic[1..] == [0x2a, 0x4d, 0x18];
    if magic.starts_with(ZSTD) || is_skippable(&magic) {
        return Ok(Box::new(Limited { inner: Zstd::new(whole), left: limit, limit }));
    }
    Ok(Box::new(Limited { inner: whole, left: limit, limit }))
}

/// Fails when more than its limit is read.
struct Limited<R> {
    inner: R,
    left: u64,
    limit: u64,
}

impl<R: Read> Read for Limited<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.inner.read(buffer)?;
        self.left = self.left.checked_sub(read as u64).ok_or_else(|| {
            let limit = Error::Limit { what: "the size in bytes of the uncompressed layer", limit: self.limit };
            io::Error::new(io::ErrorKind::FileTooLarge, limit)
        })?;
        Ok(read)
    }
}

/// Reads all members of a gzip stream (RFC 1952, 2.2), verifying each one.
struct Gzip<R> {
    /// The member that is read; none at the end of the stream, and after an error.
    member: Option<GzDecoder<R>>,
}

impl<R: BufRead> Gzip<R> {
    fn new(source: R) -> Self {
        Self { member: Some(GzDecoder::new(source)) }
    }

    /// Begins the next member, if there is one.
    fn next_member(&mut self, mut source: R) -> io::Result<()> {
        let padded = source.fill_buf()?.first() == Some(&0);
        loop {
            let next = source.fill_buf()?;
            let zeros = next.iter().take_while(|byte| **byte == 0).count();
            match next.get(zeros) {
                None if next.is_empty() => return Ok(()),
                None => source.consume(zeros),
                Some(first) if !padded && *first == GZIP[0] => {
                    self.member = Some(GzDecoder::new(source));
                    return Ok(());
                }
                Some(_) => {
                    return Err(io::Error::new(
                        io::ErrorKind::InvalidData,
                        "the gzip stream is followed by something else",
                    ));
                }
            }
        }
    }
}

impl<R: BufRead> Read for Gzip<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while let Some(member) = &mut self.member {
            let read = member.read(buffer)?;
            if read > 0 || buffer.is_empty() {
                return Ok(read);
            }
            if let Some(ended) = self.member.take() {
                self.next_member(ended.into_inner())?;
            }
        }
        Ok(0)
    }
}

/// Reads all frames of a zstd stream (RFC 8878, 3.1), verifying each one.
struct Zstd<R> {
    source: R,
    decoder: FrameDecoder,
    in_frame: bool,
}

impl<R: BufRead> Zstd<R> {
    fn new(source: R) -> Self {
        let mut decoder = FrameDecoder::new();
        decoder.set_max_window_size(WINDOW_MAX);
        Self { source, decoder, in_frame: false }
    }

    /// Begins the next frame; `false` at the end of the stream.
    fn next_frame(&mut self) -> io::Result<bool> {
        while !self.source.fill_buf()?.is_empty() {
            match self.decoder.reset(&mut self.source) {
                Ok(()) => {
                    self.in_frame = true;
                    return Ok(true);
                }
                Err(FrameDecoderError::ReadFrameHeaderError(ReadFrameHeaderError::SkipFrame { length, .. })) => {
                    let length = u64::from(length);
                    if io::copy(&mut (&mut self.source).take(length), &mut io::sink())? != length {
                        return Err(io::ErrorKind::UnexpectedEof.into());
                    }
                }
                Err(error) => return Err(invalid(error)),
            }
        }
        Ok(false)
    }

    fn end_frame(&mut self) -> io::Result<()> {
        self.in_frame = false;
        match self.decoder.get_checksum_from_data() {
            Some(said) if self.decoder.get_calculated_checksum() != Some(said) => {
                Err(io::Error::new(io::ErrorKind::InvalidData, "a zstd frame is damaged"))
            }
            _ => Ok(()),
        }
    }
}

impl<R: BufRead> Read for Zstd<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        loop {
            if self.in_frame {
                let ready = self.decoder.can_collect();
                if ready > 0 {
                    return self.decoder.read(buffer);
                }
                if self.decoder.is_finished() {
                    self.end_frame()?;
                    continue;
                }
                let one = BlockDecodingStrategy::UptoBlocks(1);
                self.decoder.decode_blocks(&mut self.source, one).map_err(invalid)?;
            } else if !self.next_frame()? {
                return Ok(0);
            }
        }
    }
}

fn invalid(error: FrameDecoderError) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, error)
}
