//! Segments that earlier layers already have: a bundle that was compressed before is copied from the blob it is in.
//!
//! Nothing is kept twice. Beside a compressed layer that rbuild made stands a list, `segments/<hex of the blob>`, of
//! where in the blob each segment lies:
//!
//! ```text
//! magic
//! for each segment   key  blake3 of codec id and raw bundle       32 bytes
//!                    offset in the blob                            8
//!                    size in the blob, length and CRC of the raw   4, 4, 4
//!                    check  blake3 of the compressed bytes        32
//! seal               blake3 of the blob's name and all the above  32
//! ```
//! Numbers are little-endian. A list needs no fsync: a torn one breaks its seal and counts as absent, as does a
//! segment whose bytes break its check. Any number of processes may add, use and drop lists and their blobs.

use std::collections::{HashMap, HashSet};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::SystemTime;

use fs_err::os::unix::fs::FileExt;
use oci_spec::image::Digest;

use super::codec::Codec;
use super::segment::Segment;
use crate::temp::{TempFile, ensure_directory};
use crate::{BlobStore, Error};

const MAGIC: &[u8] = b"rbuild segments 1\n";

const HASH: usize = 32;

const RECORD: usize = HASH + 8 + 4 + 4 + 4 + HASH;

/// The most bytes of lists: some 100,000 segments, which is 100 GB of layers. All of them are read by the first layer
/// that a process writes, and held, so this costs a few milliseconds and some 12 MiB of memory at worst.
const LISTS_MAX: u64 = 8 * 1024 * 1024;

/// The least bundle that is worth looking up: a smaller one deflates in a millisecond, and most steps' layers, which
/// are smaller, need no list.
const LEAST: usize = 64 * 1024;

/// The name of a bundle under a codec.
pub(super) type Key = [u8; HASH];

/// What a list says about one segment of its blob.
#[derive(Debug, Clone, Copy)]
pub(super) struct Record {
    key: Key,
    offset: u64,
    size: u32,
    length: u32,
    crc: u32,
    check: [u8; HASH],
}

impl Record {
    fn encode(&self, out: &mut Vec<u8>) {
        out.extend(self.key);
        out.extend(self.offset.to_le_bytes());
        for number in [self.size, self.length, self.crc] {
            out.extend(number.to_le_bytes());
        }
        out.extend(self.check);
    }

    fn decode(bytes: &[u8]) -> Option<Self> {
        let (key, bytes) = bytes.split_first_chunk()?;
        let (offset, bytes) = bytes.split_first_chunk()?;
        let (size, bytes) = bytes.split_first_chunk()?;
        let (length, bytes) = bytes.split_first_chunk()?;
        let (crc, bytes) = bytes.split_first_chunk()?;
        Some(Self {
            key: *key,
            offset: u64::from_le_bytes(*offset),
            size: u32::from_le_bytes(*size),
            length: u32::from_le_bytes(*length),
            crc: u32::from_le_bytes(*crc),
            check: bytes.try_into().ok()?,
        })
    }
}

/// By name, where a segment lies.
type Known = HashMap<Key, (Arc<Digest>, Record)>;

/// How many bundles were looked up, by what came of it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct SegmentCounts {
    /// Copied from an earlier layer.
    pub reused: u64,
    /// Compressed.
    pub compressed: u64,
}

/// The segments of all layers that the store has and that rbuild compressed.
#[derive(Debug)]
pub struct SegmentCache {
    directory: PathBuf,
    temporary: PathBuf,
    blobs: BlobStore,
    /// What the lists say; none before they are first asked.
    known: Mutex<Option<Known>>,
    /// The blobs that segments were copied from since a list was last written.
    used: Mutex<HashSet<Arc<Digest>>>,
    reused: AtomicU64,
    compressed: AtomicU64,
}

impl SegmentCache {
    /// Opens the lists of `root`, an existing directory with these blobs.
    pub fn open_at(root: &Path, blobs: BlobStore) -> Result<Self, Error> {
        let directory = root.join("segments");
        ensure_directory(&directory)?;
        Ok(Self {
            directory,
            temporary: root.join("tmp"),
            blobs,
            known: Mutex::default(),
            used: Mutex::default(),
            reused: AtomicU64::new(0),
            compressed: AtomicU64::new(0),
        })
    }

