//! The calls that ask for and change the ids of a process.

use rustix::io::Errno;

use super::super::seccomp::{Call, Reply};
use super::credentials::{Change, Ids, KEEP};
use super::{Caller, Emulation};

/// `NGROUPS_MAX` of linux/limits.h.
const MOST_GROUPS: u32 = 65536;

/// An id of 16 bits as one of 32: "leave it" stays that.
pub(super) fn widen(id: u32, short: bool) -> u32 {
    match id & 0xffff {
        0xffff if short => KEEP,
        id if short => id,
        _ => id,
    }
}

/// An id of 32 bits for a caller whose ids have 16 (`overflowuid`).
fn narrow(id: u32, short: bool) -> u32 {
    if short && id > u32::from(u16::MAX) { 65534 } else { id }
}

impl Emulation {
    pub(super) fn ids(&mut self, caller: &Caller<'_>) -> Result<Reply, Errno> {
        let (call, short) = without_width(caller.call);
        let id = |number| widen(caller.word(number), short);
        let three = || Change::Three([id(0), id(1), id(2)]);
        match call {
            Call::Getuid
            | Call::Geteuid
            | Call::Getgid
            | Call::Getegid
            | Call::Getresuid
            | Call::Getresgid
            | Call::Getgroups => {
                return self.get(caller, call, short);
            }
            Call::Setuid => self.change(caller, |who| who.change_uid(Change::One(id(0))))?,
            Call::Setgid => self.change(caller, |who| who.change_gid(Change::One(id(0))))?,
            Call::Setreuid => self.change(caller, |who| who.change_uid(Change::Two(id(0), id(1))))?,
            Call::Setregid => self.change(caller, |who| who.change_gid(Change::Two(id(0), id(1))))?,
            Call::Setresuid => self.change(caller, |who| who.change_uid(three()))?,
            Call::Setresgid => self.change(caller, |who| who.change_gid(three()))?,
            Call::Setfsuid => {
                let old = self.credentials(caller).uid.file_system;
                self.change(caller, |who| who.change_uid(Change::FileSystem(id(0))))?;
                return Ok(Reply::Value(narrow(old, short).into()));
            }
            Call::Setfsgid => {
                let old = self.credentials(caller).gid.file_system;
                self.change(caller, |who| who.change_gid(Change::FileSystem(id(0))))?;
                return Ok(Reply::Value(narrow(old, short).into()));
            }
            Call::Setgroups => {
                let groups = read_groups(caller, short)?;
                self.change(caller, |who| who.set_groups(groups))?;
            }
            Call::Prctl => {
                let keep = caller.argument(1) == 1;
                self.change(caller, |who| {
                    who.set_keep(keep);
                    Ok(())
                })?;
                return Ok(Reply::Continue);
            }
            Call::Capset => {
                self.set_capabilities(caller)?;
                if !self.owners.are_real() {
                    return Ok(Reply::Continue);
                }
            }
            _ => return Ok(Reply::Continue),
        }
        Ok(Reply::Value(0))
    }

    fn get(&self, caller: &Caller<'_>, call: Call, short: bool) -> Result<Reply, Errno> {
        let who = self.credentials(caller);
        let id = match call {
            Call::Getuid => who.uid.real,
            Call::Geteuid => who.uid.effective,
            Call::Getgid => who.gid.real,
            Call::Getegid => who.gid.effective,
            Call::Getresuid => return write_three(caller, who.uid, short),
            Call::Getresgid => return write_three(caller, who.gid, short),
            _ => return write_groups(caller, &who.groups, short),
        };
        Ok(Reply::Value(narrow(id, short).into()))
    }

