//! The blob store, `<root>/blobs/sha256/<hex>`: the only gate for foreign bytes.
//!
//! A blob is written to `<root>/tmp`, digested while it is written, made durable and only then renamed to its digest:
//! a name in `blobs/` always stands for complete bytes.

mod follow;

use std::collections::HashSet;
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::mpsc::Sender;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use oci_spec::image::{Digest, DigestAlgorithm};

use crate::Error;
use crate::digest::{HashingReader, HashingWriter, sha256};
use crate::store::uses::Uses;
use crate::temp::{TempFile, ensure_directory, sync_directory_of};

use follow::Growth;
pub use follow::{Fate, Follower, Watch};

/// Bytes moved at a time: large enough that the system calls cost nothing beside the digest.
const COPY_BUFFER: usize = 256 * 1024;
/// Bytes moved at first: to clear more memory takes longer than to store a config or manifest.
const FIRST_BUFFER: usize = 8 * 1024;

/// Blobs by digest.
#[derive(Debug, Clone)]
pub struct BlobStore {
    /// `<root>/blobs`.
    directory: PathBuf,
    /// `<root>/tmp`.
    temporary: PathBuf,
    uses: Uses,
    /// The blobs whose bytes this process has digested.
    trusted: Arc<Mutex<HashSet<Digest>>>,
    /// How many damaged blobs this process has removed.
    damaged: Arc<AtomicUsize>,
    grown: Arc<AtomicBool>,
    /// Who is told of each blob that is begun.
    followers: Option<Sender<Follower>>,
}

impl BlobStore {
    /// Opens the blobs of `root`, an existing directory, and creates the folders that it lacks.
    pub fn open_at(root: &Path) -> Result<Self, Error> {
        let (directory, temporary) = (root.join("blobs"), root.join("tmp"));
        let uses = Uses::open_at(root)?;
        let store = Self {
            directory,
            temporary,
            uses,
            trusted: Arc::default(),
            damaged: Arc::default(),
            grown: Arc::default(),
            followers: None,
        };
        for directory in [&store.directory, &store.directory.join("sha256"), &store.temporary] {
            ensure_directory(directory)?;
        }
        Ok(store)
    }

    /// Returns the length of a blob that the store has, which counts as a use of it.
    pub fn has(&self, digest: &Digest) -> Option<u64> {
        let path = self.path(digest);
        let metadata = self.uses.mark(&path).then(|| fs_err::symlink_metadata(path).ok())??;
        metadata.is_file().then_some(metadata.len())
    }

    /// Whether the store has a blob of `size` bytes which are those that its name says: read once by each process. A
    /// damaged one is removed.
    pub fn has_verified(&self, digest: &Digest, size: u64) -> bool {
        self.has(digest) == Some(size) && self.open_verified(digest).is_ok()
    }

    /// Opens a blob for reading, its bytes compared with its name: by this process, once. A damaged one is removed, and
    /// the error is [`Error::Damaged`]: what needs it can make it or fetch it again.
    pub fn open_verified(&self, digest: &Digest) -> Result<fs_err::File, Error> {
        if !self.trusted().contains(digest) {
            if let Err(error) = self.verify(digest) {
                if matches!(error, Error::MissingBlob { .. } | Error::Algorithm { .. }) {
                    return Err(error);
                }
                self.remove(digest)?;
                self.damaged.fetch_add(1, Ordering::Relaxed);
                return Err(Error::Damaged { path: self.path(digest), source: Box::new(error) });
            }
            self.trusted().insert(digest.clone());
        }
        self.open(digest)
    }

    /// How many damaged blobs this process has found and removed: what failed for that can succeed at the next try.
    pub fn damaged(&self) -> usize {
        self.damaged.load(Ordering::Relaxed)
    }

    pub(crate) fn has_grown(&self) -> bool {
        self.grown.load(Ordering::Relaxed)
    }

    fn trusted(&self) -> MutexGuard<'_, HashSet<Digest>> {
        self.trusted.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Forgets that the bytes of a blob were right.
    pub(crate) fn distrust(&self, digest: &Digest) {
        self.trusted().remove(digest);
    }

