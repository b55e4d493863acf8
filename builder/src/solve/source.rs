//! Layers of images: fetched, verified and unpacked, several at once, each into its own directory; or only looked at.

use std::io::{self, Read, Write};
use std::panic::resume_unwind;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use oci_spec::image::{Digest, MediaType};
use registry::Action;
use snapshot::digest::{HashingReader, sha256};
use snapshot::{BlobWriter, Compression, Layer, LayerIndex, Unpacked, View, layer};

use crate::graph::PinnedImage;
use crate::layout;
use crate::sandbox::Cancel;

use super::World;
use super::error::Cause;
use super::relay::{RelayWriter, relay};
use super::tree::TreeLayer;

/// Layers in flight at a time: enough to keep two cores decompressing while others wait for the network.
const CONCURRENT_LAYERS: usize = 4;

/// Which records say what a layer of an image was compressed to.
const CONVERTED: &str = "converted";

/// What is made of a layer that is pulled.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Wanted {
    /// Its index: nobody needs the files.
    Index,
    /// Its directory, and its index.
    Directory,
}

impl Wanted {
    /// Whether it is there.
    pub(super) fn is_met(self, world: &World<'_>, layer: &TreeLayer) -> bool {
        (self == Self::Index || layer.snapshot(world).is_some()) && layer.stored_index(world).is_some()
    }
}

/// What was made.
enum Made {
    Index(LayerIndex),
    Directory(Box<Unpacked>),
}

/// Makes sure that every layer of an image has what is wanted. The caller holds the image's lock.
pub(super) fn pull(
    world: &World<'_>,
    image: &PinnedImage,
    layers: &[Arc<TreeLayer>],
    wanted: Wanted,
) -> Result<(), Cause> {
    let Some(top) = layers.last() else { return Ok(()) };
    // Another process may be at it: it is pulled once.
    let lock = world.store.lock(&format!("image-{}", top.id().0.digest()), &|| world.cancel.is_cancelled())?;
    let _lock = lock.ok_or(Cause::Cancelled)?;
    let present: Vec<bool> = layers.iter().map(|layer| wanted.is_met(world, layer)).collect();
    let next = AtomicUsize::new(0);
    let made: Vec<Mutex<Option<Result<Made, Cause>>>> = layers.iter().map(|_| Mutex::new(None)).collect();
    std::thread::scope(|scope| {
        for _ in 0..CONCURRENT_LAYERS.min(layers.len()) {
            scope.spawn(|| {
                loop {
                    let position = next.fetch_add(1, Ordering::Relaxed);
                    let Some(slot) = made.get(position) else { return };
                    if !present[position] {
                        let result = pull_one(world, image, &image.layers[position], wanted);
                        *slot.lock().unwrap_or_else(PoisonError::into_inner) = Some(result);
                    }
                }
            });
        }
    });
    let (mut view, mut dirs) = (View::default(), Vec::new());
    for (layer, slot) in layers.iter().zip(made) {
        match slot.into_inner().unwrap_or_else(PoisonError::into_inner).transpose()? {
            Some(Made::Index(index)) => layer.keep_index(world, Arc::new(index))?,
            Some(Made::Directory(unpacked)) => {
                layer.keep_index(world, Arc::clone(unpacked.index()))?;
                layer.keep_snapshot(unpacked.settle(&view, &dirs, layer.id())?);
            }
            None => {}
        }
        if wanted == Wanted::Directory {
            view.push(layer.stored_index(world).expect("present, or just kept"));
            dirs.push(layer.snapshot(world).expect("present, or just kept").dir.clone());
        }
    }
    Ok(())
}

/// Makes of one layer what is wanted; one that the store lacks is read while it is fetched.
fn pull_one(world: &World<'_>, image: &PinnedImage, layer: &Layer, wanted: Wanted) -> Result<Made, Cause> {
    if world.store.blobs().has_verified(layer.blob.digest(), layer.blob.size()) {
        return read(world, image, layer, (wanted, world.store.blobs().open(layer.blob.digest())?));
    }
    // Who asks for the index alone may ask for the directory next.
    if wanted == Wanted::Directory && world.options.keep_blobs_of.as_ref() != Some(&image.manifest) {
        match fetching(world, image, layer, wanted, None) {
            // Whether that is the layer's fault, or the registry sent something else, its digest says.
            Err(Failed::Reading(_)) if !world.cancel.is_cancelled() => {}
            Err(failed) => return Err(failed.into()),
            Ok(made) => return Ok(made),
        }
    }
    let kept = Some(world.store.blobs().writer()?);
    Ok(fetching(world, image, layer, wanted, kept)?)
}

