//! Finding secrets in a stream of bytes, whatever its pieces. Line breaks are passed over.

use super::needles::{Needles, SHORTEST};

/// The bytes of a head.
const HEAD: u64 = (1 << (8 * SHORTEST)) - 1;

/// A secret in the stream.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Hit {
    /// The number of the first byte, from 0.
    pub start: u64,
    /// The number of the byte behind the last.
    pub end: u64,
    /// The secret's name.
    pub secret: String,
}

/// The state of a search; it begins at the beginning of a stream and looks for the same needles all along.
#[derive(Debug, Default)]
pub struct Scanner {
    /// The bytes so far.
    position: u64,
    /// The last bytes that are no line breaks, the latest lowest.
    head: u64,
    /// Where these bytes are, the latest at `latest`.
    places: [u64; SHORTEST],
    latest: usize,
    /// How many there are, up to [`SHORTEST`].
    known: usize,
    /// Whether the last byte was a line break.
    broken: bool,
    live: Vec<Live>,
}

/// A text that has begun.
#[derive(Debug)]
struct Live {
    needle: usize,
    matched: usize,
    start: u64,
}

impl Scanner {
    /// The number of bytes that were seen.
    pub fn position(&self) -> u64 {
        self.position
    }

    /// Takes the next bytes and tells every secret that ends in them.
    pub fn scan(&mut self, needles: &Needles, bytes: &[u8], found: &mut dyn FnMut(Hit)) {
        for byte in bytes {
            self.broken = matches!(byte, b'\r' | b'\n');
            if !self.broken {
                self.byte(needles, *byte, found);
            }
            self.position += 1;
        }
    }

    #[inline]
    fn byte(&mut self, needles: &Needles, byte: u8, found: &mut dyn FnMut(Hit)) {
        if !self.live.is_empty() {
            self.go_on(needles, byte, found);
        }
        self.head = ((self.head << 8) | u64::from(byte)) & HEAD;
        self.latest = if self.latest + 1 == SHORTEST { 0 } else { self.latest + 1 };
        self.places[self.latest] = self.position;
        self.known = (self.known + 1).min(SHORTEST);
        if self.known < SHORTEST {
            return;
        }
        for &needle in needles.beginning_with(self.head) {
            let start = self.place(SHORTEST - 1);
            if needles.text(needle).len() == SHORTEST {
                found(Hit { start, end: self.position + 1, secret: needles.name(needle).to_owned() });
            } else {
                self.live.push(Live { needle, matched: SHORTEST, start });
            }
        }
    }

    fn go_on(&mut self, needles: &Needles, byte: u8, found: &mut dyn FnMut(Hit)) {
        let end = self.position + 1;
        self.live.retain_mut(|live| {
            let text = needles.text(live.needle);
            if text[live.matched] != byte {
                return false;
            }
            live.matched += 1;
            if live.matched == text.len() {
                found(Hit { start: live.start, end, secret: needles.name(live.needle).to_owned() });
                return false;
            }
            true
        });
    }

    /// Where the byte is that came `back` bytes before the latest, line breaks not counted.
    fn place(&self, back: usize) -> u64 {
        self.places[(self.latest + SHORTEST - back) % SHORTEST]
    }

    /// The first byte that may still turn out to belong to a secret; none when there is no such.
    pub fn undecided(&self, needles: &Needles) -> Option<u64> {
        let begun = self.live.iter().map(|live| live.start).min();
        let bytes = self.head.to_be_bytes();
        // The longest end that a secret begins with. A line is not held back for a letter or two, which many secrets
        // begin with and which tell nothing.
        let least = if self.broken { 3 } else { 1 };
        let tail = (least..=self.known.min(SHORTEST - 1)).rev().find(|tail| needles.begins_with(&bytes[8 - tail..]));
        begun.into_iter().chain(tail.map(|tail| self.place(tail - 1))).min()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hits(secret: &[u8], pieces: &[&[u8]]) -> Vec<(u64, u64)> {
        let needles = Needles::new([("s", secret)]);
        let mut scanner = Scanner::default();
        let mut hits = Vec::new();
        for piece in pieces {
            scanner.scan(&needles, piece, &mut |hit| hits.push((hit.start, hit.end)));
        }
        hits
    }

    #[test]
    fn secrets_are_found_whatever_the_pieces() {
        assert_eq!(hits(b"hunter22", &[b"xhunter22y"]), [(1, 9)]);
        assert_eq!(hits(b"hunter22", &[b"xhunt", b"er2", b"2"]), [(1, 9)]);
        assert_eq!(hits(b"hunter22", &[b"hunhunter2 hunter22hunter22"]), [(11, 19), (19, 27)]);
        assert_eq!(hits(b"hunter22\n", &[b"hun\r\nter22"]), [(0, 10)]);
        assert_eq!(hits(b"hunter", &[b"a hunter"]), [(2, 8)]);
        assert_eq!(hits(b"aaaaaaa", &[b"aaaaaaaa"]).len(), 2);
        assert_eq!(hits(b"short", &[b"short"]), []);
    }

    #[test]
    fn encoded_secrets_are_found() {
        use base64::Engine;
        let secret = b"p\"ss/w\xc3\xb6rd <tail>";
        for text in
            [r#"{"a":"p\"ss/wörd <tail>"}"#, "x=p%22ss%2Fw%C3%B6rd%20%3Ctail%3E", "p%22ss%2fw%c3%b6rd%20%3ctail%3e"]
        {
            assert_eq!(hits(secret, &[text.as_bytes()]).len(), 1, "{text}");
        }
        for before in ["", "u", "us", "use"] {
            for after in ["", "\n", "xyz"] {
                let plain = [before.as_bytes(), secret, after.as_bytes()].concat();
                let mut text = base64::engine::general_purpose::STANDARD.encode(&plain);
                text.insert(9, '\n');
                assert_eq!(hits(secret, &[text.as_bytes()]).len(), 1, "{before}…{after}");
            }
        }
    }

    #[test]
    fn what_may_become_a_secret_is_told() {
        let needles = Needles::new([("s", &b"hunter22"[..])]);
        let undecided = |text: &str| {
            let mut scanner = Scanner::default();
            scanner.scan(&needles, text.as_bytes(), &mut |_| ());
            scanner.undecided(&needles)
        };
        assert_eq!(undecided("hello h\n"), None);
        assert_eq!(undecided("hello h"), Some(6));
        assert_eq!(undecided("see hun\n"), Some(4));
        assert_eq!(undecided("see hunter2"), Some(4));
        assert_eq!(undecided("hunter22"), None);
    }
}
