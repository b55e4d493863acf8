//! Installing a filter, and serving the calls that it hands over.
//!
//! The loop knows no call: it reads notifications and gives each to a [`Handler`], whose [`Reply`] it passes back. A
//! process that dies while its call is handled is no error: whoever notices goes on with the next call.

use std::io::{self, IoSlice, IoSliceMut};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::os::unix::net::UnixStream;

use nix::cmsg_space;
use nix::sys::socket::{ControlMessage, ControlMessageOwned, MsgFlags, UnixAddr, recvmsg, sendmsg};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;

use super::super::system;
use super::bpf::Program;
use super::calls::Abi;
use super::divert::{Instead, divert};

/// `SECCOMP_USER_NOTIF_FD_SYNC_WAKE_UP`: the kernel wakes the other side on the same processor (Linux 6.6).
const SYNC_WAKE_UP: u64 = 1;

/// What is answered to a call.
#[derive(Debug)]
pub(in super::super) enum Reply {
    /// The kernel makes the call as it stands.
    Continue,
    /// The call is not made, and returns this.
    Value(i64),
    /// The call is not made, and fails.
    Errno(Errno),
    /// The call is not made, and returns a new descriptor of this file.
    Descriptor {
        file: OwnedFd,
        /// Whether it is closed on exec.
        close_on_exec: bool,
    },
    /// The caller makes another call, and gets what that returns. Where it cannot be made to, its own is made.
    Instead(Instead),
}

/// Decides on calls.
pub(in super::super) trait Handler {
    /// Answers one call. The caller waits, and can be killed while it does: what is read from its memory, or found below
    /// its `/proc` directory, counts only if [`Notification::is_valid`] says so afterwards.
    fn handle(&mut self, notification: &Notification<'_>) -> Reply;
}

/// The second one answers what the first one lets go on.
impl<First: Handler, Second: Handler> Handler for (First, Second) {
    fn handle(&mut self, notification: &Notification<'_>) -> Reply {
        match self.0.handle(notification) {
            Reply::Continue => self.1.handle(notification),
            reply => reply,
        }
    }
}

/// Nobody lets everything go on.
impl<H: Handler> Handler for Option<H> {
    fn handle(&mut self, notification: &Notification<'_>) -> Reply {
        self.as_mut().map_or(Reply::Continue, |handler| handler.handle(notification))
    }
}

/// One call that waits for an answer.
#[derive(Debug)]
pub(in super::super) struct Notification<'a> {
    raw: libc::seccomp_notif,
    listener: BorrowedFd<'a>,
}

impl Notification<'_> {
    /// The thread that made the call, by the number that it has here.
    pub(in super::super) fn thread(&self) -> i32 {
        self.raw.pid.cast_signed()
    }

    /// The ABI and the number of the call.
    pub(in super::super) fn call(&self) -> (Option<Abi>, u32) {
        (Abi::of_architecture(self.raw.data.arch), self.raw.data.nr.cast_unsigned())
    }

    /// The number that the kernel knows the waiting call by.
    pub(super) fn id(&self) -> u64 {
        self.raw.id
    }

    /// An argument, from 0.
    pub(in super::super) fn argument(&self, number: usize) -> u64 {
        self.raw.data.args[number]
    }

    /// The lower half of an argument, which is all that the kernel takes of an id, a descriptor, a flag or a mode.
    pub(in super::super) fn word(&self, number: usize) -> u32 {
        (self.raw.data.args[number] & 0xffff_ffff) as u32
    }

    /// Tells whether the caller still waits: its number has not become another process's.
    pub(in super::super) fn is_valid(&self) -> bool {
        // SAFETY: the ioctl reads a u64, which lives over the call.
        unsafe { ioctl(self.listener, libc::SECCOMP_IOCTL_NOTIF_ID_VALID, (&raw const self.raw.id).cast_mut()) }.is_ok()
    }
}

