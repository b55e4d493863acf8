//! What a build tells while it runs: a stream of events, and the handle that steps emit them through.
//!
//! The library never prints. The terminal, the plain log and the JSON log are readers of this one stream.

use std::fmt::Display;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use serde::Serialize;

use crate::dockerfile::Span;
use crate::secrets::{Needles, Redactor};

/// Something that happened.
#[derive(Debug, Clone, Serialize)]
#[serde(tag = "event", rename_all = "snake_case")]
pub enum Event {
    /// A step began.
    Started {
        /// Its number, unique in the build, from 1.
        step: u32,
        /// What it does, in one line.
        name: String,
        /// Its lines in the Dockerfile, for steps that have some.
        #[serde(skip_serializing_if = "Option::is_none")]
        lines: Option<(usize, usize)>,
    },
    /// A step's result was in the cache; it neither started nor ran.
    Cached {
        /// Its number.
        step: u32,
        /// What it would have done.
        name: String,
        /// Another cache than the store has it, and nothing of it is fetched so far.
        remote: bool,
    },
    /// Why a step runs that the cache could have had.
    Missed {
        /// Its number.
        step: u32,
        /// In a sentence.
        reason: String,
    },
    /// Bytes that a step wrote.
    Output {
        /// Its number.
        step: u32,
        /// Whether they came from standard error.
        stderr: bool,
        /// The bytes; a log reader decides where lines end.
        #[serde(serialize_with = "as_text")]
        bytes: Vec<u8>,
    },
    /// A step ended.
    Finished {
        /// Its number.
        step: u32,
        /// How long it took, in milliseconds.
        #[serde(rename = "milliseconds", serialize_with = "as_milliseconds")]
        elapsed: Duration,
        /// Why it failed, when it did.
        #[serde(skip_serializing_if = "Option::is_none")]
        error: Option<String>,
    },
    /// A step was ended because the build ends.
    Cancelled {
        /// Its number.
        step: u32,
    },
    /// The build has ended well: what it did.
    Summary {
        /// Steps that ran.
        run: u64,
        /// Steps that the cache had.
        hit: u64,
        /// How long these took when they ran, in milliseconds.
        #[serde(rename = "saved_milliseconds", serialize_with = "as_milliseconds")]
        saved: Duration,
        /// Bytes of blobs that were fetched.
        #[serde(rename = "bytes_down")]
        down: u64,
        /// Bytes of blobs that were sent.
        #[serde(rename = "bytes_up")]
        up: u64,
    },
    /// Something the user should know that stops nothing.
    Warning {
        /// In one sentence.
        message: String,
    },
}

/// Receives events, from any thread.
pub trait Progress: Sync {
    /// Takes one event; must not block for long.
    fn emit(&self, event: Event);
}

/// Numbers the steps of one build, or of several that are shown as one, and hands their events to a [`Progress`].
#[derive(Clone)]
pub struct Reporter<'a> {
    sink: &'a dyn Progress,
    last: Arc<AtomicU32>,
    totals: Arc<Totals>,
    /// What stands before the names of steps.
    prefix: String,
    /// What nobody may see.
    needles: Option<&'a Needles>,
}

/// What a build did, in numbers that grow while it runs.
#[derive(Debug, Default)]
pub struct Totals {
    /// Steps that ran.
    pub run: AtomicU64,
    /// Steps that the cache had.
    pub hit: AtomicU64,
    /// Milliseconds that these took when they ran.
    pub saved: AtomicU64,
    /// Bytes of blobs that were fetched.
    pub down: AtomicU64,
    /// Bytes of blobs that were sent.
    pub up: AtomicU64,
}

impl std::fmt::Debug for Reporter<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Reporter").field("last", &self.last).finish_non_exhaustive()
    }
}

impl<'a> Reporter<'a> {
    /// Starts counting at 1.
    pub fn new(sink: &'a dyn Progress) -> Self {
        let (last, totals) = (Arc::new(AtomicU32::new(0)), Arc::default());
        Self { sink, last, totals, prefix: String::new(), needles: None }
    }

    /// One that counts on and puts a prefix before the names of steps.
    #[must_use]
    pub fn named(&self, prefix: &str) -> Self {
        Self { prefix: prefix.to_owned(), ..self.clone() }
    }

