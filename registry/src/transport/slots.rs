//! How many requests a host is sent at once, by all threads of a client together.

use std::collections::HashMap;
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread::{self, ThreadId};
use std::time::{Duration, Instant};

use url::Url;

use super::lock;

/// The requests under way.
#[derive(Debug)]
pub(crate) struct Slots {
    most: usize,
    /// Origin → the threads whose requests are under way.
    hosts: Mutex<HashMap<String, Vec<ThreadId>>>,
    freed: Condvar,
}

/// Leave for one request, until its answer has been read.
#[derive(Debug)]
pub(crate) struct Slot {
    slots: Arc<Slots>,
    origin: String,
    thread: ThreadId,
    /// How long it was waited for.
    pub(crate) waited: Duration,
}

impl Slots {
    pub(crate) fn new(most: usize) -> Arc<Self> {
        Arc::new(Self { most: most.max(1), hosts: Mutex::default(), freed: Condvar::new() })
    }

    /// Waits until another request may go to a host.
    ///
    /// A thread with a request under way is let through: it may be copying from there to here, and who holds one slot
    /// and waits for another can wait for ever.
    pub(crate) fn take(self: &Arc<Self>, url: &Url) -> Slot {
        let (origin, thread) = (url.origin().ascii_serialization(), thread::current().id());
        let started = Instant::now();
        let mut hosts = lock(&self.hosts);
        while hosts.get(&origin).is_some_and(|threads| threads.len() >= self.most)
            && !hosts.values().any(|threads| threads.contains(&thread))
        {
            hosts = self.freed.wait(hosts).unwrap_or_else(PoisonError::into_inner);
        }
        hosts.entry(origin.clone()).or_default().push(thread);
        drop(hosts);
        Slot { slots: Arc::clone(self), origin, thread, waited: started.elapsed() }
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        if let Some(threads) = lock(&self.slots.hosts).get_mut(&self.origin)
            && let Some(place) = threads.iter().position(|thread| *thread == self.thread)
        {
            threads.swap_remove(place);
        }
        self.slots.freed.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use super::*;

    #[test]
    fn a_host_has_so_many_slots_and_other_hosts_their_own() {
        let slots = Slots::new(1);
        let (one, other): (Url, Url) = ("http://a.test/x".parse().unwrap(), "http://b.test/".parse().unwrap());
        let held = slots.take(&one);
        let (sender, receiver) = mpsc::channel();
        thread::scope(|scope| {
            scope.spawn(|| {
                drop(slots.take(&other));
                sender.send("other").unwrap();
                drop(slots.take(&one));
                sender.send("same").unwrap();
            });
            assert_eq!(receiver.recv().unwrap(), "other");
            assert!(receiver.try_recv().is_err());
            drop(held);
            assert_eq!(receiver.recv().unwrap(), "same");
        });
    }

    #[test]
    fn who_has_a_slot_never_waits_for_another() {
        let slots = Slots::new(1);
        let (one, other): (Url, Url) = ("http://a.test/".parse().unwrap(), "http://b.test/".parse().unwrap());
        let (barrier, slots) = (std::sync::Barrier::new(2), &slots);
        // Each holds what the other wants.
        let work = |first: &Url, second: &Url| {
            let held = slots.take(first);
            barrier.wait();
            drop((slots.take(second), slots.take(first), held));
        };
        thread::scope(|scope| {
            scope.spawn(|| work(&one, &other));
            work(&other, &one);
        });
        assert!(lock(&slots.hosts).values().all(Vec::is_empty));
    }
}
