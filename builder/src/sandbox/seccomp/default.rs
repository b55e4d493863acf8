//! What no step may call: what Docker's default profile keeps from a container with the default capabilities (Docker
//! documentation, "Seccomp security profiles for Docker").
//!
//! Docker's profile lists what is allowed. This one lists what is not, so that calls which Linux will have one day are
//! no surprise to programs: a step has no more than the capabilities of [`capabilities`](super::super::capabilities),
//! which the kernel asks for in new calls.

use std::sync::LazyLock;

use super::bpf::{Action, Condition, Program, Rule, Test, assemble};
use super::calls::{Abi, Call};

/// Calls that need a capability that a step does not have, or that reach beyond its namespaces.
const FORBIDDEN: &[Call] = &[
    // Mounts and roots.
    Call::Mount,
    Call::Umount,
    Call::Umount2,
    Call::PivotRoot,
    Call::Fsopen,
    Call::Fsconfig,
    Call::Fsmount,
    Call::Fspick,
    Call::MoveMount,
    Call::OpenTree,
    Call::MountSetattr,
    Call::OpenByHandleAt,
    Call::FanotifyInit,
    Call::Quotactl,
    Call::QuotactlFd,
    Call::Swapon,
    Call::Swapoff,
    // Namespaces, whose root has capabilities that a step has not.
    Call::Unshare,
    Call::Setns,
    Call::Sethostname,
    Call::Setdomainname,
    // The kernel itself.
    Call::InitModule,
    Call::FinitModule,
    Call::DeleteModule,
    Call::CreateModule,
    Call::QueryModule,
    Call::GetKernelSyms,
    Call::KexecLoad,
    Call::KexecFileLoad,
    Call::Bpf,
    Call::PerfEventOpen,
    Call::Userfaultfd,
    Call::IoUringSetup,
    Call::IoUringEnter,
    Call::IoUringRegister,
    Call::LookupDcookie,
    Call::Syslog,
    Call::Reboot,
    Call::Acct,
    Call::Uselib,
    Call::Ustat,
    Call::Sysfs,
    Call::Sysctl,
    Call::Nfsservctl,
    // Keyrings, which no namespace separates.
    Call::AddKey,
    Call::RequestKey,
    Call::Keyctl,
    // The machine: its clock, its ports, its memory.
    Call::Settimeofday,
    Call::Stime,
    Call::ClockSettime,
    Call::ClockSettime64,
    Call::Ioperm,
    Call::Iopl,
    Call::Vm86,
    Call::Vm86old,
    Call::Vhangup,
    Call::GetMempolicy,
    Call::SetMempolicy,
    Call::SetMempolicyHomeNode,
    Call::Mbind,
    Call::MovePages,
    // Other processes. ptrace(2) and process_vm_readv(2) look at credentials well enough since Linux 4.8.
    Call::Kcmp,
    Call::PidfdGetfd,
    Call::ProcessMadvise,
];

/// Every `CLONE_NEW*` of linux/sched.h that clone(2) takes.
const NEW_NAMESPACES: u32 = (libc::CLONE_NEWNS
    | libc::CLONE_NEWCGROUP
    | libc::CLONE_NEWUTS
    | libc::CLONE_NEWIPC
    | libc::CLONE_NEWUSER
    | libc::CLONE_NEWPID
    | libc::CLONE_NEWNET)
    .cast_unsigned();

/// What personality(2) may be: Linux, of 32 bits, with an old version number, and the question which it is.
const PERSONALITIES: [u32; 5] = [0x0, 0x8, 0x2_0000, 0x2_0008, 0xffff_ffff];

/// The filter of every step.
pub(in super::super) fn default() -> &'static Program {
    static PROGRAM: LazyLock<Program> = LazyLock::new(|| assemble(|_: Abi| default_rules()));
    &PROGRAM
}

/// What it is made of.
pub(in super::super) fn default_rules() -> Vec<Rule> {
    let refuse = Action::Errno(libc::EPERM);
    let is = |value| Condition { argument: 0, mask: u32::MAX, test: Test::Is(value) };
    let mut rules: Vec<Rule> = FORBIDDEN.iter().map(|call| Rule::always(*call, refuse)).collect();
    let namespaces = Condition { argument: 0, mask: NEW_NAMESPACES, test: Test::Any };
    rules.extend([
        Rule::when(Call::Clone, namespaces, refuse),
        // Its flags are in memory, where a filter cannot see them: programs go on with clone(2).
        Rule::always(Call::Clone3, Action::Errno(libc::ENOSYS)),
        Rule {
            call: Call::Personality,
            cases: PERSONALITIES.iter().map(|value| (is(*value), Action::Allow)).collect(),
            otherwise: refuse,
        },
        // Sockets to the host of a virtual machine belong to no network namespace.
        Rule::when(Call::Socket, is(libc::AF_VSOCK.cast_unsigned()), refuse),
    ]);
    rules
}

#[cfg(test)]
mod tests {
    use super::super::super::probe::in_child;
    use super::super::super::spec::Attempt;
    use super::super::listener::install;
    use super::*;

    /// The answers of a filtered process: 0, or the number of the error.
    fn ask(calls: &[(i64, [i64; 3])]) -> Vec<i32> {
        let calls = calls.to_vec();
        in_child(|| {
            rustix::thread::set_no_new_privs(true).attempt(|| "give up new privileges".to_owned())?;
            install(default()).attempt(|| "install the filter".to_owned())?;
            // SAFETY: the calls below take no address but null, which the kernel checks.
            let ask = |(number, [a, b, c]): &(i64, [i64; 3])| match unsafe { libc::syscall(*number, *a, *b, *c) } {
                -1 => std::io::Error::last_os_error().raw_os_error().unwrap_or(-1),
                _ => 0,
            };
            Ok(calls.iter().map(ask).collect())
        })
        .unwrap()
    }

    #[test]
    fn what_docker_forbids_is_refused_and_what_programs_need_is_not() {
        let none = [0; 3];
        let flags = |flags: i32| [i64::from(flags), 0, 0];
        let answers = ask(&[
            (libc::SYS_unshare, flags(libc::CLONE_NEWUSER)),
            (libc::SYS_clone, flags(libc::CLONE_NEWUSER | libc::SIGCHLD)),
            (libc::SYS_clone3, none),
            (libc::SYS_mount, none),
            (libc::SYS_keyctl, none),
            (libc::SYS_io_uring_setup, none),
            (libc::SYS_personality, [0x4_0000, 0, 0]),
            (libc::SYS_socket, [i64::from(libc::AF_VSOCK), i64::from(libc::SOCK_STREAM), 0]),
            (libc::SYS_personality, [0xffff_ffff, 0, 0]),
            (libc::SYS_socket, [i64::from(libc::AF_UNIX), i64::from(libc::SOCK_STREAM), 0]),
            (libc::SYS_getpid, none),
            (libc::SYS_ptrace, [i64::from(libc::PTRACE_TRACEME), 0, 0]),
        ]);
        let (no, missing) = (libc::EPERM, libc::ENOSYS);
        assert_eq!(answers, [no, no, missing, no, no, no, no, no, 0, 0, 0, 0]);
    }
}
