//! Remembers the content digests of files by their stat, across builds, so that a context that did not change costs a
//! walk and no reading.
//!
//! A stat does not prove that bytes are the same: two writes within one tick of the file system's clock leave equal
//! times. Hence git's rule for its index ("racy git"): what was modified within [`RACY`] of its hashing is not
//! remembered. ctime is compared too, and no program sets it, so bytes replaced under an old mtime and the same size
//! are seen. Two things can escape it: writes through a shared mapping that is never synced, and a clock set back.

use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hasher};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use fs_err as fs;
use snapshot::Content;

#[cfg(test)]
mod tests;

/// Files modified within this time of being hashed are hashed again. Two seconds is the coarsest time stamp in use
/// (FAT), and covers a kernel clock that ticks behind the one that is read here.
const RACY: Duration = Duration::from_secs(2);

/// The most digests that are stored, least recently used first to go: 17 MiB on disk.
const LIMIT: usize = 200_000;

/// The first bytes of the file; a new layout gets a new number.
const MAGIC: &[u8; 16] = b"rbuild digests 3";
const HEADER: usize = MAGIC.len() + 4;
const TRAILER: usize = 32;

/// A record: a file's identity, the run that used it last, the digest of its bytes.
type Record = [u8; RECORD];
const RECORD: usize = IDENTITY + 4 + 32;
const IDENTITY: usize = 3 * 8 + 2 * 12;

/// A point in time, as a file system gives it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Stamp {
    pub(super) seconds: i64,
    pub(super) nanoseconds: u32,
}

/// The stat of a regular file as far as it tells one content from another.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Identity {
    pub(super) device: u64,
    pub(super) inode: u64,
    pub(super) size: u64,
    pub(super) mtime: Stamp,
    pub(super) ctime: Stamp,
}

impl Identity {
    fn file(&self) -> FileId {
        (self.device, self.inode)
    }

    fn encode(&self) -> [u8; IDENTITY] {
        let mut bytes = [0; IDENTITY];
        let (numbers, stamps) = bytes.split_at_mut(3 * 8);
        for (to, number) in numbers.chunks_mut(8).zip([self.device, self.inode, self.size]) {
            to.copy_from_slice(&number.to_le_bytes());
        }
        for (to, stamp) in stamps.chunks_mut(12).zip([self.mtime, self.ctime]) {
            to[..8].copy_from_slice(&stamp.seconds.to_le_bytes());
            to[8..].copy_from_slice(&stamp.nanoseconds.to_le_bytes());
        }
        bytes
    }
}

/// Device and inode: a file has one stat at a time, and an older one does not come back.
type FileId = (u64, u64);

/// Spreads numbers that are not chosen to collide: a context is the user's own.
#[derive(Debug, Default)]
struct Spread(u64);

impl Hasher for Spread {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.write_u64(u64::from(*byte));
        }
    }

    fn write_u64(&mut self, number: u64) {
        // The golden ratio, and the high half of the product onto the low one, which tables are indexed by.
        let product = (self.0 ^ number).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        self.0 = product ^ (product >> 32);
    }
}

/// Content digests by device, inode, size, mtime and ctime. Shared by all that read contexts in one process.
#[derive(Debug, Default)]
pub struct Memo {
    path: PathBuf,
    /// None before it is first asked: a build that reads no file of its context need not read the memo either.
    state: OnceLock<Mutex<State>>,
}

#[derive(Debug, Default)]
struct State {
    /// The file as it was read, and is searched: a table would have to be built of it first.
    file: Vec<u8>,
    /// Which of its records was found last: the files of a directory mostly follow one another.
    last: usize,
    learnt: HashMap<FileId, (Identity, Content), BuildHasherDefault<Spread>>,
    /// Counts the times that the memo was loaded.
    run: u32,
    /// Whether there is something to save.
    is_new: bool,
}

impl State {
    /// The file's records, by device and inode.
    fn records(&self) -> &[Record] {
        let records = self.file.get(HEADER..self.file.len().saturating_sub(TRAILER)).unwrap_or_default();
        records.as_chunks().0
    }

    fn find(&self, file: FileId) -> Option<usize> {
        let records = self.records();
        let is_there = |at: &usize| records.get(*at).is_some_and(|record| file_of(record) == file);
        let next = Some(self.last + 1).filter(is_there);
        next.or_else(|| records.binary_search_by_key(&file, file_of).ok())
    }

    fn recall(&mut self, identity: &Identity) -> Option<Content> {
        if let Some((learnt, content)) = self.learnt.get(&identity.file()) {
            return (learnt == identity).then_some(*content);
        }
        self.last = self.find(identity.file())?;
        let record = &mut self.file[HEADER + self.last * RECORD..][..RECORD];
        let (known, rest) = record.split_at_mut(IDENTITY);
        let (run, content) = rest.split_first_chunk_mut()?;
        if *known != identity.encode() {
            return None;
        }
        *run = self.run.to_le_bytes();
        content.as_array().copied().map(Content)
    }
}

