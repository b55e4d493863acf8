//! One pulled layer → its own snapshot, independent of the layers below, so that all layers of an image unpack at
//! once. What a layer takes from below is added at the end: see [`Unpacked::settle`].

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::io::{self, BufRead, Read};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::entry::{Content, Entry, Kind};
use crate::index::{IndexWriter, LayerIndex, Node, Relocation, View, implied_directory, relocate, resolve_with};
use crate::layer::{Limits, read_limited};
use crate::path::{Root, is_within, split};
use crate::sink::write_content;
use crate::snapshotter::{Active, Snapshot, SnapshotId};
use crate::tree::{Flavour, TreeWriter};
use crate::{ChangeSink, Error};

/// A layer on disk that still lacks what only the layers below know: the metadata of the directories that it implies,
/// and the files below that its hard links name.
#[derive(Debug)]
pub struct Unpacked {
    active: Active,
    tree: TreeWriter,
    index: Arc<LayerIndex>,
}

/// Unpacks an uncompressed layer into `active`, with the default [`Limits`].
pub fn unpack(tar: &mut dyn Read, active: Active, flavour: Flavour) -> Result<Unpacked, Error> {
    unpack_limited(tar, active, flavour, Limits::default())
}

/// Returns what [`unpack`] would find in a layer, and writes nothing.
pub fn survey(tar: &mut dyn Read) -> Result<LayerIndex, Error> {
    let mut sink = Unpacker::into(Nowhere);
    read_limited(tar, Limits::default(), &mut sink)?;
    Ok(sink.index.finish())
}

/// Does [`unpack`] with other limits.
pub fn unpack_limited(tar: &mut dyn Read, active: Active, flavour: Flavour, limits: Limits) -> Result<Unpacked, Error> {
    let mut sink = Unpacker::into(TreeWriter::new(active.upper(), flavour)?);
    read_limited(tar, limits, &mut sink)?;
    Ok(Unpacked { active, tree: sink.tree, index: Arc::new(sink.index.finish()) })
}

impl Unpacked {
    /// Returns the layer's index, which does not depend on the layers below.
    pub fn index(&self) -> &Arc<LayerIndex> {
        &self.index
    }

    /// Adds what comes from the layers below (`below`, whose trees are `below_dirs`, bottom first) and commits.
    pub fn settle(mut self, below: &View, below_dirs: &[PathBuf], id: &SnapshotId) -> Result<Snapshot, Error> {
        if let Some(relocation) = relocate(&self.index, below) {
            self.relocate(relocation)?;
        }
        self.copy_links(below, below_dirs)?;
        self.drop_idle_whiteouts(below)?;
        if let Some(Node::Opaque | Node::Entry { opaque: true, .. }) = self.index.nodes().get(Path::new(".")) {
            self.hide_below(below)?;
        }
        for directory in Arc::clone(&self.index).undescribed() {
            let found = below.lookup(directory).filter(|found| found.entry.kind == Kind::Directory);
            let entry = found.map_or_else(implied_directory, |found| found.entry.into_owned());
            self.tree.describe(directory, entry.metadata);
        }
        self.tree.finish()?;
        self.active.commit(id)
    }

    /// Moves what lies in a directory that is a symbolic link below to where that leads.
    fn relocate(&mut self, relocation: Relocation) -> Result<(), Error> {
        for (from, to) in &relocation.moved {
            match relocation.index.nodes().get(to) {
                Some(Node::Entry { entry, opaque, .. }) if entry.kind == Kind::Directory => {
                    self.tree.entry(to, entry, &mut io::empty())?;
                    if *opaque {
                        self.tree.opaque(to)?;
                    }
                }
                Some(Node::Opaque) => self.tree.opaque(to)?,
                // A link to a file below is not in the tree yet.
                Some(Node::HardLink { target }) if !relocation.index.nodes().contains_key(target) => {}
                _ => self.tree.rename(from, to)?,
            }
        }
        for directory in &relocation.emptied {
            self.tree.remove_directory(directory)?;
        }
        self.index = Arc::new(relocation.index);
        Ok(())
    }

