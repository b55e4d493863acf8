//! The blob store: the only gate for foreign bytes.
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};

use oci_spec::image::Digest;

use crate::Error;

/// Blobs by digest, under `<root>/blobs/sha256/<hex>`.
#[derive(Debug, Clone)]
pub struct BlobStore {}
impl BlobStore {
    /// Opens or creates `<root>/blobs` (and `<root>/tmp`).
    pub fn open_at(_root: &Path) -> Result<Self, Error> {
        todo!()
    }
    /// Returns the size on disk.
    pub fn has(&self, _digest: &Digest) -> Option<u64> {
        todo!()
    }
    /// Opens for reading.
    pub fn open(&self, _digest: &Digest) -> Result<fs_err::File, Error> {
        todo!()
    }
    /// Reads a small blob, verified.
    pub fn read(&self, _digest: &Digest, _limit: u64) -> Result<Vec<u8>, Error> {
        todo!()
    }
    /// Stores and verifies.
    pub fn ingest(&self, _expected: Option<(&Digest, u64)>, _from: &mut dyn Read) -> Result<(Digest, u64), Error> {
        todo!()
    }
    /// Starts a blob.
    pub fn writer(&self) -> Result<BlobWriter, Error> {
        todo!()
    }
    /// Where a blob is or would be.
    pub fn path(&self, _digest: &Digest) -> PathBuf {
        todo!()
    }
    /// All blobs with their size.
    pub fn list(&self) -> Result<Vec<(Digest, u64)>, Error> {
        todo!()
    }
    /// Removes one.
    pub fn remove(&self, _digest: &Digest) -> Result<(), Error> {
        todo!()
    }
}
/// A blob being written; dropped = deleted.
#[derive(Debug)]
pub struct BlobWriter {}
impl BlobWriter {
    /// Verifies, syncs and renames into place.
    pub fn commit(self, _expected: Option<(&Digest, u64)>) -> Result<(Digest, u64), Error> {
        todo!()
    }
}
impl Write for BlobWriter {
    fn write(&mut self, _buffer: &[u8]) -> io::Result<usize> {
        todo!()
    }
    fn flush(&mut self) -> io::Result<()> {
        todo!()
    }
}
