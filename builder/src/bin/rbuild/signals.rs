//! Ctrl-C and SIGTERM: the build is cancelled, its steps die, rbuild ends by itself.

use builder::sandbox::Cancel;
use nix::sys::signal::{SigSet, Signal};

/// Cancels the build at the first SIGINT, SIGTERM or SIGHUP.
///
/// The signals are blocked in all threads that are begun later and taken by one of its own, so no code runs in a
/// handler. Must be called before other threads begin.
pub(crate) fn cancel_on_signals(cancel: Cancel) -> Result<(), nix::Error> {
    let signals: SigSet = [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP].into_iter().collect();
    signals.thread_block()?;
    std::thread::spawn(move || {
        while signals.wait().is_ok() {
            cancel.cancel();
        }
    });
    Ok(())
}