    /// One that counts on and hides secrets.
    #[must_use]
    pub fn hiding<'n>(&self, needles: &'n Needles) -> Reporter<'n>
    where
        'a: 'n,
    {
        Reporter { needles: Some(needles), ..self.clone() }
    }

    /// Begins a step.
    pub fn start(&self, name: &str, span: Option<Span>) -> Step<'_> {
        let number = self.next();
        let lines = span.map(|span| (span.start, span.end));
        self.sink.emit(Event::Started { step: number, name: self.shown(name), lines });
        Step { sink: self.sink, number, begun: Instant::now(), needles: self.needles, redactors: Mutex::default() }
    }

    /// Tells of a step that the cache had, or another one than the store; running it took so many milliseconds.
    pub fn cached(&self, name: &str, saved: u64, remote: bool) {
        let step = self.next();
        self.totals.hit.fetch_add(1, Ordering::Relaxed);
        self.totals.saved.fetch_add(saved, Ordering::Relaxed);
        self.sink.emit(Event::Cached { step, name: self.shown(name), remote });
    }

    /// What the build did so far, to be added to.
    pub fn totals(&self) -> &Totals {
        &self.totals
    }

    /// Tells what the build did.
    pub fn sum_up(&self) {
        let count = |number: &AtomicU64| number.load(Ordering::Relaxed);
        let Totals { run, hit, saved, down, up } = &*self.totals;
        self.sink.emit(Event::Summary {
            run: count(run),
            hit: count(hit),
            saved: Duration::from_millis(count(saved)),
            down: count(down),
            up: count(up),
        });
    }

    /// Tells the user something.
    pub fn warn(&self, message: &str) {
        self.sink.emit(Event::Warning { message: self.hide(message) });
    }

    /// A text without the secrets in it.
    pub(crate) fn hide(&self, text: &str) -> String {
        hidden(self.needles, text)
    }

    fn shown(&self, name: &str) -> String {
        self.hide(&format!("{}{name}", self.prefix))
    }

    fn next(&self) -> u32 {
        self.last.fetch_add(1, Ordering::Relaxed) + 1
    }
}

/// A step that has begun and not ended.
pub struct Step<'a> {
    sink: &'a dyn Progress,
    number: u32,
    begun: Instant,
    needles: Option<&'a Needles>,
    /// One for each of its two outputs.
    redactors: Mutex<[Redactor; 2]>,
}

impl std::fmt::Debug for Step<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Step").field("number", &self.number).finish_non_exhaustive()
    }
}

impl Step<'_> {
    /// Passes on what the step wrote.
    pub fn output(&self, stderr: bool, bytes: &[u8]) {
        let Some(needles) = self.needles else { return self.emit(stderr, bytes.to_vec()) };
        let mut redactors = self.redactors.lock().unwrap_or_else(PoisonError::into_inner);
        self.emit(stderr, redactors[usize::from(stderr)].push(needles, bytes));
    }

    fn emit(&self, stderr: bool, bytes: Vec<u8>) {
        if !bytes.is_empty() {
            self.sink.emit(Event::Output { step: self.number, stderr, bytes });
        }
    }

    /// Shows what was held back.
    fn flush(&self) {
        let mut redactors = self.redactors.lock().unwrap_or_else(PoisonError::into_inner);
        for (stderr, redactor) in [false, true].into_iter().zip(redactors.iter_mut()) {
            self.emit(stderr, redactor.finish());
        }
    }

    /// Writes one line of the builder's own into the step's log.
    pub fn note(&self, text: impl Display) {
        self.output(false, format!("{text}\n").as_bytes());
    }

    /// Tells why the cache did not have the step.
    pub fn missed(&self, reason: &str) {
        self.sink.emit(Event::Missed { step: self.number, reason: hidden(self.needles, reason) });
    }

    /// Ends the step without a result.
    pub fn cancel(self) {
        self.flush();
        self.sink.emit(Event::Cancelled { step: self.number });
    }

    /// Ends the step with its result, which it passes through.
    pub fn finish<T, E: Display>(self, result: Result<T, E>) -> Result<T, E> {
        self.flush();
        let error = result.as_ref().err().map(|error| hidden(self.needles, &error.to_string()));
        self.sink.emit(Event::Finished { step: self.number, elapsed: self.begun.elapsed(), error });
        result
    }
}

/// A text without the secrets in it.
fn hidden(needles: Option<&Needles>, text: &str) -> String {
    let Some(needles) = needles else { return text.to_owned() };
    let mut redactor = Redactor::default();
    let mut shown = redactor.push(needles, text.as_bytes());
    shown.extend(redactor.finish());
    String::from_utf8_lossy(&shown).into_owned()
}

fn as_text<S: serde::Serializer>(bytes: &[u8], serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(&String::from_utf8_lossy(bytes))
}

fn as_milliseconds<S: serde::Serializer>(elapsed: &Duration, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_u64(u64::try_from(elapsed.as_millis()).unwrap_or(u64::MAX))
}
