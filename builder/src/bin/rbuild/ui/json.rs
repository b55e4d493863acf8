//! `--progress=json`: every event as one JSON object on one line of standard error.

use builder::progress::{Event, Progress};

use super::{Display, note};

/// The display.
pub(super) struct Json;

impl Progress for Json {
    fn emit(&self, event: Event) {
        note(&serde_json::to_string(&event).expect("an event is plain data"));
    }
}

impl Display for Json {
    fn finish(&self, _: bool) {}
}
