//! Which process has which credentials.
//!
//! The kernel itself carries the answer: a number, in the soft `RLIMIT_LOCKS` of the process. That limit means nothing
//! since Linux 2.6 and is inherited over fork(2) and execve(2) as credentials are; so no birth and no death has to be
//! noticed, and no process id that comes again has the credentials of a dead one. The step cannot change the limit: its
//! calls that would are answered as if they had.

use std::collections::HashMap;
use std::rc::Rc;

use rustix::io::Errno;

use super::credentials::Credentials;

/// Which limit it is.
pub(super) const LIMIT: u32 = libc::RLIMIT_LOCKS;

/// All credentials that there were.
#[derive(Debug, Clone)]
pub(super) struct Identities {
    known: Vec<Rc<Credentials>>,
    numbers: HashMap<Rc<Credentials>, usize>,
    /// Whether any of them has another root.
    other_roots: bool,
}

impl Identities {
    pub(super) fn new() -> Self {
        let root = Rc::new(Credentials::root());
        Self { known: vec![Rc::clone(&root)], numbers: HashMap::from([(root, 0)]), other_roots: false }
    }

    /// The credentials of a thread's process; root's where there is no such process.
    pub(super) fn of(&self, thread: i32) -> Rc<Credentials> {
        if self.known.len() == 1 {
            return Rc::clone(&self.known[0]);
        }
        let number = limit(thread, None).ok().and_then(|number| usize::try_from(number).ok());
        let known = number.and_then(|number| self.known.get(number));
        Rc::clone(known.unwrap_or(&self.known[0]))
    }

    /// Whether the root of a thread's process is not that of the step. Few steps have such processes, so most calls do not
    /// have to ask.
    pub(super) fn has_changed_root(&self, thread: i32) -> bool {
        self.other_roots && self.of(thread).changed_root
    }

    /// Gives a thread's process other credentials.
    pub(super) fn set(&mut self, thread: i32, credentials: Credentials) -> Result<(), Errno> {
        self.other_roots |= credentials.changed_root;
        let credentials = Rc::new(credentials);
        let number = *self.numbers.entry(Rc::clone(&credentials)).or_insert(self.known.len());
        if number == self.known.len() {
            self.known.push(credentials);
        }
        limit(thread, Some(number as u64)).map(drop)
    }
}

/// Makes this process one of root's, before it is watched.
pub(in super::super) fn begin() -> Result<(), Errno> {
    limit(0, Some(0)).map(drop)
}

/// Reads, and sets, the soft limit of a process; 0 is this one.
fn limit(thread: i32, new: Option<u64>) -> Result<u64, Errno> {
    let mut found = libc::rlimit64 { rlim_cur: 0, rlim_max: 0 };
    prlimit(thread, None, &mut found)?;
    if let Some(new) = new {
        let changed = libc::rlimit64 { rlim_cur: new, ..found };
        prlimit(thread, Some(&changed), &mut found)?;
    }
    Ok(found.rlim_cur)
}

fn prlimit(thread: i32, new: Option<&libc::rlimit64>, old: &mut libc::rlimit64) -> Result<(), Errno> {
    let new = new.map_or(std::ptr::null(), std::ptr::from_ref);
    // SAFETY: the call reads `new` unless it is null, and writes `old`; both live over it.
    let result = unsafe { libc::syscall(libc::SYS_prlimit64, thread, LIMIT, new, std::ptr::from_mut(old)) };
    if result == 0 {
        return Ok(());
    }
    Err(Errno::from_io_error(&std::io::Error::last_os_error()).unwrap_or(Errno::IO))
}

#[cfg(test)]
mod tests {
    use super::super::super::probe::in_child;
    use super::super::super::spec::Attempt;
    use super::super::credentials::Change;
    use super::*;

    #[test]
    fn a_child_has_what_its_parent_had_when_it_was_born() {
        let [before, after] = in_child(|| {
            begin().attempt(|| "begin".to_owned())?;
            let mut identities = Identities::new();
            let mut user = Credentials::root();
            user.change_uid(Change::One(1000)).attempt(|| "become a user".to_owned())?;
            let before = identities.of(0).uid.real;
            identities.set(0, user).attempt(|| "set".to_owned())?;
            let after = in_child(|| Ok(identities.of(0).uid.real))?;
            Ok([before, after])
        })
        .unwrap();
        assert_eq!([before, after], [0, 1000]);
    }
}
