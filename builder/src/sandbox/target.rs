//! Places in the new root to mount on: found, or made and remembered.
//!
//! The image decides what is there. A path of it is walked one component at a time beneath a descriptor of the new
//! root, links are read and never followed by the kernel, and the mount goes onto the descriptor that results, so there
//! is no moment at which `/proc -> /somewhere` could be exchanged (CVE-2025-31133, CVE-2025-52565, CVE-2025-52881).

use std::collections::VecDeque;
use std::ffi::{OsStr, OsString};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStringExt;
use std::path::{Component, Path, PathBuf};

use rustix::fs::{
    AtFlags, FileType, Mode, OFlags, ResolveFlags, Statx, StatxFlags, fstat, fstatfs, mkdirat, openat2, statx,
};
use rustix::io::Errno;
use rustix::mount::{MoveMountFlags, move_mount};

use super::filesystem;
use super::spec::{Attempt, Directory, Failure, Made, State, Stub, Time};

/// As many links as the kernel follows in one path.
const LINKS: usize = 40;

/// What a mount point must be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Directory,
    File,
}

/// The new root, while it is furnished.
pub(super) struct Targets {
    root: OwnedFd,
    /// The upper directory, where it is not itself the root: what is there was not made by us.
    upper: Option<OwnedFd>,
    made: Made,
}

impl Targets {
    /// Takes the new root (which is the process's own by now) and its upper directory.
    pub(super) fn new(root: OwnedFd, upper: Option<OwnedFd>) -> Self {
        Self { root, upper, made: Made::default() }
    }

    /// Mounts the detached `mount` on `path`.
    pub(super) fn place(&mut self, mount: impl AsFd, path: &Path, kind: Kind) -> Result<(), Failure> {
        let (_, target) =
            self.find_or_make(path, kind).attempt(|| format!("make the mount point `{}`", path.display()))?;
        attach(mount, target).attempt(|| format!("mount on `{}`", path.display()))
    }

    /// Mounts what the step asked for. `/proc` and `/sys` are the sandbox's own: a mount in them could hide what protects
    /// them (CVE-2019-16884).
    pub(super) fn place_extra(&mut self, mount: impl AsFd, path: &Path, kind: Kind) -> Result<(), Failure> {
        let (at, target) =
            self.find_or_make(path, kind).attempt(|| format!("make the mount point `{}`", path.display()))?;
        if self.is_guarded(&at).attempt(|| format!("look at `{}`", path.display()))? {
            return Err(Failure::new(format!("mount in `/proc` or `/sys`, on `{}`,", path.display()), Errno::PERM));
        }
        attach(mount, target).attempt(|| format!("mount on `{}`", path.display()))
    }

