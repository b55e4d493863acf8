//! Changes → [`LayerIndex`], whatever order they come in.

use std::collections::{BTreeMap, HashMap};
use std::io::BufRead;
use std::ops::Bound;
use std::path::{Path, PathBuf};

use super::{LayerIndex, Node, above, implied_directory, is_root};
use crate::entry::{Content, Entry, Kind};
use crate::path::{is_within, split};
use crate::sink::write_content;
use crate::{ChangeSink, Error};

/// A [`ChangeSink`] that keeps only the index.
///
/// It settles what order and repetition mean, as the OCI image spec (layer.md) has it: of two entries for one path the
/// later one stands, directories merge, and a whiteout never removes what its own layer brings.
#[derive(Debug, Default)]
pub struct IndexWriter {
    index: LayerIndex,
    /// Entries that came in order, after all that `index` has: most of most layers. A map of them is made once.
    tail: Vec<(PathBuf, Node)>,
    /// The links of this layer by their target, so that a target can be replaced without losing its bytes.
    links: HashMap<PathBuf, Vec<PathBuf>>,
    /// A directory whose ancestors are known to be directories: most changes have the same one as the last.
    checked: Option<PathBuf>,
}

impl IndexWriter {
    /// Returns the index.
    pub fn finish(mut self) -> LayerIndex {
        // Maps are built of what is sorted, and put together, without a search for each.
        self.index.nodes.append(&mut self.tail.into_iter().collect::<BTreeMap<_, _>>());
        self.index.nodes.into()
    }

    /// Returns what the layer has at `path` so far.
    pub(crate) fn node(&self, path: &Path) -> Option<&Node> {
        match self.tail.last() {
            Some((last, _)) if last.as_path() < path => None,
            Some(_) => {
                let found = self.tail.binary_search_by(|(other, _)| other.as_path().cmp(path));
                found.map_or_else(|_| self.index.nodes.get(path), |at| Some(&self.tail[at].1))
            }
            None => self.index.nodes.get(path),
        }
    }

    /// Moves the tail into the map, for changes that may concern any of it.
    fn settle(&mut self) {
        self.index.nodes.extend(self.tail.drain(..));
    }

    /// Whether `path` comes after all that there is.
    fn is_next(&self, path: &Path) -> bool {
        let last = match self.tail.last() {
            Some((last, _)) => Some(last),
            None => self.index.nodes.last_key_value().map(|(last, _)| last),
        };
        last.is_none_or(|last| last.as_path() < path) && !is_root(path)
    }

    /// Adds or replaces `path`, whose bytes, if it is a regular file, have the digest `content`.
    pub fn put(&mut self, path: &Path, entry: &Entry, content: Option<Content>) -> Result<(), Error> {
        self.make_room_above(path)?;
        self.refuse_late_target(path)?;
        let entry = entry.clone();
        if self.is_next(path) {
            self.tail.push((path.to_owned(), Node::Entry { entry, content, opaque: false }));
            return Ok(());
        }
        self.settle();
        if entry.kind != Kind::Directory {
            if is_root(path) {
                return Err(Error::NotDirectory { path: path.to_owned() });
            }
            self.clear(path);
            self.index.nodes.insert(path.to_owned(), Node::Entry { entry, content, opaque: false });
            return Ok(());
        }
        // A directory that takes the place of something else is a new one: nothing from below shows in it.
        let opaque = self.index.nodes.get(path).is_some_and(Node::hides_below);
        if self.index.nodes.get(path).is_some_and(|node| !node.is_directory()) {
            self.clear(path);
        }
        self.index.nodes.insert(path.to_owned(), Node::Entry { entry, content: None, opaque });
        Ok(())
    }

    /// Makes sure that everything above `path` is a directory in this layer, or nothing.
    fn make_room_above(&mut self, path: &Path) -> Result<(), Error> {
        let parent = split(path).map(|(parent, _)| parent);
        if self.checked.as_deref().map(Path::as_os_str) == parent.map(Path::as_os_str) {
            return Ok(());
        }
        let checked = self.checked.take();
        let is_checked = |directory: &&Path| checked.as_ref().is_some_and(|checked| is_within(checked, directory));
        for directory in above(path).filter(|directory| !is_checked(directory)) {
            match self.node(directory) {
                None => {}
                Some(node) if node.is_directory() => {}
                // The tail has entries alone.
                Some(Node::Whiteout) => _ = self.index.nodes.insert(directory.to_owned(), new_directory()),
                Some(_) => return Err(Error::NotDirectory { path: directory.to_owned() }),
            }
        }
        self.checked = parent.map(Path::to_owned);
        Ok(())
    }

