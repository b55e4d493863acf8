//! What a layer contains without its bytes, and a stack of such indexes as one tree.
//!
//! `Path`'s order, component by component, is the depth-first bytewise order in which a layer is written: everything
//! below a directory follows it, before its next sibling.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::{OsStr, OsString};
use std::ops::Bound;
use std::os::unix::ffi::OsStrExt;
use std::path::{Component, Path, PathBuf};
use std::sync::OnceLock;

use crate::entry::{Content, Entry, Kind, Metadata, Mtime, Xattrs};

mod codec;
mod content;
mod relocate;
mod view;
mod writer;

pub use content::ContentDigest;
pub(crate) use relocate::{Relocation, relocate};
pub(crate) use view::resolve_with;
pub use view::{Found, View};
pub use writer::IndexWriter;

/// What one layer says about one path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Node {
    /// The path exists and is described.
    Entry {
        /// Type and metadata.
        entry: Entry,
        /// The digest of the bytes of a regular file, where they were seen.
        content: Option<Content>,
        /// For a directory: everything that the layers below have in it is hidden.
        opaque: bool,
    },
    /// A directory that is opaque but not described: its metadata come from below.
    Opaque,
    /// Another name of `target`, a file of this layer or, when this layer has no such path, of one below.
    HardLink {
        /// The other name; never itself a hard link of this layer.
        target: PathBuf,
    },
    /// The path, and everything under it, is removed from the layers below.
    Whiteout,
}

impl Node {
    fn is_directory(&self) -> bool {
        match self {
            Self::Entry { entry, .. } => entry.kind == Kind::Directory,
            Self::Opaque => true,
            Self::HardLink { .. } | Self::Whiteout => false,
        }
    }

    fn is_opaque(&self) -> bool {
        matches!(self, Self::Opaque | Self::Entry { opaque: true, .. })
    }

    /// Whether what the layers below have *under* this path is hidden.
    fn hides_below(&self) -> bool {
        match self {
            Self::Entry { entry, opaque, .. } => *opaque || entry.kind != Kind::Directory,
            Self::Opaque | Self::HardLink { .. } | Self::Whiteout => true,
        }
    }
}

/// The content of one layer: path → node, sorted. The root is `.`.
///
/// A directory that the layer only implies (it has `usr/bin/x` but no `usr`) has no node: it is transparent, and a
/// [`View`] takes its metadata from below, or else [`implied_directory`].
#[derive(Debug, Clone, Default)]
pub struct LayerIndex {
    nodes: BTreeMap<PathBuf, Node>,
    /// What follows from the nodes, found out when first asked for.
    facts: OnceLock<Facts>,
}

#[derive(Debug, Clone)]
struct Facts {
    undescribed: BTreeSet<PathBuf>,
    has_opaque: bool,
}

impl PartialEq for LayerIndex {
    fn eq(&self, other: &Self) -> bool {
        self.nodes == other.nodes
    }
}

impl Eq for LayerIndex {}

impl From<BTreeMap<PathBuf, Node>> for LayerIndex {
    fn from(nodes: BTreeMap<PathBuf, Node>) -> Self {
        Self { nodes, facts: OnceLock::new() }
    }
}

/// How one layer answers for a path.
enum Answer<'a> {
    Node(&'a Node),
    /// A directory, because the layer has something below it.
    Implied,
    Absent,
}

impl LayerIndex {
    /// Returns all nodes, parents before children, names sorted bytewise.
    pub fn nodes(&self) -> &BTreeMap<PathBuf, Node> {
        &self.nodes
    }

    /// Returns the directories that have no metadata of their own (implied, or [`Node::Opaque`]), parents first.
    /// The root is among them unless the layer describes it.
    pub fn undescribed(&self) -> &BTreeSet<PathBuf> {
        &self.facts().undescribed
    }

    fn facts(&self) -> &Facts {
        self.facts.get_or_init(|| Facts {
            undescribed: self.find_undescribed(),
            has_opaque: self.nodes.values().any(Node::is_opaque),
        })
    }

