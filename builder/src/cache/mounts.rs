//! `mounts=true`: what the cache mounts of a build have, as layers that another machine begins with.

use std::path::Path;
use std::sync::atomic::Ordering;

use jiff::Timestamp;
use rustix::fs::Mode;
use snapshot::path::remove_tree;
use snapshot::{TreeWriter, View, diff, layer};

use crate::parallel::lock;
use crate::solve::{self, Cause, World};

use super::import::fetch;
use super::place::{Place, PlaceError};
use super::{Caches, entry, export, give_up};

/// The tag of a mount, by its name in the store.
fn tag(name: &str) -> String {
    format!("m-{name}")
}

impl Caches {
    /// Notes that a step had the mount `name`.
    pub(crate) fn used_mount(&self, name: &str) {
        lock(&self.mounts).insert(name.to_owned());
    }

    /// Fills the new directory `new` of the mount `name` with what a cache has; says whether one had something.
    pub(crate) fn fill_mount(&self, world: &World<'_>, name: &str, new: &Path) -> Result<bool, Cause> {
        for source in &self.from {
            if source.given_up.load(Ordering::Relaxed) {
                continue;
            }
            match fill(world, &source.place, name, new) {
                Ok(true) => return Ok(true),
                Ok(false) => {}
                Err(error) => {
                    remove_tree(new)?;
                    give_up(world, &source.given_up, "read", &source.place, &error);
                }
            }
        }
        Ok(false)
    }

    /// Keeps what the mounts have that steps had.
    pub(crate) fn keep_mounts(&self, world: &World<'_>) {
        for target in &self.to {
            let Some(place) = target.to.place.as_ref().filter(|_| target.to.mounts) else { continue };
            for mount in lock(&self.mounts).iter() {
                if target.given_up.load(Ordering::Relaxed) || world.cancel.is_cancelled() {
                    return;
                }
                if let Err(error) = keep(world, place, mount) {
                    give_up(world, &target.given_up, "write", place, &error);
                }
            }
        }
    }
}

fn fill(world: &World<'_>, place: &Place, name: &str, new: &Path) -> Result<bool, PlaceError> {
    let manifest = place.manifest(world.client, &tag(name))?;
    let Some(blob) = manifest.as_deref().and_then(entry::read_mount) else { return Ok(false) };
    fetch(world, place, &blob)?;
    let file = world.store.blobs().open(blob.digest())?;
    rustix::fs::mkdir(new, Mode::RWXU).map_err(std::io::Error::from)?;
    let mut writer = TreeWriter::new(new, world.store.snapshots().flavour())?;
    layer::read(&mut layer::decompress(file, layer::Limits::default().bytes)?, &mut writer)?;
    writer.finish()?;
    Ok(true)
}

fn keep(world: &World<'_>, place: &Place, mount: &str) -> Result<(), PlaceError> {
    // Steps that want it wait until it is read: what is written meanwhile would be half there.
    let Some(held) = solve::hold_mount(world, mount) else { return Ok(()) };
    let mut writer = world.store.layer_writer(world.options.compression)?;
    diff::changes(held.directory(), world.store.snapshots().flavour(), &View::default(), &mut writer)?;
    let layer = writer.finish()?.0;
    held.release();
    export::send_stored(world, place, &layer)?;
    let document = entry::write_mount(&layer, &Timestamp::now().to_string());
    export::send_document(world, place, &[tag(mount)], &document, |_| false)
}
