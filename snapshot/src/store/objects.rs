//! Everything that the store keeps, one object a name: how large it is, when it was last used, and removing it.

use std::collections::BTreeMap;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use oci_spec::image::Digest;

use super::Store;
use super::names::unescape;
use super::uses::{Removal, stamp};
use crate::Error;
use crate::path::measure;
use crate::temp::TempDirectory;

/// What a name in the store stands for. What is easily made again sorts first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ObjectKind {
    /// A piece of a layer, uncompressed.
    Bundle,
    /// A layer's directory.
    Snapshot,
    /// A record of the builder.
    Record,
    /// A layer's index.
    Index,
    /// A layer, config, manifest or download.
    Blob,
    /// Where in a blob its segments lie.
    Segments,
    /// The digests of files of build contexts.
    ContextDigests,
    /// A cache mount.
    Mount,
    /// What a name of an image stands for.
    Tag,
}

impl ObjectKind {
    /// All kinds, in the order in which they are shown.
    pub const ALL: [Self; 9] = [
        Self::Blob,
        Self::Snapshot,
        Self::Segments,
        Self::Bundle,
        Self::Index,
        Self::Record,
        Self::Tag,
        Self::Mount,
        Self::ContextDigests,
    ];

    /// What people call several of the kind.
    pub fn plural(self) -> &'static str {
        match self {
            Self::Blob => "layers",
            Self::Snapshot => "snapshots",
            Self::Segments => "segments",
            Self::Bundle => "bundles",
            Self::Index => "indexes",
            Self::Record => "records",
            Self::Tag => "names",
            Self::Mount => "mounts",
            Self::ContextDigests => "context digests",
        }
    }
}

/// One thing that the store keeps.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Object {
    /// What it is.
    pub kind: ObjectKind,
    /// Its name among its kind: a digest in hexadecimal, `<kind>/<key>` of a record, the key of a tag.
    pub name: String,
    /// Where it is.
    pub path: PathBuf,
    /// Allocated on disk, in bytes.
    pub bytes: u64,
    /// When it was made or last found.
    pub used: SystemTime,
}

impl Object {
    /// The digest that its name is.
    pub fn digest(&self) -> Option<Digest> {
        format!("sha256:{}", self.name).parse().ok()
    }
}

/// The whole store.
#[derive(Debug, Clone, Default)]
pub struct Inventory {
    /// Its objects, in no order.
    pub objects: Vec<Object>,
    /// The bytes on disk that are of none: folders, locks, and what is being written.
    pub other: u64,
}

impl Inventory {
    /// The bytes that the store takes up on disk.
    pub fn total(&self) -> u64 {
        self.other + self.objects.iter().map(|object| object.bytes).sum::<u64>()
    }
}

/// Sizes of snapshots, which never change, by path: measuring one means to visit all its files.
pub type KnownSizes = BTreeMap<PathBuf, u64>;

impl Store {
    /// Lists and measures everything, but for the snapshots whose sizes are known.
    pub fn inventory(&self, known: &KnownSizes) -> Result<Inventory, Error> {
        let mut listing = Listing { inventory: Inventory::default(), known };
        listing.inventory.other += own_bytes(&self.path);
        for (name, path) in children(&self.path)? {
            match name.as_str() {
                "blobs" => {
                    listing.inventory.other += own_bytes(&path);
                    listing.folder(&path.join("sha256"), ObjectKind::Blob)?;
                }
                "segments" => listing.folder(&path, ObjectKind::Segments)?,
                "bundles" => listing.folder(&path, ObjectKind::Bundle)?,
                "indexes" => listing.folder(&path, ObjectKind::Index)?,
                "tags" => listing.folder(&path, ObjectKind::Tag)?,
                "mounts" => listing.folder(&path, ObjectKind::Mount)?,
                "cache" => {
                    listing.inventory.other += own_bytes(&path);
                    for (kind, path) in children(&path)? {
                        listing.records(&path, &kind)?;
                    }
                }
                "context-digests" => listing.object(ObjectKind::ContextDigests, name, path)?,
                _ if name.starts_with("snapshots-") => listing.folder(&path, ObjectKind::Snapshot)?,
                _ => listing.inventory.other += measure(&path)?.bytes,
            }
        }
        Ok(listing.inventory)
    }

