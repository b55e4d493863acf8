//! Ctrl-C and SIGTERM: the build is cancelled, its steps die, rbuild ends by itself.

use std::thread;
use std::time::Duration;

use builder::sandbox::Cancel;
use nix::sys::signal::{SigSet, Signal};

use crate::report;

/// How many signals end rbuild at once: as many as `docker buildx build` takes.
const INSISTING: usize = 3;

/// How long a cancelled build may take to end by itself: less than what `docker stop`, with ten seconds the least patient
/// of those who send SIGKILL after SIGTERM, waits.
const PATIENCE: Duration = Duration::from_secs(5);

/// Cancels the build at the first SIGINT, SIGTERM or SIGHUP. The third, or [`PATIENCE`], ends rbuild, for what waits for a
/// registry that does not answer sees no flag. Steps die with rbuild, and the next build clears up, as after SIGKILL.
///
/// The signals are blocked in all threads that are begun later and taken by one of its own, so no code runs in a
/// handler. Must be called before other threads begin.
pub(crate) fn cancel_on_signals(cancel: Cancel) -> Result<(), nix::Error> {
    let signals: SigSet = [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP].into_iter().collect();
    signals.thread_block()?;
    thread::spawn(move || {
        for received in 1..=INSISTING {
            if signals.wait().is_err() {
                return;
            }
            if received == 1 {
                cancel.cancel();
                thread::spawn(|| {
                    thread::sleep(PATIENCE);
                    report::abandon()
                });
            }
        }
        report::abandon()
    });
    Ok(())
}
