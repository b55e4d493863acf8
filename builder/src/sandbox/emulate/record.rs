//! Reading and writing the owner of a file where `snapshot` will look for it: see [`snapshot::owner`].

use std::collections::HashMap;
use std::ffi::CStr;

use rustix::fs::{FileType, Stat, XattrFlags};
use rustix::io::Errno;
use snapshot::Owner;
use snapshot::owner::{ATTRIBUTE, LONGEST, SPECIAL_ATTRIBUTE};

use super::place::Place;

/// Bytes of names of attributes, of which a file has few.
const ATTRIBUTES: usize = 512;

/// The owners that are known.
#[derive(Debug, Default)]
pub(super) struct Records {
    /// Those of files that can hold no attribute, none of which comes into a layer: pipes, terminals, `/proc`. By device
    /// and inode.
    elsewhere: HashMap<(u64, u64), Owner>,
}

impl Records {
    /// Returns what is written about a file; nothing if it is root's, or is not there.
    pub(super) fn find(&self, place: &Place) -> Option<Owner> {
        match has_record(place) {
            Ok(true) | Err(Errno::RANGE) => self.read(place),
            Ok(false) | Err(Errno::NOTSUP) => self.remembered(place),
            Err(_) => None,
        }
    }

    fn read(&self, place: &Place) -> Option<Owner> {
        let mut value = [0; LONGEST];
        match get(place, ATTRIBUTE, &mut value) {
            Ok(length) => return Owner::parse(&value[..length]),
            Err(Errno::NODATA | Errno::NOTSUP) => {}
            Err(_) => return None,
        }
        // Only of files and directories it is sure that they have none.
        if let Ok(length) = get(place, SPECIAL_ATTRIBUTE, &mut value)
            && is_special(&status(place).ok()?)
        {
            return Owner::parse_capability(&value[..length]);
        }
        self.remembered(place)
    }

    fn remembered(&self, place: &Place) -> Option<Owner> {
        if self.elsewhere.is_empty() {
            return None;
        }
        let status = status(place).ok()?;
        self.elsewhere.get(&(status.st_dev, status.st_ino)).copied()
    }

    /// Makes a file and writes down whose it is.
    pub(super) fn make<T>(
        &mut self,
        owner: Owner,
        make: impl FnOnce() -> Result<(T, Place), Errno>,
    ) -> Result<T, Errno> {
        let (value, place) = make()?;
        self.write(&place, owner).map(|()| value)
    }

    /// Writes down whose a file is.
    pub(super) fn write(&mut self, place: &Place, owner: Owner) -> Result<(), Errno> {
        let status = status(place)?;
        let special = is_special(&status);
        let name = if special { SPECIAL_ATTRIBUTE } else { ATTRIBUTE };
        let (text, capability) = (owner.to_text(), owner.to_capability());
        let written = match (owner == Owner::ROOT, special) {
            (true, _) => match remove(place, name) {
                Err(Errno::NODATA) => Ok(()),
                result => result,
            },
            (false, true) => set(place, name, &capability),
            (false, false) => set(place, name, text.as_bytes()),
        };
        let key = (status.st_dev, status.st_ino);
        match written {
            Ok(()) => _ = self.elsewhere.remove(&key),
            Err(Errno::NOTSUP | Errno::PERM | Errno::ACCESS) if owner == Owner::ROOT => _ = self.elsewhere.remove(&key),
            Err(Errno::NOTSUP | Errno::PERM | Errno::ACCESS) => _ = self.elsewhere.insert(key, owner),
            Err(error) => return Err(error),
        }
        Ok(())
    }
}

/// Whether it is neither a file nor a directory.
pub(super) fn is_special(status: &Stat) -> bool {
    !matches!(FileType::from_raw_mode(status.st_mode), FileType::RegularFile | FileType::Directory)
}

/// What the kernel knows of a file.
pub(super) fn status(place: &Place) -> Result<Stat, Errno> {
    if place.follow { rustix::fs::stat(&*place.path) } else { rustix::fs::lstat(&*place.path) }
}

/// Tells, with one look instead of two, whether a file has an attribute that may be a record. Few have any.
fn has_record(place: &Place) -> Result<bool, Errno> {
    let (path, mut names): (&CStr, _) = (&place.path, [0; ATTRIBUTES]);
    let length =
        if place.follow { rustix::fs::listxattr(path, &mut names) } else { rustix::fs::llistxattr(path, &mut names) }?;
    let is_record = |name: &[u8]| [ATTRIBUTE, SPECIAL_ATTRIBUTE].iter().any(|record| record.as_bytes() == name);
    Ok(names[..length].split(|&byte| byte == 0).any(is_record))
}

fn get(place: &Place, name: &str, value: &mut [u8]) -> Result<usize, Errno> {
    let path: &CStr = &place.path;
    if place.follow { rustix::fs::getxattr(path, name, value) } else { rustix::fs::lgetxattr(path, name, value) }
}

fn set(place: &Place, name: &str, value: &[u8]) -> Result<(), Errno> {
    let (path, flags): (&CStr, _) = (&place.path, XattrFlags::empty());
    if place.follow {
        rustix::fs::setxattr(path, name, value, flags)
    } else {
        rustix::fs::lsetxattr(path, name, value, flags)
    }
}

fn remove(place: &Place, name: &str) -> Result<(), Errno> {
    let path: &CStr = &place.path;
    if place.follow { rustix::fs::removexattr(path, name) } else { rustix::fs::lremovexattr(path, name) }
}
