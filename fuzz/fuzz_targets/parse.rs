//! Any bytes as a Dockerfile: parsed, checked, and lowered where no image is needed.

#![no_main]

use std::collections::BTreeMap;

use builder::dockerfile::lint::{self, Known};
use builder::dockerfile::{parse, parse_tree};
use builder::graph::lower;
use builder::graph::platform::Platform;
use builder::graph::references::{Request, StepNetwork, select};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let tree = parse_tree(bytes);
    let Ok(parsed) = parse(bytes) else { return };
    assert!(tree.is_ok(), "what has instructions has a tree");
    let known = Known { environment: &|_| Some(Vec::new()), is_reference: &|text| !text.is_empty() };
    for finding in lint::check(&parsed, &known) {
        assert!(finding.span.start <= finding.span.end && !finding.message.contains('\n'), "{finding:?}");
    }
    let platform = Platform::host();
    let request = Request {
        secret_args: Default::default(),
        build_args: BTreeMap::new(),
        target: None,
        platform,
        labels: BTreeMap::new(),
        network: StepNetwork::Host,
        context_time: None,
        contexts: BTreeMap::new(),
    };
    let Ok(selection) = select(&parsed.dockerfile, &request, &BTreeMap::new()) else { return };
    if selection.images.is_empty()
        && let Ok(graph) = lower(&selection, &BTreeMap::new())
    {
        for (position, vertex) in graph.vertices.iter().enumerate() {
            assert!(vertex.inputs().all(|input| input.0 < position), "inputs precede");
        }
    }
});