    /// Opens a blob for reading. The bytes are not verified here: see [`BlobStore::open_verified`].
    pub fn open(&self, digest: &Digest) -> Result<fs_err::File, Error> {
        supported(digest)?;
        fs_err::File::open(self.path(digest)).map_err(|error| match error.kind() {
            io::ErrorKind::NotFound => Error::MissingBlob { digest: digest.clone() },
            _ => Error::File(error),
        })
    }

    /// Reads a whole blob of at most `limit` bytes (a manifest, a config) and verifies it.
    pub fn read(&self, digest: &Digest, limit: u64) -> Result<Vec<u8>, Error> {
        let mut bytes = Vec::new();
        self.open(digest)?.take(limit.saturating_add(1)).read_to_end(&mut bytes)?;
        if bytes.len() as u64 > limit {
            return Err(Error::Limit { what: "the blob's size in bytes", limit });
        }
        let found = sha256(&bytes);
        if found == *digest { Ok(bytes) } else { Err(Error::DigestMismatch { expected: digest.clone(), found }) }
    }

    /// Reads a whole blob and compares its bytes with its name; returns its size.
    pub fn verify(&self, digest: &Digest) -> Result<u64, Error> {
        let mut reader = HashingReader::new(self.open(digest)?);
        copy(&mut reader, &mut io::sink()).map_err(CopyError::either)?;
        let bytes = reader.bytes;
        let found = reader.finish();
        if found == *digest { Ok(bytes) } else { Err(Error::DigestMismatch { expected: digest.clone(), found }) }
    }

    /// Stores the bytes of `from`. When digest and size are expected, other bytes leave nothing behind, and reading
    /// stops one byte past the expected size.
    pub fn ingest(&self, expected: Option<(&Digest, u64)>, from: &mut dyn Read) -> Result<(Digest, u64), Error> {
        if let Some((digest, _)) = expected {
            supported(digest)?;
        }
        let mut writer = self.writer()?;
        let limit = expected.map_or(u64::MAX, |(_, size)| size.saturating_add(1));
        copy(&mut from.take(limit), &mut writer).map_err(|error| match error {
            CopyError::Read(error) => Error::Incoming(error),
            CopyError::Write(error) => Error::File(error),
        })?;
        writer.commit(expected)
    }

    /// The same store, of whose blobs each is followed from its beginning.
    pub(crate) fn followed(&self, followers: Sender<Follower>) -> Self {
        Self { followers: Some(followers), ..self.clone() }
    }

    /// Starts a blob that the caller writes.
    pub fn writer(&self) -> Result<BlobWriter, Error> {
        let mut temporary = TempFile::create(&self.temporary)?;
        let growth = match &self.followers {
            Some(followers) => {
                let growth = Growth::default();
                // Nobody need listen.
                followers.send(growth.follow(temporary.file())?).ok();
                Some(growth)
            }
            None => None,
        };
        let store = Self { followers: None, ..self.clone() };
        Ok(BlobWriter { store, target: HashingWriter::new(temporary), growth })
    }

    /// Returns where the blob is, or would be.
    pub fn path(&self, digest: &Digest) -> PathBuf {
        self.directory.join(digest.algorithm().as_ref()).join(digest.digest())
    }

    /// Lists the blobs with their sizes on disk, in no order.
    pub fn list(&self) -> Result<Vec<(Digest, u64)>, Error> {
        let mut blobs = Vec::new();
        for entry in fs_err::read_dir(self.directory.join("sha256"))? {
            let entry = entry?;
            let name = entry.file_name();
            let digest = name.to_str().and_then(|hex| format!("sha256:{hex}").parse::<Digest>().ok());
            let digest =
                digest.ok_or_else(|| Error::Corrupt { path: entry.path(), reason: "no digest is so named" })?;
            blobs.push((digest, entry.metadata()?.len()));
        }
        Ok(blobs)
    }

    /// Removes a blob; one that is not there is no error.
    pub fn remove(&self, digest: &Digest) -> Result<(), Error> {
        self.distrust(digest);
        match fs_err::remove_file(self.path(digest)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error.into()),
            _ => Ok(()),
        }
    }
}

/// A blob being written. It becomes part of the store at [`BlobWriter::commit`]; dropped before, it leaves nothing.
#[derive(Debug)]
pub struct BlobWriter {
    store: BlobStore,
    target: HashingWriter<TempFile>,
    growth: Option<Growth>,
}

