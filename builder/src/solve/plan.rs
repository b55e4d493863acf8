//! From the target downwards: what has to run, and what each step has to leave behind.

use crate::graph::{Graph, Op};

use super::World;
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
}

/// Plans. A vertex's inputs precede it, so one walk from the end sees every need before the vertex that meets it.
pub(super) fn plan(graph: &Graph, trees: &[Tree], world: &World<'_>) -> Plan {
    let none = vec![false; graph.vertices.len()];
    let mut plan = Plan { execute: none.clone(), cached: none.clone(), layer: none.clone(), directory: none };
    let (target, exported) = (graph.target.0, world.options.export_layers);
    plan.layer[target] = exported;
    plan.directory[target] = !exported;
    for id in (0..graph.vertices.len()).rev() {
        let vertex = &graph.vertices[id];
        let (layer, directory) = (plan.layer[id], plan.directory[id]);
        if let Some(base) = vertex.base {
            plan.layer[base.0] |= layer;
            plan.directory[base.0] |= directory;
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
        for input in vertex.inputs() {
            plan.directory[input.0] = true;
        }
    }
    plan
}
