//! Mirrors are asked briefly, for the registry itself can be asked too; one that does not answer is not asked again.

use std::collections::HashSet;
use std::sync::Mutex;
use std::time::Duration;

use super::lock;
use crate::retry::Backoff;
use crate::{Options, Retry};

/// Longest wait for a connection to a mirror.
const CONNECT: Duration = Duration::from_secs(3);
/// Most tries of a request to a mirror.
const ATTEMPTS: u32 = 2;
/// Time after which no further try is begun.
const BUDGET: Duration = Duration::from_secs(5);

/// The hosts that are mirrors and nothing else.
pub(super) struct Mirrors {
    hosts: Vec<String>,
    retry: Retry,
    /// Those that have not answered; remembered as long as the client lives.
    dead: Mutex<HashSet<String>>,
}

impl Mirrors {
    pub(super) fn new(options: &Options) -> Self {
        let (hosts, own) = (options.registries.mirrors(), &options.retry);
        let retry = Retry { attempts: own.attempts.min(ATTEMPTS), budget: own.budget.min(BUDGET), ..own.clone() };
        Self { hosts, retry, dead: Mutex::default() }
    }

    /// Starts the tries of a request, if its host is a mirror.
    pub(super) fn backoff(&self, authority: &str) -> Option<Backoff<'_>> {
        self.has(authority).then(|| Backoff::brief(&self.retry))
    }

    /// The longest wait for a connection to a host.
    pub(super) fn connect(&self, authority: &str, usual: Duration) -> Duration {
        if self.has(authority) { usual.min(CONNECT) } else { usual }
    }

    pub(super) fn is_dead(&self, authority: &str) -> bool {
        lock(&self.dead).contains(authority)
    }

    pub(super) fn bury(&self, authority: &str) {
        if self.has(authority) {
            lock(&self.dead).insert(authority.to_owned());
        }
    }

    fn has(&self, authority: &str) -> bool {
        self.hosts.iter().any(|host| host == authority)
    }
}
