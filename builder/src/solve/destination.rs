//! Where copied files land: the destination's rules, and the entries that lead there.
//!
//! The rules are the Dockerfile reference's ("COPY", "Destination") with BuildKit's answers where it is silent: a
//! directory's contents are copied rather than itself; a trailing slash, an existing directory or several sources make
//! the destination a directory; missing parents are made 0755 and belong to `--chown`; what exists keeps its metadata.

use std::collections::HashMap;
use std::io::{self, Read};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use snapshot::{
    Active, Bytes, ChangeSink, Entry, Kind, LayerWriter, Metadata, Mtime, TreeWriter, View, buffered, path,
};

use crate::graph::chmod::Chmod;
use crate::sandbox::{Cancel, UntilCancelled};
use crate::secrets::{Found, Needles, Search, Watched};

use super::error::Cause;
use super::relative;
use super::tree::Tree;
use super::{Needs, World};

/// Mode of directories that a copy has to make.
const PARENT_MODE: u32 = 0o755;

/// A larger file, in bytes, is not copied to its end when the build is cancelled. The bytes of smaller ones may be read by
/// a compressing thread, or not at all.
const LARGE: u64 = 4 << 20;

/// The destination of a COPY in the tree that it copies onto.
#[derive(Debug)]
pub(super) struct Destination {
    /// Resolved: relative to the root, no links, `.` for the root.
    pub(super) path: PathBuf,
    /// It is there and a directory.
    exists: bool,
    /// It is, or has to become, a directory.
    directory: bool,
}

impl Destination {
    /// Resolves an absolute destination.
    pub(super) fn resolve(view: &View, destination: &str, several: bool) -> Result<Self, Cause> {
        let path = view.resolve(relative(Path::new(destination)))?;
        let path = if path.as_os_str().is_empty() { PathBuf::from(".") } else { path };
        let found = view.lookup(&path).map(|found| matches!(found.entry.kind, Kind::Directory));
        let exists = path == Path::new(".") || found == Some(true);
        if found == Some(false) && (several || destination.ends_with('/')) {
            return Err(Cause::Obstacle { path, reason: "it is not a directory" });
        }
        Ok(Self { path, exists, directory: exists || several || destination.ends_with('/') })
    }

    /// Where a source that is no directory goes.
    pub(super) fn of_file(&self, name: &std::ffi::OsStr) -> PathBuf {
        if self.directory { join(&self.path, Path::new(name)) } else { self.path.clone() }
    }

    /// Whether a source directory's own metadata become the destination's: only where nothing says otherwise.
    pub(super) fn takes_directory(&self) -> bool {
        !self.directory
    }

    /// Whether it is, or has to become, a directory.
    pub(super) fn is_directory(&self) -> bool {
        self.directory
    }

    /// Whether the destination is there already.
    pub(super) fn exists(&self) -> bool {
        self.exists
    }
}

/// `path` below `directory`, both relative and normal; either may be the root, `.`, or empty.
pub(super) fn join(directory: &Path, path: &Path) -> PathBuf {
    let is_empty = |path: &Path| matches!(path.as_os_str().as_bytes(), b"" | b".");
    match (is_empty(directory), is_empty(path)) {
        (true, true) => PathBuf::from("."),
        (true, false) => path.to_owned(),
        (false, true) => directory.to_owned(),
        (false, false) => directory.join(path),
    }
}

/// What a copy writes into: the layer's blob, its directory, or both.
pub(super) struct Placement<'a> {
    view: &'a View,
    layer: Option<LayerWriter>,
    tree: Option<(TreeWriter, Active)>,
    owner: Option<(u32, u32)>,
    mode: Option<Chmod>,
    /// The directories that are in the layer, each with whether the view has it too.
    made: HashMap<PathBuf, bool>,
    /// The one of them that was asked for last: most entries have the same parent as the one before.
    last: Option<(PathBuf, bool)>,
    now: Mtime,
    /// What nothing that is placed may hold.
    needles: Option<&'a Needles>,
    cancel: &'a Cancel,
}

