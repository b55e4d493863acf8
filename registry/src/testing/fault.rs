//! Faults, and the requests that they happen to.

use std::time::Duration;

use super::http::{Head, Reply};

/// Which requests a fault happens to: by method and part of the path, after some were let through, a number of times.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct When {
    method: Option<String>,
    path: String,
    skip: u32,
    times: u32,
}

impl When {
    /// The first request whose path, or query, has this text in it.
    pub fn path(part: &str) -> Self {
        Self { method: None, path: part.to_owned(), skip: 0, times: 1 }
    }

    /// Only requests of this method.
    #[must_use]
    pub fn method(mut self, method: &str) -> Self {
        self.method = Some(method.to_owned());
        self
    }

    /// Lets so many such requests through first.
    #[must_use]
    pub fn after(mut self, requests: u32) -> Self {
        self.skip = requests;
        self
    }

    /// So many times, not once.
    #[must_use]
    pub fn times(mut self, times: u32) -> Self {
        self.times = times;
        self
    }

    /// Every time.
    #[must_use]
    pub fn always(self) -> Self {
        self.times(u32::MAX)
    }
}

/// What goes wrong.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Fault {
    /// This status, with an empty body, instead of an answer.
    Status(u16),
    /// This answer instead of the right one.
    Answer {
        /// The status.
        status: u16,
        /// The headers.
        headers: Vec<(&'static str, String)>,
        /// The body.
        body: Vec<u8>,
    },
    /// The connection closes before the body of the request is read.
    Reset,
    /// The request is carried out, and the connection closes instead of the answer.
    LoseAnswer,
    /// The connection closes after so many bytes of a longer body.
    BreakAfter(usize),
    /// The body is only so long, and says so.
    Truncate(usize),
    /// One bit of the byte at this place of the body is wrong.
    Flip(usize),
    /// A range request is answered with the range one byte later.
    WrongRange,
    /// A range request is answered with everything.
    IgnoreRange,
    /// The body never ends, and says no length.
    Endless,
    /// The answer begins after this time.
    Stall(Duration),
    /// The body comes one byte at a time, with this time between.
    Trickle(Duration),
    /// A header is left out.
    DropHeader(&'static str),
    /// A header has this value.
    SetHeader(&'static str, String),
    /// All uploads that were begun are forgotten first; a proxy cannot do that.
    ForgetUploads,
}

/// A scripted fault.
#[derive(Debug)]
pub(super) struct Rule {
    when: When,
    pub(super) fault: Fault,
    /// Matching requests so far.
    seen: u32,
}

/// Faults by chance.
#[derive(Debug)]
pub(super) struct Random {
    state: u64,
    /// Requests of a hundred that fail.
    percent: u64,
}

impl Random {
    pub(super) fn new(seed: u64, percent: u64) -> Self {
        Self { state: seed, percent }
    }

    /// What happens to the next request.
    pub(super) fn next(&mut self) -> Option<Fault> {
        // SplitMix64 (Steele, Lea, Flood 2014).
        self.state = self.state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut drawn = (self.state ^ (self.state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        drawn = (drawn ^ (drawn >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        drawn ^= drawn >> 31;
        if drawn % 100 >= self.percent {
            return None;
        }
        Some(match (drawn >> 32) % 6 {
            0 => Fault::Status(429),
            1 => Fault::Status(500),
            2 => Fault::Status(503),
            3 => Fault::Reset,
            4 => Fault::LoseAnswer,
            _ => Fault::BreakAfter(100),
        })
    }
}

impl Rule {
    pub(super) fn new(when: When, fault: Fault) -> Self {
        Self { when, fault, seen: 0 }
    }

    /// Counts a request, and says whether the fault happens to it.
    pub(super) fn strikes(&mut self, head: &Head) -> bool {
        let is_method = self.when.method.as_ref().is_none_or(|method| *method == head.method);
        if !is_method || !format!("{}?{}", head.path, head.query).contains(&self.when.path) {
            return false;
        }
        self.seen = self.seen.saturating_add(1);
        self.seen > self.when.skip && self.seen - self.when.skip <= self.when.times
    }
}

/// Changes the request as the faults want it.
pub(super) fn spoil_request(faults: &[Fault], head: &mut Head) {
    if faults.contains(&Fault::IgnoreRange) {
        head.headers.remove("range");
    }
}

/// Changes the answer as the faults want it; how it is sent is another matter.
pub(super) fn spoil_reply(faults: &[Fault], reply: &mut Reply) {
    for fault in faults {
        match fault {
            Fault::Status(status) => *reply = Reply::new(*status),
            Fault::Answer { status, headers, body } => {
                let headers = headers.iter().map(|(name, value)| ((*name).to_owned(), value.clone())).collect();
                *reply = Reply { status: *status, headers, body: body.clone(), length: None };
            }
            Fault::Truncate(length) => reply.body.truncate(*length),
            Fault::Flip(at) => {
                if let Some(byte) = reply.body.get_mut(*at) {
                    *byte ^= 1;
                }
            }
            Fault::WrongRange => {
                if let Some(range) = reply.header_mut("content-range") {
                    let (first, rest) = range.trim_start_matches("bytes ").split_once('-').unwrap_or(("0", ""));
                    *range = format!("bytes {}-{rest}", first.parse::<u64>().unwrap_or(0) + 1);
                    reply.body.drain(..1.min(reply.body.len()));
                }
            }
            Fault::DropHeader(name) => reply.headers.retain(|(key, _)| !key.eq_ignore_ascii_case(name)),
            Fault::SetHeader(name, value) => {
                reply.headers.retain(|(key, _)| !key.eq_ignore_ascii_case(name));
                reply.headers.push(((*name).to_owned(), value.clone()));
            }
            Fault::Reset
            | Fault::LoseAnswer
            | Fault::BreakAfter(_)
            | Fault::IgnoreRange
            | Fault::Endless
            | Fault::Stall(_)
            | Fault::Trickle(_)
            | Fault::ForgetUploads => {}
        }
    }
}
