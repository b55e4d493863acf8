//! The ids that a process of the step believes to have, and what the kernel's rules make of them (credentials(7),
//! capabilities(7)). Data in, data out.
//!
//! Of capabilities it is only known whether the process has those over ids and owners: nothing else is emulated.

use rustix::io::Errno;

/// Means "leave it as it is" to calls that take several ids.
pub(super) const KEEP: u32 = u32::MAX;

/// The four user or group ids of a process.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub(super) struct Ids {
    pub(super) real: u32,
    pub(super) effective: u32,
    pub(super) saved: u32,
    pub(super) file_system: u32,
}

impl Ids {
    fn all(id: u32) -> Self {
        Self { real: id, effective: id, saved: id, file_system: id }
    }

    fn has_root(self) -> bool {
        [self.real, self.effective, self.saved].contains(&0)
    }

    /// setuid(2), setgid(2).
    fn set(self, id: u32, capable: bool) -> Result<Self, Errno> {
        if id == KEEP {
            return Err(Errno::INVAL);
        }
        if capable {
            return Ok(Self::all(id));
        }
        if ![self.real, self.saved].contains(&id) {
            return Err(Errno::PERM);
        }
        Ok(Self { effective: id, file_system: id, ..self })
    }

    /// setreuid(2), setregid(2).
    fn set_two(self, real: u32, effective: u32, capable: bool) -> Result<Self, Errno> {
        let allowed = |id: u32, among: &[u32]| id == KEEP || capable || among.contains(&id);
        if !allowed(real, &[self.real, self.effective]) || !allowed(effective, &[self.real, self.effective, self.saved])
        {
            return Err(Errno::PERM);
        }
        let mut new = self;
        new.real = if real == KEEP { self.real } else { real };
        new.effective = if effective == KEEP { self.effective } else { effective };
        if real != KEEP || (effective != KEEP && effective != self.real) {
            new.saved = new.effective;
        }
        new.file_system = new.effective;
        Ok(new)
    }

    /// setresuid(2), setresgid(2).
    fn set_three(self, ids: [u32; 3], capable: bool) -> Result<Self, Errno> {
        let own = [self.real, self.effective, self.saved];
        if !capable && ids.iter().any(|id| *id != KEEP && !own.contains(id)) {
            return Err(Errno::PERM);
        }
        let [real, effective, saved] =
            std::array::from_fn(|number| if ids[number] == KEEP { own[number] } else { ids[number] });
        Ok(Self { real, effective, saved, file_system: effective })
    }

    /// setfsuid(2), setfsgid(2), which never fail.
    fn set_file_system(self, id: u32, capable: bool) -> Self {
        let own = [self.real, self.effective, self.saved, self.file_system];
        if id != KEEP && (capable || own.contains(&id)) { Self { file_system: id, ..self } } else { self }
    }
}

/// A change of user or group ids.
#[derive(Debug, Clone, Copy)]
pub(super) enum Change {
    One(u32),
    Two(u32, u32),
    Three([u32; 3]),
    FileSystem(u32),
}

/// Who a process is.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct Credentials {
    pub(super) uid: Ids,
    pub(super) gid: Ids,
    pub(super) groups: Vec<u32>,
    /// Whether it may have the capabilities over ids and owners, and whether it has them.
    permitted: bool,
    effective: bool,
    /// `PR_SET_KEEPCAPS`: they stay permitted when no id is root's any more.
    keep: bool,
    /// Its root is not that of the step (chroot(2)).
    pub(super) changed_root: bool,
}

/// `CAP_CHOWN`, `CAP_FOWNER`, `CAP_SETGID` and `CAP_SETUID`, as bits of a capability set.
const OVER_IDS: u32 = 1 << 0 | 1 << 3 | 1 << 6 | 1 << 7;

impl Credentials {
    /// Root, as which every step begins.
    pub(super) fn root() -> Self {
        Self {
            uid: Ids::default(),
            gid: Ids::default(),
            groups: Vec::new(),
            permitted: true,
            effective: true,
            keep: false,
            changed_root: false,
        }
    }

    /// Whether it may change ids and owners at will.
    pub(super) fn capable(&self) -> bool {
        self.effective
    }

    /// Whether what it makes is root's.
    pub(super) fn makes_files_of_root(&self) -> bool {
        (self.uid.file_system, self.gid.file_system) == (0, 0)
    }

    /// Whether it is a member of a group.
    pub(super) fn is_in(&self, group: u32) -> bool {
        self.gid.file_system == group || self.groups.contains(&group)
    }

    pub(super) fn change_uid(&mut self, change: Change) -> Result<(), Errno> {
        let old = self.uid;
        self.uid = apply(old, change, self.effective)?;
        if !matches!(change, Change::FileSystem(_)) {
            self.adjust_capabilities(old);
        }
        Ok(())
    }

    pub(super) fn change_gid(&mut self, change: Change) -> Result<(), Errno> {
        self.gid = apply(self.gid, change, self.effective)?;
        Ok(())
    }

    pub(super) fn set_groups(&mut self, groups: Vec<u32>) -> Result<(), Errno> {
        if !self.effective {
            return Err(Errno::PERM);
        }
        self.groups = groups;
        Ok(())
    }

