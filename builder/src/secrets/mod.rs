//! Keeping secrets out of logs and layers: what a secret looks like ([`Needles`]), finding that in a stream
//! ([`Scanner`]), hiding it in a log ([`Redactor`]) and refusing it in a layer ([`Search`]).
//!
//! A secret is looked for as it is, JSON-escaped, URL-encoded and in base64 at its three alignments, all across line
//! breaks. What a command encrypts, compresses or takes apart cannot be found.

mod layer;
mod needles;
mod redact;
mod scan;

pub use layer::{Found, Search, Watched};
pub use needles::{Needles, SHORTEST};
pub use redact::Redactor;
pub use scan::{Hit, Scanner};
