//! The threads of a compressed layer: bundles → {`diff_id` ‖ compression on all cores} → segments in order → blob.
//!
//! ```text
//!             ┌─▶ digester ─────────────────────────▶ diff_id
//! submit() ───┼─▶ workers: look up or compress ─┐
//!             └─▶ order ────────────────────────┴─▶ assembler → BlobWriter
//! ```
//! The bytes depend on the bundles alone, neither on the number of workers nor on what the segment cache has.

use std::io::Write;
use std::panic::resume_unwind;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::thread::{Builder, JoinHandle};

use oci_spec::image::Digest;

use super::codec::Codec;
use super::segment::{Member, Segment};
use super::segments::{Named, Record, SegmentCache};
use crate::digest::{HashingWriter, sha256};
use crate::{BlobWriter, Error};

/// The bytes of bundles in flight in this process, whatever the number of layers and cores: four of the largest, or a
/// mean one for each of [`WORKERS_MAX`]. Compressed bytes come on top, at most as many again, and 4 MiB that each layer
/// collects: below 64 MiB with the workers' states.
const IN_FLIGHT: usize = 16 * 1024 * 1024;

/// More workers than this wait for bundles.
const WORKERS_MAX: usize = 16;

/// All layers that are being written share it. That cannot block for good: what is in flight is compressed and written
/// without taking more.
static BUDGET: Budget =
    Budget { limit: IN_FLIGHT, used: Mutex::new(0), changed: Condvar::new(), spare: Mutex::new(Vec::new()) };

/// How many empty bundles are kept for the next ones: memory that is new costs a page fault for each 4 KiB.
const SPARE_MAX: usize = 4;

/// The largest bundle that is kept: twice the mean one.
const SPARE_BYTES: usize = 2 * 1024 * 1024;

/// A bundle, counted in the budget while any thread still needs it.
struct Bundle(Vec<u8>);

impl Drop for Bundle {
    fn drop(&mut self) {
        *BUDGET.lock() -= self.0.len();
        BUDGET.changed.notify_all();
        BUDGET.put_back(std::mem::take(&mut self.0));
    }
}

/// Returns an empty bundle.
pub(super) fn fresh() -> Vec<u8> {
    BUDGET.spare.lock().expect("nothing panics while it holds this lock").pop().unwrap_or_default()
}

struct Budget {
    limit: usize,
    used: Mutex<usize>,
    changed: Condvar,
    spare: Mutex<Vec<Vec<u8>>>,
}

impl Budget {
    fn lock(&self) -> MutexGuard<'_, usize> {
        self.used.lock().expect("nothing panics while it holds this lock")
    }

    /// Waits until `bytes` fit; `None` when `closed` says that nobody wants them any more.
    fn take(&self, bytes: Vec<u8>, closed: &AtomicBool) -> Option<Bundle> {
        let mut used = self.lock();
        while !closed.load(Ordering::Relaxed) && *used > 0 && *used + bytes.len() > self.limit {
            used = self.changed.wait(used).expect("nothing panics while it holds this lock");
        }
        if closed.load(Ordering::Relaxed) {
            return None;
        }
        *used += bytes.len();
        Some(Bundle(bytes))
    }

    /// Keeps the memory of a bundle that nobody needs any more; not that of a large one, which few layers have many of.
    fn put_back(&self, mut bundle: Vec<u8>) {
        bundle.clear();
        let mut spare = self.spare.lock().expect("nothing panics while it holds this lock");
        if spare.len() < SPARE_MAX && bundle.capacity() <= SPARE_BYTES {
            spare.push(bundle);
        }
    }

    fn close(&self, closed: &AtomicBool) {
        // Under the lock, so that nobody misses it between looking and waiting.
        let _used = self.lock();
        closed.store(true, Ordering::Relaxed);
        self.changed.notify_all();
    }
}

/// A segment with the bundle that it came from, which stays counted until the segment is written.
type Compressed = (Result<(Segment, Option<Named>), Error>, Arc<Bundle>);

struct Job {
    bundle: Arc<Bundle>,
    done: Sender<Compressed>,
}

/// What the assembler has written.
pub(super) struct Assembled {
    /// Not yet committed.
    pub(super) blob: BlobWriter,
    /// Where in it segments lie that later layers can use.
    pub(super) segments: Vec<Record>,
}

/// The sending ends: dropping them ends the threads.
struct Inputs {
    digester: Sender<Arc<Bundle>>,
    jobs: Sender<Job>,
    order: Sender<Receiver<Compressed>>,
}

pub(super) struct Pipeline {
    /// The assembler has ended: nothing more is wanted.
    closed: Arc<AtomicBool>,
    inputs: Option<Inputs>,
    digester: Option<JoinHandle<Digest>>,
    workers: Vec<JoinHandle<()>>,
    assembler: Option<JoinHandle<Result<Assembled, Error>>>,
}

impl Pipeline {
    /// Starts the threads.
    pub(super) fn start(
        blob: BlobWriter,
        codec: Codec,
        cache: Option<&Arc<SegmentCache>>,
        workers: usize,
    ) -> Result<Self, Error> {
        let closed = Arc::new(AtomicBool::new(false));
        let (digester, bundles) = channel();
        let (jobs, queue) = channel();
        let (order, segments) = channel();
        let mut pipeline = Self {
            closed: Arc::clone(&closed),
            inputs: Some(Inputs { digester, jobs, order }),
            digester: None,
            workers: Vec::new(),
            assembler: None,
        };
        let thread = |name: &str| Builder::new().name(name.to_owned());
        pipeline.digester = Some(thread("layer-digest").spawn(move || digest(&bundles))?);
        let queue = Arc::new(Mutex::new(queue));
        for _ in 0..workers.clamp(1, WORKERS_MAX) {
            let (queue, cache) = (Arc::clone(&queue), cache.map(Arc::clone));
            let worker = thread("layer-compress").spawn(move || work(&queue, codec, cache.as_deref()))?;
            pipeline.workers.push(worker);
        }
        let assembler = thread("layer-write").spawn(move || {
            let result = assemble(&segments, codec, blob);
            BUDGET.close(&closed);
            result
        })?;
        pipeline.assembler = Some(assembler);
        Ok(pipeline)
    }

