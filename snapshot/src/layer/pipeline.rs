//! The threads of a compressed layer: bundles → {`diff_id` ‖ compression on all cores} → segments in order → blob.
//!
//! ```text
//!             ┌─▶ digester ─────────────────────────▶ diff_id
//! submit() ───┼─▶ workers: compress ─┐
//!             └─▶ order, or found ───┴────────────▶ assembler → BlobWriter
//! ```
//! As long as a layer is bundle for bundle what an earlier one is, it is not read: its segments are copied, and the
//! digester goes on from where the earlier layer's was. After that it has to be read, small files not one by one.
//!
//! The bytes depend on the bundles alone, neither on the number of workers nor on what the segment cache has.

use std::io::Write;
use std::panic::resume_unwind;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::thread::{Builder, JoinHandle};

use oci_spec::image::Digest;

use super::bundle::Bundle;
use super::codec::Codec;
use super::segment::{Member, Segment};
use super::segments::{self, Chain, Key, Named, Record, SegmentCache, Span};
use super::spare::{BUNDLES, SEGMENTS};
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
static BUDGET: Budget = Budget { limit: IN_FLIGHT, used: Mutex::new(0), changed: Condvar::new() };

/// The bundles of a layer in flight for each of its workers, and as many again for its other threads: with more of them,
/// all are in memory that no cache holds.
const AHEAD: usize = 2;

/// The same for bundles that are only digested and copied: one for whoever digests, one that is next.
const FOUND_MAX: usize = 2;

/// The bytes of a bundle, counted in the budget while any thread still needs them.
struct Counted {
    bytes: Vec<u8>,
    count: usize,
    /// The bundles of its layer in flight.
    bundles: Arc<AtomicUsize>,
}

impl Drop for Counted {
    fn drop(&mut self) {
        let mut used = BUDGET.lock();
        *used -= self.count;
        self.bundles.fetch_sub(1, Ordering::Relaxed);
        drop(used);
        BUDGET.changed.notify_all();
        BUNDLES.give(std::mem::take(&mut self.bytes));
    }
}

struct Budget {
    limit: usize,
    used: Mutex<usize>,
    changed: Condvar,
}

impl Budget {
    fn lock(&self) -> MutexGuard<'_, usize> {
        self.used.lock().expect("nothing panics while it holds this lock")
    }

    /// Waits until `count` bytes fit and fewer than `most` bundles of the layer are in flight, both for `bytes`; `None`
    /// when `closed` says that nobody wants them any more.
    fn take(
        &self,
        bytes: Vec<u8>,
        count: usize,
        (bundles, most): (&Arc<AtomicUsize>, usize),
        closed: &AtomicBool,
    ) -> Option<Arc<Counted>> {
        let mut used = self.lock();
        let is_full = |used: usize| used > 0 && used + count > self.limit || bundles.load(Ordering::Relaxed) >= most;
        while !closed.load(Ordering::Relaxed) && is_full(*used) {
            used = self.changed.wait(used).expect("nothing panics while it holds this lock");
        }
        if closed.load(Ordering::Relaxed) {
            return None;
        }
        *used += count;
        bundles.fetch_add(1, Ordering::Relaxed);
        Some(Arc::new(Counted { bytes, count, bundles: Arc::clone(bundles) }))
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

/// The next segment, or where it will come from.
enum Ordered {
    Made(Compressed),
    Making(Receiver<Compressed>),
}

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
    order: Sender<Ordered>,
}

pub(super) struct Pipeline {
    codec: Codec,
    cache: Option<Arc<SegmentCache>>,
    /// What each bundle so far and all before it are called together.
    chains: Vec<Chain>,
    in_flight: Arc<AtomicUsize>,
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
            in_flight: Arc::default(),
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
    pub(super) fn submit(&mut self, bundle: &mut Bundle) -> Result<(), Error> {
        let name = bundle.name();
        let chain = segments::chain(self.chains.last(), &name);
        self.chains.push(chain);
        let Some(cache) = self.cache.clone() else { return self.compress(None, bundle.read()?) };
        let key = segments::key(self.codec, &name, bundle.len());
        let Some(found) = key.and_then(|key| cache.find(key, bundle.len())) else {
            return self.compress(key, cache.bundles.read(bundle, &name)?);
        };
        let midstate = cache.state_after(&chain);
        let bytes = if midstate.is_some() { Vec::new() } else { cache.bundles.read(bundle, &name)? };
        let count = bytes.len() + found.0.bytes.len();
        let counted = self.count(bytes, count, FOUND_MAX)?;
        let digested = midstate.map_or_else(|| Digested::Bytes(Arc::clone(&counted)), Digested::Midstate);
        self.send(digested, Ordered::Made((Ok(found), counted)), None)
    }