    /// Returns what this process has looked up so far.
    pub fn counts(&self) -> SegmentCounts {
        SegmentCounts {
            reused: self.reused.load(Ordering::Relaxed),
            compressed: self.compressed.load(Ordering::Relaxed),
        }
    }

    /// Reads the list of a blob, and compares the segments with it.
    pub(crate) fn verify(&self, blob: &Digest) -> Result<(), Error> {
        let path = self.directory.join(blob.digest());
        let corrupt = |reason| Error::Corrupt { path: path.clone(), reason };
        let records = decode(blob, &fs_err::read(&path)?).ok_or_else(|| corrupt("its seal is wrong"))?;
        let file = match self.blobs.open(blob) {
            // It says nothing any more, and goes with the next prune.
            Err(Error::MissingBlob { .. }) => return Ok(()),
            other => other?,
        };
        for record in records {
            let mut bytes = vec![0; usize::try_from(record.size).unwrap_or(0)];
            file.read_exact_at(&mut bytes, record.offset)?;
            if blake3::hash(&bytes) != record.check {
                return Err(corrupt("a segment is not what it says"));
            }
        }
        Ok(())
    }

    /// Returns the segment of a bundle: that of an earlier layer, else a new one. `None` for its name when it is too
    /// small to be kept.
    pub(super) fn segment(&self, codec: Codec, bundle: &[u8]) -> Result<(Segment, Option<Named>), Error> {
        if bundle.len() < LEAST {
            return Ok((codec.compress(bundle)?, None));
        }
        let key = *blake3::Hasher::new_derive_key(&codec.id()).update(bundle).finalize().as_bytes();
        if let Some((segment, check)) = self.find(&key, bundle.len() as u64) {
            self.reused.fetch_add(1, Ordering::Relaxed);
            return Ok((segment, Some(Named { key, check })));
        }
        let segment = codec.compress(bundle)?;
        self.compressed.fetch_add(1, Ordering::Relaxed);
        let check = *blake3::hash(&segment.bytes).as_bytes();
        Ok((segment, Some(Named { key, check })))
    }

    /// Copies a segment out of the blob it is in; none when it is in none, or is not what it was.
    fn find(&self, key: &Key, length: u64) -> Option<(Segment, [u8; HASH])> {
        let (blob, record) = self.known().as_ref()?.get(key).map(|(blob, record)| (Arc::clone(blob), *record))?;
        let whole = self.blobs.has(&blob)?;
        let end = record.offset.checked_add(u64::from(record.size))?;
        if u64::from(record.length) != length || end > whole {
            return None;
        }
        let mut bytes = vec![0; usize::try_from(record.size).ok()?];
        self.blobs.open(&blob).ok()?.read_exact_at(&mut bytes, record.offset).ok()?;
        if blake3::hash(&bytes) != record.check {
            return None;
        }
        self.used.lock().expect("nothing panics while it holds this lock").insert(blob);
        Some((Segment { bytes, crc: record.crc, length }, record.check))
    }

