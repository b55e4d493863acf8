//! The mounts that a step asked for, as detached mounts: gathered before the move into the root, placed after it.

use std::ffi::OsString;
use std::fs::File;
use std::io::Write;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::fs::{
    CWD, FileType, Gid, Mode, OFlags, ResolveFlags, Uid, XattrFlags, fchmod, fchown, fsetxattr, fstat, mkdirat, openat,
    openat2,
};
use rustix::io::Errno;
use rustix::mount::{MountAttrFlags, OpenTreeFlags, open_tree};
use snapshot::owner::{self, Owner};

use super::describe::Content;
use super::filesystem::{self, NODEV, NOEXEC, NOSUID, READ_ONLY};
use super::rootfs::{clone_flags, mount_layers, open_directory};
use super::spec::{Attempt, ExtraMount, Failure, Spec};
use super::system;
use super::target::{Kind, open_beneath};

/// What a page of memory takes; every file begins one.
const PAGE: u64 = 4096;

/// A detached mount and where it goes.
pub(super) struct Extra {
    pub(super) mount: OwnedFd,
    pub(super) target: PathBuf,
    pub(super) kind: Kind,
}

/// How many bytes of memory the files among `mounts` take.
pub(super) fn size_in_memory(mounts: &[ExtraMount]) -> u64 {
    let size = |mount: &ExtraMount| match mount {
        ExtraMount::File { content, .. } => content.0.len() as u64 + PAGE,
        ExtraMount::Bind { .. } | ExtraMount::Tmpfs { .. } | ExtraMount::Layers { .. } => PAGE,
    };
    mounts.iter().map(size).sum()
}

/// Makes all mounts. `scratch` is an attached file system that is not seen by anybody else.
pub(super) fn gather(spec: &Spec, scratch: &OwnedFd) -> Result<Vec<Extra>, Failure> {
    let gather = |(number, mount)| {
        gather_one(
            mount,
            &Place { scratch, number, user_xattr: spec.ground.user_xattr, emulated: spec.ground.emulation.is_some() },
        )
    };
    spec.mounts.iter().enumerate().map(gather).collect()
}

/// Where a mount can leave what it needs, under names of its own.
struct Place<'a> {
    scratch: &'a OwnedFd,
    number: usize,
    user_xattr: bool,
    emulated: bool,
}

impl Place<'_> {
    fn name(&self, what: &str) -> String {
        format!("{what}-{}", self.number)
    }

    fn directory(&self, what: &str) -> Result<OwnedFd, Errno> {
        let name = self.name(what);
        mkdirat(self.scratch, &name, Mode::from_raw_mode(0o755))?;
        openat(self.scratch, &name, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())
    }
}

fn gather_one(mount: &ExtraMount, place: &Place<'_>) -> Result<Extra, Failure> {
    match mount {
        ExtraMount::Bind { source, target, readonly } => {
            let path = Path::new(source);
            let attributes = if *readonly { NODEV | READ_ONLY } else { NODEV };
            let (mount, kind) = bind(path, attributes).attempt(|| format!("bind `{}`", path.display()))?;
            Ok(Extra { mount, target: target.into(), kind })
        }
        ExtraMount::Tmpfs { target, size, readonly } => {
            let size = size.map(|bytes| bytes.to_string());
            let mut options = vec![("mode", "1777")];
            options.extend(size.as_deref().map(|size| ("size", size)));
            let attributes = if *readonly { NOSUID | NODEV | READ_ONLY } else { NOSUID | NODEV };
            let mount = filesystem::new("tmpfs", &options, attributes)
                .attempt(|| format!("make a tmpfs for `{}`", Path::new(target).display()))?;
            Ok(Extra { mount, target: target.into(), kind: Kind::Directory })
        }
        ExtraMount::Layers { lowers, writes, source, target } => {
            let root = stack(lowers, writes.as_ref(), place)?;
            let attributes = if writes.is_some() { NODEV } else { NODEV | READ_ONLY };
            let (mount, kind) = part(&root, Path::new(source), attributes)
                .attempt(|| format!("bind `{}` of a tree of layers", Path::new(source).display()))?;
            Ok(Extra { mount, target: target.into(), kind })
        }
        ExtraMount::File { content, target, mode, uid, gid } => {
            let mount = file(place, content, *mode, (*uid, *gid))
                .attempt(|| format!("make the file `{}`", Path::new(target).display()))?;
            Ok(Extra { mount, target: target.into(), kind: Kind::File })
        }
    }
}