    /// Copies the files below that hard links of this layer name: a link cannot lead from one tree to another.
    fn copy_links(&mut self, below: &View, below_dirs: &[PathBuf]) -> Result<(), Error> {
        let index = Arc::clone(&self.index);
        let mut copied: BTreeMap<&Path, &Path> = BTreeMap::new();
        for (path, node) in index.nodes() {
            let Node::HardLink { target } = node else { continue };
            if matches!(index.nodes().get(target), Some(Node::Entry { .. })) {
                continue;
            }
            if let Some(first) = copied.get(target.as_path()) {
                self.tree.hard_link(path, first)?;
                continue;
            }
            let missing = || Error::LinkTarget { path: path.clone(), target: target.clone() };
            let found = below.lookup_through(below.layers().len(), target);
            let found = found.filter(|found| found.entry.kind != Kind::Directory).ok_or_else(missing)?;
            if let Kind::File { .. } = found.entry.kind {
                let directory = below_dirs.get(found.layer).ok_or_else(missing)?;
                let source = Root::open(directory)?.open_file(&found.file)?;
                self.tree.copy_file(path, &found.entry, &source)?;
            } else {
                self.tree.entry(path, &found.entry, &mut io::empty())?;
            }
            copied.insert(target, path);
        }
        Ok(())
    }

    /// Takes back the whiteouts that remove nothing: overlayfs lists one as a file where it merges no directories.
    fn drop_idle_whiteouts(&mut self, below: &View) -> Result<(), Error> {
        let index = Arc::clone(&self.index);
        let whiteouts = index.nodes().iter().filter(|(_, node)| **node == Node::Whiteout);
        for (path, _) in whiteouts.filter(|(path, _)| index.hides(path) || below.lookup(path).is_none()) {
            self.tree.remove_whiteout(path)?;
        }
        Ok(())
    }

    /// Makes the root opaque, which overlayfs does not heed on the top directory of a layer: name by name.
    fn hide_below(&mut self, below: &View) -> Result<(), Error> {
        for name in below.children(Path::new(".")) {
            self.tree.whiteout(Path::new(&name))?;
        }
        Ok(())
    }
}

/// Writes tree and index together; where order and repetition matter the index decides and the tree follows.
struct Unpacker<T> {
    tree: T,
    index: IndexWriter,
    /// The directory of the last change, as the archive names it, and where it leads, if elsewhere.
    parent: Option<(PathBuf, Option<PathBuf>)>,
    /// Whether there was any whiteout yet: without one no path can lie below one.
    whiteouts: bool,
}

impl<T: ChangeSink<Error = Error>> Unpacker<T> {
    fn into(tree: T) -> Self {
        Self { tree, index: IndexWriter::default(), parent: None, whiteouts: false }
    }

    fn node(&self, path: &Path) -> Option<&Node> {
        self.index.node(path)
    }

    /// Returns where `path` goes when its directories lead through symbolic links of this layer, as extracting one
    /// entry after another would have it; always inside the root.
    fn locate<'a>(&mut self, path: &'a Path) -> Result<Cow<'a, Path>, Error> {
        let Some((directory, name)) = split(path) else { return Ok(path.into()) };
        let there = |place: &Option<PathBuf>| place.as_ref().map_or(path.into(), |place| place.join(name).into());
        if let Some((known, place)) = &self.parent
            && known.as_os_str() == directory.as_os_str()
        {
            return Ok(there(place));
        }
        // Nothing above a directory that was found where it says is a link.
        let last = self.parent.as_ref().filter(|(_, place)| place.is_none());
        let is_no_link = |path: &Path| last.is_some_and(|(known, _)| is_within(known, path));
        let place = resolve_with(directory, |path| if is_no_link(path) { None } else { self.link_at(path) })?;
        let place = if place == Path::new(".") { PathBuf::new() } else { place };
        self.make_room_above(&place)?;
        let place = (place.as_os_str() != directory.as_os_str()).then_some(place);
        let located = there(&place);
        self.parent = Some((directory.to_owned(), place));
        Ok(located)
    }

    /// Returns the text of the symbolic link that this layer has at `path`.
    fn link_at(&self, path: &Path) -> Option<Vec<u8>> {
        let node = match self.node(path)? {
            Node::HardLink { target } => self.node(target)?,
            node => node,
        };
        match node {
            Node::Entry { entry: Entry { kind: Kind::Symlink { target }, .. }, .. } => Some(target.clone()),
            _ => None,
        }
    }

    /// Makes new directories of `directory` and those above it that this layer has removed before.
    fn make_room_above(&mut self, directory: &Path) -> Result<(), Error> {
        if !self.whiteouts {
            return Ok(());
        }
        let removed = directory.ancestors().filter(|path| self.node(path) == Some(&Node::Whiteout));
        let removed: Vec<PathBuf> = removed.map(Path::to_owned).collect();
        removed.iter().rev().try_for_each(|path| self.put_directory(path, &implied_directory()))
    }

    fn put_directory(&mut self, path: &Path, entry: &Entry) -> Result<(), Error> {
        self.index.put(path, entry, None)?;
        self.tree.entry(path, entry, &mut io::empty())?;
        match self.node(path) {
            Some(Node::Entry { opaque: true, .. }) => self.make_opaque(path),
            _ => Ok(()),
        }
    }

    /// The root is made opaque when the layer is settled.
    fn make_opaque(&mut self, directory: &Path) -> Result<(), Error> {
        if directory == Path::new(".") { Ok(()) } else { self.tree.opaque(directory) }
    }
}

