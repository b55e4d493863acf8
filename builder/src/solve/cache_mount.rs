//! The directories of cache mounts, which outlive builds, and who may use them at the same time.
//!
//! ```text
//! <store>/mounts/<digest of what names the mount>/
//!   0, 1, …       one directory for each step that uses the mount at the same time with `sharing=private`, else 0 alone
//!                 (`single-0` and so on where owners stand beside the files: those of real ids cannot be reached there)
//!     lock        flock: shared by steps with `sharing=shared`, exclusive for any other
//!     fs          the content
//!     new         being made
//! ```
//! Locks are those of the kernel, so they hold between processes and end with them.

use std::path::{Path, PathBuf};
use std::time::Duration;

use fs_err as fs;
use fs_err::os::unix::fs::OpenOptionsExt;
use rustix::fs::{FlockOperation, Mode};
use rustix::io::Errno;
use snapshot::digest::sha256;
use snapshot::path::remove_tree;
use snapshot::{Flavour, Kind};

use crate::dockerfile::Sharing;
use crate::graph::CacheOp;

use super::error::Cause;
use super::recall::definition_of;
use super::tree::Tree;
use super::{World, mounts};

/// Permissions of a directory that begins empty (Dockerfile reference, "RUN --mount=type=cache").
const MODE: u32 = 0o755;

/// How long to wait before a lock is tried again.
const PAUSE: Duration = Duration::from_millis(20);

/// A directory that a step may use until this is dropped.
#[derive(Debug)]
pub(crate) struct Held {
    directory: PathBuf,
    /// Holds the lock.
    lock: fs::File,
}

impl Held {
    /// Its content.
    pub(crate) fn directory(&self) -> &Path {
        &self.directory
    }

    /// Lets others have it.
    pub(crate) fn release(self) {
        drop(self.lock);
    }
}

/// What a mount's directories are called. Steps that give a new directory another owner, mode or content have another
/// directory: they would not find what they ask for.
pub(super) fn name(cache: &CacheOp, from: Option<&Tree>) -> String {
    let number = |number: Option<u32>| number.map_or_else(String::new, |number| number.to_string());
    let content = from.and_then(definition_of).map_or_else(String::new, ToString::to_string);
    let fields = [
        cache.id.clone(),
        number(cache.mode),
        number(cache.uid),
        number(cache.gid),
        content,
        if cache.from.is_some() { cache.source.clone() } else { String::new() },
    ];
    let framed: Vec<String> = fields.iter().map(|field| format!("{}:{field}", field.len())).collect();
    sha256(framed.concat().as_bytes()).digest().to_owned()
}

/// Waits until the mount `name` may be used, and makes its directory with `fill` if it is new.
pub(super) fn hold(
    world: &World<'_>,
    name: &str,
    sharing: Sharing,
    fill: &dyn Fn(&Path) -> Result<(), Cause>,
) -> Result<Held, Cause> {
    let place = &world.store.use_mount(name)?;
    if sharing != Sharing::Private {
        return Slot::open(world, place, 0)?.hold(world, sharing, fill);
    }
    let mut number = 0;
    loop {
        let slot = Slot::open(world, place, number)?;
        if slot.try_lock(FlockOperation::NonBlockingLockExclusive)? {
            return slot.hold(world, sharing, fill);
        }
        number += 1;
    }
}

/// Waits until nobody uses the mount `name`; none when it has nothing.
pub(crate) fn hold_mount(world: &World<'_>, name: &str) -> Option<Held> {
    let nothing = |_: &Path| Err(Cause::Cancelled);
    hold(world, name, Sharing::Locked, &nothing).ok()
}

/// One directory of a mount.
struct Slot {
    path: PathBuf,
    lock: fs::File,
}

impl Slot {
    fn open(world: &World<'_>, place: &Path, number: usize) -> Result<Self, Cause> {
        let apart = if world.store.snapshots().flavour() == Flavour::Single { "single-" } else { "" };
        let path = place.join(format!("{apart}{number}"));
        fs::create_dir_all(&path)?;
        let mut options = fs::OpenOptions::new();
        let lock = options.write(true).create(true).truncate(false).mode(0o600).open(path.join("lock"))?;
        Ok(Self { path, lock })
    }

    fn hold(
        self,
        world: &World<'_>,
        sharing: Sharing,
        fill: &dyn Fn(&Path) -> Result<(), Cause>,
    ) -> Result<Held, Cause> {
        let directory = self.path.join("fs");
        loop {
            let wanted = match sharing {
                Sharing::Shared if directory.is_dir() => FlockOperation::NonBlockingLockShared,
                Sharing::Shared | Sharing::Private | Sharing::Locked => FlockOperation::NonBlockingLockExclusive,
            };
            if !self.try_lock(wanted)? {
                if world.cancel.is_cancelled() {
                    return Err(Cause::Cancelled);
                }
                std::thread::sleep(PAUSE);
                continue;
            }
            if !directory.is_dir() {
                let new = self.path.join("new");
                remove_tree(&new)?;
                fill(&new)?;
                fs::rename(&new, &directory)?;
            }
            // Who has made it for all lets the others in, which may wait for that.
            if sharing != Sharing::Shared || wanted == FlockOperation::NonBlockingLockShared {
                return Ok(Held { directory, lock: self.lock });
            }
        }
    }

    fn try_lock(&self, wanted: FlockOperation) -> Result<bool, Cause> {
        match rustix::fs::flock(&self.lock, wanted) {
            Ok(()) => Ok(true),
            Err(Errno::WOULDBLOCK | Errno::INTR) => Ok(false),
            Err(error) => Err(std::io::Error::other(format!("cannot lock `{}`: {error}", self.path.display())).into()),
        }
    }
}

/// Makes the directory `new` of a mount: empty, or a copy of what `from` has.
pub(super) fn fill(world: &World<'_>, cache: &CacheOp, from: Option<&Tree>, new: &Path) -> Result<(), Cause> {
    let failed =
        |action| move |error: Errno| Cause::CacheDirectory { action, id: cache.id.clone(), source: error.into() };
    rustix::fs::mkdir(new, Mode::RWXU).map_err(failed("make"))?;
    if let Some(tree) = from {
        copy(world, cache, tree, new)?;
    }
    let mode = cache.mode.or(from.is_none().then_some(MODE));
    world.store.snapshots().give(new, cache.uid, cache.gid).map_err(failed("give to its owner"))?;
    let set = mode.map_or(Ok(()), |mode| rustix::fs::chmod(new, Mode::from_raw_mode(mode)));
    set.map_err(failed("set the mode of"))
}

fn copy(world: &World<'_>, cache: &CacheOp, tree: &Tree, new: &Path) -> Result<(), Cause> {
    let view = tree.view(world)?;
    let source = mounts::find(&view, &cache.source)?;
    if view.lookup(&source).is_some_and(|found| found.entry.kind != Kind::Directory) {
        let (id, source_path) = (cache.id.clone(), cache.source.clone());
        return Err(Cause::CacheSource { id, source_path });
    }
    mounts::copy_part(world, tree, &source, new).map(drop)
}
