//! Graph → result: which steps the cache has, which must run, and running those.
//!
//! The only place that knows both the graph and the world. In order: [`key`] names every vertex, `plan` asks the
//! cache from the target downwards what has to run, [`scheduler`] runs it in parallel, one module an operation:
//! `source`, `run`, `copy`, `mkdir`. What a vertex leaves behind is a [`tree::Tree`] of layers whose
//! directory, index and blob are made when something asks for them and not before.

mod agent;
pub mod cache;
mod cache_mount;
mod copy;
mod destination;
mod error;
mod flatten;
pub mod key;
mod mkdir;
mod mounts;
mod plan;
mod run;
pub mod scheduler;
mod select;
mod source;
pub mod tree;
pub mod whole;

use std::collections::{BTreeMap, HashSet};
use std::path::Path;
use std::sync::mpsc;

use snapshot::{Compression, NamedLock, Store};

use crate::context::{LocalContext, Memo};
use crate::contexts::NamedTree;
use crate::grants::Grants;
use crate::graph::{CopyOp, Graph, Op, Vertex, VertexId};
use crate::progress::Reporter;
use crate::remote::Remotes;
use crate::sandbox::{Cancel, Executor, RootEmulation, Settings};
use crate::secrets::Needles;

pub use error::{Cause, SolveError};
use key::CacheKey;
use plan::Plan;
use run::Trees;
pub(crate) use run::try_out;
pub(crate) use source::fetch;
use tree::Tree;
use whole::Wholes;

/// What solving works with.
#[derive(Clone, Copy)]
pub struct World<'a> {
    /// Layers, snapshots, records.
    pub store: &'a Store,
    /// The trees of stages, where layers cannot be stacked.
    pub wholes: &'a Wholes,
    /// The registries.
    pub client: &'a registry::Client,
    /// What runs commands.
    pub executor: &'a dyn Executor,
    /// The build context.
    pub context: &'a LocalContext,
    /// Contexts with names.
    pub contexts: &'a BTreeMap<String, NamedTree>,
    /// Git repositories and downloads.
    pub remotes: &'a Remotes,
    /// Digests of context files that did not change.
    pub memo: &'a Memo,
    /// Where events go.
    pub reporter: &'a Reporter<'a>,
    /// Ends every step.
    pub cancel: &'a Cancel,
    /// Choices of the caller.
    pub options: &'a Options,
    /// What the caller lets steps have.
    pub grants: &'a Grants,
    /// Told of each step of the target whose layer has its blob, while others still run.
    pub made: &'a (dyn Fn(&Tree) + Sync),
    /// What no layer may hold.
    pub needles: Option<&'a Needles>,
}

impl<'a> World<'a> {
    /// The context that a COPY reads.
    fn context_of(&self, op: &CopyOp) -> &'a LocalContext {
        op.context.as_ref().map_or(self.context, |name| {
            &self.contexts.get(name).expect("every context that the graph names is opened").context
        })
    }
}

impl std::fmt::Debug for World<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("World").field("options", &self.options).finish_non_exhaustive()
    }
}

/// Choices that change no result.
#[derive(Debug, Clone)]
pub struct Options {
    /// Steps at a time.
    pub jobs: usize,
    /// Look nothing up in the cache.
    pub no_cache: bool,
    /// Steps have secrets, and the caller lets layers hold them.
    pub secrets_in_layers: bool,
    /// Whether steps have a network of their own.
    pub private_network: bool,
    /// What else every step has.
    pub settings: Settings,
    /// How root of a step has ids that a single one cannot be; nothing where they are what they seem.
    pub emulation: Option<RootEmulation>,
    /// How new layers are compressed.
    pub compression: Compression,
    /// Whether layers of images that are compressed otherwise are compressed anew.
    pub force_compression: bool,
    /// When layers count as made, RFC 3339; the time they were made when absent.
    pub epoch: Option<String>,
    /// Whether the target's layers are needed as blobs: false for an output that is only a directory.
    pub export_layers: bool,
}

/// Solves a graph: afterwards everything that the target needs exists or can be made from what exists.
pub fn solve(graph: &Graph, world: &World<'_>) -> Result<Tree, SolveError> {
    let keys = key::keys(graph, world)?;
    let trees = trees(graph, &keys);
    let plan = plan::plan(graph, &keys, &trees, world);
    for (vertex, _) in graph.vertices.iter().zip(&plan.cached).filter(|(_, cached)| **cached) {
        world.reporter.cached(&vertex.name);
    }
    let (finished, made) = mpsc::channel::<Tree>();
    std::thread::scope(|scope| {
        // Layers are compressed while later steps run. An error here is met again, and reported, by whoever needs the
        // layer.
        scope.spawn(move || {
            for tree in made {
                if !world.cancel.is_cancelled() && tree.top_layer(world).is_ok() {
                    (world.made)(&tree);
                }
            }
        });
        let solver = Solver { graph, trees: &trees, plan: &plan, world, finished };
        let execute = |vertex| solver.execute(vertex);
        scheduler::run(&solver.tasks(), world.options.jobs, execute, || world.cancel.cancel())
    })?;
    Ok(trees[graph.target.0].clone())
}

