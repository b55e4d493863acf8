//! What a Dockerfile has to offer (`--call=targets`) and what a target may be given (`--call=outline`). Pure.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use indexmap::{IndexMap, IndexSet};

use crate::dockerfile::{Command, Dockerfile, Instruction, Span};
use crate::graph::lower::Lowering;
use crate::graph::references::{ImageName, Selection};
use crate::graph::{GraphError, MountOp, Op, PinnedImage};

/// A stage that can be built.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Target {
    /// Its name, if it has one.
    pub name: Option<String>,
    /// What the comment above says of it.
    pub description: Option<String>,
    /// What it starts from, as written.
    pub base: String,
    /// Its `--platform`, as written.
    pub platform: Option<String>,
    /// Whether it is what a build without `--target` makes.
    pub is_default: bool,
    /// Its `FROM`.
    pub span: Span,
}

/// The stages of a file, in order.
pub fn targets(dockerfile: &Dockerfile) -> Vec<Target> {
    let last = dockerfile.stages.len() - 1;
    let target = |(index, stage): (usize, &crate::dockerfile::Stage)| Target {
        name: stage.name.clone(),
        description: stage.description.clone(),
        base: stage.base.0.clone(),
        platform: stage.platform.as_ref().map(|platform| platform.0.clone()),
        is_default: index == last,
        span: stage.span,
    };
    dockerfile.stages.iter().enumerate().map(target).collect()
}

/// What a target may be given: by the stages that it needs, each thing once.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Outline {
    /// The target's name, if it has one.
    pub name: Option<String>,
    /// What the comment above says of it.
    pub description: Option<String>,
    /// Its build args, the global ones first.
    pub args: Vec<Arg>,
    /// The secrets that its steps see.
    pub secrets: Vec<Grant>,
    /// Their ssh agents.
    pub agents: Vec<Grant>,
    /// Their cache mounts, by id.
    pub caches: Vec<String>,
}

/// A build arg.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Arg {
    /// Its name.
    pub name: String,
    /// What it is in this build; nothing for a secret and for what has no default.
    pub value: Option<String>,
    /// What the comment above says of it.
    pub description: Option<String>,
    /// Where it is declared.
    pub span: Span,
}

/// A secret or an agent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Grant {
    /// Its id.
    pub id: String,
    /// Whether a step fails without it.
    pub required: bool,
    /// Where it is used first.
    pub span: Span,
}

impl Outline {
    /// Outlines the target of a selection, given the images that it names.
    pub fn of(selection: &Selection<'_>, images: &BTreeMap<ImageName, Arc<PinnedImage>>) -> Result<Self, GraphError> {
        let lowering = Lowering::all(selection, images)?;
        let target = &selection.dockerfile.stages[selection.target];
        let mut outline = Self {
            name: target.name.clone(),
            description: target.description.clone(),
            args: Vec::new(),
            secrets: Vec::new(),
            agents: Vec::new(),
            caches: Vec::new(),
        };
        let mut places = HashMap::new();
        outline.declared(&mut places, &selection.dockerfile.global_args, |name| selection.globals.get(name));
        for (&index, stage) in &lowering.stages {
            let instructions = selection.instructions(&selection.dockerfile.stages[index]);
            outline.declared(&mut places, instructions, |name| stage.scope.get(name));
        }
        let (mut secrets, mut agents, mut caches) = (IndexMap::new(), IndexMap::new(), IndexSet::new());
        for vertex in &lowering.vertices {
            let Op::Run(run) = &vertex.op else { continue };
            for mount in &run.mounts {
                match mount {
                    MountOp::Secret(secret) => grant(&mut secrets, &secret.id, secret.required, vertex.span),
                    MountOp::Ssh(ssh) => grant(&mut agents, &ssh.id, ssh.required, vertex.span),
                    MountOp::Cache(cache) => _ = caches.insert(cache.id.clone()),
                    MountOp::Bind(_) | MountOp::Tmpfs(_) => {}
                }
            }
        }
        outline.secrets = secrets.into_values().collect();
        outline.agents = agents.into_values().collect();
        outline.caches = caches.into_iter().collect();
        Ok(outline)
    }

    /// Adds what instructions declare; `places` are those of the args by their names.
    fn declared<'v, 'i>(
        &mut self,
        places: &mut HashMap<&'i str, usize>,
        instructions: &'i [Instruction],
        value: impl Fn(&str) -> Option<&'v str>,
    ) {
        for instruction in instructions {
            let Command::Arg(declarations) = &instruction.command else { continue };
            for declared in declarations {
                let next = self.args.len();
                let place = *places.entry(&declared.name).or_insert(next);
                if let Some(known) = self.args.get_mut(place) {
                    known.description = known.description.take().or_else(|| declared.description.clone());
                    continue;
                }
                self.args.push(Arg {
                    name: declared.name.clone(),
                    value: value(&declared.name).map(str::to_owned),
                    description: declared.description.clone(),
                    span: instruction.span,
                });
            }
        }
    }
}

fn grant(grants: &mut IndexMap<String, Grant>, id: &str, required: bool, span: Span) {
    let new = || Grant { id: id.to_owned(), required, span };
    grants.entry(id.to_owned()).or_insert_with(new).required |= required;
}
