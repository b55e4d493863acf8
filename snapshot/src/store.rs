//! The store as a whole: its folders, its locks, and the small files (indexes, records) that are not blobs.

mod names;
mod objects;
pub(crate) mod seal;
pub(crate) mod uses;
mod verify;

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc::Sender;

use oci_spec::image::{Digest, DigestAlgorithm};
use rustix::fs::{Mode, OFlags};

use crate::blob::{BlobStore, Follower};
use crate::index::LayerIndex;
use crate::lock::NamedLock;
use crate::snapshotter::Snapshots;
use crate::temp::{TempDirectory, TempFile, create_directory, ensure_directory, sweep, sync_directory_of};
use crate::tree::Flavour;
use crate::{Compression, Error, Layer, LayerOptions, LayerWriter, SegmentCache, layer};

use names::{escape, unescape};
pub use objects::{Inventory, KnownSizes, Object, ObjectKind};
pub use uses::Lease;
use uses::Uses;

/// The layout of the store: another one gets another directory.
const VERSION: &str = "store-v1";

/// The blake3 digest that ends every record.
const SEAL: usize = 32;

/// The kind of records that are names of images.
const TAGS: &str = "tags";

/// An open store, shared with any number of processes.
#[derive(Debug)]
pub struct Store {
    path: PathBuf,
    blobs: BlobStore,
    segments: Arc<SegmentCache>,
    snapshots: Snapshots,
    uses: Uses,
}

impl Store {
    /// Opens `<root>/store-v1`, making what is missing, and removes what dead processes have left half-done. A store
    /// that belongs to another user is refused.
    pub fn open(root: &Path, flavour: Flavour) -> Result<Self, Error> {
        if let Some(above) = root.parent() {
            fs_err::create_dir_all(above)?;
        }
        ensure_directory(root)?;
        let path = root.join(VERSION);
        if let Err(error) = create_directory(&path) {
            match fs_err::symlink_metadata(&path) {
                Ok(metadata) if metadata.is_dir() => {}
                Err(unknown) if unknown.kind() != io::ErrorKind::NotFound => return Err(unknown.into()),
                _ => return Err(error),
            }
        }
        claim(&path)?;
        let uses = Uses::open_at(&path)?;
        for name in ["indexes", "cache", "mounts", "tags", "leases", "locks", "tmp"] {
            ensure_directory(&path.join(name))?;
        }
        let blobs = BlobStore::open_at(&path)?;
        let segments = Arc::new(SegmentCache::open_at(&path, blobs.clone())?);
        for name in ["tmp", "leases", "locks"] {
            sweep(&path.join(name))?;
        }
        for entry in fs_err::read_dir(&path)? {
            let entry = entry?;
            if entry.file_name().to_string_lossy().starts_with("snapshots-") {
                sweep(&entry.path().join("tmp"))?;
            }
        }
        let snapshots = Snapshots::open_at(&path, flavour)?;
        Ok(Self { path, blobs, segments, snapshots, uses })
    }

    /// Returns `<root>/store-v1`.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Holds all that is made or found from now on, until the lease is dropped; `holder` says to people for what.
    pub fn lease(&self, holder: &str) -> Result<Lease, Error> {
        Lease::take(&self.path.join("leases"), holder)
    }

    /// Makes an empty directory for as long as the caller needs it.
    pub fn scratch(&self) -> Result<TempDirectory, Error> {
        TempDirectory::create(&self.path.join("tmp"))
    }

    /// Returns the directory of what outlives builds by wish of their steps; its content is the builder's.
    pub fn mounts(&self) -> PathBuf {
        self.path.join("mounts")
    }

    /// Makes sure that there is the folder `name` in [`Store::mounts`], and that a lease holds it; returns where it is.
    pub fn use_mount(&self, name: &str) -> Result<PathBuf, Error> {
        let path = self.mounts().join(name);
        loop {
            ensure_directory(&path)?;
            if self.uses.mark(&path) {
                return Ok(path);
            }
        }
    }

    /// Returns the blobs.
    pub fn blobs(&self) -> &BlobStore {
        &self.blobs
    }

    /// Returns what is known of the blobs' segments.
    pub fn segments(&self) -> &Arc<SegmentCache> {
        &self.segments
    }