    /// Tells whether a path that was found is in a procfs or sysfs; not from its own file system, which is that of a mask
    /// where it is masked.
    fn is_guarded(&self, at: &Path) -> Result<bool, Errno> {
        for ancestor in at.ancestors() {
            if filesystem::is_of_kernel(&fstatfs(open_beneath(&self.root, ancestor, ResolveFlags::empty())?)?) {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Finds or makes `path` to put something else in its place. Returns where it is, without links, and the directory
    /// that it is in, which is remembered as it is.
    pub(super) fn find(&mut self, path: &Path, kind: Kind) -> Result<(PathBuf, OwnedFd), Errno> {
        let (at, _) = self.find_or_make(path, kind)?;
        let parent = at.parent().unwrap_or(Path::new(""));
        self.remember(parent)?;
        let parent = self.open_directory(parent, ResolveFlags::empty())?;
        Ok((at, parent))
    }

    /// Finds `path` beneath the root and makes what is missing of it. Returns also where it is, without links.
    fn find_or_make(&mut self, path: &Path, kind: Kind) -> Result<(PathBuf, OwnedFd), Errno> {
        let mut queue = names(path);
        let mut at = PathBuf::new();
        let mut links = 0;
        while let Some(name) = queue.pop_front() {
            if name == ".." {
                at.pop();
                continue;
            }
            let next = at.join(&name);
            match self.look(&next) {
                Err(Errno::NOENT) => {
                    let directory = !queue.is_empty() || kind == Kind::Directory;
                    self.make(&at, &name, directory)?;
                    at = next;
                }
                Err(error) => return Err(error),
                Ok(found) if FileType::from_raw_mode(found.stx_mode.into()) == FileType::Symlink => {
                    links += 1;
                    if links > LINKS {
                        return Err(Errno::LOOP);
                    }
                    let to = self.read_link(&next)?;
                    if to.is_absolute() {
                        at.clear();
                    }
                    for name in names(&to).into_iter().rev() {
                        queue.push_front(name);
                    }
                }
                Ok(_) => at = next,
            }
        }
        if at.as_os_str().is_empty() {
            return Err(Errno::BUSY); // a mount on the root itself would be seen by nobody
        }
        let target = open_beneath(&self.root, &at, ResolveFlags::empty())?;
        let directory = FileType::from_raw_mode(fstat(&target)?.st_mode) == FileType::Directory;
        match (kind, directory) {
            (Kind::Directory, false) => Err(Errno::NOTDIR),
            (Kind::File, true) => Err(Errno::ISDIR),
            _ => Ok((at, target)),
        }
    }

    /// Ends the furnishing: tells what was made, and how the directories are now that the step begins.
    pub(super) fn finish(mut self) -> Result<Made, Failure> {
        for directory in &mut self.made.directories {
            let path = directory.path();
            let now = look_at(&self.root, &path).attempt(|| format!("look at `/{}`", path.display()))?;
            directory.begun = Some(State::from(&now));
        }
        Ok(self.made)
    }

    fn make(&mut self, parent: &Path, name: &OsStr, directory: bool) -> Result<(), Errno> {
        // A directory on another mount (`/dev/new`) is gone with that mount.
        let in_root = self.open_directory(parent, ResolveFlags::NO_XDEV);
        let opened = match in_root {
            Ok(opened) => {
                self.remember(parent)?;
                self.made.stubs.push(Stub::new(&parent.join(name), directory));
                opened
            }
            Err(Errno::XDEV) => self.open_directory(parent, ResolveFlags::empty())?,
            Err(error) => return Err(error),
        };
        if directory {
            mkdirat(&opened, name, Mode::from_raw_mode(0o755))
        } else {
            let flags = OFlags::CREATE | OFlags::EXCL | OFlags::WRONLY | OFlags::CLOEXEC | OFlags::NOFOLLOW;
            rustix::fs::openat(&opened, name, flags, Mode::from_raw_mode(0o644)).map(drop)
        }
    }

    /// Notes how `directory` and its ancestors are before a stub changes or copies them up.
    fn remember(&mut self, directory: &Path) -> Result<(), Errno> {
        let mut ancestors: Vec<&Path> = directory.ancestors().collect();
        ancestors.reverse();
        for path in ancestors {
            if self.made.directories.iter().any(|known| known.path() == path) {
                continue;
            }
            let ours = self.made.stubs.iter().any(|stub| stub.path() == path);
            let in_upper = !ours && self.upper.as_ref().is_none_or(|upper| look_at(upper, path).is_ok());
            let modified = Time::from(self.look(path)?.stx_mtime);
            self.made.directories.push(Directory::new(path, in_upper, modified));
        }
        Ok(())
    }

    fn look(&self, path: &Path) -> Result<Statx, Errno> {
        look_at(&self.root, path)
    }

    fn read_link(&self, path: &Path) -> Result<PathBuf, Errno> {
        let parent = self.open_directory(path.parent().unwrap_or(Path::new("")), ResolveFlags::empty())?;
        let name = path.file_name().unwrap_or_default();
        let to = rustix::fs::readlinkat(parent, name, Vec::new())?;
        Ok(PathBuf::from(OsString::from_vec(to.into_bytes())))
    }

    fn open_directory(&self, path: &Path, more: ResolveFlags) -> Result<OwnedFd, Errno> {
        let path = if path.as_os_str().is_empty() { Path::new(".") } else { path };
        let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_SYMLINKS | more;
        openat2(&self.root, path, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty(), resolve)
    }
}

/// Opens `path` beneath `root` to mount on or to look at: no component may be a link.
pub(super) fn open_beneath(root: impl AsFd, path: &Path, more: ResolveFlags) -> Result<OwnedFd, Errno> {
    let path = if path.as_os_str().is_empty() { Path::new(".") } else { path };
    let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_SYMLINKS | more;
    openat2(root, path, OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC, Mode::empty(), resolve)
}

/// Moves a detached mount onto what `target` is open on.
pub(super) fn attach(mount: impl AsFd, target: impl AsFd) -> Result<(), Errno> {
    let flags = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH | MoveMountFlags::MOVE_MOUNT_T_EMPTY_PATH;
    move_mount(mount, "", target, "", flags)
}

/// Looks at `path` beneath `root` without following a link, in its last component neither.
pub(super) fn look_at(root: impl AsFd, path: &Path) -> Result<Statx, Errno> {
    // `O_PATH | O_NOFOLLOW` opens a link itself, which `NO_SYMLINKS` refuses: so the parent is opened, and asked.
    let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else {
        return statx(root, "", AtFlags::EMPTY_PATH, StatxFlags::BASIC_STATS);
    };
    let parent = open_beneath(root, parent, ResolveFlags::empty())?;
    statx(parent, name, AtFlags::SYMLINK_NOFOLLOW, StatxFlags::BASIC_STATS)
}

/// The components of a path of the image; the root and `.` say nothing, because every path begins at the root.
fn names(path: &Path) -> VecDeque<OsString> {
    path.components()
        .filter_map(|component| match component {
            Component::Normal(name) => Some(name.to_owned()),
            Component::ParentDir => Some(OsString::from("..")),
            Component::CurDir | Component::RootDir | Component::Prefix(_) => None,
        })
        .collect()
}
