//! The bytes of a listed file, read when they are asked for.

use std::fs::File;
use std::io::{self, Read};
use std::os::fd::AsFd;
use std::sync::{Arc, PoisonError};

use super::beneath;
use super::error::ContextError;
use super::listing::{FileState, Item, Listing, gone_or};

#[cfg(test)]
mod tests;

/// Yields the bytes that were listed, as many as the entry says, or an error that holds a [`ContextError`]: nobody who
/// has read to the end has read anything else. Nothing is opened before the first byte is asked for.
#[derive(Debug)]
pub struct FileBytes {
    listing: Arc<Listing>,
    index: usize,
    file: Option<File>,
    left: u64,
    /// Digests the bytes of a file whose stat proves nothing.
    hasher: Option<Box<blake3::Hasher>>,
}

impl FileBytes {
    pub(super) fn new(listing: Arc<Listing>, index: usize) -> Self {
        let left = listing.item(index).file.map_or(0, |file| file.identity.size);
        Self { listing, index, file: None, left, hasher: None }
    }

    fn open(&mut self) -> Result<(), ContextError> {
        let Item { path, file: state, .. } = self.listing.item(self.index);
        let opened = self.listing.opener.lock().unwrap_or_else(PoisonError::into_inner).open_unseen(path);
        // Whatever it is now: its stat is compared when its bytes were read.
        let file = gone_or(opened, path)?.ok_or_else(|| ContextError::Changed { path: path.clone() })?;
        self.file = Some(file);
        self.hasher = state.is_some_and(|file| !file.is_proof).then(Box::default);
        Ok(())
    }

    fn read_some(&mut self, buffer: &mut [u8]) -> Result<usize, ContextError> {
        if self.file.is_none() {
            self.open()?;
        }
        let Item { path, file: state, .. } = self.listing.item(self.index);
        let (Some(file), Some(state)) = (&mut self.file, *state) else { return Ok(0) };
        let read = loop {
            match file.read(buffer) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                read => break read.map_err(|source| ContextError::Read { path: path.clone(), source })?,
            }
        };
        if let Some(hasher) = &mut self.hasher {
            hasher.update(&buffer[..read]);
        }
        self.left -= read as u64;
        if read == 0 || self.left == 0 && !is_as_listed(file, &state, self.hasher.as_deref()) {
            return Err(ContextError::Changed { path: path.clone() });
        }
        Ok(read)
    }
}

/// Whether a file that was read to its end has the stat that it was listed with, and its bytes that digest.
fn is_as_listed(file: &File, state: &FileState, hasher: Option<&blake3::Hasher>) -> bool {
    beneath::stat_open(file.as_fd()).is_ok_and(|stat| stat.identity == state.identity)
        && hasher.is_none_or(|hasher| *hasher.finalize().as_bytes() == state.content.0)
}

impl Read for FileBytes {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let wanted = usize::try_from(self.left).unwrap_or(usize::MAX).min(buffer.len());
        if wanted == 0 { Ok(0) } else { self.read_some(&mut buffer[..wanted]).map_err(io::Error::other) }
    }
}
