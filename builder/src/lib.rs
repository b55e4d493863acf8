//! Builds OCI images from Dockerfiles, with no daemon.
//!
//! Data flows one way; the modules stand in the order in which it does:
//!
//! ```text
//!  text ─▶ dockerfile ─▶ graph::references ─▶ bases ─▶ graph::lower ─▶ solve ─▶ image ─▶ export
//!           (pure)           (pure)         (registry)    (pure)         │       (pure)
//!                                                                        ├─ context   files of the build context
//!                                                                        ├─ sandbox   one command in one root
//!                                                                        └─ `snapshot` layers, blobs, the store
//! ```
//!
//! Everything before *solve* is data in, data out, but for pinning the base images. The library never prints: it
//! emits [`progress::Event`]s.

pub mod accounts;
pub mod app;
pub mod archive;
pub mod bases;
pub mod build;
pub mod cache;
pub mod checks;
pub mod context;
pub mod contexts;
pub mod dockerfile;
pub mod export;
pub mod grants;
pub mod graph;
pub mod image;
pub mod layout;
pub mod pair;
mod parallel;
pub mod paths;
pub mod progress;
pub mod prune;
pub mod remote;
pub mod sandbox;
pub mod secrets;
pub mod solve;
pub mod transfer;
pub mod verify;
pub mod whole;
