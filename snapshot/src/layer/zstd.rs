//! Bundles → zstd frames (RFC 8878), each with a checksum and able to stand alone.

use ruzstd::decoding::FrameDecoder;
use ruzstd::encoding::{CompressionLevel, FrameCompressor, compress};

use super::noise;
use super::segment::Segment;

/// The one level that the encoder has: it calls it "fastest", zstd's own scale 1.
pub(super) const LEVEL: u32 = 1;

/// The bytes of a frame: one block. The encoder looks back no farther, so longer frames would not be smaller, and what
/// it remembers from block to block after it has stored one uncompressed is not what a decoder remembers.
const FRAME: usize = 128 * 1024;

/// Compresses one bundle.
pub(super) fn segment(bundle: &[u8]) -> Segment {
    let mut bytes = Vec::new();
    let mut back = Vec::with_capacity(FRAME);
    for content in bundle.chunks(FRAME) {
        if noise::is_noise(content) {
            compress(content, &mut bytes, CompressionLevel::Uncompressed);
            continue;
        }
        let start = bytes.len();
        let mut frame = FrameCompressor::new(CompressionLevel::Fastest);
        frame.set_source(content);
        frame.set_drain(&mut bytes);
        frame.compress();
        drop(frame);
        back.clear();
        // The encoder is young and a layer is for ever: a frame that does not read back is stored uncompressed.
        if FrameDecoder::new().decode_all_to_vec(&bytes[start..], &mut back).is_err() || back != content {
            bytes.truncate(start);
            compress(content, &mut bytes, CompressionLevel::Uncompressed);
        }
    }
    // The frames have their own checksums.
    Segment { bytes, crc: 0, length: bundle.len() as u64 }
}

#[cfg(test)]
mod tests {
    use std::io::Read;

    use super::*;

    #[test]
    fn frames_are_read_back_by_zstd() {
        let mut noise = vec![0; 700_000];
        blake3::Hasher::new().finalize_xof().fill(&mut noise);
        let text: Vec<u8> = noise.iter().map(|byte| b"etaoin shrdlu\n"[usize::from(byte % 14)]).collect();
        // Blocks of text, noise and text again: what the encoder keeps of the noise must not matter.
        let mixed = [&text[..150_000], &noise[..140_000], &text, &b"\x07".repeat(300_000), &noise].concat();
        let directory = tempfile::tempdir().unwrap();
        for (name, content) in
            [("mixed", &mixed[..]), ("text", &text), ("noise", &noise), ("one", b"x"), ("same", &b"\0".repeat(131_072))]
        {
            let segment = segment(content);
            assert!(segment.bytes.len() < content.len() + 200, "{name}");
            let mut back = Vec::new();
            crate::layer::decompress(&*segment.bytes, u64::MAX).unwrap().read_to_end(&mut back).unwrap();
            assert!(back == content, "{name}");
            let file = directory.path().join(format!("{name}.zst"));
            fs_err::write(&file, &segment.bytes).unwrap();
            crate::testing::run("zstd", "zstd", &["-q".as_ref(), "-d".as_ref(), file.as_os_str()]);
            assert!(fs_err::read(directory.path().join(name)).unwrap() == content, "{name}");
        }
    }
}
