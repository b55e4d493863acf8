//! Layers as bytes.
use std::io::{Read, Write};
use std::path::Path;

use oci_spec::image::{Descriptor, Digest};
use serde::{Deserialize, Serialize};

use crate::blob::BlobStore;
use crate::index::LayerIndex;
use crate::{ChangeSink, Entry, Error};

/// How a layer's blob is compressed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Compression {
    /// gzip.
    Gzip {
        /// 1 to 9; 6 is the default.
        level: u32,
    },
    /// None.
    None,
}
/// A layer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Layer {
    /// Digest of the uncompressed tar.
    pub diff_id: Digest,
    /// The blob.
    pub blob: Descriptor,
}
/// Why a tar stream is refused.
#[derive(Debug, thiserror::Error)]
pub enum TarError {}
/// Limits on what a layer may hold.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Uncompressed bytes.
    pub bytes: u64,
    /// Entries.
    pub entries: u64,
}
/// Makes a layer's blob.
#[derive(Debug)]
pub struct LayerWriter {}
impl LayerWriter {
    /// Starts a layer.
    pub fn new(_blobs: &BlobStore, _compression: Compression) -> Result<Self, Error> {
        todo!()
    }
    /// Ends it.
    pub fn finish(self) -> Result<(Layer, LayerIndex), Error> {
        todo!()
    }
}
impl ChangeSink for LayerWriter {
    type Error = Error;
    fn entry(&mut self, _path: &Path, _entry: &Entry, _content: &mut dyn Read) -> Result<(), Error> {
        todo!()
    }
    fn hard_link(&mut self, _path: &Path, _target: &Path) -> Result<(), Error> {
        todo!()
    }
    fn whiteout(&mut self, _path: &Path) -> Result<(), Error> {
        todo!()
    }
    fn opaque(&mut self, _directory: &Path) -> Result<(), Error> {
        todo!()
    }
}
/// Writes the tar bytes, uncompressed.
#[derive(Debug)]
pub struct TarWriter<W> {
    _w: W,
}
impl<W: Write> TarWriter<W> {
    /// Wraps.
    pub fn new(_w: W) -> Self {
        todo!()
    }
    /// Ends the archive and returns the writer.
    pub fn finish(self) -> Result<W, Error> {
        todo!()
    }
}
impl<W: Write> ChangeSink for TarWriter<W> {
    type Error = Error;
    fn entry(&mut self, _path: &Path, _entry: &Entry, _content: &mut dyn Read) -> Result<(), Error> {
        todo!()
    }
    fn hard_link(&mut self, _path: &Path, _target: &Path) -> Result<(), Error> {
        todo!()
    }
    fn whiteout(&mut self, _path: &Path) -> Result<(), Error> {
        todo!()
    }
    fn opaque(&mut self, _directory: &Path) -> Result<(), Error> {
        todo!()
    }
}
/// Reads an uncompressed tar into `sink`.
pub fn read<S: ChangeSink>(_tar: &mut dyn Read, _sink: &mut S) -> Result<(), S::Error>
where
    S::Error: From<Error>,
{
    todo!()
}
/// The same with limits.
pub fn read_limited<S: ChangeSink>(_tar: &mut dyn Read, _limits: Limits, _sink: &mut S) -> Result<(), S::Error>
where
    S::Error: From<Error>,
{
    todo!()
}
/// Decompresses by magic; at most `limit` bytes come out.
pub fn decompress<'a>(_r: impl Read + Send + 'a, _limit: u64) -> Result<Box<dyn Read + Send + 'a>, Error> {
    todo!()
}