    /// Starts a layer whose blob goes into this store, with the segments that it already has.
    pub fn layer_writer(&self, compression: Compression) -> Result<LayerWriter, Error> {
        let segments = Some(Arc::clone(&self.segments));
        LayerWriter::new(&self.blobs, LayerOptions { compression, segments, threads: None })
    }

    /// Does [`Store::layer_writer`], and gives whoever follows the layer's blob the means.
    pub fn followed_layer_writer(
        &self,
        compression: Compression,
        followers: &Sender<Follower>,
    ) -> Result<LayerWriter, Error> {
        let segments = Some(Arc::clone(&self.segments));
        LayerWriter::new(&self.blobs.followed(followers.clone()), LayerOptions { compression, segments, threads: None })
    }

    /// Makes the blob of a layer, written by [`LayerWriter`] and in this store, anew with another compression.
    pub fn recompress(&self, layer: &Layer, compression: Compression) -> Result<Layer, Error> {
        let mut writer = self.layer_writer(compression)?;
        let blob = self.blobs.open_verified(layer.blob.digest())?;
        layer::read(&mut layer::decompress(blob, layer::Limits::default().bytes)?, &mut writer)?;
        let (made, _) = writer.finish()?;
        if made.diff_id != layer.diff_id {
            return Err(Error::DigestMismatch { expected: layer.diff_id.clone(), found: made.diff_id });
        }
        Ok(made)
    }

    /// Waits for the lock `name`, which one thread of one process holds at a time; none when `give_up` says so first.
    pub fn lock(&self, name: &str, give_up: &dyn Fn() -> bool) -> Result<Option<NamedLock>, Error> {
        let plain = name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-');
        if !plain || name.is_empty() || name.len() > 128 {
            return Err(Error::RecordName { name: name.to_owned() });
        }
        NamedLock::wait(&self.path.join("locks").join(name), give_up)
    }

    /// Whether this process has added a blob or a snapshot that was not there before.
    pub fn has_grown(&self) -> bool {
        self.blobs.has_grown() || self.snapshots.has_grown()
    }

    /// Makes the blob of any layer in this store anew with another compression, the uncompressed stream as it is.
    pub fn convert(&self, layer: &Layer, compression: Compression) -> Result<Layer, Error> {
        let blob = self.blobs.open(layer.blob.digest())?;
        let mut tar = layer::decompress(blob, layer::Limits::default().bytes)?;
        let segments = Some(Arc::clone(&self.segments));
        let made = layer::recompress(&mut tar, &self.blobs, LayerOptions { compression, segments, threads: None })?;
        if made.diff_id != layer.diff_id {
            return Err(Error::DigestMismatch { expected: layer.diff_id.clone(), found: made.diff_id });
        }
        Ok(made)
    }

    /// Returns the snapshots of the flavour that the store was opened with.
    pub fn snapshots(&self) -> &Snapshots {
        &self.snapshots
    }

    /// Returns the index of the layer `diff_id`. One that is damaged counts as absent: it can be made again.
    pub fn index(&self, diff_id: &Digest) -> Option<Arc<LayerIndex>> {
        let path = self.index_path(diff_id).ok()?;
        let bytes = self.uses.mark(&path).then(|| fs_err::read(path).ok())??;
        LayerIndex::decode(&bytes).ok().map(Arc::new)
    }

    /// Stores the index of the layer `diff_id`.
    pub fn put_index(&self, diff_id: &Digest, index: &LayerIndex) -> Result<(), Error> {
        self.write(&self.index_path(diff_id)?, &index.encode())
    }

    /// Returns a record, which counts as a use of it. One that is damaged counts as absent: what it says can be found out
    /// again.
    pub fn get_record(&self, kind: &str, key: &str) -> Option<Vec<u8>> {
        let path = self.record_path(kind, key).ok()?;
        self.uses.mark(&path).then(|| read_record(&path))?
    }

    /// Does [`Store::get_record`] for those who only look.
    pub fn peek_record(&self, kind: &str, key: &str) -> Option<Vec<u8>> {
        read_record(&self.record_path(kind, key).ok()?)
    }

