//! Removing what the store need not keep: the longest unused first, and never what a running build uses.

use std::collections::HashSet;
use std::fmt;
use std::path::Path;
use std::str::FromStr;
use std::time::{Duration, SystemTime};

use oci_spec::image::Digest;
use snapshot::store::{Inventory, KnownSizes, Object, ObjectKind};
use snapshot::{Error, Store};

use crate::app::records;
use crate::dockerfile::read_size;
use crate::export::tags;
use crate::verify::dangling;

/// The record of how large snapshots are: they never change.
const SIZES: (&str, &str) = ("sizes", "snapshots");

/// How much a store may take up on disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Limit {
    /// Bytes.
    Bytes(u64),
    /// A share of the file system that the store is on, in hundredths.
    Percent(u8),
}

/// A quarter of the disk: a store is a cache, and what else the disk is for matters more.
impl Default for Limit {
    fn default() -> Self {
        Self::Percent(25)
    }
}

/// A text that is no [`Limit`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is no size: write bytes (`500m`, `20GiB`) or a share of the disk (`25%`)")]
pub struct LimitError(String);

impl FromStr for Limit {
    type Err = LimitError;

    fn from_str(text: &str) -> Result<Self, LimitError> {
        let wrong = || LimitError(text.to_owned());
        if let Some(number) = text.strip_suffix('%') {
            let percent = number.parse().ok().filter(|percent| *percent <= 100);
            return percent.map(Self::Percent).ok_or_else(wrong);
        }
        read_size(text).map(Self::Bytes).map_err(|_| wrong())
    }
}

impl fmt::Display for Limit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Bytes(bytes) => write!(f, "{bytes}"),
            Self::Percent(percent) => write!(f, "{percent}%"),
        }
    }
}

impl Limit {
    fn bytes(self, disk: &Disk) -> u64 {
        match self {
            Self::Bytes(bytes) => bytes,
            Self::Percent(percent) => disk.size / 100 * u64::from(percent),
        }
    }
}

/// The file system that a store is on, in bytes.
struct Disk {
    size: u64,
    used: u64,
}

impl Disk {
    fn of(store: &Store) -> Result<Self, Error> {
        let status = rustix::fs::statvfs(store.path()).map_err(std::io::Error::from)?;
        let used = status.f_blocks.saturating_sub(status.f_bfree);
        Ok(Self { size: status.f_blocks * status.f_frsize, used: used * status.f_frsize })
    }
}

/// What may go.
#[derive(Debug, Clone, Copy, Default)]
pub struct Policy {
    /// Names of images and the content of cache mounts too.
    pub all: bool,
    /// Only as much as brings the store down to this.
    pub keep: Option<Limit>,
    /// Only what was not used for as long.
    pub unused_for: Option<Duration>,
}

/// What went.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Pruned {
    /// Bytes on disk.
    pub freed: u64,
    /// The names of images that are no more.
    pub forgotten: Vec<String>,
    /// How far the store is still above its limit: running builds hold what is left, or it was used too lately, or it is
    /// nothing that ever goes.
    pub above: u64,
}

/// Removes what the policy lets go. Where a limit is to be met that is everything, in the order of its last use: steps,
/// layers and mounts, and a name since it was given; the layers of an image stay as long as a name of it does.
pub fn prune(store: &Store, policy: &Policy) -> Result<Pruned, Error> {
    sweep(store, policy, &store.inventory(&KnownSizes::new())?)
}

/// Keeps the store within its limit after a build; measures only what is new, and nothing where that cannot matter.
pub fn keep_within(store: &Store, limit: Limit) -> Result<Pruned, Error> {
    let disk = Disk::of(store)?;
    if !store.has_grown() || disk.used <= limit.bytes(&disk) {
        return Ok(Pruned::default());
    }
    let stored = store.get_record(SIZES.0, SIZES.1).and_then(|bytes| serde_json::from_slice(&bytes).ok());
    let known: KnownSizes = stored.unwrap_or_default();
    let inventory = store.inventory(&known)?;
    let snapshots = inventory.objects.iter().filter(|object| object.kind == ObjectKind::Snapshot);
    let sizes: KnownSizes = snapshots.map(|object| (object.path.clone(), object.bytes)).collect();
    if sizes != known {
        let bytes = serde_json::to_vec(&sizes).expect("sizes are plain data");
        store.put_record(SIZES.0, SIZES.1, &bytes)?;
    }
    sweep(store, &Policy { keep: Some(limit), ..Policy::default() }, &inventory)
}

