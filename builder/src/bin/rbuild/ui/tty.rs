//! The live display: what has ended scrolls away upwards, what runs stays at the bottom with its time and its last
//! line of output.

use std::collections::{HashMap, VecDeque};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use builder::progress::{Event, Progress};
use indicatif::{MultiProgress, ProgressBar, ProgressStyle};

use super::{Display, Lines, cached, columns, harmless, note, one_line, summary};

/// How often the times are redrawn.
const TICK: Duration = Duration::from_millis(100);
/// Lines of a failed step that are shown again below the display.
const TAIL: usize = 20;

/// The display.
pub(super) struct Tty {
    bars: MultiProgress,
    begun: Instant,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    running: HashMap<u32, Running>,
    ended: usize,
    cached: usize,
    failed: Vec<(String, VecDeque<String>)>,
}

struct Running {
    name: String,
    bar: ProgressBar,
    lines: Lines,
    tail: VecDeque<String>,
}

impl Tty {
    pub(super) fn new() -> Self {
        Self { bars: MultiProgress::new(), begun: Instant::now(), state: Mutex::new(State::default()) }
    }

    fn start(&self, state: &mut State, step: u32, name: &str) {
        let style = ProgressStyle::with_template(" {spinner:.cyan} {prefix}  {elapsed:>}  {wide_msg:.dim}")
            .unwrap_or_else(|_| ProgressStyle::default_spinner());
        let bar = self.bars.add(ProgressBar::new_spinner().with_style(style).with_prefix(short(name)));
        bar.enable_steady_tick(TICK);
        let running = Running { name: name.to_owned(), bar, lines: Lines::default(), tail: VecDeque::new() };
        state.running.insert(step, running);
    }

    fn line(&self, line: &str) {
        // A terminal that is gone cannot be told so.
        let _gone = self.bars.println(line);
    }

    fn cancel(&self, state: &mut State, step: u32) {
        let Some(running) = state.running.remove(&step) else { return };
        running.bar.finish_and_clear();
        self.line(&format!(" - {}  cancelled", short(&running.name)));
    }

    fn end(&self, state: &mut State, step: u32, elapsed: Duration, failed: bool) {
        let Some(mut running) = state.running.remove(&step) else { return };
        running.bar.finish_and_clear();
        if let Some(line) = running.lines.finish() {
            running.tail.push_back(harmless(&line));
        }
        let name = short(&running.name);
        state.ended += 1;
        let mark = if failed { "\u{1b}[31m✗" } else { "\u{1b}[32m✓" };
        self.line(&format!(" {mark}\u{1b}[0m {name}  {:.1}s", elapsed.as_secs_f64()));
        if failed {
            state.failed.push((name, running.tail));
        }
    }
}

/// A step's name with room beside it for a mark, a time and a little of its output.
fn short(name: &str) -> String {
    one_line(&harmless(name), columns() - 24)
}

impl Progress for Tty {
    fn emit(&self, event: Event) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        match event {
            Event::Started { step, name, .. } => self.start(&mut state, step, &name),
            Event::Cached { name, remote, .. } => {
                state.ended += 1;
                state.cached += 1;
                self.line(&format!(" \u{1b}[32m✓\u{1b}[0m {}  {}", short(&name), cached(remote)));
            }
            Event::Missed { step, reason } => {
                if let Some(running) = state.running.get(&step) {
                    self.line(&format!(" ? {} runs because: {}", short(&running.name), harmless(&reason)));
                }
            }
            Event::Output { step, bytes, .. } => {
                let Some(running) = state.running.get_mut(&step) else { return };
                for line in running.lines.push(&bytes) {
                    let line = harmless(&line);
                    running.bar.set_message(line.clone());
                    running.tail.push_back(line);
                    if running.tail.len() > TAIL {
                        running.tail.pop_front();
                    }
                }
            }
            Event::Finished { step, elapsed, error } => self.end(&mut state, step, elapsed, error.is_some()),
            Event::Cancelled { step } => self.cancel(&mut state, step),
            Event::Summary { run, hit, saved, down, up } => {
                self.line(&format!(" {}", summary(run, hit, saved, (down, up))));
            }
            Event::Warning { message } => self.line(&format!(" \u{1b}[33m!\u{1b}[0m {}", harmless(&message))),
        }
    }
}

impl Display for Tty {
    fn finish(&self, succeeded: bool) {
        let state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        for running in state.running.values() {
            running.bar.finish_and_clear();
        }
        for (name, tail) in &state.failed {
            note(&format!("--- the end of {name}"));
            for line in tail {
                note(&format!("    {line}"));
            }
        }
        let State { ended, cached, .. } = &*state;
        let seconds = self.begun.elapsed().as_secs_f64();
        let verdict = if succeeded { "done" } else { "failed" };
        note(&format!(" {verdict}: {ended} steps, {cached} of them cached, in {seconds:.1}s"));
    }
}
