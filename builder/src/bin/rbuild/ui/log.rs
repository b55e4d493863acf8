//! A build that is shown and written down at once.

use std::io::Write;
use std::sync::{Mutex, PoisonError};

use builder::progress::{Event, Progress};

use super::Mode;
use super::plain::Plain;
use super::{Display, display, note, print};

/// What is shown, and the log.
struct Both<'a> {
    shown: Box<dyn Display + 'a>,
    log: Box<dyn Display + 'a>,
}

/// The display of a mode, with the plain log going to a file too. Lines go to standard output, to standard error when
/// that is `aside`.
pub(crate) fn with_log(mode: Mode, aside: bool, log: &Mutex<fs_err::File>) -> Box<dyn Display + '_> {
    let shown: Box<dyn Display> = match mode.here() {
        Mode::Plain if aside => Box::new(Plain::new(note)),
        Mode::Plain => Box::new(Plain::new(|line: &str| print(&format!("{}\n", line.trim_end())))),
        mode => display(mode),
    };
    let write = |line: &str| {
        let mut log = log.lock().unwrap_or_else(PoisonError::into_inner);
        // A full disk ends the build where it matters: in the store.
        let _full = writeln!(log, "{}", line.trim_end());
    };
    Box::new(Both { shown, log: Box::new(Plain::new(write)) })
}

impl Progress for Both<'_> {
    fn emit(&self, event: Event) {
        self.log.emit(event.clone());
        self.shown.emit(event);
    }
}

impl Display for Both<'_> {
    fn finish(&self, succeeded: bool) {
        self.shown.finish(succeeded);
    }
}
