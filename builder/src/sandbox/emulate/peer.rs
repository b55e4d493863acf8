//! getsockopt(2) of `SO_PEERCRED`: who is at the other end of a socket. Databases let users in by it.

use nix::sys::socket::{getsockopt, sockopt::PeerCredentials};
use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags, PidfdGetfdFlags, pidfd_getfd, pidfd_open};

use super::super::seccomp::{Abi, Argument, Instead, PAST, Reply, Then, peek, poke};
use super::credentials::Credentials;
use super::identity::Identities;
use super::{Caller, Emulation};

/// Of a `struct ucred`, in bytes.
const LENGTH: u32 = 12;

impl Emulation {
    /// The kernel's answer with the ids that the peer seems to have now; those of when it connected are not known. Where
    /// that goes wrong the kernel's answer must do: the peer is root.
    pub(super) fn peer(&mut self, caller: &Caller<'_>) -> Result<Reply, Errno> {
        if caller.word(1) != libc::SOL_SOCKET.cast_unsigned() {
            return Ok(Reply::Continue);
        }
        if self.owners.are_real() {
            return Ok(self.correct_peer(caller));
        }
        let Some((pid, who)) = self.find_peer(caller) else { return Ok(Reply::Continue) };
        if *who == Credentials::root() {
            return Ok(Reply::Continue);
        }
        let answer: Vec<u8> = [pid.cast_unsigned(), who.uid.effective, who.gid.effective]
            .iter()
            .flat_map(|field| field.to_ne_bytes())
            .collect();
        let mut room = [0; 4];
        caller.read(caller.argument(4), &mut room)?;
        let length = answer.len().min(u32::from_ne_bytes(room) as usize);
        caller.write(caller.argument(3), &answer[..length])?;
        caller.write(caller.argument(4), &u32::try_from(length).map_err(|_| Errno::INVAL)?.to_ne_bytes())?;
        Ok(Reply::Value(0))
    }

    /// Lets the caller ask the kernel, and then exchanges what it was told: not every container lets this process get a
    /// socket of the caller.
    fn correct_peer(&self, caller: &Caller<'_>) -> Reply {
        if caller.abi != Abi::X86_64 {
            return Reply::Continue;
        }
        let (thread, address, room) = (caller.thread(), caller.argument(3), caller.argument(4));
        let identities = self.identities.clone();
        let correct = move |result| {
            if result == 0 {
                // What the caller's memory does not take it has not been told by the kernel either.
                correct(thread, (address, room), &identities).ok();
            }
        };
        let kept = (0..5).map(|number| Argument::Number(caller.argument(number)));
        let arguments = kept.chain([Argument::Number(PAST.into())]).collect();
        let then = Some(Then(Box::new(correct)));
        Reply::Instead(Instead { number: libc::SYS_getsockopt, arguments, then })
    }

    fn find_peer(&self, caller: &Caller<'_>) -> Option<(i32, std::rc::Rc<Credentials>)> {
        let process = Pid::from_raw(caller.line_of_status("Tgid")?.parse().ok()?)?;
        let process = pidfd_open(process, PidfdFlags::empty()).ok()?;
        let socket = pidfd_getfd(process, caller.descriptor(0), PidfdGetfdFlags::empty()).ok()?;
        let pid = getsockopt(&socket, PeerCredentials).ok()?.pid();
        (pid > 0).then(|| (pid, self.identities.of(pid)))
    }
}

/// Exchanges the ids in a `struct ucred` that the kernel has written for `thread`.
fn correct(thread: i32, (address, room): (u64, u64), identities: &Identities) -> Result<(), Errno> {
    let [mut length, mut pid] = [[0; 4]; 2];
    peek(thread, room, &mut length)?;
    if u32::from_ne_bytes(length) < LENGTH {
        return Ok(());
    }
    peek(thread, address, &mut pid)?;
    let pid = i32::from_ne_bytes(pid);
    if pid > 0 {
        let who = identities.of(pid);
        let ids = [who.uid.effective, who.gid.effective].map(u32::to_ne_bytes).concat();
        poke(thread, address + 4, &ids)?;
    }
    Ok(())
}
