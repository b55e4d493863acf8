//! Files that are there whole or not at all.

use std::io::{self, BufWriter, Read, Write};
use std::path::Path;

/// Room between a writer and its file, in bytes: what is written comes in pieces, and a disk wants few large ones.
const BUFFER: usize = 1 << 20;

/// Writes the file at `path`: it appears, with this mode, or takes the place of the one that was there, when all of it is
/// written. Where a symbolic link is, it is what the link leads to that is replaced; a device or pipe is written.
///
/// # Errors
///
/// Those of `write`, and what `failed` makes of those of the file.
pub fn write<E>(
    path: &Path,
    mode: u32,
    failed: impl Fn(io::Error) -> E,
    write: impl FnOnce(&mut dyn Write) -> Result<(), E>,
) -> Result<(), E> {
    // Renamed over `/dev/null`, a file would take its place for every other program.
    if fs_err::metadata(path).is_ok_and(|found| !found.is_file() && !found.is_dir()) {
        let device = fs_err::OpenOptions::new().write(true).open(path).map_err(&failed)?;
        let mut out = BufWriter::with_capacity(BUFFER, device);
        write(&mut out)?;
        return out.flush().map_err(failed);
    }
    let meant = fs_err::canonicalize(path).unwrap_or_else(|_| path.to_owned());
    let directory = meant.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let file = tempfile::NamedTempFile::new_in(directory).map_err(&failed)?;
    file.as_file().set_permissions(std::os::unix::fs::PermissionsExt::from_mode(mode)).map_err(&failed)?;
    let mut out = BufWriter::with_capacity(BUFFER, file);
    write(&mut out)?;
    let file = out.into_inner().map_err(|error| failed(error.into_error()))?;
    file.persist(&meant).map_err(|error| failed(error.error))?;
    Ok(())
}

/// Copies a stream into the file at `path`, which everybody may read, as [`write()`] does.
///
/// # Errors
///
/// Those of the stream and of the file.
pub fn copy(path: &Path, content: &mut dyn Read) -> io::Result<()> {
    write(path, 0o644, |error| error, |out| io::copy(content, out).map(drop))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn put(path: &Path, bytes: &[u8]) -> io::Result<()> {
        copy(path, &mut &*bytes)
    }

    #[test]
    fn what_is_no_file_is_written_and_not_replaced() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("pipe");
        nix::unistd::mkfifo(&path, nix::sys::stat::Mode::S_IRWXU).unwrap();
        let reader = std::thread::spawn({
            let path = path.clone();
            move || fs_err::read(path).unwrap()
        });
        put(&path, b"bytes").unwrap();
        assert!(!fs_err::metadata(&path).unwrap().is_file());
        assert_eq!(reader.join().unwrap(), b"bytes");
    }

    #[test]
    fn a_link_stays_and_what_it_leads_to_is_replaced() {
        let directory = tempfile::tempdir().unwrap();
        let (file, link) = (directory.path().join("file"), directory.path().join("link"));
        put(&file, b"earlier").unwrap();
        std::os::unix::fs::symlink("file", &link).unwrap();
        put(&link, b"bytes").unwrap();
        assert!(fs_err::symlink_metadata(&link).unwrap().is_symlink());
        assert_eq!(fs_err::read(&file).unwrap(), b"bytes");
    }

    #[test]
    fn a_writer_that_fails_leaves_what_was_there() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("file");
        put(&path, b"earlier").unwrap();
        let failed = write(
            &path,
            0o644,
            |error| error,
            |out| {
                out.write_all(b"half")?;
                Err(io::ErrorKind::Other.into())
            },
        );
        assert!(failed.is_err());
        assert_eq!(fs_err::read(&path).unwrap(), b"earlier");
        assert_eq!(fs_err::read_dir(directory.path()).unwrap().count(), 1);
    }
}
