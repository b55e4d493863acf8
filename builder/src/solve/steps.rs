//! One vertex after the other: found by now, or run.

use std::collections::{HashMap, HashSet};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use snapshot::NamedLock;

use crate::cache::Job;
use crate::graph::{Graph, Op, Vertex, VertexId};
use crate::parallel::lock;
use crate::progress::Step;

use super::content::{self, Effort};
use super::error::{Cause, SolveError};
use super::explain::{self, Reason};
use super::key::{CacheKey, Key};
use super::plan::{Lookup, Plan, needs_blob};
use super::recall::{self, Found, Ran, identities, own_key};
use super::run::Trees;
use super::tree::Tree;
use super::{Needs, World, cache, copy, mkdir, run, scheduler};

/// Whose task a step is.
enum Claim {
    /// The cache has it.
    Found(Box<Found>),
    /// Ours; others wait as long as the lock is held.
    Ours(Option<NamedLock>),
}

/// Runs what a plan says.
pub(super) struct Solver<'a> {
    pub(super) graph: &'a Graph,
    pub(super) keys: &'a [Key],
    pub(super) trees: &'a [Tree],
    pub(super) plan: &'a Plan,
    pub(super) world: &'a World<'a>,
    /// By vertex: it ran, and nobody has settled it yet.
    ran: Vec<AtomicBool>,
    /// What was found when its turn came.
    found: Mutex<HashMap<usize, Found>>,
}

impl<'a> Solver<'a> {
    /// Prepares to run.
    pub(super) fn new(
        graph: &'a Graph,
        keys: &'a [Key],
        trees: &'a [Tree],
        plan: &'a Plan,
        world: &'a World<'a>,
    ) -> Self {
        let ran = graph.vertices.iter().map(|_| AtomicBool::new(false)).collect();
        Self { graph, keys, trees, plan, world, ran, found: Mutex::default() }
    }

