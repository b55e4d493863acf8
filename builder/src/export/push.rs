//! An image to registries: blobs first, several at once, the tag last.

use std::io::{self, Read};
use std::sync::atomic::Ordering;

use oci_spec::image::MediaType;
use registry::{Pushed, Reference};

use crate::parallel;
use crate::progress::Step;
use crate::solve::World;
use crate::transfer::short;

use super::{ExportError, Exported, Uploads, open_layer, wanted};

/// Blobs in flight to one registry: most of them are found or mounted, and wait for an answer alone.
const CONCURRENT_BLOBS: usize = 8;

/// Pushes the image under each of its names. The names of one registry share blobs: its first repository gets them, the
/// others mount them from it.
pub(super) fn push(world: &World<'_>, exported: &Exported<'_>, uploads: &Uploads) -> Result<(), ExportError> {
    for (position, tag) in exported.tags.iter().enumerate() {
        let of_registry = |done: &&Reference| done.registry() == tag.registry();
        let done: Vec<&Reference> = exported.tags[..position].iter().filter(of_registry).collect();
        let step = world.reporter.start(&format!("push {}", tag.whole()), None);
        let result = push_one(world, exported, (tag, &done), uploads, &step);
        step.finish(result)?;
    }
    Ok(())
}

/// Pushes one name; `done` are those of the same registry that have the image already.
fn push_one(
    world: &World<'_>,
    exported: &Exported<'_>,
    (tag, done): (&Reference, &[&Reference]),
    uploads: &Uploads,
    step: &Step<'_>,
) -> Result<(), ExportError> {
    let image = exported.image;
    let failed = |source| ExportError::Push { reference: tag.whole(), source: Box::new(source) };
    if !done.iter().any(|done| done.repository() == tag.repository()) {
        let mount = done.first().map(|done| done.repository());
        if world.caches.repository_at(tag.registry()).is_some() {
            // What is on its way there is mounted from there, not sent twice.
            world.caches.wait();
        }
        push_layers(world, exported, tag, mount, step)?;
        let config = || Ok(Box::new(io::Cursor::new(image.config.clone())) as Box<dyn Read + Send>);
        let pushed = uploads.config(tag, image.config_descriptor.digest());
        let again = || world.client.push_blob(tag, &image.config_descriptor, mount, &config);
        pushed.unwrap_or_else(again).map_err(failed)?;
    }
    wanted(world)?;
    let media_type = MediaType::ImageManifest.to_string();
    let digest = world.client.push_manifest(tag, &media_type, &image.manifest).map_err(failed)?;
    step.note(format_args!("{} {digest}", tag.whole()));
    Ok(())
}

fn push_layers(
    world: &World<'_>,
    exported: &Exported<'_>,
    tag: &Reference,
    mount: Option<&str>,
    step: &Step<'_>,
) -> Result<(), ExportError> {
    let layers = &exported.image.layers;
    let digest = |position: usize| layers[position].blob.digest();
    let first = |position: &usize| (0..*position).all(|earlier| digest(earlier) != digest(*position));
    let positions: Vec<usize> = (0..layers.len()).filter(first).collect();
    let pushed = parallel::each(&positions, CONCURRENT_BLOBS, |&position| {
        wanted(world)?;
        let pushed = push_layer(world, exported, tag, mount, position)?;
        step.note(format_args!("{} {}", short(&layers[position].blob), pushed));
        Ok(())
    });
    pushed.map(drop)
}

fn push_layer(
    world: &World<'_>,
    exported: &Exported<'_>,
    tag: &Reference,
    mount: Option<&str>,
    position: usize,
) -> Result<Pushed, ExportError> {
    let layer = &exported.image.layers[position];
    let kept = || world.caches.repository_at(tag.registry());
    let source = exported.tree.layers()[position].repository(layer).or_else(kept);
    let origin = source.filter(|source| source.registry() == tag.registry()).map(Reference::repository);
    let mount = mount.or(origin);
    // A layer of the base is fetched only when the registry neither has nor mounts it.
    let open = || {
        let file = open_layer(world, exported.tree, position, layer).map_err(io::Error::other)?;
        Ok(Box::new(file) as Box<dyn Read + Send>)
    };
    let pushed = world.client.push_blob(tag, &layer.blob, mount, &open);
    let pushed = pushed.map_err(|source| ExportError::Push { reference: tag.whole(), source: Box::new(source) })?;
    if pushed == Pushed::Uploaded {
        world.reporter.totals().up.fetch_add(layer.blob.size(), Ordering::Relaxed);
    }
    Ok(pushed)
}