/// Filters this thread and what it starts. Needs `CAP_SYS_ADMIN` in the user namespace, or `no_new_privs`.
pub(in super::super) fn install(program: &Program) -> Result<(), Errno> {
    set_filter(program, 0).map(drop)
}

/// [`install`] with a descriptor on which another process answers the calls that the filter hands over.
pub(in super::super) fn install_with_listener(program: &Program) -> Result<OwnedFd, Errno> {
    let wait_killable = libc::SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV;
    let descriptor = match set_filter(program, libc::SECCOMP_FILTER_FLAG_NEW_LISTENER | wait_killable) {
        Err(Errno::INVAL) => set_filter(program, libc::SECCOMP_FILTER_FLAG_NEW_LISTENER), // before Linux 5.19
        result => result,
    }?;
    // SAFETY: the kernel has just made this descriptor for us.
    Ok(unsafe { OwnedFd::from_raw_fd(descriptor) })
}

fn set_filter(program: &Program, flags: libc::c_ulong) -> Result<i32, Errno> {
    let length = u16::try_from(program.0.len()).map_err(|_| Errno::TOOBIG)?;
    let described = libc::sock_fprog { len: length, filter: program.0.as_ptr().cast_mut() };
    // SAFETY: `described` and the instructions that it points to live over the call, which only reads them.
    let result =
        unsafe { libc::syscall(libc::SYS_seccomp, libc::SECCOMP_SET_MODE_FILTER, flags, &raw const described) };
    if result < 0 { Err(last_error()) } else { i32::try_from(result).map_err(|_| Errno::OVERFLOW) }
}

/// A number of linux/seccomp.h with the value that it points to.
///
/// # Safety
/// `value` must be what the kernel reads or writes for `request`.
unsafe fn ioctl<T>(listener: BorrowedFd<'_>, request: libc::Ioctl, value: *mut T) -> Result<i32, Errno> {
    // SAFETY: the contract above.
    let result = unsafe { libc::ioctl(listener.as_raw_fd(), request, value) };
    if result < 0 { Err(last_error()) } else { Ok(result) }
}

fn last_error() -> Errno {
    Errno::from_io_error(&io::Error::last_os_error()).unwrap_or(Errno::IO)
}

/// The end at which calls are answered.
#[derive(Debug)]
pub(in super::super) struct Listener(OwnedFd);

impl Listener {
    /// Hands what [`install_with_listener`] returned to the process on the other end of `socket`.
    pub(in super::super) fn send(descriptor: &OwnedFd, socket: &UnixStream) -> io::Result<()> {
        let descriptors = [descriptor.as_raw_fd()];
        let control = [ControlMessage::ScmRights(&descriptors)];
        sendmsg::<UnixAddr>(socket.as_raw_fd(), &[IoSlice::new(&[0])], &control, MsgFlags::MSG_NOSIGNAL, None)?;
        Ok(())
    }

    /// Takes it there; nothing when the other end was closed instead.
    pub(in super::super) fn receive(socket: &UnixStream) -> io::Result<Option<Self>> {
        let mut byte = [0];
        let mut parts = [IoSliceMut::new(&mut byte)];
        let mut space = cmsg_space!([i32; 1]);
        let flags = MsgFlags::MSG_CMSG_CLOEXEC;
        let message = recvmsg::<UnixAddr>(socket.as_raw_fd(), &mut parts, Some(&mut space), flags)?;
        let mut files = Vec::new();
        for control in message.cmsgs()? {
            if let ControlMessageOwned::ScmRights(descriptors) = control {
                files.extend(system::adopt(&descriptors));
            }
        }
        Ok(files.pop().map(|file| Self(file.into())))
    }

