//! The program that a step's init runs: this one, from memory that nobody can write.
//!
//! The init is the parent of a hostile process, which can therefore execute or open `/proc/<init>/exe`. Were that the
//! file on disk, root in a step could overwrite rbuild (CVE-2019-5736). A sealed memfd has no name and takes no write.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::thread;
use std::time::{Duration, Instant};

use rustix::fs::{MemfdFlags, SealFlags, fcntl_add_seals, memfd_create, sendfile};
use rustix::io::Errno;

use super::spec::INIT;

/// How long to wait for pages that somebody else holds.
const PATIENCE: Duration = Duration::from_secs(10);

/// Copies the running program into sealed memory.
pub(super) fn sealed_copy() -> io::Result<File> {
    let running = fs_err::File::open("/proc/self/exe")?;
    let mut left = usize::try_from(running.metadata()?.len()).map_err(io::Error::other)?;
    let copy = executable_memfd()?;
    while left > 0 {
        match sendfile(&copy, &running, None, left)? {
            0 => return Err(io::ErrorKind::UnexpectedEof.into()),
            sent => left -= sent,
        }
    }
    seal(&copy)?;
    Ok(File::from(copy))
}

/// Seals a memfd against every change.
///
/// The kernel answers `EBUSY` as long as somebody else looks at one of its pages, which is not only who reads or writes
/// it: whatever moves or ages memory (compaction, DAMON) takes hold of pages for a moment (`memfd_wait_for_pins` in
/// `mm/memfd.c`).
pub(super) fn seal(memory: impl AsFd) -> io::Result<()> {
    let seals = SealFlags::SHRINK | SealFlags::GROW | SealFlags::WRITE | SealFlags::SEAL;
    let begun = Instant::now();
    loop {
        match fcntl_add_seals(&memory, seals) {
            Err(Errno::BUSY) if begun.elapsed() < PATIENCE => thread::sleep(Duration::from_millis(1)),
            result => return Ok(result?),
        }
    }
}

/// A memfd that may be executed whatever the sysctl `vm.memfd_noexec` says short of 2. Kernels before 6.3 do not know
/// `MFD_EXEC`, and allow execution always.
fn executable_memfd() -> io::Result<OwnedFd> {
    let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
    match memfd_create(INIT, flags | MemfdFlags::EXEC) {
        Err(Errno::INVAL) => Ok(memfd_create(INIT, flags)?),
        result => Ok(result?),
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};

    use rustix::pipe::{SpliceFlags, pipe, splice};

    use super::*;

    #[test]
    fn pages_that_somebody_holds_are_waited_for() {
        let mut memory = File::from(executable_memfd().unwrap());
        memory.write_all(&[1; 4096]).unwrap();
        let (reader, writer) = pipe().unwrap();
        let held = splice(&memory, Some(&mut 0), &writer, None, 4096, SpliceFlags::empty()).unwrap();
        let seals = SealFlags::WRITE;
        assert_eq!(fcntl_add_seals(&memory, seals), Err(Errno::BUSY), "a page in a pipe is held");
        let release = thread::spawn(move || {
            thread::sleep(Duration::from_millis(300));
            File::from(reader).read_exact(&mut vec![0; held]).unwrap();
        });
        seal(&memory).unwrap();
        release.join().unwrap();
        assert!(memory.write_all(b"x").is_err());
    }
}