impl<'a> Placement<'a> {
    /// Begins a layer over `view`.
    pub(super) fn new(world: &World<'a>, view: &'a View, needs: Needs, base: &Tree) -> Result<Self, Cause> {
        let layer = if needs.layer { Some(world.layer_writer()?) } else { None };
        let tree = if needs.directory {
            let active = world.store.snapshots().prepare()?;
            if let Some(top) = base.dirs(world)?.last() {
                active.adopt_root_of(top)?;
            }
            Some((TreeWriter::new(active.upper(), world.store.snapshots().flavour())?, active))
        } else {
            None
        };
        let now = Mtime { seconds: now(world), nanoseconds: 0 };
        Ok(Self {
            view,
            layer,
            tree,
            owner: None,
            mode: None,
            made: HashMap::new(),
            last: None,
            now,
            needles: world.needles,
            cancel: world.cancel,
        })
    }

    /// Gives everything that is placed this owner and mode.
    pub(super) fn with(mut self, owner: Option<(u32, u32)>, mode: Option<Chmod>) -> Self {
        self.owner = owner;
        self.mode = mode;
        self
    }

    /// The modification time of what the copy makes itself.
    pub(super) fn now(&self) -> Mtime {
        self.now
    }

    /// Makes sure that `directory` and what leads to it are in the layer: as they are where they exist, new ones
    /// where they do not.
    pub(super) fn directory(&mut self, directory: &Path) -> Result<(), Cause> {
        if directory == Path::new(".") || directory.as_os_str().is_empty() || self.is_made(directory).is_some() {
            return Ok(());
        }
        if let Some((parent, _)) = path::split(directory) {
            self.directory(parent)?;
        }
        let entry = match self.view.lookup(directory) {
            Some(found) if matches!(found.entry.kind, Kind::Directory) => found.entry.into_owned(),
            Some(_) => {
                return Err(Cause::Obstacle { path: directory.to_owned(), reason: "it is not a directory" });
            }
            None => self.new_directory(),
        };
        let nothing: &mut dyn Read = &mut io::empty();
        self.write(directory, &entry, nothing.into())
    }

    /// Whether a directory is in the layer, and then whether the view has it too.
    fn is_made(&mut self, directory: &Path) -> Option<bool> {
        if let Some((last, is_old)) = &self.last
            && last.as_os_str() == directory.as_os_str()
        {
            return Some(*is_old);
        }
        let is_old = *self.made.get(directory)?;
        self.last = Some((directory.to_owned(), is_old));
        Some(is_old)
    }

    fn new_directory(&self) -> Entry {
        let (uid, gid) = self.owner.unwrap_or((0, 0));
        let metadata = Metadata { mode: PARENT_MODE, uid, gid, mtime: self.now, xattrs: snapshot::Xattrs::new() };
        Entry { kind: Kind::Directory, metadata }
    }

    /// Places one copied entry, unless the build is cancelled: before it, or in the middle of a large file.
    pub(super) fn place(&mut self, path: &Path, mut entry: Entry, mut content: Bytes<'_>) -> Result<(), Cause> {
        if self.cancel.is_cancelled() {
            return Err(Cause::Cancelled);
        }
        if let Some((uid, gid)) = self.owner {
            (entry.metadata.uid, entry.metadata.gid) = (uid, gid);
        }
        if let (Some(mode), false) = (&self.mode, matches!(entry.kind, Kind::Symlink { .. })) {
            let directory = matches!(entry.kind, Kind::Directory);
            entry.metadata.mode = mode.apply(entry.metadata.mode, directory);
        }
        self.make_way(path, matches!(entry.kind, Kind::Directory))?;
        if !matches!(entry.kind, Kind::File { size } if size > LARGE) {
            return self.write(path, &entry, content);
        }
        let (cancel, digest) = (self.cancel, content.digest());
        let mut reader = UntilCancelled(content.reader(), cancel);
        let written = self.write(path, &entry, Bytes::Now(&mut reader, digest));
        written.map_err(|cause| if cancel.is_cancelled() { Cause::Cancelled } else { cause })
    }

