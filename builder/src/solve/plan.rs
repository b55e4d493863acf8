//! From the target downwards: what has to run, and what each step has to leave behind.

use std::collections::{HashMap, HashSet};

use crate::cache::Imported;
use crate::graph::{Graph, Op, VertexId};

use super::World;
use super::key::{self, CacheKey, Key};
use super::recall::{self, Found, identity};
use super::source::Wanted;
use super::tree::Tree;

/// What of the cache a vertex may be taken from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Lookup {
    /// What its definition names, before its inputs are known.
    Early,
    /// What was made of inputs like its own, once these are known.
    Late,
    /// Nothing.
    Never,
}

/// By vertex.
#[derive(Debug)]
pub(super) struct Plan {
    /// It has to run, unless the cache has it once its inputs are known.
    pub(super) execute: Vec<bool>,
    /// It need not run, and this is its result, which is used.
    pub(super) found: Vec<Option<Found>>,
    /// Its layer is exported.
    pub(super) layer: Vec<bool>,
    /// Its files are needed in a directory: a RUN stands on it, or a COPY reads from it.
    pub(super) directory: Vec<bool>,
    /// What it contains has to be known, though nobody may need the files: a COPY or a WORKDIR stands on it.
    pub(super) index: Vec<bool>,
    /// What of the cache it may be taken from.
    pub(super) lookup: Vec<Lookup>,
    /// If it is found it is run all the same, and compared.
    pub(super) sampled: Vec<bool>,
    /// The first vertex with its key on its base: that one alone runs, and stands for all of them.
    first: Vec<usize>,
}

impl Plan {
    /// The vertices that stand for the inputs of `id`.
    pub(super) fn inputs(&self, graph: &Graph, id: usize) -> impl Iterator<Item = usize> {
        graph.vertices[id].inputs().map(|input| self.first[input.0])
    }

    /// How many commands run, unless the cache has them once their inputs are known.
    pub(super) fn runs(&self, graph: &Graph) -> usize {
        let vertices = graph.vertices.iter().zip(&self.execute);
        vertices.filter(|(vertex, execute)| **execute && matches!(vertex.op, Op::Run(_))).count()
    }

    /// The vertices that were found, though what they were made of is made anew, or was by now.
    fn stale(&self, graph: &Graph, trees: &[Tree]) -> Vec<usize> {
        let mut identities: Vec<Option<String>> = Vec::with_capacity(trees.len());
        let mut stale = Vec::new();
        for (id, vertex) in graph.vertices.iter().enumerate() {
            let standing = |input: VertexId| self.first[input.0];
            let own = match (&vertex.op, &self.found[id]) {
                (Op::Scratch | Op::Source(_), _) => trees[id].identity(),
                (_, Some(found)) => {
                    let inputs = key::inputs(vertex).into_iter().map(|input| standing(input.id));
                    let rerun = |&input: &usize| {
                        self.execute[input] && !matches!(graph.vertices[input].op, Op::Scratch | Op::Source(_))
                    };
                    let inputs: Vec<usize> = inputs.collect();
                    let known: Vec<Option<String>> = inputs.iter().map(|&input| identities[input].clone()).collect();
                    if inputs.iter().any(rerun) || !found.stands_on(&known) {
                        stale.push(id);
                    }
                    let base = vertex.base.and_then(|base| identities[standing(base)].clone());
                    base.map(|base| identity(&base, &found.record.made))
                }
                (_, None) => None,
            };
            identities.push(own);
        }
        stale
    }
}

/// By vertex, the first one with its key and on its base: the key of a `COPY --link` says nothing of what it is on.
pub(super) fn firsts(graph: &Graph, keys: &[Key]) -> Vec<usize> {
    let mut known = HashMap::new();
    let mut firsts: Vec<usize> = Vec::with_capacity(keys.len());
    for (id, (vertex, key)) in graph.vertices.iter().zip(keys).enumerate() {
        let base = vertex.base.map(|base| firsts[base.0]);
        firsts.push(*known.entry((&key.definition, base)).or_insert(id));
    }
    firsts
}

/// Plans, and gives the trees what was found.
///
/// A step that is found is taken only on what it was made of: where that has to be made anew, the step waits for it and
/// is looked up again.
pub(super) fn plan(graph: &Graph, keys: &[Key], trees: &[Tree], world: &World<'_>) -> Plan {
    let mut lookup: Vec<Lookup> = Vec::with_capacity(trees.len());
    for vertex in &graph.vertices {
        let below = vertex.inputs().any(|input| lookup[input.0] != Lookup::Early);
        lookup.push(world.options.lookup(&vertex.name).max(if below { Lookup::Late } else { Lookup::Early }));
    }
    let sampled: Vec<bool> = graph.vertices.iter().map(|vertex| is_step(&vertex.op) && is_drawn(world)).collect();
    let mut imports = Imports::default();
    loop {
        let plan = attempt(graph, keys, trees, world, (lookup, &sampled, &imports.found));
        if imports.ask(world, graph, keys, &plan) {
            lookup = plan.lookup;
            continue;
        }
        let stale = plan.stale(graph, trees);
        if stale.is_empty() {
            for (tree, found) in trees.iter().zip(&plan.found) {
                if let Some(found) = found {
                    tree.accept(world, found);
                }
            }
            return plan;
        }
        lookup = plan.lookup;
        for id in stale {
            lookup[id] = lookup[id].max(Lookup::Late);
        }
    }
}

