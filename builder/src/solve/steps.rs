//! One vertex after the other: found by now, or run.

use std::collections::HashSet;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use snapshot::NamedLock;

use crate::graph::{Graph, Op, Vertex, VertexId};
use crate::progress::Step;

use super::content::{self, Effort};
use super::error::{Cause, SolveError};
use super::explain::{self, Reason};
use super::key::Key;
use super::plan::{Lookup, Plan, needs_blob};
use super::recall::{self, Found, Ran, identities, own_key};
use super::run::Trees;
use super::tree::Tree;
use super::{Needs, World, cache, copy, mkdir, run, scheduler};

/// Whose task a step is.
enum Claim {
    /// The cache has it.
    Found(Found),
    /// Ours; others wait as long as the lock is held.
    Ours(Option<NamedLock>),
}

/// Runs what a plan says.
pub(super) struct Solver<'a> {
    graph: &'a Graph,
    keys: &'a [Key],
    trees: &'a [Tree],
    plan: &'a Plan,
    world: &'a World<'a>,
    /// By vertex: it ran.
    ran: Vec<AtomicBool>,
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
        Self { graph, keys, trees, plan, world, ran }
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

    /// Finds a vertex in the cache or runs it. Returns the tree whose layer on top can be compressed now, if there is one.
    pub(super) fn execute(&self, id: usize) -> Result<Option<&Tree>, SolveError> {
        let vertex = &self.graph.vertices[id];
        let begun = Instant::now();
        let _lock = match self.claim(id, vertex).map_err(|cause| SolveError::new(vertex, cause))? {
            Claim::Found(found) => {
                self.world.reporter.cached(&vertex.name, found.record.milliseconds);
                return Ok(None);
            }
            Claim::Ours(lock) => lock,
        };
        let step = self.world.reporter.start(&vertex.name, Some(vertex.span));
        let reason = self.explain(id, vertex, &step);
        let result = self.perform(id, vertex, &step).and_then(|()| {
            reason.into_iter().for_each(|reason| step.missed(reason.complete(self.world, vertex, &self.trees[id])));
            self.remember(id, vertex, begun)
        });
        if matches!(result, Err(Cause::Cancelled)) {
            step.cancel();
            return Err(SolveError::new(vertex, Cause::Cancelled));
        }
        step.finish(result.map_err(|cause| SolveError::new(vertex, cause)))?;
        Ok((self.plan.layer[id] && matches!(vertex.op, Op::Run(_))).then_some(&self.trees[id]))
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
                return Ok(Claim::Found(found));
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
        if !cache::knows(world.store, &own_key(key)) {
            return Ok(None);
        }
        // An error, as that of a path which is missing, is the step's to report.
        let content = content::key(world, vertex, key, self.trees, Effort::Full).unwrap_or_default();
        let Some(mut found) = content.and_then(|content| recall::find_by_content(world, &content, blob)) else {
            return Ok(None);
        };
        // From now on the definition is enough.
        found.record.on = on.into_iter().map(Option::unwrap_or_default).collect();
        found.record.fields = explain::fields(self.graph, vertex, key);
        cache::put(world.store, &key.definition, &found.record)?;
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
            step.missed("the cache is not used for it".into());
            return None;
        }
        let on = identities(vertex, self.trees);
        let reason = explain::explain(self.world, self.graph, id, &self.keys[id], &on);
        if reason.is_incomplete() {
            return Some(reason);
        }
        step.missed(reason.sentence);
        None
    }

    /// Lets what ran be found by content too, where that is known by now.
    pub(super) fn finish(&self) {
        for (id, vertex) in self.graph.vertices.iter().enumerate() {
            if !self.ran[id].load(Ordering::Relaxed) {
                continue;
            }
            let known = |vertex| content::key(self.world, vertex, &self.keys[id], self.trees, Effort::Known);
            let named = known(vertex).and_then(|content| {
                self.trees[id].top_content(self.world, Effort::Known)?;
                self.trees[id].remember_content(self.world, &self.keys[id], content)
            });
            // It costs a later build a step, no more.
            drop(named);
        }
    }

    fn needs(&self, id: usize) -> Needs {
        Needs { layer: self.plan.layer[id], directory: self.plan.directory[id] }
    }

    fn perform(&self, id: usize, vertex: &Vertex, step: &Step<'_>) -> Result<(), Cause> {
        let tree = &self.trees[id];
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