fn bind(source: &Path, attributes: MountAttrFlags) -> std::io::Result<(OwnedFd, Kind)> {
    let resolve = ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
    let opened = openat2(CWD, source, OFlags::PATH | OFlags::CLOEXEC, Mode::empty(), resolve)?;
    copy(&opened, attributes)
}

/// A mount of what is at `path` beneath the root of a tree. No link of the tree is followed, nor `..` above its root
/// (CVE-2024-23652).
fn part(root: &OwnedFd, path: &Path, attributes: MountAttrFlags) -> std::io::Result<(OwnedFd, Kind)> {
    copy(&open_beneath(root, path, ResolveFlags::NO_XDEV)?, attributes)
}

fn copy(opened: &OwnedFd, attributes: MountAttrFlags) -> std::io::Result<(OwnedFd, Kind)> {
    let directory = FileType::from_raw_mode(fstat(opened)?.st_mode) == FileType::Directory;
    let copy = open_tree(opened, "", clone_flags() | OpenTreeFlags::AT_RECURSIVE)?;
    system::restrict_mounts(&copy, attributes.bits().into())?;
    Ok((copy, if directory { Kind::Directory } else { Kind::File }))
}

/// Mounts layers as one tree, where only this process sees it.
fn stack(lowers: &[OsString], writes: Option<&[OsString; 2]>, place: &Place<'_>) -> Result<OwnedFd, Failure> {
    let mut opened = lowers.iter().map(|lower| open_directory(lower)).collect::<Result<Vec<_>, _>>()?;
    let empty = |what: &str| place.directory(what).attempt(|| "make an empty directory".to_owned());
    for name in ["empty", "void"] {
        if opened.len() < 2 {
            opened.push(empty(name)?);
        }
    }
    empty("tree")?;
    let path = format!("/proc/self/fd/{}/{}", place.scratch.as_raw_fd(), place.name("tree"));
    mount_layers(opened, writes, place.user_xattr, Path::new(&path))
}

fn file(place: &Place<'_>, content: &Content, mode: u32, owner: (u32, u32)) -> std::io::Result<OwnedFd> {
    let name = place.name("file");
    let flags = OFlags::CREATE | OFlags::EXCL | OFlags::WRONLY | OFlags::CLOEXEC;
    let mut file = File::from(openat(place.scratch, &name, flags, Mode::RUSR | Mode::WUSR)?);
    file.write_all(&content.0)?;
    if place.emulated {
        let owner = Owner { uid: owner.0, gid: owner.1, device: None };
        match fsetxattr(&file, owner::ATTRIBUTE, owner.to_text().as_bytes(), XattrFlags::empty()) {
            Err(Errno::NOTSUP) => {} // before Linux 6.6 a tmpfs has none; who may read it is not enforced anyway
            result => result?,
        }
    } else {
        fchown(&file, Some(Uid::from_raw(owner.0)), Some(Gid::from_raw(owner.1)))?;
    }
    fchmod(&file, Mode::from_raw_mode(mode))?;
    // Closed before it is run: the kernel executes nothing that is open for writing.
    drop(file);
    let copy = open_tree(place.scratch.as_fd(), &name, clone_flags())?;
    let executable = mode & 0o111 != 0;
    let attributes = READ_ONLY | NOSUID | NODEV | if executable { MountAttrFlags::empty() } else { NOEXEC };
    system::restrict_mounts(&copy, attributes.bits().into())?;
    Ok(copy)
}
