//! Layers on their way to the registries while later steps still run. The push itself comes afterwards and finds them
//! there; what went wrong here goes wrong there again and is reported then. Where a cache in the same registry gets the
//! layers meanwhile, the push mounts them from it instead.

use std::io::{self, Read};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::mpsc::{self, Sender};
use std::sync::{Mutex, OnceLock, PoisonError};

use registry::{Pushed, Reference};
use snapshot::Follower;

use crate::solve::tree::Tree;
use crate::solve::{Cause, World};

use super::streams::Streams;

/// Uploads at a time, beside the steps.
const UPLOADS: usize = 2;

/// Does `act` and meanwhile pushes each layer that it tells its world of; waits for both.
pub fn pushing<T>(world: &World<'_>, tags: &[Reference], act: impl FnOnce(&World<'_>) -> T) -> T {
    let (send, layers) = mpsc::channel::<Tree>();
    let (layers, failed) = (Mutex::new(layers), AtomicBool::new(false));
    let wanted = || !failed.load(Ordering::Relaxed) && !world.cancel.is_cancelled();
    let streams = &streamed_to(world, tags).map(Streams::to);
    let upload = &|| {
        loop {
            let next = layers.lock().unwrap_or_else(PoisonError::into_inner).recv();
            let Ok(tree) = next else { return };
            if wanted() && push(world, &tree, tags, streams.as_ref()).is_err() {
                failed.store(true, Ordering::Relaxed);
            }
        }
    };
    std::thread::scope(|scope| {
        let threads = AtomicUsize::new(0);
        // It is dropped, and the channel closed, whatever becomes of `act`; so is the other one.
        let made = move |tree: &Tree| {
            drop(send.send(tree.clone()));
            if threads.fetch_add(1, Ordering::Relaxed) < UPLOADS {
                scope.spawn(upload);
            }
        };
        // There are builds that make no layer: the thread begins with the first.
        let following = streams.as_ref().map(|streams| {
            let followers = OnceLock::new();
            let follow = move || {
                let (begun, begins) = mpsc::channel::<Follower>();
                scope.spawn(move || {
                    for layer in begins {
                        let stream = streams.begin(&layer);
                        scope.spawn(move || streams.run(world, &stream, layer));
                    }
                });
                begun
            };
            move || followers.get_or_init(follow).clone()
        });
        let making = following.as_ref().map(|following| following as &(dyn Fn() -> Sender<Follower> + Sync));
        act(&World { made: &made, making, ..*world })
    })
}

/// The repository that layers are sent to while they are made: the first that they are not mounted into from elsewhere. None
/// when they may not be sent before they are looked through, or are not all the image's.
fn streamed_to<'a>(world: &World<'_>, tags: &'a [Reference]) -> Option<&'a Reference> {
    if world.needles.is_some() || world.caches.keeps_all() {
        return None;
    }
    tags.iter().find(|tag| world.caches.repository_at(tag.registry()).is_none())
}

/// The layer could not be made, or not be pushed, or nobody wants it any more.
struct Failed;

impl From<Cause> for Failed {
    fn from(_: Cause) -> Self {
        Self
    }
}

fn push(world: &World<'_>, tree: &Tree, tags: &[Reference], streams: Option<&Streams<'_>>) -> Result<(), Failed> {
    let layer = tree.top_layer(world)?;
    if let Some(streams) = streams {
        streams.wait(layer.blob.digest());
        if world.cancel.is_cancelled() {
            return Err(Failed);
        }
    }
    let open = || {
        let file = world.store.blobs().open(layer.blob.digest()).map_err(io::Error::other)?;
        Ok(Box::new(file) as Box<dyn Read + Send>)
    };
    let wanted = tags.iter().filter(|tag| world.caches.repository_at(tag.registry()).is_none());
    let mut done: Vec<&Reference> = Vec::new();
    for tag in wanted {
        // The first repository of a registry gets it, the others mount it from there.
        let mount = done.iter().find(|done| done.registry() == tag.registry()).map(|done| done.repository());
        let pushed = world.client.push_blob(tag, &layer.blob, mount, &open).map_err(|_| Failed)?;
        done.push(tag);
        if pushed == Pushed::Uploaded {
            world.reporter.totals().up.fetch_add(layer.blob.size(), Ordering::Relaxed);
        }
    }
    Ok(())
}
