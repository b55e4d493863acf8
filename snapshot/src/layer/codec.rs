//! The codecs of a layer: how a bundle becomes a segment, and what stands around the segments in the blob.

use super::segment::{self, GZIP_HEADER, Member, Segment};
use super::zstd;
use crate::Error;

/// The compressor behind `flate2`, with its exact version: another one gives other bytes.
const DEFLATE: &str = "flate2 1.1.11, zlib-rs 0.6.8";

/// The same for zstd.
const ZSTD: &str = "ruzstd 0.9.1";

/// How the bundles of one layer are compressed.
#[derive(Debug, Clone, Copy)]
pub(super) enum Codec {
    /// Segments of one deflate stream.
    Gzip { level: u32 },
    /// zstd frames one after another.
    Zstd,
}

impl Codec {
    /// Names everything but the bundle that decides a segment's bytes.
    pub(super) fn id(self) -> String {
        match self {
            Self::Gzip { level } => format!("deflate, {DEFLATE}, level {level}, cut by {}", segment::cut_rule()),
            Self::Zstd => format!("zstd, {ZSTD}, level {}, cut by {}", zstd::LEVEL, segment::cut_rule()),
        }
    }

    pub(super) fn compress(self, bundle: &[u8]) -> Result<Segment, Error> {
        match self {
            Self::Gzip { level } => Ok(segment::deflate(bundle, level)?),
            Self::Zstd => Ok(zstd::segment(bundle)),
        }
    }

    /// What precedes the first segment.
    pub(super) fn header(self) -> &'static [u8] {
        match self {
            Self::Gzip { .. } => &GZIP_HEADER,
            Self::Zstd => &[],
        }
    }

    /// What follows the last segment.
    pub(super) fn trailer(self, member: Member) -> Vec<u8> {
        match self {
            Self::Gzip { .. } => member.trailer(),
            Self::Zstd => Vec::new(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Segments of another compressor must not be taken for this one's.
    #[test]
    fn the_named_versions_are_those_that_are_built_in() {
        let lock = fs_err::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/../Cargo.lock")).unwrap();
        for named in DEFLATE.split(", ").chain([ZSTD]) {
            let (name, version) = named.split_once(' ').unwrap();
            let entry = format!("name = \"{name}\"\nversion = \"{version}\"\n");
            assert!(
                lock.contains(&entry),
                "{named} is not in Cargo.lock: golden digests and this name change together"
            );
        }
    }
}
