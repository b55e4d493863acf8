//! What a tree amounts to on disk. Nothing is followed, and neither depth nor length of paths is limited.

use std::collections::HashSet;
use std::ffi::OsString;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};

use rustix::fs::{AtFlags, CWD, FileType, Mode, OFlags, Stat};
use rustix::io::Errno;

use super::{Root, SAFE, names, open_directory, split};
use crate::Error;
use crate::threads::{LOOKING_MAX, on_cores};

/// How far down [`last_change`] walks before it shares what is below among threads: `usr/share/doc` of a distribution is
/// one share of some hundred.
const SHARED_FROM: usize = 2;

/// Fewer shares than this are walked sooner than a thread is started.
const SHARES_LEAST: usize = 16;

/// The sum of a tree.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Measure {
    /// Bytes of allocated blocks; a file with several names counts once.
    pub(crate) bytes: u64,
    /// When anything of it last changed (`ctime`, which no program can set): seconds and nanoseconds.
    pub(crate) changed: (i64, i64),
}

/// Measures a file or a whole tree; nothing where there is none.
pub(crate) fn measure(top: &Path) -> Result<Measure, Error> {
    let (parent, name) = split(top).ok_or_else(|| Error::NotDirectory { path: top.to_owned() })?;
    let parent = if parent.as_os_str().is_empty() { Path::new(".") } else { parent };
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let walked = rustix::fs::openat(CWD, parent, flags, Mode::empty()).and_then(|parent| {
        let mut walk = Walk::default();
        walk.trees(parent, vec![name.to_owned()])?;
        Ok(walk.sum)
    });
    match walked {
        Err(Errno::NOENT) => Ok(Measure::default()),
        other => other.map_err(Error::io("measure", top)),
    }
}

/// Finds when anything of the directory `top` last changed, as [`Measure::changed`] says it, on several threads: each
/// step of a build that is not cached waits for this of all layers below it.
pub(crate) fn last_change(top: &Path) -> Result<(i64, i64), Error> {
    let root = Root::open(top)?;
    latest(&root).map_err(Error::io("measure", top))
}

fn latest(root: &Root) -> Result<(i64, i64), Errno> {
    let mut upper = Walk::default();
    upper.add(&rustix::fs::fstat(root)?);
    let mut directories = vec![PathBuf::new()];
    for _ in 0..SHARED_FROM {
        for directory in std::mem::take(&mut directories) {
            let here = root.readable_directory(&directory)?;
            for name in names(here.as_fd())? {
                let status = rustix::fs::statat(&here, &name, AtFlags::SYMLINK_NOFOLLOW)?;
                upper.add(&status);
                if FileType::from_raw_mode(status.st_mode) == FileType::Directory {
                    directories.push(directory.join(name));
                }
            }
        }
    }
    let next = AtomicUsize::new(0);
    let work = || {
        let mut lower = Walk::default();
        while let Some(directory) = directories.get(next.fetch_add(1, Ordering::Relaxed)) {
            let here = root.readable_directory(directory)?;
            let names = names(here.as_fd())?;
            lower.trees(here, names)?;
        }
        Ok(lower.sum.changed)
    };
    let changed = on_cores(LOOKING_MAX.min(directories.len() / SHARES_LEAST), work);
    changed.into_iter().try_fold(upper.sum.changed, |latest, changed| Ok(latest.max(changed?)))
}

#[derive(Default)]
struct Walk {
    sum: Measure,
    /// Files with several names, by device and inode.
    links: HashSet<(u64, u64)>,
}

impl Walk {
    /// Adds the trees of these names in a directory.
    fn trees(&mut self, parent: OwnedFd, names_of: Vec<OsString>) -> Result<(), Errno> {
        let mut here = parent;
        // The names that are left in the directory and in those above it.
        let mut levels = vec![names_of];
        while let Some(level) = levels.last_mut() {
            let Some(name) = level.pop() else {
                levels.pop();
                if !levels.is_empty() {
                    here = rustix::fs::openat(&here, "..", OFlags::RDONLY | OFlags::DIRECTORY | SAFE, Mode::empty())?;
                }
                continue;
            };
            let status = match rustix::fs::statat(&here, &name, AtFlags::SYMLINK_NOFOLLOW) {
                // Others may be at work in what is no snapshot.
                Err(Errno::NOENT) => continue,
                other => other?,
            };
            self.add(&status);
            if FileType::from_raw_mode(status.st_mode) != FileType::Directory {
                continue;
            }
            let below = match open_directory(here.as_fd(), &name) {
                Err(Errno::NOENT) => continue,
                other => other?,
            };
            levels.push(names(below.as_fd())?);
            here = below;
        }
        Ok(())
    }

    fn add(&mut self, status: &Stat) {
        let changed = (status.st_ctime, status.st_ctime_nsec.cast_signed());
        self.sum.changed = self.sum.changed.max(changed);
        let directory = FileType::from_raw_mode(status.st_mode) == FileType::Directory;
        if directory || status.st_nlink < 2 || self.links.insert((status.st_dev, status.st_ino)) {
            self.sum.bytes += u64::try_from(status.st_blocks).unwrap_or(0) * 512;
        }
    }
}

#[cfg(test)]
mod tests;
