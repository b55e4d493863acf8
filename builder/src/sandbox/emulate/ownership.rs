//! chown(2) and its kin.

use rustix::fs::{AtFlags, CWD, Gid, Uid, chownat};
use rustix::io::Errno;
use snapshot::Owner;

use super::super::seccomp::{Call, Reply};
use super::credentials::{Credentials, KEEP};
use super::ids::widen;
use super::owners::Owners;
use super::place::Place;
use super::{Caller, Emulation};

impl Emulation {
    pub(super) fn chown(&mut self, caller: &Caller<'_>) -> Result<Reply, Errno> {
        let who = self.credentials(caller);
        if self.owners.are_real() && who.capable() {
            return Ok(Reply::Continue);
        }
        let nofollow = libc::AT_SYMLINK_NOFOLLOW.cast_unsigned();
        let (place, ids) = match caller.call {
            Call::Fchown | Call::Fchown16 => (Place::of_descriptor(caller.thread(), caller.descriptor(0))?, 1),
            Call::Fchownat => (self.place(caller, Some(0), 1, caller.word(4))?, 2),
            Call::Lchown | Call::Lchown16 => (self.place(caller, None, 0, nofollow)?, 1),
            _ => (self.place(caller, None, 0, 0)?, 1),
        };
        let short = matches!(caller.call, Call::Chown16 | Call::Lchown16 | Call::Fchown16);
        let [uid, gid] = [ids, ids + 1].map(|number| widen(caller.word(number), short));
        let descriptor = matches!(caller.call, Call::Fchown | Call::Fchown16);
        let known = self.owners.find(&place);
        let owner = known.unwrap_or(Owner::ROOT);
        let new = Owner {
            uid: if uid == KEEP { owner.uid } else { uid },
            gid: if gid == KEEP { owner.gid } else { gid },
            device: owner.device,
        };
        let Owners::Recorded(records) = &mut self.owners else {
            // What is not there cannot be given away, which the kernel says better.
            return known.map_or(Ok(()), |_| permit(&who, owner, new)).map(|()| Reply::Continue);
        };
        permit(&who, owner, new)?;
        match touch(&place) {
            Err(Errno::NOENT) if descriptor => return Err(Errno::BADF),
            // A file of the host: that it is somebody's must do.
            Err(Errno::PERM | Errno::INVAL) => {}
            result => result?,
        }
        if known.is_some() || new != Owner::ROOT {
            records.write(&place, new)?;
        }
        Ok(Reply::Value(0))
    }
}

/// Who may give what to whom (chown(2)).
fn permit(credentials: &Credentials, old: Owner, new: Owner) -> Result<(), Errno> {
    let own = credentials.uid.file_system == old.uid;
    let uid = new.uid == old.uid && own;
    let gid = new.gid == old.gid || credentials.is_in(new.gid);
    if credentials.capable() || (uid && gid) { Ok(()) } else { Err(Errno::PERM) }
}

/// Has the kernel give the file to whom it has already: that copies it up, takes away setuid bits and capabilities, and
/// changes its time.
fn touch(place: &Place) -> Result<(), Errno> {
    let flags = if place.follow { AtFlags::empty() } else { AtFlags::SYMLINK_NOFOLLOW };
    chownat(CWD, &*place.path, Some(Uid::ROOT), Some(Gid::ROOT), flags)
}

#[cfg(test)]
mod tests {
    use super::super::credentials::Change;
    use super::*;

    #[test]
    fn a_user_gives_nothing_away_but_to_a_group_of_its_own() {
        let mut user = Credentials::root();
        let owner = |uid, gid| Owner { uid, gid, device: None };
        assert_eq!(permit(&user, owner(5, 5), owner(6, 7)), Ok(()));
        user.set_groups(vec![8]).unwrap();
        user.change_gid(Change::One(7)).unwrap();
        user.change_uid(Change::One(5)).unwrap();
        assert_eq!(permit(&user, owner(5, 5), owner(5, 8)), Ok(()));
        assert_eq!(permit(&user, owner(5, 5), owner(5, 7)), Ok(()));
        assert_eq!(permit(&user, owner(5, 5), owner(5, 9)), Err(Errno::PERM));
        assert_eq!(permit(&user, owner(5, 5), owner(6, 5)), Err(Errno::PERM));
        assert_eq!(permit(&user, owner(0, 0), owner(0, 0)), Err(Errno::PERM));
    }
}
