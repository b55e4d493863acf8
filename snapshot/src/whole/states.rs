//! How every file of a tree is, so far as its status tells.

use std::collections::HashMap;
use std::ffi::{OsStr, OsString};
use std::os::fd::BorrowedFd;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use rustix::fs::{AtFlags, FileType, Statx, StatxFlags, StatxTimestamp};
use rustix::io::Errno;

use crate::Error;

/// How far two changes may lie apart that have the same time: the tick of the slowest kernel.
const TICK: Duration = Duration::from_millis(10);

/// What tells whether a file is the one that it was, and as it was. The time of the last change alone cannot be set by a
/// program.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct State {
    inode: u64,
    born: Time,
    changed: Time,
    modified: Time,
    size: u64,
    mode: u16,
    owner: (u32, u32),
    pub(super) links: u32,
}

type Time = (i64, u32);

/// Whether a change always gets another time than the one that was looked at last, however soon it comes ("multigrain
/// timestamps", Linux 6.13). Tried on `directory` itself, whose mode is set to what it is: where times go by ticks, some
/// changes in a row have the same.
fn is_precise(directory: &Path) -> Result<bool, Errno> {
    const ATTEMPTS: u32 = 4;
    let mut last = None;
    for _ in 0..ATTEMPTS {
        let found = rustix::fs::statx(rustix::fs::CWD, directory, AtFlags::empty(), StatxFlags::BASIC_STATS)?;
        let changed = (found.stx_ctime.tv_sec, found.stx_ctime.tv_nsec);
        if last.replace(changed) == Some(changed) {
            return Ok(false);
        }
        rustix::fs::chmod(directory, rustix::fs::Mode::from_raw_mode(u32::from(found.stx_mode) & 0o7777))?;
    }
    Ok(true)
}

impl State {
    /// Looks at `name` in an open directory.
    pub(super) fn of(directory: BorrowedFd<'_>, name: &OsStr) -> Result<Self, Errno> {
        let wanted = StatxFlags::BASIC_STATS | StatxFlags::BTIME;
        let found = rustix::fs::statx(directory, name, AtFlags::SYMLINK_NOFOLLOW, wanted)?;
        Ok(Self::from(&found))
    }

    pub(super) fn is_directory(&self) -> bool {
        FileType::from_raw_mode(self.mode.into()) == FileType::Directory
    }

    /// Whether it is the very same file, whatever it holds. Inode numbers are used again, together with the time of birth
    /// they are not.
    pub(super) fn is_same_file(&self, other: &Self) -> bool {
        (self.inode, self.born) == (other.inode, other.born)
    }

    /// Whether nothing but its number of names has changed.
    pub(super) fn is_relinked(&self, before: &Self) -> bool {
        let alike = Self { links: before.links, changed: before.changed, ..*self };
        alike == *before && self.links != before.links
    }

    /// Which file it is, among those of one tree.
    pub(super) fn inode(&self) -> u64 {
        self.inode
    }
}

impl From<&Statx> for State {
    fn from(found: &Statx) -> Self {
        let time = |time: StatxTimestamp| (time.tv_sec, time.tv_nsec);
        Self {
            inode: found.stx_ino,
            born: time(found.stx_btime),
            changed: time(found.stx_ctime),
            modified: time(found.stx_mtime),
            size: found.stx_size,
            mode: found.stx_mode,
            owner: (found.stx_uid, found.stx_gid),
            links: found.stx_nlink,
        }
    }
}

/// The names in a directory, sorted, each with its state.
pub(super) type Names = Vec<(OsString, State)>;

/// The states of all files of a tree.
#[derive(Debug, Default)]
pub(super) struct States {
    directories: HashMap<PathBuf, Names>,
    /// The time of the last change.
    latest: Time,
}

impl States {
    /// Waits until another change has another time than the last one, in a tree whose root is `root`.
    pub(super) fn settle(&self, root: &Path) -> Result<(), Error> {
        if is_precise(root).map_err(Error::io("try the times of changes in", root))? {
            return Ok(());
        }
        let latest = Duration::new(u64::try_from(self.latest.0).unwrap_or(0), self.latest.1);
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        // What lies in the future was changed under another clock.
        std::thread::sleep((latest + TICK).saturating_sub(now).min(TICK));
        Ok(())
    }

    pub(super) fn insert(&mut self, directory: PathBuf, names: Names) {
        let latest = names.iter().map(|(_, state)| state.changed).max();
        self.latest = self.latest.max(latest.unwrap_or_default());
        self.directories.insert(directory, names);
    }

    /// Takes what is known of a directory.
    pub(super) fn take(&mut self, directory: &Path) -> Names {
        self.directories.remove(directory).unwrap_or_default()
    }
}
