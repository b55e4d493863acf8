//! Looking for secrets in what becomes a layer.

use std::io::{self, BufRead, Read};
use std::path::{Path, PathBuf};

use snapshot::{ChangeSink, Entry, Kind};

use super::needles::Needles;
use super::scan::Scanner;

/// Bytes read at once.
const BUFFER: usize = 64 * 1024;

/// Why a layer is refused.
#[derive(Debug, thiserror::Error)]
pub enum Found {
    /// A secret.
    #[error("`/{}` would put the secret `{secret}` into the image", path.display())]
    Secret {
        /// The secret's name.
        secret: String,
        /// The file.
        path: PathBuf,
    },
    /// The changes cannot be read.
    #[error(transparent)]
    Changes(#[from] snapshot::Error),
    /// A file cannot be read.
    #[error("cannot look for secrets in `/{}`", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
}

/// A sink of changes that keeps nothing and fails at the first secret: in contents, names, targets of links and
/// attributes.
#[derive(Debug)]
pub struct Search<'n>(pub &'n Needles);

impl Search<'_> {
    fn bytes(&self, path: &Path, bytes: &[u8]) -> Result<(), Found> {
        self.content(path, &mut &*bytes)
    }

    fn content(&self, path: &Path, content: &mut dyn Read) -> Result<(), Found> {
        let mut watched = Watched::new(self.0, content);
        let copied = io::copy(&mut watched, &mut io::sink());
        match watched.found {
            Some(secret) => Err(Found::Secret { secret, path: path.to_owned() }),
            None => copied.map(drop).map_err(|source| Found::Read { path: path.to_owned(), source }),
        }
    }
}

impl ChangeSink for Search<'_> {
    type Error = Found;

    fn entry(&mut self, path: &Path, entry: &Entry, content: &mut dyn BufRead) -> Result<(), Found> {
        self.bytes(path, path.as_os_str().as_encoded_bytes())?;
        for value in entry.metadata.xattrs.values() {
            self.bytes(path, value)?;
        }
        match &entry.kind {
            Kind::Symlink { target } => self.bytes(path, target),
            Kind::File { .. } => self.content(path, content),
            _ => Ok(()),
        }
    }

    fn hard_link(&mut self, path: &Path, _: &Path) -> Result<(), Found> {
        self.bytes(path, path.as_os_str().as_encoded_bytes())
    }

    fn whiteout(&mut self, _: &Path) -> Result<(), Found> {
        Ok(())
    }

    fn opaque(&mut self, _: &Path) -> Result<(), Found> {
        Ok(())
    }
}

/// A reader that looks at what passes.
pub struct Watched<'n, 'r> {
    scanner: Scanner,
    needles: &'n Needles,
    inner: &'r mut dyn Read,
    /// The secret that was seen first.
    pub found: Option<String>,
}

impl std::fmt::Debug for Watched<'_, '_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Watched").field("found", &self.found).finish_non_exhaustive()
    }
}

impl<'n, 'r> Watched<'n, 'r> {
    /// Watches what is read of `inner`.
    pub fn new(needles: &'n Needles, inner: &'r mut dyn Read) -> Self {
        Self { scanner: Scanner::default(), needles, inner, found: None }
    }
}

impl Read for Watched<'_, '_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let limit = buffer.len().min(BUFFER);
        let count = self.inner.read(&mut buffer[..limit])?;
        let found = &mut self.found;
        self.scanner.scan(self.needles, &buffer[..count], &mut |hit| {
            found.get_or_insert(hit.secret);
        });
        if self.found.is_some() { Err(io::Error::other("a secret was found")) } else { Ok(count) }
    }
}

#[cfg(test)]
mod tests {
    use snapshot::{Metadata, Mtime, Xattrs};

    use super::*;

    fn found(path: &str, kind: Kind, xattrs: Xattrs, content: &str) -> bool {
        let needles = Needles::new([("TOKEN", &b"hunter22"[..])]);
        let mtime = Mtime { seconds: 0, nanoseconds: 0 };
        let entry = Entry { kind, metadata: Metadata { mode: 0o644, uid: 0, gid: 0, mtime, xattrs } };
        match Search(&needles).entry(Path::new(path), &entry, &mut content.as_bytes()) {
            Ok(()) => false,
            Err(error) => {
                let text = error.to_string();
                assert!(text.contains("TOKEN") && text.contains(path), "{text}");
                true
            }
        }
    }

    #[test]
    fn every_part_of_an_entry_is_looked_at() {
        let file = || Kind::File { size: 0 };
        let none = Xattrs::new;
        assert!(!found("a", file(), none(), "hunter2"));
        assert!(found("a", file(), none(), "x hunter22 y"));
        assert!(found("etc/hunter22", Kind::Directory, none(), ""));
        assert!(found("l", Kind::Symlink { target: b"/hunter22".to_vec() }, none(), ""));
        let xattrs = Xattrs::from([(b"user.a".to_vec(), b"hunter22".to_vec())]);
        assert!(found("x", file(), xattrs, ""));
    }
}
