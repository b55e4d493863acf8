//! Another call in the place of the one that was handed over.
//!
//! Some calls nobody can make for another process: it alone changes its working directory or becomes another program. What
//! can be changed is which call it makes, with the means of a debugger (ptrace(2)): it is stopped on its way back from the
//! call that is not made, gets the registers of the other one and is set on the same instruction again. It is let go at
//! once, so that a debugger among the programs of a step finds it free.

use std::ffi::CString;
use std::fmt;
use std::os::fd::OwnedFd;

use rustix::io::Errno;

use super::listener::{Listener, Notification, Reply};

/// A call that the caller makes instead of its own. It must be one that the filter does not hand over, unless it executes
/// a program: nobody would answer it.
#[derive(Debug)]
#[cfg_attr(not(target_arch = "x86_64"), expect(dead_code, reason = "nobody is made to call anything there"))]
pub(in super::super) struct Instead {
    /// Its number on the ABI that rbuild itself uses, one of `libc::SYS_*`.
    pub(in super::super) number: libc::c_long,
    /// At most six; those that are missing are 0.
    pub(in super::super) arguments: Vec<Argument>,
    /// What is done when it has returned, and its caller does not know that yet.
    pub(in super::super) then: Option<Then>,
}

/// Takes what a call has returned.
#[cfg_attr(not(target_arch = "x86_64"), expect(dead_code, reason = "nobody is made to call anything there"))]
pub(in super::super) struct Then(pub(in super::super) Box<dyn FnOnce(u64)>);

impl fmt::Debug for Then {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("Then")
    }
}

/// In the sixth argument of a call that takes fewer, for a caller that makes it because it was told to: rules let such a
/// call past. Whoever else passes it gets what the kernel has.
pub(in super::super) const PAST: u32 = 0x7061_7374;

/// An argument of a call.
#[derive(Debug)]
#[cfg_attr(not(target_arch = "x86_64"), expect(dead_code, reason = "nobody is made to call anything there"))]
pub(in super::super) enum Argument {
    /// As it stands.
    Number(u64),
    /// A descriptor of this file, which the caller has for the time of the call, or until it has become another program.
    Descriptor(OwnedFd),
    /// The address of this text.
    Text(CString),
}

/// Has the caller make `instead`.
pub(super) fn divert(listener: &Listener, notification: &Notification<'_>, instead: Instead) -> Result<(), Errno> {
    let Ok(tracee) = tracee::Tracee::seize(notification.thread()) else {
        return listener.answer(notification, Reply::Continue);
    };
    let lent = lend(listener, notification, &instead);
    tracee.interrupt()?;
    match listener.answer(notification, Reply::Errno(lent.as_ref().err().copied().unwrap_or(Errno::NOSYS))) {
        Ok(()) | Err(Errno::NOENT) => {} // a kernel before Linux 5.19 has let it go for the interruption
        Err(error) => return Err(error),
    }
    match tracee.make(instead, lent.ok().as_deref()) {
        Ok(()) | Err(Errno::SRCH) => Ok(()),
        Err(error) => Err(error),
    }
}

/// Gives the caller the descriptors of a call; returns their numbers.
fn lend(listener: &Listener, notification: &Notification<'_>, instead: &Instead) -> Result<Vec<u64>, Errno> {
    let mut numbers = Vec::new();
    for argument in &instead.arguments {
        if let Argument::Descriptor(file) = argument {
            let number = listener.give(notification.id(), file, true, 0)?;
            numbers.push(u64::try_from(number).map_err(|_| Errno::BADF)?);
        }
    }
    Ok(numbers)
}

#[cfg(not(target_arch = "x86_64"))]
mod tracee {
    use rustix::io::Errno;

    use super::Instead;

    /// Nobody: which registers a call has is known for `x86_64` alone.
    pub(super) struct Tracee;

    impl Tracee {
        pub(super) fn seize(_: i32) -> Result<Self, Errno> {
            Err(Errno::NOSYS)
        }

        pub(super) fn interrupt(&self) -> Result<(), Errno> {
            Err(Errno::NOSYS)
        }

        pub(super) fn make(&self, _: Instead, _: Option<&[u64]>) -> Result<(), Errno> {
            Err(Errno::NOSYS)
        }
    }
}

#[cfg(target_arch = "x86_64")]
mod tracee {
    use std::ffi::CStr;
    use std::io;
    use std::time::Duration;

    use libc::user_regs_struct;
    use rustix::io::Errno;

    use super::super::memory::poke;
    use super::{Argument, Instead, Then};

    /// Of the instruction `syscall`, in bytes.
    const INSTRUCTION: u64 = 2;
    /// What lies below the stack and belongs to the running function (System V ABI, "The Stack Frame"), in bytes.
    const RED_ZONE: u64 = 128;
    /// How long a look at whether a thread has stopped is worth waiting for the next one.
    const MOMENT: Duration = Duration::from_micros(20);

    /// A thread of the step, of which this thread is the tracer.
    pub(super) struct Tracee(i32);

    impl Tracee {
        pub(super) fn seize(thread: i32) -> Result<Self, Errno> {
            ptrace(libc::PTRACE_SEIZE, thread, 0).map(|()| Self(thread))
        }

        /// Has it stop as soon as it is out of its call.
        pub(super) fn interrupt(&self) -> Result<(), Errno> {
            ptrace(libc::PTRACE_INTERRUPT, self.0, 0)
        }

