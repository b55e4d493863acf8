//! What the arguments of a call point to, in the memory of its caller.

use std::ffi::CString;
use std::io::{IoSlice, IoSliceMut};

use nix::sys::uio::{RemoteIoVec, process_vm_readv, process_vm_writev};
use nix::unistd::Pid;
use rustix::io::Errno;

use super::listener::Notification;

/// The longest path with its terminator (`PATH_MAX`).
const PATH_MAX: usize = 4096;
/// What is read at once of a path. Most are shorter.
const CHUNK: usize = 256;
/// A read must not cross into a page that may not be there. No page is smaller.
const PAGE: u64 = 4096;

impl Notification<'_> {
    /// Reads a path that ends with a NUL, and makes sure that it is the caller's. An error is the one that the call itself
    /// would have; `SRCH` says that the caller is gone.
    pub(in super::super) fn read_path(&self, address: u64) -> Result<CString, Errno> {
        let path = self.peek_path(address);
        if self.is_valid() { path } else { Err(Errno::SRCH) }
    }

    /// Reads a path, which may be another process's: enough for who does nothing with it but look.
    pub(in super::super) fn peek_path(&self, address: u64) -> Result<CString, Errno> {
        let mut path = vec![0; CHUNK];
        let mut length = 0;
        while length < PATH_MAX {
            let from = address.checked_add(length as u64).ok_or(Errno::FAULT)?;
            let to_page_end = usize::try_from(PAGE - from % PAGE).map_err(|_| Errno::FAULT)?;
            let most = to_page_end.min(CHUNK).min(PATH_MAX - length);
            path.resize(length + most, 0);
            peek(self.thread(), from, &mut path[length..])?;
            if let Some(end) = path[length..].iter().position(|&byte| byte == 0) {
                path.truncate(length + end);
                return CString::new(path).map_err(|_| Errno::FAULT);
            }
            length += most;
        }
        Err(Errno::NAMETOOLONG)
    }

    /// Reads exactly as many bytes as `bytes` has, and makes sure that they are the caller's.
    pub(in super::super) fn read(&self, address: u64, bytes: &mut [u8]) -> Result<(), Errno> {
        let read = peek(self.thread(), address, bytes);
        if self.is_valid() { read } else { Err(Errno::SRCH) }
    }

    /// Writes all bytes to where the caller wants its result.
    pub(in super::super) fn write(&self, address: u64, bytes: &[u8]) -> Result<(), Errno> {
        poke(self.thread(), address, bytes)
    }
}

/// Reads exactly as many bytes as `bytes` has from the memory of a thread.
pub(in super::super) fn peek(thread: i32, address: u64, bytes: &mut [u8]) -> Result<(), Errno> {
    let length = bytes.len();
    let remote = [RemoteIoVec { base: usize::try_from(address).map_err(|_| Errno::FAULT)?, len: length }];
    all(process_vm_readv(Pid::from_raw(thread), &mut [IoSliceMut::new(bytes)], &remote), length)
}

/// Writes all bytes into the memory of a thread.
pub(in super::super) fn poke(thread: i32, address: u64, bytes: &[u8]) -> Result<(), Errno> {
    let remote = [RemoteIoVec { base: usize::try_from(address).map_err(|_| Errno::FAULT)?, len: bytes.len() }];
    all(process_vm_writev(Pid::from_raw(thread), &[IoSlice::new(bytes)], &remote), bytes.len())
}

fn all(moved: nix::Result<usize>, length: usize) -> Result<(), Errno> {
    match moved {
        Ok(count) if count == length => Ok(()),
        Ok(_) => Err(Errno::FAULT),
        Err(error) => Err(Errno::from_raw_os_error(error as i32)),
    }
}
