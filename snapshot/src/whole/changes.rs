//! What a step changed in a tree: found by the states of files, and copied out.

use std::collections::{HashMap, HashSet};
use std::ffi::{OsStr, OsString};
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use rustix::fs::{AtFlags, FileType, Stat};

use super::states::{Names, State, States};
use super::walk::walk;
use crate::diff::{describe, special};
use crate::entry::Kind;
use crate::path::{Root, names, open_regular, split};
use crate::{ChangeSink, Error, TreeWriter, xattr};

/// One path that is not what it was.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Change {
    /// A directory is new or has another status; with `opaque` it stands where another directory was.
    Directory { path: PathBuf, opaque: bool },
    /// Anything else is new or has another status.
    File { path: PathBuf },
    /// There is nothing any more.
    Gone { path: PathBuf },
}

/// A change, as a look at one directory finds it.
struct Found {
    change: Change,
    /// The inode of a file of which nothing has changed but how many names it has.
    relinked: Option<u64>,
}

/// Looks at everything in the tree.
pub(super) fn read(root: &Path) -> Result<States, Error> {
    let mut states = States::default();
    for Looked { path, names, .. } in look_at_all(root, States::default())? {
        states.insert(path, names);
    }
    Ok(states)
}

/// Compares the tree with how it was; returns the changes, parents first, and how it is now. What it passes on as changed
/// may be equal to what was there: only the status was asked.
pub(super) fn find(root: &Path, before: States) -> Result<(Vec<Change>, States), Error> {
    let (mut all, mut after) = (Vec::new(), States::default());
    for Looked { path, names, found } in look_at_all(root, before)? {
        after.insert(path, names);
        all.extend(found);
    }
    Ok((without_relinked(all), after))
}

fn look_at_all(root: &Path, before: States) -> Result<Vec<Looked>, Error> {
    let before = Mutex::new(before);
    walk(&Root::open(root)?, Known::ButChanged, |directory, path, known| {
        let before = match known {
            Known::Nothing => Names::new(),
            _ => before.lock().unwrap_or_else(PoisonError::into_inner).take(&path),
        };
        look(directory, path, known, before)
    })
}

/// Leaves out the changes that are none: a file of many names got another one or lost one, which changes the status of all.
/// Where it had a single name before, overlayfs would have copied that with the new one.
fn without_relinked(all: Vec<Found>) -> Vec<Change> {
    let mut names: HashMap<u64, u32> = HashMap::new();
    for inode in all.iter().filter_map(|found| found.relinked) {
        *names.entry(inode).or_default() += 1;
    }
    let is_one = |found: &Found| found.relinked.is_none_or(|inode| names[&inode] == 1);
    all.into_iter().filter(is_one).map(|found| found.change).collect()
}

/// What is known of a directory that is looked at.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Known {
    /// It was there and its status has not changed, so its names are what they were.
    ByItsNames,
    /// It was there.
    ButChanged,
    /// It is new, and so is everything in it.
    Nothing,
}

/// A directory that was looked at.
struct Looked {
    path: PathBuf,
    names: Names,
    found: Vec<Found>,
}

/// Looks at a directory that had the names `before`; returns the directories in it, too.
fn look(
    directory: &OwnedFd,
    path: PathBuf,
    known: Known,
    before: Names,
) -> Result<(Looked, Vec<(PathBuf, Known)>), Error> {
    let mut found = Vec::new();
    let with_states: Vec<(OsString, Option<State>)> = if known == Known::ByItsNames {
        before.into_iter().map(|(name, state)| (name, Some(state))).collect()
    } else {
        let names = names(directory.as_fd()).map_err(Error::io("list directory", &path))?;
        let gone = before.iter().filter(|(name, _)| names.binary_search(name).is_err());
        found.extend(gone.map(|(name, _)| Found { change: Change::Gone { path: path.join(name) }, relinked: None }));
        let state = |name: &OsString| before.binary_search_by(|(other, _)| other.cmp(name)).ok();
        let with_state = |name| (state(&name).map(|at| before[at].1), name);
        names.into_iter().map(with_state).map(|(state, name)| (name, state)).collect()
    };
    let (mut names, mut below) = (Names::with_capacity(with_states.len()), Vec::new());
    for (name, before) in with_states {
        let at = || path.join(&name);
        let state = State::of(directory.as_fd(), &name);
        let state = state.map_err(|error| Error::io("read the status of", &at())(error))?;
        let changed = before != Some(state);
        if state.is_directory() {
            let before = before.filter(State::is_directory);
            let opaque = before.is_some_and(|before| !before.is_same_file(&state));
            if changed {
                found.push(Found { change: Change::Directory { path: at(), opaque }, relinked: None });
            }
            let known = match before {
                None => Known::Nothing,
                Some(_) if opaque => Known::Nothing,
                Some(_) if changed => Known::ButChanged,
                Some(_) => Known::ByItsNames,
            };
            below.push((at(), known));
        } else if changed {
            let relinked = state.links > 1 && before.is_some_and(|before| state.is_relinked(&before));
            found.push(Found { change: Change::File { path: at() }, relinked: relinked.then(|| state.inode()) });
        }
        names.push((name, state));
    }
    Ok((Looked { path, names, found }, below))
}