        /// Has it make a call with the descriptors that were lent to it, and lets it go; without descriptors it goes on with
        /// what it was told.
        pub(super) fn make(&self, instead: Instead, lent: Option<&[u64]>) -> Result<(), Errno> {
            self.wait()?;
            let before = self.registers()?;
            let registers = match lent {
                None => Err(Errno::NOSYS),
                Some(lent) => self.prepare(before, &instead, lent),
            };
            let Ok(registers) = registers else { return self.let_go(0) };
            self.set(&registers)?;
            let replaced = [libc::SYS_execve, libc::SYS_execveat].contains(&instead.number);
            match lent {
                Some(lent) if !replaced && (!lent.is_empty() || instead.then.is_some()) => {
                    self.take_back(before, lent, instead.then)
                }
                _ => self.let_go(0),
            }
        }

        /// The registers with which it makes the call.
        fn prepare(
            &self,
            mut registers: user_regs_struct,
            instead: &Instead,
            lent: &[u64],
        ) -> Result<user_regs_struct, Errno> {
            let mut lent = lent.iter();
            let mut below = registers.rsp - RED_ZONE;
            let mut values = [0; 6];
            for (value, argument) in values.iter_mut().zip(&instead.arguments) {
                *value = match argument {
                    Argument::Number(number) => *number,
                    Argument::Descriptor(_) => *lent.next().ok_or(Errno::BADF)?,
                    Argument::Text(text) => {
                        below -= text.to_bytes_with_nul().len() as u64;
                        self.write(below, text)?;
                        below
                    }
                };
            }
            [registers.rdi, registers.rsi, registers.rdx, registers.r10, registers.r8, registers.r9] = values;
            registers.rip -= INSTRUCTION;
            registers.rax = instead.number.cast_unsigned();
            registers.orig_rax = u64::MAX; // it comes from no call that could be made again
            Ok(registers)
        }

        fn write(&self, address: u64, text: &CStr) -> Result<(), Errno> {
            poke(self.0, address, text.to_bytes_with_nul())
        }

        /// Lets it make the call, does what is to be done `then`, and lets it close the descriptors, before it goes on with
        /// the registers of `before` and the result. A signal that comes in between leaves it the descriptors; it closes them
        /// when it becomes another program.
        fn take_back(&self, before: user_regs_struct, lent: &[u64], then: Option<Then>) -> Result<(), Errno> {
            let signal = self.step()?;
            let after = self.registers()?;
            if signal != libc::SIGTRAP || after.rip != before.rip {
                return self.let_go(signal);
            }
            if let Some(Then(then)) = then {
                then(after.rax);
            }
            let result = user_regs_struct { rax: after.rax, orig_rax: u64::MAX, ..before };
            let close = libc::SYS_close.cast_unsigned();
            for descriptor in lent {
                let rip = before.rip - INSTRUCTION;
                self.set(&user_regs_struct { rax: close, rdi: *descriptor, rip, ..result })?;
                let signal = self.step()?;
                if signal != libc::SIGTRAP {
                    self.set(&result)?;
                    return self.let_go(signal);
                }
            }
            self.set(&result)?;
            self.let_go(0)
        }

        /// Has it execute one instruction; returns the signal that stopped it.
        fn step(&self) -> Result<i32, Errno> {
            ptrace(libc::PTRACE_SINGLESTEP, self.0, 0)?;
            self.wait()
        }

        fn let_go(&self, signal: i32) -> Result<(), Errno> {
            ptrace(libc::PTRACE_DETACH, self.0, usize::try_from(signal).unwrap_or_default())
        }

        /// Waits until it has stopped; returns the signal. `SRCH` says that it has ended. Process 1 waits for all its
        /// children and so takes the news of a stop away, which is why this asks.
        fn wait(&self) -> Result<i32, Errno> {
            loop {
                // SAFETY: all zeroes is a valid value of that plain C struct.
                let mut found: libc::siginfo_t = unsafe { std::mem::zeroed() };
                match ptrace(libc::PTRACE_GETSIGINFO, self.0, (&raw mut found).addr()) {
                    Ok(()) => return Ok(found.si_signo),
                    Err(Errno::SRCH) if is_dead(self.0) => return Err(Errno::SRCH),
                    Err(Errno::SRCH) => std::thread::sleep(MOMENT),
                    Err(error) => return Err(error),
                }
            }
        }

        fn registers(&self) -> Result<user_regs_struct, Errno> {
            // SAFETY: all zeroes is a valid value of that plain C struct.
            let mut registers: user_regs_struct = unsafe { std::mem::zeroed() };
            ptrace(libc::PTRACE_GETREGS, self.0, (&raw mut registers).addr())?;
            Ok(registers)
        }

        fn set(&self, registers: &user_regs_struct) -> Result<(), Errno> {
            ptrace(libc::PTRACE_SETREGS, self.0, std::ptr::from_ref(registers).addr())
        }
    }

    /// One of the requests above, each of which takes a number, or the address of a structure that it fills or reads.
    fn ptrace(request: libc::c_uint, thread: i32, data: usize) -> Result<(), Errno> {
        // SAFETY: `data` is a number, or the address of the structure of the request, which lives over the call; only the
        // memory and the registers of another process are changed.
        let result = unsafe { libc::syscall(libc::SYS_ptrace, libc::c_ulong::from(request), thread, 0_usize, data) };
        if result == -1 {
            return Err(Errno::from_io_error(&io::Error::last_os_error()).unwrap_or(Errno::IO));
        }
        Ok(())
    }

    /// Tells whether nothing of a thread is left but what its parent waits for (proc(5), `/proc/pid/stat`).
    fn is_dead(thread: i32) -> bool {
        let Ok(text) = fs_err::read(format!("/proc/{thread}/stat")) else { return true };
        let state = text.rsplit(|&byte| byte == b')').next().and_then(|rest| rest.get(1));
        matches!(state, None | Some(b'Z' | b'X'))
    }
}