    /// The lists' contents, read on the first call.
    fn known(&self) -> MutexGuard<'_, Option<Known>> {
        let mut known = self.known.lock().expect("nothing panics while it holds this lock");
        known.get_or_insert_with(|| self.load());
        known
    }

    /// Reads the lists, the last used first. What cannot be read is as if it were not there: it can be made again.
    fn load(&self) -> Known {
        let mut lists = self.lists().unwrap_or_default();
        lists.sort_by_key(|list| std::cmp::Reverse(list.used));
        let mut known = Known::new();
        let mut left = LISTS_MAX;
        for list in lists {
            let Some(rest) = left.checked_sub(list.length) else { break };
            left = rest;
            let Some(blob) = list.blob().filter(|blob| self.blobs.has(blob).is_some()) else { continue };
            let Some(records) = fs_err::read(&list.path).ok().and_then(|bytes| decode(&blob, &bytes)) else { continue };
            let blob = Arc::new(blob);
            for record in records {
                known.entry(record.key).or_insert_with(|| (Arc::clone(&blob), record));
            }
        }
        known
    }

    /// Writes the list of a blob that is in the store, and drops the longest unused lists beyond [`LISTS_MAX`].
    pub(super) fn put(&self, blob: &Digest, records: &[Record]) -> Result<(), Error> {
        self.touch_used();
        if records.is_empty() {
            return Ok(());
        }
        let mut file = TempFile::create(&self.temporary)?;
        io::Write::write_all(file.file(), &encode(blob, records))?;
        file.publish(&self.directory.join(blob.digest()))?;
        let shared = Arc::new(blob.clone());
        if let Some(known) = self.known().as_mut() {
            known.extend(records.iter().map(|record| (record.key, (Arc::clone(&shared), *record))));
        }
        self.trim(LISTS_MAX)
    }

    fn trim(&self, limit: u64) -> Result<(), Error> {
        let mut lists = self.lists()?;
        let mut total: u64 = lists.iter().map(|list| list.length).sum();
        lists.sort_by_key(|list| list.used);
        for list in lists {
            if total <= limit {
                break;
            }
            remove(&list.path)?;
            total -= list.length;
        }
        Ok(())
    }

    /// Says of the lists whose segments were copied that they were used now.
    fn touch_used(&self) {
        let used = std::mem::take(&mut *self.used.lock().expect("nothing panics while it holds this lock"));
        for blob in used {
            // Another process may have dropped the list; then its order does not matter.
            let list = fs_err::File::open(self.directory.join(blob.digest()));
            list.and_then(|list| list.file().set_modified(SystemTime::now())).ok();
        }
    }

    fn lists(&self) -> Result<Vec<List>, Error> {
        let mut lists = Vec::new();
        for entry in fs_err::read_dir(&self.directory)? {
            let path = entry?.path();
            let metadata = match fs_err::symlink_metadata(&path) {
                // Another process has dropped it.
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                other => other?,
            };
            let used = metadata.modified()?;
            lists.push(List { path, used, length: metadata.len() });
        }
        Ok(lists)
    }
}

/// A list as the directory shows it.
struct List {
    path: PathBuf,
    used: SystemTime,
    length: u64,
}

impl List {
    fn blob(&self) -> Option<Digest> {
        format!("sha256:{}", self.path.file_name()?.to_str()?).parse().ok()
    }
}

/// The name of a segment and the digest of its bytes.
pub(super) struct Named {
    key: Key,
    check: [u8; HASH],
}

impl Named {
    /// Makes the record of a segment that lies at `offset`; none when its numbers are too large for one.
    pub(super) fn record(&self, segment: &Segment, offset: u64) -> Option<Record> {
        Some(Record {
            key: self.key,
            offset,
            size: u32::try_from(segment.bytes.len()).ok()?,
            length: u32::try_from(segment.length).ok()?,
            crc: segment.crc,
            check: self.check,
        })
    }
}

fn remove(path: &Path) -> Result<(), Error> {
    match fs_err::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error.into()),
        _ => Ok(()),
    }
}

fn seal(blob: &Digest, body: &[u8]) -> blake3::Hash {
    blake3::Hasher::new().update(blob.digest().as_bytes()).update(body).finalize()
}

fn encode(blob: &Digest, records: &[Record]) -> Vec<u8> {
    let mut bytes = MAGIC.to_vec();
    for record in records {
        record.encode(&mut bytes);
    }
    bytes.extend(seal(blob, &bytes).as_bytes());
    bytes
}

fn decode(blob: &Digest, bytes: &[u8]) -> Option<Vec<Record>> {
    let (body, said) = bytes.split_last_chunk::<HASH>()?;
    if seal(blob, body) != *said {
        return None;
    }
    body.strip_prefix(MAGIC)?.chunks(RECORD).map(Record::decode).collect()
}

#[cfg(test)]
mod tests;
