//! Layers as bytes: changes → tar → compressed blob in one pass with both digests, and back.

use std::io::BufRead;
use std::path::Path;
use std::sync::Arc;

use oci_spec::image::{Descriptor, Digest, MediaType};
use serde::{Deserialize, Serialize};

use crate::blob::BlobStore;
use crate::entry::{Content, Entry, Kind};
use crate::index::{IndexWriter, LayerIndex};
use crate::{Bytes, ChangeSink, Error};

mod bundle;
mod bundles;
mod codec;
mod decompress;
mod header;
mod member;
mod noise;
mod output;
mod pax;
mod pipeline;
mod read;
mod segment;
mod segments;
mod spare;
mod sparse;
mod tar_writer;
mod zstd;

use bundle::Bundle;
pub(crate) use bundles::verify as verify_bundle;
use codec::Codec;
pub use decompress::decompress;
pub(crate) use header::is_reserved;
use output::Output;
pub use output::recompress;
pub use read::{Limits, TarError, read, read_limited};
pub use segments::{SegmentCache, SegmentCounts};
pub use tar_writer::TarWriter;

/// How a layer's blob is compressed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Compression {
    /// gzip at a level from 0 to 9.
    Gzip {
        /// zlib's scale; 6 is what `gzip` uses by default.
        level: u32,
    },
    /// zstd frames at a level of zstd's scale; 1 is the only one that the encoder has.
    Zstd {
        /// 1.
        level: u32,
    },
    /// The tar stream itself.
    None,
}

impl Compression {
    /// The level of gzip where none is said: what `gzip` uses.
    pub const GZIP_LEVEL: u32 = 6;

    /// The level of zstd where none is said: the only one there is.
    pub const ZSTD_LEVEL: u32 = zstd::LEVEL;

    /// The media type of a layer that is so compressed (OCI image spec, layer.md).
    pub fn media_type(self) -> MediaType {
        match self {
            Self::Gzip { .. } => MediaType::ImageLayerGzip,
            Self::Zstd { .. } => MediaType::ImageLayerZstd,
            Self::None => MediaType::ImageLayer,
        }
    }

    /// The codec of the segments; none when there are none. A level that the codec does not have is refused.
    fn codec(self) -> Result<Option<Codec>, Error> {
        match self {
            Self::Gzip { level: level @ 0..=9 } => Ok(Some(Codec::Gzip { level })),
            Self::Gzip { .. } => Err(Error::Limit { what: "the gzip level", limit: 9 }),
            Self::Zstd { level: zstd::LEVEL } => Ok(Some(Codec::Zstd)),
            Self::Zstd { level } => Err(Error::ZstdLevel { level }),
            Self::None => Ok(None),
        }
    }
}

impl From<Compression> for LayerOptions {
    fn from(compression: Compression) -> Self {
        Self { compression, ..Self::default() }
    }
}

impl Default for Compression {
    fn default() -> Self {
        Self::Gzip { level: Self::GZIP_LEVEL }
    }
}

/// A layer of an image: two digests and a size. Its bytes may be in the store, remote, or both.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Layer {
    /// The digest of the uncompressed tar stream.
    pub diff_id: Digest,
    /// The blob as a manifest names it.
    pub blob: Descriptor,
}

/// What can be chosen about how a layer is written. Only the compression changes a byte of it.
#[derive(Debug, Clone, Default)]
pub struct LayerOptions {
    /// How the blob is compressed.
    pub compression: Compression,
    /// Where compressed segments of earlier layers are found; none are when it is absent.
    pub segments: Option<Arc<SegmentCache>>,
    /// Compressing threads; one for each core that the process may use when absent.
    pub threads: Option<usize>,
}

/// A [`ChangeSink`] that makes a layer's blob: what it receives becomes tar, is digested and compressed on all cores,
/// and is written to the blob store, in one pass with bounded memory.
pub struct LayerWriter {
    index: IndexWriter,
    bundle: Bundle,
    output: Output,
    /// Memory for an entry's headers.
    headers: Vec<u8>,
}

impl std::fmt::Debug for LayerWriter {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("LayerWriter").field("index", &self.index).finish_non_exhaustive()
    }
}

impl LayerWriter {
    /// Starts a layer.
    pub fn new(blobs: &BlobStore, options: LayerOptions) -> Result<Self, Error> {
        let output = Output::start(blobs, options)?;
        Ok(Self { index: IndexWriter::default(), bundle: Bundle::default(), output, headers: Vec::new() })
    }

    /// Ends the layer: its blob is in the store when this returns.
    pub fn finish(mut self) -> Result<(Layer, LayerIndex), Error> {
        self.bundle.headers(&header::TRAILER);
        Ok((self.output.finish(self.bundle)?, self.index.finish()))
    }

