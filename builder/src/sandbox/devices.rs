//! `/dev` of a step.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use rustix::fs::{AtFlags, CWD, FileType, Mode, OFlags, ResolveFlags, makedev, mkdirat, mknodat, openat, symlinkat};
use rustix::io::Errno;
use rustix::mount::open_tree;

use super::filesystem::{self, NODEV, NOEXEC, NOSUID, READ_ONLY};
use super::rootfs::clone_flags;
use super::spec::{Attempt, Failure};
use super::system;
use super::target::{attach, open_beneath};

/// Name, major and minor number (Linux, Documentation/admin-guide/devices.txt).
const DEVICES: &[(&str, u32, u32)] =
    &[("null", 1, 3), ("zero", 1, 5), ("full", 1, 7), ("random", 1, 8), ("urandom", 1, 9), ("tty", 5, 0)];

const LINKS: &[(&str, &str)] = &[
    ("fd", "/proc/self/fd"),
    ("stdin", "/proc/self/fd/0"),
    ("stdout", "/proc/self/fd/1"),
    ("stderr", "/proc/self/fd/2"),
    ("ptmx", "pts/ptmx"),
];

/// The host's node. Read-only: a device is written all the same, but its owner and mode are not, which root of a
/// namespace may do that maps every id to itself.
fn of_host(name: &str) -> io::Result<OwnedFd> {
    let copy = open_tree(CWD, Path::new("/dev").join(name), clone_flags())?;
    system::restrict_mounts(&copy, (READ_ONLY | NOSUID).bits().into())?;
    Ok(copy)
}

/// Whether a step finds this device in its `/dev`.
pub(super) fn is_known(name: &str) -> bool {
    DEVICES.iter().any(|(known, ..)| *known == name)
}

/// Makes the content of `/dev` in the directory `dev`, where nothing can be mounted: nodes, links, and directories that
/// are as empty as those of the step's own file systems would be. Where no node can be made there are empty files, in
/// whose place a step is shown the container's devices.
pub(super) fn make(dev: &OwnedFd) -> Result<(), Failure> {
    let mode = |name: &str, mode: u32| rustix::fs::chmodat(dev, name, Mode::from_raw_mode(mode), AtFlags::empty());
    for &(name, major, minor) in DEVICES {
        let node = mknodat(dev, name, FileType::CharacterDevice, Mode::empty(), makedev(major, minor));
        node.or_else(|error| if error == Errno::PERM { empty_file(dev, name) } else { Err(error) })
            .and_then(|()| mode(name, 0o666))
            .attempt(|| format!("make the device `/dev/{name}`"))?;
    }
    for (name, to) in LINKS {
        symlinkat(*to, dev, *name).attempt(|| format!("link `/dev/{name}`"))?;
    }
    for (name, bits) in [("pts", 0o755), ("shm", 0o1777), ("mqueue", 0o1777)] {
        mkdirat(dev, name, Mode::RWXU)
            .and_then(|()| mode(name, bits))
            .attempt(|| format!("make the directory `/dev/{name}`"))?;
    }
    Ok(())
}

fn empty_file(dev: &OwnedFd, name: &str) -> Result<(), Errno> {
    let flags = OFlags::CREATE | OFlags::EXCL | OFlags::WRONLY | OFlags::CLOEXEC;
    openat(dev, name, flags, Mode::RUSR | Mode::WUSR).map(drop)
}

/// Mounts what `/dev` is in `scratch`, which a step never sees: there are the nodes, so that a step's changes of their modes
/// and owners stay its own. In a user namespace, where no node can be made, they are the host's.
pub(super) fn mount(scratch: &OwnedFd, shm_size: u64) -> Result<OwnedFd, Failure> {
    let new = filesystem::new("tmpfs", &[("mode", "0755"), ("size", "65536k")], NOSUID | NODEV);
    let dev = mount_in(scratch, "dev", new).attempt(|| "make the file system of `/dev`".to_owned())?;
    for (name, to) in LINKS {
        symlinkat(*to, &dev, *name).attempt(|| format!("link `/dev/{name}`"))?;
    }
    for &(name, major, minor) in DEVICES {
        let mode = Mode::from_raw_mode(0o666);
        let mount = match mknodat(scratch, name, FileType::CharacterDevice, mode, makedev(major, minor)) {
            Ok(()) => open_tree(scratch, name, clone_flags()).map_err(io::Error::from),
            Err(Errno::PERM) => of_host(name),
            Err(error) => Err(error.into()),
        };
        let mount = mount.attempt(|| format!("get the device `/dev/{name}`"))?;
        empty_file(&dev, name)
            .and_then(|()| put(mount, &dev, name))
            .attempt(|| format!("mount the device `/dev/{name}`"))?;
    }
    let shm = [("mode", "1777"), ("size", &shm_size.to_string())];
    let place = |name, mount| mount_in(&dev, name, mount).map(drop).attempt(|| format!("mount `/dev/{name}`"));
    place("pts", filesystem::devpts())?;
    place("shm", filesystem::new("tmpfs", &shm, NOSUID | NODEV | NOEXEC))?;
    match filesystem::new("mqueue", &[], NOSUID | NODEV | NOEXEC) {
        Err(Errno::NODEV) => {} // a kernel without POSIX message queues
        queue => place("mqueue", queue)?,
    }
    Ok(dev)
}

/// Mounts `mount` on a new directory of `parent`.
pub(super) fn mount_in(parent: &OwnedFd, name: &str, mount: Result<OwnedFd, Errno>) -> Result<OwnedFd, Errno> {
    let mount = mount?;
    mkdirat(parent, name, Mode::from_raw_mode(0o755))?;
    put(&mount, parent, name)?;
    Ok(mount)
}

fn put(mount: impl AsFd, dev: &OwnedFd, name: &str) -> Result<(), Errno> {
    attach(mount, open_beneath(dev, Path::new(name), ResolveFlags::NO_XDEV)?)
}
