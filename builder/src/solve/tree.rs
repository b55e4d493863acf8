//! What a vertex leaves behind: a stack of layers, each of which makes its directory, its index or its blob when
//! asked for it, at most once.

use std::fmt;
use std::io::Read;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use jiff::Timestamp;
use snapshot::digest::HashingReader;
use snapshot::{Found, IndexWriter, Layer, LayerIndex, Snapshot, SnapshotId, View, chain_id, diff, layer, path};

use crate::accounts::Accounts;
use crate::cache::Imported;
use crate::graph::PinnedImage;
use crate::parallel;

use super::World;
use super::error::Cause;
use super::interrupt::Interruptible;
use super::key::CacheKey;
use super::source::{self, Wanted};

/// The longest `/etc/passwd` or `/etc/group` that is read, in bytes.
const ACCOUNTS_LIMIT: u64 = 4 << 20;

/// Directories that are looked at at the same time.
const WALKS: usize = 4;

/// A stack of layers, bottom first. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub struct Tree {
    layers: Vec<Arc<TreeLayer>>,
}

/// One layer and whatever of it exists so far.
pub struct TreeLayer {
    /// What its directory is called, and a step's index: known once the step was found or begins to run.
    pub(super) id: OnceLock<SnapshotId>,
    pub(super) origin: Origin,
    /// Held while something of the layer is being made.
    making: Mutex<()>,
    snapshot: OnceLock<Snapshot>,
    index: OnceLock<Arc<LayerIndex>>,
    /// As the build wants it compressed.
    pub(super) layer: OnceLock<Layer>,
    /// The one that the cache has, when it is compressed otherwise.
    pub(super) otherwise: OnceLock<Layer>,
    pub(super) created: OnceLock<String>,
    /// What it contains, times aside.
    pub(super) content: OnceLock<String>,
    /// What another cache than the store has of it.
    pub(super) imported: OnceLock<Imported>,
}

pub(super) enum Origin {
    /// Layer `position` of an image; `unpacking` is one for all its layers.
    Image { image: Arc<PinnedImage>, position: usize, unpacking: Arc<Mutex<()>> },
    /// The step with this key.
    Step(CacheKey),
}

impl fmt::Debug for TreeLayer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TreeLayer").field("id", &self.id).field("layer", &self.layer).finish_non_exhaustive()
    }
}

impl TreeLayer {
    fn new(id: Option<SnapshotId>, origin: Origin) -> Self {
        Self {
            id: id.map(OnceLock::from).unwrap_or_default(),
            origin,
            making: Mutex::new(()),
            snapshot: OnceLock::new(),
            index: OnceLock::new(),
            layer: OnceLock::new(),
            otherwise: OnceLock::new(),
            created: OnceLock::new(),
            content: OnceLock::new(),
            imported: OnceLock::new(),
        }
    }

    /// The name of its snapshot.
    pub(super) fn id(&self) -> &SnapshotId {
        self.id.get().expect("a step is found or begins before anything of it is made")
    }

    /// What the store files its index under: the same layer of an image on another base has the same one.
    fn index_name(&self) -> Option<&oci_spec::image::Digest> {
        match &self.origin {
            Origin::Image { image, position, .. } => Some(&image.layers[*position].diff_id),
            Origin::Step(_) => self.id.get().map(|id| &id.0),
        }
    }

    /// When the layer was made; none for an image's layers and for steps that did not run.
    pub fn created(&self) -> Option<&str> {
        self.created.get().map(String::as_str)
    }

    /// The repository that its blob `layer` can be mounted from, if it is known to be in one.
    pub fn repository(&self, layer: &Layer) -> Option<&registry::Reference> {
        match &self.origin {
            Origin::Image { image, position, .. } => {
                (image.layout.is_none() && image.layers[*position] == *layer).then_some(&image.reference)
            }
            Origin::Step(_) => {
                let imported = self.imported.get().filter(|imported| imported.record.layer.as_ref() == Some(layer))?;
                imported.origin.place.repository()
            }
        }
    }

