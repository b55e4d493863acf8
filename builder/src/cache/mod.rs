//! Caches that are not the store: a repository of a registry, an OCI layout, the image itself.
//!
//! ```text
//! k-<key>   a step, under its definition key and under its content key: an image of its layer and its index    entry.rs
//! m-<name>  what a cache mount has: an image of one layer                                                      mounts.rs
//! ```
//!
//! One step is one manifest, so writers that run at the same time do not meet; all of them are plain image manifests with
//! ordinary configs and layers. What is found costs one request and no blob: a layer is fetched when a step stands on it,
//! and is mounted from the cache where it is only pushed. What cannot be read is a miss, and a warning; what cannot be
//! written is a warning, or an error of the whole build where the caller wants that.
//!
//! Every blob is held against its digest. That a record is true cannot be checked: whoever can write to a cache decides
//! what builds get from it.

mod directory;
mod entry;
mod export;
mod import;
mod inline;
mod mounts;
mod place;
mod spec;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Condvar, Mutex, OnceLock};

use oci_spec::image::Descriptor;

use crate::parallel::lock;
use crate::progress::Reporter;
use crate::solve::cache::Record;
use crate::solve::{Cause, World, chain};

pub use export::Job;
use export::Queue;
pub use inline::annotate;
pub use place::{Place, PlaceError};
pub use spec::{CacheFrom, CacheTo, SpecError};

/// The caches of one build.
#[derive(Debug, Default)]
pub struct Caches {
    from: Vec<Source>,
    to: Vec<Target>,
    queue: Mutex<Queue>,
    changed: Condvar,
    /// The names of cache mounts that steps had.
    mounts: Mutex<BTreeSet<String>>,
    /// Why a layer that was promised is not to be had.
    broken: Mutex<Option<String>>,
}

/// A cache that is read.
#[derive(Debug)]
struct Source {
    place: Place,
    /// It failed, and is not asked again.
    given_up: AtomicBool,
    /// The records of the image itself.
    inline: OnceLock<BTreeMap<String, Record>>,
}

/// A cache that is written.
#[derive(Debug)]
struct Target {
    to: CacheTo,
    given_up: AtomicBool,
}

/// Where a step's layer can be fetched.
#[derive(Debug, Clone)]
pub struct Origin {
    /// The cache.
    pub place: Place,
    /// The layer that holds the index of the step's layer.
    index: Option<Descriptor>,
    /// The tag that it was found under; none in an image that holds the records of its own layers.
    tag: Option<String>,
}

/// A step that a cache has.
#[derive(Debug, Clone)]
pub struct Imported {
    /// What is known of it.
    pub record: Record,
    /// Where its layer is.
    pub origin: Origin,
}

impl Caches {
    /// The caches that a build was told of.
    pub fn new(from: &[CacheFrom], to: &[CacheTo]) -> Self {
        let from = from.iter().map(|CacheFrom(place)| Source {
            place: place.clone(),
            given_up: AtomicBool::new(false),
            inline: OnceLock::new(),
        });
        let to = to.iter().map(|to| Target { to: to.clone(), given_up: AtomicBool::new(false) });
        Self { from: from.collect(), to: to.collect(), ..Self::default() }
    }

    /// Whether there is a cache to look into.
    pub(crate) fn can_import(&self) -> bool {
        self.from.iter().any(|source| !source.given_up.load(Ordering::Relaxed))
    }

    /// Notes that a cache does not give a layer that it promised.
    pub(crate) fn blame(&self, cause: &Cause) {
        lock(&self.broken).get_or_insert_with(|| chain(cause));
    }

    /// Whether to begin again without the caches, for one did not give what it promised: says so, and looks into none any
    /// more.
    pub(crate) fn give_up(&self, reporter: &Reporter<'_>) -> bool {
        let Some(why) = lock(&self.broken).take().filter(|_| self.can_import()) else { return false };
        reporter.warn(&format!("{why}; the build goes on without it"));
        self.stop_importing();
        true
    }

    /// Looks into no cache any more.
    pub(crate) fn stop_importing(&self) {
        for source in &self.from {
            source.given_up.store(true, Ordering::Relaxed);
        }
    }

    /// Whether steps are kept whose layers are not the image's.
    pub(crate) fn keeps_all(&self) -> bool {
        self.to.iter().any(|target| target.to.all)
    }

    /// Whether steps are kept anywhere but in the image.
    pub(crate) fn can_export(&self) -> bool {
        self.to.iter().any(|target| target.to.place.is_some())
    }

    /// Whether the image holds the records of its own layers.
    pub(crate) fn is_inline(&self) -> bool {
        self.to.iter().any(|target| target.to.place.is_none())
    }
}

/// Says once that a cache failed.
fn give_up(world: &World<'_>, flag: &AtomicBool, action: &str, place: &Place, error: &PlaceError) {
    if !flag.swap(true, Ordering::Relaxed) {
        let why = chain(error);
        world.reporter.warn(&format!("cannot {action} the cache `{place}`: {why}; the build goes on without it"));
    }
}
