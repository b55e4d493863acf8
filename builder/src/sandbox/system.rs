//! The system calls that no crate of the workspace wraps, each behind a safe function.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd, FromRawFd};
use std::panic::{AssertUnwindSafe, catch_unwind};

use nix::sched::{CloneFlags, clone};
use nix::sys::socket::{AddressFamily, SockFlag, SockType, socket};
use nix::unistd::ForkResult;
use rustix::process::Pid;

/// The exit code of a child whose code panicked (`EX_SOFTWARE`).
const PANICKED: u8 = 70;
/// Bytes of stack for a child in the memory of its parent: as much as a thread of the standard library gets.
const STACK: usize = 2 << 20;

/// Forks, runs `child` in the child and ends it with the code that it returns. The caller must have one thread.
pub(super) fn fork(child: impl FnOnce() -> u8) -> io::Result<Pid> {
    // SAFETY: the process has one thread (the contract above), so no lock of another thread is held in the child,
    // which may therefore allocate; and it never returns into the caller's frames: it ends in `leave`.
    match unsafe { nix::unistd::fork() }? {
        ForkResult::Parent { child } => Pid::from_raw(child.as_raw()).ok_or_else(|| io::ErrorKind::InvalidData.into()),
        ForkResult::Child => leave(catch_unwind(AssertUnwindSafe(child)).unwrap_or(PANICKED)),
    }
}

/// Does what [`fork`] does without a copy of the memory: this process goes on when the child has executed a program or has
/// ended. The child may change what it likes of itself, and of the memory what this process can bear.
pub(super) fn fork_in_memory(child: impl FnOnce() -> u8) -> io::Result<Pid> {
    let mut stack = vec![0; STACK];
    let mut child = Some(child);
    let run = || {
        let run = child.take().map(|child| catch_unwind(AssertUnwindSafe(child)));
        leave(run.and_then(Result::ok).unwrap_or(PANICKED))
    };
    let flags = CloneFlags::CLONE_VM | CloneFlags::CLONE_VFORK;
    // SAFETY: the process has one thread (the contract above), which the kernel stops until the child does not use the
    // memory any more: so nothing is used by two, and the stack outlives its use. The child never returns: it ends in `leave`.
    let pid = unsafe { clone(Box::new(run), &mut stack, flags, Some(libc::SIGCHLD)) }?;
    Pid::from_raw(pid.as_raw()).ok_or_else(|| io::ErrorKind::InvalidData.into())
}

/// Makes a copy of this process, which must have one thread, as another child of its parent (`CLONE_PARENT`, clone(2)).
/// Tells whether this is the copy.
pub(super) fn fork_sibling() -> io::Result<bool> {
    let flags = libc::c_long::from(libc::CLONE_PARENT | libc::SIGCHLD);
    // SAFETY: without CLONE_VM, and with no stack given, the copy has its own memory and goes on from here as after
    // fork(2); the process has one thread (the contract above), so no lock is held in the copy by a thread it lacks.
    match unsafe { libc::syscall(libc::SYS_clone, flags, 0_usize, 0_usize, 0_usize, 0_usize) } {
        -1 => Err(io::Error::last_os_error()),
        pid => Ok(pid == 0),
    }
}

/// Ends the process at once: no destructor, no exit handler and no flush of what the parent had buffered.
pub(super) fn leave(code: u8) -> ! {
    // SAFETY: `_exit` takes any number and does not return.
    unsafe { libc::_exit(i32::from(code)) }
}

/// Closes whatever rbuild inherited and an init therefore has, opens `/dev/null` for descriptor 0, and gives back what
/// 0 was, closed on exec. To be called before anything else is opened.
pub(super) fn take_stdin() -> io::Result<File> {
    // SAFETY: the process has opened nothing yet, so no descriptor above 2 has an owner here.
    let closed = unsafe { libc::syscall(libc::SYS_close_range, 3_u32, u32::MAX, 0_u32) };
    if closed != 0 {
        return Err(io::Error::last_os_error());
    }
    let taken = io::stdin().as_fd().try_clone_to_owned()?;
    let null = fs_err::File::open("/dev/null")?;
    nix::unistd::dup2_stdin(&null)?;
    Ok(File::from(taken))
}

/// Takes the descriptors that a message brought.
pub(super) fn adopt(descriptors: &[i32]) -> Vec<File> {
    // SAFETY: `recvmsg` has just installed them for us and nothing else knows them, so each has one owner.
    descriptors.iter().map(|&descriptor| unsafe { File::from_raw_fd(descriptor) }).collect()
}

