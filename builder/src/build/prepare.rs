//! What comes before the first step: the Dockerfile parsed and checked, its images pinned, the graph.

use std::collections::BTreeSet;

use crate::bases::{self, Places};
use crate::checks::{self, Subject};
use crate::dockerfile::lint::Finding;
use crate::dockerfile::{self, Parsed};
use crate::graph::references::{Pinned, Selection, select};
use crate::graph::unused::unused;
use crate::graph::{Graph, frontend_args, lower};
use crate::progress::Reporter;

use super::{Build, BuildError};

/// What a build begins with, and all of a check.
pub(super) struct Prepared {
    pub(super) graph: Graph,
    /// The named contexts that it reads.
    pub(super) contexts: BTreeSet<String>,
    pub(super) findings: Vec<Finding>,
    /// What is not wrong and worth a warning.
    pub(super) notes: Vec<String>,
}

/// Parses, selects what the target needs and pins its images.
pub(super) fn with_selection<T>(
    build: &Build,
    places: Places<'_>,
    reporter: &Reporter<'_>,
    then: impl FnOnce(&Parsed, Selection<'_>, &Pinned) -> Result<T, BuildError>,
) -> Result<T, BuildError> {
    let mut parsed = dockerfile::parse(&build.dockerfile)?;
    parsed.check = checks::options(&parsed, &build.request)?;
    let mut images = Pinned::new();
    let selection = loop {
        let selection = select(&parsed.dockerfile, &build.request, &images)?;
        let mut more = selection.images.clone();
        more.retain(|name, _| !images.contains_key(name));
        if more.is_empty() {
            break selection;
        }
        images.append(&mut bases::resolve(places, &more, reporter)?);
    };
    then(&parsed, selection, &images)
}

/// Parses, pins, lowers and makes the checks; where the checks' options say so, what they found is an error.
pub(super) fn prepare(build: &Build, places: Places<'_>, reporter: &Reporter<'_>) -> Result<Prepared, BuildError> {
    with_selection(build, places, reporter, |parsed, selection, images| {
        let graph = lower(&selection, images)?;
        let ignore = &build.ignore;
        let findings = checks::check(&Subject { parsed, selection: &selection, images, graph: &graph, ignore });
        if parsed.check.error && !findings.is_empty() {
            return Err(BuildError::Checks(findings));
        }
        let frontend = frontend_args::foreign_frontend(&build.request, parsed.dockerfile.syntax.as_deref());
        let mut notes: Vec<String> = frontend.into_iter().collect();
        if build.tell_unused {
            notes.extend(unused(&selection, images, &build.caching.no_cache_stages));
        }
        Ok(Prepared { graph, contexts: selection.contexts, findings, notes })
    })
}
