//! Blobs read while they are written: by whoever sends them somewhere before their digest is known.

use std::io;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use oci_spec::image::Digest;
use rustix::io::{pread, retry_on_intr};

use crate::Error;

/// What has become of a blob in the making.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Fate {
    /// It still grows.
    Open,
    /// It is in the store, under this digest.
    Committed(Digest),
    /// It was given up: its bytes are worth nothing.
    GivenUp,
}

/// How far a blob is, as its writer says it.
#[derive(Debug, Default)]
pub(super) struct Growth(Arc<Shared>);

#[derive(Debug, Default)]
struct Shared {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug)]
struct State {
    written: u64,
    fate: Fate,
}

impl Default for State {
    fn default() -> Self {
        Self { written: 0, fate: Fate::Open }
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        // Each change of the state is complete in itself.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn change(&self, change: impl FnOnce(&mut State)) {
        change(&mut self.lock());
        self.changed.notify_all();
    }

    /// Waits until more than `bytes` were written or no more will be.
    fn wait_beyond(&self, bytes: u64) -> MutexGuard<'_, State> {
        let waits = |state: &mut State| state.written <= bytes && state.fate == Fate::Open;
        self.changed.wait_while(self.lock(), waits).unwrap_or_else(PoisonError::into_inner)
    }
}

impl Growth {
    pub(super) fn grow(&self, bytes: usize) {
        self.0.change(|state| state.written += bytes as u64);
    }

    pub(super) fn commit(&self, digest: &Digest) {
        self.0.change(|state| state.fate = Fate::Committed(digest.clone()));
    }

    /// Begins to follow at the first byte; `file` is what is written to.
    pub(super) fn follow(&self, file: &fs_err::File) -> Result<Follower, Error> {
        Ok(Follower { file: file.try_clone()?, at: 0, shared: Arc::clone(&self.0) })
    }
}

impl Drop for Growth {
    fn drop(&mut self) {
        self.0.change(|state| {
            if state.fate == Fate::Open {
                state.fate = Fate::GivenUp;
            }
        });
    }
}

/// Reads a blob in the making, from its beginning.
#[derive(Debug)]
pub struct Follower {
    file: fs_err::File,
    at: u64,
    shared: Arc<Shared>,
}

impl Follower {
    /// Waits until the blob has more than `bytes`; false when it ended before, or has ended already.
    pub fn outgrows(&self, bytes: u64) -> bool {
        self.shared.wait_beyond(bytes).fate == Fate::Open
    }

    /// Reads the next bytes, and waits for them; 0 when there will be none, and [`Follower::fate`] says why.
    pub fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let written = self.shared.wait_beyond(self.at).written;
        let most = usize::try_from(written - self.at).unwrap_or(usize::MAX).min(buffer.len());
        let read = retry_on_intr(|| pread(&self.file, &mut buffer[..most], self.at))?;
        self.at += read as u64;
        Ok(read)
    }

    /// How many bytes were written that were not read yet.
    pub fn behind(&self) -> u64 {
        self.shared.lock().written - self.at
    }

    /// How many bytes were read.
    pub fn bytes(&self) -> u64 {
        self.at
    }

    /// What has become of the blob.
    pub fn fate(&self) -> Fate {
        self.shared.lock().fate.clone()
    }

    /// Says what becomes of the blob, to others than who reads it.
    pub fn watch(&self) -> Watch {
        Watch(Arc::clone(&self.shared))
    }
}

/// Sees what becomes of a blob in the making.
#[derive(Debug, Clone)]
pub struct Watch(Arc<Shared>);

impl Watch {
    /// Whether it is in the store under this digest.
    pub fn became(&self, digest: &Digest) -> bool {
        matches!(&self.0.lock().fate, Fate::Committed(own) if own == digest)
    }
}
