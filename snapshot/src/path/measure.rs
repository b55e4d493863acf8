//! What a tree amounts to on disk. Nothing is followed, and neither depth nor length of paths is limited.

use std::collections::HashSet;
use std::ffi::OsString;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use rustix::fs::{AtFlags, CWD, FileType, Mode, OFlags, Stat};
use rustix::io::Errno;

use super::{SAFE, names, open_directory, split};
use crate::Error;

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
        let mut walk = Walk { sum: Measure::default(), links: HashSet::new() };
        walk.tree(parent, name.to_owned())?;
        Ok(walk.sum)
    });
    match walked {
        Err(Errno::NOENT) => Ok(Measure::default()),
        other => other.map_err(Error::io("measure", top)),
    }
}

struct Walk {
    sum: Measure,
    /// Files with several names, by device and inode.
    links: HashSet<(u64, u64)>,
}

impl Walk {
    fn tree(&mut self, parent: OwnedFd, name: OsString) -> Result<(), Errno> {
        let mut here = parent;
        // The names that are left in the directory and in those above it.
        let mut levels = vec![vec![name]];
        while let Some(level) = levels.last_mut() {
            let Some(name) = level.pop() else {
                levels.pop();
                if levels.len() > 1 {
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