    /// The vertices that run, each with those that must have run before.
    pub(super) fn tasks(&self) -> Vec<scheduler::Task> {
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

    /// Finds a vertex in the cache or runs it; says whether its layer can be compressed now.
    pub(super) fn execute(&self, id: usize) -> Result<bool, SolveError> {
        let vertex = &self.graph.vertices[id];
        if self.world.cancel.is_cancelled() {
            return Err(SolveError::new(vertex, Cause::Cancelled));
        }
        let begun = Instant::now();
        let _lock = match self.claim(id, vertex).map_err(|cause| SolveError::new(vertex, cause))? {
            Claim::Found(found) => {
                self.world.reporter.cached(&vertex.name, found.record.milliseconds, found.origin.is_some());
                lock(&self.found).insert(id, *found);
                return Ok(false);
            }
            Claim::Ours(lock) => lock,
        };
        let step = self.world.reporter.start(&vertex.name, Some(vertex.span));
        let reason = self.explain(id, vertex, &step);
        let result = self.perform(id, &self.trees[id], self.needs(id), &step).and_then(|()| {
            if let Some(reason) = reason {
                step.missed(&reason.complete(self.world, vertex, &self.trees[id]));
            }
            self.remember(id, vertex, begun)
        });
        if matches!(result, Err(Cause::Cancelled)) {
            step.cancel();
            return Err(SolveError::new(vertex, Cause::Cancelled));
        }
        step.finish(result.map_err(|cause| SolveError::new(vertex, cause)))?;
        Ok(self.plan.layer[id] && !matches!(vertex.op, Op::Scratch | Op::Source(_)))
    }

    /// Waits while somebody else, here or in another process, makes what `id` makes, and looks for it: the inputs are
    /// known by now.
    fn claim(&self, id: usize, vertex: &Vertex) -> Result<Claim, Cause> {
        let tree = &self.trees[id];
        if matches!(vertex.op, Op::Scratch | Op::Source(_)) {
            return Ok(Claim::Ours(None));
        }
        let mut lock = None;
        if self.plan.lookup[id] != Lookup::Never {
            let world = self.world;
            let name = self.keys[id].definition.hex();
            let held = world.store.lock(&name, &|| world.cancel.is_cancelled())?;
            lock = Some(held.ok_or(Cause::Cancelled)?);
            if let Some(found) = self.look_up(id, vertex)? {
                tree.accept(world, &found);
                return Ok(Claim::Found(Box::new(found)));
            }
        }
        tree.begin()?;
        Ok(Claim::Ours(lock))
    }

    /// Looks a vertex up by its definition, then by what its inputs contain.
    fn look_up(&self, id: usize, vertex: &Vertex) -> Result<Option<Found>, Cause> {
        let (world, key) = (self.world, &self.keys[id]);
        let blob = self.plan.layer[id] && needs_blob(&vertex.op);
        let on = identities(vertex, self.trees);
        if let Some(found) = recall::find(world, &key.definition, blob).filter(|found| found.stands_on(&on)) {
            return Ok(Some(found));
        }
        let elsewhere = |key| world.caches.find(world, &[key]).remove(key).map(Found::from);
        if self.plan.lookup[id] == Lookup::Late
            && let Some(found) = elsewhere(&key.definition).filter(|found| found.stands_on(&on))
        {
            return Ok(Some(found));
        }
        if !cache::knows(world.store, &own_key(key)) && !world.caches.can_import() {
            return Ok(None);
        }
        // An error, as that of a path which is missing, is the step's to report.
        let content = content::key(world, vertex, key, self.trees, Effort::Full).unwrap_or_default();
        let Some(content) = content else { return Ok(None) };
        let here = recall::find_by_content(world, &content, blob);
        let Some(mut found) = here.or_else(|| elsewhere(&content)) else { return Ok(None) };
        // From now on the definition is enough.
        found.record.on = on.into_iter().map(Option::unwrap_or_default).collect();
        found.record.fields = explain::fields(self.graph, vertex, key);
        if found.origin.is_none() {
            cache::put(world.store, &key.definition, &found.record)?;
        }
        Ok(Some(found))
    }

    fn remember(&self, id: usize, vertex: &Vertex, begun: Instant) -> Result<(), Cause> {
        if matches!(vertex.op, Op::Scratch | Op::Source(_)) {
            return Ok(());
        }
        self.ran[id].store(true, Ordering::Relaxed);
        self.world.reporter.totals().run.fetch_add(1, Ordering::Relaxed);
        let ran = Ran {
            name: &vertex.name,
            on: identities(vertex, self.trees),
            fields: explain::fields(self.graph, vertex, &self.keys[id]),
            milliseconds: u64::try_from(begun.elapsed().as_millis()).unwrap_or(u64::MAX),
        };
        self.trees[id].remember(self.world, &self.keys[id], ran)
    }

    /// Tells why a step runs, if the caller wants to know; returns what has to wait until it has run.
    fn explain(&self, id: usize, vertex: &Vertex, step: &Step<'_>) -> Option<Reason> {
        if !self.world.options.explain || matches!(vertex.op, Op::Scratch | Op::Source(_)) {
            return None;
        }
        if self.plan.lookup[id] == Lookup::Never {
            step.missed("the cache is not used for it");
            return None;
        }
        let on = identities(vertex, self.trees);
        let reason = explain::explain(self.world, self.graph, id, &self.keys[id], &on);
        if reason.is_incomplete() {
            return Some(reason);
        }
        step.missed(&reason.sentence);
        None
    }

    /// Lets a step that ran be found by content too, where that is known by now, and has it kept in other caches.
    pub(super) fn settle(&self, id: usize) {
        if !self.ran[id].swap(false, Ordering::Relaxed) {
            return;
        }
        let (world, tree, key) = (self.world, &self.trees[id], &self.keys[id]);
        let content = self.known_content(id);
        let named =
            tree.top_content(world, Effort::Known).and_then(|_| tree.remember_content(world, key, content.clone()));
        // A record that cannot be written costs a later build a step, no more.
        if let Some(record) = named.ok().flatten().or_else(|| cache::get(world.store, &key.definition)) {
            self.keep(id, Found { record, origin: None }, content);
        }
    }

    fn known_content(&self, id: usize) -> Option<CacheKey> {
        let vertex = &self.graph.vertices[id];
        content::key(self.world, vertex, &self.keys[id], self.trees, Effort::Known).unwrap_or_default()
    }

    /// Settles what is left, and has kept what was found.
    pub(super) fn finish(&self) {
        let world = self.world;
        for id in 0..self.trees.len() {
            self.settle(id);
            if !world.caches.can_export() {
                continue;
            }
            let found = lock(&self.found).remove(&id).or_else(|| self.plan.found[id].clone());
            // What nobody needed, for it is behind a hit, is kept too.
            let wanted = world.caches.keeps_all() && !self.plan.execute[id];
            let behind = || wanted.then(|| self.behind(id)).flatten();
            if let Some(found) = found.or_else(behind) {
                self.keep(id, found, self.known_content(id));
            }
        }
    }

    /// A step that was not looked for, if the cache has it and what it stands on, so that its layer can be made.
    fn behind(&self, id: usize) -> Option<Found> {
        let (world, vertex) = (self.world, &self.graph.vertices[id]);
        let found = recall::find(world, &self.keys[id].definition, needs_blob(&vertex.op))?;
        let is_known = vertex.base.is_some_and(|base| self.trees[base.0].is_known(world));
        if is_known {
            self.trees[id].accept(world, &found);
        }
        (is_known || found.record.layer.is_some()).then_some(found)
    }

    fn keep(&self, id: usize, mut found: Found, content: Option<CacheKey>) {
        if !self.world.caches.can_export() {
            return;
        }
        if found.record.layer.is_none() && !needs_blob(&self.graph.vertices[id].op) {
            // It was found as a directory. What cannot be made is not kept.
            found.record.layer = self.trees[id].top_layer(self.world).ok();
        }
        let mut base = Some(self.graph.target);
        while base.is_some_and(|base| base.0 > id) {
            base = base.and_then(|base| self.graph.vertices[base.0].base);
        }
        let (definition, own) = (self.keys[id].definition.clone(), base == Some(VertexId(id)));
        let Found { record, origin } = found;
        self.world.caches.keep(Job { definition, content, record, origin, own });
    }

    fn needs(&self, id: usize) -> Needs {
        Needs { layer: self.plan.layer[id], directory: self.plan.directory[id] }
    }

    /// Has a vertex leave what is needed in `tree`.
    pub(super) fn perform(&self, id: usize, tree: &Tree, needs: Needs, step: &Step<'_>) -> Result<(), Cause> {
        let vertex = &self.graph.vertices[id];
        let base = || &self.trees[vertex.base.expect("lowering gives every such vertex a base").0];
        match &vertex.op {
            Op::Scratch => Ok(()),
            Op::Source(_) if needs.directory => tree.dirs(self.world).map(drop),
            Op::Source(_) => tree.view(self.world).map(drop),
            Op::Run(op) => {
                let trees = Trees { base: base(), all: self.trees, own: tree, needs };
                run::run(self.world, op, &trees, (vertex.instruction(), step))
            }
            Op::Copy(op) => {
                let job = copy::Job {
                    op,
                    base: base(),
                    from: vertex.from.first().map(|from| &self.trees[from.0]),
                    tree,
                    needs,
                };
                copy::copy(self.world, &job)
            }
            Op::Mkdir(op) => mkdir::mkdir(self.world, op, base(), tree, needs),
        }
    }
}