    /// Adds or replaces `path` as [`ChangeSink::entry`] does. Bytes whose digest is known are not digested again, and
    /// those that are of an earlier layer need not be read.
    pub fn put(&mut self, path: &Path, entry: &Entry, content: Bytes<'_>) -> Result<(), Error> {
        let mut headers = std::mem::take(&mut self.headers);
        headers.clear();
        header::entry(&mut headers, path, entry)?;
        let file = if let Kind::File { size } = entry.kind { Some((size, content)) } else { None };
        let content = self.append(path, &headers, file)?;
        self.headers = headers;
        self.index.put(path, entry, content)
    }

    /// Ends the bundle.
    fn cut(&mut self) -> Result<(), Error> {
        if self.bundle.is_empty() {
            return Ok(());
        }
        self.output.take(&mut self.bundle)
    }

    /// Adds `headers` and then, for a regular file, `size` bytes of content with their padding; returns their digest.
    fn append(
        &mut self,
        path: &Path,
        headers: &[u8],
        file: Option<(u64, Bytes<'_>)>,
    ) -> Result<Option<Content>, Error> {
        let size = file.as_ref().map_or(0, |(size, _)| *size);
        let bytes = headers.len() as u64 + size + header::padding(size) as u64;
        if self.bundle.len() as u64 + bytes > segment::MOST {
            self.cut()?;
        }
        self.bundle.headers(headers);
        let mut content = None;
        if let Some((size, file)) = file {
            content = Some(match (file, usize::try_from(size)) {
                (Bytes::Later(reader, digest), Ok(length)) if bytes <= segment::MOST => {
                    self.bundle.later(path, length, reader, digest);
                    digest
                }
                (mut file, _) => self.append_content(path, size, &mut file)?,
            });
            self.bundle.pad(size);
        }
        let length = self.bundle.len() as u64;
        if length >= segment::LEAST && (bytes > segment::MOST || segment::ends_bundle(path, bytes)) {
            self.cut()?;
        }
        Ok(content)
    }

    /// Adds the bytes of a file, splitting it where the bundle is full.
    fn append_content(&mut self, path: &Path, size: u64, file: &mut Bytes<'_>) -> Result<Content, Error> {
        let most = usize::try_from(segment::MOST).expect("4 MiB");
        let known = file.digest();
        let mut whole = blake3::Hasher::new();
        let mut left = size;
        loop {
            if self.bundle.len() >= most && left > 0 {
                self.cut()?;
            }
            let room = most.saturating_sub(self.bundle.len());
            let piece = usize::try_from(left).map_or(room, |left| left.min(room));
            let is_whole = piece as u64 == size;
            let mut digest = known.filter(|_| is_whole);
            self.bundle.content(piece, |buffer| {
                bundle::read_exact(file.reader(), buffer, path, size)?;
                if !is_whole && known.is_none() {
                    whole.update(buffer);
                }
                Ok(*digest.get_or_insert_with(|| Content(*blake3::hash(buffer).as_bytes())))
            })?;
            left -= piece as u64;
            if left == 0 {
                let of_pieces = || known.unwrap_or_else(|| Content(*whole.finalize().as_bytes()));
                return Ok(digest.filter(|_| is_whole).unwrap_or_else(of_pieces));
            }
        }
    }
}

impl ChangeSink for LayerWriter {
    type Error = Error;

    fn entry(&mut self, path: &Path, entry: &Entry, content: &mut dyn BufRead) -> Result<(), Error> {
        self.put(path, entry, Bytes::Now(content, None))
    }

    fn hard_link(&mut self, path: &Path, target: &Path) -> Result<(), Error> {
        let mut headers = Vec::with_capacity(header::BLOCK);
        let metadata = tar_writer::link_metadata(&self.index, path, target)?;
        header::hard_link(&mut headers, path, target, metadata)?;
        self.append(path, &headers, None)?;
        self.index.hard_link(path, target)
    }

    fn whiteout(&mut self, path: &Path) -> Result<(), Error> {
        let mut headers = Vec::with_capacity(header::BLOCK);
        header::whiteout(&mut headers, path)?;
        self.append(path, &headers, None)?;
        self.index.whiteout(path)
    }

    fn opaque(&mut self, directory: &Path) -> Result<(), Error> {
        let mut headers = Vec::with_capacity(header::BLOCK);
        header::opaque(&mut headers, directory)?;
        self.append(directory, &headers, None)?;
        self.index.opaque(directory)
    }
}

#[cfg(test)]
mod tests;
