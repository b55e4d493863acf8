//! What the inputs of a step contain, as its content key wants it: answered by indexes, no file is opened.

use std::path::Path;

use snapshot::{ContentDigest, View};

use crate::graph::{Op, Vertex};

use super::error::Cause;
use super::key::{self, CacheKey, Key, Part};
use super::tree::Tree;
use super::{World, mounts, select};

/// How far to go for an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Effort {
    /// Only what is known.
    Known,
    /// Makes the indexes that are missing, which may read what a step wrote.
    Full,
}

/// The content key of a vertex; none when what its inputs contain is not known.
pub(super) fn key(
    world: &World<'_>,
    vertex: &Vertex,
    key: &Key,
    trees: &[Tree],
    effort: Effort,
) -> Result<Option<CacheKey>, Cause> {
    let mut values = Vec::new();
    for input in key::inputs(vertex) {
        let tree = &trees[input.id.0];
        let value = match input.part {
            None => tree.content(world, effort)?,
            Some(_) if effort == Effort::Known && !tree.is_indexed(world) => None,
            Some(part) => digest(&tree.view(world)?, vertex, part)?,
        };
        let Some(value) = value else { return Ok(None) };
        values.push((input.name(), value));
    }
    Ok(Some(key.own.key("content", &values)))
}

/// The content of a part of a tree.
fn digest(view: &View, vertex: &Vertex, part: Part<'_>) -> Result<Option<String>, Cause> {
    let mut digest = ContentDigest::default();
    match (part, &vertex.op) {
        (Part::Copied(pattern), Op::Copy(op)) => {
            let chosen = select::in_tree(view, op, pattern)?;
            for selected in &chosen.matches {
                digest.text(selected.name.as_encoded_bytes());
                select::walk(view, selected, &chosen.rules, &mut |path, found| {
                    digest.entry(path, &found.entry, found.content);
                    Ok(())
                })?;
            }
        }
        (Part::Mounted(source) | Part::Copied(source), _) => {
            let at = mounts::find(view, source)?;
            if let Some(found) = view.lookup(&at) {
                digest.entry(Path::new(""), &found.entry, found.content);
            }
            for (path, found) in view.walk(&at) {
                digest.entry(path.strip_prefix(&at).unwrap_or(&path), &found.entry, found.content);
            }
        }
    }
    Ok(digest.finish())
}