    /// Whether there is a snapshot of this name, of any flavour; that is no use of it.
    pub fn has_snapshot(&self, name: &str) -> bool {
        let folders = children(&self.path).unwrap_or_default();
        let flavours = folders.into_iter().filter(|(folder, _)| folder.starts_with("snapshots-"));
        flavours.into_iter().any(|(_, path)| fs_err::symlink_metadata(path.join(name)).is_ok())
    }

    /// Removes objects, but for those that were used since a lease that somebody still holds began; returns those that
    /// are removed now. They are out of everybody's sight at once.
    pub fn remove<'a>(&self, objects: &[&'a Object]) -> Result<Vec<&'a Object>, Error> {
        self.remove_where(objects, &|removal, used| !removal.holds(used))
    }

    /// Removes objects that are worth nothing to anybody, held or not.
    pub fn remove_broken(&self, objects: &[&Object]) -> Result<(), Error> {
        self.remove_where(objects, &|_, _| true).map(drop)
    }

    fn remove_where<'a>(
        &self,
        objects: &[&'a Object],
        may_go: &dyn Fn(&Removal, super::uses::Stamp) -> bool,
    ) -> Result<Vec<&'a Object>, Error> {
        let out_of_sight = TempDirectory::create(&self.path.join("tmp"))?;
        let removal = Removal::begin(&self.path)?;
        let mut removed = Vec::new();
        for object in objects {
            // What is not there any more was removed by somebody else.
            let Ok(metadata) = fs_err::symlink_metadata(&object.path) else { continue };
            if may_go(&removal, stamp(&metadata)) {
                fs_err::rename(&object.path, out_of_sight.path().join(removed.len().to_string()))?;
                self.forget(object);
                removed.push(*object);
            }
        }
        drop(removal);
        out_of_sight.delete()?;
        Ok(removed)
    }

    /// Removes what an object leaves behind that means nothing without it, and what this process knows of it.
    fn forget(&self, object: &Object) {
        if let (ObjectKind::Blob, Some(digest)) = (object.kind, object.digest()) {
            self.blobs.distrust(&digest);
            // A list that stays is dropped when it is read.
            fs_err::remove_file(self.path.join("segments").join(&object.name)).ok();
        }
    }
}

struct Listing<'a> {
    inventory: Inventory,
    known: &'a KnownSizes,
}

impl Listing<'_> {
    fn folder(&mut self, folder: &Path, kind: ObjectKind) -> Result<(), Error> {
        self.inventory.other += own_bytes(folder);
        for (name, path) in children(folder)? {
            if kind == ObjectKind::Snapshot && name == "tmp" {
                self.inventory.other += measure(&path)?.bytes;
            } else {
                self.object(kind, name, path)?;
            }
        }
        Ok(())
    }

    fn records(&mut self, folder: &Path, kind: &str) -> Result<(), Error> {
        self.inventory.other += own_bytes(folder);
        for (name, path) in children(folder)? {
            let key = unescape(&name).unwrap_or(name);
            self.object(ObjectKind::Record, format!("{kind}/{key}"), path)?;
        }
        Ok(())
    }

    fn object(&mut self, kind: ObjectKind, name: String, path: PathBuf) -> Result<(), Error> {
        let Ok(metadata) = fs_err::symlink_metadata(&path) else { return Ok(()) };
        let bytes = match self.known.get(&path) {
            Some(bytes) => *bytes,
            None if metadata.is_dir() => measure(&path)?.bytes,
            None => allocated(&metadata),
        };
        let used = metadata.modified()?;
        self.inventory.objects.push(Object { kind, name, path, bytes, used });
        Ok(())
    }
}

/// The names in a folder of the store; none of one that is not there.
fn children(folder: &Path) -> Result<Vec<(String, PathBuf)>, Error> {
    let entries = match fs_err::read_dir(folder) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        other => other?,
    };
    let named = |entry: fs_err::DirEntry| (entry.file_name().to_string_lossy().into_owned(), entry.path());
    entries.map(|entry| Ok(named(entry?))).collect()
}

/// The bytes of a folder without what is in it.
fn own_bytes(folder: &Path) -> u64 {
    fs_err::symlink_metadata(folder).map_or(0, |metadata| allocated(&metadata))
}

fn allocated(metadata: &std::fs::Metadata) -> u64 {
    metadata.blocks() * 512
}