impl Memo {
    /// The memo that is stored in `path`, which is read when it is first asked something. It is only a cache: a file that
    /// is missing, unreadable or damaged is an empty memo.
    pub fn at(path: &Path) -> Self {
        Self { path: path.to_owned(), state: OnceLock::new() }
    }

    /// Gives the bytes of the memo to `store`, which keeps them; does nothing when nothing was learnt. They need not be
    /// durable: torn ones fail their seal and are an empty memo.
    pub fn save<E>(&self, store: impl FnOnce(&[u8]) -> Result<(), E>) -> Result<(), E> {
        if self.state.get().is_none() {
            return Ok(());
        }
        let mut state = self.state();
        if state.is_new {
            store(&encode(&state))?;
            state.is_new = false;
        }
        Ok(())
    }

    /// The digest of the file with this stat, if it is known beyond doubt. Such a file has no extended attributes that
    /// belong in a layer: setting one sets the ctime.
    pub(super) fn recall(&self, identity: &Identity) -> Option<Content> {
        self.state().recall(identity)
    }

    /// Remembers the digest of a file without extended attributes whose stat was `identity` before and after it was
    /// read, unless the reading, which began at `hashed`, was too close to the last change.
    pub(super) fn learn(&self, identity: Identity, content: Content, hashed: SystemTime) {
        if is_racy(&identity, hashed) {
            return;
        }
        let mut state = self.state();
        state.learnt.insert(identity.file(), (identity, content));
        state.is_new = true;
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // Each change of the state is complete in itself: a panic elsewhere leaves nothing half done.
        self.state.get_or_init(|| Mutex::new(load(&self.path))).lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn load(path: &Path) -> State {
    let limit = (HEADER + LIMIT * RECORD + TRAILER) as u64;
    let small = fs::metadata(path).is_ok_and(|metadata| metadata.is_file() && metadata.len() <= limit);
    let bytes = if small { fs::read(path).unwrap_or_default() } else { Vec::new() };
    let mut state = decode(bytes).unwrap_or_default();
    state.run = state.run.saturating_add(1);
    state
}

/// Whether a file changed too shortly before it was hashed, or in the future.
pub(super) fn is_racy(identity: &Identity, hashed: SystemTime) -> bool {
    let Ok(hashed) = hashed.duration_since(UNIX_EPOCH) else { return true };
    let hashed = i128::try_from(hashed.as_nanos()).unwrap_or(i128::MAX);
    let margin = i128::try_from(RACY.as_nanos()).unwrap_or(i128::MAX);
    let changed = |stamp: Stamp| i128::from(stamp.seconds) * 1_000_000_000 + i128::from(stamp.nanoseconds);
    changed(identity.mtime).max(changed(identity.ctime)) >= hashed.saturating_sub(margin)
}

fn file_of(record: &Record) -> FileId {
    let number = |at: usize| record[at..].first_chunk().map_or(0, |bytes| u64::from_le_bytes(*bytes));
    (number(0), number(8))
}

fn run_of(record: &Record) -> u32 {
    record[IDENTITY..].first_chunk().map_or(0, |bytes| u32::from_le_bytes(*bytes))
}

/// Magic, run, records by device and inode, blake3 of all before; numbers are little-endian.
fn encode(state: &State) -> Vec<u8> {
    let learnt = state.learnt.values().map(|(identity, Content(content))| {
        let mut record = [0; RECORD];
        record[..IDENTITY].copy_from_slice(&identity.encode());
        record[IDENTITY..IDENTITY + 4].copy_from_slice(&state.run.to_le_bytes());
        record[IDENTITY + 4..].copy_from_slice(content);
        record
    });
    let stored = state.records().iter().filter(|record| !state.learnt.contains_key(&file_of(record)));
    let mut records: Vec<Record> = stored.copied().chain(learnt).collect();
    if records.len() > LIMIT {
        records.sort_unstable_by_key(|record| std::cmp::Reverse(run_of(record)));
        records.truncate(LIMIT);
    }
    records.sort_unstable_by_key(file_of);
    let mut bytes = Vec::with_capacity(HEADER + records.len() * RECORD + TRAILER);
    bytes.extend_from_slice(MAGIC);
    bytes.extend_from_slice(&state.run.to_le_bytes());
    bytes.extend_from_slice(records.as_flattened());
    let seal = blake3::hash(&bytes);
    bytes.extend_from_slice(seal.as_bytes());
    bytes
}

/// Takes what `encode` wrote; none when a byte of it is wrong.
fn decode(file: Vec<u8>) -> Option<State> {
    let (body, seal) = file.split_last_chunk::<TRAILER>()?;
    let (run, records) = body.strip_prefix(MAGIC)?.split_first_chunk()?;
    if blake3::hash(body) != *seal || records.len() % RECORD != 0 {
        return None;
    }
    let run = u32::from_le_bytes(*run);
    Some(State { file, run, ..State::default() })
}
