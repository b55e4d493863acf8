//! What a graph reads from elsewhere, resolved at the same time and before any key is made: commits of git repositories,
//! files behind URLs. Images are pinned before the graph is made (`bases`).

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};

use crate::graph::{CopySource, Graph, Op, Vertex};

use super::World;
use super::error::{Cause, SolveError};

/// Fetches in flight.
const CONCURRENT: usize = 8;

/// Resolves everything; what cannot be is told of the first step that needs such a thing.
pub(super) fn resolve(graph: &Graph, world: &World<'_>) -> Result<(), SolveError> {
    let sources: Vec<(&Vertex, &CopySource)> = graph.vertices.iter().flat_map(sources).collect();
    let (next, failed) = (AtomicUsize::new(0), Mutex::new(Vec::new()));
    std::thread::scope(|scope| {
        for _ in 0..CONCURRENT.min(sources.len()) {
            scope.spawn(|| {
                loop {
                    let place = next.fetch_add(1, Ordering::Relaxed);
                    let Some((_, source)) = sources.get(place) else { return };
                    if let Err(cause) = resolve_one(source, world) {
                        failed.lock().unwrap_or_else(PoisonError::into_inner).push((place, cause));
                    }
                }
            });
        }
    });
    let failed = failed.into_inner().unwrap_or_else(PoisonError::into_inner);
    let first = failed.into_iter().min_by_key(|(place, _)| *place);
    first.map_or(Ok(()), |(place, cause)| Err(SolveError::new(sources[place].0, cause)))
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
