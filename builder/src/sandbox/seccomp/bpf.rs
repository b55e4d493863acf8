//! A tiny assembler: rules about system calls → a BPF program for seccomp(2).
//!
//! The program looks at the architecture, then searches for the number of the call by halves; calls that no rule names are
//! allowed. That is slow for nobody: since Linux 5.11 the kernel remembers which calls a filter always allows, for which
//! it runs the program once for every call there is when the filter is installed. It also compiles the program then, which
//! is what an instruction costs every step. Calls of
//! an architecture that the rules do not cover, those of x32 among them, end with `ENOSYS`: allowed, they would be a way
//! around the rules.

use std::collections::BTreeMap;

use libc::sock_filter;

use super::calls::{Abi, Call};

/// `BPF_*` of `linux/bpf_common.h`, as far as it is used here.
const LOAD_WORD: u16 = 0x20; // BPF_LD | BPF_W | BPF_ABS
const AND: u16 = 0x54; // BPF_ALU | BPF_AND | BPF_K
const JUMP: u16 = 0x05; // BPF_JMP | BPF_JA
const JUMP_EQUAL: u16 = 0x15; // BPF_JMP | BPF_JEQ | BPF_K
const JUMP_GREATER_EQUAL: u16 = 0x35; // BPF_JMP | BPF_JGE | BPF_K
const RETURN: u16 = 0x06; // BPF_RET | BPF_K

/// Where `struct seccomp_data` (linux/seccomp.h) has its fields.
const NUMBER: u32 = 0;
const ARCHITECTURE: u32 = 4;
const ARGUMENTS: u32 = 16;

/// `__X32_SYSCALL_BIT`: marks a call of x32 under the architecture of `x86_64`.
const X32: u32 = 0x4000_0000;

/// What becomes of a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in super::super) enum Action {
    /// It is made.
    Allow,
    /// It fails with this number and is not made.
    Errno(i32),
    /// The process that listens decides.
    Notify,
}

impl Action {
    fn code(self) -> u32 {
        match self {
            Self::Allow => libc::SECCOMP_RET_ALLOW,
            Self::Errno(number) => libc::SECCOMP_RET_ERRNO | (number.cast_unsigned() & 0xffff),
            Self::Notify => libc::SECCOMP_RET_USER_NOTIF,
        }
    }
}

/// A look at the lower 32 bits of an argument; the kernel uses no more of a flag, mode or option.
#[derive(Debug, Clone, Copy)]
pub(in super::super) struct Condition {
    /// Which argument, from 0.
    pub(in super::super) argument: u32,
    /// The bits that count.
    pub(in super::super) mask: u32,
    pub(in super::super) test: Test,
}

/// What the bits that count must be.
#[derive(Debug, Clone, Copy)]
pub(in super::super) enum Test {
    /// Exactly these.
    Is(u32),
    /// At least one of them is set.
    Any,
}

/// What becomes of one call: the first condition that holds decides.
#[derive(Debug, Clone)]
pub(in super::super) struct Rule {
    pub(in super::super) call: Call,
    pub(in super::super) cases: Vec<(Condition, Action)>,
    pub(in super::super) otherwise: Action,
}

impl Rule {
    /// The same for every such call.
    pub(in super::super) fn always(call: Call, action: Action) -> Self {
        Self { call, cases: Vec::new(), otherwise: action }
    }

    /// For such calls of which `condition` holds; the others are allowed.
    pub(in super::super) fn when(call: Call, condition: Condition, action: Action) -> Self {
        Self { call, cases: vec![(condition, action)], otherwise: Action::Allow }
    }
}

/// A program that the kernel runs before every system call.
#[derive(Debug, Clone)]
pub(in super::super) struct Program(pub(super) Vec<sock_filter>);

/// Makes a program of the rules that `rules_of` has for each ABI that this machine runs.
pub(in super::super) fn assemble(rules_of: impl Fn(Abi) -> Vec<Rule>) -> Program {
    let mut program = vec![load(ARCHITECTURE)];
    for &abi in Abi::ALL {
        let block = block(abi, &rules_of(abi));
        skip_unless(&mut program, JUMP_EQUAL, abi.architecture(), block);
    }
    program.push(give(Action::Errno(libc::ENOSYS)));
    Program(program)
}

fn block(abi: Abi, rules: &[Rule]) -> Vec<sock_filter> {
    let mut block = vec![load(NUMBER)];
    if abi == Abi::X86_64 {
        skip_unless(&mut block, JUMP_GREATER_EQUAL, X32, vec![give(Action::Errno(libc::ENOSYS))]);
    }
    let mut named = BTreeMap::new();
    for rule in rules {
        if let Some(number) = rule.call.number(abi) {
            // The first rule counts.
            named.entry(number).or_insert(rule);
        }
    }
    block.extend(search(&segments(&named)));
    block
}