/// Copies changes of the tree at `root` into an upper directory.
pub(super) fn copy(root: &Path, changes: &[Change], upper: TreeWriter) -> Result<(), Error> {
    let root = Root::open(root)?;
    let mut copy = Copy { root: &root, upper, described: HashSet::new(), links: HashMap::new() };
    copy.directory(Path::new("."))?;
    for change in changes {
        match change {
            Change::Directory { path, opaque } => {
                copy.ancestors(path)?;
                copy.directory(path)?;
                if *opaque {
                    copy.upper.opaque(path)?;
                }
            }
            Change::File { path } => {
                copy.ancestors(path)?;
                copy.file(path)?;
            }
            Change::Gone { path } => {
                copy.ancestors(path)?;
                copy.upper.whiteout(path)?;
            }
        }
    }
    copy.upper.finish()
}

struct Copy<'a> {
    root: &'a Root,
    upper: TreeWriter,
    /// The directories that the upper directory has.
    described: HashSet<PathBuf>,
    /// Files with several names, by inode.
    links: HashMap<u64, PathBuf>,
}

impl Copy<'_> {
    /// Copies the directories above a change, as overlayfs does.
    fn ancestors(&mut self, path: &Path) -> Result<(), Error> {
        let above: Vec<&Path> = path
            .ancestors()
            .skip(1)
            .take_while(|above| !above.as_os_str().is_empty() && !self.described.contains(*above))
            .collect();
        above.into_iter().rev().try_for_each(|directory| self.directory(directory))
    }

    fn directory(&mut self, path: &Path) -> Result<(), Error> {
        if !self.described.insert(path.to_owned()) {
            return Ok(());
        }
        let directory = self.root.readable_directory(path).map_err(Error::io("open directory", path))?;
        let status = rustix::fs::fstat(&directory).map_err(Error::io("read the status of", path))?;
        let source = xattr::Source::Open(directory.as_fd());
        let (entry, _) = describe(&status, Kind::Directory, source, path)?;
        self.upper.entry(path, &entry, &mut io::empty())
    }

    fn file(&mut self, path: &Path) -> Result<(), Error> {
        let (parent, name) = split(path).ok_or_else(|| Error::NotDirectory { path: path.to_owned() })?;
        let directory = self.root.directory(parent).map_err(Error::io("open directory", parent))?;
        let status = rustix::fs::statat(&directory, name, AtFlags::SYMLINK_NOFOLLOW);
        let status = status.map_err(Error::io("read the status of", path))?;
        if status.st_nlink > 1 {
            if let Some(first) = self.links.get(&status.st_ino) {
                return self.upper.hard_link(path, first);
            }
            self.links.insert(status.st_ino, path.to_owned());
        }
        match FileType::from_raw_mode(status.st_mode) {
            FileType::RegularFile => self.regular(&directory, name, path, &status),
            FileType::Socket => Ok(()),
            _ => {
                let entry = special(directory.as_fd(), name, &status, path)?;
                self.upper.entry(path, &entry, &mut io::empty())
            }
        }
    }

    fn regular(&mut self, directory: &OwnedFd, name: &OsStr, path: &Path, status: &Stat) -> Result<(), Error> {
        let file = open_regular(directory.as_fd(), name).map_err(Error::io("open", path))?;
        let size = u64::try_from(status.st_size).unwrap_or(0);
        let (entry, _) = describe(status, Kind::File { size }, xattr::Source::Open(file.as_fd()), path)?;
        self.upper.copy_file(path, &entry, &fs_err::File::from_parts(file, path))
    }
}
