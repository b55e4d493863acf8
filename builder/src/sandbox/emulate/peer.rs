//! getsockopt(2) of `SO_PEERCRED`: who is at the other end of a socket. Databases let users in by it.

use nix::sys::socket::{getsockopt, sockopt::PeerCredentials};
use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags, PidfdGetfdFlags, pidfd_getfd, pidfd_open};

use super::super::seccomp::Reply;
use super::credentials::Credentials;
use super::{Caller, Emulation};

impl Emulation {
    /// The kernel's answer with the ids that the peer seems to have now; those of when it connected are not known. Where
    /// that goes wrong the kernel's answer must do: the peer is root.
    pub(super) fn peer(&mut self, caller: &Caller<'_>) -> Result<Reply, Errno> {
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

    fn find_peer(&self, caller: &Caller<'_>) -> Option<(i32, std::rc::Rc<Credentials>)> {
        let process = Pid::from_raw(caller.line_of_status("Tgid")?.parse().ok()?)?;
        let process = pidfd_open(process, PidfdFlags::empty()).ok()?;
        let socket = pidfd_getfd(process, caller.descriptor(0), PidfdGetfdFlags::empty()).ok()?;
        let pid = getsockopt(&socket, PeerCredentials).ok()?.pid();
        (pid > 0).then(|| (pid, self.identities.of(pid)))
    }
}