    /// The image and position of a layer that was pulled.
    pub fn image(&self) -> Option<(&PinnedImage, &Layer)> {
        match &self.origin {
            Origin::Image { image, position, .. } => Some((image, &image.layers[*position])),
            Origin::Step(_) => None,
        }
    }

    pub(super) fn snapshot(&self, world: &World<'_>) -> Option<&Snapshot> {
        if self.snapshot.get().is_none()
            && let Some(found) = self.id.get().and_then(|id| world.store.snapshots().get(id))
        {
            return Some(self.snapshot.get_or_init(|| found));
        }
        self.snapshot.get()
    }

    pub(super) fn stored_index(&self, world: &World<'_>) -> Option<Arc<LayerIndex>> {
        if self.index.get().is_none()
            && let Some(found) = self.index_name().and_then(|name| world.store.index(name))
        {
            return Some(Arc::clone(self.index.get_or_init(|| found)));
        }
        if self.index.get().is_none()
            && let Some(fetched) = self.imported.get().and_then(|imported| imported.origin.fetch_index(world))
        {
            return Some(Arc::clone(self.index.get_or_init(|| Arc::new(fetched))));
        }
        self.index.get().cloned()
    }

    pub(super) fn keep_snapshot(&self, snapshot: Snapshot) {
        self.snapshot.get_or_init(|| snapshot);
    }

    pub(super) fn keep_index(&self, world: &World<'_>, index: Arc<LayerIndex>) -> Result<(), Cause> {
        if let Some(name) = self.index_name() {
            world.store.put_index(name, &index)?;
        }
        self.index.get_or_init(|| index);
        Ok(())
    }

    pub(super) fn keep_layer(&self, layer: Layer) {
        self.layer.get_or_init(|| layer);
    }