impl BlobWriter {
    /// Verifies what was written, makes it durable and gives it its name.
    pub fn commit(self, expected: Option<(&Digest, u64)>) -> Result<(Digest, u64), Error> {
        let size = self.target.bytes;
        let (mut temporary, digest) = self.target.into_parts();
        if let Some((wanted, wanted_size)) = expected {
            if size != wanted_size {
                return Err(Error::SizeMismatch { expected: wanted_size, found: size });
            }
            if digest != *wanted {
                return Err(Error::DigestMismatch { expected: wanted.clone(), found: digest });
            }
        }
        // A blob that is already there is replaced: equal bytes, or the damaged copy healed.
        let path = self.store.path(&digest);
        if fs_err::symlink_metadata(&path).is_err() {
            self.store.grown.store(true, Ordering::Relaxed);
        }
        temporary.sync()?;
        self.store.uses.replace(&path, || temporary.publish(&path))?;
        sync_directory_of(&path)?;
        self.store.trusted().insert(digest.clone());
        if let Some(growth) = &self.growth {
            growth.commit(&digest);
        }
        Ok((digest, size))
    }
}

impl Write for BlobWriter {
    fn write(&mut self, buffer: &[u8]) -> io::Result<usize> {
        let written = self.target.write(buffer)?;
        if let Some(growth) = &self.growth {
            growth.grow(written);
        }
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Write for TempFile {
    fn write(&mut self, buffer: &[u8]) -> io::Result<usize> {
        self.file().write(buffer)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn supported(digest: &Digest) -> Result<(), Error> {
    match digest.algorithm() {
        DigestAlgorithm::Sha256 => Ok(()),
        _ => Err(Error::Algorithm { digest: digest.clone() }),
    }
}

/// Which side of a copy failed.
enum CopyError {
    Read(io::Error),
    Write(io::Error),
}

impl CopyError {
    fn either(self) -> Error {
        match self {
            Self::Read(error) | Self::Write(error) => Error::File(error),
        }
    }
}

fn copy(from: &mut dyn Read, to: &mut dyn Write) -> Result<(), CopyError> {
    let mut buffer = vec![0; FIRST_BUFFER];
    loop {
        match from.read(&mut buffer) {
            Ok(0) => return Ok(()),
            Ok(read) => {
                to.write_all(&buffer[..read]).map_err(CopyError::Write)?;
                if read == buffer.len() {
                    buffer.resize(COPY_BUFFER, 0);
                }
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(CopyError::Read(error)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn store() -> (tempfile::TempDir, BlobStore) {
        let root = tempfile::tempdir().unwrap();
        let store = BlobStore::open_at(root.path()).unwrap();
        (root, store)
    }

    fn files(root: &Path) -> usize {
        ["tmp", "blobs/sha256"].iter().map(|d| fs_err::read_dir(root.join(d)).unwrap().count()).sum()
    }

    #[test]
    fn what_was_ingested_is_read_back() {
        let (root, store) = store();
        let (digest, size) = store.ingest(None, &mut &b"hello"[..]).unwrap();
        assert_eq!((size, store.has(&digest)), (5, Some(5)));
        assert_eq!(store.read(&digest, 5).unwrap(), b"hello");
        assert_eq!(store.verify(&digest).unwrap(), 5);
        assert_eq!(store.list().unwrap(), [(digest.clone(), 5)]);
        assert_eq!(store.ingest(Some((&digest, 5)), &mut &b"hello"[..]).unwrap().0, digest);
        assert!(matches!(store.read(&digest, 4), Err(Error::Limit { limit: 4, .. })));
        store.remove(&digest).unwrap();
        store.remove(&digest).unwrap();
        assert!(matches!(store.open(&digest), Err(Error::MissingBlob { .. })));
        assert_eq!(files(root.path()), 0);
    }

    #[test]
    fn a_wrong_blob_leaves_nothing() {
        let (root, store) = store();
        let digest = sha256(b"hello");
        let wrong = store.ingest(Some((&digest, 5)), &mut &b"hallo"[..]);
        assert!(matches!(wrong, Err(Error::DigestMismatch { .. })), "{wrong:?}");
        for bytes in [&b"hell"[..], b"hello!", b"hello, and much more"] {
            let wrong = store.ingest(Some((&digest, 5)), &mut &*bytes);
            assert!(matches!(wrong, Err(Error::SizeMismatch { expected: 5, found: 4 | 6 })), "{wrong:?}");
        }
        let mut writer = store.writer().unwrap();
        writer.write_all(b"half").unwrap();
        drop(writer);
        assert_eq!(files(root.path()), 0);
    }

    #[test]
    fn an_endless_body_stops_at_the_announced_size() {
        let (_root, store) = store();
        let wrong = store.ingest(Some((&sha256(b""), 10)), &mut io::repeat(0));
        assert!(matches!(wrong, Err(Error::SizeMismatch { expected: 10, found: 11 })));
    }

    #[test]
    fn a_damaged_blob_is_found_and_healed() {
        let (_root, store) = store();
        let (digest, _) = store.ingest(None, &mut &b"hello"[..]).unwrap();
        fs_err::write(store.path(&digest), b"jello").unwrap();
        assert!(matches!(store.read(&digest, 10), Err(Error::DigestMismatch { .. })));
        assert!(matches!(store.verify(&digest), Err(Error::DigestMismatch { .. })));
        store.ingest(Some((&digest, 5)), &mut &b"hello"[..]).unwrap();
        store.verify(&digest).unwrap();
    }

    #[test]
    fn a_blob_is_read_while_it_is_written() {
        let (_root, store) = store();
        let (followers, begun) = std::sync::mpsc::channel();
        let mut writer = store.followed(followers).writer().unwrap();
        let mut follower = begun.recv().unwrap();
        let reader = std::thread::spawn(move || {
            let (mut all, mut buffer) = (Vec::new(), [0; 1000]);
            assert!(follower.outgrows(5000));
            loop {
                match follower.read(&mut buffer).unwrap() {
                    0 => return (all, follower),
                    read => all.extend_from_slice(&buffer[..read]),
                }
            }
        });
        let bytes: Vec<u8> = (0..100_000_u32).flat_map(u32::to_le_bytes).collect();
        bytes.chunks(7000).for_each(|chunk| writer.write_all(chunk).unwrap());
        let (digest, size) = writer.commit(None).unwrap();
        let (all, follower) = reader.join().unwrap();
        assert!(all == bytes && follower.bytes() == size && follower.behind() == 0);
        assert_eq!(follower.fate(), Fate::Committed(digest.clone()));
        assert!(follower.watch().became(&digest) && !follower.outgrows(5));
    }

    #[test]
    fn whoever_follows_a_blob_hears_that_it_is_given_up() {
        let (_root, store) = store();
        let (followers, begun) = std::sync::mpsc::channel();
        for wrong in [false, true] {
            let mut writer = store.followed(followers.clone()).writer().unwrap();
            let mut follower = begun.recv().unwrap();
            writer.write_all(b"half").unwrap();
            if wrong {
                writer.commit(Some((&sha256(b"whole"), 4))).unwrap_err();
            } else {
                drop(writer);
            }
            assert!(!follower.outgrows(4));
            let mut buffer = [0; 10];
            assert_eq!((follower.read(&mut buffer).unwrap(), follower.read(&mut buffer).unwrap()), (4, 0));
            assert_eq!(follower.fate(), Fate::GivenUp);
        }
    }

    #[test]
    fn other_algorithms_are_refused() {
        let (_root, store) = store();
        let digest: Digest = format!("sha512:{}", "a".repeat(128)).parse().unwrap();
        assert!(matches!(store.ingest(Some((&digest, 1)), &mut &b"x"[..]), Err(Error::Algorithm { .. })));
        assert!(matches!(store.open(&digest), Err(Error::Algorithm { .. })));
        assert_eq!(store.has(&digest), None);
    }

    #[test]
    fn a_failing_source_is_told_from_a_failing_disk() {
        struct Broken;
        impl Read for Broken {
            fn read(&mut self, _: &mut [u8]) -> io::Result<usize> {
                Err(io::Error::from(io::ErrorKind::ConnectionReset))
            }
        }
        let (root, store) = store();
        assert!(matches!(store.ingest(None, &mut Broken), Err(Error::Incoming(_))));
        assert_eq!(files(root.path()), 0);
    }
}
