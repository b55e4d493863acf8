//! The threads of a gzip layer: bundles → {`diff_id` ‖ deflate on all cores} → segments in order → blob.
//!
//! ```text
//!             ┌─▶ digester ────────────────▶ diff_id
//! submit() ───┼─▶ workers: deflate ─┐
//!             └─▶ order ────────────┴─▶ assembler → BlobWriter
//! ```
//! The bytes depend on the bundles alone, not on the number of workers.

use std::io::Write;
use std::panic::resume_unwind;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::thread::{Builder, JoinHandle};

use oci_spec::image::Digest;

use super::segment::{GZIP_HEADER, Member, Segment, deflate};
use crate::digest::HashingWriter;
use crate::{BlobWriter, Error};

/// The bytes of bundles in flight for one worker: the largest bundle. Deflated bytes come on top, at most as many
/// again.
const FOR_EACH_WORKER: usize = 4 * 1024 * 1024;

/// The same for the bundles that wait to be deflated, digested or written.
const WAITING: usize = 8 * 1024 * 1024;

/// More workers than this wait for bundles.
const WORKERS_MAX: usize = 16;

/// A bundle, counted in the budget while any thread still needs it.
struct Bundle {
    bytes: Vec<u8>,
    budget: Arc<Budget>,
}

impl Drop for Bundle {
    fn drop(&mut self) {
        self.budget.lock().used -= self.bytes.len();
        self.budget.changed.notify_all();
    }
}

struct Budget {
    limit: usize,
    state: Mutex<BudgetState>,
    changed: Condvar,
}

#[derive(Default)]
struct BudgetState {
    used: usize,
    /// The assembler has ended: nobody will free anything, nothing more is wanted.
    closed: bool,
}

impl Budget {
    fn lock(&self) -> MutexGuard<'_, BudgetState> {
        self.state.lock().expect("nothing panics while it holds this lock")
    }

    /// Waits until `bytes` fit; `false` when the pipeline has failed.
    fn take(&self, bytes: usize) -> bool {
        let mut state = self.lock();
        while !state.closed && state.used > 0 && state.used + bytes > self.limit {
            state = self.changed.wait(state).expect("nothing panics while it holds this lock");
        }
        state.used += bytes;
        !state.closed
    }

    fn close(&self) {
        self.lock().closed = true;
        self.changed.notify_all();
    }
}

/// A segment with the bundle that it came from, which stays counted until the segment is written.
type Deflated = (Result<Segment, flate2::CompressError>, Arc<Bundle>);

struct Job {
    bundle: Arc<Bundle>,
    done: Sender<Deflated>,
}

/// The sending ends: dropping them ends the threads.
struct Inputs {
    digester: Sender<Arc<Bundle>>,
    jobs: Sender<Job>,
    order: Sender<Receiver<Deflated>>,
}

pub(super) struct Pipeline {
    budget: Arc<Budget>,
    inputs: Option<Inputs>,
    digester: Option<JoinHandle<Digest>>,
    workers: Vec<JoinHandle<()>>,
    assembler: Option<JoinHandle<Result<BlobWriter, Error>>>,
}

impl Pipeline {
    /// Starts the threads.
    pub(super) fn start(blob: BlobWriter, level: u32, workers: usize) -> Result<Self, Error> {
        let workers = workers.clamp(1, WORKERS_MAX);
        let limit = WAITING + workers * FOR_EACH_WORKER;
        let budget = Arc::new(Budget { limit, state: Mutex::default(), changed: Condvar::new() });
        let (digester, bundles) = channel();
        let (jobs, queue) = channel();
        let (order, segments) = channel();
        let mut pipeline = Self {
            budget: Arc::clone(&budget),
            inputs: Some(Inputs { digester, jobs, order }),
            digester: None,
            workers: Vec::new(),
            assembler: None,
        };
        let thread = |name: &str| Builder::new().name(name.to_owned());
        pipeline.digester = Some(thread("layer-digest").spawn(move || digest(&bundles))?);
        let queue = Arc::new(Mutex::new(queue));
        for _ in 0..workers {
            let queue = Arc::clone(&queue);
            pipeline.workers.push(thread("layer-deflate").spawn(move || work(&queue, level))?);
        }
        let assembler = thread("layer-write").spawn(move || {
            let result = assemble(&segments, blob);
            budget.close();
            result
        })?;
        pipeline.assembler = Some(assembler);
        Ok(pipeline)
    }

    /// Hands over the next bundle; waits when too much is in flight.
    pub(super) fn submit(&mut self, bytes: Vec<u8>) -> Result<(), Error> {
        if !self.budget.take(bytes.len()) {
            return Err(self.failure());
        }
        let bundle = Arc::new(Bundle { bytes, budget: Arc::clone(&self.budget) });
        let (done, segment) = channel();
        let sent = self.inputs.as_ref().is_some_and(|inputs| {
            inputs.order.send(segment).is_ok()
                && inputs.digester.send(Arc::clone(&bundle)).is_ok()
                && inputs.jobs.send(Job { bundle, done }).is_ok()
        });
        if sent { Ok(()) } else { Err(self.failure()) }
    }

    /// Waits for everything; returns the `diff_id` and the blob, not yet committed.
    pub(super) fn finish(mut self) -> Result<(Digest, BlobWriter), Error> {
        let (digest, blob) = self.join();
        Ok((digest.expect("joined once"), blob.expect("joined once")?))
    }

    /// Why the assembler ended before its time.
    fn failure(&mut self) -> Error {
        match self.join().1 {
            Some(Err(error)) => error,
            _ => Error::LayerFailed,
        }
    }

    /// Ends the threads and passes on a panic.
    fn join(&mut self) -> (Option<Digest>, Option<Result<BlobWriter, Error>>) {
        self.inputs = None;
        for worker in self.workers.drain(..) {
            worker.join().unwrap_or_else(|panic| resume_unwind(panic));
        }
        let digest = self.digester.take().map(|thread| thread.join().unwrap_or_else(|panic| resume_unwind(panic)));
        let blob = self.assembler.take().map(|thread| thread.join().unwrap_or_else(|panic| resume_unwind(panic)));
        (digest, blob)
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
        digest.write_all(&bundle.bytes).expect("a sink takes everything");
    }
    digest.finish()
}

fn work(queue: &Mutex<Receiver<Job>>, level: u32) {
    loop {
        let next = queue.lock().expect("nothing panics while it holds this lock").recv();
        let Ok(Job { bundle, done }) = next else { return };
        let segment = deflate(&bundle.bytes, level);
        // Nobody waits any more when the assembler has failed.
        done.send((segment, bundle)).ok();
    }
}

fn assemble(segments: &Receiver<Receiver<Deflated>>, mut blob: BlobWriter) -> Result<BlobWriter, Error> {
    let mut member = Member::default();
    blob.write_all(&GZIP_HEADER)?;
    for segment in segments {
        // A worker can only end early by a panic, which `join` passes on.
        let (segment, _bundle) = segment.recv().map_err(|_| Error::LayerFailed)?;
        let segment = segment?;
        member.append(&segment);
        blob.write_all(&segment.deflated)?;
    }
    blob.write_all(&member.trailer())?;
    Ok(blob)
}
