//! Hiding secrets in a log that comes in pieces.

use super::needles::Needles;
use super::scan::{Hit, Scanner};

/// Replaces secrets by their names; holds back only what may be the beginning of one.
#[derive(Debug, Default)]
pub struct Redactor {
    scanner: Scanner,
    held: Vec<u8>,
    /// The number of the first byte held.
    from: u64,
    hits: Vec<Hit>,
}

impl Redactor {
    /// Takes the next bytes and returns those that may be seen by now.
    pub fn push(&mut self, needles: &Needles, bytes: &[u8]) -> Vec<u8> {
        let hits = &mut self.hits;
        self.scanner.scan(needles, bytes, &mut |hit| hits.push(hit));
        self.held.extend_from_slice(bytes);
        self.release(self.scanner.undecided(needles).unwrap_or(self.scanner.position()))
    }

    /// Returns what was held back.
    pub fn finish(&mut self) -> Vec<u8> {
        self.release(self.scanner.position())
    }

    fn release(&mut self, until: u64) -> Vec<u8> {
        self.hits.sort_by_key(|hit| (hit.start, std::cmp::Reverse(hit.end)));
        let mut seen = Vec::new();
        let mut waiting = Vec::new();
        for hit in std::mem::take(&mut self.hits) {
            if hit.start >= until {
                waiting.push(hit);
                continue;
            }
            if hit.end <= self.from {
                continue;
            }
            if hit.start >= self.from {
                self.take(hit.start, Some(&mut seen));
                seen.extend_from_slice(format!("<secret {}>", hit.secret).as_bytes());
            }
            self.take(hit.end, None);
        }
        self.hits = waiting;
        self.take(until.max(self.from), Some(&mut seen));
        seen
    }

    /// Lets go of everything before `until`.
    fn take(&mut self, until: u64, seen: Option<&mut Vec<u8>>) {
        let count = usize::try_from(until - self.from).unwrap_or(usize::MAX).min(self.held.len());
        let taken = self.held.drain(..count);
        if let Some(seen) = seen {
            seen.extend(taken);
        }
        self.from += count as u64;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Cuts the text in all ways into two pieces.
    #[track_caller]
    fn check(secrets: &[(&str, &str)], text: &str, shown: &str) {
        let needles = Needles::new(secrets.iter().map(|(name, value)| (*name, value.as_bytes())));
        for cut in 0..=text.len() {
            let mut redactor = Redactor::default();
            let mut bytes = redactor.push(&needles, &text.as_bytes()[..cut]);
            bytes.extend(redactor.push(&needles, &text.as_bytes()[cut..]));
            bytes.extend(redactor.finish());
            assert_eq!(String::from_utf8_lossy(&bytes), shown, "cut at {cut}");
        }
    }

    #[test]
    fn secrets_are_replaced_by_their_names() {
        let one = [("TOKEN", "hunter22")];
        check(&one, "a hunter22 b\n", "a <secret TOKEN> b\n");
        check(&one, "hunter2", "hunter2");
        check(&one, "hunter22hunter22", "<secret TOKEN><secret TOKEN>");
        check(&one, "x hun\nter22\n", "x <secret TOKEN>\n");
        check(&[("ALL", r#"{"a":"hunter22"}"#), ("ALL", "hunter22")], r#"> {"a":"hunter22"} <"#, "> <secret ALL> <");
        check(&[("A", "abcdefgh"), ("B", "efghijkl")], "-abcdefghijkl-", "-<secret A>-");
    }

    #[test]
    fn a_line_is_not_held_back() {
        let needles = Needles::new([("TOKEN", &b"hunter22"[..])]);
        let mut redactor = Redactor::default();
        assert_eq!(redactor.push(&needles, b"compiling\n"), b"compiling\n");
        assert_eq!(redactor.push(&needles, b"hunt"), b"");
        assert_eq!(redactor.push(&needles, b"ing\n"), b"hunting\n");
    }
}
