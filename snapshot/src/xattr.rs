//! Which extended attributes belong in a layer, and reading them from a tree.

use std::io;
use std::os::fd::BorrowedFd;
use std::path::Path;

use rustix::buffer::spare_capacity;
use rustix::io::Errno;

use crate::entry::{Kind, Xattrs};

/// The largest value that the VFS allows (`XATTR_SIZE_MAX`); also the largest list of names.
pub(crate) const VALUE_MAX: usize = 65536;

/// The longest name that the VFS allows (`XATTR_NAME_MAX`).
pub(crate) const NAME_MAX: usize = 255;

pub(crate) const CAPABILITY: &[u8] = b"security.capability";

/// Whether an attribute is part of the image.
///
/// Kept: `security.capability`, and `user.*` on files and directories (no other type can hold it). Dropped: overlay's
/// and rbuild's own marks; `trusted.*`, which only the host's administrator can see; and `system.*` and other
/// `security.*`, which are the policy of the host that wrote them.
pub(crate) fn belongs(name: &[u8], kind: &Kind) -> bool {
    match kind {
        Kind::File { .. } if name == CAPABILITY => true,
        Kind::File { .. } | Kind::Directory => {
            name.len() > b"user.".len()
                && name.len() <= NAME_MAX
                && name.starts_with(b"user.")
                && !name.starts_with(b"user.overlay.")
                && !name.starts_with(b"user.rbuild.")
        }
        _ => false,
    }
}

/// Where attributes are read from.
#[derive(Clone, Copy)]
pub(crate) enum Source<'a> {
    /// An open file or directory.
    Open(BorrowedFd<'a>),
    /// A path whose last component is not followed.
    Path(&'a Path),
}

/// All attributes of one file.
#[derive(Debug, Default)]
pub(crate) struct Found {
    /// Those that belong in a layer, with capabilities as version 2.
    pub(crate) kept: Xattrs,
    /// Names that overlayfs wrote, without `trusted.overlay.` or `user.overlay.`, with their values.
    pub(crate) overlay: Xattrs,
}

/// Reads the attributes of a file of type `kind`; a file system without attributes has none.
pub(crate) fn read(source: Source<'_>, kind: &Kind) -> io::Result<Found> {
    let mut found = Found::default();
    let names = list(source)?;
    for name in names.split(|byte| *byte == 0).filter(|name| !name.is_empty()) {
        let overlay = [&b"trusted.overlay."[..], b"user.overlay."].iter().find_map(|prefix| name.strip_prefix(*prefix));
        if let Some(short) = overlay {
            found.overlay.insert(short.to_vec(), get(source, name)?);
        } else if name == CAPABILITY && belongs(name, kind) {
            found.kept.insert(name.to_vec(), without_rootid(get(source, name)?));
        } else if belongs(name, kind) {
            found.kept.insert(name.to_vec(), get(source, name)?);
        }
    }
    Ok(found)
}

fn list(source: Source<'_>) -> io::Result<Vec<u8>> {
    let mut names = Vec::with_capacity(512);
    loop {
        let result = match source {
            Source::Open(fd) => rustix::fs::flistxattr(fd, spare_capacity(&mut names)),
            Source::Path(path) => rustix::fs::llistxattr(path, spare_capacity(&mut names)),
        };
        match result {
            Ok(_) => return Ok(names),
            Err(Errno::NOTSUP) => return Ok(Vec::new()),
            Err(Errno::RANGE) if names.capacity() < VALUE_MAX => names = Vec::with_capacity(VALUE_MAX),
            Err(error) => return Err(error.into()),
        }
    }
}

fn get(source: Source<'_>, name: &[u8]) -> io::Result<Vec<u8>> {
    let mut value = Vec::with_capacity(256);
    loop {
        let result = match source {
            Source::Open(fd) => rustix::fs::fgetxattr(fd, name, spare_capacity(&mut value)),
            Source::Path(path) => rustix::fs::lgetxattr(path, name, spare_capacity(&mut value)),
        };
        match result {
            Ok(_) => return Ok(value),
            Err(Errno::RANGE) if value.capacity() < VALUE_MAX => value = Vec::with_capacity(VALUE_MAX),
            Err(error) => return Err(error.into()),
        }
    }
}

/// Turns a version 3 capability, which names the user namespace that set it, into version 2 (`linux/capability.h`,
/// `struct vfs_ns_cap_data`): images know no namespaces.
pub(crate) fn without_rootid(mut value: Vec<u8>) -> Vec<u8> {
    const VERSION_2: u8 = 2;
    const VERSION_3: u8 = 3;
    if value.len() == 24 && value[3] == VERSION_3 {
        value.truncate(20);
        value[3] = VERSION_2;
    }
    value
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_policy() {
        let file = Kind::File { size: 0 };
        for (name, kept) in [
            ("user.note", true),
            ("user.", false),
            ("user.overlay.opaque", false),
            ("user.overlay.overlay.opaque", false),
            ("user.rbuild.owner", false),
            ("trusted.overlay.opaque", false),
            ("trusted.note", false),
            ("security.capability", true),
            ("security.selinux", false),
            ("system.posix_acl_access", false),
        ] {
            assert_eq!(belongs(name.as_bytes(), &file), kept, "{name}");
        }
        assert!(!belongs(b"user.note", &Kind::Fifo));
        assert!(!belongs(b"security.capability", &Kind::Directory));
    }

    #[test]
    fn capabilities_lose_their_namespace() {
        let mut version_3 = vec![1, 0, 0, 3];
        version_3.extend([7; 16]);
        version_3.extend(1001u32.to_le_bytes());
        let mut version_2 = vec![1, 0, 0, 2];
        version_2.extend([7; 16]);
        assert_eq!(without_rootid(version_3), version_2);
        assert_eq!(without_rootid(version_2.clone()), version_2);
        assert_eq!(without_rootid(vec![3; 3]), vec![3; 3]);
    }
}
