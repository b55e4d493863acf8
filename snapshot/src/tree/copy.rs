//! Bytes into a new file from another one, without passing through this process where that can be.

use std::io;

use fs_err::File;
use rustix::io::Errno;

/// Bytes moved at a time by hand.
const BUFFER: usize = 128 * 1024;

/// Copies the first `size` bytes of a file into an empty one; returns how many there were.
pub(super) fn copy_bytes(from: &File, to: &File, size: u64) -> io::Result<u64> {
    let whole = rustix::fs::fstat(from)?.st_size;
    if size > 0 && u64::try_from(whole) == Ok(size) && rustix::fs::ioctl_ficlone(to, from).is_ok() {
        return Ok(size);
    }
    let (mut read_at, mut write_at) = (0, 0);
    while read_at < size {
        let most = usize::try_from(size - read_at).unwrap_or(usize::MAX).min(1 << 30);
        match rustix::fs::copy_file_range(from, Some(&mut read_at), to, Some(&mut write_at), most) {
            Ok(0) => break,
            Ok(_) | Err(Errno::INTR) => {}
            // Other file systems, old kernels and seccomp profiles: copied by hand, from the beginning.
            Err(_) if read_at == 0 => return by_hand(from, to, size),
            Err(error) => return Err(error.into()),
        }
    }
    Ok(read_at)
}

fn by_hand(from: &File, to: &File, size: u64) -> io::Result<u64> {
    use fs_err::os::unix::fs::FileExt;
    let mut buffer = vec![0; BUFFER];
    let mut at = 0;
    while at < size {
        let most = usize::try_from(size - at).map_or(BUFFER, |left| left.min(BUFFER));
        match from.read_at(&mut buffer[..most], at) {
            Ok(0) => break,
            Ok(read) => {
                to.write_all_at(&buffer[..read], at)?;
                at += read as u64;
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(at)
}
