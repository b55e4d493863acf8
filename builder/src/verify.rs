//! Whether everything in the store is what its name says, and what records name is there.

use std::convert::Infallible;
use std::num::NonZero;

use oci_spec::image::Digest;
use snapshot::store::{KnownSizes, Object, ObjectKind};
use snapshot::{Error, Store};

use crate::export::tags::Tag;
use crate::parallel;
use crate::remote::http;
use crate::solve::cache;

/// Something in the store that cannot be relied on.
#[derive(Debug)]
pub struct Broken {
    /// What it is.
    pub object: Object,
    /// Why.
    pub reason: Error,
}

/// The outcome of looking at everything.
#[derive(Debug, Default)]
pub struct Verified {
    /// How many objects there are.
    pub objects: usize,
    /// Those that are broken, sorted by kind and name.
    pub broken: Vec<Broken>,
}

/// Reads the whole store, with all processors.
pub fn verify(store: &Store) -> Result<Verified, Error> {
    let objects = store.inventory(&KnownSizes::new())?.objects;
    let expectations = store.expectations(&objects);
    let processors = std::thread::available_parallelism().map_or(1, NonZero::get);
    let Ok(looked_at) = parallel::each(&objects, processors, |object| {
        let reason = store.verify(object, &expectations).err().or_else(|| dangling(store, object));
        Ok::<_, Infallible>(reason.map(|reason| Broken { object: object.clone(), reason }))
    });
    let mut broken: Vec<Broken> = looked_at.into_iter().flatten().collect();
    broken.sort_by(|a, b| (a.object.kind, &a.object.name).cmp(&(b.object.kind, &b.object.name)));
    Ok(Verified { objects: objects.len(), broken })
}

/// Removes what is broken: the next build that needs it makes it or fetches it again.
pub fn repair(store: &Store, broken: &[Broken]) -> Result<(), Error> {
    store.remove_broken(&broken.iter().map(|broken| &broken.object).collect::<Vec<_>>())
}

/// What a record names that is not there; nothing of a record that is damaged, or whose kind names nothing.
pub(crate) fn dangling(store: &Store, object: &Object) -> Option<Error> {
    let has = |digest: &Digest| fs_err::symlink_metadata(store.blobs().path(digest)).is_ok();
    let missing: Option<&'static str> = match object.kind {
        ObjectKind::Tag => {
            let tag: Tag = serde_json::from_slice(&store.peek_record("tags", &object.name)?).ok()?;
            let documents = [tag.manifest.digest(), tag.config.digest()];
            (!documents.into_iter().all(has)).then_some("its manifest or its config is missing")
        }
        ObjectKind::Record => match object.name.split_once('/')? {
            (cache::KIND, key) => {
                let record: cache::Record = serde_json::from_slice(&store.peek_record(cache::KIND, key)?).ok()?;
                let layer = record.layer.is_some_and(|layer| has(layer.blob.digest()));
                (!layer && !store.has_snapshot(record.made.0.digest()))
                    .then_some("the step that it stands for is missing")
            }
            (http::KIND, key) => {
                let bytes = store.peek_record(http::KIND, key)?;
                let download: http::Download = serde_json::from_slice(&bytes).ok()?;
                (!has(&download.digest)).then_some("the file that it stands for is missing")
            }
            _ => None,
        },
        _ => None,
    };
    // A record that was removed meanwhile names nothing.
    let there = fs_err::symlink_metadata(&object.path).is_ok();
    missing.filter(|_| there).map(|reason| Error::Corrupt { path: object.path.clone(), reason })
}
