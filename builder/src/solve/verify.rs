//! `--cache-verify`: steps that the cache has are run all the same, and what they make is compared.

use snapshot::digest::sha256;

use super::Needs;
use super::content::Effort;
use super::error::{Cause, SolveError};
use super::explain::first_change;
use super::steps::Solver;

impl Solver<'_> {
    /// Runs a sample of what was found; the first that makes something else is an error.
    pub(super) fn verify(&self) -> Result<(), SolveError> {
        for (id, vertex) in self.graph.vertices.iter().enumerate() {
            if self.plan.found[id].is_none() || !self.plan.sampled[id] {
                continue;
            }
            let step = self.world.reporter.start(&format!("verify {}", vertex.name), Some(vertex.span));
            let result = self.run_again(id, &step);
            step.finish(result.map_err(|cause| SolveError::new(vertex, cause)))?;
        }
        Ok(())
    }

    fn run_again(&self, id: usize, step: &crate::progress::Step<'_>) -> Result<(), Cause> {
        let (world, base) = (self.world, self.graph.vertices[id].base.expect("only sources have none"));
        // Its key is one that nobody looks for.
        let key = sha256(format!("verify {}", self.keys[id].definition).as_bytes());
        let again = self.trees[base.0].with(&super::key::CacheKey(key));
        again.begin()?;
        self.perform(id, &again, Needs { layer: false, directory: true }, step)?;
        let same = self.trees[id].top_content(world, Effort::Full)? == again.top_content(world, Effort::Full)?;
        let position = again.layers().len() - 1;
        let difference = first_change(&*self.trees[id].index(position, world)?, &*again.index(position, world)?);
        // Nobody reads it again; what cannot be removed now is removed with other things that nobody needs.
        world.store.snapshots().remove(again.top().id()).ok();
        match difference {
            Some((path, how)) if !same => Err(Cause::Differs { path, how }),
            _ => Ok(()),
        }
    }
}
