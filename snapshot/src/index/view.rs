//! A stack of layers as one tree: look-ups that touch no file system.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt;
use std::path::{Component, Path, PathBuf};
use std::sync::Arc;

use super::{Answer, LayerIndex, Node, implied_directory, is_root, relocate};
use crate::Error;
use crate::entry::{Content, Entry, Kind};

/// The most links that one resolution follows, as in Go's `filepath.EvalSymlinks` and containerd.
const LINKS_MAX: usize = 255;

/// A stack of layers, bottom first, as one tree.
#[derive(Debug, Clone, Default)]
pub struct View {
    layers: Vec<Arc<LayerIndex>>,
}

/// What a [`View`] has at a path.
#[derive(Debug, Clone)]
pub struct Found<'a> {
    /// Type and metadata.
    pub entry: Cow<'a, Entry>,
    /// The digest of a regular file's bytes, where they were seen.
    pub content: Option<Content>,
    /// The layer that has the bytes, counted from the bottom.
    pub layer: usize,
    /// The path in that layer that has the bytes: another one than asked for when that is a hard link.
    pub file: Cow<'a, Path>,
}

impl View {
    /// Stacks `layers`, bottom first.
    pub fn new(layers: Vec<Arc<LayerIndex>>) -> Self {
        let mut view = Self { layers: Vec::with_capacity(layers.len()) };
        for layer in layers {
            view.push(layer);
        }
        view
    }

    /// Puts `layer` on top. What it has in a directory that it only implies, and that is a symbolic link below, goes
    /// where the link leads.
    pub fn push(&mut self, layer: Arc<LayerIndex>) {
        let relocated = if self.layers.is_empty() { None } else { relocate(&layer, self) };
        self.layers.push(relocated.map_or(layer, |relocation| Arc::new(relocation.index)));
    }

    /// Returns the layers, bottom first, as they are in this stack: see [`View::push`].
    pub fn layers(&self) -> &[Arc<LayerIndex>] {
        &self.layers
    }

