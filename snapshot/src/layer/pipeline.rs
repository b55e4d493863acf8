//! The threads of a compressed layer: bundles → {`diff_id` ‖ compression on all cores} → segments in order → blob.
//!
//! ```text
//!             ┌─▶ digester ─────────────────────────▶ diff_id
//! submit() ───┼─▶ workers: look up or compress ─┐
//!             └─▶ order ────────────────────────┴─▶ assembler → BlobWriter
//! ```
//! As long as a layer is bundle for bundle what an earlier one is, it is not read: its segments are copied, and the
//! digester goes on from where the earlier layer's was.
//!
//! The bytes depend on the bundles alone, neither on the number of workers nor on what the segment cache has.

use std::io::Write;
use std::panic::resume_unwind;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::thread::{Builder, JoinHandle};

use oci_spec::image::Digest;

use super::bundle::Bundle;
use super::codec::Codec;
use super::segment::{Member, Segment};
use super::segments::{self, Chain, Key, Named, Record, SegmentCache, Span};
use crate::digest::{Midstate, Sha256Stream};
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

/// The bytes of a bundle, counted in the budget while any thread still needs them.
struct Counted {
    bytes: Vec<u8>,
    count: usize,
}

impl Drop for Counted {
    fn drop(&mut self) {
        *BUDGET.lock() -= self.count;
        BUDGET.changed.notify_all();
        spare(std::mem::take(&mut self.bytes));
    }
}

/// Returns memory for a bundle, empty.
pub(super) fn fresh() -> Vec<u8> {
    BUDGET.spare.lock().expect("nothing panics while it holds this lock").pop().unwrap_or_default()
}

/// Keeps the memory of a bundle that nobody needs any more; not that of a large one, which few layers have many of.
pub(super) fn spare(mut bytes: Vec<u8>) {
    bytes.clear();
    let mut spare = BUDGET.spare.lock().expect("nothing panics while it holds this lock");
    if spare.len() < SPARE_MAX && (1..=SPARE_BYTES).contains(&bytes.capacity()) {
        spare.push(bytes);
    }
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

    /// Waits until `count` bytes fit, for which `bytes` are kept; `None` when `closed` says that nobody wants them any more.
    fn take(&self, bytes: Vec<u8>, count: usize, closed: &AtomicBool) -> Option<Arc<Counted>> {
        let mut used = self.lock();
        while !closed.load(Ordering::Relaxed) && *used > 0 && *used + count > self.limit {
            used = self.changed.wait(used).expect("nothing panics while it holds this lock");
        }
        if closed.load(Ordering::Relaxed) {
            return None;
        }
        *used += count;
        Some(Arc::new(Counted { bytes, count }))
    }

    fn close(&self, closed: &AtomicBool) {
        // Under the lock, so that nobody misses it between looking and waiting.
        let _used = self.lock();
        closed.store(true, Ordering::Relaxed);
        self.changed.notify_all();
    }
}

/// A segment with what stays counted until it is written.
type Compressed = (Result<(Segment, Option<Named>), Error>, Arc<Counted>);

struct Job {
    key: Option<Key>,
    bundle: Arc<Counted>,
    done: Sender<Compressed>,
}

/// What the digester is to do next.
enum Digested {
    /// Digest these bytes.
    Bytes(Arc<Counted>),
    /// Go on from here.
    Midstate(Midstate),
}

/// What the assembler has written.
struct Assembled {
    /// Not yet committed.
    blob: BlobWriter,
    /// Where in it the segment of each bundle lies; none of one that is not worth it.
    spans: Vec<Option<Span>>,
}

/// A layer whose bytes are all there.
pub(super) struct Finished {
    pub(super) diff_id: Digest,
    /// Not yet committed.
    pub(super) blob: BlobWriter,
    /// Where in it segments lie that later layers can use.
    pub(super) records: Vec<Record>,
}

impl Finished {
    fn new(midstates: Midstates, assembled: Assembled, chains: Vec<Chain>) -> Self {
        let records = assembled.spans.into_iter().zip(chains).zip(midstates.after);
        let records = records.filter_map(|((span, chain), after)| Some(Record { span: span?, chain, after: after? }));
        Self { diff_id: midstates.digest, blob: assembled.blob, records: records.collect() }
    }
}

/// The sending ends: dropping them ends the threads.
struct Inputs {
    digester: Sender<Digested>,
    jobs: Sender<Job>,
    order: Sender<Receiver<Compressed>>,
}

pub(super) struct Pipeline {
    codec: Codec,
    cache: Option<Arc<SegmentCache>>,
    /// What each bundle so far and all before it are called together.
    chains: Vec<Chain>,
    /// The assembler has ended: nothing more is wanted.
    closed: Arc<AtomicBool>,
    inputs: Option<Inputs>,
    digester: Option<JoinHandle<Midstates>>,
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
            codec,
            cache: cache.map(Arc::clone),
            chains: Vec::new(),
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
    pub(super) fn submit(&mut self, bundle: Bundle) -> Result<(), Error> {
        let name = bundle.name();
        let chain = segments::chain(self.chains.last(), &name);
        self.chains.push(chain);
        let key = self.cache.as_ref().and_then(|_| segments::key(self.codec, &name, bundle.len()));
        let known = self.cache.as_ref().zip(key);
        if let Some((segment, named, midstate)) =
            known.and_then(|(cache, key)| cache.known_after(&chain, key, bundle.len()))
        {
            let counted = self.count(Vec::new(), segment.bytes.len())?;
            return self.send(Digested::Midstate(midstate), |done| {
                done.send((Ok((segment, Some(named))), counted)).ok();
                None
            });
        }
        let bytes = bundle.read()?;
        let length = bytes.len();
        let bundle = self.count(bytes, length)?;
        self.send(Digested::Bytes(Arc::clone(&bundle)), |done| Some(Job { key, bundle, done }))
    }

