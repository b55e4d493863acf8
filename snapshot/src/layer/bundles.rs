//! Bundles of many small files, kept as they are.
//!
//! From the first change on, every byte of a layer has to be digested for its `diff_id`, also where its segments are
//! copied. To open small files for that takes several times as long as to read one file that has the bytes of all:
//! `bundles/<hex of the name>`, the bytes and their CRC-32 (4 bytes, little-endian). It needs no fsync: a torn one fails
//! its CRC and counts as absent. Any number of processes may add, use and drop them.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use super::bundle::{Bundle, Name};
use super::spare::{BUNDLES, ROOM};
use crate::Error;
use crate::digest::hex;
use crate::temp::TempFile;

/// The mean size up to which files are small: what is read in the time that it takes to open one.
const SMALL: usize = 16 * 1024;

const CRC: usize = 4;

/// See above.
#[derive(Debug)]
pub(super) struct KeptBundles {
    directory: PathBuf,
    temporary: PathBuf,
}

impl KeptBundles {
    pub(super) fn at(root: &Path) -> Self {
        Self { directory: root.join("bundles"), temporary: root.join("tmp") }
    }

    /// Reads a bundle as it is kept, else from its files; then it is kept, if that pays.
    pub(super) fn read(&self, bundle: &mut Bundle, name: &Name) -> Result<Vec<u8>, Error> {
        if !is_worth_keeping(bundle) {
            return bundle.read();
        }
        if let Some(bytes) = self.find(name, bundle.len()) {
            return Ok(bytes);
        }
        let bytes = bundle.read()?;
        // The files are still there: no build fails for want of room here.
        self.keep(name, &bytes).ok();
        Ok(bytes)
    }

    /// The bytes of a bundle; none where they are not kept, or are not what they were.
    fn find(&self, name: &Name, length: usize) -> Option<Vec<u8>> {
        let mut file = fs_err::File::open(self.path(name)).ok()?;
        let mut bytes = read(&mut file, length)?;
        bytes.truncate(length);
        // Only the order in which they go depends on it.
        file.file().set_modified(SystemTime::now()).ok();
        Some(bytes)
    }

    fn keep(&self, name: &Name, bytes: &[u8]) -> Result<(), Error> {
        let mut file = TempFile::create(&self.temporary)?;
        file.file().write_all(bytes)?;
        file.file().write_all(&crc32fast::hash(bytes).to_le_bytes())?;
        file.publish(&self.path(name))
    }

    fn path(&self, name: &Name) -> PathBuf {
        self.directory.join(hex(name))
    }
}

/// Whether a bundle that was not read yet is of many small files.
fn is_worth_keeping(bundle: &Bundle) -> bool {
    bundle.files() * SMALL >= bundle.len()
}

/// Compares what is kept in `path` with its CRC.
pub(crate) fn verify(path: &Path) -> Result<(), Error> {
    let mut file = fs_err::File::open(path)?;
    let corrupt = |reason| Error::Corrupt { path: path.to_owned(), reason };
    let size = usize::try_from(file.metadata()?.len()).unwrap_or(usize::MAX);
    if size > ROOM {
        return Err(corrupt("it is larger than any bundle"));
    }
    let length = size.saturating_sub(CRC);
    read(&mut file, length).map(|bytes| BUNDLES.give(bytes)).ok_or_else(|| corrupt("its CRC is wrong"))
}

/// Reads the bytes of a bundle, with their CRC behind them; none when that is wrong.
fn read(file: &mut fs_err::File, length: usize) -> Option<Vec<u8>> {
    let mut bytes = BUNDLES.take();
    bytes.reserve(length + CRC + 1);
    while bytes.len() <= length + CRC {
        if rustix::io::read(&*file, rustix::buffer::spare_capacity(&mut bytes)).ok()? == 0 {
            break;
        }
    }
    let (body, crc) = bytes.split_last_chunk::<CRC>()?;
    (body.len() == length && crc32fast::hash(body).to_le_bytes() == *crc).then_some(bytes)
}

#[cfg(test)]
mod tests {
    use std::io;

    use super::*;
    use crate::entry::Content;
    use crate::layer::header::TRAILER;
    use crate::layer::segment::MOST;

    const NAME: Name = [7; 32];

    fn kept() -> (tempfile::TempDir, KeptBundles) {
        let root = tempfile::tempdir().unwrap();
        fs_err::create_dir(root.path().join("tmp")).unwrap();
        let kept = KeptBundles::at(root.path());
        (root, kept)
    }

    #[test]
    fn what_is_kept_is_found() {
        let (_root, kept) = kept();
        let largest = usize::try_from(MOST).unwrap() + TRAILER.len();
        for length in [0, 1, 100_000, 3_000_000, largest] {
            let bytes: Vec<u8> = (0..length).map(|at| u8::try_from(at % 251).unwrap()).collect();
            kept.keep(&NAME, &bytes).unwrap();
            verify(&kept.path(&NAME)).unwrap();
            assert!(kept.find(&NAME, length).unwrap() == bytes);
        }
        assert!(kept.find(&[8; 32], 1).is_none());
    }

    #[test]
    fn what_is_larger_than_any_bundle_is_none() {
        let (_root, kept) = kept();
        kept.keep(&NAME, &vec![0; ROOM]).unwrap();
        assert!(matches!(verify(&kept.path(&NAME)), Err(Error::Corrupt { .. })));
    }

    #[test]
    fn what_is_torn_or_another_is_not() {
        let (_root, kept) = kept();
        kept.keep(&NAME, b"a bundle").unwrap();
        let whole = fs_err::read(kept.path(&NAME)).unwrap();
        let mut changed = whole.clone();
        changed[3] ^= 1;
        let longer = [&whole[..], b"x"].concat();
        for wrong in [&whole[..whole.len() - 1], &whole[..2], b"", &changed, &longer] {
            fs_err::write(kept.path(&NAME), wrong).unwrap();
            assert!(kept.find(&NAME, 8).is_none(), "{wrong:?}");
            assert!(matches!(verify(&kept.path(&NAME)), Err(Error::Corrupt { .. })), "{wrong:?}");
        }
        fs_err::write(kept.path(&NAME), &whole).unwrap();
        assert!(kept.find(&NAME, 7).is_none());
        assert_eq!(kept.find(&NAME, 8).unwrap(), b"a bundle");
    }

    fn bundle(size: usize) -> Bundle {
        let mut bundle = Bundle::default();
        for number in 0..10 {
            let bytes = vec![number; size];
            let digest = Content(*blake3::hash(&bytes).as_bytes());
            bundle.later(Path::new("f"), size, Box::new(io::Cursor::new(bytes)), digest);
        }
        bundle
    }

    #[test]
    fn small_files_are_kept_and_large_ones_are_not() {
        let (_root, kept) = kept();
        for (size, is_kept) in [(100, true), (SMALL, true), (SMALL + 1, false)] {
            let name = bundle(size).name();
            let bytes = kept.read(&mut bundle(size), &name).unwrap();
            assert_eq!(bytes.len(), 10 * size);
            assert_eq!(kept.find(&name, bytes.len()), is_kept.then_some(bytes));
        }
    }

    #[test]
    fn what_cannot_be_kept_is_read_nevertheless() {
        let root = tempfile::tempdir().unwrap();
        let kept = KeptBundles::at(root.path());
        let name = bundle(1).name();
        assert_eq!(kept.read(&mut bundle(1), &name).unwrap(), [0, 1, 2, 3, 4, 5, 6, 7, 8, 9]);
        assert!(kept.find(&name, 10).is_none());
    }
}
