//! Filters of system calls, and answering calls from another process.
//!
//! ```text
//! calls.rs ── which call has which number on which ABI
//! bpf.rs ──── rules ─▶ a program of the kernel
//! listener.rs  installs it; reads the calls that it hands over, and passes them to a Handler
//! default.rs  the rules that hold for every step
//! memory.rs ── what the arguments of such a call point to
//! divert.rs ── another call in the place of one
//! ```
//!
//! Knows nothing of what a handler makes of a call: that is the handler's (see seccomp(2), `seccomp_unotify(2)`).

mod bpf;
mod calls;
mod default;
mod divert;
mod listener;
mod memory;

pub(super) use bpf::{Action, Condition, Program, Rule, Test, assemble};
pub(super) use calls::{Abi, Call};
pub(super) use default::{default, default_rules};
pub(super) use divert::{Argument, Instead, PAST, Then};
pub(super) use listener::{Handler, Listener, Notification, Reply, install, install_with_listener};
pub(super) use memory::{peek, poke};
