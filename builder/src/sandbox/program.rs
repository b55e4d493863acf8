//! The program that a step's init runs: this one, where nobody can write it.
//!
//! The init is the parent of a hostile process, which can therefore execute or open `/proc/<init>/exe`. Were that the
//! file on disk, root in a step could overwrite rbuild (CVE-2019-5736). So it is the file on a mount of its own, which
//! is read-only and stands nowhere: in no namespace it can be made anything else. Who may not mount copies the program
//! into a sealed memfd, which takes no write either, and some milliseconds.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use rustix::fs::{CWD, MemfdFlags, SealFlags, fcntl_add_seals, memfd_create, sendfile};
use rustix::io::Errno;
use rustix::mount::open_tree;

use super::rootfs::clone_flags;
use super::spec::INIT;
use super::system;

const RUNNING: &str = "/proc/self/exe";

/// How long to wait for pages that somebody else holds.
const PATIENCE: Duration = Duration::from_secs(10);

/// The running program, to be executed through `/proc/self/fd`.
pub(super) fn sealed() -> io::Result<OwnedFd> {
    read_only_mount(Path::new(RUNNING)).or_else(|_| sealed_copy(Path::new(RUNNING)))
}

/// Mounts a program by itself, read-only and nowhere. Closing the descriptor takes the mount out of every
/// namespace for good, whoever executes the program then.
fn read_only_mount(program: &Path) -> io::Result<OwnedFd> {
    let mount = open_tree(CWD, program, clone_flags())?;
    system::restrict_mounts(&mount, libc::MOUNT_ATTR_RDONLY)?;
    Ok(mount)
}

/// Copies a program into sealed memory.
fn sealed_copy(program: &Path) -> io::Result<OwnedFd> {
    let program = fs_err::File::open(program)?;
    let mut left = usize::try_from(program.metadata()?.len()).map_err(io::Error::other)?;
    let copy = executable_memfd()?;
    while left > 0 {
        match sendfile(&copy, &program, None, left)? {
            0 => return Err(io::ErrorKind::UnexpectedEof.into()),
            sent => left -= sent,
        }
    }
    seal(&copy)?;
    Ok(copy)
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
    use std::fs::File;
    use std::io::{Read, Write};
    use std::os::fd::AsRawFd;

    use rustix::pipe::{SpliceFlags, pipe, splice};

    use super::*;

    /// Who keeps the program open when nobody executes it any more cannot write it either.
    #[test]
    fn neither_form_of_the_program_can_be_opened_for_writing() {
        let directory = tempfile::tempdir().unwrap();
        let program = directory.path().join("true");
        fs_err::copy("/bin/true", &program).unwrap();
        let mounted = read_only_mount(&program).expect("root may mount: run this test as root");
        for (program, why) in [(mounted, Errno::ROFS), (sealed_copy(&program).unwrap(), Errno::PERM)] {
            let path = format!("/proc/self/fd/{}", program.as_raw_fd());
            let opened = File::options().write(true).open(&path).and_then(|mut file| file.write_all(b"evil"));
            assert_eq!(Errno::from_io_error(&opened.unwrap_err()), Some(why));
            assert!(std::process::Command::new(&path).status().unwrap().success(), "it can be executed");
        }
    }

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
