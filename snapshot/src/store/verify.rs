//! Comparing what the store keeps with what its names and seals say, byte by byte.

use std::collections::{HashMap, HashSet};
use std::path::Path;
use std::sync::Arc;

use super::{Object, ObjectKind, Store, read_record};
use crate::entry::Kind;
use crate::index::{Found, relocate};
use crate::layer::verify_bundle;
use crate::{Error, IndexWriter, LayerIndex, Node, SnapshotId, View, chain_id, diff};

/// What the snapshots should contain, as far as the store knows their layers.
#[derive(Debug, Default)]
pub struct Expectations(HashMap<String, Expected>);

#[derive(Debug, Clone)]
struct Expected {
    index: Arc<LayerIndex>,
    /// The layers below, where they are known: those of pulled images.
    below: View,
}

impl Store {
    /// Finds the index of each snapshot. That of a step has its name; which layers an image's snapshot stands for follows
    /// from its `chain_id`.
    pub fn expectations(&self, objects: &[Object]) -> Expectations {
        let snapshots: HashSet<&str> =
            objects.iter().filter(|object| object.kind == ObjectKind::Snapshot).map(|o| o.name.as_str()).collect();
        let indexes: Vec<_> = objects
            .iter()
            .filter(|object| object.kind == ObjectKind::Index)
            .filter_map(|object| {
                let index = LayerIndex::decode(&fs_err::read(&object.path).ok()?).ok()?;
                Some((object.digest()?, Arc::new(index)))
            })
            .collect();
        let mut found = HashMap::new();
        let mut pending = Vec::new();
        for (digest, index) in indexes.iter().filter(|(digest, _)| snapshots.contains(digest.digest())) {
            let expected = Expected { index: Arc::clone(index), below: View::default() };
            found.insert(digest.digest().to_owned(), expected.clone());
            pending.push((SnapshotId(digest.clone()), expected));
        }
        while let Some((parent, Expected { index, mut below })) = pending.pop() {
            below.push(index);
            for (diff_id, index) in &indexes {
                let id = chain_id(Some(&parent), diff_id);
                let hex = id.0.digest();
                if snapshots.contains(hex) && !found.contains_key(hex) {
                    let expected = Expected { index: Arc::clone(index), below: below.clone() };
                    found.insert(hex.to_owned(), expected.clone());
                    pending.push((id, expected));
                }
            }
        }
        Expectations(found)
    }

    /// Reads the whole of an object and compares it with what it should be. What was removed meanwhile is right; the
    /// content of a mount is its steps' affair.
    pub fn verify(&self, object: &Object, expectations: &Expectations) -> Result<(), Error> {
        let corrupt = |reason| Error::Corrupt { path: object.path.clone(), reason };
        let digest = || object.digest().ok_or_else(|| corrupt("no digest is so named"));
        let result = match object.kind {
            ObjectKind::Blob => digest().and_then(|digest| self.blobs.verify(&digest).map(drop)),
            ObjectKind::Segments => digest().and_then(|digest| self.segments.verify(&digest)),
            ObjectKind::Bundle => verify_bundle(&object.path),
            ObjectKind::Index => fs_err::read(&object.path)
                .map_err(Error::File)
                .and_then(|bytes| LayerIndex::decode(&bytes).map(drop).map_err(corrupt)),
            ObjectKind::Record | ObjectKind::Tag => {
                read_record(&object.path).map(drop).ok_or_else(|| corrupt("its seal is wrong"))
            }
            ObjectKind::Snapshot => self.verify_snapshot(object, expectations.0.get(&object.name)),
            ObjectKind::ContextDigests | ObjectKind::Mount => Ok(()),
        };
        if fs_err::symlink_metadata(&object.path).is_err() { Ok(()) } else { result }
    }

    fn verify_snapshot(&self, object: &Object, expected: Option<&Expected>) -> Result<(), Error> {
        // After a crash of the machine it counts as absent; nobody will ever use it.
        if !self.snapshots.is_intact(&object.path) {
            let reason = "it was changed after it was made, or a crash of the machine came before it was on the disk";
            return Err(Error::Corrupt { path: object.path.clone(), reason });
        }
        // Another flavour writes down owners and whiteouts in another way.
        let ours = self.snapshots.is_ours(&object.path);
        let Some(Expected { index, below }) = expected.filter(|_| ours) else { return Ok(()) };
        let tree = object.path.join("fs");
        let relocation = relocate(index, below);
        let index = relocation.as_ref().map_or(index.as_ref(), |relocation| &relocation.index);
        let mut found = IndexWriter::default();
        diff::changes(&tree, self.snapshots.flavour(), &View::default(), &mut found)?;
        let found = View::new(vec![Arc::new(found.finish())]);
        let expected = View::new(vec![Arc::new(index.clone())]);
        for (path, node) in index.nodes() {
            let described = match node {
                Node::Entry { .. } => true,
                // The target may lie below; then the snapshot has a copy.
                Node::HardLink { target } => matches!(index.nodes().get(target), Some(Node::Entry { .. })),
                Node::Whiteout | Node::Opaque => false,
            };
            if described && let Some(what) = difference(path, &expected, &found) {
                return Err(Error::OtherTree { snapshot: object.path.clone(), path: path.clone(), what });
            }
        }
        Ok(())
    }
}

/// What of a path is not as expected.
fn difference(path: &Path, expected: &View, found: &View) -> Option<&'static str> {
    let Some(expected) = expected.lookup(path) else { return Some("the layer has no such path") };
    let Some(mut found) = found.lookup(path) else { return Some("it is missing") };
    if path == Path::new(".") {
        // Every change of a tree changes its root's time, so layers do not tell it.
        found.entry.to_mut().metadata.mtime = expected.entry.metadata.mtime;
    }
    if !diff::same(&expected.entry, &found.entry) {
        return Some("its type, size, owner, mode, time or attributes are others");
    }
    let file = matches!(expected.entry.kind, Kind::File { .. });
    let content = |found: &Found<'_>| found.content;
    (file && content(&expected).is_some() && content(&expected) != content(&found)).then_some("its content is another")
}