    /// Answers calls until nobody is left who could make one.
    pub(in super::super) fn serve(&self, handler: &mut impl Handler) -> Result<(), Errno> {
        self.wake_quickly();
        loop {
            match self.next() {
                Ok(notification) => match self.answer(&notification, handler.handle(&notification)) {
                    Ok(()) | Err(Errno::NOENT) => {}
                    Err(error) => return Err(error),
                },
                // Whoever called is gone; perhaps everybody is.
                Err(Errno::NOENT) if self.is_abandoned()? => return Ok(()),
                Err(Errno::INTR | Errno::NOENT) => {}
                Err(error) => return Err(error),
            }
        }
    }

    /// Asks for quick changes between caller and listener; a kernel that refuses is slower.
    fn wake_quickly(&self) {
        // SAFETY: the ioctl takes its flags in place of a pointer and reads no memory.
        let result = unsafe { libc::ioctl(self.0.as_raw_fd(), libc::SECCOMP_IOCTL_NOTIF_SET_FLAGS, SYNC_WAKE_UP) };
        debug_assert!(result == 0 || last_error() == Errno::INVAL || last_error() == Errno::NOTTY);
    }

    fn next(&self) -> Result<Notification<'_>, Errno> {
        // SAFETY: all zeroes is a valid value of that plain C struct, and what the kernel asks for.
        let mut raw: libc::seccomp_notif = unsafe { std::mem::zeroed() };
        // SAFETY: the ioctl writes a `seccomp_notif`.
        unsafe { ioctl(self.0.as_fd(), libc::SECCOMP_IOCTL_NOTIF_RECV, &raw mut raw) }?;
        Ok(Notification { raw, listener: self.0.as_fd() })
    }

    pub(super) fn answer(&self, notification: &Notification<'_>, reply: Reply) -> Result<(), Errno> {
        let id = notification.raw.id;
        let (val, error, flags) = match reply {
            Reply::Continue => (0, 0, libc::SECCOMP_USER_NOTIF_FLAG_CONTINUE),
            Reply::Value(value) => (value, 0, 0),
            Reply::Errno(error) => (0, -error.raw_os_error(), 0),
            Reply::Descriptor { file, close_on_exec } => match self.add(id, &file, close_on_exec)? {
                None => return Ok(()),
                Some(Ok(number)) => (number.into(), 0, 0),
                Some(Err(error)) => (0, -error.raw_os_error(), 0),
            },
            Reply::Instead(instead) => return divert(self, notification, instead),
        };
        let flags = u32::try_from(flags).expect("flags of linux/seccomp.h have 32 bits");
        let mut response = libc::seccomp_notif_resp { id, val, error, flags };
        // SAFETY: the ioctl reads a `seccomp_notif_resp`.
        unsafe { ioctl(self.0.as_fd(), libc::SECCOMP_IOCTL_NOTIF_SEND, &raw mut response) }.map(drop)
    }

    /// Gives the caller a descriptor of `file`. Nothing is left to answer where the kernel can do both at once (Linux
    /// 5.14); else this is how it went.
    fn add(&self, id: u64, file: &OwnedFd, close_on_exec: bool) -> Result<Option<Result<i32, Errno>>, Errno> {
        match self.give(id, file, close_on_exec, libc::SECCOMP_ADDFD_FLAG_SEND) {
            Ok(_) => return Ok(None),
            Err(Errno::NOENT) => return Err(Errno::NOENT),
            Err(Errno::INVAL) => {}
            Err(error) => return Ok(Some(Err(error))),
        }
        match self.give(id, file, close_on_exec, 0) {
            Err(Errno::NOENT) => Err(Errno::NOENT),
            result => Ok(Some(result)),
        }
    }

    /// Gives the caller of `id`, which waits for its answer, a descriptor of `file`; returns its number there.
    pub(super) fn give(
        &self,
        id: u64,
        file: &OwnedFd,
        close_on_exec: bool,
        flags: libc::c_ulong,
    ) -> Result<i32, Errno> {
        let mut request = libc::seccomp_notif_addfd {
            id,
            flags: u32::try_from(flags).expect("flags of linux/seccomp.h have 32 bits"),
            srcfd: file.as_raw_fd().cast_unsigned(),
            newfd: 0,
            newfd_flags: if close_on_exec { libc::O_CLOEXEC.cast_unsigned() } else { 0 },
        };
        // SAFETY: the ioctl reads a `seccomp_notif_addfd`.
        unsafe { ioctl(self.0.as_fd(), libc::SECCOMP_IOCTL_NOTIF_ADDFD, &raw mut request) }
    }

    fn is_abandoned(&self) -> Result<bool, Errno> {
        let mut descriptors = [PollFd::new(&self.0, PollFlags::empty())];
        poll(&mut descriptors, Some(&Timespec { tv_sec: 0, tv_nsec: 0 }))?;
        Ok(descriptors[0].revents().contains(PollFlags::HUP))
    }
}