    /// Returns what is at `path`, a relative path of normal components (the root is `.`). Every component is looked
    /// up literally: see [`View::resolve`] for symbolic links.
    pub fn lookup(&self, path: &Path) -> Option<Found<'_>> {
        self.lookup_below(self.layers.len(), path)
    }

    /// Looks up in the lowest `top` layers.
    fn lookup_below(&self, top: usize, path: &Path) -> Option<Found<'_>> {
        let mut implied = None;
        for (number, layer) in self.layers[..top].iter().enumerate().rev() {
            match layer.answer(path) {
                Answer::Node(Node::Opaque) | Answer::Implied => {
                    implied.get_or_insert(number);
                }
                Answer::Node(node) if implied.is_some() && !node.is_directory() => break,
                Answer::Node(Node::Entry { entry, content, .. }) => {
                    let file = Cow::Owned(path.to_owned());
                    let layer = implied.unwrap_or(number);
                    return Some(Found { entry: Cow::Borrowed(entry), content: *content, layer, file });
                }
                Answer::Node(Node::HardLink { target }) => return self.link_target(number, target),
                Answer::Node(Node::Whiteout) => break,
                Answer::Absent => {}
            }
            if layer.hides(path) {
                break;
            }
        }
        let implied = if is_root(path) { implied.or(Some(0)) } else { implied };
        implied.map(|layer| Found {
            entry: Cow::Owned(implied_directory()),
            content: None,
            layer,
            file: Cow::Owned(path.to_owned()),
        })
    }

    /// Returns the file that a hard link of layer `number` names: in that layer, or else below it.
    fn link_target(&self, number: usize, target: &Path) -> Option<Found<'_>> {
        match self.layers[number].answer(target) {
            Answer::Node(Node::Entry { entry, content, .. }) => Some(Found {
                entry: Cow::Borrowed(entry),
                content: *content,
                layer: number,
                file: Cow::Owned(target.to_owned()),
            }),
            _ => self.lookup_through(number, target),
        }
    }

    /// Looks up in the lowest `top` layers, following the symbolic links above `path` but not one at `path` itself.
    pub(crate) fn lookup_through(&self, top: usize, path: &Path) -> Option<Found<'_>> {
        let (Some(directory), Some(name)) = (path.parent(), path.file_name()) else {
            return self.lookup_below(top, path);
        };
        let directory = resolve_with(directory, |path| self.link_below(top, path)).ok()?;
        let literal = if is_root(&directory) { PathBuf::from(name) } else { directory.join(name) };
        self.lookup_below(top, &literal)
    }

    /// Returns the text of the symbolic link at `path`.
    fn link_below(&self, top: usize, path: &Path) -> Option<Vec<u8>> {
        match &self.lookup_below(top, path)?.entry.kind {
            Kind::Symlink { target } => Some(target.clone()),
            _ => None,
        }
    }

    /// Returns where `path` leads when symbolic links are followed with the view as the root, the last one included:
    /// relative, normalised, `.` for the root. `..` stops at the root; components that do not exist are kept.
    pub fn resolve(&self, path: &Path) -> Result<PathBuf, Error> {
        resolve_with(path, |path| self.link_below(self.layers.len(), path))
    }

    /// Returns the names in the directory `dir`, sorted bytewise; whiteouts and opaque directories are applied.
    pub fn children(&self, dir: &Path) -> Vec<OsString> {
        let mut names: BTreeMap<OsString, bool> = BTreeMap::new();
        for layer in self.layers.iter().rev() {
            let hides = match layer.answer(dir) {
                Answer::Node(node) if !node.is_directory() => break,
                Answer::Node(node) => node.hides_below(),
                Answer::Implied | Answer::Absent => false,
            };
            layer.each_child(dir, |name, node| {
                if !names.contains_key(name) {
                    names.insert(name.to_owned(), node != Some(&Node::Whiteout));
                }
            });
            if hides || layer.hides(dir) {
                break;
            }
        }
        names.into_iter().filter_map(|(name, exists)| exists.then_some(name)).collect()
    }

    /// Walks everything below `dir`, without `dir` itself: depth-first, parents first, names sorted bytewise.
    pub fn walk(&self, dir: &Path) -> impl Iterator<Item = (PathBuf, Found<'_>)> {
        let mut pending = Vec::new();
        self.descend(dir, &mut pending);
        std::iter::from_fn(move || {
            loop {
                let path = pending.pop()?;
                // A child can be missing when it is a hard link whose target the view lacks.
                if let Some(found) = self.lookup(&path) {
                    if found.entry.kind == Kind::Directory {
                        self.descend(&path, &mut pending);
                    }
                    return Some((path, found));
                }
            }
        })
    }

    fn descend(&self, directory: &Path, pending: &mut Vec<PathBuf>) {
        let prefix = if is_root(directory) { Path::new("") } else { directory };
        pending.extend(self.children(directory).into_iter().rev().map(|name| prefix.join(name)));
    }
}

/// Resolves `path` with the targets of symbolic links that `link` knows: see [`View::resolve`].
pub(crate) fn resolve_with(path: &Path, link: impl Fn(&Path) -> Option<Vec<u8>>) -> Result<PathBuf, Error> {
    let mut pending: Vec<OsString> = Vec::new();
    let mut resolved = PathBuf::new();
    let mut links = 0;
    queue(path, &mut pending);
    while let Some(name) = pending.pop() {
        match Path::new(&name).components().next() {
            None | Some(Component::CurDir | Component::Prefix(_)) => {}
            Some(Component::RootDir) => resolved.clear(),
            Some(Component::ParentDir) => {
                resolved.pop();
            }
            Some(Component::Normal(name)) => {
                resolved.push(name);
                let Some(target) = link(&resolved) else { continue };
                links += 1;
                if links > LINKS_MAX {
                    return Err(Error::SymlinkLoop { path: path.to_owned() });
                }
                queue(Path::new(OsStr::from_bytes(&target)), &mut pending);
                resolved.pop();
            }
        }
    }
    Ok(if resolved.as_os_str().is_empty() { PathBuf::from(".") } else { resolved })
}

/// Pushes the components of `path` so that the first one is popped first.
fn queue(path: &Path, pending: &mut Vec<OsString>) {
    pending.extend(path.components().rev().map(|component| component.as_os_str().to_owned()));
}
