//! Implied directories where the layers below have a symbolic link.
//!
//! A layer that has `bin/tool` but no `bin`, on top of one where `bin` is a link to `usr/bin`, means `usr/bin/tool`:
//! whoever extracts one layer over the other follows the link, and overlayfs would not.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use super::{IndexWriter, LayerIndex, Node, View};
use crate::ChangeSink;
use crate::entry::Kind;

/// A layer as it is on top of certain others.
pub(crate) struct Relocation {
    /// Its index, in which every path is where it leads.
    pub(crate) index: LayerIndex,
    /// The nodes that have moved, from where to where, parents first.
    pub(crate) moved: Vec<(PathBuf, PathBuf)>,
    /// The directories that are only implied no more.
    pub(crate) emptied: Vec<PathBuf>,
}

/// Finds out where the paths of `index` lead on top of `below`; `None` when all are where they say, which is usual.
///
/// Also `None` when two of them would lead to one place: then the directory covers the link, as one that the layer
/// describes would.
pub(crate) fn relocate(index: &LayerIndex, below: &View) -> Option<Relocation> {
    let mut places = HashMap::new();
    for directory in index.undescribed().iter().filter(|directory| *directory != Path::new(".")) {
        let hidden = index.nodes.get(directory) == Some(&Node::Opaque) || index.hides(directory);
        let above = directory.parent()?;
        let literal = place(&places, above).join(directory.file_name().unwrap_or_default());
        let leads = if hidden { literal } else { follow(below, literal) };
        if leads != *directory {
            places.insert(directory.clone(), leads);
        }
    }
    if places.is_empty() {
        return None;
    }
    let relocation = rebuild(index, &places)?;
    let mut emptied: Vec<PathBuf> = places.into_keys().collect();
    emptied.sort_unstable();
    emptied.dedup_by(|lower, upper| lower.starts_with(upper));
    Some(Relocation { emptied, ..relocation })
}

/// Returns where a directory leads: the nearest one above it that has moved decides.
fn place(places: &HashMap<PathBuf, PathBuf>, directory: &Path) -> PathBuf {
    for above in directory.ancestors() {
        if let Some(place) = places.get(above) {
            let rest = directory.strip_prefix(above).unwrap_or(Path::new(""));
            return if rest.as_os_str().is_empty() { place.clone() } else { place.join(rest) };
        }
    }
    directory.to_owned()
}

/// Follows the link that the layers below have at `directory`, if it leads to a directory or to nothing.
fn follow(below: &View, directory: PathBuf) -> PathBuf {
    let is_link = |path: &Path| {
        let found = below.lookup(path);
        found.is_some_and(|found| matches!(found.entry.kind, Kind::Symlink { .. }))
    };
    if !is_link(&directory) {
        return directory;
    }
    match below.resolve(&directory) {
        Ok(leads) if below.lookup(&leads).is_none_or(|found| found.entry.kind == Kind::Directory) => {
            if leads == Path::new(".") { PathBuf::new() } else { leads }
        }
        _ => directory,
    }
}

/// Writes the index again with every path where it leads: what stays first, then what moves, links last.
fn rebuild(index: &LayerIndex, places: &HashMap<PathBuf, PathBuf>) -> Option<Relocation> {
    let leads = |path: &Path| match (path.parent(), path.file_name()) {
        (Some(above), Some(name)) => place(places, above).join(name),
        _ => path.to_owned(),
    };
    let mut writer = IndexWriter::default();
    let mut moved = Vec::new();
    let mut links = Vec::new();
    for (path, node) in &index.nodes {
        let to = leads(path);
        if let Node::HardLink { target } = node {
            links.push((to.clone(), leads(target)));
        }
        if to != *path {
            moved.push((path.clone(), to));
        } else if !matches!(node, Node::HardLink { .. }) {
            put(&mut writer, &to, node)?;
        }
    }
    for (from, to) in &moved {
        match index.nodes.get(from)? {
            Node::HardLink { .. } => {}
            node => put(&mut writer, to, node)?,
        }
    }
    for (path, target) in links {
        if writer.node(&path).is_some() {
            return None;
        }
        writer.hard_link(&path, &target).ok()?;
    }
    let rebuilt = writer.finish();
    let same = |(path, node): (&PathBuf, &Node)| {
        let there = rebuilt.nodes.get(&leads(path));
        let is_link = matches!(node, Node::HardLink { .. });
        there.is_some_and(|there| is_link || there == node || (there.is_directory() && node.is_directory()))
    };
    index.nodes.iter().all(same).then_some(Relocation { index: rebuilt, moved, emptied: Vec::new() })
}

/// Adds a node; `None` when something else is there.
fn put(writer: &mut IndexWriter, path: &Path, node: &Node) -> Option<()> {
    let there = writer.node(path);
    if there.is_some_and(|there| !(there.is_directory() && node.is_directory())) {
        return None;
    }
    match node {
        Node::Entry { entry, content, opaque } => {
            writer.put(path, entry, *content).ok()?;
            if *opaque { writer.opaque(path).ok() } else { Some(()) }
        }
        Node::Opaque => writer.opaque(path).ok(),
        Node::Whiteout => writer.whiteout(path).ok(),
        Node::HardLink { target } => writer.hard_link(path, target).ok(),
    }
}
