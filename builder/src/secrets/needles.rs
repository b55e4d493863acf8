//! The forms of secrets: texts that must not be seen.

use std::collections::{BTreeSet, HashMap};

use base64::Engine;
use base64::engine::general_purpose::{STANDARD_NO_PAD, URL_SAFE_NO_PAD};

/// The shortest text that is looked for, in bytes without line breaks: shorter ones are everywhere.
pub const SHORTEST: usize = 6;

/// The forms of all secrets of a build. Shows no values.
pub struct Needles {
    names: Vec<String>,
    /// Each with the secret that it is of, without line breaks, at least [`SHORTEST`] bytes.
    texts: Vec<(usize, Box<[u8]>)>,
    /// Texts by their first bytes.
    heads: HashMap<u64, Vec<usize>>,
    /// Which heads there may be: one bit for each of their hashes.
    filter: Vec<u64>,
}

/// Bits of a head's hash.
const FILTER_BITS: u32 = 16;

impl std::fmt::Debug for Needles {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Needles").field("names", &self.names).finish_non_exhaustive()
    }
}

impl Needles {
    /// Takes the values of secrets by their names; a name may have several.
    pub fn new<'v>(values: impl IntoIterator<Item = (&'v str, &'v [u8])>) -> Self {
        let mut forms: BTreeSet<(String, Vec<u8>)> = BTreeSet::new();
        for (name, value) in values {
            forms.extend(forms_of(value).into_iter().map(|form| (name.to_owned(), form)));
        }
        let mut needles = Self {
            names: Vec::new(),
            texts: Vec::new(),
            heads: HashMap::new(),
            filter: vec![0; 1 << (FILTER_BITS - 6)],
        };
        for (name, form) in forms {
            needles.add(name, form);
        }
        needles
    }

    fn add(&mut self, name: String, form: Vec<u8>) {
        let secret = self.names.iter().position(|known| *known == name).unwrap_or_else(|| {
            self.names.push(name);
            self.names.len() - 1
        });
        let head = form[..SHORTEST].iter().fold(0, |head, byte| (head << 8) | u64::from(*byte));
        let bit = hash(head);
        self.filter[bit >> 6] |= 1 << (bit & 63);
        self.heads.entry(head).or_default().push(self.texts.len());
        self.texts.push((secret, form.into()));
    }

    /// Whether there is nothing to look for.
    pub fn is_empty(&self) -> bool {
        self.texts.is_empty()
    }

    /// The texts that begin with a head.
    #[inline]
    pub(super) fn beginning_with(&self, head: u64) -> &[usize] {
        let bit = hash(head);
        if self.filter[bit >> 6] & (1 << (bit & 63)) == 0 {
            return &[];
        }
        self.heads.get(&head).map_or(&[], Vec::as_slice)
    }

    pub(super) fn text(&self, needle: usize) -> &[u8] {
        &self.texts[needle].1
    }

    /// The name of the secret that a text is of.
    pub(super) fn name(&self, needle: usize) -> &str {
        &self.names[self.texts[needle].0]
    }

    /// Whether some text begins with these bytes.
    pub(super) fn begins_with(&self, bytes: &[u8]) -> bool {
        self.texts.iter().any(|(_, text)| text.starts_with(bytes))
    }
}

/// A hash of a head (Fibonacci hashing), `FILTER_BITS` wide.
#[inline]
fn hash(head: u64) -> usize {
    usize::try_from(head.wrapping_mul(0x9E37_79B9_7F4A_7C15) >> (64 - FILTER_BITS)).unwrap_or(0)
}

/// The forms of one value that are long enough.
fn forms_of(value: &[u8]) -> Vec<Vec<u8>> {
    let value = value.trim_ascii();
    let mut forms = vec![value.to_vec(), url_encoded(value, false), url_encoded(value, true)];
    if let Ok(text) = std::str::from_utf8(value) {
        let json = serde_json::to_string(text).expect("a text is plain data");
        forms.push(json.as_bytes()[1..json.len() - 1].to_vec());
    }
    // As it is given to a step it may end in the line break that was trimmed here: the inner part does not tell.
    for engine in [&STANDARD_NO_PAD, &URL_SAFE_NO_PAD] {
        for before in 0..3 {
            let text = engine.encode([&[0; 2][..before], value].concat()).into_bytes();
            let (first, complete) = ([0, 2, 3][before], (before + value.len()) * 8 / 6);
            forms.push(text[first.min(complete)..complete].to_vec());
        }
    }
    for form in &mut forms {
        form.retain(|byte| !matches!(byte, b'\r' | b'\n'));
    }
    forms.retain(|form| form.len() >= SHORTEST);
    forms
}

/// Percent-encoding of everything that is not unreserved (RFC 3986, section 2.3); `lower` has `%2f` for `%2F`.
fn url_encoded(value: &[u8], lower: bool) -> Vec<u8> {
    let digits = if lower { b"0123456789abcdef" } else { b"0123456789ABCDEF" };
    let mut text = Vec::with_capacity(value.len());
    for byte in value {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => text.push(*byte),
            _ => text.extend([b'%', digits[usize::from(byte >> 4)], digits[usize::from(byte & 15)]]),
        }
    }
    text
}