    pub(super) fn set_keep(&mut self, keep: bool) {
        self.keep = keep;
    }

    /// capset(2) with these lower halves of the sets.
    pub(super) fn set_capabilities(&mut self, effective: u32, permitted: u32) {
        self.permitted &= permitted & OVER_IDS != 0;
        self.effective = self.permitted && effective & OVER_IDS != 0;
    }

    /// execve(2) of a file that is setuid or setgid to these ids, if it is.
    pub(super) fn execute(&mut self, uid: Option<u32>, gid: Option<u32>) {
        self.uid.effective = uid.unwrap_or(self.uid.effective);
        self.gid.effective = gid.unwrap_or(self.gid.effective);
        for ids in [&mut self.uid, &mut self.gid] {
            (ids.saved, ids.file_system) = (ids.effective, ids.effective);
        }
        self.keep = false;
        self.permitted = self.uid.effective == 0 || self.uid.real == 0;
        self.effective = self.uid.effective == 0;
    }

    /// What a change of user ids does to capabilities (capabilities(7), "Effect of user ID changes").
    fn adjust_capabilities(&mut self, old: Ids) {
        if old.has_root() && !self.uid.has_root() && !self.keep {
            self.permitted = false;
            self.effective = false;
        }
        match (old.effective, self.uid.effective) {
            (0, 1..) => self.effective = false,
            (1.., 0) => self.effective = self.permitted,
            _ => {}
        }
    }
}

fn apply(ids: Ids, change: Change, capable: bool) -> Result<Ids, Errno> {
    match change {
        Change::One(id) => ids.set(id, capable),
        Change::Two(real, effective) => ids.set_two(real, effective, capable),
        Change::Three(three) => ids.set_three(three, capable),
        Change::FileSystem(id) => Ok(ids.set_file_system(id, capable)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn user(uid: u32) -> Credentials {
        let mut credentials = Credentials::root();
        credentials.change_gid(Change::Three([uid; 3])).unwrap();
        credentials.change_uid(Change::Three([uid; 3])).unwrap();
        credentials
    }

    #[test]
    fn root_becomes_anybody_and_nobody_becomes_root() {
        let mut app = user(1000);
        assert!(!app.capable());
        assert_eq!(app.change_uid(Change::One(0)), Err(Errno::PERM));
        assert_eq!(app.change_uid(Change::Three([KEEP, 0, KEEP])), Err(Errno::PERM));
        assert_eq!(app.change_gid(Change::One(5)), Err(Errno::PERM));
        assert_eq!(app.set_groups(vec![0]), Err(Errno::PERM));
        app.change_uid(Change::One(1000)).unwrap();
        assert_eq!(app.change_uid(Change::One(KEEP)), Err(Errno::INVAL));
    }

    #[test]
    fn what_was_saved_can_be_taken_back() {
        let mut daemon = Credentials::root();
        daemon.change_uid(Change::Three([KEEP, 33, KEEP])).unwrap();
        assert!(!daemon.capable());
        assert_eq!((daemon.uid.effective, daemon.uid.saved, daemon.uid.file_system), (33, 0, 33));
        daemon.change_uid(Change::Two(KEEP, 0)).unwrap();
        assert!(daemon.capable());
        // seteuid of the C library as well as setreuid keep the real id of root.
        daemon.change_uid(Change::Two(0, 33)).unwrap();
        assert_eq!((daemon.uid.real, daemon.uid.saved), (0, 33));
        daemon.change_uid(Change::Two(33, 33)).unwrap();
        assert_eq!(daemon.change_uid(Change::One(0)), Err(Errno::PERM));
    }

    #[test]
    fn capabilities_are_kept_where_that_was_asked_for() {
        let mut keeper = Credentials::root();
        keeper.set_keep(true);
        keeper.change_uid(Change::Three([1000; 3])).unwrap();
        assert_eq!(keeper.change_gid(Change::One(1000)), Err(Errno::PERM));
        keeper.set_capabilities(1 << 6, u32::MAX);
        keeper.change_gid(Change::One(1000)).unwrap();
        keeper.set_groups(vec![4]).unwrap();
        keeper.execute(None, None);
        assert!(!keeper.capable());
    }

    #[test]
    fn a_setuid_program_gets_its_owner() {
        let mut sudo = user(1000);
        sudo.execute(Some(0), None);
        assert!(sudo.capable());
        assert_eq!((sudo.uid.real, sudo.uid.effective, sudo.uid.saved), (1000, 0, 0));
        sudo.change_uid(Change::One(0)).unwrap();
        assert_eq!(sudo.uid, Ids::all(0));
        let mut at = Credentials::root();
        at.execute(Some(2), Some(2));
        assert!(!at.capable());
        at.change_uid(Change::Two(KEEP, 0)).unwrap();
        assert!(at.capable());
    }

    #[test]
    fn the_file_system_id_follows_and_never_fails() {
        let mut server = Credentials::root();
        server.change_uid(Change::FileSystem(1000)).unwrap();
        assert_eq!((server.uid.effective, server.uid.file_system), (0, 1000));
        assert!(server.capable());
        let mut app = user(1000);
        app.change_uid(Change::FileSystem(0)).unwrap();
        assert_eq!(app.uid.file_system, 1000);
    }
}