/// Which end of a layer on its way failed.
enum Failed {
    Reading(Box<Cause>),
    Fetching(Box<Cause>),
}

impl From<Failed> for Cause {
    fn from((Failed::Reading(cause) | Failed::Fetching(cause)): Failed) -> Self {
        *cause
    }
}

/// Fetches a layer, and reads it meanwhile. Without a blob to keep, its `diff_id` alone tells that it is the right one.
fn fetching(
    world: &World<'_>,
    image: &PinnedImage,
    layer: &Layer,
    wanted: Wanted,
    kept: Option<BlobWriter>,
) -> Result<Made, Failed> {
    let (copy, arriving) = relay();
    std::thread::scope(|scope| {
        let reading = scope.spawn(|| read(world, image, layer, (wanted, arriving)));
        let mut writer = Tee { cancel: world.cancel, blob: kept, copy: Some(copy), is_abandoned: false };
        let fetched = fetch_blob(world, image, layer, &mut writer);
        // However it ended: the reader waits for as long as somebody may write.
        drop(writer.copy.take());
        let made = reading.join().unwrap_or_else(|panic| resume_unwind(panic));
        match fetched {
            // What was cut short is read badly too: the fetch knows why.
            Err(cause) if !writer.is_abandoned => Err(Failed::Fetching(cause.into())),
            Ok(()) | Err(_) => made.map_err(|cause| Failed::Reading(cause.into())),
        }
    })
}

fn read(
    world: &World<'_>,
    image: &PinnedImage,
    layer: &Layer,
    (wanted, blob): (Wanted, impl Read + Send),
) -> Result<Made, Cause> {
    let mut tar = HashingReader::new(layer::decompress(blob, layer::Limits::default().bytes)?);
    let made = match wanted {
        Wanted::Index => Made::Index(snapshot::survey(&mut tar)?),
        Wanted::Directory => {
            let snapshots = world.store.snapshots();
            Made::Directory(Box::new(snapshot::unpack(&mut tar, snapshots.prepare()?, snapshots.flavour())?))
        }
    };
    // The digest is of the whole stream, and tar ends before it does.
    io::copy(&mut tar.by_ref(), &mut io::sink())?;
    same(image, &layer.diff_id, &tar.finish())?;
    Ok(made)
}

fn same(image: &PinnedImage, expected: &Digest, found: &Digest) -> Result<(), Cause> {
    if expected == found {
        return Ok(());
    }
    let reference = image.reference.whole();
    Err(Cause::DiffId { reference, expected: expected.to_string(), found: found.to_string() })
}

/// The blob of an image's layer as the build wants it: the image's own, unless that is to be compressed otherwise.
pub(super) fn compressed(world: &World<'_>, image: &PinnedImage, layer: &Layer) -> Result<Layer, Cause> {
    let compression = world.options.compression;
    if !world.options.force_compression || is_compressed_by(layer.blob.media_type(), compression) {
        return Ok(layer.clone());
    }
    let key = sha256(format!("{compression:?} {}", layer.blob.digest()).as_bytes());
    let known = world.store.get_record(CONVERTED, key.digest());
    let known = known.and_then(|bytes| serde_json::from_slice::<Layer>(&bytes).ok());
    let there = |layer: &Layer| world.store.blobs().has(layer.blob.digest()) == Some(layer.blob.size());
    if let Some(known) = known.filter(there) {
        return Ok(known);
    }
    fetch(world, image, layer)?;
    let made = world.store.convert(layer, compression)?;
    let record = serde_json::to_vec(&made).expect("a layer is plain data");
    world.store.put_record(CONVERTED, key.digest(), &record)?;
    Ok(made)
}

