//! What a layer contains without its bytes, and a stack of such indexes as one tree.
use std::borrow::Cow;
use std::collections::BTreeMap;
use std::ffi::OsString;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::{ChangeSink, Content, Entry, Error};

/// What one layer says about one path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Node {
    /// The path with its metadata.
    Entry {
        /// Type and metadata.
        entry: Entry,
        /// Digest of the bytes, for regular files whose bytes were seen.
        content: Option<Content>,
        /// For a directory: hides what lower layers have in it.
        opaque: bool,
    },
    /// A directory that is opaque without being described.
    Opaque,
    /// Another name of `target`.
    HardLink {
        /// In this layer, or in one below.
        target: PathBuf,
    },
    /// Removes the path of the layers below.
    Whiteout,
}
/// One layer.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct LayerIndex {}
impl LayerIndex {
    /// All nodes, sorted.
    pub fn nodes(&self) -> &BTreeMap<PathBuf, Node> {
        todo!()
    }
    /// Serialises.
    pub fn encode(&self) -> Vec<u8> {
        todo!()
    }
    /// Deserialises.
    pub fn decode(_bytes: &[u8]) -> Result<Self, &'static str> {
        todo!()
    }
}
/// A [`ChangeSink`] that keeps only the index.
#[derive(Debug, Default)]
pub struct IndexWriter {}
impl IndexWriter {
    /// Returns the index.
    pub fn finish(self) -> LayerIndex {
        todo!()
    }
}
impl ChangeSink for IndexWriter {
    type Error = Error;
    fn entry(&mut self, _path: &Path, _entry: &Entry, _content: &mut dyn Read) -> Result<(), Error> {
        todo!()
    }
    fn hard_link(&mut self, _path: &Path, _target: &Path) -> Result<(), Error> {
        todo!()
    }
    fn whiteout(&mut self, _path: &Path) -> Result<(), Error> {
        todo!()
    }
    fn opaque(&mut self, _directory: &Path) -> Result<(), Error> {
        todo!()
    }
}
/// What a [`View`] has at a path.
#[derive(Debug, Clone)]
pub struct Found<'a> {
    /// Type and metadata.
    pub entry: Cow<'a, Entry>,
    /// Digest of the bytes.
    pub content: Option<Content>,
    /// Which layer, counted from the bottom, has the bytes.
    pub layer: usize,
    /// The path in that layer that has the bytes.
    pub file: Cow<'a, Path>,
}
/// A stack of layers, bottom first.
#[derive(Debug, Clone, Default)]
pub struct View {}
impl View {
    /// Stacks `layers`, bottom first.
    pub fn new(_layers: Vec<Arc<LayerIndex>>) -> Self {
        todo!()
    }
    /// Puts `layer` on top.
    pub fn push(&mut self, _layer: Arc<LayerIndex>) {
        todo!()
    }
    /// The layers, bottom first.
    pub fn layers(&self) -> &[Arc<LayerIndex>] {
        todo!()
    }
    /// Literal look-up.
    pub fn lookup(&self, _path: &Path) -> Option<Found<'_>> {
        todo!()
    }
    /// Follows symlinks inside the root.
    pub fn resolve(&self, _path: &Path) -> Result<PathBuf, Error> {
        todo!()
    }
    /// Names in `dir`, sorted.
    pub fn children(&self, _dir: &Path) -> Vec<OsString> {
        todo!()
    }
    /// Everything below `dir` (not `dir` itself), parents first.
    pub fn walk(&self, _dir: &Path) -> impl Iterator<Item = (PathBuf, Found<'_>)> {
        std::iter::empty()
    }
}
