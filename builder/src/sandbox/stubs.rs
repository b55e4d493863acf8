//! Takes the mount points that the image does not have out of the upper directory, so that a step that changes nothing
//! leaves nothing.
//!
//! Runs in rbuild, after everything of the step is dead and its mounts are gone. The init's account of what it made is
//! not trusted: only empty things go, and only beneath the upper directory.

use std::ffi::OsStr;
use std::os::fd::OwnedFd;
use std::path::Path;

use rustix::fs::{
    AtFlags, CWD, FileType, Mode, OFlags, ResolveFlags, StatxFlags, Timespec, Timestamps, UTIME_OMIT, openat, statx,
    unlinkat, utimensat,
};
use rustix::io::Errno;

use super::error::SandboxError;
use super::spec::{Directory, Made, State, Time};
use super::target::{look_at, open_beneath};

/// Tells how the step left the directories that `made` names; nothing of those that are none any more.
pub(super) fn look(upper: &Path, made: &Made) -> Result<Vec<Option<State>>, SandboxError> {
    let root = open(upper)?;
    Ok(made.directories.iter().map(|directory| state(&root, directory)).collect())
}

/// Removes what `made` names from `upper`, and gives the directories around it the times again that they have but for
/// that: `ended` is how the step left them.
pub(super) fn remove(upper: &Path, made: &Made, ended: &[Option<State>]) -> Result<(), SandboxError> {
    let root = open(upper)?;
    for stub in made.stubs.iter().rev() {
        let path = stub.path();
        if made.directories.iter().any(|directory| directory.path() == path) {
            continue; // not a mount point but on the way to one: a step can have touched it
        }
        unless_gone(remove_empty(&root, &path, stub.directory).map(drop)).map_err(|error| fail(&path, error))?;
    }
    for (directory, ended) in made.directories.iter().zip(ended).rev() {
        let Some(ended) = ended else { continue };
        let path = directory.path();
        unless_gone(restore(&root, directory, *ended)).map_err(|error| fail(&path, error))?;
    }
    Ok(())
}

fn open(upper: &Path) -> Result<OwnedFd, SandboxError> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    openat(CWD, upper, flags, Mode::empty()).map_err(|error| fail(upper, error))
}

fn fail(path: &Path, error: Errno) -> SandboxError {
    SandboxError::Stub { path: path.to_owned(), source: error.into() }
}

/// How the step left `directory`; nothing where it is no directory of the upper any more.
fn state(root: &OwnedFd, directory: &Directory) -> Option<State> {
    let found = look_at(root, &directory.path()).ok()?;
    (FileType::from_raw_mode(found.stx_mode.into()) == FileType::Directory).then(|| State::from(&found))
}

/// Removes `directory` if it is here only because of a stub and nobody touched it; else sets its modification time to
/// what it would be without the stubs.
fn restore(root: &OwnedFd, directory: &Directory, ended: State) -> Result<(), Errno> {
    let path = directory.path();
    let touched = directory.begun != Some(ended);
    if !touched && !directory.in_upper && remove_empty(root, &path, true)? {
        return Ok(());
    }
    let dated = directory.begun.is_none_or(|begun| begun.modified != ended.modified);
    set_modified(root, &path, if dated { ended.modified } else { directory.modified })
}

/// Tells whether `path` was empty, and is gone. What is not empty is the step's own by now.
fn remove_empty(root: &OwnedFd, path: &Path, directory: bool) -> Result<bool, Errno> {
    let (parent, name) = parent(root, path)?;
    if directory {
        return match unlinkat(&parent, name, AtFlags::REMOVEDIR) {
            Err(Errno::NOTEMPTY | Errno::NOTDIR) => Ok(false),
            result => result.map(|()| true),
        };
    }
    let found = statx(&parent, name, AtFlags::SYMLINK_NOFOLLOW, StatxFlags::BASIC_STATS)?;
    if FileType::from_raw_mode(found.stx_mode.into()) != FileType::RegularFile || found.stx_size != 0 {
        return Ok(false);
    }
    unlinkat(&parent, name, AtFlags::empty()).map(|()| true)
}

fn set_modified(root: &OwnedFd, path: &Path, time: Time) -> Result<(), Errno> {
    let times = Timestamps {
        last_access: Timespec { tv_sec: 0, tv_nsec: UTIME_OMIT },
        last_modification: Timespec { tv_sec: time.seconds, tv_nsec: time.nanoseconds.into() },
    };
    if path.as_os_str().is_empty() {
        return utimensat(root, ".", &times, AtFlags::SYMLINK_NOFOLLOW);
    }
    let (parent, name) = parent(root, path)?;
    utimensat(parent, name, &times, AtFlags::SYMLINK_NOFOLLOW)
}

fn parent<'a>(root: &OwnedFd, path: &'a Path) -> Result<(OwnedFd, &'a OsStr), Errno> {
    let name = path.file_name().ok_or(Errno::INVAL)?;
    let parent = open_beneath(root, path.parent().unwrap_or(Path::new("")), ResolveFlags::empty())?;
    Ok((parent, name))
}

/// What the step moved away is not there to be removed.
fn unless_gone(result: Result<(), Errno>) -> Result<(), Errno> {
    match result {
        Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => Ok(()),
        result => result,
    }
}
