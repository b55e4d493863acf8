//! Small tasks at the same time, most of which wait for somebody else, and locks that a panic elsewhere does not spoil.
//! Steps, which depend on each other, are the scheduler's ([`crate::solve::scheduler`]).

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

/// Does `act` to every item, at most `most` at a time, and gives the results in the order of the items.
///
/// After an error no other item is begun; of several errors the first in that order is returned.
pub(crate) fn each<I: Sync, T: Send, E: Send>(
    items: &[I],
    most: usize,
    act: impl Fn(&I) -> Result<T, E> + Sync,
) -> Result<Vec<T>, E> {
    let (next, failed) = (AtomicUsize::new(0), AtomicBool::new(false));
    let done = Mutex::new(Vec::with_capacity(items.len()));
    let work = || {
        while !failed.load(Ordering::Relaxed) {
            let place = next.fetch_add(1, Ordering::Relaxed);
            let Some(item) = items.get(place) else { return };
            let result = act(item);
            failed.fetch_or(result.is_err(), Ordering::Relaxed);
            lock(&done).push((place, result));
        }
    };
    // The caller's own thread does its part.
    std::thread::scope(|scope| {
        for _ in 1..most.min(items.len()) {
            scope.spawn(work);
        }
        work();
    });
    let mut done = done.into_inner().unwrap_or_else(PoisonError::into_inner);
    done.sort_unstable_by_key(|(place, _)| *place);
    done.into_iter().map(|(_, result)| result).collect()
}

/// Locks what is whole at any moment: a thread that panicked left nothing half-done in it.
pub(crate) fn lock<T: ?Sized>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use std::sync::Barrier;

    use super::*;

    #[test]
    fn results_come_in_the_order_of_the_items() {
        let items: Vec<usize> = (0..100).collect();
        let doubled = each(&items, 7, |item| Ok::<_, ()>(item * 2)).unwrap();
        assert_eq!(doubled, items.iter().map(|item| item * 2).collect::<Vec<_>>());
        assert_eq!(each(&[] as &[usize], 7, |_| Err::<(), _>("none")), Ok(Vec::new()));
    }

    #[test]
    fn the_first_error_is_returned_and_ends_it() {
        let (begun, both) = (AtomicUsize::new(0), Barrier::new(2));
        let items: Vec<usize> = (0..100).collect();
        let failed = each(&items, 2, |item| {
            begun.fetch_add(1, Ordering::Relaxed);
            // The two that run first fail, whichever ends before the other.
            both.wait();
            Err::<(), _>(*item)
        });
        assert_eq!((failed, begun.into_inner()), (Err(0), 2));
    }
}
