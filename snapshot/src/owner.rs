//! Owners and devices that a file system cannot be given: those of a user namespace with a single id, where every file
//! is root's and no device can be made. They are written beside the file, in an extended attribute that overlayfs copies
//! up and that follows the file through renames and links.
//!
//! ```text
//! file, directory         user.rbuild.owner     "uid:gid", or "uid:gid:c:major:minor" for a device, which is an empty file
//! link, FIFO, socket      security.capability   uid and gid in place of the capabilities, which mean nothing there
//! ```
//!
//! A file without the attribute is root's. The kernel allows `user.*` on files and directories alone (xattr(7)), and
//! `security.capability` on everything, to root of a user namespace too.

use rustix::fs::{FileType, XattrFlags};
use rustix::io::Errno;

use crate::xattr::Source;

/// Where the owner of a file or directory stands.
pub const ATTRIBUTE: &str = "user.rbuild.owner";
/// Where that of anything else stands.
pub const SPECIAL_ATTRIBUTE: &str = "security.capability";
/// More than the longest text takes.
pub const LONGEST: usize = 64;

/// `VFS_CAP_REVISION_2` of `linux/capability.h`: the kernel looks at nothing else in the attribute.
const REVISION: u32 = 0x0200_0000;

/// What is written about one file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Owner {
    /// The user id.
    pub uid: u32,
    /// The group id.
    pub gid: u32,
    /// What an empty file stands for.
    pub device: Option<Device>,
}

/// A device node that could not be made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Device {
    /// A block device, else a character device.
    pub block: bool,
    /// Major number.
    pub major: u32,
    /// Minor number.
    pub minor: u32,
}

impl Owner {
    /// Root's, and no device: what needs no attribute.
    pub const ROOT: Self = Self { uid: 0, gid: 0, device: None };

    /// Returns the value of [`ATTRIBUTE`].
    pub fn to_text(self) -> String {
        let Self { uid, gid, device } = self;
        match device {
            None => format!("{uid}:{gid}"),
            Some(Device { block, major, minor }) => {
                format!("{uid}:{gid}:{}:{major}:{minor}", if block { 'b' } else { 'c' })
            }
        }
    }

    /// Reads the value of [`ATTRIBUTE`]; nothing if it is none.
    pub fn parse(text: &[u8]) -> Option<Self> {
        let fields: Vec<&str> = std::str::from_utf8(text).ok()?.split(':').collect();
        let number = |text: &str| text.parse().ok();
        let device = match fields[..] {
            [_, _] => None,
            [_, _, kind @ ("b" | "c"), major, minor] => {
                Some(Device { block: kind == "b", major: number(major)?, minor: number(minor)? })
            }
            _ => return None,
        };
        Some(Self { uid: number(fields[0])?, gid: number(fields[1])?, device })
    }

    /// Returns the value of [`SPECIAL_ATTRIBUTE`]: `struct vfs_cap_data` with the ids in the first two of its sets.
    pub fn to_capability(self) -> [u8; 20] {
        let mut value = [0; 20];
        for (field, number) in value.chunks_exact_mut(4).zip([REVISION, self.uid, self.gid]) {
            field.copy_from_slice(&number.to_le_bytes());
        }
        value
    }

    /// Reads the value of [`SPECIAL_ATTRIBUTE`], whose third version has the root of a namespace at its end.
    pub fn parse_capability(value: &[u8]) -> Option<Self> {
        let number = |at: usize| Some(u32::from_le_bytes(value.get(at..at + 4)?.try_into().ok()?));
        matches!(value.len(), 20 | 24).then_some(())?;
        Some(Self { uid: number(4)?, gid: number(8)?, device: None })
    }
}

/// Which attribute a file of this type has.
fn attribute(kind: FileType) -> &'static str {
    if matches!(kind, FileType::RegularFile | FileType::Directory) { ATTRIBUTE } else { SPECIAL_ATTRIBUTE }
}

/// Reads who owns a file of type `kind`, and what it stands for. An attribute that says neither is `EINVAL`.
pub(crate) fn read(source: Source<'_>, kind: FileType) -> Result<Owner, Errno> {
    let mut value = [0; LONGEST];
    let name = attribute(kind);
    let length = match source {
        Source::Open(fd) => rustix::fs::fgetxattr(fd, name, &mut value),
        Source::Path(path) => rustix::fs::lgetxattr(path, name, &mut value),
    };
    let value = match length {
        Ok(length) => &value[..length],
        Err(Errno::NODATA | Errno::NOTSUP) => return Ok(Owner::ROOT),
        Err(error) => return Err(error),
    };
    let owner = if name == ATTRIBUTE { Owner::parse(value) } else { Owner::parse_capability(value) };
    owner.ok_or(Errno::INVAL)
}

/// Writes who owns a file of type `kind`; a path is not followed.
pub(crate) fn write(to: Source<'_>, kind: FileType, owner: Owner) -> Result<(), Errno> {
    let name = attribute(kind);
    let written = if owner == Owner::ROOT {
        match to {
            Source::Open(fd) => rustix::fs::fremovexattr(fd, name),
            Source::Path(path) => rustix::fs::lremovexattr(path, name),
        }
    } else {
        let (text, capability) = (owner.to_text(), owner.to_capability());
        let value = if name == ATTRIBUTE { text.as_bytes() } else { &capability };
        match to {
            Source::Open(fd) => rustix::fs::fsetxattr(fd, name, value, XattrFlags::empty()),
            Source::Path(path) => rustix::fs::lsetxattr(path, name, value, XattrFlags::empty()),
        }
    };
    match written {
        Err(Errno::NODATA | Errno::NOTSUP) if owner == Owner::ROOT => Ok(()),
        result => result,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read() {
        let device = |block| Some(Device { block, major: 8, minor: 1 << 19 });
        for device in [None, device(true), device(false)] {
            let owner = Owner { uid: 33, gid: u32::MAX - 1, device };
            assert_eq!(Owner::parse(owner.to_text().as_bytes()), Some(owner));
        }
        let owner = Owner { uid: 33, gid: u32::MAX - 1, device: None };
        assert_eq!(Owner::parse_capability(&owner.to_capability()), Some(owner));
        assert_eq!(Owner::parse_capability(&[&owner.to_capability()[..], &[0; 4]].concat()), Some(owner));
    }

    #[test]
    fn anything_else_is_no_owner() {
        for text in
            ["", "1", "1:", "1:2:", "1:2:3", "1:2:c:3", "1:2:x:3:4", "-1:2", "1:4294967296", "1:2:c:3:4:5", "\u{e9}"]
        {
            assert_eq!(Owner::parse(text.as_bytes()), None, "{text}");
        }
        assert_eq!(Owner::parse_capability(&[0; 19]), None);
    }
}
