//! From the target downwards: what has to run, and what each step has to leave behind.

use std::collections::HashMap;

use crate::graph::{Graph, Op};

use super::World;
use super::key::CacheKey;
use super::tree::Tree;

/// By vertex.
#[derive(Debug)]
pub(super) struct Plan {
    /// It has to run.
    pub(super) execute: Vec<bool>,
    /// It need not run, and its result is used.
    pub(super) cached: Vec<bool>,
    /// Its layer is exported.
    pub(super) layer: Vec<bool>,
    /// Its files are needed in a directory: a RUN stands on it, or a COPY reads from it.
    pub(super) directory: Vec<bool>,
    /// The first vertex with its key on its base: that one alone runs, and stands for all of them.
    first: Vec<usize>,
}

impl Plan {
    /// The vertices that stand for the inputs of `id`.
    pub(super) fn inputs(&self, graph: &Graph, id: usize) -> impl Iterator<Item = usize> {
        graph.vertices[id].inputs().map(|input| self.first[input.0])
    }
}

/// By vertex, the first one with its key and on its base: the key of a `COPY --link` says nothing of what it is on.
pub(super) fn firsts(graph: &Graph, keys: &[CacheKey]) -> Vec<usize> {
    let mut known = HashMap::new();
    let mut firsts: Vec<usize> = Vec::with_capacity(keys.len());
    for (id, (vertex, key)) in graph.vertices.iter().zip(keys).enumerate() {
        let base = vertex.base.map(|base| firsts[base.0]);
        firsts.push(*known.entry((key, base)).or_insert(id));
    }
    firsts
}

/// Plans. A vertex's inputs precede it, so one walk from the end sees every need before the vertex that meets it.
pub(super) fn plan(graph: &Graph, keys: &[CacheKey], trees: &[Tree], world: &World<'_>) -> Plan {
    let none = vec![false; graph.vertices.len()];
    let (execute, cached, layer, directory) = (none.clone(), none.clone(), none.clone(), none);
    let mut plan = Plan { execute, cached, layer, directory, first: firsts(graph, keys) };
    let (target, exported) = (plan.first[graph.target.0], world.options.export_layers);
    plan.layer[target] = exported;
    plan.directory[target] = !exported;
    for id in (0..graph.vertices.len()).rev() {
        let vertex = &graph.vertices[id];
        let (layer, directory) = (plan.layer[id], plan.directory[id]);
        if let Some(base) = vertex.base {
            let base = plan.first[base.0];
            plan.layer[base] |= layer;
            plan.directory[base] |= directory;
        }
        if !layer && !directory {
            continue;
        }
        let hit = match &vertex.op {
            Op::Scratch => true,
            Op::Source(_) => !directory || trees[id].is_unpacked(world),
            // The blob of a COPY comes from its sources, not from its directory: the bytes would differ.
            Op::Copy(_) | Op::Mkdir(_) => trees[id].recall(world, layer),
            Op::Run(_) => trees[id].recall(world, false),
        };
        plan.cached[id] = hit && !matches!(vertex.op, Op::Scratch | Op::Source(_));
        plan.execute[id] = !hit;
        if hit {
            continue;
        }
        // A COPY looks at the tree that it copies onto (its index comes from unpacking) and reads the one it copies from.
        let inputs: Vec<usize> = plan.inputs(graph, id).collect();
        for input in inputs {
            plan.directory[input] = true;
        }
    }
    plan
}
