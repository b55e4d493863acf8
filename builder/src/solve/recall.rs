//! Between a tree and the cache's records: what a record gives a tree, what a tree tells a record, and whether the two
//! stand on the same ground.

use oci_spec::image::Digest;
use snapshot::digest::sha256;
use snapshot::{Layer, SnapshotId};

use super::World;
use super::cache::{self, Record};
use super::content::Effort;
use super::error::Cause;
use super::key::{self, CacheKey, Field, Key};
use super::tree::{Origin, Tree, TreeLayer, now};
use crate::cache::{Imported, Origin as Elsewhere};
use crate::graph::Vertex;

/// A record whose layer can be had.
#[derive(Debug, Clone)]
pub(super) struct Found {
    pub(super) record: Record,
    /// Where its layer is, when that is another cache than the store.
    pub(super) origin: Option<Elsewhere>,
}

impl From<Imported> for Found {
    fn from(Imported { record, origin }: Imported) -> Self {
        Self { record, origin: Some(origin) }
    }
}

impl Found {
    /// Whether the step ran on these trees, as far as they are known.
    pub(super) fn stands_on(&self, identities: &[Option<String>]) -> bool {
        let on = &self.record.on;
        let same = |(on, identity): (&String, &Option<String>)| identity.as_ref().is_none_or(|identity| identity == on);
        on.len() == identities.len() && on.iter().zip(identities).all(same)
    }
}

/// How a step ran.
#[derive(Debug)]
pub(super) struct Ran<'a> {
    /// How it is shown.
    pub(super) name: &'a str,
    /// The identities of what it read.
    pub(super) on: Vec<Option<String>>,
    /// The fields of its key, in short.
    pub(super) fields: Vec<Field>,
    pub(super) milliseconds: u64,
}

/// Looks a step up; with `blob`, a hit has to have its layer already.
pub(super) fn find(world: &World<'_>, key: &CacheKey, blob: bool) -> Option<Found> {
    usable(world, cache::get(world.store, key)?, blob)
}

/// Looks a step up by what its inputs contain.
pub(super) fn find_by_content(world: &World<'_>, content: &CacheKey, blob: bool) -> Option<Found> {
    usable(world, cache::by_content(world.store, content)?, blob)
}

fn usable(world: &World<'_>, mut record: Record, blob: bool) -> Option<Found> {
    let blobs = world.store.blobs();
    record.layer = record.layer.filter(|layer| blobs.has(layer.blob.digest()) == Some(layer.blob.size()));
    let missing = record.layer.is_none() && (blob || world.store.snapshots().get(&record.made).is_none());
    (!missing).then_some(Found { record, origin: None })
}

/// The identity of a tree with one more layer: which executions, and which images, it is made of.
pub(super) fn identity(below: &str, layer: &SnapshotId) -> String {
    sha256(format!("{below} {}", layer.0).as_bytes()).digest().to_owned()
}

impl Tree {
    /// What the tree is made of; none while a layer is still to be made.
    pub(super) fn identity(&self) -> Option<String> {
        self.layers().iter().try_fold(String::new(), |below, layer| Some(identity(&below, layer.id.get()?)))
    }

    /// Whether every layer's index is at hand.
    pub(super) fn is_indexed(&self, world: &World<'_>) -> bool {
        self.layers().iter().all(|layer| layer.stored_index(world).is_some())
    }

    /// Whether every layer was found or made, and what it contains can be told without a registry.
    pub(super) fn is_known(&self, world: &World<'_>) -> bool {
        self.layers().iter().all(|layer| match layer.origin {
            Origin::Image { .. } => layer.stored_index(world).is_some(),
            Origin::Step(_) => layer.id.get().is_some(),
        })
    }

    /// What the tree contains, times aside; none when that takes more than `effort`.
    pub(super) fn content(&self, world: &World<'_>, effort: Effort) -> Result<Option<String>, Cause> {
        let mut parts = String::new();
        for (position, layer) in self.layers().iter().enumerate() {
            let part = match &layer.origin {
                Origin::Image { image, position, .. } => image.layers[*position].diff_id.to_string(),
                Origin::Step(_) => match self.layer_content(position, world, effort)? {
                    Some(content) => content,
                    None => return Ok(None),
                },
            };
            parts.push_str(&part);
            parts.push(' ');
        }
        Ok(Some(sha256(parts.as_bytes()).digest().to_owned()))
    }

    /// What the layer on top contains, times aside; none when that is not known.
    pub(super) fn top_content(&self, world: &World<'_>, effort: Effort) -> Result<Option<String>, Cause> {
        self.layer_content(self.layers().len() - 1, world, effort)
    }

    fn layer_content(&self, position: usize, world: &World<'_>, effort: Effort) -> Result<Option<String>, Cause> {
        let layer = &self.layers()[position];
        if let Some(content) = layer.content.get() {
            return Ok(Some(content.clone()));
        }
        let index = match effort {
            Effort::Known => layer.stored_index(world),
            Effort::Full => Some(self.index(position, world)?),
        };
        let content = index.and_then(|index| index.content());
        Ok(content.map(|content| layer.content.get_or_init(|| content).clone()))
    }

    /// Takes what the cache found for the step on top.
    pub(super) fn accept(&self, world: &World<'_>, found: &Found) {
        let (top, record) = (self.top(), &found.record);
        top.id.get_or_init(|| record.made.clone());
        match record.layer.clone() {
            Some(layer) if record.compression == world.options.compression => top.keep_layer(layer),
            Some(layer) => _ = top.otherwise.get_or_init(|| layer),
            None => {}
        }
        if let Some(content) = &record.content {
            top.content.get_or_init(|| content.clone());
        }
        top.created.get_or_init(|| record.created.clone());
        if let Some(origin) = &found.origin {
            top.imported.get_or_init(|| Imported { record: record.clone(), origin: origin.clone() });
        }
    }

