//! The end-to-end tests: the real `rbuild` against a real registry, with peers reading what it wrote.
//!
//! `cargo xtask test` sets up what they need. A test that lacks it fails and says so.

#![expect(clippy::unwrap_used, reason = "a test ends where it cannot go on")]

mod apps;
mod architecture;
mod builds;
mod cache;
mod calls;
mod checks;
mod common;
mod contexts;
mod copying;
mod emulation;
mod explain;
mod failures;
mod faults;
mod hostile;
mod interchange;
mod interrupts;
mod layers;
mod mounts;
mod once;
mod outputs;
mod power;
mod push;
mod real;
mod remote;
mod remote_cache;
mod rootless;
mod sandbox;
mod server;
mod settings;
mod staleness;
mod steps;
mod store;
