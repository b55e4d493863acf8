//! The store as a whole: its folders, its locks, and the small files (indexes, records) that are not blobs.

use std::collections::HashSet;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use oci_spec::image::{Digest, DigestAlgorithm};
use rustix::fs::{FlockOperation, Mode, OFlags};
use rustix::io::Errno;

use crate::blob::BlobStore;
use crate::index::LayerIndex;
use crate::lock::NamedLock;
use crate::path::remove_tree;
use crate::snapshotter::{SnapshotId, Snapshots};
use crate::temp::{TempFile, create_directory, ensure_directory, sweep};
use crate::tree::Flavour;
use crate::{Compression, Error, Layer, LayerOptions, LayerWriter, SegmentCache, layer};

/// The layout of the store: another one gets another directory.
const VERSION: &str = "store-v1";

/// The blake3 digest that ends every record.
const SEAL: usize = 32;

/// Bytes on disk, by kind.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Usage {
    /// In `blobs`.
    pub blobs: u64,
    /// In the snapshots of all flavours.
    pub snapshots: u64,
    /// In `mounts`.
    pub mounts: u64,
    /// In `indexes`, `segments`, `cache` and `tags`.
    pub records: u64,
}

/// What [`Store::remove_unreferenced`] keeps.
#[derive(Debug, Clone, Default)]
pub struct Referenced {
    /// Blobs.
    pub blobs: HashSet<Digest>,
    /// Snapshots.
    pub snapshots: HashSet<SnapshotId>,
    /// Indexes, by the layer's `diff_id`.
    pub indexes: HashSet<Digest>,
    /// All that is in `mounts`.
    pub mounts: bool,
}

