//! What a step asks of a file outside of its root without opening it.

use std::ffi::CStr;
use std::io;
use std::mem::MaybeUninit;

use rustix::fs::{Access, AtFlags, CWD, Gid, Mode, Uid, accessat, chmodat, chownat};
use rustix::io::Errno;

use super::super::seccomp::Reply;
use super::request::Request;

/// `stat` into the caller's buffer, the argument number `buffer`.
pub(super) fn stat(request: &Request<'_>, flags: i32, buffer: usize) -> Result<Reply, Errno> {
    let path = request.path.as_ptr();
    fill::<libc::stat>(request, buffer, |found| {
        // SAFETY: the path is terminated, and `found` has room for the kernel's structure, which is this one.
        unsafe { libc::syscall(libc::SYS_newfstatat, libc::AT_FDCWD, path, found, flags) }
    })
}

pub(super) fn statx(request: &Request<'_>) -> Result<Reply, Errno> {
    let path = request.path.as_ptr();
    let (flags, mask) = (request.notification.word(2), request.notification.word(3));
    fill::<libc::statx>(request, 4, |found| {
        // SAFETY: as above.
        unsafe { libc::syscall(libc::SYS_statx, libc::AT_FDCWD, path, flags, mask, found) }
    })
}

pub(super) fn statfs(request: &Request<'_>) -> Result<Reply, Errno> {
    let path = request.path.as_ptr();
    fill::<libc::statfs>(request, 1, |found| {
        // SAFETY: as above.
        unsafe { libc::syscall(libc::SYS_statfs, path, found) }
    })
}

/// Has the kernel fill a structure and hands its bytes to the caller.
fn fill<T>(request: &Request<'_>, buffer: usize, call: impl FnOnce(*mut T) -> libc::c_long) -> Result<Reply, Errno> {
    let mut found = MaybeUninit::<T>::zeroed();
    if call(found.as_mut_ptr()) != 0 {
        return Err(Errno::from_io_error(&io::Error::last_os_error()).unwrap_or(Errno::IO));
    }
    // SAFETY: every byte of `found` was zero or written by the kernel, padding too, and it lives over the slice.
    let bytes = unsafe { std::slice::from_raw_parts(found.as_ptr().cast::<u8>(), size_of::<T>()) };
    request.notification.write(request.notification.argument(buffer), bytes)?;
    Ok(Reply::Value(0))
}

pub(super) fn access(path: &CStr, mode: u32, flags: u32) -> Result<(), Errno> {
    accessat(CWD, path, Access::from_bits_retain(mode), AtFlags::from_bits_retain(flags))
}

pub(super) fn change_mode(path: &CStr, mode: u32) -> Result<(), Errno> {
    chmodat(CWD, path, Mode::from_raw_mode(mode), AtFlags::empty())
}

pub(super) fn change_owner(path: &CStr, (uid, gid): (u32, u32), flags: u32) -> Result<(), Errno> {
    let uid = (uid != u32::MAX).then(|| Uid::from_raw(uid));
    let gid = (gid != u32::MAX).then(|| Gid::from_raw(gid));
    chownat(CWD, path, uid, gid, AtFlags::from_bits_retain(flags))
}