/// `struct mount_attr` of linux/mount.h.
#[repr(C)]
#[derive(Default)]
struct MountAttr {
    set: u64,
    clear: u64,
    propagation: u64,
    user_namespace: u64,
}

/// Adds `attributes` (`MOUNT_ATTR_*`) to the mount that `mount` is the root of and to everything below it, and cuts
/// them off from the propagation of others. Unlike a remount it never drops an attribute, which a user namespace that
/// did not make the mount may not do. Linux 5.12.
pub(super) fn restrict_mounts(mount: impl AsFd, attributes: u64) -> io::Result<()> {
    let attr = MountAttr { set: attributes, propagation: libc::MS_PRIVATE, ..MountAttr::default() };
    // SAFETY: the path is an empty C string, `attr` lives over the call and its true size is given.
    let result = unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            mount.as_fd().as_raw_fd(),
            c"".as_ptr(),
            libc::AT_EMPTY_PATH | libc::AT_RECURSIVE,
            &raw const attr,
            size_of::<MountAttr>(),
        )
    };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// A structure of the kernel.
///
/// # Safety
/// It must have no padding.
pub(super) unsafe trait Plain: Copy {}

// SAFETY: the `struct stat` of 64-bit kernels names all of its bytes.
unsafe impl Plain for rustix::fs::Stat {}
// SAFETY: so does `struct statx`.
unsafe impl Plain for rustix::fs::Statx {}

/// The bytes of a structure.
pub(super) fn bytes_of<T: Plain>(value: &T) -> &[u8] {
    // SAFETY: the value lives as long as the result, and its type has no padding, so every byte of it was written.
    unsafe { std::slice::from_raw_parts(std::ptr::from_ref(value).cast(), size_of::<T>()) }
}

/// Brings the loopback interface of this network namespace up.
pub(super) fn loopback_up() -> io::Result<()> {
    let socket = socket(AddressFamily::Inet, SockType::Datagram, SockFlag::SOCK_CLOEXEC, None)?;
    // SAFETY: an all-zero `ifreq` is a valid value of that plain C struct.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    for (slot, byte) in request.ifr_name.iter_mut().zip(b"lo") {
        *slot = libc::c_char::try_from(*byte).map_err(io::Error::other)?;
    }
    request.ifr_ifru.ifru_flags = libc::c_short::try_from(libc::IFF_UP).map_err(io::Error::other)?;
    // SAFETY: SIOCSIFFLAGS reads an `ifreq` with a terminated name and flags, which `request` is over the whole call.
    let result = unsafe { libc::ioctl(socket.as_raw_fd(), libc::SIOCSIFFLAGS, &raw const request) };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Leaves the session keyring that was inherited, and the keys of the user in it. Kernels without keys, and sandboxes
/// that forbid the call, have nothing to leave.
pub(super) fn leave_keyring() {
    const KEYCTL_JOIN_SESSION_KEYRING: libc::c_ulong = 1;
    // SAFETY: a null name asks for an anonymous keyring; no memory is passed.
    let result =
        unsafe { libc::syscall(libc::SYS_keyctl, KEYCTL_JOIN_SESSION_KEYRING, std::ptr::null::<libc::c_char>()) };
    debug_assert!(result != 0, "a keyring's serial number is never 0");
}

/// Gives every signal its default action, as programs expect it: Rust ignores SIGPIPE, and whoever started rbuild may have
/// had it ignore others.
pub(super) fn default_signals() {
    // The kernel's own call, because the C library keeps two signals for itself.
    const DEFAULT: [u64; 4] = [0; 4];
    for signal in 1..=64 {
        // SAFETY: an all-zero `struct sigaction` of the kernel, which has at most 32 bytes, is SIG_DFL and installs no
        // code; 8 is the size of its mask; for the two signals that cannot be set the call fails and changes nothing.
        unsafe { libc::syscall(libc::SYS_rt_sigaction, signal, DEFAULT.as_ptr(), std::ptr::null::<u64>(), 8_usize) };
    }
}

/// Unblocks all signals, as programs expect it.
pub(super) fn unblock_signals() {
    let unblocked = nix::sys::signal::SigSet::all().thread_unblock();
    debug_assert!(unblocked.is_ok(), "every signal may be unblocked");
}

/// Marks every descriptor above 2 to be closed by `execve`.
pub(super) fn close_on_exec() -> io::Result<()> {
    // SAFETY: the call only sets a flag on descriptors; nothing is closed under an owner.
    let result = unsafe { libc::syscall(libc::SYS_close_range, 3_u32, u32::MAX, libc::CLOSE_RANGE_CLOEXEC) };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}
