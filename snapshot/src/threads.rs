//! The same work on several threads.

use std::num::NonZero;
use std::panic::resume_unwind;
use std::thread;

/// More threads than this that look at files wait for the kernel's locks.
pub(crate) const LOOKING_MAX: usize = 4;

/// Calls `work` on a thread for each core, this one among them, but on at most `most` and at least on this one; returns what
/// the calls returned. A panic of one goes on here.
pub fn on_cores<T: Send>(most: usize, work: impl Fn() -> T + Sync) -> Vec<T> {
    let count = thread::available_parallelism().map_or(1, NonZero::get).min(most);
    thread::scope(|scope| {
        let others: Vec<_> = (1..count).map(|_| scope.spawn(&work)).collect();
        let mut done = vec![work()];
        done.extend(others.into_iter().map(|other| other.join().unwrap_or_else(|panic| resume_unwind(panic))));
        done
    })
}