    /// Stores a record: under `tags` when that is its kind, else under `cache/<kind>`. A tag outlives a crash of the
    /// machine; another record outlives it whole or not at all, for its seal tells.
    pub fn put_record(&self, kind: &str, key: &str, value: &[u8]) -> Result<(), Error> {
        self.write(&self.record_path(kind, key)?, &[value, blake3::hash(value).as_bytes()].concat())
    }

    /// Stores a file of the caller's beside the store's folders, replacing it in one step, and not durably: its bytes have
    /// to say whether they are whole.
    pub fn put_file(&self, name: &str, bytes: &[u8]) -> Result<(), Error> {
        self.write(&self.path.join(name), bytes)
    }

    /// Removes a record; one that is not there is no error.
    pub fn remove_record(&self, kind: &str, key: &str) -> Result<(), Error> {
        match fs_err::remove_file(self.record_path(kind, key)?) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error.into()),
            _ => Ok(()),
        }
    }

    /// Lists the keys of a kind of records, in no order.
    pub fn record_keys(&self, kind: &str) -> Result<Vec<String>, Error> {
        let directory = self.record_directory(kind)?;
        if !directory.is_dir() {
            return Ok(Vec::new());
        }
        let mut keys = Vec::new();
        for entry in fs_err::read_dir(directory)? {
            keys.extend(entry?.file_name().to_str().and_then(unescape));
        }
        Ok(keys)
    }

    fn index_path(&self, diff_id: &Digest) -> Result<PathBuf, Error> {
        match diff_id.algorithm() {
            DigestAlgorithm::Sha256 => Ok(self.path.join("indexes").join(diff_id.digest())),
            _ => Err(Error::Algorithm { digest: diff_id.clone() }),
        }
    }

    fn record_directory(&self, kind: &str) -> Result<PathBuf, Error> {
        let plain = kind.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-');
        match kind {
            TAGS => Ok(self.path.join(TAGS)),
            _ if plain && !kind.is_empty() && kind.len() < 64 => Ok(self.path.join("cache").join(kind)),
            _ => Err(Error::RecordName { name: kind.to_owned() }),
        }
    }

    fn record_path(&self, kind: &str, key: &str) -> Result<PathBuf, Error> {
        let name = escape(key).ok_or_else(|| Error::RecordName { name: key.to_owned() })?;
        Ok(self.record_directory(kind)?.join(name))
    }

    /// Writes a small file that carries a seal, but for tags not durably.
    fn write(&self, path: &Path, bytes: &[u8]) -> Result<(), Error> {
        let durable = path.starts_with(self.path.join(TAGS));
        let mut file = TempFile::create(&self.path.join("tmp"))?;
        io::Write::write_all(file.file(), bytes)?;
        if durable {
            file.sync()?;
        }
        self.uses.replace(path, || file.publish(path))?;
        if durable { sync_directory_of(path) } else { Ok(()) }
    }
}

/// Reads a record whose seal is right.
fn read_record(path: &Path) -> Option<Vec<u8>> {
    let mut bytes = fs_err::read(path).ok()?;
    let (value, seal) = bytes.split_at_checked(bytes.len().checked_sub(SEAL)?)?;
    if blake3::hash(value) != *seal {
        return None;
    }
    bytes.truncate(bytes.len() - SEAL);
    Some(bytes)
}

/// Checks that the store is ours and closes it to everybody else.
fn claim(path: &Path) -> Result<(), Error> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let directory = rustix::fs::open(path, flags, Mode::empty()).map_err(Error::io("open the store", path))?;
    let status = rustix::fs::fstat(&directory).map_err(Error::io("read the status of", path))?;
    let user = rustix::process::geteuid().as_raw();
    if status.st_uid != user {
        return Err(Error::ForeignStore { path: path.to_owned(), owner: status.st_uid, user });
    }
    if status.st_mode & 0o022 != 0 {
        return Err(Error::OpenStore { path: path.to_owned(), mode: status.st_mode & 0o7777 });
    }
    if status.st_mode & 0o7777 != 0o700 {
        rustix::fs::fchmod(&directory, Mode::RWXU).map_err(Error::io("set the mode of", path))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests;
