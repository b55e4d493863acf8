//! Keeping steps in caches, while the build goes on.

use std::collections::VecDeque;
use std::io::{self, Cursor, Read};
use std::sync::PoisonError;
use std::sync::atomic::Ordering;

use oci_spec::image::Descriptor;
use registry::Reference;
use snapshot::Layer;

use crate::parallel::lock;
use crate::solve::World;
use crate::solve::cache::Record;
use crate::solve::key::CacheKey;

use super::entry::Document;
use super::import::tag;
use super::place::{Place, PlaceError};
use super::{Caches, Origin, Target, entry, give_up};

/// A step that is to be kept.
#[derive(Debug, Clone)]
pub struct Job {
    /// Its definition key.
    pub definition: CacheKey,
    /// Its content key, where that is known.
    pub content: Option<CacheKey>,
    /// What is known of it, its layer too.
    pub record: Record,
    /// Where its layer is when the store does not have it.
    pub origin: Option<Origin>,
    /// Its layer is one of the image.
    pub own: bool,
}

/// The steps that are still to be kept.
#[derive(Debug, Default)]
pub(super) struct Queue {
    jobs: VecDeque<Job>,
    /// Jobs that somebody is at.
    begun: usize,
    closed: bool,
}

impl Caches {
    /// Has a step kept by and by.
    pub(crate) fn keep(&self, job: Job) {
        lock(&self.queue).jobs.push_back(job);
        self.changed.notify_all();
    }

    /// Says that nothing comes any more.
    pub(crate) fn close(&self) {
        lock(&self.queue).closed = true;
        self.changed.notify_all();
    }

    /// The repository of a registry that steps are kept in: an image that is pushed there gets their layers from it.
    pub(crate) fn repository_at(&self, registry: &str) -> Option<&Reference> {
        let works = self.to.iter().filter(|target| !target.given_up.load(Ordering::Relaxed));
        let mut places = works.filter_map(|target| target.to.place.as_ref()?.repository());
        places.find(|place| place.registry() == registry)
    }

    /// Waits until all steps are kept that were to be so far.
    pub(crate) fn wait(&self) {
        let mut queue = lock(&self.queue);
        while !queue.jobs.is_empty() || queue.begun > 0 {
            queue = self.changed.wait(queue).unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// Keeps steps until there are no more; several threads may.
    pub(crate) fn work(&self, world: &World<'_>) {
        while let Some(job) = self.next() {
            for target in &self.to {
                let Some(place) = target.to.place.as_ref().filter(|_| job.own || target.to.all) else { continue };
                if target.given_up.load(Ordering::Relaxed) || world.cancel.is_cancelled() {
                    continue;
                }
                if let Err(error) = keep(world, place, &job) {
                    give_up(world, &target.given_up, "write", place, &error);
                }
            }
            lock(&self.queue).begun -= 1;
            self.changed.notify_all();
        }
    }

    fn next(&self) -> Option<Job> {
        let mut queue = lock(&self.queue);
        loop {
            if let Some(job) = queue.jobs.pop_front() {
                queue.begun += 1;
                return Some(job);
            }
            if queue.closed {
                return None;
            }
            queue = self.changed.wait(queue).unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// The cache that had to be written and was not.
    pub(crate) fn failure(&self) -> Option<&Place> {
        let failed = |target: &&Target| target.to.strict && target.given_up.load(Ordering::Relaxed);
        self.to.iter().find(failed).and_then(|target| target.to.place.as_ref())
    }
}

/// Keeps one step in one place: what the manifest names first, its tags last.
fn keep(world: &World<'_>, place: &Place, job: &Job) -> Result<(), PlaceError> {
    let Some(layer) = &job.record.layer else { return Ok(()) };
    let tags: Vec<String> = [Some(&job.definition), job.content.as_ref()].into_iter().flatten().map(tag).collect();
    // Whoever wrote the step under its definition has written it under its content too.
    let found_here = |origin: &Origin| origin.place == *place && origin.tag.as_ref() == tags.first();
    if job.origin.as_ref().is_some_and(found_here) || is_kept(world, place, job, &tags)? {
        return Ok(());
    }
    let open = || {
        if let Some(origin) = &job.origin {
            origin.fetch(world, layer).map_err(io::Error::other)?;
        }
        let file = world.store.blobs().open(layer.blob.digest()).map_err(io::Error::other)?;
        Ok(Box::new(file) as Box<dyn Read + Send>)
    };
    let mount = job.origin.as_ref().and_then(|origin| origin.place.repository());
    send(world, place, &layer.blob, mount, &open)?;
    let index = world.store.index(&job.record.made.0).map(|index| entry::pack_index(world.store, &index));
    let index = index.transpose()?;
    if let Some(index) = &index {
        send_stored(world, place, index)?;
    }
    let document = entry::write(&job.record, layer, index.as_ref());
    // Where tags cannot be moved, another execution of the step is as good as this one.
    send_document(world, place, &tags, &document, |bytes| entry::read(bytes).is_some())
}

/// Whether a place has this execution of a step under all tags.
fn is_kept(world: &World<'_>, place: &Place, job: &Job, tags: &[String]) -> Result<bool, PlaceError> {
    for tag in tags {
        let known = place.manifest(world.client, tag)?.and_then(|manifest| entry::read(&manifest));
        if known.is_none_or(|known| known.record.made != job.record.made) {
            return Ok(false);
        }
    }
    Ok(true)
}

/// Sends a layer that the store has.
pub(super) fn send_stored(world: &World<'_>, place: &Place, layer: &Layer) -> Result<(), PlaceError> {
    let open = || {
        let file = world.store.blobs().open(layer.blob.digest()).map_err(io::Error::other)?;
        Ok(Box::new(file) as Box<dyn Read + Send>)
    };
    send(world, place, &layer.blob, None, &open)
}

/// Sends a manifest with its config; its layers are there. A tag that cannot be moved may stay where it `will_do`.
pub(super) fn send_document(
    world: &World<'_>,
    place: &Place,
    tags: &[String],
    document: &Document,
    will_do: fn(&[u8]) -> bool,
) -> Result<(), PlaceError> {
    let config = || Ok(Box::new(Cursor::new(document.config.clone())) as Box<dyn Read + Send>);
    send(world, place, &document.config_descriptor, None, &config)?;
    place.write_manifest(world.client, tags, &document.manifest, will_do)?;
    let sent = document.manifest.len() as u64;
    world.reporter.totals().up.fetch_add(sent, Ordering::Relaxed);
    Ok(())
}

fn send(
    world: &World<'_>,
    place: &Place,
    blob: &Descriptor,
    mount: Option<&Reference>,
    open: &dyn Fn() -> io::Result<Box<dyn Read + Send>>,
) -> Result<(), PlaceError> {
    let sent = place.write_blob(world.client, blob, mount, open)?;
    world.reporter.totals().up.fetch_add(sent, Ordering::Relaxed);
    Ok(())
}
