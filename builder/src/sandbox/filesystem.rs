//! New file systems of the kernel, as detached mounts, and which file systems are the kernel's own.

use std::os::fd::OwnedFd;

use rustix::fs::{PROC_SUPER_MAGIC, StatFs};
use rustix::io::Errno;
use rustix::mount::{FsMountFlags, FsOpenFlags, MountAttrFlags, fsconfig_create, fsconfig_set_string, fsmount, fsopen};

pub(super) const NODEV: MountAttrFlags = MountAttrFlags::MOUNT_ATTR_NODEV;
pub(super) const NOEXEC: MountAttrFlags = MountAttrFlags::MOUNT_ATTR_NOEXEC;
pub(super) const NOSUID: MountAttrFlags = MountAttrFlags::MOUNT_ATTR_NOSUID;
pub(super) const READ_ONLY: MountAttrFlags = MountAttrFlags::MOUNT_ATTR_RDONLY;

/// Makes a file system of the type `name` with `options`.
pub(super) fn new(name: &str, options: &[(&str, &str)], attributes: MountAttrFlags) -> Result<OwnedFd, Errno> {
    let context = fsopen(name, FsOpenFlags::FSOPEN_CLOEXEC)?;
    fsconfig_set_string(&context, "source", name)?; // what the first column of /proc/mounts says
    for (key, value) in options {
        fsconfig_set_string(&context, *key, *value)?;
    }
    fsconfig_create(&context)?;
    fsmount(&context, FsMountFlags::FSMOUNT_CLOEXEC, attributes)
}

/// The processes of this pid namespace. Refused in a user namespace whose own `/proc` has masked parts.
pub(super) fn proc() -> Result<OwnedFd, Errno> {
    new("proc", &[], NOSUID | NODEV | NOEXEC)
}

/// An empty directory that nobody can write.
pub(super) fn void() -> Result<OwnedFd, Errno> {
    new("tmpfs", &[("size", "4096"), ("mode", "0555")], NOSUID | NODEV | NOEXEC | READ_ONLY)
}

/// Pseudo-terminals of the step's own. Group 5 (`tty`) owns them where the user namespace has a group 5.
pub(super) fn devpts() -> Result<OwnedFd, Errno> {
    let options = [("ptmxmode", "0666"), ("mode", "0620"), ("gid", "5")];
    match new("devpts", &options, NOSUID | NOEXEC) {
        Err(Errno::INVAL) => new("devpts", &options[..2], NOSUID | NOEXEC),
        result => result,
    }
}

/// Whether it is procfs or sysfs, whose files are the kernel's.
pub(super) fn is_of_kernel(found: &StatFs) -> bool {
    const SYSFS: u32 = 0x6265_6572;
    found.f_type == PROC_SUPER_MAGIC || u32::try_from(found.f_type) == Ok(SYSFS)
}
