//! Ctrl-C and SIGTERM: the build is cancelled, its steps die, rbuild ends by itself.

use builder::sandbox::Cancel;
use nix::sys::signal::{SigSet, Signal};

use crate::report;

/// Signals that ask: as many as `docker buildx build` takes before it obeys.
const ASKING: usize = 2;

/// Cancels the build at the first SIGINT, SIGTERM or SIGHUP; the third ends rbuild, for what waits for a registry that
/// does not answer sees no flag. Steps die with rbuild, and the next build clears up, as after SIGKILL.
///
/// The signals are blocked in all threads that are begun later and taken by one of its own, so no code runs in a
/// handler. Must be called before other threads begin.
pub(crate) fn cancel_on_signals(cancel: Cancel) -> Result<(), nix::Error> {
    let signals: SigSet = [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP].into_iter().collect();
    signals.thread_block()?;
    std::thread::spawn(move || {
        for _ in 0..ASKING {
            if signals.wait().is_ok() {
                cancel.cancel();
            }
        }
        if signals.wait().is_ok() {
            report::abandon();
        }
    });
    Ok(())
}
