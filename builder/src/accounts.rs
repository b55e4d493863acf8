//! Users and groups as an image's `/etc/passwd` and `/etc/group` define them. Pure: text in, numbers out.

/// The text of the two files; empty where the image has none.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Accounts {
    /// `/etc/passwd`, by passwd(5).
    pub passwd: String,
    /// `/etc/group`, by group(5).
    pub group: String,
}

/// Who a process runs as.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct User {
    /// User id.
    pub uid: u32,
    /// Primary group id.
    pub gid: u32,
    /// Supplementary groups, sorted; without the primary one.
    pub groups: Vec<u32>,
    /// Home directory.
    pub home: String,
}

/// A name that the files do not define, or a number out of range.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AccountError {
    /// No such user.
    #[error("the image has no user `{0}`: it is not in its /etc/passwd")]
    NoUser(String),
    /// No such group.
    #[error("the image has no group `{0}`: it is not in its /etc/group")]
    NoGroup(String),
}

impl Accounts {
    /// Reads `USER`'s value: `name|uid[:group|gid]`, root when empty.
    ///
    /// A number need not be in the files. Without a group the primary one of passwd holds and the supplementary groups
    /// of group(5) are joined; with one, that group alone (runc and BuildKit do the same).
    pub fn user(&self, spec: &str) -> Result<User, AccountError> {
        let (name, group) = match spec.split_once(':') {
            Some((name, group)) => (name, Some(group).filter(|group| !group.is_empty())),
            None => (spec, None),
        };
        let name = if name.is_empty() { "0" } else { name };
        let entry = self.passwd_entry(name);
        let uid = match (&entry, name.parse::<u32>()) {
            (Some(entry), _) => entry.uid,
            (None, Ok(uid)) => uid,
            (None, Err(_)) => return Err(AccountError::NoUser(name.into())),
        };
        let home = entry.as_ref().map(|entry| entry.home).filter(|home| !home.is_empty());
        let home = home.unwrap_or(if uid == 0 { "/root" } else { "/" }).to_owned();
        if let Some(group) = group {
            return Ok(User { uid, gid: self.group_id(group)?, groups: Vec::new(), home });
        }
        let gid = entry.as_ref().map_or(0, |entry| entry.gid);
        let groups = entry.as_ref().map_or_else(Vec::new, |entry| self.groups_of(entry.name, gid));
        Ok(User { uid, gid, groups, home })
    }

    /// Reads `--chown`'s value to (uid, gid). A user without a group stands for both numbers' sake alone: a name
    /// brings its primary group, a number is used for the group too (Dockerfile reference, `COPY --chown`).
    pub fn owner(&self, spec: &str) -> Result<(u32, u32), AccountError> {
        let (name, group) = spec.split_once(':').unwrap_or((spec, ""));
        let entry = self.passwd_entry(name).filter(|_| name.parse::<u32>().is_err());
        let uid = match (&entry, name.parse::<u32>()) {
            (Some(entry), _) => entry.uid,
            (None, Ok(uid)) => uid,
            (None, Err(_)) if name.is_empty() => 0,
            (None, Err(_)) => return Err(AccountError::NoUser(name.into())),
        };
        let gid = if group.is_empty() { entry.map_or(uid, |entry| entry.gid) } else { self.group_id(group)? };
        Ok((uid, gid))
    }

    fn group_id(&self, group: &str) -> Result<u32, AccountError> {
        let named = self.group.lines().find_map(|line| {
            let mut fields = line.split(':');
            (fields.next() == Some(group)).then(|| fields.nth(1).and_then(|gid| gid.parse().ok())).flatten()
        });
        named.or_else(|| group.parse().ok()).ok_or_else(|| AccountError::NoGroup(group.into()))
    }

    /// The entry by name, else by number.
    fn passwd_entry(&self, name: &str) -> Option<PasswdEntry<'_>> {
        let uid = name.parse::<u32>().ok();
        let entries = || self.passwd.lines().filter_map(PasswdEntry::parse);
        entries().find(|entry| entry.name == name).or_else(|| entries().find(|entry| Some(entry.uid) == uid))
    }

    fn groups_of(&self, user: &str, primary: u32) -> Vec<u32> {
        let mut groups: Vec<u32> = self
            .group
            .lines()
            .filter_map(|line| {
                let fields: Vec<&str> = line.split(':').collect();
                let gid = fields.get(2)?.parse().ok()?;
                fields.get(3)?.split(',').any(|member| member.trim() == user).then_some(gid)
            })
            .filter(|gid| *gid != primary)
            .collect();
        groups.sort_unstable();
        groups.dedup();
        groups
    }
}

struct PasswdEntry<'a> {
    name: &'a str,
    uid: u32,
    gid: u32,
    home: &'a str,
}

impl<'a> PasswdEntry<'a> {
    fn parse(line: &'a str) -> Option<Self> {
        let fields: Vec<&str> = line.split(':').collect();
        let [name, _, uid, gid, _, home, ..] = fields.as_slice() else { return None };
        Some(Self { name, uid: uid.parse().ok()?, gid: gid.parse().ok()?, home })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn accounts() -> Accounts {
        Accounts {
            passwd: "root:x:0:0:root:/root:/bin/sh\napp:x:1000:1001::/home/app:/bin/sh\n77:x:5:6::/odd:\nbroken\n"
                .into(),
            group: "root:x:0:\nstaff:x:50:app,other\napp:x:1001:app\nweb:x:33:other, app\n".into(),
        }
    }

    #[test]
    fn users_are_read_as_runtimes_read_them() {
        for (spec, uid, gid, groups, home) in [
            ("", 0, 0, vec![], "/root"),
            ("app", 1000, 1001, vec![33, 50], "/home/app"),
            ("1000", 1000, 1001, vec![33, 50], "/home/app"),
            ("app:web", 1000, 33, vec![], "/home/app"),
            ("app:9", 1000, 9, vec![], "/home/app"),
            ("4242", 4242, 0, vec![], "/"),
            ("4242:7", 4242, 7, vec![], "/"),
            ("77", 5, 6, vec![], "/odd"),
        ] {
            let user = User { uid, gid, groups, home: home.into() };
            assert_eq!(accounts().user(spec), Ok(user), "{spec}");
        }
    }

    #[test]
    fn names_that_are_not_there_are_errors() {
        assert_eq!(accounts().user("nobody"), Err(AccountError::NoUser("nobody".into())));
        assert_eq!(accounts().user("app:none"), Err(AccountError::NoGroup("none".into())));
        assert_eq!(accounts().owner("nobody:0"), Err(AccountError::NoUser("nobody".into())));
        assert_eq!(Accounts::default().user("app"), Err(AccountError::NoUser("app".into())));
    }

    #[test]
    fn owners_are_read_as_the_dockerfile_reference_says() {
        for (spec, owner) in [
            ("app", (1000, 1001)),
            ("1000", (1000, 1000)),
            ("10:11", (10, 11)),
            ("app:staff", (1000, 50)),
            (":web", (0, 33)),
        ] {
            assert_eq!(accounts().owner(spec), Ok(owner), "{spec}");
        }
    }
}