#[cfg(test)]
mod tests {
    use super::super::super::probe::in_child;
    use super::super::super::spec::{Attempt, Failure};
    use super::super::bpf::{Action, Rule, assemble};
    use super::super::calls::Call;
    use super::*;

    /// Says 7 to `getgid`, gives `/dev/null` to `memfd_create` and refuses `mkdirat` of what is not there.
    struct Odd;

    impl Handler for Odd {
        fn handle(&mut self, notification: &Notification<'_>) -> Reply {
            let (abi, number) = notification.call();
            assert!(notification.is_valid());
            match abi.and_then(|abi| abi.call(number)) {
                Some(Call::Getgid) => Reply::Value(7),
                Some(Call::Setgid) => Reply::Descriptor {
                    file: fs_err::File::open("/dev/null").unwrap().into_parts().0.into(),
                    close_on_exec: true,
                },
                Some(Call::Mkdirat) => match notification.read_path(notification.argument(1)) {
                    Ok(path) if path.to_bytes() == b"/refused" => Reply::Errno(Errno::DQUOT),
                    _ => Reply::Continue,
                },
                _ => Reply::Continue,
            }
        }
    }

    fn filtered() -> Result<(), Failure> {
        let wrong = |what: &str| Failure::new(what, io::Error::other("unexpected answer"));
        if nix::unistd::getgid().as_raw() != 7 {
            return Err(wrong("get a value"));
        }
        // SAFETY: no memory is passed; the handler answers with a descriptor.
        let descriptor = unsafe { libc::syscall(libc::SYS_setgid, 0) };
        let link = fs_err::read_link(format!("/proc/self/fd/{descriptor}"));
        if link.attempt(|| "read a link".to_owned())?.as_os_str() != "/dev/null" {
            return Err(wrong("get a descriptor"));
        }
        let mode = rustix::fs::Mode::RWXU;
        if rustix::fs::mkdirat(rustix::fs::CWD, "/refused", mode) != Err(Errno::DQUOT) {
            return Err(wrong("be refused"));
        }
        match rustix::fs::mkdirat(rustix::fs::CWD, "/dev/null/no", mode) {
            Err(Errno::NOTDIR) => Ok(()),
            _ => Err(wrong("go on")),
        }
    }

    #[test]
    fn calls_are_answered_by_another_process() {
        let (ours, theirs) = UnixStream::pair().unwrap();
        let supervisor = std::thread::spawn(move || {
            let listener = Listener::receive(&ours).unwrap().unwrap();
            listener.serve(&mut (None::<Odd>, Odd)).unwrap();
        });
        let asked =
            |_| [Call::Getgid, Call::Setgid, Call::Mkdirat].map(|call| Rule::always(call, Action::Notify)).to_vec();
        let result = in_child(|| {
            rustix::thread::set_no_new_privs(true).attempt(|| "give up new privileges".to_owned())?;
            let descriptor = install_with_listener(&assemble(asked)).attempt(|| "install a filter".to_owned())?;
            Listener::send(&descriptor, &theirs).attempt(|| "send the listener".to_owned())?;
            drop(descriptor);
            filtered()
        });
        result.unwrap();
        drop(supervisor); // it ends when the kernel says that nobody is left, which not every kernel does
    }
}