    /// capset(2). The kernel keeps the true sets, which are those of root; where real root's access to the files of others
    /// hangs on them they stay what they are.
    fn set_capabilities(&mut self, caller: &Caller<'_>) -> Result<(), Errno> {
        let mut sets = [0; 8];
        caller.read(caller.argument(1), &mut sets)?;
        let word = |at: usize| u32::from_le_bytes([sets[at], sets[at + 1], sets[at + 2], sets[at + 3]]);
        let (effective, permitted) = (word(0), word(4));
        self.change(caller, |who| {
            who.set_capabilities(effective, permitted);
            Ok(())
        })
    }
}

fn write_three(caller: &Caller<'_>, ids: Ids, short: bool) -> Result<Reply, Errno> {
    for (number, id) in [ids.real, ids.effective, ids.saved].into_iter().enumerate() {
        caller.write(caller.argument(number), id_bytes(id, short).as_slice())?;
    }
    Ok(Reply::Value(0))
}

fn write_groups(caller: &Caller<'_>, groups: &[u32], short: bool) -> Result<Reply, Errno> {
    let count = u32::try_from(groups.len()).map_err(|_| Errno::INVAL)?;
    match caller.word(0) {
        0 => {}
        room if room.cast_signed() < 0 || room < count => return Err(Errno::INVAL),
        _ => {
            let bytes: Vec<u8> = groups.iter().flat_map(|group| id_bytes(*group, short)).collect();
            caller.write(caller.argument(1), &bytes)?;
        }
    }
    Ok(Reply::Value(count.into()))
}

fn id_bytes(id: u32, short: bool) -> Vec<u8> {
    let bytes = narrow(id, short).to_ne_bytes();
    if short { bytes[..2].to_vec() } else { bytes.to_vec() }
}

fn read_groups(caller: &Caller<'_>, short: bool) -> Result<Vec<u32>, Errno> {
    let count = caller.word(0);
    if count > MOST_GROUPS {
        return Err(Errno::INVAL);
    }
    let size = if short { 2 } else { 4 };
    let mut bytes = vec![0; count as usize * size];
    if count > 0 {
        caller.read(caller.argument(1), &mut bytes)?;
    }
    let group = |bytes: &[u8]| bytes.iter().rev().fold(0, |id, &byte| id << 8 | u32::from(byte));
    Ok(bytes.chunks_exact(size).map(|bytes| widen(group(bytes), short)).collect())
}

/// The call, and whether it is the form with ids of 16 bits.
fn without_width(call: Call) -> (Call, bool) {
    let wide = match call {
        Call::Getuid16 => Call::Getuid,
        Call::Geteuid16 => Call::Geteuid,
        Call::Getgid16 => Call::Getgid,
        Call::Getegid16 => Call::Getegid,
        Call::Getresuid16 => Call::Getresuid,
        Call::Getresgid16 => Call::Getresgid,
        Call::Getgroups16 => Call::Getgroups,
        Call::Setuid16 => Call::Setuid,
        Call::Setgid16 => Call::Setgid,
        Call::Setreuid16 => Call::Setreuid,
        Call::Setregid16 => Call::Setregid,
        Call::Setresuid16 => Call::Setresuid,
        Call::Setresgid16 => Call::Setresgid,
        Call::Setfsuid16 => Call::Setfsuid,
        Call::Setfsgid16 => Call::Setfsgid,
        Call::Setgroups16 => Call::Setgroups,
        wide => return (wide, false),
    };
    (wide, true)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_of_16_bits_keep_their_meaning() {
        assert_eq!(widen(0xffff, true), KEEP);
        assert_eq!(widen(0xffff, false), 0xffff);
        assert_eq!(widen(KEEP, false), KEEP);
        assert_eq!(widen(0xdead_0005, true), 5);
        assert_eq!((narrow(70000, true), narrow(70000, false), narrow(33, true)), (65534, 70000, 33));
        assert_eq!((id_bytes(0x0102, true).len(), id_bytes(0x0102, false).len()), (2, 4));
        assert_eq!(without_width(Call::Setgroups16), (Call::Setgroups, true));
        assert_eq!(without_width(Call::Setgroups), (Call::Setgroups, false));
    }
}