    /// Refuses a path that an earlier link took from the layers below: the index could not tell the two apart.
    fn refuse_late_target(&self, path: &Path) -> Result<(), Error> {
        if self.links.is_empty() {
            return Ok(());
        }
        match self.links.get(path).and_then(|links| links.first()) {
            Some(link) if self.node(path).is_none() => {
                Err(Error::LinkTarget { path: link.clone(), target: path.to_owned() })
            }
            _ => Ok(()),
        }
    }

    /// Forgets what this layer has at `path` and below, but not the bytes that other names still have.
    fn clear(&mut self, path: &Path) {
        let below = self.index.nodes.range::<Path, _>((Bound::Included(path), Bound::Unbounded));
        let doomed: Vec<PathBuf> =
            below.take_while(|(other, _)| other.starts_with(path)).map(|(other, _)| other.clone()).collect();
        for path in &doomed {
            match self.index.nodes.remove(path) {
                Some(Node::HardLink { target }) => {
                    if let Some(links) = self.links.get_mut(&target) {
                        links.retain(|link| link != path);
                    }
                }
                Some(node) => self.promote(path, node),
                None => {}
            }
        }
        if !doomed.is_empty() {
            self.checked = None;
        }
    }

    /// Hands a removed entry to the first of its links, to which the others then point.
    fn promote(&mut self, path: &Path, node: Node) {
        let Some(mut links) = self.links.remove(path) else { return };
        if links.is_empty() {
            return;
        }
        let heir = links.remove(0);
        self.index.nodes.insert(heir.clone(), node);
        for link in &links {
            self.index.nodes.insert(link.clone(), Node::HardLink { target: heir.clone() });
        }
        self.links.insert(heir, links);
    }

    fn has_below(&self, path: &Path) -> bool {
        let mut below = self.index.nodes.range::<Path, _>((Bound::Excluded(path), Bound::Unbounded));
        below.next().is_some_and(|(next, _)| next.starts_with(path))
    }
}

impl ChangeSink for IndexWriter {
    type Error = Error;

    fn entry(&mut self, path: &Path, entry: &Entry, content: &mut dyn BufRead) -> Result<(), Error> {
        let mut digest = None;
        if let Kind::File { size } = entry.kind {
            let mut state = blake3::Hasher::new();
            write_content(path, size, content, &mut state)?;
            digest = Some(Content(*state.finalize().as_bytes()));
        }
        self.put(path, entry, digest)
    }

    fn hard_link(&mut self, path: &Path, target: &Path) -> Result<(), Error> {
        let refused = || Error::LinkTarget { path: path.to_owned(), target: target.to_owned() };
        self.settle();
        let target = match self.index.nodes.get(target) {
            Some(Node::HardLink { target }) => target.clone(),
            Some(Node::Entry { entry, .. }) if entry.kind != Kind::Directory => target.to_owned(),
            Some(_) => return Err(refused()),
            None => target.to_owned(),
        };
        if target == path {
            return if self.index.nodes.contains_key(path) { Ok(()) } else { Err(refused()) };
        }
        if is_root(path) || is_root(&target) || target.starts_with(path) {
            return Err(refused());
        }
        self.make_room_above(path)?;
        self.refuse_late_target(path)?;
        self.clear(path);
        self.links.entry(target.clone()).or_default().push(path.to_owned());
        self.index.nodes.insert(path.to_owned(), Node::HardLink { target });
        Ok(())
    }

    fn whiteout(&mut self, path: &Path) -> Result<(), Error> {
        if is_root(path) {
            return Err(Error::NotDirectory { path: path.to_owned() });
        }
        self.settle();
        self.make_room_above(path)?;
        let below = self.has_below(path);
        match self.index.nodes.get_mut(path) {
            Some(Node::Entry { entry, opaque, .. }) => *opaque = entry.kind == Kind::Directory,
            Some(Node::HardLink { .. } | Node::Whiteout) => {}
            other => {
                let node = if below || other.is_some() { new_directory() } else { Node::Whiteout };
                self.index.nodes.insert(path.to_owned(), node);
                self.checked = None;
            }
        }
        Ok(())
    }

    fn opaque(&mut self, directory: &Path) -> Result<(), Error> {
        self.settle();
        self.make_room_above(directory)?;
        match self.index.nodes.get_mut(directory) {
            Some(Node::Entry { entry, opaque, .. }) if entry.kind == Kind::Directory => *opaque = true,
            Some(Node::Opaque) => {}
            Some(node) if *node == Node::Whiteout => *node = new_directory(),
            Some(_) => return Err(Error::NotDirectory { path: directory.to_owned() }),
            None => {
                self.index.nodes.insert(directory.to_owned(), Node::Opaque);
            }
        }
        Ok(())
    }
}

/// A directory that takes the place of one that is removed.
fn new_directory() -> Node {
    Node::Entry { entry: implied_directory(), content: None, opaque: true }
}