/// The tree of every vertex, as handles: nothing is made yet.
fn trees(graph: &Graph, keys: &[CacheKey]) -> Vec<Tree> {
    let mut trees: Vec<Tree> = Vec::with_capacity(graph.vertices.len());
    let firsts = plan::firsts(graph, keys);
    for (id, (vertex, key)) in graph.vertices.iter().zip(keys).enumerate() {
        let first = firsts[id];
        let tree = match (&vertex.op, vertex.base) {
            // Equal vertices share what they make.
            _ if first < id => trees[first].clone(),
            (Op::Source(image), _) => Tree::of_image(image),
            (_, Some(base)) => trees[base.0].with(key),
            (_, None) => Tree::default(),
        };
        trees.push(tree);
    }
    trees
}

/// What a step has to leave behind.
#[derive(Debug, Clone, Copy)]
struct Needs {
    /// The layer's blob.
    layer: bool,
    /// The layer's files in a directory.
    directory: bool,
}

/// Whose task a step is.
enum Claim {
    /// Somebody else has made it by now.
    Found,
    /// Ours; others wait as long as the lock is held.
    Ours(Option<NamedLock>),
}

struct Solver<'a> {
    graph: &'a Graph,
    trees: &'a [Tree],
    plan: &'a Plan,
    world: &'a World<'a>,
    finished: mpsc::Sender<Tree>,
}

impl Solver<'_> {
    /// The vertices that run, each with those that must have run before.
    fn tasks(&self) -> Vec<scheduler::Task> {
        let runs = |id: &VertexId| self.plan.execute[id.0];
        (0..self.graph.vertices.len())
            .map(VertexId)
            .filter(runs)
            .map(|id| scheduler::Task { id: id.0, after: self.executing_inputs(id) })
            .collect()
    }

    /// The nearest executing vertices that `id` depends on: a cached vertex is looked through.
    fn executing_inputs(&self, id: VertexId) -> Vec<usize> {
        let mut open: Vec<usize> = self.plan.inputs(self.graph, id.0).collect();
        let (mut found, mut seen) = (Vec::new(), HashSet::new());
        while let Some(input) = open.pop() {
            if !seen.insert(input) {
                continue;
            }
            if self.plan.execute[input] {
                found.push(input);
            } else {
                open.extend(self.plan.inputs(self.graph, input));
            }
        }
        found
    }

    fn execute(&self, id: usize) -> Result<(), SolveError> {
        let vertex = &self.graph.vertices[id];
        let _lock = match self.claim(id).map_err(|cause| SolveError::new(vertex, cause))? {
            Claim::Found => {
                self.world.reporter.cached(&vertex.name);
                return Ok(());
            }
            Claim::Ours(lock) => lock,
        };
        let step = self.world.reporter.start(&vertex.name, Some(vertex.span));
        let result = self.perform(VertexId(id), vertex, &step);
        if matches!(result, Err(Cause::Cancelled)) {
            step.cancel();
            return Err(SolveError::new(vertex, Cause::Cancelled));
        }
        step.finish(result.map_err(|cause| SolveError::new(vertex, cause)))?;
        if self.plan.layer[id] && !matches!(vertex.op, Op::Scratch | Op::Source(_)) {
            // The receiver lives as long as this scope; a closed channel could only mean that it panicked.
            drop(self.finished.send(self.trees[id].clone()));
        }
        Ok(())
    }

    /// Waits while somebody else, here or in another process, makes what `id` makes; then it is found.
    fn claim(&self, id: usize) -> Result<Claim, Cause> {
        let Some(key) = self.trees[id].step() else { return Ok(Claim::Ours(None)) };
        if self.world.options.no_cache {
            return Ok(Claim::Ours(None));
        }
        let lock = self.world.store.lock(&key.hex(), &|| self.world.cancel.is_cancelled())?;
        let lock = lock.ok_or(Cause::Cancelled)?;
        let layer = self.plan.layer[id] && !matches!(self.graph.vertices[id].op, Op::Run(_));
        Ok(if self.trees[id].recall(self.world, layer) { Claim::Found } else { Claim::Ours(Some(lock)) })
    }

    fn needs(&self, id: VertexId) -> Needs {
        Needs { layer: self.plan.layer[id.0], directory: self.plan.directory[id.0] }
    }

    fn perform(&self, id: VertexId, vertex: &Vertex, step: &crate::progress::Step<'_>) -> Result<(), Cause> {
        let tree = &self.trees[id.0];
        let base = || &self.trees[vertex.base.expect("lowering gives every such vertex a base").0];
        match &vertex.op {
            Op::Scratch => Ok(()),
            Op::Source(_) => tree.dirs(self.world).map(drop),
            Op::Run(op) => {
                let trees = Trees { base: base(), all: self.trees, own: tree };
                run::run(self.world, op, &trees, (vertex.instruction(), step))
            }
            Op::Copy(op) => {
                let job = copy::Job {
                    op,
                    base: base(),
                    from: vertex.from.first().map(|from| &self.trees[from.0]),
                    tree,
                    needs: self.needs(id),
                };
                copy::copy(self.world, &job)
            }
            Op::Mkdir(op) => mkdir::mkdir(self.world, op, base(), tree, self.needs(id)),
        }
    }
}

/// The path of an image as the snapshot crate wants it: relative to the root, `.` for the root itself.
fn relative(path: &Path) -> &Path {
    let path = path.strip_prefix("/").unwrap_or(path);
    if path.as_os_str().is_empty() { Path::new(".") } else { path }
}