impl<T: ChangeSink<Error = Error>> ChangeSink for Unpacker<T> {
    type Error = Error;

    fn entry(&mut self, path: &Path, entry: &Entry, content: &mut dyn BufRead) -> Result<(), Error> {
        let path = &self.locate(path)?;
        if matches!(entry.kind, Kind::Symlink { .. }) || self.node(path).is_some() {
            self.parent = None;
        }
        match entry.kind {
            Kind::Directory => self.put_directory(path, entry),
            Kind::File { .. } => {
                let mut digesting = Digesting { inner: content, state: blake3::Hasher::new(), ahead: 0 };
                self.tree.entry(path, entry, &mut digesting)?;
                self.index.put(path, entry, Some(Content(*digesting.state.finalize().as_bytes())))
            }
            _ => {
                self.index.put(path, entry, None)?;
                self.tree.entry(path, entry, content)
            }
        }
    }

    fn hard_link(&mut self, path: &Path, target: &Path) -> Result<(), Error> {
        let target = self.locate(target)?;
        let path = &self.locate(path)?;
        self.index.hard_link(path, &target)?;
        self.parent = None;
        let Some(Node::HardLink { target }) = self.node(path) else { return Ok(()) };
        let target = target.clone();
        // A target below is copied when the layer is settled.
        if self.node(&target).is_some_and(|node| *node != Node::Whiteout) {
            self.tree.hard_link(path, &target)?;
        }
        Ok(())
    }

    fn whiteout(&mut self, path: &Path) -> Result<(), Error> {
        let path = &self.locate(path)?;
        self.whiteouts = true;
        self.parent = None;
        self.index.whiteout(path)?;
        self.tree.whiteout(path)
    }

    fn opaque(&mut self, directory: &Path) -> Result<(), Error> {
        let directory = &self.locate(directory)?;
        self.make_room_above(directory)?;
        self.index.opaque(directory)?;
        self.make_opaque(directory)
    }
}

/// Takes files in the place of a tree, and drops them.
struct Nowhere;

impl ChangeSink for Nowhere {
    type Error = Error;

    fn entry(&mut self, path: &Path, entry: &Entry, content: &mut dyn BufRead) -> Result<(), Error> {
        let size = if let Kind::File { size } = entry.kind { size } else { 0 };
        write_content(path, size, content, &mut io::sink())
    }

    fn hard_link(&mut self, _path: &Path, _target: &Path) -> Result<(), Error> {
        Ok(())
    }

    fn whiteout(&mut self, _path: &Path) -> Result<(), Error> {
        Ok(())
    }

    fn opaque(&mut self, _directory: &Path) -> Result<(), Error> {
        Ok(())
    }
}

/// Digests a file's bytes on their way to the tree, all at once where they lie together: BLAKE3 is fast that way alone.
struct Digesting<'a> {
    inner: &'a mut dyn BufRead,
    state: blake3::Hasher,
    /// Bytes that are digested, and still to be consumed.
    ahead: usize,
}

impl BufRead for Digesting<'_> {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        let bytes = self.inner.fill_buf()?;
        self.state.update(&bytes[self.ahead.min(bytes.len())..]);
        self.ahead = bytes.len();
        Ok(bytes)
    }

    fn consume(&mut self, count: usize) {
        self.inner.consume(count);
        self.ahead = self.ahead.saturating_sub(count);
    }
}

impl Read for Digesting<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.fill_buf()?.read(buffer)?;
        self.consume(read);
        Ok(read)
    }
}

#[cfg(test)]
mod tests;
