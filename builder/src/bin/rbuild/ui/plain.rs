//! `--progress=plain`: a log that a CI system can keep. `#3` at the beginning of a line says which step it is of.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::Instant;

use builder::progress::{Event, Progress};

use super::{Display, Lines, cached, summary};

/// The display.
pub(super) struct Plain<W> {
    /// Takes one line.
    write: W,
    running: Mutex<HashMap<u32, (Instant, Lines)>>,
}

impl<W: Fn(&str) + Sync> Plain<W> {
    pub(super) fn new(write: W) -> Self {
        Self { write, running: Mutex::new(HashMap::new()) }
    }
}

impl<W: Fn(&str) + Sync> Progress for Plain<W> {
    fn emit(&self, event: Event) {
        let note = &self.write;
        let mut running = self.running.lock().unwrap_or_else(PoisonError::into_inner);
        match event {
            Event::Started { step, name, .. } => {
                running.insert(step, (Instant::now(), Lines::default()));
                note(&format!("#{step} {name}"));
            }
            Event::Cached { step, name, remote } => {
                note(&format!("#{step} {name}"));
                note(&format!("#{step} {}", cached(remote)));
            }
            Event::Missed { step, reason } => note(&format!("#{step} runs because: {reason}")),
            Event::Output { step, bytes, .. } => {
                if let Some((begun, lines)) = running.get_mut(&step) {
                    for line in lines.push(&bytes) {
                        note(&format!("#{step} {:.3} {line}", begun.elapsed().as_secs_f64()));
                    }
                }
            }
            Event::Finished { step, elapsed, error } => {
                if let Some((begun, mut lines)) = running.remove(&step)
                    && let Some(line) = lines.finish()
                {
                    note(&format!("#{step} {:.3} {line}", begun.elapsed().as_secs_f64()));
                }
                match error {
                    None => note(&format!("#{step} DONE {:.1}s", elapsed.as_secs_f64())),
                    Some(error) => note(&format!("#{step} ERROR: {error}")),
                }
            }
            Event::Cancelled { step } => {
                running.remove(&step);
                note(&format!("#{step} CANCELED"));
            }
            Event::Summary { run, hit, saved, down, up } => note(&summary(run, hit, saved, (down, up))),
            Event::Warning { message } => note(&format!("warning: {message}")),
        }
    }
}

impl<W: Fn(&str) + Sync> Display for Plain<W> {
    fn finish(&self, _: bool) {}
}
