//! The fields of a key: framed for its digest, and in short for whoever wants to know why two keys differ.

use std::fmt;
use std::io::{self, Write};

use oci_spec::image::Digest;
use serde::{Deserialize, Serialize};
use snapshot::digest::HashingWriter;

/// Longest value that is kept as it is, in bytes; longer ones are known by their digest.
const SHOWN: usize = 160;

/// Names the result of a step.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct CacheKey(pub Digest);

impl CacheKey {
    /// The 64 hexadecimal digits.
    pub fn hex(&self) -> String {
        self.0.digest().to_owned()
    }
}

impl fmt::Display for CacheKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0.digest())
    }
}

/// Names and values, in order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Fields(Vec<(String, Vec<u8>)>);

impl Fields {
    pub(super) fn new(operation: &str) -> Self {
        Self(Vec::new()).field("version", super::VERSION).field("operation", operation)
    }

    pub(super) fn field(mut self, name: &str, value: impl AsRef<[u8]>) -> Self {
        self.0.push((name.to_owned(), value.as_ref().to_owned()));
        self
    }

    /// Any number of values of one name; how many is framed too.
    pub(super) fn fields<T: AsRef<[u8]>>(self, name: &str, values: impl IntoIterator<Item = T>) -> Self {
        let mut count = 0_u64;
        let fields = values.into_iter().fold(self, |fields, value| {
            count += 1;
            fields.field(name, value)
        });
        fields.field("count", count.to_le_bytes())
    }

    /// The key that these fields make together with those of the inputs; `kind` keeps kinds of keys apart.
    pub(crate) fn key(&self, kind: &str, inputs: &[(&'static str, String)]) -> CacheKey {
        let mut hashing = HashingWriter::new(io::sink());
        let mut frame = |name: &str, value: &[u8]| {
            for part in [name.as_bytes(), value] {
                let length = (part.len() as u64).to_le_bytes();
                hashing.write_all(&length).and_then(|()| hashing.write_all(part)).expect("a sink takes everything");
            }
        };
        frame("kind", kind.as_bytes());
        for (name, value) in &self.0 {
            frame(name, value);
        }
        for (name, value) in inputs {
            frame(name, value.as_bytes());
        }
        CacheKey(hashing.finish())
    }

    /// The fields in short.
    pub(crate) fn short(&self) -> Vec<Field> {
        let told = self.0.iter().filter(|(name, _)| name != "count" && name != "version");
        told.map(|(name, value)| Field { name: name.clone(), value: short(value) }).collect()
    }
}

/// A field in short, as a record keeps it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Field {
    /// What it is.
    pub name: String,
    /// Its text, or a digest of it.
    pub value: String,
}

fn short(value: &[u8]) -> String {
    match std::str::from_utf8(value) {
        Ok(text) if value.len() <= SHOWN && !text.chars().any(|c| c.is_control() && c != '\n') => text.to_owned(),
        _ => format!("blake3:{}", &blake3::hash(value).to_hex()[..16]),
    }
}
