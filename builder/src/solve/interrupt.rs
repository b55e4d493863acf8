//! Changes that stop coming when the build is cancelled: what steps made may be large.

use std::io::BufRead;
use std::path::Path;

use snapshot::{ChangeSink, Entry};

use crate::sandbox::{Cancel, UntilCancelled};

use super::World;
use super::error::Cause;

/// A sink whose files cannot be read to their end any more once the build is cancelled.
pub(super) struct Interruptible<'a, S>(pub(super) &'a mut S, pub(super) &'a Cancel);

impl<S: ChangeSink> ChangeSink for Interruptible<'_, S> {
    type Error = S::Error;

    fn entry(&mut self, path: &Path, entry: &Entry, content: &mut dyn BufRead) -> Result<(), S::Error> {
        self.0.entry(path, entry, &mut UntilCancelled(content, self.1))
    }

    fn hard_link(&mut self, path: &Path, target: &Path) -> Result<(), S::Error> {
        self.0.hard_link(path, target)
    }

    fn whiteout(&mut self, path: &Path) -> Result<(), S::Error> {
        self.0.whiteout(path)
    }

    fn opaque(&mut self, directory: &Path) -> Result<(), S::Error> {
        self.0.opaque(directory)
    }
}

impl World<'_> {
    /// Says that the build was cancelled where that is why something failed.
    pub(super) fn or_cancelled<T, E: Into<Cause>>(&self, result: Result<T, E>) -> Result<T, Cause> {
        result.map_err(|error| if self.cancel.is_cancelled() { Cause::Cancelled } else { error.into() })
    }
}
