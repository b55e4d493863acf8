//! How much may be made of one Dockerfile: few lines can ask for more than any machine has.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use crate::graph::Problem;

/// The most that a Dockerfile's variables, history and steps may come to, in bytes of text.
pub(super) const LIMIT: usize = 64 << 20;

/// What is made of a Dockerfile, counted by all who make it.
#[derive(Debug, Clone, Default)]
pub(super) struct Budget(Arc<AtomicUsize>);

impl Budget {
    /// Counts what was made.
    pub(super) fn spend(&self, bytes: usize) -> Result<(), Problem> {
        let spent = self.0.fetch_add(bytes, Ordering::Relaxed).saturating_add(bytes);
        if spent > LIMIT { Err(Problem::TooMuch { mebibytes: LIMIT >> 20 }) } else { Ok(()) }
    }
}
