//! stat(2), statx(2): the kernel's answer, with what is recorded in place of the owner and the type.

use rustix::fs::{AtFlags, Stat, StatxFlags};
use rustix::io::Errno;
use snapshot::Owner;
use snapshot::owner::Device;

use super::super::seccomp::{Abi, Call, Reply};
use super::super::system::bytes_of;
use super::place::Place;
use super::{Caller, Emulation, record};

/// What a device is to `st_mode`.
fn kind(device: Device) -> u32 {
    if device.block { libc::S_IFBLK } else { libc::S_IFCHR }
}

impl Emulation {
    /// The kernel answers unless something is recorded, or goes wrong, which it then finds out itself.
    pub(super) fn status(&mut self, caller: &Caller<'_>) -> Result<Reply, Errno> {
        let nofollow = libc::AT_SYMLINK_NOFOLLOW.cast_unsigned();
        let (place, address) = match caller.call {
            Call::Fstat | Call::FstatOld => (Place::of_descriptor(caller.thread(), caller.descriptor(0)), 1),
            Call::Fstatat => (self.seeming_place(caller, Some(0), 1, caller.word(3)), 2),
            Call::Statx => (self.seeming_place(caller, Some(0), 1, caller.word(2)), 4),
            Call::Lstat | Call::LstatOld => (self.seeming_place(caller, None, 0, nofollow), 1),
            _ => (self.seeming_place(caller, None, 0, 0), 1),
        };
        let Ok(place) = place else { return Ok(Reply::Continue) };
        let Some(owner) = self.owners.find(&place) else { return Ok(Reply::Continue) };
        // Until here nothing was done that a wrong place could spoil. Most files have no record.
        if !caller.is_valid() {
            return Err(Errno::SRCH);
        }
        let address = caller.argument(address);
        match caller.call {
            Call::Statx => answer_statx(caller, &place, owner, address),
            _ => answer_stat(caller, &place, owner, address),
        }
    }
}

fn answer_stat(caller: &Caller<'_>, place: &Place, owner: Owner, address: u64) -> Result<Reply, Errno> {
    let mut found = record::status(place)?;
    (found.st_uid, found.st_gid) = (owner.uid, owner.gid);
    if let Some(device) = owner.device {
        found.st_mode = found.st_mode & !libc::S_IFMT | kind(device);
        found.st_rdev = rustix::fs::makedev(device.major, device.minor);
    }
    match (caller.abi, caller.call) {
        (Abi::I386, Call::StatOld | Call::LstatOld | Call::FstatOld) => caller.write(address, &old_of_i386(&found)?)?,
        (Abi::I386, _) => caller.write(address, &of_i386(&found))?,
        (Abi::X86_64 | Abi::Aarch64, _) => caller.write(address, bytes_of(&found))?,
    }
    Ok(Reply::Value(0))
}

fn answer_statx(caller: &Caller<'_>, place: &Place, owner: Owner, address: u64) -> Result<Reply, Errno> {
    let nofollow = if place.follow { AtFlags::empty() } else { AtFlags::SYMLINK_NOFOLLOW };
    let asked = AtFlags::from_bits_retain(caller.word(2)) - AtFlags::EMPTY_PATH - AtFlags::SYMLINK_NOFOLLOW;
    let flags = asked | nofollow;
    let mask = StatxFlags::from_bits_retain(caller.word(3));
    let mut found = rustix::fs::statx(rustix::fs::CWD, &*place.path, flags, mask)?;
    (found.stx_uid, found.stx_gid) = (owner.uid, owner.gid);
    if let Some(device) = owner.device {
        let mode = u32::from(found.stx_mode) & !libc::S_IFMT | kind(device);
        found.stx_mode = u16::try_from(mode).map_err(|_| Errno::OVERFLOW)?;
        (found.stx_rdev_major, found.stx_rdev_minor) = (device.major, device.minor);
    }
    caller.write(address, bytes_of(&found))?;
    Ok(Reply::Value(0))
}

/// A structure of another ABI, field by field.
#[derive(Default)]
struct Fields(Vec<u8>);

impl Fields {
    fn long(mut self, value: u64) -> Self {
        self.0.extend(value.to_le_bytes());
        self
    }

    /// The lower 32 bits.
    fn word(mut self, value: impl Into<u64>) -> Self {
        self.0.extend(&value.into().to_le_bytes()[..4]);
        self
    }

    /// The lower 16 bits.
    fn half(mut self, value: impl Into<u64>) -> Self {
        self.0.extend(&value.into().to_le_bytes()[..2]);
        self
    }

    fn time(self, seconds: i64, nanoseconds: u64) -> Self {
        self.word(seconds.cast_unsigned()).word(nanoseconds)
    }
}

/// `struct stat64` of i386 (arch/x86/include/uapi/asm/stat.h).
fn of_i386(found: &Stat) -> Vec<u8> {
    Fields::default()
        .long(found.st_dev)
        .word(0_u32)
        .word(found.st_ino)
        .word(found.st_mode)
        .word(found.st_nlink)
        .word(found.st_uid)
        .word(found.st_gid)
        .long(found.st_rdev)
        .word(0_u32)
        .long(found.st_size.cast_unsigned())
        .word(found.st_blksize.cast_unsigned())
        .long(found.st_blocks.cast_unsigned())
        .time(found.st_atime, found.st_atime_nsec)
        .time(found.st_mtime, found.st_mtime_nsec)
        .time(found.st_ctime, found.st_ctime_nsec)
        .long(found.st_ino)
        .0
}

/// `struct stat` of i386, whose ids have 16 bits: one that has more is 65534 there.
fn old_of_i386(found: &Stat) -> Result<Vec<u8>, Errno> {
    if found.st_size > i64::from(i32::MAX) || u32::try_from(found.st_ino).is_err() {
        return Err(Errno::OVERFLOW);
    }
    let id = |id: u32| if id > u32::from(u16::MAX) { 65534 } else { u64::from(id) };
    let fields = Fields::default()
        .word(found.st_dev)
        .word(found.st_ino)
        .half(found.st_mode)
        .half(found.st_nlink)
        .half(id(found.st_uid))
        .half(id(found.st_gid))
        .word(found.st_rdev)
        .word(found.st_size.cast_unsigned())
        .word(found.st_blksize.cast_unsigned())
        .word(found.st_blocks.cast_unsigned())
        .time(found.st_atime, found.st_atime_nsec)
        .time(found.st_mtime, found.st_mtime_nsec)
        .time(found.st_ctime, found.st_ctime_nsec);
    Ok(fields.long(0).0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn structures_of_i386_have_their_sizes_and_places() {
        let mut found = rustix::fs::stat("/").unwrap();
        (found.st_uid, found.st_gid, found.st_size, found.st_ino) = (0x1234_5678, 33, 0x1_0000_0001, 7);
        let new = of_i386(&found);
        assert_eq!(new.len(), 96);
        assert_eq!((&new[24..28], new[28], new[44], new[48], new[88]), (&[0x78, 0x56, 0x34, 0x12][..], 33, 1, 1, 7));
        assert_eq!(old_of_i386(&found), Err(Errno::OVERFLOW));
        found.st_size = 5;
        let old = old_of_i386(&found).unwrap();
        assert_eq!(old.len(), 64);
        assert_eq!((&old[12..16], old[20]), (&[0xfe, 0xff, 33, 0][..], 5));
    }
}
