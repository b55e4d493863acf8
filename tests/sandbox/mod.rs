//! Steps in real namespaces, on every rung that this version has: as root on `root` and `range`, and as a plain user
//! on `range` and `single`. Run as root they cover all of them; run as a plain user, that user alone.
#![expect(clippy::unwrap_used, reason = "a test that cannot prepare itself fails")]

pub(crate) mod bench;
mod container;
mod escapes;
mod isolation;
mod life;
mod matrix;
mod packages;
mod process;
mod root;
mod seeming;
mod unmounted;
