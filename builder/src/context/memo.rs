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
const MAGIC: &[u8; 16] = b"rbuild digests 2";
const HEADER: usize = MAGIC.len() + 4;
const RECORD: usize = 3 * 8 + 2 * 12 + 4 + 32;
const TRAILER: usize = 32;

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

#[derive(Debug, Clone, Copy)]
struct Remembered {
    identity: Identity,
    content: Content,
    /// The run that used it last.
    run: u32,
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
    remembered: HashMap<FileId, Remembered, BuildHasherDefault<Spread>>,
    /// Counts the times that the memo was loaded.
    run: u32,
    /// Whether there is something to save.
    learnt: bool,
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
        if state.learnt {
            store(&encode(&state))?;
            state.learnt = false;
        }
        Ok(())
    }

    /// The digest of the file with this stat, if it is known beyond doubt. Such a file has no extended attributes that
    /// belong in a layer: setting one sets the ctime.
    pub(super) fn recall(&self, identity: &Identity) -> Option<Content> {
        let mut state = self.state();
        let run = state.run;
        let remembered = state.remembered.get_mut(&identity.file()).filter(|known| known.identity == *identity)?;
        remembered.run = run;
        Some(remembered.content)
    }

    /// Remembers the digest of a file without extended attributes whose stat was `identity` before and after it was
    /// read, unless the reading, which began at `hashed`, was too close to the last change.
    pub(super) fn learn(&self, identity: Identity, content: Content, hashed: SystemTime) {
        if is_racy(&identity, hashed) {
            return;
        }
        let mut state = self.state();
        let remembered = Remembered { identity, content, run: state.run };
        state.remembered.insert(identity.file(), remembered);
        state.learnt = true;
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
    let mut state = decode(&bytes).unwrap_or_default();
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

/// Magic, run, records, blake3 of all before; numbers are little-endian.
fn encode(state: &State) -> Vec<u8> {
    let mut records: Vec<&Remembered> = state.remembered.values().collect();
    if records.len() > LIMIT {
        records.sort_unstable_by_key(|remembered| std::cmp::Reverse(remembered.run));
        records.truncate(LIMIT);
    }
    let mut bytes = Vec::with_capacity(HEADER + records.len() * RECORD + TRAILER);
    bytes.extend_from_slice(MAGIC);
    bytes.extend_from_slice(&state.run.to_le_bytes());
    for Remembered { identity, content, run } in records {
        for number in [identity.device, identity.inode, identity.size] {
            bytes.extend_from_slice(&number.to_le_bytes());
        }
        for stamp in [identity.mtime, identity.ctime] {
            bytes.extend_from_slice(&stamp.seconds.to_le_bytes());
            bytes.extend_from_slice(&stamp.nanoseconds.to_le_bytes());
        }
        bytes.extend_from_slice(&run.to_le_bytes());
        bytes.extend_from_slice(&content.0);
    }
    let seal = blake3::hash(&bytes);
    bytes.extend_from_slice(seal.as_bytes());
    bytes
}

/// Reads what `encode` wrote; none when a byte of it is wrong.
fn decode(bytes: &[u8]) -> Option<State> {
    let (body, seal) = bytes.split_last_chunk::<TRAILER>()?;
    if blake3::hash(body) != *seal {
        return None;
    }
    let mut rest = body.strip_prefix(MAGIC)?;
    let run = u32::from_le_bytes(take(&mut rest)?);
    let mut remembered = HashMap::with_capacity_and_hasher(rest.len() / RECORD, BuildHasherDefault::default());
    while !rest.is_empty() {
        let identity = Identity {
            device: u64::from_le_bytes(take(&mut rest)?),
            inode: u64::from_le_bytes(take(&mut rest)?),
            size: u64::from_le_bytes(take(&mut rest)?),
            mtime: take_stamp(&mut rest)?,
            ctime: take_stamp(&mut rest)?,
        };
        let run = u32::from_le_bytes(take(&mut rest)?);
        remembered.insert(identity.file(), Remembered { identity, content: Content(take(&mut rest)?), run });
    }
    Some(State { remembered, run, learnt: false })
}

fn take<const N: usize>(rest: &mut &[u8]) -> Option<[u8; N]> {
    let (head, tail) = rest.split_first_chunk::<N>()?;
    *rest = tail;
    Some(*head)
}

fn take_stamp(rest: &mut &[u8]) -> Option<Stamp> {
    Some(Stamp { seconds: i64::from_le_bytes(take(rest)?), nanoseconds: u32::from_le_bytes(take(rest)?) })
}