    /// Hands over the next bundle; waits when too much is in flight.
    pub(super) fn submit(&mut self, bytes: Vec<u8>) -> Result<(), Error> {
        let Some(bundle) = BUDGET.take(bytes, &self.closed).map(Arc::new) else { return Err(self.failure()) };
        let (done, segment) = channel();
        let sent = self.inputs.as_ref().is_some_and(|inputs| {
            inputs.order.send(segment).is_ok()
                && inputs.digester.send(Arc::clone(&bundle)).is_ok()
                && inputs.jobs.send(Job { bundle, done }).is_ok()
        });
        if sent { Ok(()) } else { Err(self.failure()) }
    }

    /// Waits for everything; returns the `diff_id` and what was written.
    pub(super) fn finish(mut self) -> Result<(Digest, Assembled), Error> {
        let (digest, assembled) = self.join();
        Ok((digest.expect("joined once"), assembled.expect("joined once")?))
    }

    /// Why the assembler ended before its time.
    fn failure(&mut self) -> Error {
        match self.join().1 {
            Some(Err(error)) => error,
            _ => Error::LayerFailed,
        }
    }

    /// Ends the threads and passes on a panic.
    fn join(&mut self) -> (Option<Digest>, Option<Result<Assembled, Error>>) {
        self.inputs = None;
        for worker in self.workers.drain(..) {
            worker.join().unwrap_or_else(|panic| resume_unwind(panic));
        }
        let digest = self.digester.take().map(|thread| thread.join().unwrap_or_else(|panic| resume_unwind(panic)));
        let assembled = self.assembler.take().map(|thread| thread.join().unwrap_or_else(|panic| resume_unwind(panic)));
        (digest, assembled)
    }
}

impl Drop for Pipeline {
    /// A layer that is given up leaves neither threads nor a file.
    fn drop(&mut self) {
        self.inputs = None;
        for thread in self.workers.drain(..) {
            thread.join().ok();
        }
        self.digester.take().map(JoinHandle::join);
        self.assembler.take().map(JoinHandle::join);
    }
}

fn digest(bundles: &Receiver<Arc<Bundle>>) -> Digest {
    let mut digest = HashingWriter::new(std::io::sink());
    for bundle in bundles {
        digest.write_all(&bundle.0).expect("a sink takes everything");
    }
    digest.finish()
}

fn work(queue: &Mutex<Receiver<Job>>, codec: Codec, cache: Option<&SegmentCache>) {
    loop {
        let next = queue.lock().expect("nothing panics while it holds this lock").recv();
        let Ok(Job { bundle, done }) = next else { return };
        let segment = segment(codec, cache, &bundle.0);
        // Nobody waits any more when the assembler has failed.
        done.send((segment, bundle)).ok();
    }
}

fn assemble(segments: &Receiver<Receiver<Compressed>>, codec: Codec, blob: BlobWriter) -> Result<Assembled, Error> {
    let mut assembly = Assembly::begin(codec, blob)?;
    for segment in segments {
        // A worker can only end early by a panic, which `join` passes on.
        let (segment, _bundle) = segment.recv().map_err(|_| Error::LayerFailed)?;
        assembly.append(segment?)?;
    }
    assembly.finish()
}

/// Makes a layer of one bundle, or of none, on this thread: to start others takes longer than most of these layers do.
pub(super) fn alone(
    blob: BlobWriter,
    codec: Codec,
    cache: Option<&SegmentCache>,
    bundle: &[u8],
) -> Result<(Digest, Assembled), Error> {
    let mut assembly = Assembly::begin(codec, blob)?;
    if !bundle.is_empty() {
        assembly.append(segment(codec, cache, bundle)?)?;
    }
    Ok((sha256(bundle), assembly.finish()?))
}

fn segment(codec: Codec, cache: Option<&SegmentCache>, bundle: &[u8]) -> Result<(Segment, Option<Named>), Error> {
    match cache {
        Some(cache) => cache.segment(codec, bundle),
        None => Ok((codec.compress(bundle)?, None)),
    }
}

/// A blob to which segments are written in their order.
struct Assembly {
    codec: Codec,
    blob: BlobWriter,
    member: Member,
    records: Vec<Record>,
    /// Where the next segment will lie.
    offset: u64,
}

impl Assembly {
    fn begin(codec: Codec, mut blob: BlobWriter) -> Result<Self, Error> {
        blob.write_all(codec.header())?;
        let offset = codec.header().len() as u64;
        Ok(Self { codec, blob, member: Member::default(), records: Vec::new(), offset })
    }

    fn append(&mut self, (segment, named): (Segment, Option<Named>)) -> Result<(), Error> {
        self.member.append(&segment);
        self.blob.write_all(&segment.bytes)?;
        self.records.extend(named.and_then(|named| named.record(&segment, self.offset)));
        self.offset += segment.bytes.len() as u64;
        Ok(())
    }

    fn finish(mut self) -> Result<Assembled, Error> {
        self.blob.write_all(&self.codec.trailer(self.member))?;
        Ok(Assembled { blob: self.blob, segments: self.records })
    }
}
