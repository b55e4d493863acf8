//! Which calls of a step are handed over, and which a filter answers alone.

use std::sync::LazyLock;

use serde::{Deserialize, Serialize};

use super::super::seccomp::{Action, Call, Condition, PAST, Program, Rule, Test, assemble, default_rules};
use super::identity;

/// How root of a step that has only one id gets others.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub enum RootEmulation {
    /// Ids, owners and devices are what they would be, and come into the layer.
    #[default]
    Full,
    /// Changing them succeeds and changes nothing: quicker; every file of the layer is root's.
    Filter,
    /// Changing them fails, as the kernel has it.
    None,
}

impl RootEmulation {
    /// The name that the user chooses it by.
    pub fn name(self) -> &'static str {
        match self {
            Self::Full => "full",
            Self::Filter => "filter",
            Self::None => "none",
        }
    }

    /// The one with this name.
    pub fn of_name(name: &str) -> Option<Self> {
        [Self::Full, Self::Filter, Self::None].into_iter().find(|emulation| emulation.name() == name)
    }
}

/// The filter of a step, if it has another one than every step: that, and what the emulation needs. One program is quicker
/// to install, and to run, than two.
pub(in super::super) fn program(emulation: RootEmulation) -> Option<&'static Program> {
    static FULL: LazyLock<Program> = LazyLock::new(|| assemble(|_| with_usual(full())));
    static FILTER: LazyLock<Program> = LazyLock::new(|| assemble(|_| with_usual(filter())));
    match emulation {
        RootEmulation::Full => Some(&FULL),
        RootEmulation::Filter => Some(&FILTER),
        RootEmulation::None => None,
    }
}

/// What is handed over of a step whose processes alone are all root's, and what `others` hand over of it.
pub(in super::super) fn rules_beside(others: Vec<Rule>) -> Vec<Rule> {
    // The first rule for a call counts: one that hands over all of them before one that has exceptions.
    let (always, sometimes): (Vec<_>, Vec<_>) = processes().into_iter().partition(|rule| rule.cases.is_empty());
    always.into_iter().chain(others).chain(sometimes).collect()
}

/// Changes of owners, with ids of 32 and of 16 bits.
const CHOWN: &[Call] =
    &[Call::Chown, Call::Lchown, Call::Fchown, Call::Fchownat, Call::Chown16, Call::Lchown16, Call::Fchown16];

/// Changes of ids.
const SET_IDS: &[Call] = &[
    Call::Setuid,
    Call::Setgid,
    Call::Setreuid,
    Call::Setregid,
    Call::Setresuid,
    Call::Setresgid,
    Call::Setfsuid,
    Call::Setfsgid,
    Call::Setgroups,
    Call::Setuid16,
    Call::Setgid16,
    Call::Setreuid16,
    Call::Setregid16,
    Call::Setresuid16,
    Call::Setresgid16,
    Call::Setfsuid16,
    Call::Setfsgid16,
    Call::Setgroups16,
    Call::Capset,
];

/// What tells that owners are recorded.
pub(super) const LOOKS: &[Call] = &[
    Call::Stat,
    Call::Lstat,
    Call::Fstat,
    Call::Fstatat,
    Call::Statx,
    Call::StatOld,
    Call::LstatOld,
    Call::FstatOld,
    Call::Listxattr,
    Call::Llistxattr,
    Call::Flistxattr,
];

/// What else is handed over, whatever its arguments are.
const OTHERS: &[Call] = &[
    Call::Openat2,
    Call::Creat,
    Call::Mkdir,
    Call::Mkdirat,
    Call::Symlink,
    Call::Symlinkat,
    Call::Mknod,
    Call::Mknodat,
    Call::Execve,
    Call::Execveat,
    Call::Getuid,
    Call::Geteuid,
    Call::Getgid,
    Call::Getegid,
    Call::Getresuid,
    Call::Getresgid,
    Call::Getgroups,
    Call::Getuid16,
    Call::Geteuid16,
    Call::Getgid16,
    Call::Getegid16,
    Call::Getresuid16,
    Call::Getresgid16,
    Call::Getgroups16,
];

/// Forms of stat(2) that Linux has replaced in 1993, and one of listxattr(2) that programs do without (Linux 6.13).
const GONE: &[Call] = &[Call::StatOldest, Call::LstatOldest, Call::FstatOldest, Call::Listxattrat];

/// What no step may call comes first, for the first rule counts.
fn with_usual(rules: Vec<Rule>) -> Vec<Rule> {
    default_rules().into_iter().chain(rules).collect()
}

