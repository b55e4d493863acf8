//! listxattr(2) and its kin, which must not name the attributes that records stand in: `cp -a` would copy the owner with
//! them where its user may not.

use std::ffi::CStr;

use rustix::io::Errno;
use snapshot::owner::{ATTRIBUTE, SPECIAL_ATTRIBUTE};

use super::super::seccomp::{Call, Reply};
use super::place::Place;
use super::{Caller, Emulation, record};

/// The longest list of names (`XATTR_LIST_MAX`).
const LONGEST: usize = 65536;

impl Emulation {
    /// The kernel answers unless there is something to hide.
    pub(super) fn list_attributes(&self, caller: &Caller<'_>) -> Result<Reply, Errno> {
        let nofollow = libc::AT_SYMLINK_NOFOLLOW.cast_unsigned();
        let place = match caller.call {
            Call::Flistxattr => Place::of_descriptor(caller.thread(), caller.descriptor(0)),
            Call::Llistxattr => self.place(caller, None, 0, nofollow),
            _ => self.place(caller, None, 0, 0),
        };
        let Ok(place) = place else { return Ok(Reply::Continue) };
        let mut names = vec![0; LONGEST];
        let path: &CStr = &place.path;
        let listed = if place.follow {
            rustix::fs::listxattr(path, &mut names[..])
        } else {
            rustix::fs::llistxattr(path, &mut names[..])
        };
        let Ok(length) = listed else { return Ok(Reply::Continue) };
        let special = record::status(&place).is_ok_and(|status| record::is_special(&status));
        let Some(shown) = without_ours(&names[..length], special) else { return Ok(Reply::Continue) };
        let room = usize::try_from(caller.argument(2)).map_err(|_| Errno::INVAL)?;
        match room {
            0 => {}
            room if room < shown.len() => return Err(Errno::RANGE),
            _ => caller.write(caller.argument(1), &shown)?,
        }
        Ok(Reply::Value(i64::try_from(shown.len()).map_err(|_| Errno::OVERFLOW)?))
    }
}

/// The names that are not of records; nothing if all are.
fn without_ours(names: &[u8], special: bool) -> Option<Vec<u8>> {
    let hidden = if special { SPECIAL_ATTRIBUTE } else { ATTRIBUTE };
    let all = || names.split_inclusive(|&byte| byte == 0);
    let ours = |name: &&[u8]| name.strip_suffix(b"\0") == Some(hidden.as_bytes());
    all().any(|name| ours(&name)).then(|| all().filter(|name| !ours(name)).flatten().copied().collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_holds_a_record_is_hidden() {
        let list = b"user.note\0user.rbuild.owner\0security.capability\0";
        assert_eq!(without_ours(list, false).unwrap(), b"user.note\0security.capability\0");
        assert_eq!(without_ours(list, true).unwrap(), b"user.note\0user.rbuild.owner\0");
        assert_eq!(without_ours(b"user.note\0", false), None);
        assert_eq!(without_ours(b"", true), None);
    }
}
