//! Large layers on their way to a registry while they are still compressed. The digest of a layer is needed by the last
//! request of an upload alone, so what is there of the layer is sent before.
//!
//! Whatever goes wrong here costs what was sent: the upload is given up, and the layer is pushed as any other.

use std::io::{self, Read};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex};

use oci_spec::image::{Descriptor, Digest, MediaType};
use registry::{Error, Pushed, Reference};
use snapshot::{Fate, Follower, Watch};

use crate::parallel::lock;
use crate::solve::World;

/// The compressed bytes that a layer has to have: a smaller one is sent sooner than it is worth asking about.
const WORTH: u64 = 8 << 20;

/// Streams at a time: a connection is seldom faster for more.
const STREAMS: usize = 2;

/// Bytes read at a time.
const BUFFER: usize = 256 << 10;

/// The streams of a build, all to one repository.
pub(super) struct Streams<'a> {
    to: &'a Reference,
    running: AtomicUsize,
    /// An upload was lost on its way: a registry that does not take chunks is not asked to again.
    lost: AtomicBool,
    all: Mutex<Vec<Arc<Stream>>>,
}

/// A layer in the making, and whether its bytes are on their way.
pub(super) struct Stream {
    layer: Watch,
    running: Mutex<bool>,
    ended: Condvar,
}

impl<'a> Streams<'a> {
    pub(super) fn to(to: &'a Reference) -> Self {
        Self { to, running: AtomicUsize::new(0), lost: AtomicBool::new(false), all: Mutex::default() }
    }

    /// Takes note of a layer that is begun. From now on until it was given to [`Streams::run`], [`Streams::wait`] waits.
    pub(super) fn begin(&self, layer: &Follower) -> Arc<Stream> {
        let stream = Arc::new(Stream { layer: layer.watch(), running: Mutex::new(true), ended: Condvar::new() });
        lock(&self.all).push(Arc::clone(&stream));
        stream
    }

    /// Waits until the layer is not on its way any more.
    pub(super) fn wait(&self, digest: &Digest) {
        let stream = lock(&self.all).iter().find(|stream| stream.layer.became(digest)).map(Arc::clone);
        if let Some(stream) = stream {
            let running = lock(&stream.running);
            drop(stream.ended.wait_while(running, |running| *running));
        }
    }

    /// Sends a layer, if it grows large enough before it is complete: what is complete is pushed, for the registry may
    /// have it.
    pub(super) fn run(&self, world: &World<'_>, stream: &Stream, layer: Follower) {
        let free = |running: usize| (running < STREAMS).then_some(running + 1);
        let order = Ordering::Relaxed;
        if layer.outgrows(WORTH) && !self.lost.load(order) && self.running.fetch_update(order, order, free).is_ok() {
            // What went wrong goes wrong again when the layer is pushed, and is told then.
            if let Ok(Some(size)) = self.send(world, layer) {
                world.reporter.totals().up.fetch_add(size, order);
            }
            self.running.fetch_sub(1, order);
        }
        *lock(&stream.running) = false;
        stream.ended.notify_all();
    }

    /// Sends what is there of a layer and then what follows; its size, if the registry has it now by that.
    fn send(&self, world: &World<'_>, mut layer: Follower) -> Result<Option<u64>, Error> {
        let mut upload = world.client.begin_upload(self.to)?;
        let mut buffer = vec![0; BUFFER];
        let mut asked = false;
        while !upload.is_lost() && !world.cancel.is_cancelled() {
            // When much is left to be sent it is worth asking whether it has to be.
            if !asked
                && layer.behind() > WORTH
                && let Fate::Committed(digest) = layer.fate()
            {
                asked = true;
                if world.client.has_blob(self.to, &digest)? {
                    break;
                }
            }
            let read = layer.read(&mut buffer);
            match (read, layer.fate()) {
                (Ok(0), Fate::Committed(digest)) => {
                    let layer = Descriptor::new(MediaType::ImageLayerGzip, layer.bytes(), digest);
                    let open = || {
                        let file = world.store.blobs().open(layer.digest()).map_err(io::Error::other)?;
                        Ok(Box::new(file) as Box<dyn Read + Send>)
                    };
                    let pushed = upload.finish(&layer, &open)?;
                    return Ok((pushed == Pushed::Uploaded).then(|| layer.size()));
                }
                (Err(_) | Ok(0), _) | (_, Fate::GivenUp) => break,
                (Ok(read), _) => upload.send(&buffer[..read]),
            }
        }
        self.lost.fetch_or(upload.is_lost(), Ordering::Relaxed);
        upload.cancel();
        Ok(None)
    }
}
