//! Bundles of tar entries and the gzip segments they become: where to cut, and how one member is made of many.
//!
//! A gzip layer is one ordinary member (RFC 1952) whose deflate stream is the concatenation of segments. Each segment
//! is deflated from a fresh state and ends with a sync flush, or with a stored block where it is noise, so it is
//! byte-aligned, refers to nothing before it, and depends on nothing but its bundle, the codec and the level.
//! Everything in this file and in [`noise`] decides the bytes of every gzip layer: a change here, or of the codec's
//! version, changes the golden digests of `layer/tests.rs`.

use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use flate2::{Compress, Compression, FlushCompress};

use super::header::BLOCK;
use super::noise;

/// The mean size of a bundle in bytes: large enough that a fresh deflate state costs 0.3 % in size.
pub(super) const TARGET: u64 = 1024 * 1024;

/// The least size at which a bundle may be cut after an entry.
pub(super) const LEAST: u64 = TARGET / 4;

/// The size that a bundle never exceeds but for a file's padding; longer files are split there.
pub(super) const MOST: u64 = TARGET * 4;

/// Whether a bundle of at least [`LEAST`] bytes ends after the entry `path`, which takes up `bytes` of the stream.
///
/// The digest of the path decides, and long entries are likelier to end a bundle, so that an entry which is added,
/// removed or grown moves the cuts around itself alone.
pub(super) fn ends_bundle(path: &Path, bytes: u64) -> bool {
    let digest = blake3::hash(path.as_os_str().as_bytes());
    let (first, _) = digest.as_bytes().split_first_chunk::<8>().expect("a digest has 32 bytes");
    u128::from(u64::from_le_bytes(*first)) * u128::from(TARGET - LEAST) < u128::from(bytes) << 64
}

/// Describes the rule by which bundles are cut.
pub(super) fn cut_rule() -> String {
    format!("blake3(path), {LEAST} to {MOST}, {TARGET} in the mean, noise stored")
}

/// The gzip header: deflate, no flags, no time, no extra flags, unknown operating system.
pub(super) const GZIP_HEADER: [u8; 10] = [0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 0xff];

/// An empty deflate block that ends the stream.
const LAST_BLOCK: [u8; 2] = [0x03, 0x00];

/// One bundle, compressed.
pub(super) struct Segment {
    pub(super) bytes: Vec<u8>,
    /// The CRC-32 of the bundle.
    pub(super) crc: u32,
    /// The length of the bundle.
    pub(super) length: u64,
}

/// Deflates one bundle; what would not get shorter is stored.
pub(super) fn deflate(bundle: &[u8], level: u32) -> Result<Segment, flate2::CompressError> {
    let mut bytes = Vec::new();
    for (is_noise, run) in noise::runs(bundle) {
        if is_noise { store(&bundle[run], &mut bytes) } else { deflate_run(&bundle[run], level, &mut bytes)? }
    }
    bytes.shrink_to_fit();
    Ok(Segment { bytes, crc: crc32fast::hash(bundle), length: bundle.len() as u64 })
}

fn deflate_run(run: &[u8], level: u32, out: &mut Vec<u8>) -> Result<(), flate2::CompressError> {
    // More than deflate ever needs, so that one call does it: a second one could repeat the flush.
    out.reserve(run.len() + run.len() / 4 + BLOCK);
    let mut state = Compress::new(Compression::new(level), false);
    state.compress_vec(run, out, FlushCompress::Sync)?;
    debug_assert!(state.total_in() == run.len() as u64 && out.len() < out.capacity(), "one call does it");
    Ok(())
}

/// Writes stored blocks (RFC 1951, 3.2.4), which begin and end at whole bytes.
fn store(run: &[u8], out: &mut Vec<u8>) {
    const BLOCK_MAX: usize = 0xffff;
    out.reserve(run.len() + run.len().div_ceil(BLOCK_MAX) * 5);
    for block in run.chunks(BLOCK_MAX) {
        let length = u16::try_from(block.len()).expect("at most 65,535");
        out.push(0);
        out.extend(length.to_le_bytes());
        out.extend((!length).to_le_bytes());
        out.extend(block);
    }
}

/// The running CRC and length of a member.
#[derive(Default)]
pub(super) struct Member {
    crc: crc32fast::Hasher,
    length: u64,
}

impl Member {
    pub(super) fn append(&mut self, segment: &Segment) {
        self.crc.combine(&crc32fast::Hasher::new_with_initial_len(segment.crc, segment.length));
        self.length += segment.length;
    }

    /// Returns what follows the last segment.
    pub(super) fn trailer(self) -> Vec<u8> {
        let mut bytes = LAST_BLOCK.to_vec();
        bytes.extend(self.crc.finalize().to_le_bytes());
        // ISIZE is the length modulo 2^32.
        bytes.extend(&self.length.to_le_bytes()[..4]);
        bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cuts_come_at_the_target() {
        let entry: u64 = 4096 + 512;
        let (mut bundle, mut cuts, mut total) = (0, 0, 0);
        for number in 0..20_000 {
            bundle += entry;
            total += entry;
            if bundle >= LEAST && ends_bundle(Path::new(&format!("src/{number}.rs")), entry) {
                cuts += 1;
                bundle = 0;
            }
        }
        let mean = total / cuts;
        assert!((TARGET * 8 / 10..TARGET * 12 / 10).contains(&mean), "{mean}");
        assert!(ends_bundle(Path::new("big"), TARGET));
    }

    #[test]
    fn incompressible_bundles_fit_in_one_call() {
        let mut noise = vec![0; usize::try_from(MOST).unwrap()];
        blake3::Hasher::new().finalize_xof().fill(&mut noise);
        for level in [0, 1, 2, 6, 9] {
            for length in [0, 1, 511, 70_000, noise.len()] {
                let mut deflated = Vec::new();
                deflate_run(&noise[..length], level, &mut deflated).unwrap();
                assert!(deflated.ends_with(&[0, 0, 0xff, 0xff]), "level {level}, {length} bytes");
            }
        }
    }

    /// Whatever the order of noise and text, a segment is a part of a stream that any decoder reads.
    #[test]
    fn stored_runs_are_parts_of_the_stream() {
        let mut noise = vec![0; 900_000];
        blake3::Hasher::new().finalize_xof().fill(&mut noise);
        let text = b"all work and no play ".repeat(30_000);
        for bundle in [[&noise[..], &text, &noise].concat(), [&text[..], &noise, &text].concat(), noise] {
            let segment = deflate(&bundle, 6).unwrap();
            assert!(segment.bytes.len() < bundle.len() + bundle.len() / 1000);
            let stream = [&segment.bytes[..], &LAST_BLOCK].concat();
            let mut back = Vec::new();
            std::io::Read::read_to_end(&mut flate2::read::DeflateDecoder::new(&*stream), &mut back).unwrap();
            assert!(back == bundle);
        }
    }
}