/// What other caches than the store were asked for.
#[derive(Default)]
struct Imports {
    asked: HashSet<usize>,
    found: HashMap<CacheKey, Imported>,
}

impl Imports {
    /// Asks for what would have to run, all at once; says whether something was found.
    fn ask(&mut self, world: &World<'_>, graph: &Graph, keys: &[Key], plan: &Plan) -> bool {
        let step = |id: usize| is_step(&graph.vertices[id].op);
        let wanted = |id: &usize| plan.execute[*id] && plan.lookup[*id] == Lookup::Early && step(*id);
        let new: Vec<usize> = (0..keys.len()).filter(wanted).filter(|id| self.asked.insert(*id)).collect();
        let new: Vec<&CacheKey> = new.into_iter().map(|id| &keys[id].definition).collect();
        let found = world.caches.find(world, &new);
        let some = !found.is_empty();
        self.found.extend(found);
        some
    }
}

/// A vertex's inputs precede it, so one walk from the end sees every need before the vertex that meets it.
fn attempt(
    graph: &Graph,
    keys: &[Key],
    trees: &[Tree],
    world: &World<'_>,
    (lookup, sampled, imports): (Vec<Lookup>, &[bool], &HashMap<CacheKey, Imported>),
) -> Plan {
    let none = vec![false; graph.vertices.len()];
    let found = graph.vertices.iter().map(|_| None).collect();
    let (execute, layer, directory, index) = (none.clone(), none.clone(), none.clone(), none);
    let (sampled, first) = (sampled.to_vec(), firsts(graph, keys));
    let mut plan = Plan { execute, found, layer, directory, index, lookup, sampled, first };
    let (target, exported) = (plan.first[graph.target.0], world.options.export_layers);
    plan.layer[target] = exported;
    plan.directory[target] = !exported;
    for id in (0..graph.vertices.len()).rev() {
        let vertex = &graph.vertices[id];
        let (layer, directory, index) = (plan.layer[id], plan.directory[id], plan.index[id]);
        if let Some(base) = vertex.base {
            let base = plan.first[base.0];
            plan.layer[base] |= layer;
            plan.directory[base] |= directory;
            plan.index[base] |= index;
        }
        if !layer && !directory && !index {
            continue;
        }
        let hit = match &vertex.op {
            Op::Scratch => true,
            // Steps will stand on it: what they need besides is prepared while its files are looked at.
            Op::Source(_) if directory => std::thread::scope(|scope| {
                scope.spawn(|| world.executor.warm());
                trees[id].has(Wanted::Directory, world)
            }),
            Op::Source(_) => !index || trees[id].has(Wanted::Index, world),
            Op::Copy(_) | Op::Mkdir(_) | Op::Run(_) => {
                if plan.lookup[id] == Lookup::Early {
                    let key = &keys[id].definition;
                    let here = recall::find(world, key, layer && needs_blob(&vertex.op));
                    plan.found[id] = here.or_else(|| imports.get(key).cloned().map(Found::from));
                }
                plan.found[id].is_some()
            }
        };
        plan.execute[id] = !hit;
        // What is run all the same needs what it is made of.
        if hit && !plan.sampled[id] {
            continue;
        }
        plan.layer[id] |= !hit && world.caches.keeps_all();
        for input in vertex.from.iter().map(|from| plan.first[from.0]) {
            plan.directory[input] = true;
        }
        let Some(base) = vertex.base.map(|base| plan.first[base.0]) else { continue };
        match onto(&vertex.op) {
            Onto::Nothing => {}
            Onto::Index => plan.index[base] = true,
            Onto::Files => plan.directory[base] = true,
        }
    }
    plan
}

/// Whether a vertex is something to be done.
fn is_step(op: &Op) -> bool {
    !matches!(op, Op::Scratch | Op::Source(_))
}

/// Whether a step is in the sample of `--cache-verify`: other ones in each build.
fn is_drawn(world: &World<'_>) -> bool {
    let share = u64::from(world.options.verify);
    let mut random = [0; 8];
    share > 0 && getrandom::fill(&mut random).is_ok_and(|()| u64::from_le_bytes(random) % 100 < share)
}

/// What a step needs to know of its base.
enum Onto {
    Nothing,
    Index,
    Files,
}

/// A COPY looks where its destination leads, unless it is to depend on nothing; the numbers of a name are in files.
fn onto(op: &Op) -> Onto {
    match op {
        Op::Copy(op) if key::looks_up_names(op) => Onto::Files,
        Op::Copy(op) if op.link => Onto::Nothing,
        Op::Mkdir(op) if !op.user.is_empty() => Onto::Files,
        Op::Copy(_) | Op::Mkdir(_) => Onto::Index,
        Op::Run(_) => Onto::Files,
        Op::Scratch | Op::Source(_) => Onto::Nothing,
    }
}

/// Whether the layer of a step has to be there as a blob, where it is exported. The blob of a COPY comes from its sources,
/// not from its directory: the bytes would differ.
pub(super) fn needs_blob(op: &Op) -> bool {
    matches!(op, Op::Copy(_) | Op::Mkdir(_))
}
