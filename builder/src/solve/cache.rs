//! The local step cache in the store: what is known of steps that ran.
//!
//! ```text
//! steps/<definition key>     the record of a step
//! contents/<content key>     the definition key whose record it is
//! own/<digest of its fields> a step with these fields, on whatever inputs, has a record: looking by content is worth it
//! near/<digest of a name>    the definition keys of steps that were called so, latest first: for explanations
//! ```

use serde::{Deserialize, Serialize};
use snapshot::digest::sha256;
use snapshot::{Compression, Layer, SnapshotId, Store};

use super::key::{CacheKey, Field};

/// Which kind of record the store keeps what is known of steps as.
pub(crate) const KIND: &str = "steps";
const CONTENTS: &str = "contents";
const OWN: &str = "own";
const NEAR: &str = "near";

/// How many steps of one name are remembered.
const NEAR_LIMIT: usize = 8;

/// What is known of a step that was run before.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    /// Names this one execution: its directory and its index, where there are any, are kept under it.
    pub made: SnapshotId,
    /// The identities of the trees that it read, in the order of the vertex's inputs: with others it is no hit.
    pub on: Vec<String>,
    /// Its layer, once that was made.
    pub layer: Option<Layer>,
    /// How that layer is compressed, level included: the media type does not say that.
    #[serde(default)]
    pub compression: Compression,
    /// When the step ran, RFC 3339.
    pub created: String,
    /// How the step was shown, for people who look at the cache.
    pub name: String,
    /// How long it took.
    #[serde(default)]
    pub milliseconds: u64,
    /// What its layer contains, times aside, once that is known.
    #[serde(default)]
    pub content: Option<String>,
    /// The fields of its key, in short.
    #[serde(default)]
    pub fields: Vec<Field>,
}

/// The record of a key; none when there is none, or when it is damaged, which costs a re-run and no more.
pub fn get(store: &Store, key: &CacheKey) -> Option<Record> {
    serde_json::from_slice(&store.get_record(KIND, &key.hex())?).ok()
}

/// Writes the record of a key, in place of an earlier one.
pub fn put(store: &Store, key: &CacheKey, record: &Record) -> Result<(), snapshot::Error> {
    store.put_record(KIND, &key.hex(), &serde_json::to_vec(record).expect("a record is plain data"))
}

/// The record of the step that has this content key.
pub(super) fn by_content(store: &Store, content: &CacheKey) -> Option<Record> {
    let definition = String::from_utf8(store.get_record(CONTENTS, &content.hex())?).ok()?;
    serde_json::from_slice(&store.get_record(KIND, &definition)?).ok()
}

/// Lets the record of `definition` be found by content.
pub(super) fn name_content(store: &Store, content: &CacheKey, definition: &CacheKey) -> Result<(), snapshot::Error> {
    store.put_record(CONTENTS, &content.hex(), definition.hex().as_bytes())
}

/// Whether a step with these fields has a record.
pub(super) fn knows(store: &Store, own: &CacheKey) -> bool {
    store.get_record(OWN, &own.hex()).is_some()
}

/// Notes that a step with these fields, called `name`, has a record.
pub(super) fn note(store: &Store, own: &CacheKey, definition: &CacheKey, name: &str) -> Result<(), snapshot::Error> {
    store.put_record(OWN, &own.hex(), b"")?;
    for name in nearness(name) {
        let mut known = near_keys(store, &name);
        if known.first() == Some(&definition.hex()) {
            continue;
        }
        known.retain(|key| *key != definition.hex());
        known.insert(0, definition.hex());
        known.truncate(NEAR_LIMIT);
        store.put_record(NEAR, &near(&name), known.join(" ").as_bytes())?;
    }
    Ok(())
}

/// The records of steps with the name or the place of this one, the likeliest first.
pub(super) fn nearest(store: &Store, name: &str) -> Vec<Record> {
    let keys = nearness(name).into_iter().flat_map(|name| near_keys(store, &name));
    keys.filter_map(|key| serde_json::from_slice(&store.get_record(KIND, &key)?).ok()).collect()
}

/// By what a step is called near to another: its instruction, and its stage with its place there.
fn nearness(name: &str) -> [String; 2] {
    let (place, instruction) = name.split_once("] ").unwrap_or(("", name));
    let place = place.split_once('/').map_or(place, |(place, _)| place);
    [format!("instruction {instruction}"), format!("place {place}")]
}

fn near(name: &str) -> String {
    sha256(name.as_bytes()).digest().to_owned()
}

fn near_keys(store: &Store, name: &str) -> Vec<String> {
    let keys = store.get_record(NEAR, &near(name)).and_then(|bytes| String::from_utf8(bytes).ok());
    keys.map(|keys| keys.split(' ').map(str::to_owned).collect()).unwrap_or_default()
}
