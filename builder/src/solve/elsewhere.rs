//! What a graph reads from elsewhere, resolved at the same time and before any key is made: commits of git repositories,
//! files behind URLs. Images are pinned before the graph is made (`bases`).

use crate::graph::{CopySource, Graph, Op, Vertex};
use crate::parallel;

use super::World;
use super::error::{Cause, SolveError};

/// Fetches in flight.
const CONCURRENT: usize = 8;

/// Resolves everything.
pub(super) fn resolve(graph: &Graph, world: &World<'_>) -> Result<(), SolveError> {
    let sources: Vec<(&Vertex, &CopySource)> = graph.vertices.iter().flat_map(sources).collect();
    let resolved = parallel::each(&sources, CONCURRENT, |(vertex, source)| {
        resolve_one(source, world).map_err(|cause| SolveError::new(vertex, cause))
    });
    resolved.map(drop)
}

/// What a vertex reads that is not on this machine.
fn sources(vertex: &Vertex) -> impl Iterator<Item = (&Vertex, &CopySource)> {
    let sources = if let Op::Copy(op) = &vertex.op { op.sources.as_slice() } else { &[] };
    let elsewhere = sources.iter().filter(|source| matches!(source, CopySource::Http { .. } | CopySource::Git(_)));
    elsewhere.map(move |source| (vertex, source))
}

fn resolve_one(source: &CopySource, world: &World<'_>) -> Result<(), Cause> {
    match source {
        CopySource::Http { url, checksum, .. } => {
            world.remotes.download(world.store, url, checksum.as_deref())?;
        }
        CopySource::Git(source) => {
            world.remotes.commit(world.store, source)?;
        }
        CopySource::Path(_) | CopySource::Inline { .. } => {}
    }
    Ok(())
}
