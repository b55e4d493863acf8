//! Graph → result: which steps the cache has, which must run, and running those.
//!
//! The only place that knows both the graph and the world. In order: `elsewhere` resolves what is not on this machine, [`key`] names every vertex, `plan` asks the
//! cache from the target downwards what has to run, [`scheduler`] runs it in parallel; `steps` looks again once the
//! inputs of a step are known, and else has it run by one module an operation: `source`, `run`, `copy`, `mkdir`. What a vertex leaves behind is a [`tree::Tree`] of layers whose
//! directory, index and blob are made when something asks for them and not before.

mod agent;
pub mod cache;
mod cache_mount;
mod content;
mod copy;
mod destination;
mod elsewhere;
mod error;
mod explain;
mod flatten;
mod interrupt;
pub mod key;
mod mkdir;
mod mounts;
mod plan;
mod recall;
mod relay;
mod run;
pub mod scheduler;
mod select;
mod source;
mod steps;
#[cfg(test)]
mod tests;
pub mod tree;
mod verify;
pub mod whole;

use std::collections::BTreeMap;
use std::num::NonZero;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{self, Sender};

use oci_spec::image::Digest;
use snapshot::{Compression, Follower, LayerWriter, Store};

use crate::cache::Caches;
use crate::context::{LocalContext, Memo};
use crate::contexts::NamedTree;
use crate::grants::Grants;
use crate::graph::{CopyOp, Graph, Op};
use crate::progress::Reporter;
use crate::remote::Remotes;
use crate::sandbox::{Cancel, Executor, RootEmulation, Settings};
use crate::secrets::Needles;

pub(crate) use cache_mount::hold_mount;
pub(crate) use error::chain;
pub use error::{Cause, SolveError};
use key::Key;
use plan::Lookup;
pub(crate) use run::try_out;
pub(crate) use source::fetch;
use steps::Solver;
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
    /// Caches that are not the store.
    pub caches: &'a Caches,
    /// What the caller lets steps have.
    pub grants: &'a Grants,
    /// Told of each step of the target whose layer has its blob, while others still run.
    pub made: &'a (dyn Fn(&Tree) + Sync),
    /// Gives whom to tell of each layer of the target whose blob is begun, which can be read while it is written.
    pub making: Option<&'a (dyn Fn() -> Sender<Follower> + Sync)>,
    /// What no layer may hold.
    pub needles: Option<&'a Needles>,
}

impl<'a> World<'a> {
    /// Starts a layer of the target.
    fn layer_writer(&self) -> Result<LayerWriter, snapshot::Error> {
        let compression = self.options.compression;
        match self.making {
            Some(followers) => self.store.followed_layer_writer(compression, &followers()),
            None => self.store.layer_writer(compression),
        }
    }

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
    /// Steps at a time; as many as there are processors when absent.
    pub jobs: Option<usize>,
    /// Look nothing up in the cache.
    pub no_cache: bool,
    /// Look nothing of these stages up in the cache.
    pub no_cache_stages: Vec<String>,
    /// After a failure, finish what does not depend on the step that failed.
    pub keep_going: bool,
    /// Say of each step that runs why the cache did not have it.
    pub explain: bool,
    /// How many of a hundred steps that the cache has are run all the same, and compared.
    pub verify: u8,
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
    /// The image whose layers may be wanted as they come, by its manifest. Of others the files alone are kept.
    pub keep_blobs_of: Option<Digest>,
    /// When layers count as made, RFC 3339; the time they were made when absent.
    pub epoch: Option<String>,
    /// Whether the target's layers are needed as blobs: false for an output that is only a directory.
    pub export_layers: bool,
}

impl Options {
    /// What of the cache the step with this name may be taken from.
    fn lookup(&self, step: &str) -> Lookup {
        let stage = step.strip_prefix('[').and_then(|step| step.split(' ').next());
        let refused = |refused: &String| stage.is_some_and(|stage| refused.eq_ignore_ascii_case(stage));
        if self.no_cache || self.no_cache_stages.iter().any(refused) { Lookup::Never } else { Lookup::Early }
    }
}

/// Solves a graph: afterwards everything that the target needs exists or can be made from what exists.
///
/// A cache that fails in the middle, after it promised a layer, fails the solve and cancels nothing: whoever builds begins
/// again without the cache.
pub fn solve(graph: &Graph, world: &World<'_>) -> Result<Tree, SolveError> {
    elsewhere::resolve(graph, world)?;
    let keys = key::keys(graph, world)?;
    let trees = &trees(graph, &keys);
    let plan = plan::plan(graph, &keys, trees, world);
    for (vertex, found) in graph.vertices.iter().zip(&plan.found) {
        if let Some(found) = found {
            world.reporter.cached(&vertex.name, found.record.milliseconds, found.origin.is_some());
        }
    }
    let solver = &Solver::new(graph, &keys, trees, &plan, world);
    world.executor.expect(plan.runs(graph));
    let tasks = solver.tasks();
    // To count the processors takes longer than to find out that there is nothing to run.
    let jobs = if tasks.len() < 2 { 1 } else { world.options.jobs.unwrap_or_else(processors) };
    let (finished, made) = mpsc::channel::<usize>();
    let (retry, damaged) = (&AtomicBool::new(false), world.store.blobs().damaged());
    let result = std::thread::scope(|scope| {
        // Layers are compressed while later steps run. An error here is met again, and reported, by whoever needs the
        // layer.
        let compress = move || {
            for vertex in made {
                if !world.cancel.is_cancelled() && trees[vertex].top_layer(world).is_ok() {
                    (world.made)(&trees[vertex]);
                    solver.settle(vertex);
                }
            }
        };
        if !tasks.is_empty() {
            scope.spawn(compress);
        }
        let execute = move |vertex| {
            let result = solver.execute(vertex);
            match &result {
                // The receiver lives as long as this scope; a closed channel could only mean that it panicked.
                Ok(true) => _ = finished.send(vertex),
                Err(error) if matches!(*error.cause, Cause::Import { .. }) => retry.store(true, Ordering::Relaxed),
                Ok(false) | Err(_) => {}
            }
            result.map(drop)
        };
        let run = scheduler::Run { jobs, keep_going: world.options.keep_going };
        scheduler::run(&tasks, run, execute, || {
            // Who tries again must not be stopped by that: without a cache, or without what was found to be damaged.
            if !retry.load(Ordering::Relaxed) && world.store.blobs().damaged() == damaged {
                world.cancel.cancel();
            }
        })
    });
    solver.finish();
    result?;
    solver.verify()?;
    Ok(trees[graph.target.0].clone())
}

fn processors() -> usize {
    std::thread::available_parallelism().map_or(1, NonZero::get)
}

/// The tree of every vertex, as handles: nothing is made yet.
fn trees(graph: &Graph, keys: &[Key]) -> Vec<Tree> {
    let mut trees: Vec<Tree> = Vec::with_capacity(graph.vertices.len());
    let firsts = plan::firsts(graph, keys);
    for (id, (vertex, key)) in graph.vertices.iter().zip(keys).enumerate() {
        let first = firsts[id];
        let tree = match (&vertex.op, vertex.base) {
            // Equal vertices share what they make.
            _ if first < id => trees[first].clone(),
            (Op::Source(image), _) => Tree::of_image(image),
            (_, Some(base)) => trees[base.0].with(&key.definition),
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

/// The path of an image as the snapshot crate wants it: relative to the root, `.` for the root itself.
fn relative(path: &Path) -> &Path {
    let path = path.strip_prefix("/").unwrap_or(path);
    if path.as_os_str().is_empty() { Path::new(".") } else { path }
}
