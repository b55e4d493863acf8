//! Segments that earlier layers already have: a bundle that was compressed before is copied from the blob it is in.
//! What a layer has in common with the beginning of an earlier one need not even be read to find its `diff_id`.
//!
//! Of compressed bytes nothing is kept twice. Beside a compressed layer that rbuild made stands a list,
//! `segments/<hex of the blob>`, of where in the blob each segment lies:
//!
//! ```text
//! magic
//! for each segment   key  blake3 of codec id and bundle's name    32 bytes
//!                    offset in the blob                            8
//!                    size in the blob, length and CRC of the raw   4, 4, 4
//!                    check  blake3 of the compressed bytes        32
//!                    chain  blake3 of the names up to this one's  32
//!                    SHA-256 of the raw stream up to its end      40
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

use super::bundle::Name;
use super::bundles::KeptBundles;
use super::codec::Codec;
use super::segment::Segment;
use super::spare::SEGMENTS;
use crate::digest::Midstate;
use crate::temp::{TempFile, ensure_directory};
use crate::{BlobStore, Error};

const MAGIC: &[u8] = b"rbuild segments 2\n";

const HASH: usize = 32;

const RECORD: usize = HASH + 8 + 4 + 4 + 4 + HASH + HASH + MIDSTATE;

const MIDSTATE: usize = 40;

/// The most bytes of lists: some 50,000 segments, which is 50 GB of layers. All of them are read by the first layer
/// that a process writes, and held, so this costs a few milliseconds and some 15 MiB of memory at worst.
const LISTS_MAX: u64 = 8 * 1024 * 1024;

/// The least bundle that is worth looking up: a smaller one deflates in a millisecond, and most steps' layers, which
/// are smaller, need no list.
const LEAST: usize = 64 * 1024;

/// The name of a bundle under a codec.
pub(super) type Key = [u8; HASH];

/// The name of all bundles of a layer up to one of them.
pub(super) type Chain = [u8; HASH];

/// Names a bundle of `length` bytes under a codec; none when it is too small to be looked up.
pub(super) fn key(codec: Codec, name: &Name, length: usize) -> Option<Key> {
    (length >= LEAST).then(|| *blake3::Hasher::new_derive_key(&codec.id()).update(name).finalize().as_bytes())
}

/// Names a bundle together with those before it, which are named by `before`.
pub(super) fn chain(before: Option<&Chain>, name: &Name) -> Chain {
    *blake3::Hasher::new().update(before.map_or(&[], |before| &before[..])).update(name).finalize().as_bytes()
}

/// What a list says about one segment of its blob.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Record {
    pub(super) span: Span,
    pub(super) chain: Chain,
    /// The state of the `diff_id`'s digest at the end of the bundle.
    pub(super) after: Midstate,
}

/// Where a segment lies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Span {
    key: Key,
    offset: u64,
    size: u32,
    length: u32,
    crc: u32,
    check: [u8; HASH],
}

impl Record {
    fn encode(&self, out: &mut Vec<u8>) {
        let Span { key, offset, size, length, crc, check } = self.span;
        out.extend(key);
        out.extend(offset.to_le_bytes());
        for number in [size, length, crc] {
            out.extend(number.to_le_bytes());
        }
        out.extend(check);
        out.extend(self.chain);
        out.extend(self.after.0);
    }

    fn decode(bytes: &[u8]) -> Option<Self> {
        let (key, bytes) = bytes.split_first_chunk()?;
        let (offset, bytes) = bytes.split_first_chunk()?;
        let (size, bytes) = bytes.split_first_chunk()?;
        let (length, bytes) = bytes.split_first_chunk()?;
        let (crc, bytes) = bytes.split_first_chunk()?;
        let (check, bytes) = bytes.split_first_chunk()?;
        let (chain, bytes) = bytes.split_first_chunk()?;
        let span = Span {
            key: *key,
            offset: u64::from_le_bytes(*offset),
            size: u32::from_le_bytes(*size),
            length: u32::from_le_bytes(*length),
            crc: u32::from_le_bytes(*crc),
            check: *check,
        };
        Some(Self { span, chain: *chain, after: Midstate(bytes.try_into().ok()?) })
    }
}

