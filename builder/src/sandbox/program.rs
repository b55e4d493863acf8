//! The program that a step's init runs: this one, from memory that nobody can write.
//!
//! The init is the parent of a hostile process, which can therefore execute or open `/proc/<init>/exe`. Were that the
//! file on disk, root in a step could overwrite rbuild (CVE-2019-5736). A sealed memfd has no name and takes no write.

use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;

use rustix::fs::{MemfdFlags, SealFlags, fcntl_add_seals, memfd_create, sendfile};

use super::spec::INIT;

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
    fcntl_add_seals(&copy, SealFlags::SHRINK | SealFlags::GROW | SealFlags::WRITE | SealFlags::SEAL)?;
    Ok(File::from(copy))
}

/// A memfd that may be executed whatever the sysctl `vm.memfd_noexec` says short of 2. Kernels before 6.3 do not know
/// `MFD_EXEC`, and allow execution always.
fn executable_memfd() -> io::Result<OwnedFd> {
    let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
    match memfd_create(INIT, flags | MemfdFlags::EXEC) {
        Err(rustix::io::Errno::INVAL) => Ok(memfd_create(INIT, flags)?),
        result => Ok(result?),
    }
}
