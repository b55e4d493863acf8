//! The checks: what builds, and should be written otherwise.

use std::fmt;

/// A check, by its public name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Rule {
    /// A continued instruction runs over an empty line.
    NoEmptyContinuation,
    /// A comment above a stage or build arg does not describe it. Experimental.
    InvalidDefinitionDescription,
}

impl fmt::Display for Rule {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self, formatter)
    }
}