/// What the lists say.
#[derive(Debug, Default)]
struct Known {
    /// By name, where a segment lies.
    spans: HashMap<Key, (Arc<Digest>, Span)>,
    /// By the name of all bundles up to one of them, the state of the digest at its end.
    states: HashMap<Chain, Midstate>,
}

impl Known {
    /// Adds the list of a blob, before those that were added so far.
    fn add(&mut self, blob: &Arc<Digest>, records: &[Record]) {
        for record in records {
            self.spans.insert(record.span.key, (Arc::clone(blob), record.span));
            self.states.insert(record.chain, record.after);
        }
    }
}

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
    pub(super) bundles: KeptBundles,
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
            bundles: KeptBundles::at(root),
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
        for Record { span, .. } in records {
            let mut bytes = vec![0; usize::try_from(span.size).unwrap_or(0)];
            file.read_exact_at(&mut bytes, span.offset)?;
            if blake3::hash(&bytes) != span.check {
                return Err(corrupt("a segment is not what it says"));
            }
        }
        Ok(())
    }

    /// Makes the segment of a bundle.
    pub(super) fn compress(&self, codec: Codec, key: Key, bundle: &[u8]) -> Result<(Segment, Option<Named>), Error> {
        let segment = codec.compress(bundle)?;
        self.compressed.fetch_add(1, Ordering::Relaxed);
        let check = *blake3::hash(&segment.bytes).as_bytes();
        Ok((segment, Some(Named { key, check })))
    }

    /// The state of the digest after a bundle, where an earlier layer begins with all the bundles up to it.
    pub(super) fn state_after(&self, chain: &Chain) -> Option<Midstate> {
        self.known().as_ref()?.states.get(chain).copied()
    }

    /// Copies a segment out of the blob it is in; none when it is in none, or is not what it was.
    pub(super) fn find(&self, key: Key, length: usize) -> Option<(Segment, Option<Named>)> {
        let (blob, span) = self.known().as_ref()?.spans.get(&key).map(|(blob, span)| (Arc::clone(blob), *span))?;
        let whole = self.blobs.has(&blob)?;
        let end = span.offset.checked_add(u64::from(span.size))?;
        if usize::try_from(span.length) != Ok(length) || end > whole {
            return None;
        }
        let mut bytes = SEGMENTS.take();
        bytes.resize(usize::try_from(span.size).ok()?, 0);
        self.blobs.open(&blob).ok()?.read_exact_at(&mut bytes, span.offset).ok()?;
        if blake3::hash(&bytes) != span.check {
            return None;
        }
        self.used.lock().expect("nothing panics while it holds this lock").insert(blob);
        self.reused.fetch_add(1, Ordering::Relaxed);
        let named = Named { key, check: span.check };
        Some((Segment { bytes, crc: span.crc, length: length as u64 }, Some(named)))
    }

    /// The lists' contents, read on the first call.
    fn known(&self) -> MutexGuard<'_, Option<Known>> {
        let mut known = self.known.lock().expect("nothing panics while it holds this lock");
        known.get_or_insert_with(|| self.load());
        known
    }

    /// Reads the lists, the last used before the others. What cannot be read is as if it were not there: it can be made
    /// again.
    fn load(&self) -> Known {
        let mut lists = self.lists().unwrap_or_default();
        lists.sort_by_key(|list| std::cmp::Reverse(list.used));
        let mut left = LISTS_MAX;
        let fits = |list: &&List| left.checked_sub(list.length).inspect(|rest| left = *rest).is_some();
        let fitting: Vec<_> = lists.iter().take_while(fits).collect();
        let mut known = Known::default();
        for list in fitting.into_iter().rev() {
            let Some(blob) = list.blob().filter(|blob| self.blobs.has(blob).is_some()) else { continue };
            let Some(records) = fs_err::read(&list.path).ok().and_then(|bytes| decode(&blob, &bytes)) else { continue };
            known.add(&Arc::new(blob), &records);
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
        if let Some(known) = self.known().as_mut() {
            known.add(&Arc::new(blob.clone()), records);
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
    /// Says where a segment lies; none when its numbers are too large for a record.
    pub(super) fn span(&self, segment: &Segment, offset: u64) -> Option<Span> {
        Some(Span {
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