    /// Makes sure that the store has the bytes of a layer that a cache elsewhere has; from then on the step is found here.
    pub(crate) fn obtain(&self, position: usize, layer: &Layer, world: &World<'_>) -> Result<(), Cause> {
        let top = &self.layers()[position];
        let (Origin::Step(key), Some(imported)) = (&top.origin, top.imported.get()) else { return Ok(()) };
        if world.store.blobs().has(layer.blob.digest()) == Some(layer.blob.size()) {
            return Ok(());
        }
        let place = || imported.origin.place.to_string();
        imported
            .origin
            .fetch(world, layer)
            .map_err(|source| Cause::Import { place: place(), source: Box::new(source) })
            .inspect_err(|cause| world.caches.blame(cause))?;
        Ok(cache::put(world.store, key, &imported.record)?)
    }

    /// Gives the step on top, which is about to run, a name of its own: it may make something else than before.
    pub(super) fn begin(&self) -> Result<(), Cause> {
        let Origin::Step(key) = &self.top().origin else { return Ok(()) };
        let mut random = [0; 16];
        getrandom::fill(&mut random).map_err(std::io::Error::other)?;
        let name = sha256(&[key.hex().as_bytes(), &random].concat());
        self.top().id.get_or_init(|| SnapshotId(name));
        Ok(())
    }

    /// Writes the record of the step on top, which ran: it now can be found.
    pub(super) fn remember(&self, world: &World<'_>, key: &Key, ran: Ran<'_>) -> Result<(), Cause> {
        let top = self.top();
        let Some(made) = top.id.get() else { return Ok(()) };
        let record = Record {
            made: made.clone(),
            on: ran.on.into_iter().map(Option::unwrap_or_default).collect(),
            layer: top.layer.get().cloned(),
            compression: world.options.compression,
            created: top.created.get_or_init(|| world.options.epoch.clone().unwrap_or_else(now)).clone(),
            name: ran.name.to_owned(),
            milliseconds: ran.milliseconds,
            content: top.content.get().cloned(),
            fields: ran.fields,
        };
        cache::put(world.store, &key.definition, &record)?;
        Ok(cache::note(world.store, &own_key(key), &key.definition, ran.name)?)
    }

    /// Lets the step on top be found by `content` too, and tells its record what it contains. Returns the record.
    pub(super) fn remember_content(
        &self,
        world: &World<'_>,
        key: &Key,
        content: Option<CacheKey>,
    ) -> Result<Option<Record>, Cause> {
        if let Some(content) = content {
            cache::name_content(world.store, &content, &key.definition)?;
        }
        self.change_record(world, |record| record.content.clone_from(&self.top().content.get().cloned()))
    }

    /// Tells the record of the step on top that its layer was made, and what that contains: who makes a layer knows it.
    pub(super) fn remember_layer(&self, world: &World<'_>, layer: &Layer) -> Result<(), Cause> {
        let content = self.top_content(world, Effort::Known)?;
        let changed = self.change_record(world, |record| {
            record.layer = Some(layer.clone());
            record.compression = world.options.compression;
            record.content = content;
        });
        changed.map(drop)
    }

    /// The records of the steps that made the tree, with the layers that it was exported with.
    pub(crate) fn records(&self, world: &World<'_>) -> Vec<(CacheKey, Record)> {
        let record = |layer: &TreeLayer| {
            let Origin::Step(key) = &layer.origin else { return None };
            let known = layer.imported.get().map(|imported| imported.record.clone());
            let record =
                cache::get(world.store, key).filter(|record| layer.id.get() == Some(&record.made)).or(known)?;
            let compression = world.options.compression;
            Some((key.clone(), Record { layer: layer.layer.get().cloned(), compression, ..record }))
        };
        self.layers().iter().filter_map(|layer| record(layer)).collect()
    }

    /// The layer of the step on top that another build has made since.
    pub(super) fn recorded_layer(&self, world: &World<'_>) -> Option<Layer> {
        let (Origin::Step(key), Some(made)) = (&self.top().origin, self.top().id.get()) else { return None };
        let found = find(world, key, true)?.record;
        (found.made == *made && found.compression == world.options.compression).then_some(found.layer)?
    }

    /// Changes the record of the step on top, if there still is that of this execution, and returns it.
    fn change_record(&self, world: &World<'_>, change: impl FnOnce(&mut Record)) -> Result<Option<Record>, Cause> {
        let top = self.top();
        let (Origin::Step(key), Some(made)) = (&top.origin, top.id.get()) else { return Ok(None) };
        let Some(known) = cache::get(world.store, key).filter(|record| record.made == *made) else {
            return Ok(None);
        };
        let mut record = known.clone();
        change(&mut record);
        if record != known {
            cache::put(world.store, key, &record)?;
        }
        Ok(Some(record))
    }
}

/// The identities of what a vertex reads, in the order of its inputs.
pub(super) fn identities(vertex: &Vertex, trees: &[Tree]) -> Vec<Option<String>> {
    key::inputs(vertex).iter().map(|input| trees[input.id.0].identity()).collect()
}

/// Names the fields of a step alone.
pub(super) fn own_key(key: &Key) -> CacheKey {
    key.own.key("own", &[])
}

/// The name of a tree that says nothing of when it was made.
pub(super) fn definition_of(tree: &Tree) -> Option<&Digest> {
    tree.layers().last().map(|layer| match &layer.origin {
        Origin::Image { .. } => &layer.id.get().expect("an image's layers have their names from the start").0,
        Origin::Step(key) => &key.0,
    })
}