fn full() -> Vec<Rule> {
    let notify = |call: &Call| Rule::always(*call, Action::Notify);
    let keeps = Rule::when(Call::Prctl, sets(libc::PR_SET_KEEPCAPS), Action::Notify);
    let gone = GONE.iter().map(|call| Rule::always(*call, Action::Errno(libc::ENOSYS)));
    // Of a process with another root its owner's place is found otherwise.
    let looks = LOOKS.iter().chain([&Call::Chroot]).map(notify);
    let peer = Rule::when(Call::Getsockopt, peer(), Action::Notify);
    looks.chain(of_ids()).chain([keeps, peer]).chain(gone).collect()
}

/// For processes that only seem to be somebody's, with files that are.
fn processes() -> Vec<Rule> {
    // What nobody may look into this process could not answer for either: nothing of that sort is done.
    let hides = (sets(libc::PR_SET_DUMPABLE), Action::Errno(0));
    let cases = vec![(sets(libc::PR_SET_KEEPCAPS), Action::Notify), hides];
    let process = Rule { call: Call::Prctl, cases, otherwise: Action::Allow };
    let told = Condition { argument: 5, mask: u32::MAX, test: Test::Is(PAST) };
    let cases = vec![(told, Action::Allow), (peer(), Action::Notify)];
    let socket = Rule { call: Call::Getsockopt, cases, otherwise: Action::Allow };
    of_ids().into_iter().chain([process, socket]).collect()
}

/// getsockopt(2) of whom a socket is connected to.
fn peer() -> Condition {
    Condition { argument: 2, mask: u32::MAX, test: Test::Is(libc::SO_PEERCRED.cast_unsigned()) }
}

/// prctl(2) with this option.
fn sets(option: i32) -> Condition {
    Condition { argument: 0, mask: u32::MAX, test: Test::Is(option.cast_unsigned()) }
}

/// What has to do with the ids of processes, and with whose the files are that they make.
fn of_ids() -> Vec<Rule> {
    let creates = libc::O_CREAT.cast_unsigned() | TMPFILE;
    let one_of = |argument, mask| Condition { argument, mask, test: Test::Any };
    let is = |argument, value| Condition { argument, mask: u32::MAX, test: Test::Is(value) };
    let notify = |call: &Call| Rule::always(*call, Action::Notify);
    let mut rules: Vec<Rule> = OTHERS.iter().chain(CHOWN).chain(SET_IDS).map(notify).collect();
    rules.extend([
        Rule::when(Call::Open, one_of(1, creates), Action::Notify),
        Rule::when(Call::Openat, one_of(2, creates), Action::Notify),
        Rule::when(Call::Setrlimit, is(0, identity::LIMIT), Action::Notify),
    ]);
    // prlimit(2) with a new limit has an address as its third argument.
    let reads = Condition { argument: 2, mask: u32::MAX, test: Test::Is(0) };
    let limit = is(1, identity::LIMIT);
    rules.push(Rule {
        call: Call::Prlimit64,
        cases: vec![(reads, Action::Allow), (limit, Action::Notify)],
        otherwise: Action::Allow,
    });
    rules
}

/// `__O_TMPFILE` of the kernel: `O_TMPFILE` without `O_DIRECTORY`.
pub(super) const TMPFILE: u32 = (libc::O_TMPFILE & !libc::O_DIRECTORY).cast_unsigned();

fn filter() -> Vec<Rule> {
    let succeed = Action::Errno(0);
    let kind = |argument, kind: u32| Condition { argument, mask: libc::S_IFMT, test: Test::Is(kind) };
    let devices = |argument| [libc::S_IFCHR, libc::S_IFBLK].map(|of| (kind(argument, of), succeed)).to_vec();
    let mut rules: Vec<Rule> = CHOWN.iter().chain(SET_IDS).map(|call| Rule::always(*call, succeed)).collect();
    rules.push(Rule { call: Call::Mknod, cases: devices(1), otherwise: Action::Allow });
    rules.push(Rule { call: Call::Mknodat, cases: devices(2), otherwise: Action::Allow });
    rules
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_either_of_two_hands_over_both_together_do() {
        let others =
            || vec![Rule::always(Call::Open, Action::Notify), Rule::when(Call::Fchownat, peer(), Action::Notify)];
        let both = rules_beside(others());
        let first = |call| both.iter().find(|rule| rule.call == call).unwrap();
        for rule in others().into_iter().chain(processes()) {
            let first = first(rule.call);
            assert!(first.cases.is_empty() || !rule.cases.is_empty(), "{rule:?} is weaker than {first:?}");
            assert_ne!((first.cases.len(), first.otherwise), (0, Action::Allow), "{first:?}");
        }
        assert!(!both.iter().any(|rule| LOOKS.contains(&rule.call)), "the kernel tells whose a file is");
    }

    #[test]
    fn no_call_has_two_rules() {
        let usual: Vec<Call> = default_rules().iter().map(|rule| rule.call).collect();
        let twice = full().into_iter().chain(processes()).chain(filter()).find(|rule| usual.contains(&rule.call));
        assert!(twice.is_none(), "{twice:?}: the other one would never count");
    }
}