    /// Places another name of the file at `first`, which was placed before.
    pub(super) fn link(&mut self, path: &Path, first: &Path) -> Result<(), Cause> {
        self.make_way(path, false)?;
        if let Some((tree, _)) = &mut self.tree {
            tree.hard_link(path, first)?;
        }
        if let Some(layer) = &mut self.layer {
            layer.hard_link(path, first)?;
        }
        Ok(())
    }

    /// Makes what leads to `path`, where nothing of another kind may be.
    fn make_way(&mut self, path: &Path, is_directory: bool) -> Result<(), Cause> {
        if let Some((parent, _)) = path::split(path) {
            self.directory(parent)?;
        }
        let obstacle = self.below(path);
        match obstacle {
            Some(true) if !is_directory => {
                Err(Cause::Obstacle { path: path.to_owned(), reason: "it is a directory in the image" })
            }
            Some(false) if is_directory => {
                Err(Cause::Obstacle { path: path.to_owned(), reason: "it is not a directory in the image" })
            }
            _ => Ok(()),
        }
    }

    /// Whether the view has something at `path`, and whether that is a directory. In a new directory there is nothing.
    fn below(&mut self, path: &Path) -> Option<bool> {
        if path::split(path).is_some_and(|(parent, _)| self.is_made(parent) == Some(false)) {
            return None;
        }
        self.view.lookup(path).map(|found| matches!(found.entry.kind, Kind::Directory))
    }

    fn write(&mut self, path: &Path, entry: &Entry, mut content: Bytes<'_>) -> Result<(), Cause> {
        if matches!(entry.kind, Kind::Directory) {
            if self.made.contains_key(path) {
                return Ok(());
            }
            let is_old = self.below(path).is_some();
            self.made.insert(path.to_owned(), is_old);
        }
        let Some(needles) = self.needles else { return self.put(path, entry, content) };
        Search(needles).entry(path, entry, &mut io::empty())?;
        let digest = content.digest();
        let mut watched = Watched::new(needles, content.reader());
        let put = self.put(path, entry, Bytes::Now(&mut watched, digest));
        match watched.found {
            Some(secret) => Err(Found::Secret { secret, path: path.to_owned() }.into()),
            None => put,
        }
    }

    fn put(&mut self, path: &Path, entry: &Entry, mut content: Bytes<'_>) -> Result<(), Cause> {
        match (&mut self.tree, &mut self.layer) {
            (Some((tree, active)), Some(layer)) => {
                tree.entry(path, entry, &mut buffered(entry, content.reader()))?;
                // Both want the bytes and a source gives them once: the layer reads them back, from the page cache.
                if matches!(entry.kind, Kind::File { .. }) {
                    let reader = &mut path::Root::open(active.upper())?.open_file(path)?;
                    let reader = &mut UntilCancelled(reader, self.cancel);
                    layer.put(path, entry, Bytes::Now(reader, content.digest()))?;
                } else {
                    layer.entry(path, entry, &mut io::empty())?;
                }
            }
            (Some((tree, _)), None) => tree.entry(path, entry, &mut buffered(entry, content.reader()))?,
            (None, Some(layer)) => layer.put(path, entry, content)?,
            (None, None) => {}
        }
        Ok(())
    }

    /// Completes the layer and makes it `tree`'s top.
    pub(super) fn finish(self, world: &World<'_>, tree: &Tree) -> Result<(), Cause> {
        let top = tree.top();
        if let Some((writer, active)) = self.tree {
            writer.finish()?;
            top.keep_snapshot(active.commit(top.id())?);
        }
        if let Some(writer) = self.layer {
            let (layer, index) = writer.finish()?;
            top.keep_index(world, index.into())?;
            top.keep_layer(layer);
        }
        Ok(())
    }
}

/// Seconds since the epoch for what a copy makes itself: the build's fixed time where it has one.
fn now(world: &World<'_>) -> i64 {
    let fixed = world.options.epoch.as_ref().and_then(|epoch| epoch.parse::<jiff::Timestamp>().ok());
    fixed.unwrap_or_else(jiff::Timestamp::now).as_second()
}
