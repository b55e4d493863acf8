//! A bundle in the making: whole tar entries, of whose files some need not have been read yet.
//!
//! A bundle is named before its bytes are known: by its headers as they are and its contents by their digest. What an
//! earlier layer has under that name is not read again. One bundle after another is made in the same memory.

use std::ffi::OsStr;
use std::io::{self, Read};
use std::ops::Range;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use super::header;
use super::spare::BUNDLES;
use crate::Error;
use crate::entry::Content;

/// The name of a bundle: two that have the same are the same bytes.
pub(super) type Name = [u8; 32];

/// Bytes that are read when they must be.
pub(super) type Later = Box<dyn Read + Send>;

/// A file's place in a bundle.
struct Gap {
    /// What of the bytes at hand precedes it.
    at: usize,
    size: usize,
    /// What of the paths at hand is its own.
    path: Range<usize>,
    bytes: Later,
}

/// See above.
#[derive(Default)]
pub(super) struct Bundle {
    /// Everything but what belongs in the gaps.
    bytes: Vec<u8>,
    gaps: Vec<Gap>,
    /// The paths of the gaps' files.
    paths: Vec<u8>,
    /// The bytes of all gaps.
    missing: usize,
    /// What the name is the digest of: tagged and framed.
    outline: Vec<u8>,
}

impl Bundle {
    /// Begins the next bundle.
    pub(super) fn clear(&mut self) {
        self.bytes.clear();
        self.gaps.clear();
        self.paths.clear();
        self.missing = 0;
        self.outline.clear();
    }

    /// The length of its bytes, read or not.
    pub(super) fn len(&self) -> usize {
        self.bytes.len() + self.missing
    }

    /// How many files were not read yet.
    pub(super) fn files(&self) -> usize {
        self.gaps.len()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Adds headers, or what ends an archive.
    pub(super) fn headers(&mut self, headers: &[u8]) {
        self.frame(b'h', headers.len());
        self.outline.extend_from_slice(headers);
        self.bytes.extend_from_slice(headers);
    }

    /// Adds `size` bytes of a file, which `fill` writes; it returns their digest.
    pub(super) fn content(
        &mut self,
        size: usize,
        fill: impl FnOnce(&mut [u8]) -> Result<Content, Error>,
    ) -> Result<(), Error> {
        let start = self.bytes.len();
        self.bytes.resize(start + size, 0);
        let Content(digest) = fill(&mut self.bytes[start..])?;
        self.frame(b'c', size);
        self.outline.extend_from_slice(&digest);
        Ok(())
    }

    /// Adds a whole file that is read when it must be.
    pub(super) fn later(&mut self, path: &Path, size: usize, bytes: Later, Content(digest): Content) {
        self.frame(b'c', size);
        self.outline.extend_from_slice(&digest);
        if size > 0 {
            let start = self.paths.len();
            self.paths.extend_from_slice(path.as_os_str().as_bytes());
            self.gaps.push(Gap { at: self.bytes.len(), size, path: start..self.paths.len(), bytes });
            self.missing += size;
        }
    }

    /// Fills the last block of a file of `size` bytes.
    pub(super) fn pad(&mut self, size: u64) {
        let padding = header::padding(size);
        self.frame(b'p', padding);
        self.bytes.extend_from_slice(&header::TRAILER[..padding]);
    }

    fn frame(&mut self, tag: u8, length: usize) {
        self.outline.push(tag);
        self.outline.extend_from_slice(&(length as u64).to_le_bytes());
    }

    pub(super) fn name(&self) -> Name {
        *blake3::hash(&self.outline).as_bytes()
    }

    /// Reads what was not read yet; returns all bytes, and is of no use until it is cleared.
    pub(super) fn read(&mut self) -> Result<Vec<u8>, Error> {
        if self.gaps.is_empty() {
            return Ok(std::mem::replace(&mut self.bytes, BUNDLES.take()));
        }
        let mut all = BUNDLES.take();
        let mut done = 0;
        for Gap { at, size, path, mut bytes } in self.gaps.drain(..) {
            all.extend_from_slice(&self.bytes[done..at]);
            done = at;
            let start = all.len();
            all.resize(start + size, 0);
            let path = Path::new(OsStr::from_bytes(&self.paths[path]));
            read_exact(&mut bytes, &mut all[start..], path, size as u64)?;
        }
        all.extend_from_slice(&self.bytes[done..]);
        Ok(all)
    }
}

/// Fills `buffer` with bytes of the file `path`, which has `size` of them.
pub(super) fn read_exact(bytes: &mut dyn Read, buffer: &mut [u8], path: &Path, size: u64) -> Result<(), Error> {
    bytes.read_exact(buffer).map_err(|source| match source.kind() {
        io::ErrorKind::UnexpectedEof => Error::ShortContent { path: path.to_owned(), size },
        _ => Error::Content { path: path.to_owned(), source },
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn digest(bytes: &[u8]) -> Content {
        Content(*blake3::hash(bytes).as_bytes())
    }

    fn now(bundle: &mut Bundle, bytes: &[u8]) {
        let fill = |buffer: &mut [u8]| {
            buffer.copy_from_slice(bytes);
            Ok(digest(bytes))
        };
        bundle.content(bytes.len(), fill).unwrap();
    }

    #[test]
    fn what_is_read_later_changes_neither_bytes_nor_name() {
        let make = |is_later: bool| {
            let mut bundle = Bundle::default();
            for (header, bytes) in [("one", &b"first"[..]), ("two", b""), ("three", b"third")] {
                bundle.headers(header.as_bytes());
                if is_later {
                    bundle.later(Path::new(header), bytes.len(), Box::new(bytes), digest(bytes));
                } else {
                    now(&mut bundle, bytes);
                }
                bundle.pad(bytes.len() as u64);
            }
            bundle.headers(b"end");
            (bundle.len(), bundle.name(), bundle.read().unwrap())
        };
        assert_eq!(make(true), make(false));
        let (length, _, bytes) = make(true);
        assert_eq!(length, bytes.len());
    }

    #[test]
    fn names_tell_headers_from_contents() {
        let name = |parts: &[(bool, &[u8])]| {
            let mut bundle = Bundle::default();
            for (is_header, bytes) in parts {
                if *is_header { bundle.headers(bytes) } else { now(&mut bundle, bytes) }
            }
            bundle.name()
        };
        let all = [
            name(&[(true, b"ab"), (false, b"c")]),
            name(&[(true, b"a"), (true, b"b"), (false, b"c")]),
            name(&[(true, b"ab"), (true, &digest(b"c").0)]),
            name(&[(true, b"ab"), (false, b"d")]),
            name(&[(true, b"ab")]),
        ];
        assert!((1..all.len()).all(|at| !all[..at].contains(&all[at])));
    }

    #[test]
    fn a_file_that_is_too_short_or_unreadable_is_an_error_that_names_it() {
        struct Broken;
        impl Read for Broken {
            fn read(&mut self, _: &mut [u8]) -> io::Result<usize> {
                Err(io::Error::other("broken"))
            }
        }
        let error = |bytes: Later| {
            let mut bundle = Bundle::default();
            bundle.later(Path::new("f"), 10, bytes, digest(b"0123456789"));
            bundle.read().unwrap_err().to_string()
        };
        assert_eq!(error(Box::new(&b"short"[..])), "the content of `f` ends before its 10 bytes");
        assert_eq!(error(Box::new(Broken)), "cannot read the content of `f`");
    }
}