fn sweep(store: &Store, policy: &Policy, inventory: &Inventory) -> Result<Pruned, Error> {
    let keep = policy.keep.map(|limit| Ok::<_, Error>(limit.bytes(&Disk::of(store)?))).transpose()?;
    let mut sweep = Sweep {
        store,
        policy,
        before: policy.unused_for.map(|age| SystemTime::now().checked_sub(age).unwrap_or(SystemTime::UNIX_EPOCH)),
        keep,
        total: inventory.total(),
        done: HashSet::new(),
        apps: if policy.all { Vec::new() } else { records::kept_blobs(store.path().parent().unwrap_or(store.path())) },
        pruned: Pruned::default(),
    };
    let mut objects: Vec<&Object> = inventory.objects.iter().collect();
    objects.sort_by_key(|object| (object.used, object.kind));
    while sweep.remove(&objects)? {}
    sweep.remove_dangling(&objects)?;
    let Sweep { total, mut pruned, .. } = sweep;
    pruned.above = keep.map_or(0, |keep| total.saturating_sub(keep));
    Ok(pruned)
}

struct Sweep<'a> {
    store: &'a Store,
    policy: &'a Policy,
    /// What was used since stays.
    before: Option<SystemTime>,
    /// The bytes that the store may take up.
    keep: Option<u64>,
    /// The bytes that it does.
    total: u64,
    /// The paths of what is removed, and of the names that cannot be.
    done: HashSet<&'a Path>,
    /// What images of apps consist of that are nowhere else.
    apps: Vec<Digest>,
    pruned: Pruned,
}

impl<'a> Sweep<'a> {
    /// Removes what may go, up to the first name; `true` when that was taken away, and its image may go now.
    fn remove(&mut self, objects: &[&'a Object]) -> Result<bool, Error> {
        let kept = self.kept()?;
        let (mut victims, mut left) = (Vec::new(), self.total);
        for object in objects.iter().filter(|object| !self.done.contains(object.path.as_path())) {
            if self.keep.is_some_and(|keep| left <= keep) {
                break;
            }
            let thorough = self.policy.all || self.keep.is_some();
            let may_go = match object.kind {
                ObjectKind::Blob | ObjectKind::Segments => !kept.contains(&object.name),
                ObjectKind::Mount | ObjectKind::ContextDigests | ObjectKind::Tag => thorough,
                ObjectKind::Bundle | ObjectKind::Snapshot | ObjectKind::Record | ObjectKind::Index => true,
            };
            if !may_go || self.before.is_some_and(|before| object.used >= before) {
                continue;
            }
            if object.kind == ObjectKind::Tag {
                self.take(&victims)?;
                return self.forget(object).map(|()| true);
            }
            left = left.saturating_sub(object.bytes);
            victims.push(*object);
        }
        self.take(&victims).map(|_| false)
    }

    /// The blobs of the images that have names, in hexadecimal.
    fn kept(&self) -> Result<HashSet<String>, Error> {
        let mut kept: HashSet<String> = self.apps.iter().map(|digest| digest.digest().to_owned()).collect();
        for tag in tags::list(self.store)? {
            let layers = tag.layers.iter().map(|layer| layer.blob.digest());
            let digests = layers.chain([tag.manifest.digest(), tag.config.digest()]);
            kept.extend(digests.map(|digest| digest.digest().to_owned()));
        }
        Ok(kept)
    }

    /// Takes a name away, unless a running build has just given it.
    fn forget(&mut self, object: &'a Object) -> Result<(), Error> {
        let tag = tags::list(self.store)?.into_iter().find(|tag| tags::key(&tag.name) == object.name);
        if self.take(&[object])? == 1 {
            // One that is damaged says no name.
            self.pruned.forgotten.extend(tag.map(|tag| tag.name));
        }
        self.done.insert(&object.path);
        Ok(())
    }

    /// Removes objects that are not held; returns how many.
    fn take(&mut self, objects: &[&'a Object]) -> Result<usize, Error> {
        let removed = self.store.remove(objects)?;
        for object in &removed {
            self.done.insert(&object.path);
            self.total = self.total.saturating_sub(object.bytes);
            self.pruned.freed += object.bytes;
        }
        Ok(removed.len())
    }

    /// Removes the records whose steps and downloads are gone.
    fn remove_dangling(&mut self, objects: &[&'a Object]) -> Result<(), Error> {
        let left = objects.iter().filter(|object| !self.done.contains(object.path.as_path()));
        let dangling: Vec<&Object> = left
            .filter(|object| object.kind == ObjectKind::Record && dangling(self.store, object).is_some())
            .copied()
            .collect();
        self.take(&dangling).map(drop)
    }
}

#[cfg(test)]
mod tests;
