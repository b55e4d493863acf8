//! A whole tree in one directory, for where no overlay can be mounted: layers are copied into it, steps change it in
//! place, and what a step changed is copied out again, as an overlay's upper directory would have it.
//!
//! One thing differs: a file with several names is one file, and a step that writes it writes all of them. An overlay
//! copies it up under the name that was used, and the other names keep the old one.

use std::collections::HashMap;
use std::ffi::OsStr;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, FileType};

use crate::diff::{describe, special};
use crate::entry::Kind;
use crate::path::{Root, names, open_regular};
use crate::tree::{Flavour, TreeWriter};
use crate::{Active, ChangeSink, Error, xattr};

mod changes;
mod states;
mod walk;

use states::States;

/// A tree that is written in place. Dropped, it is deleted.
#[derive(Debug)]
pub struct Whole {
    active: Active,
    /// How everything was when it was last looked at; none while layers are added.
    states: Option<States>,
}

impl Whole {
    /// An empty tree in the place of `active`.
    pub fn new(active: Active) -> Self {
        Self { active, states: None }
    }

    /// Returns its root.
    pub fn path(&self) -> &Path {
        self.active.upper()
    }

    /// Puts a layer on top: `layer` is the directory of a snapshot. Files are cloned where the file system can, and never
    /// linked, for a step may write them.
    pub fn push(&mut self, layer: &Path) -> Result<(), Error> {
        self.states = None;
        let mut push = Push { tree: TreeWriter::new(self.path(), Flavour::Plain)?, links: HashMap::new() };
        let root = Root::open(layer)?;
        let mut directories = vec![PathBuf::new()];
        while let Some(path) = directories.pop() {
            let directory = open(&root, &path)?;
            push.directory(&directory, if path.as_os_str().is_empty() { Path::new(".") } else { &path })?;
            for name in names(directory.as_fd()).map_err(Error::io("list directory", &path))? {
                directories.extend(push.visit(&directory, &name, path.join(&name))?);
            }
        }
        push.tree.finish()
    }

    /// Notes how everything is, before a step changes it.
    pub fn observe(&mut self) -> Result<(), Error> {
        let states = self.states.take().map_or_else(|| changes::read(self.path()), Ok)?;
        states.settle(self.path())?;
        self.states = Some(states);
        Ok(())
    }

    /// Copies what has changed since [`observe`](Self::observe) into the empty directory `upper`, as overlayfs would have
    /// left it there, and notes how everything is now.
    pub fn changes(&mut self, upper: &Path) -> Result<(), Error> {
        let before = self.states.take().unwrap_or_default();
        let (changes, after) = changes::find(self.path(), before)?;
        changes::copy(self.path(), &changes, TreeWriter::new(upper, self.active.flavour())?)?;
        self.states = Some(after);
        Ok(())
    }
}

/// Opens a directory of a tree; an error names it by its path there.
fn open(root: &Root, path: &Path) -> Result<OwnedFd, Error> {
    let shown = if path.as_os_str().is_empty() { root.path() } else { path };
    root.readable_directory(path).map_err(Error::io("open directory", shown))
}

/// A layer on its way into a tree.
struct Push {
    tree: TreeWriter,
    /// Files with several names in the layer, by inode.
    links: HashMap<u64, PathBuf>,
}

impl Push {
    /// Copies one name, unless it is that of a directory: then it is returned, to go on with.
    fn visit(&mut self, parent: &OwnedFd, name: &OsStr, path: PathBuf) -> Result<Option<PathBuf>, Error> {
        let status = rustix::fs::statat(parent, name, AtFlags::SYMLINK_NOFOLLOW);
        let status = status.map_err(Error::io("read the status of", &path))?;
        let kind = FileType::from_raw_mode(status.st_mode);
        if kind == FileType::Directory {
            return Ok(Some(path));
        }
        self.tree.clear(&path)?;
        if kind == FileType::CharacterDevice && status.st_rdev == 0 {
            return Ok(None);
        }
        if status.st_nlink > 1 {
            if let Some(first) = self.links.get(&status.st_ino) {
                self.tree.hard_link(&path, first)?;
                return Ok(None);
            }
            self.links.insert(status.st_ino, path.clone());
        }
        if kind == FileType::RegularFile {
            let file = open_regular(parent.as_fd(), name).map_err(Error::io("open", &path))?;
            let size = u64::try_from(status.st_size).unwrap_or(0);
            let source = xattr::Source::Open(file.as_fd());
            let (entry, _) = describe(&status, Kind::File { size }, source, &path)?;
            self.tree.copy_file(&path, &entry, &fs_err::File::from_parts(file, &path))?;
        } else {
            let entry = special(parent.as_fd(), name, &status, &path)?;
            self.tree.entry(&path, &entry, &mut io::empty())?;
        }
        Ok(None)
    }

    /// Merges a directory, or puts it in the place of all that is there when it is opaque.
    fn directory(&mut self, directory: &OwnedFd, path: &Path) -> Result<(), Error> {
        let status = rustix::fs::fstat(directory).map_err(Error::io("read the status of", path))?;
        let source = xattr::Source::Open(directory.as_fd());
        let (entry, overlay) = describe(&status, Kind::Directory, source, path)?;
        if path != Path::new(".") && overlay.get(&b"opaque"[..]).is_some_and(|mark| mark == b"y") {
            self.tree.clear(path)?;
        }
        self.tree.entry(path, &entry, &mut io::empty())
    }
}

#[cfg(test)]
mod tests;