/// Whether a layer of this type is compressed so; the types are OCI's and Docker's.
fn is_compressed_by(media_type: &MediaType, compression: Compression) -> bool {
    let name = media_type.to_string();
    match compression {
        Compression::Gzip { .. } => name.ends_with("gzip"),
        Compression::Zstd { .. } => name.ends_with("zstd"),
        Compression::None => name.ends_with("tar"),
    }
}

/// Makes sure that the store has the blob of an image's layer.
pub(crate) fn fetch(world: &World<'_>, image: &PinnedImage, layer: &Layer) -> Result<(), Cause> {
    if world.store.blobs().has_verified(layer.blob.digest(), layer.blob.size()) {
        return Ok(());
    }
    let blob = Some(world.store.blobs().writer()?);
    fetch_blob(world, image, layer, &mut Tee { cancel: world.cancel, blob, copy: None, is_abandoned: false })
}

/// Fetches the blob into `writer`.
fn fetch_blob(world: &World<'_>, image: &PinnedImage, layer: &Layer, writer: &mut Tee<'_>) -> Result<(), Cause> {
    let fetched = arrive(world, image, layer, writer);
    // What was cut short for that has no fault of its own to tell.
    if fetched.is_err() && world.cancel.is_cancelled() { Err(Cause::Cancelled) } else { fetched }
}

fn arrive(world: &World<'_>, image: &PinnedImage, layer: &Layer, writer: &mut Tee<'_>) -> Result<(), Cause> {
    let (digest, size) = (layer.blob.digest(), layer.blob.size());
    if let Some(path) = &image.layout {
        let file = layout::open(path, digest).map_err(|source| Cause::Layout(Box::new(source)))?;
        io::copy(&mut file.take(size.saturating_add(1)), writer)?;
    } else {
        // Who takes it digests it anyway.
        let pulled = world.client.pull_blob_unverified(&image.reference, &layer.blob, writer);
        pulled.map_err(|source| not_fetched(image, source))?;
    }
    writer.flush()?;
    // The reader is at the end before all is on the disk.
    drop(writer.copy.take());
    if let Some(blob) = writer.blob.take() {
        blob.commit(Some((digest, size))).map_err(|error| match error {
            snapshot::Error::DigestMismatch { expected, found } if image.layout.is_none() => {
                let repository = image.reference.repository().to_owned();
                let action = Box::new(Action::PullBlob { repository, digest: digest.clone() });
                not_fetched(image, registry::Error::WrongDigest { action, expected, actual: found })
            }
            error => error.into(),
        })?;
    }
    if image.layout.is_none() {
        world.reporter.totals().down.fetch_add(size, Ordering::Relaxed);
    }
    Ok(())
}

fn not_fetched(image: &PinnedImage, source: registry::Error) -> Cause {
    Cause::Fetch { reference: image.reference.whole(), source: Box::new(source) }
}

/// Writes into the store, where the bytes are to be kept, and to somebody else for as long as that one reads; nothing
/// more once the build is cancelled.
struct Tee<'a> {
    cancel: &'a Cancel,
    blob: Option<BlobWriter>,
    copy: Option<RelayWriter>,
    /// Whether writing failed because the reader gave up, which has its own error to tell.
    is_abandoned: bool,
}

impl Tee<'_> {
    /// Where nothing is kept, it is of no use to go on without a reader.
    fn pass_on(&mut self, act: impl FnOnce(&mut RelayWriter) -> io::Result<()>) -> io::Result<()> {
        let Some(Err(error)) = self.copy.as_mut().map(act) else { return Ok(()) };
        self.copy = None;
        self.is_abandoned = self.blob.is_none();
        if self.is_abandoned { Err(error) } else { Ok(()) }
    }
}

impl Write for Tee<'_> {
    fn write(&mut self, buffer: &[u8]) -> io::Result<usize> {
        if self.cancel.is_cancelled() {
            return Err(io::Error::other("the build was cancelled"));
        }
        let written = self.blob.as_mut().map_or(Ok(buffer.len()), |blob| blob.write(buffer))?;
        self.pass_on(|copy| copy.write_all(&buffer[..written]))?;
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.pass_on(Write::flush)?;
        self.blob.as_mut().map_or(Ok(()), Write::flush)
    }
}
