//! How long each step of an app's builds took, for their records: listens on the way to the display.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use super::record::StepTime;
use crate::progress::{Event, Progress};

/// Passes events on and remembers how long steps took.
pub(super) struct Timings<'a> {
    shown: &'a dyn Progress,
    steps: Mutex<BTreeMap<u32, StepTime>>,
}

impl<'a> Timings<'a> {
    pub(super) fn new(shown: &'a dyn Progress) -> Self {
        Self { shown, steps: Mutex::default() }
    }

    /// The steps whose names begin with a prefix, which is taken off; in the order of their numbers.
    pub(super) fn of(&self, prefix: &str) -> Vec<StepTime> {
        let steps = self.steps();
        let named = steps.values().filter_map(|step| {
            let name = step.name.strip_prefix(prefix)?.to_owned();
            Some(StepTime { name, ..step.clone() })
        });
        named.collect()
    }

    fn steps(&self) -> MutexGuard<'_, BTreeMap<u32, StepTime>> {
        self.steps.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Progress for Timings<'_> {
    fn emit(&self, event: Event) {
        match &event {
            Event::Started { step, name, .. } => {
                self.steps().insert(*step, StepTime { name: name.clone(), milliseconds: 0, cached: false });
            }
            Event::Cached { step, name, .. } => {
                self.steps().insert(*step, StepTime { name: name.clone(), milliseconds: 0, cached: true });
            }
            Event::Finished { step, elapsed, .. } => {
                if let Some(known) = self.steps().get_mut(step) {
                    known.milliseconds = u64::try_from(elapsed.as_millis()).unwrap_or(u64::MAX);
                }
            }
            Event::Missed { .. }
            | Event::Output { .. }
            | Event::Cancelled { .. }
            | Event::Summary { .. }
            | Event::Warning { .. } => {}
        }
        self.shown.emit(event);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::progress::Reporter;

    struct Nobody;

    impl Progress for Nobody {
        fn emit(&self, _: Event) {}
    }

    #[test]
    fn steps_are_known_by_what_they_are_for() {
        let timings = Timings::new(&Nobody);
        let reporter = Reporter::new(&timings);
        let (web, api) = (reporter.named("web "), reporter.named("api "));
        let step = web.start("RUN true", None);
        api.cached("COPY . .", 5, false);
        std::thread::sleep(std::time::Duration::from_millis(2));
        step.finish(Ok::<(), String>(())).unwrap();
        let [step] = &timings.of("web ")[..] else { panic!() };
        assert!(step.name == "RUN true" && step.milliseconds >= 2 && !step.cached, "{step:?}");
        assert_eq!(timings.of("api "), [StepTime { name: "COPY . .".into(), milliseconds: 0, cached: true }]);
    }
}