    fn lock(&self) -> MutexGuard<'_, ()> {
        self.making.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Tree {
    /// The tree of an image.
    pub(super) fn of_image(image: &Arc<PinnedImage>) -> Self {
        let unpacking = Arc::new(Mutex::new(()));
        let mut layers: Vec<Arc<TreeLayer>> = Vec::with_capacity(image.layers.len());
        for (position, layer) in image.layers.iter().enumerate() {
            let id = chain_id(layers.last().map(|below| below.id()), &layer.diff_id);
            let origin = Origin::Image { image: Arc::clone(image), position, unpacking: Arc::clone(&unpacking) };
            layers.push(Arc::new(TreeLayer::new(Some(id), origin)));
        }
        Self { layers }
    }

    /// This tree with the layer of a step on top.
    pub(super) fn with(&self, key: &CacheKey) -> Self {
        let mut layers = self.layers.clone();
        layers.push(Arc::new(TreeLayer::new(None, Origin::Step(key.clone()))));
        Self { layers }
    }

    /// The layers, bottom first.
    pub fn layers(&self) -> &[Arc<TreeLayer>] {
        &self.layers
    }

    /// The layer of the vertex itself.
    pub(super) fn top(&self) -> &TreeLayer {
        self.layers.last().expect("a step's tree has the step's layer")
    }

    pub(super) fn below(&self, position: usize) -> Self {
        Self { layers: self.layers[..position].to_vec() }
    }

    /// Whether every layer has what is wanted of it.
    pub(super) fn has(&self, wanted: Wanted, world: &World<'_>) -> bool {
        self.layers.iter().all(|layer| wanted.is_met(world, layer))
    }

    /// The directories of all layers, bottom first.
    pub fn dirs(&self, world: &World<'_>) -> Result<Vec<PathBuf>, Cause> {
        self.dirs_from(0, world)
    }

    /// Those of the layers from a position on.
    pub(super) fn dirs_from(&self, first: usize, world: &World<'_>) -> Result<Vec<PathBuf>, Cause> {
        // The first time that a process sees a directory it walks it, to know that nobody has changed it.
        let unseen: Vec<_> = self.layers[first..].iter().filter(|layer| layer.snapshot.get().is_none()).collect();
        if unseen.len() > 1 {
            parallel::each(&unseen, WALKS, |layer| Ok::<_, Cause>(layer.snapshot(world).is_some()))?;
        }
        (first..self.layers.len()).map(|position| self.dir(position, world)).collect()
    }

    /// The directory of one layer: unpacked from its blob when there is none yet.
    pub fn dir(&self, position: usize, world: &World<'_>) -> Result<PathBuf, Cause> {
        let layer = &self.layers[position];
        if let Some(snapshot) = layer.snapshot(world) {
            return Ok(snapshot.dir.clone());
        }
        self.unpack(position, world)?;
        Ok(layer.snapshot(world).expect("it was just unpacked").dir.clone())
    }

    /// All layers as one tree.
    pub fn view(&self, world: &World<'_>) -> Result<View, Cause> {
        let indexes: Result<Vec<_>, Cause> =
            (0..self.layers.len()).map(|position| self.index(position, world)).collect();
        Ok(View::new(indexes?))
    }

    /// What one layer contains.
    pub fn index(&self, position: usize, world: &World<'_>) -> Result<Arc<LayerIndex>, Cause> {
        let layer = &self.layers[position];
        if let Some(index) = layer.stored_index(world) {
            return Ok(index);
        }
        match (&layer.origin, layer.snapshot(world)) {
            (Origin::Image { .. }, _) => self.pull(position, Wanted::Index, world)?,
            (Origin::Step(_), Some(snapshot)) => {
                let below = self.below(position).view(world)?;
                let _making = layer.lock();
                if let Some(index) = layer.stored_index(world) {
                    return Ok(index);
                }
                let mut writer = IndexWriter::default();
                let sink = &mut Interruptible(&mut writer, world.cancel);
                world.or_cancelled(diff::changes(&snapshot.dir, world.store.snapshots().flavour(), &below, sink))?;
                layer.keep_index(world, Arc::new(writer.finish()))?;
            }
            (Origin::Step(_), None) => self.unpack(position, world)?,
        }
        Ok(layer.stored_index(world).expect("it was just made"))
    }

    /// Pulls what is wanted of all layers of the image that a layer is of.
    fn pull(&self, position: usize, wanted: Wanted, world: &World<'_>) -> Result<(), Cause> {
        let Origin::Image { image, unpacking, .. } = &self.layers[position].origin else { return Ok(()) };
        let _making = unpacking.lock().unwrap_or_else(PoisonError::into_inner);
        source::pull(world, image, &self.layers[..image.layers.len()], wanted)
    }

    /// Unpacks a layer's blob; for a layer of an image, all the image's layers at once.
    fn unpack(&self, position: usize, world: &World<'_>) -> Result<(), Cause> {
        let layer = &self.layers[position];
        if let Origin::Image { .. } = layer.origin {
            return self.pull(position, Wanted::Directory, world);
        }
        let below = self.below(position);
        let (view, dirs) = (below.view(world)?, below.dirs(world)?);
        let _making = layer.lock();
        if layer.snapshot(world).is_some() && layer.stored_index(world).is_some() {
            return Ok(());
        }
        let known = layer
            .layer
            .get()
            .or(layer.otherwise.get())
            .expect("a step that is neither a directory nor a blob is run again");
        self.obtain(position, known, world)?;
        let blob = world.store.blobs().open_verified(known.blob.digest())?;
        let mut tar = HashingReader::new(layer::decompress(blob, layer::Limits::default().bytes)?);
        let snapshots = world.store.snapshots();
        let unpacked = snapshot::unpack(&mut tar, snapshots.prepare()?, snapshots.flavour())?;
        if let Some(imported) = layer.imported.get() {
            // The digest is of the whole stream, and tar ends before it does.
            std::io::copy(&mut tar.by_ref(), &mut std::io::sink())?;
            let (expected, found) = (known.diff_id.to_string(), tar.finish().to_string());
            if expected != found {
                let reference = imported.origin.place.to_string();
                return Err(Cause::DiffId { reference, expected, found });
            }
        }
        layer.keep_index(world, Arc::clone(unpacked.index()))?;
        layer.keep_snapshot(unpacked.settle(&view, &dirs, layer.id())?);
        Ok(())
    }

    /// The blobs of all layers, bottom first: compressed from their directories where that has not been done.
    pub fn blobs(&self, world: &World<'_>) -> Result<Vec<Layer>, Cause> {
        (0..self.layers.len()).map(|position| self.below(position + 1).top_layer(world)).collect()
    }

    /// The blob of the layer on top.
    pub(crate) fn top_layer(&self, world: &World<'_>) -> Result<Layer, Cause> {
        let top = self.top();
        if let Some((image, layer)) = top.image() {
            return source::compressed(world, image, layer);
        }
        if let Some(layer) = top.layer.get() {
            return Ok(layer.clone());
        }
        let below = self.below(self.layers.len() - 1);
        let _making = top.lock();
        if let Some(layer) = top.layer.get() {
            return Ok(layer.clone());
        }
        // Two builds that wait for the same blob make it once.
        let lock = world.store.lock(&format!("layer-{}", top.id().0.digest()), &|| world.cancel.is_cancelled())?;
        let _lock = lock.ok_or(Cause::Cancelled)?;
        if let Some(layer) = self.recorded_layer(world) {
            top.keep_layer(layer.clone());
            return Ok(layer);
        }
        let compression = world.options.compression;
        let layer = if let Some(otherwise) = top.otherwise.get() {
            // Its bytes need not be those that the directory would give.
            self.obtain(self.layers.len() - 1, otherwise, world)?;
            world.store.recompress(otherwise, compression)?
        } else {
            let snapshot = top.snapshot(world).expect("a step that is neither a directory nor a blob is run again");
            let mut writer = world.layer_writer()?;
            let (flavour, view) = (world.store.snapshots().flavour(), below.view(world)?);
            let sink = &mut Interruptible(&mut writer, world.cancel);
            world.or_cancelled(diff::changes(&snapshot.dir, flavour, &view, sink))?;
            let (layer, index) = writer.finish()?;
            top.keep_index(world, Arc::new(index))?;
            layer
        };
        top.keep_layer(layer.clone());
        self.remember_layer(world, &layer)?;
        Ok(layer)
    }

    /// The bytes of what a view of this tree found.
    pub(crate) fn open(&self, found: &Found<'_>, world: &World<'_>) -> Result<fs_err::File, Cause> {
        Ok(path::Root::open(&self.dir(found.layer, world)?)?.open_file(&found.file)?)
    }

    /// The users and groups of the tree.
    pub(super) fn accounts(&self, view: &View, world: &World<'_>) -> Result<Accounts, Cause> {
        Ok(Accounts { passwd: self.text(view, "etc/passwd", world)?, group: self.text(view, "etc/group", world)? })
    }

    /// A small text file of the tree; empty when there is none.
    fn text(&self, view: &View, file: &str, world: &World<'_>) -> Result<String, Cause> {
        let resolved = view.resolve(file.as_ref())?;
        let Some(found) = view.lookup(&resolved) else { return Ok(String::new()) };
        if !matches!(found.entry.kind, snapshot::Kind::File { .. }) {
            return Ok(String::new());
        }
        let mut bytes = Vec::new();
        self.open(&found, world)?.take(ACCOUNTS_LIMIT).read_to_end(&mut bytes)?;
        Ok(String::from_utf8_lossy(&bytes).into_owned())
    }
}

/// The time, RFC 3339 in UTC with nanoseconds, as image configs hold it.
pub(super) fn now() -> String {
    Timestamp::now().to_string()
}
