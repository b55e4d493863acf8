//! Build contexts: which of the user's files an instruction sees, what they are, and the digest of that.
//!
//! ```text
//! .dockerignore ─ Ignore ─┐
//! COPY source ─── select ─┴─▶ Selected ─── list ─▶ Listing ─┬─▶ content digest, a part of the cache key
//!                                         (Memo spares      ├─▶ entries
//!                                          the reading)     └─▶ their bytes, if they are still the same
//! ```
//!
//! `pattern`, [`ignore`] and [`glob`] are pure. Every path inside a context is reached through `beneath`, so that no
//! symbolic link leads out of it. No Dockerfile is known here: instructions arrive as patterns.

mod beneath;
mod bytes;
mod digest;
mod error;
pub mod glob;
pub mod ignore;
mod listing;
mod local;
mod memo;
mod pattern;
mod resolve;
mod walk;

pub use bytes::FileBytes;
pub use error::ContextError;
pub use ignore::{Ignore, IgnoreError};
pub use listing::{Listed, Listing};
pub use local::{LocalContext, Modes, Selected, load_ignore, load_ignore_beneath};
pub use memo::Memo;
pub use pattern::PatternError;
