//! When to try again: bounded in number and time, with waits drawn at random so that many builds do not march in step.

use std::thread;
use std::time::{Duration, Instant};

use jiff::Timestamp;
use jiff::fmt::rfc2822::DateTimeParser;
use reqwest::header::{HeaderMap, RETRY_AFTER};

use crate::{Error, Retry};

/// The tries of one request, or of one blob transfer.
#[derive(Debug)]
pub(crate) struct Backoff<'a> {
    limits: &'a Retry,
    started: Instant,
    failures: u32,
    /// Whether there is another place to ask, so that one where nobody listens is not asked again.
    is_brief: bool,
}

impl<'a> Backoff<'a> {
    pub(crate) fn new(limits: &'a Retry) -> Self {
        Self { limits, started: Instant::now(), failures: 0, is_brief: false }
    }

    /// The same for a mirror.
    pub(crate) fn brief(limits: &'a Retry) -> Self {
        Self { is_brief: true, ..Self::new(limits) }
    }

    /// Does not count a time that was spent before the request could begin.
    pub(crate) fn excuse(&mut self, waited: Duration) {
        self.started += waited;
    }

    /// Counts a failure and, if it may pass, sleeps before the next try. False when there shall be none.
    pub(crate) fn again(&mut self, error: &Error) -> bool {
        self.failures = self.failures.saturating_add(1);
        error.is_passing() && !(self.is_brief && error.is_connect()) && self.wait(error.retry_after())
    }

    /// As [`again`](Self::again), for an error that the caller knows to be worth another try.
    pub(crate) fn again_after_any(&mut self) -> bool {
        self.failures = self.failures.saturating_add(1);
        self.wait(None)
    }

    /// Sleeps. `after` is what the registry asked for (`Retry-After`); a wait that does not fit in the budget is not
    /// begun.
    fn wait(&self, after: Option<Duration>) -> bool {
        if self.failures >= self.limits.attempts {
            return false;
        }
        let doubled = self.limits.first_wait.saturating_mul(1_u32.checked_shl(self.failures - 1).unwrap_or(u32::MAX));
        let drawn = doubled.min(self.limits.longest_wait).mul_f64(fraction());
        let wait = after.map_or(drawn, |after| after.max(drawn));
        if self.started.elapsed().saturating_add(wait) > self.limits.budget {
            return false;
        }
        thread::sleep(wait);
        true
    }

    /// Begins to count anew: the transfer has moved on.
    pub(crate) fn progress(&mut self) {
        (self.started, self.failures) = (Instant::now(), 0);
    }

    /// Tries that failed since the last progress: after an error, the tries made.
    pub(crate) fn failures(&self) -> u32 {
        self.failures
    }
}

/// A number from ½ to 1: the wait keeps its order of magnitude and loses its rhythm.
fn fraction() -> f64 {
    // Without randomness the full wait is right, only not jittered.
    let random = getrandom::u32().unwrap_or(u32::MAX);
    0.5 + 0.5 * f64::from(random) / f64::from(u32::MAX)
}

/// Reads `Retry-After`: seconds, or a date (RFC 9110, section 10.2.3).
pub(crate) fn retry_after(headers: &HeaderMap) -> Option<Duration> {
    let text = headers.get(RETRY_AFTER)?.to_str().ok()?.trim();
    if let Ok(seconds) = text.parse::<u64>() {
        return Some(Duration::from_secs(seconds));
    }
    let date = DateTimeParser::new().parse_timestamp(text).ok()?;
    // A date that has passed asks for no wait.
    Some(Duration::try_from(date.duration_since(Timestamp::now())).unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn header(text: &str) -> Option<Duration> {
        retry_after(&HeaderMap::from_iter([(RETRY_AFTER, text.parse().unwrap())]))
    }

    #[test]
    fn retry_after_is_seconds_or_a_date() {
        assert_eq!(header("7"), Some(Duration::from_secs(7)));
        assert_eq!(header("Sun, 06 Nov 1994 08:49:37 GMT"), Some(Duration::ZERO));
        assert!(header("Fri, 06 Nov 2099 08:49:37 GMT").unwrap() > Duration::from_secs(1_000_000));
        assert_eq!(header("-1"), None);
        assert_eq!(header("soon"), None);
        assert_eq!(header("99999999999999999999999"), None);
    }

    #[test]
    fn tries_are_counted_and_the_budget_holds() {
        let limits = Retry { attempts: 3, first_wait: Duration::from_millis(1), ..Retry::default() };
        let mut backoff = Backoff::new(&limits);
        assert!(backoff.again_after_any() && backoff.again_after_any() && !backoff.again_after_any());
        backoff.progress();
        assert!(backoff.again_after_any());
        let started = Instant::now();
        assert!(!Backoff { failures: 1, ..Backoff::new(&limits) }.wait(Some(Duration::from_hours(1))));
        assert!(!Backoff { failures: 1, ..Backoff::new(&limits) }.wait(Some(Duration::MAX)));
        assert!(started.elapsed() < Duration::from_secs(1));
    }
}
