//! Hands out the entries and bytes of what was selected, and digests them on the way.
//!
//! Nothing is assumed to hold still: an entry is what the file was when it was opened, its bytes are as many as that
//! entry says, and the digest is of what was handed out.

use std::fs::File;
use std::io::{self, Read};
use std::os::fd::AsFd;
use std::path::Path;

use snapshot::{Bytes, Content, Entry, Kind};

use super::beneath::{self, Stat};
use super::digest::{Digester, gone_or};
use super::error::ContextError;
use super::ignore::Ignore;
use super::links::Links;
use super::local::{Deliver, LocalContext, Selected};
use super::memo::{Identity, Memo};
use super::walk;

#[cfg(test)]
mod tests;

/// Copies `selected`; see [`LocalContext::copy`].
pub(super) fn copy<E: From<ContextError>>(
    context: &LocalContext,
    selected: &[Selected],
    exclude: &Ignore,
    memo: &Memo,
    visit: &mut Deliver<'_, E>,
) -> Result<blake3::Hash, E> {
    let mut digester = Digester::new();
    for at in selected {
        digester.selected(at);
        let mut links = Links::default();
        walk::walk(context, at, exclude, Some(memo), &mut |found| {
            if !matches!(found.entry.kind, Kind::File { .. }) {
                digester.entry(found.relative, &found.entry, None);
                let nothing: &mut dyn Read = &mut io::empty();
                return visit(found.relative, None, &found.entry, nothing.into());
            }
            let opened = match found.content {
                // Its stat is compared when its bytes were read: what it is before does not matter.
                Some(_) => beneath::open_unseen(found.directory, found.name).map(|file| (file, found.stat)),
                None => beneath::open_file(found.directory, found.name),
            };
            let Some((file, stat)) = gone_or(opened, found.path)? else { return Ok(()) };
            let entry = entry_now(context, &found, &file, &stat)?;
            let known = found.content.filter(|_| stat.identity == found.stat.identity);
            let mut delivery = Delivery::new(file, stat.identity, known, found.path);
            if let Some((first, content)) = links.first(&stat).filter(|_| context.keeps_links()) {
                let bytes = Bytes { reader: &mut delivery, digest: known };
                let visited = visit(found.relative, Some(first), &entry, bytes);
                digester.link(found.relative, first);
                return delivery.finish_link(visited, *content);
            }
            let first = (stat.has_links() && context.keeps_links()).then_some(found.relative);
            let visited = visit(found.relative, first, &entry, Bytes { reader: &mut delivery, digest: known });
            let digest = delivery.finish(visited)?;
            digester.entry(found.relative, &entry, Some(digest));
            links.note(&stat, found.relative, digest);
            Ok(())
        })?;
    }
    Ok(digester.finish())
}

/// The entry of a file that was opened after the walk saw it.
fn entry_now(context: &LocalContext, found: &walk::Found<'_>, file: &File, stat: &Stat) -> Result<Entry, ContextError> {
    if stat.identity == found.stat.identity {
        return Ok(found.entry.clone());
    }
    let entry = beneath::entry_of_open(file, stat);
    let mut entry = entry.map_err(|source| ContextError::Read { path: found.path.to_owned(), source })?;
    context.set_mode(&mut entry);
    Ok(entry)
}

/// Hands out a known number of bytes of a file and digests them.
struct Delivery<'a> {
    file: File,
    path: &'a Path,
    left: u64,
    identity: Identity,
    /// The digest of the bytes, which need not be made where the file has the stat that it had with them.
    known: Option<Content>,
    hasher: blake3::Hasher,
    /// Why the bytes ended too early: the reader of them can only say that they did.
    failure: Option<ContextError>,
}

impl<'a> Delivery<'a> {
    fn new(file: File, identity: Identity, known: Option<Content>, path: &'a Path) -> Self {
        let left = identity.size;
        Self { file, path, left, identity, known, hasher: blake3::Hasher::new(), failure: None }
    }

    /// The bytes of another name of a file need not be asked for. Those that are must be `content`.
    fn finish_link<E: From<ContextError>>(self, visited: Result<(), E>, content: Content) -> Result<(), E> {
        let (path, unasked) = (self.path, self.left == self.identity.size && self.failure.is_none());
        if unasked {
            return visited;
        }
        if self.finish(visited)? == content {
            Ok(())
        } else {
            Err(ContextError::Changed { path: path.to_owned() }.into())
        }
    }

    /// Digests what nobody asked for, too. The reason of a failure to read goes before what came of it.
    fn finish<E: From<ContextError>>(mut self, visited: Result<(), E>) -> Result<Content, E> {
        let path = self.path;
        let drained =
            if visited.is_ok() && self.left > 0 { io::copy(&mut self, &mut io::sink()).map(drop) } else { Ok(()) };
        if let Some(failure) = self.failure {
            return Err(failure.into());
        }
        visited?;
        let failed = |source| ContextError::Read { path: path.to_owned(), source };
        drained.map_err(failed)?;
        let Some(known) = self.known else { return Ok(Content(*self.hasher.finalize().as_bytes())) };
        let after = beneath::stat_open(self.file.as_fd()).map_err(failed)?;
        if after.identity == self.identity {
            Ok(known)
        } else {
            Err(ContextError::Changed { path: path.to_owned() }.into())
        }
    }
}

impl Read for Delivery<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let wanted = usize::try_from(self.left).unwrap_or(usize::MAX).min(buffer.len());
        if wanted == 0 {
            return Ok(0);
        }
        match self.file.read(&mut buffer[..wanted]) {
            Ok(0) => {
                self.failure = Some(ContextError::Changed { path: self.path.to_owned() });
                Err(io::ErrorKind::UnexpectedEof.into())
            }
            Ok(read) => {
                if self.known.is_none() {
                    self.hasher.update(&buffer[..read]);
                }
                self.left -= read as u64;
                Ok(read)
            }
            Err(source) => {
                let kind = source.kind();
                if kind != io::ErrorKind::Interrupted {
                    self.failure = Some(ContextError::Read { path: self.path.to_owned(), source });
                }
                Err(kind.into())
            }
        }
    }
}
