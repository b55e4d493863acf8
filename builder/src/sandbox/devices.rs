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
use super::target::{Kind, Targets, attach, open_beneath};

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

/// A device node, detached.
pub(super) struct Device {
    name: &'static str,
    mount: OwnedFd,
}

/// Makes the devices in `scratch`, which a step never sees: its changes of their modes and owners stay its own. In a
/// user namespace, where no node can be made, they are the host's.
pub(super) fn gather(scratch: &OwnedFd) -> Result<Vec<Device>, Failure> {
    let mut devices = Vec::with_capacity(DEVICES.len());
    for &(name, major, minor) in DEVICES {
        let mode = Mode::from_raw_mode(0o666);
        let mount = match mknodat(scratch, name, FileType::CharacterDevice, mode, makedev(major, minor)) {
            Ok(()) => open_tree(scratch, name, clone_flags()).map_err(io::Error::from),
            Err(Errno::PERM) => of_host(name),
            Err(error) => Err(error.into()),
        };
        devices.push(Device { name, mount: mount.attempt(|| format!("get the device `/dev/{name}`"))? });
    }
    Ok(devices)
}

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

/// Mounts `/dev` with `devices`; returns the mount of `/dev/null`.
pub(super) fn place(devices: Vec<Device>, shm_size: u64, targets: &mut Targets) -> Result<OwnedFd, Failure> {
    let dev = filesystem::new("tmpfs", &[("mode", "0755"), ("size", "65536k")], NOSUID | NODEV)
        .attempt(|| "make the file system of `/dev`".to_owned())?;
    targets.place(&dev, Path::new("/dev"), Kind::Directory)?;
    for (name, to) in LINKS {
        symlinkat(*to, &dev, *name).attempt(|| format!("link `/dev/{name}`"))?;
    }
    let mut null = None;
    for Device { name, mount } in devices {
        let flags = OFlags::CREATE | OFlags::EXCL | OFlags::WRONLY | OFlags::CLOEXEC;
        openat(&dev, name, flags, Mode::from_raw_mode(0o666))
            .and_then(|_| put(&mount, &dev, name))
            .attempt(|| format!("mount the device `/dev/{name}`"))?;
        if name == "null" {
            null = Some(mount);
        }
    }
    place_directory(&dev, "pts", filesystem::devpts())?;
    place_directory(
        &dev,
        "shm",
        filesystem::new("tmpfs", &[("mode", "1777"), ("size", &shm_size.to_string())], NOSUID | NODEV | NOEXEC),
    )?;
    match filesystem::new("mqueue", &[], NOSUID | NODEV | NOEXEC) {
        Err(Errno::NODEV) => {} // a kernel without POSIX message queues
        queue => place_directory(&dev, "mqueue", queue)?,
    }
    null.ok_or_else(|| Failure::new("find `/dev/null` among the devices", Errno::NOENT))
}

fn place_directory(dev: &OwnedFd, name: &str, mount: Result<OwnedFd, Errno>) -> Result<(), Failure> {
    mount
        .and_then(|mount| {
            mkdirat(dev, name, Mode::from_raw_mode(0o755))?;
            put(mount, dev, name)
        })
        .attempt(|| format!("mount `/dev/{name}`"))
}

fn put(mount: impl AsFd, dev: &OwnedFd, name: &str) -> Result<(), Errno> {
    attach(mount, open_beneath(dev, Path::new(name), ResolveFlags::NO_XDEV)?)
}
