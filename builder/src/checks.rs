//! The checks of a Dockerfile with all that a build knows: [`lint`]'s, told what the base images set, and the two that
//! look at images and at the ignore file. Pure.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use crate::context::{Ignore, glob};
use crate::dockerfile::lint::{self, Finding, Known, Rule};
use crate::dockerfile::{CheckOptionError, CheckOptions, Parsed};
use crate::graph::frontend_args;
use crate::graph::references::{Base, ImageName, Request, Selection};
use crate::graph::{CopySource, Graph, Op, PinnedImage};

/// The images that a build pinned.
pub type Images = BTreeMap<ImageName, Arc<PinnedImage>>;

/// A build as far as the checks look at it.
#[derive(Debug, Clone, Copy)]
pub struct Subject<'a> {
    /// The text.
    pub parsed: &'a Parsed,
    /// The stages that are built.
    pub selection: &'a Selection<'a>,
    /// What they stand on.
    pub images: &'a Images,
    /// The steps.
    pub graph: &'a Graph,
    /// The ignore rules of the build context.
    pub ignore: &'a Ignore,
}

/// The options of the checks: those of the build arg where it is given, else the file's.
pub fn options(parsed: &Parsed, request: &Request) -> Result<CheckOptions, CheckOptionError> {
    match request.build_args.get(frontend_args::CHECK) {
        Some(text) => CheckOptions::parse(text),
        None => Ok(parsed.check.clone()),
    }
}

/// Makes all checks that the options leave, in the order of the lines.
pub fn check(subject: &Subject<'_>) -> Vec<Finding> {
    let environment = |stage: usize| environment(subject, stage);
    let is_reference = |text: &str| registry::reference::parse(text).is_ok();
    let mut findings = lint::check(subject.parsed, &Known { environment: &environment, is_reference: &is_reference });
    let mut more = base_platforms(subject);
    more.append(&mut ignored_sources(subject));
    more.retain(|finding| finding.rule.is_made(&subject.parsed.check));
    findings.append(&mut more);
    findings.sort_by_key(|finding| (finding.span.start, finding.rule));
    findings
}

/// The image that a stage stands on, when the build looked at it.
fn image<'a>(subject: &Subject<'a>, stage: usize) -> Option<(&'a ImageName, &'a PinnedImage)> {
    let Base::Image(name) = subject.selection.bases.get(&stage)? else { return None };
    subject.images.get(name).map(|image| (name, image.as_ref()))
}

fn environment(subject: &Subject<'_>, stage: usize) -> Option<Vec<String>> {
    let (_, image) = image(subject, stage)?;
    Some(image.config.config.env_pairs().map(|(name, _)| name.to_owned()).collect())
}

/// Images that are not for the platform they were asked for: a manifest that no index led to says so in its config alone.
fn base_platforms(subject: &Subject<'_>) -> Vec<Finding> {
    let mut findings = Vec::new();
    for &stage in subject.selection.bases.keys() {
        let Some((name, image)) = image(subject, stage) else { continue };
        let config = &image.config;
        let mut wanted = name.platform.split('/');
        if wanted.next() == Some(config.os.as_str()) && wanted.next() == Some(config.architecture.as_str()) {
            continue;
        }
        let message = format!(
            "the base image `{}` is for `{}/{}`, and `{}` is built",
            name.reference, config.os, config.architecture, name.platform
        );
        let span = subject.selection.dockerfile.stages[stage].span;
        findings.push(Finding::new(Rule::InvalidBaseImagePlatform, span, message));
    }
    findings
}

/// Sources in the build context that the ignore rules hide.
fn ignored_sources(subject: &Subject<'_>) -> Vec<Finding> {
    let mut findings = Vec::new();
    for vertex in subject.graph.vertices.iter().filter(|vertex| vertex.from.is_empty()) {
        let Op::Copy(copy) = &vertex.op else { continue };
        if copy.context.is_some() {
            continue;
        }
        for source in &copy.sources {
            let CopySource::Path(path) = source else { continue };
            let relative = path.trim_matches('/').trim_start_matches("./");
            if glob::has_wildcard(path) || !subject.ignore.is_ignored(Path::new(relative)) {
                continue;
            }
            let message = format!("the ignore file excludes `{path}`");
            findings.push(Finding::new(Rule::CopyIgnoredFile, vertex.span, message));
        }
    }
    findings
}
