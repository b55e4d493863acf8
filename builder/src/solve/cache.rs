//! The local step cache: one record a key, in the store.

use serde::{Deserialize, Serialize};
use snapshot::{Compression, Layer, Store};

use super::key::CacheKey;

/// Which kind of record the store keeps them as.
pub(crate) const KIND: &str = "steps";

/// What is known of a step that was run before. Its snapshot, when there still is one, is named by the same key.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    /// Its layer, once that was made.
    pub layer: Option<Layer>,
    /// How that layer is compressed, level included: the media type does not say that.
    #[serde(default)]
    pub compression: Compression,
    /// When the step ran, RFC 3339.
    pub created: String,
    /// How the step was shown, for people who look at the cache.
    pub name: String,
}

/// The record of a key; none when there is none, or when it is damaged, which costs a re-run and no more.
pub fn get(store: &Store, key: &CacheKey) -> Option<Record> {
    serde_json::from_slice(&store.get_record(KIND, &key.hex())?).ok()
}

/// Writes the record of a key, in place of an earlier one.
pub fn put(store: &Store, key: &CacheKey, record: &Record) -> Result<(), snapshot::Error> {
    store.put_record(KIND, &key.hex(), &serde_json::to_vec(record).expect("a record is plain data"))
}
