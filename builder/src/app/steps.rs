//! What the steps of a build did, for its record: how long each took, and why the cache did not have it.

use std::collections::BTreeMap;
use std::sync::Mutex;

use serde::{Deserialize, Serialize};

use crate::parallel::lock;
use crate::progress::{Event, Progress};

/// One step of a build.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct StepRecord {
    /// What it does, in one line, with the service before it.
    pub name: String,
    /// Whether the cache had it.
    pub cached: bool,
    /// How long it took, in milliseconds.
    pub milliseconds: u64,
    /// Why the cache did not have it; absent of what no cache holds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub missed: Option<String>,
    /// Why it failed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
}

/// Passes events on and notes what they say of steps.
pub struct Noted<'a> {
    inner: &'a dyn Progress,
    /// Whether others are told, too, why the cache did not have a step.
    tells_reasons: bool,
    steps: Mutex<BTreeMap<u32, StepRecord>>,
}

impl std::fmt::Debug for Noted<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Noted").field("steps", &self.steps).finish_non_exhaustive()
    }
}

impl<'a> Noted<'a> {
    /// Passes events on to `inner`, reasons of misses only if it `tells_reasons`.
    pub fn new(inner: &'a dyn Progress, tells_reasons: bool) -> Self {
        Self { inner, tells_reasons, steps: Mutex::default() }
    }

    /// The steps so far, in the order in which they began.
    pub fn steps(&self) -> Vec<StepRecord> {
        lock(&self.steps).values().cloned().collect()
    }
}

impl Progress for Noted<'_> {
    fn emit(&self, event: Event) {
        {
            let mut steps = lock(&self.steps);
            match &event {
                Event::Started { step, name, .. } => steps.entry(*step).or_default().name.clone_from(name),
                Event::Cached { step, name, .. } => {
                    let record = StepRecord { name: name.clone(), cached: true, ..StepRecord::default() };
                    steps.insert(*step, record);
                }
                Event::Missed { step, reason } => steps.entry(*step).or_default().missed = Some(reason.clone()),
                Event::Finished { step, elapsed, error } => {
                    let record = steps.entry(*step).or_default();
                    record.milliseconds = u64::try_from(elapsed.as_millis()).unwrap_or(u64::MAX);
                    record.error.clone_from(error);
                }
                Event::Cancelled { step } => steps.entry(*step).or_default().error = Some("cancelled".to_owned()),
                Event::Output { .. } | Event::Summary { .. } | Event::Warning { .. } => {}
            }
        }
        if self.tells_reasons || !matches!(event, Event::Missed { .. }) {
            self.inner.emit(event);
        }
    }
}