    /// Hands over the bytes of a bundle that nobody has compressed yet.
    fn compress(&mut self, key: Option<Key>, bytes: Vec<u8>) -> Result<(), Error> {
        let length = bytes.len();
        let bundle = self.count(bytes, length, AHEAD * (self.workers.len() + 1))?;
        let (done, segment) = channel();
        let digested = Digested::Bytes(Arc::clone(&bundle));
        self.send(digested, Ordered::Making(segment), Some(Job { key, bundle, done }))
    }

    /// Waits until there is room for so many bytes, and fewer than `most` bundles of this layer are in flight.
    fn count(&mut self, bytes: Vec<u8>, count: usize, most: usize) -> Result<Arc<Counted>, Error> {
        BUDGET.take(bytes, count, (&self.in_flight, most), &self.closed).ok_or_else(|| self.failure())
    }

    /// Hands something to each of the threads.
    fn send(&mut self, digested: Digested, segment: Ordered, job: Option<Job>) -> Result<(), Error> {
        let sent = self.inputs.as_ref().is_some_and(|inputs| {
            inputs.order.send(segment).is_ok()
                && inputs.digester.send(digested).is_ok()
                && job.is_none_or(|job| inputs.jobs.send(job).is_ok())
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
        let segment = compress(codec, cache.zip(key), &bundle.bytes);
        // Nobody waits any more when the assembler has failed.
        done.send((segment, bundle)).ok();
    }
}

fn assemble(segments: &Receiver<Ordered>, codec: Codec, blob: BlobWriter) -> Result<Assembled, Error> {
    let mut assembly = Assembly::begin(codec, blob)?;
    for segment in segments {
        let (segment, _bundle) = match segment {
            Ordered::Made(segment) => segment,
            // A worker can only end early by a panic, which `join` passes on.
            Ordered::Making(segment) => segment.recv().map_err(|_| Error::LayerFailed)?,
        };
        assembly.append(segment?)?;
    }
    assembly.finish()
}

/// Makes a layer of one bundle, or of none, on this thread: to start others takes longer than most of these layers do.
pub(super) fn alone(
    blob: BlobWriter,
    codec: Codec,
    cache: Option<&SegmentCache>,
    mut bundle: Bundle,
) -> Result<Finished, Error> {
    let name = bundle.name();
    let known = cache.zip(segments::key(codec, &name, bundle.len()));
    let (mut assembly, mut stream) = (Assembly::begin(codec, blob)?, Sha256Stream::default());
    if !bundle.is_empty() {
        let bytes = bundle.read()?;
        stream.update(&bytes);
        let found = known.and_then(|(cache, key)| cache.find(key, bytes.len()));
        assembly.append(found.map_or_else(|| compress(codec, known, &bytes), Ok)?)?;
        BUNDLES.give(bytes);
    }
    let after = vec![stream.midstate()];
    let midstates = Midstates { digest: stream.finish(), after };
    Ok(Finished::new(midstates, assembly.finish()?, vec![segments::chain(None, &name)]))
}

fn compress(
    codec: Codec,
    known: Option<(&SegmentCache, Key)>,
    bundle: &[u8],
) -> Result<(Segment, Option<Named>), Error> {
    match known {
        Some((cache, key)) => cache.compress(codec, key, bundle),
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
        SEGMENTS.give(segment.bytes);
        Ok(())
    }

    fn finish(mut self) -> Result<Assembled, Error> {
        self.blob.write_all(&self.codec.trailer(self.member))?;
        Ok(Assembled { blob: self.blob, spans: self.spans })
    }
}