/// An open store, shared with any number of processes.
#[derive(Debug)]
pub struct Store {
    path: PathBuf,
    blobs: BlobStore,
    segments: Arc<SegmentCache>,
    snapshots: Snapshots,
    /// Locked (flock) as shared while the store is open, so that nothing is removed under anybody's feet.
    lock: fs_err::File,
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
        match create_directory(&path) {
            Err(_) if fs_err::symlink_metadata(&path).is_ok_and(|metadata| metadata.is_dir()) => {}
            other => other?,
        }
        claim(&path)?;
        let lock = fs_err::File::from_parts(open_lock(&path.join("lock"))?, path.join("lock"));
        rustix::fs::flock(&lock, FlockOperation::LockShared).map_err(Error::io("lock", &path))?;
        for name in ["indexes", "cache", "mounts", "tags", "leases", "locks", "tmp"] {
            ensure_directory(&path.join(name))?;
        }
        let blobs = BlobStore::open_at(&path)?;
        let segments = Arc::new(SegmentCache::open_at(&path, blobs.clone())?);
        sweep(&path.join("tmp"))?;
        let snapshots = Snapshots::open_at(&path, flavour)?;
        Ok(Self { path, blobs, segments, snapshots, lock })
    }

    /// Returns `<root>/store-v1`.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Returns the directory of what outlives builds by wish of their steps; its content is the builder's.
    pub fn mounts(&self) -> PathBuf {
        self.path.join("mounts")
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

    /// Makes the blob of a layer, written by [`LayerWriter`] and in this store, anew with another compression.
    pub fn recompress(&self, layer: &Layer, compression: Compression) -> Result<Layer, Error> {
        let mut writer = self.layer_writer(compression)?;
        let blob = self.blobs.open(layer.blob.digest())?;
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

    /// Returns the snapshots of the flavour that the store was opened with.
    pub fn snapshots(&self) -> &Snapshots {
        &self.snapshots
    }

    /// Returns the index of the layer `diff_id`. One that is damaged counts as absent: it can be made again.
    pub fn index(&self, diff_id: &Digest) -> Option<Arc<LayerIndex>> {
        let bytes = fs_err::read(self.index_path(diff_id).ok()?).ok()?;
        LayerIndex::decode(&bytes).ok().map(Arc::new)
    }

    /// Stores the index of the layer `diff_id`.
    pub fn put_index(&self, diff_id: &Digest, index: &LayerIndex) -> Result<(), Error> {
        self.write(&self.index_path(diff_id)?, &index.encode())
    }

    /// Returns a record. One that is damaged counts as absent: what it says can be found out again.
    pub fn get_record(&self, kind: &str, key: &str) -> Option<Vec<u8>> {
        let mut bytes = fs_err::read(self.record_path(kind, key).ok()?).ok()?;
        let (value, seal) = bytes.split_at_checked(bytes.len().checked_sub(SEAL)?)?;
        if blake3::hash(value) != *seal {
            return None;
        }
        bytes.truncate(bytes.len() - SEAL);
        Some(bytes)
    }

    /// Stores a record durably: under `tags` when that is its kind, else under `cache/<kind>`.
    pub fn put_record(&self, kind: &str, key: &str, value: &[u8]) -> Result<(), Error> {
        let path = self.record_path(kind, key)?;
        ensure_directory(path.parent().unwrap_or(&self.path))?;
        self.write(&path, &[value, blake3::hash(value).as_bytes()].concat())
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

    /// Measures the store on disk.
    pub fn usage(&self) -> Result<Usage, Error> {
        let mut usage = Usage::default();
        for entry in fs_err::read_dir(&self.path)? {
            let entry = entry?;
            let name = entry.file_name();
            let bytes = || disk_usage(&entry.path());
            match name.to_str().unwrap_or_default() {
                "blobs" => usage.blobs += bytes()?,
                "mounts" => usage.mounts += bytes()?,
                "indexes" | "segments" | "cache" | "tags" => usage.records += bytes()?,
                name if name.starts_with("snapshots-") => usage.snapshots += bytes()?,
                _ => {}
            }
        }
        Ok(usage)
    }

    /// Removes the blobs with their segment lists, the indexes, the snapshots (of this store's flavour) and the mounts that
    /// `keep` does not name; returns the bytes freed. Fails with [`Error::Busy`] while another process has the store open.
    pub fn remove_unreferenced(&self, keep: &Referenced) -> Result<u64, Error> {
        match rustix::fs::flock(&self.lock, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => {}
            Err(Errno::WOULDBLOCK) => {
                // Trying to convert a lock can lose it.
                rustix::fs::flock(&self.lock, FlockOperation::LockShared).map_err(Error::io("lock", &self.path))?;
                return Err(Error::Busy { path: self.path.clone() });
            }
            Err(error) => return Err(Error::io("lock", &self.path)(error)),
        }
        let freed = self.sweep_unreferenced(keep);
        rustix::fs::flock(&self.lock, FlockOperation::LockShared).map_err(Error::io("lock", &self.path))?;
        freed
    }

    fn sweep_unreferenced(&self, keep: &Referenced) -> Result<u64, Error> {
        let mut freed = 0;
        for (digest, _) in self.blobs.list()? {
            if !keep.blobs.contains(&digest) {
                freed += disk_usage(&self.blobs.path(&digest))?;
                self.blobs.remove(&digest)?;
            }
        }
        freed += self.segments.retain(&keep.blobs)?;
        for id in self.snapshots.list()? {
            if !keep.snapshots.contains(&id) {
                freed += disk_usage(&self.snapshots.directory().join(id.0.digest()))?;
                self.snapshots.remove(&id)?;
            }
        }
        for entry in fs_err::read_dir(self.path.join("indexes"))? {
            let entry = entry?;
            let name = entry.file_name();
            let digest = name.to_str().and_then(|hex| format!("sha256:{hex}").parse().ok());
            if digest.is_none_or(|digest| !keep.indexes.contains(&digest)) {
                freed += disk_usage(&entry.path())?;
                fs_err::remove_file(entry.path())?;
            }
        }
        if !keep.mounts {
            for entry in fs_err::read_dir(self.mounts())? {
                let path = entry?.path();
                freed += disk_usage(&path)?;
                remove_tree(&path)?;
            }
        }
        Ok(freed)
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
            "tags" => Ok(self.path.join("tags")),
            _ if plain && !kind.is_empty() && kind.len() < 64 => Ok(self.path.join("cache").join(kind)),
            _ => Err(Error::RecordName { name: kind.to_owned() }),
        }
    }

    fn record_path(&self, kind: &str, key: &str) -> Result<PathBuf, Error> {
        let name = escape(key).ok_or_else(|| Error::RecordName { name: key.to_owned() })?;
        Ok(self.record_directory(kind)?.join(name))
    }

    fn write(&self, path: &Path, bytes: &[u8]) -> Result<(), Error> {
        let mut file = TempFile::create(&self.path.join("tmp"))?;
        io::Write::write_all(file.file(), bytes)?;
        file.persist(path)
    }
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
    if status.st_mode & 0o7777 != 0o700 {
        rustix::fs::fchmod(&directory, Mode::RWXU).map_err(Error::io("set the mode of", path))?;
    }
    Ok(())
}

fn open_lock(path: &Path) -> Result<std::fs::File, Error> {
    let flags = OFlags::RDWR | OFlags::CREATE | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let fd = rustix::fs::open(path, flags, Mode::RUSR | Mode::WUSR).map_err(Error::io("open", path))?;
    Ok(fd.into())
}

/// Returns the bytes that a file or a tree takes up on disk.
fn disk_usage(path: &Path) -> Result<u64, Error> {
    let mut total = 0;
    let mut links = HashSet::new();
    let mut pending = vec![path.to_owned()];
    while let Some(path) = pending.pop() {
        let metadata = match fs_err::symlink_metadata(&path) {
            // Another process may remove what is temporary.
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            other => other?,
        };
        if metadata.nlink() > 1 && !metadata.is_dir() && !links.insert((metadata.dev(), metadata.ino())) {
            continue;
        }
        total += metadata.blocks() * 512;
        if metadata.is_dir() {
            for entry in fs_err::read_dir(&path)? {
                pending.push(entry?.path());
            }
        }
    }
    Ok(total)
}

/// Makes a file name of a key: what is not a plain character becomes `%XX`, as does a leading dot.
fn escape(key: &str) -> Option<String> {
    let mut name = String::with_capacity(key.len());
    for (at, byte) in key.bytes().enumerate() {
        match byte {
            b'.' if at == 0 => name.push_str("%2e"),
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'.' | b'_' | b'-' => name.push(char::from(byte)),
            _ => {
                name.push('%');
                name.push_str(&crate::digest::hex(&[byte]));
            }
        }
    }
    (1..=255).contains(&name.len()).then_some(name)
}

/// Takes back [`escape`].
fn unescape(name: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(name.len());
    let mut rest = name.bytes();
    while let Some(byte) = rest.next() {
        if byte == b'%' {
            let pair = [rest.next()?, rest.next()?];
            bytes.push(u8::from_str_radix(std::str::from_utf8(&pair).ok()?, 16).ok()?);
        } else {
            bytes.push(byte);
        }
    }
    String::from_utf8(bytes).ok()
}

#[cfg(test)]
mod tests;