    fn find_undescribed(&self) -> BTreeSet<PathBuf> {
        let mut found = BTreeSet::new();
        let described = |path: &Path| matches!(self.nodes.get(path), Some(Node::Entry { .. }));
        if !described(Path::new(".")) {
            found.insert(PathBuf::from("."));
        }
        let mut last = Path::new("");
        for (path, node) in &self.nodes {
            if *node == Node::Opaque {
                found.insert(path.clone());
            }
            let parent = path.parent().unwrap_or(Path::new(""));
            if parent == last {
                continue;
            }
            last = parent;
            for directory in parent.ancestors().take_while(|directory| !directory.as_os_str().is_empty()) {
                if described(directory) || !found.insert(directory.to_owned()) {
                    break;
                }
            }
        }
        found
    }

    /// Drops the fractions of seconds, which do not survive in a layer.
    #[cfg(test)]
    pub(crate) fn cut_times(&mut self) {
        for node in self.nodes.values_mut() {
            if let Node::Entry { entry, .. } = node {
                entry.metadata.mtime.nanoseconds = 0;
            }
        }
    }

    fn answer(&self, path: &Path) -> Answer<'_> {
        if is_root(path) {
            return self.nodes.get(Path::new(".")).map_or(Answer::Implied, Answer::Node);
        }
        match self.nodes.range::<Path, _>((Bound::Included(path), Bound::Unbounded)).next() {
            Some((first, node)) if first == path => Answer::Node(node),
            Some((first, _)) if first.starts_with(path) => Answer::Implied,
            _ => Answer::Absent,
        }
    }

    /// Whether a directory above `path` hides what the layers below have at `path`.
    pub(crate) fn hides(&self, path: &Path) -> bool {
        for directory in above(path) {
            let Some(node) = self.nodes.get(directory) else { continue };
            if node.hides_below() {
                return true;
            }
            // Above a directory of a layer there are only directories of it.
            if !self.facts().has_opaque {
                return false;
            }
        }
        false
    }

    /// Calls `each` with the name of everything directly in `directory`, and its node unless it is implied.
    fn each_child(&self, directory: &Path, mut each: impl FnMut(&OsStr, Option<&Node>)) {
        let prefix = if is_root(directory) { Path::new("") } else { directory };
        let depth = prefix.components().count();
        let mut from = Bound::Excluded(if prefix.as_os_str().is_empty() { PathBuf::from(".") } else { prefix.into() });
        'seek: loop {
            let range = self.nodes.range::<Path, _>((from.as_ref().map(PathBuf::as_path), Bound::Unbounded));
            for (path, node) in range {
                if !path.starts_with(prefix) {
                    return;
                }
                let mut rest = path.components().skip(depth);
                let Some(Component::Normal(name)) = rest.next() else { return };
                let whole = rest.next().is_none();
                each(name, whole.then_some(node));
                if !whole || node.is_directory() {
                    // Names hold no NUL, so this sorts after all of the child's tree and before the next name.
                    let mut after = OsString::from(name);
                    after.push(OsStr::from_bytes(b"\0"));
                    from = Bound::Included(prefix.join(after));
                    continue 'seek;
                }
            }
            return;
        }
    }
}

/// The metadata of a directory that no layer describes.
pub fn implied_directory() -> Entry {
    let metadata = Metadata { mode: 0o755, uid: 0, gid: 0, mtime: Mtime::default(), xattrs: Xattrs::new() };
    Entry { kind: Kind::Directory, metadata }
}

fn is_root(path: &Path) -> bool {
    path.as_os_str().is_empty() || path == Path::new(".")
}

/// The directories above `path`, nearest first, with the root as `.`.
fn above(path: &Path) -> impl Iterator<Item = &Path> {
    let named = path.ancestors().skip(1).filter(|path| !path.as_os_str().is_empty());
    named.chain((!is_root(path)).then_some(Path::new(".")))
}

#[cfg(test)]
mod tests;
