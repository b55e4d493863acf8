//! Build contexts: which of the user's files an instruction sees, what they are, and the digest of that.
//!
//! ```text
//! .dockerignore ─ Ignore ─┐
//! COPY source ─── select ─┴─▶ Selected ─┬─ digest ─▶ content digest (a part of the cache key; Memo spares the reading)
//!                                       ├─ walk ───▶ entries
//!                                       └─ copy ───▶ entries with bytes, and the digest of what was handed out
//! ```
//!
//! `pattern`, [`ignore`] and [`glob`] are pure. Every path inside a context is reached through `beneath`, so that no
//! symbolic link leads out of it. No Dockerfile is known here: instructions arrive as patterns.

mod beneath;
mod copy;
mod digest;
mod error;
pub mod glob;
pub mod ignore;
mod links;
mod local;
mod memo;
mod pattern;
mod resolve;
mod walk;

pub use error::ContextError;
pub use ignore::{Ignore, IgnoreError};
pub use local::{Deliver, LocalContext, Modes, Selected, load_ignore, load_ignore_beneath};
pub use memo::Memo;
pub use pattern::PatternError;