    /// Waits until there is room for so many bytes.
    fn count(&mut self, bytes: Vec<u8>, count: usize) -> Result<Arc<Counted>, Error> {
        BUDGET.take(bytes, count, &self.closed).ok_or_else(|| self.failure())
    }

    /// Hands something to the digester and the assembler, and to the workers what `job` makes of it.
    fn send(&mut self, digested: Digested, job: impl FnOnce(Sender<Compressed>) -> Option<Job>) -> Result<(), Error> {
        let (done, segment) = channel();
        let sent = self.inputs.as_ref().is_some_and(|inputs| {
            inputs.order.send(segment).is_ok()
                && inputs.digester.send(digested).is_ok()
                && job(done).is_none_or(|job| inputs.jobs.send(job).is_ok())
        });
        if sent { Ok(()) } else { Err(self.failure()) }
    }

    /// Waits for everything.
    pub(super) fn finish(mut self) -> Result<Finished, Error> {
        let (midstates, assembled) = self.join();
        let chains = std::mem::take(&mut self.chains);
        Ok(Finished::new(midstates.expect("joined once"), assembled.expect("joined once")?, chains))
    }

    /// Why the assembler ended before its time.
    fn failure(&mut self) -> Error {
        match self.join().1 {
            Some(Err(error)) => error,
            _ => Error::LayerFailed,
        }
    }

    /// Ends the threads and passes on a panic.
    fn join(&mut self) -> (Option<Midstates>, Option<Result<Assembled, Error>>) {
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

/// What the digester has found.
struct Midstates {
    digest: Digest,
    /// After each bundle.
    after: Vec<Option<Midstate>>,
}

fn digest(bundles: &Receiver<Digested>) -> Midstates {
    let (mut stream, mut after) = (Sha256Stream::default(), Vec::new());
    for bundle in bundles {
        match bundle {
            Digested::Bytes(bundle) => stream.update(&bundle.bytes),
            Digested::Midstate(midstate) => stream = Sha256Stream::resume(midstate),
        }
        after.push(stream.midstate());
    }
    Midstates { digest: stream.finish(), after }
}

fn work(queue: &Mutex<Receiver<Job>>, codec: Codec, cache: Option<&SegmentCache>) {
    loop {
        let next = queue.lock().expect("nothing panics while it holds this lock").recv();
        let Ok(Job { key, bundle, done }) = next else { return };
        let segment = segment(codec, cache.zip(key), &bundle.bytes);
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
    bundle: Bundle,
) -> Result<Finished, Error> {
    let name = bundle.name();
    let key = segments::key(codec, &name, bundle.len());
    let (mut assembly, mut stream) = (Assembly::begin(codec, blob)?, Sha256Stream::default());
    if !bundle.is_empty() {
        let bytes = bundle.read()?;
        stream.update(&bytes);
        assembly.append(segment(codec, cache.zip(key), &bytes)?)?;
        spare(bytes);
    }
    let after = vec![stream.midstate()];
    let midstates = Midstates { digest: stream.finish(), after };
    Ok(Finished::new(midstates, assembly.finish()?, vec![segments::chain(None, &name)]))
}

fn segment(
    codec: Codec,
    known: Option<(&SegmentCache, Key)>,
    bundle: &[u8],
) -> Result<(Segment, Option<Named>), Error> {
    match known {
        Some((cache, key)) => cache.segment(codec, key, bundle),
        None => Ok((codec.compress(bundle)?, None)),
    }
}

/// A blob to which segments are written in their order.
struct Assembly {
    codec: Codec,
    blob: BlobWriter,
    member: Member,
    spans: Vec<Option<Span>>,
    /// Where the next segment will lie.
    offset: u64,
}

impl Assembly {
    fn begin(codec: Codec, mut blob: BlobWriter) -> Result<Self, Error> {
        blob.write_all(codec.header())?;
        let offset = codec.header().len() as u64;
        Ok(Self { codec, blob, member: Member::default(), spans: Vec::new(), offset })
    }

    fn append(&mut self, (segment, named): (Segment, Option<Named>)) -> Result<(), Error> {
        self.member.append(&segment);
        self.blob.write_all(&segment.bytes)?;
        self.spans.push(named.and_then(|named| named.span(&segment, self.offset)));
        self.offset += segment.bytes.len() as u64;
        Ok(())
    }

    fn finish(mut self) -> Result<Assembled, Error> {
        self.blob.write_all(&self.codec.trailer(self.member))?;
        Ok(Assembled { blob: self.blob, spans: self.spans })
    }
}