/// Some numbers in a row that get the same answer: the first of them, and the rule, if there is one.
type Segment<'a> = (u32, Option<&'a Rule>);

/// All numbers there are, in as few segments as they need.
fn segments<'a>(named: &BTreeMap<u32, &'a Rule>) -> Vec<Segment<'a>> {
    let mut segments: Vec<Segment<'a>> = vec![(0, None)];
    let mut begin = |number: u32, rule: Option<&'a Rule>| match segments.last_mut() {
        Some((_, last)) if same(*last, rule) => {}
        Some((first, last)) if *first == number => *last = rule,
        _ => segments.push((number, rule)),
    };
    for (&number, &rule) in named {
        begin(number, Some(rule));
        if !named.contains_key(&(number + 1)) {
            begin(number + 1, None);
        }
    }
    segments
}

/// Whether both have one answer, the same one, whatever the arguments are.
fn same(one: Option<&Rule>, other: Option<&Rule>) -> bool {
    let answer = |rule: Option<&Rule>| match rule {
        None => Some(Action::Allow),
        Some(rule) => rule.cases.is_empty().then_some(rule.otherwise),
    };
    answer(one).is_some_and(|answer_of_one| answer(other) == Some(answer_of_one))
}

/// Answers the number that is loaded, which is in one of the segments.
fn search(segments: &[Segment<'_>]) -> Vec<sock_filter> {
    match segments {
        [] => vec![give(Action::Allow)],
        [(_, rule)] => body(*rule),
        _ => {
            let (lower, upper) = segments.split_at(segments.len() / 2);
            let mut found = Vec::new();
            skip_unless(&mut found, JUMP_GREATER_EQUAL, upper[0].0, search(upper));
            found.extend(search(lower));
            found
        }
    }
}

fn body(rule: Option<&Rule>) -> Vec<sock_filter> {
    let Some(rule) = rule else { return vec![give(Action::Allow)] };
    let mut body = Vec::new();
    for (condition, action) in &rule.cases {
        case(&mut body, *condition, *action);
    }
    body.push(give(rule.otherwise));
    body
}

fn case(body: &mut Vec<sock_filter>, condition: Condition, action: Action) {
    body.push(load(argument(condition.argument)));
    if condition.mask != u32::MAX {
        body.push(plain(AND, condition.mask));
    }
    match condition.test {
        Test::Is(value) => skip_unless(body, JUMP_EQUAL, value, vec![give(action)]),
        Test::Any => skip_unless(body, JUMP_GREATER_EQUAL, 1, vec![give(action)]),
    }
}

/// Appends `then`, which is left out unless the comparison holds. A conditional jump reaches 255 instructions, the other
/// kind all: where that is not enough one jumps over the other.
fn skip_unless(program: &mut Vec<sock_filter>, comparison: u16, value: u32, then: Vec<sock_filter>) {
    if let Ok(jf) = u8::try_from(then.len()) {
        program.push(sock_filter { code: comparison, jt: 0, jf, k: value });
    } else {
        let length = u32::try_from(then.len()).expect("a program of the kernel has at most 4096 instructions");
        program.push(sock_filter { code: comparison, jt: 1, jf: 0, k: value });
        program.push(plain(JUMP, length));
    }
    program.extend(then);
}

fn load(offset: u32) -> sock_filter {
    plain(LOAD_WORD, offset)
}

/// Where the lower half of an argument is.
fn argument(number: u32) -> u32 {
    ARGUMENTS + 8 * number + if cfg!(target_endian = "big") { 4 } else { 0 }
}

fn give(action: Action) -> sock_filter {
    plain(RETURN, action.code())
}

fn plain(code: u16, k: u32) -> sock_filter {
    sock_filter { code, jt: 0, jf: 0, k }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What the program says to a call, as the kernel would run it.
    fn run(program: &Program, architecture: u32, number: u32, arguments: [u64; 6]) -> u32 {
        let word = |offset: u32| match offset {
            NUMBER => number,
            ARCHITECTURE => architecture,
            offset => {
                let argument = arguments[((offset - ARGUMENTS) / 8) as usize];
                u32::try_from((argument >> (8 * ((offset - ARGUMENTS) % 8))) & 0xffff_ffff).unwrap()
            }
        };
        let (mut at, mut a) = (0, 0);
        loop {
            let sock_filter { code, jt, jf, k } = program.0[at];
            at += 1;
            let jump = |holds: bool| usize::from(if holds { jt } else { jf });
            match code {
                LOAD_WORD => a = word(k),
                AND => a &= k,
                JUMP => at += k as usize,
                JUMP_EQUAL => at += jump(a == k),
                JUMP_GREATER_EQUAL => at += jump(a >= k),
                RETURN => return k,
                other => panic!("{other:x}"),
            }
        }
    }

    fn program() -> Program {
        let creates = Condition { argument: 1, mask: 0o100, test: Test::Any };
        let magic = Condition { argument: 0, mask: u32::MAX, test: Test::Is(8) };
        assemble(|_| {
            vec![
                Rule::always(Call::Mkdirat, Action::Notify),
                Rule {
                    call: Call::Openat,
                    cases: vec![(creates, Action::Notify), (magic, Action::Errno(1))],
                    otherwise: Action::Allow,
                },
            ]
        })
    }

    #[test]
    fn a_call_gets_what_its_rule_says_on_every_abi() {
        let program = program();
        for &abi in Abi::ALL {
            let ask = |call: Call, arguments| run(&program, abi.architecture(), call.number(abi).unwrap(), arguments);
            assert_eq!(ask(Call::Mkdirat, [0; 6]), libc::SECCOMP_RET_USER_NOTIF);
            assert_eq!(ask(Call::Openat, [0, 0o101, 0, 0, 0, 0]), libc::SECCOMP_RET_USER_NOTIF);
            assert_eq!(ask(Call::Openat, [8, 0, 0, 0, 0, 0]), libc::SECCOMP_RET_ERRNO | 1);
            assert_eq!(ask(Call::Openat, [0, 0x40_0000_0000, 0, 0, 0, 0]), libc::SECCOMP_RET_ALLOW);
            assert_eq!(ask(Call::Statx, [0; 6]), libc::SECCOMP_RET_ALLOW);
        }
    }

    #[test]
    fn each_of_many_calls_is_found_and_no_other() {
        let calls = [Call::Mount, Call::Umount2, Call::Unshare, Call::Setns, Call::Bpf, Call::Keyctl, Call::Kcmp];
        for count in 0..=calls.len() {
            let rules = || (1..).zip(&calls[..count]).map(|(errno, call)| Rule::always(*call, Action::Errno(errno)));
            let program = assemble(|_| rules().collect());
            for &abi in Abi::ALL {
                let known: BTreeMap<u32, u32> =
                    (1..).zip(&calls[..count]).map(|(errno, call)| (call.number(abi).unwrap(), errno)).collect();
                for number in 0..1000 {
                    let expected =
                        known.get(&number).map_or(libc::SECCOMP_RET_ALLOW, |errno| libc::SECCOMP_RET_ERRNO | errno);
                    assert_eq!(run(&program, abi.architecture(), number, [0; 6]), expected, "{number}");
                }
            }
        }
    }

    #[test]
    fn calls_in_a_row_with_one_answer_need_no_more_instructions_than_one() {
        let abi = Abi::ALL[0];
        let length = |calls: &[Call]| {
            let rules: Vec<Rule> = calls.iter().map(|call| Rule::always(*call, Action::Errno(1))).collect();
            block(abi, &rules).len()
        };
        let row = [Call::Fsopen, Call::Fsconfig, Call::Fsmount, Call::Fspick];
        let numbers: Vec<u32> = row.iter().map(|call| call.number(abi).unwrap()).collect();
        assert!(numbers.is_sorted_by(|one, next| one + 1 == *next), "{numbers:?}");
        assert_eq!(length(&row), length(&row[..1]));
    }

    #[test]
    fn there_is_no_way_around_through_another_abi() {
        let refused = libc::SECCOMP_RET_ERRNO | libc::ENOSYS.cast_unsigned();
        let program = program();
        assert_eq!(run(&program, 0xdead_beef, 1, [0; 6]), refused);
        if let Some(number) = Call::Statx.number(Abi::X86_64) {
            assert_eq!(run(&program, Abi::X86_64.architecture(), number | X32, [0; 6]), refused);
        }
    }

    #[test]
    fn a_program_with_long_bodies_still_jumps_to_its_ends() {
        let case = |value| (Condition { argument: 0, mask: u32::MAX, test: Test::Is(value) }, Action::Errno(1));
        let long = Rule { call: Call::Openat, cases: (0..300).map(case).collect(), otherwise: Action::Notify };
        let program = assemble(|_| vec![long.clone(), Rule::always(Call::Mkdirat, Action::Notify)]);
        let abi = Abi::ALL[0];
        let ask =
            |call: Call, first| run(&program, abi.architecture(), call.number(abi).unwrap(), [first, 0, 0, 0, 0, 0]);
        assert_eq!(ask(Call::Openat, 299), libc::SECCOMP_RET_ERRNO | 1);
        assert_eq!(ask(Call::Openat, 300), libc::SECCOMP_RET_USER_NOTIF);
        assert_eq!(ask(Call::Mkdirat, 0), libc::SECCOMP_RET_USER_NOTIF);
    }
}
