//! SHA-256 over bytes and streams, as [`Digest`]s.

use std::io::{self, Read, Write};

use oci_spec::image::{Digest, Sha256Digest};
use sha2::digest::common::hazmat::SerializableState;
use sha2::{Digest as _, Sha256};

/// Returns the SHA-256 digest of `bytes`.
pub fn sha256(bytes: &[u8]) -> Digest {
    from_state(Sha256::new_with_prefix(bytes))
}

/// Writes `bytes` as lower-case hexadecimal digits.
pub(crate) fn hex(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    let mut text = String::with_capacity(bytes.len() * 2);
    for byte in bytes {
        text.push(char::from(DIGITS[usize::from(byte >> 4)]));
        text.push(char::from(DIGITS[usize::from(byte & 15)]));
    }
    text
}

fn from_state(state: Sha256) -> Digest {
    let text = hex(&state.finalize());
    text.parse::<Sha256Digest>().expect("64 lower-case hexadecimal digits").into()
}

/// SHA-256 of a stream of blocks, which can be left and taken up again.
#[derive(Debug, Default)]
pub(crate) struct Sha256Stream(Sha256);

/// The state of SHA-256 between two of its blocks (FIPS 180-4, 6.2.2: the intermediate hash value, eight words, with
/// the number of blocks before): what follows can be digested without what precedes it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Midstate(pub(crate) [u8; 40]);

impl Sha256Stream {
    pub(crate) fn update(&mut self, bytes: &[u8]) {
        self.0.update(bytes);
    }

    /// The state; none within a block.
    pub(crate) fn midstate(&self) -> Option<Midstate> {
        let state = self.0.serialize();
        let (head, buffer) = state.split_first_chunk::<40>()?;
        let empty = Sha256::new().serialize();
        (*buffer == empty[head.len()..]).then_some(Midstate(*head))
    }

    /// Goes on from a state.
    pub(crate) fn resume(state: Midstate) -> Self {
        let mut whole = Sha256::new().serialize();
        whole[..state.0.len()].copy_from_slice(&state.0);
        Self(Sha256::deserialize(&whole).expect("the buffer is that of a new state"))
    }

    pub(crate) fn finish(self) -> Digest {
        from_state(self.0)
    }
}

/// Digests and counts what is read through it.
#[derive(Debug)]
pub struct HashingReader<R> {
    inner: R,
    state: Sha256,
    /// How many bytes were read so far.
    pub bytes: u64,
}

impl<R: Read> HashingReader<R> {
    /// Wraps `inner`.
    pub fn new(inner: R) -> Self {
        Self { inner, state: Sha256::new(), bytes: 0 }
    }

    /// Returns the digest of the bytes read so far.
    pub fn finish(self) -> Digest {
        from_state(self.state)
    }
}

impl<R: Read> Read for HashingReader<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.inner.read(buffer)?;
        self.state.update(&buffer[..read]);
        self.bytes += read as u64;
        Ok(read)
    }
}

/// Digests and counts what is written through it.
#[derive(Debug)]
pub struct HashingWriter<W> {
    inner: W,
    state: Sha256,
    /// How many bytes were written so far.
    pub bytes: u64,
}

impl<W: Write> HashingWriter<W> {
    /// Wraps `inner`.
    pub fn new(inner: W) -> Self {
        Self { inner, state: Sha256::new(), bytes: 0 }
    }

    /// Returns the writer underneath.
    pub fn get_ref(&self) -> &W {
        &self.inner
    }

    /// Returns the digest of the bytes written so far.
    pub fn finish(self) -> Digest {
        from_state(self.state)
    }

    /// Returns the writer underneath and the digest of the bytes written so far.
    pub fn into_parts(self) -> (W, Digest) {
        (self.inner, from_state(self.state))
    }
}

impl<W: Write> Write for HashingWriter<W> {
    fn write(&mut self, buffer: &[u8]) -> io::Result<usize> {
        let written = self.inner.write(buffer)?;
        self.state.update(&buffer[..written]);
        self.bytes += written as u64;
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.inner.flush()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const EMPTY: &str = "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";
    const ABC: &str = "sha256:ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";

    #[test]
    fn known_digests() {
        assert_eq!(sha256(b"").as_ref(), EMPTY);
        assert_eq!(sha256(b"abc").as_ref(), ABC);
    }

    /// A list of segments holds such states: other bytes need another kind of list.
    #[test]
    fn a_midstate_is_that_of_the_standard() {
        let fresh = Sha256Stream::default().midstate().unwrap();
        // The first two words of the initial hash value (FIPS 180-4, 5.3.3), and no block.
        assert_eq!(fresh.0[..8], [0x67, 0xe6, 0x09, 0x6a, 0x85, 0xae, 0x67, 0xbb]);
        assert_eq!(fresh.0[32..], [0; 8]);
        let mut stream = Sha256Stream::default();
        stream.update(&[b'a'; 128]);
        assert_eq!(stream.midstate().unwrap().0[32..], 2_u64.to_le_bytes());
        stream.update(b"abc");
        assert_eq!(stream.midstate(), None);
    }

    #[test]
    fn a_digest_is_taken_up_where_it_was_left() {
        let mut bytes = vec![0; 100_000];
        blake3::Hasher::new().finalize_xof().fill(&mut bytes);
        for cut in [0, 64, 640, 99_968] {
            let mut stream = Sha256Stream::default();
            stream.update(&bytes[..cut]);
            let mut resumed = Sha256Stream::resume(stream.midstate().unwrap());
            resumed.update(&bytes[cut..]);
            assert_eq!(resumed.finish(), sha256(&bytes));
        }
    }

    #[test]
    fn streams_digest_what_passes() {
        let mut reader = HashingReader::new(&b"abc"[..]);
        io::copy(&mut reader, &mut io::sink()).unwrap();
        assert_eq!((reader.bytes, reader.finish().as_ref()), (3, ABC));
        let mut writer = HashingWriter::new(Vec::new());
        writer.write_all(b"abc").unwrap();
        let (bytes, digest) = writer.into_parts();
        assert_eq!((bytes.as_slice(), digest.as_ref()), (&b"abc"[..], ABC));
    }
}
