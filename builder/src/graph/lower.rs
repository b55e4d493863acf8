//! AST and pinned images → [`Graph`]: stage after stage, each instruction once.

use std::collections::BTreeMap;
use std::sync::Arc;

use indexmap::{IndexMap, IndexSet};

use crate::dockerfile::parse_trigger;
use crate::dockerfile::{Instruction, Span};
use crate::graph::config::{DEFAULT_PATH, History, ImageConfig};
use crate::graph::frontend_args;
use crate::graph::instructions::makes_layer;
use crate::graph::platform::Platform;
use crate::graph::references::{Base, ImageName, Selection};
use crate::graph::scope::Scope;
use crate::graph::{CopyOp, CopySource, Graph, GraphError, Op, PinnedImage, Problem, Vertex, VertexId};

/// What `comment` in the history says; scanners and `docker history` know the frontend by it.
const HISTORY_COMMENT: &str = "buildkit.dockerfile.v0";

/// The most characters of an instruction that the name of its step has.
const LONGEST_SHOWN: usize = 1000;

/// What a stage counts, in bytes: all are kept, for later ones may start from them.
const STAGE: usize = 4 << 10;

/// What a step counts beside its texts.
const STEP: usize = 2 << 10;

/// Lowers the stages of a selection, given the images that it names.
pub fn lower(selection: &Selection<'_>, images: &BTreeMap<ImageName, Arc<PinnedImage>>) -> Result<Graph, GraphError> {
    let mut lowering = Lowering::all(selection, images)?;
    let target = lowering.stages.remove(&selection.target).expect("the target is among the selected stages");
    let mut config = target.config;
    for (name, value) in &selection.request.labels {
        config.config.labels.insert(name.clone(), value.clone());
    }
    let epoch = frontend_args::default_epoch(selection)?;
    Ok(Graph { vertices: lowering.vertices, target: target.tip, config, platform: target.platform, epoch })
}

/// A lowered stage: what a later `FROM` or `COPY --from` starts from.
#[derive(Debug, Clone)]
pub(super) struct StageState {
    /// The last vertex.
    pub(super) tip: VertexId,
    /// The config so far.
    pub(super) config: ImageConfig,
    /// The variables in scope: the image's ENV, then ARG and ENV of this stage and those below it, in order.
    pub(super) scope: Scope,
    /// The ARGs declared in this stage and those below it, for the history.
    pub(super) args: IndexSet<String>,
    /// The entries of the config's `Env` by the names of their variables; they are in the config when the stage ends.
    pub(super) env: IndexMap<String, String>,
    /// Whether this stage has set CMD: an ENTRYPOINT then keeps it.
    pub(super) cmd_set: bool,
    /// The stage's platform.
    pub(super) platform: Platform,
    /// Its index.
    pub(super) index: usize,
    name: String,
    step: usize,
    steps: usize,
}

/// What all stages share while they are lowered.
pub(super) struct Lowering<'a> {
    pub(super) selection: &'a Selection<'a>,
    images: &'a BTreeMap<ImageName, Arc<PinnedImage>>,
    pub(super) vertices: Vec<Vertex>,
    sources: BTreeMap<ImageName, VertexId>,
    pub(super) stages: BTreeMap<usize, StageState>,
}

impl<'a> Lowering<'a> {
    /// Lowers every stage of the selection.
    pub(super) fn all(
        selection: &'a Selection<'a>,
        images: &'a BTreeMap<ImageName, Arc<PinnedImage>>,
    ) -> Result<Self, GraphError> {
        let (vertices, sources, stages) = (Vec::new(), BTreeMap::new(), BTreeMap::new());
        let mut lowering = Self { selection, images, vertices, sources, stages };
        for (&index, base) in &selection.bases {
            let stage = lowering.stage(index, base)?;
            lowering.stages.insert(index, stage);
        }
        Ok(lowering)
    }

    fn stage(&mut self, index: usize, base: &Base) -> Result<StageState, GraphError> {
        let stage = &self.selection.dockerfile.stages[index];
        let platform = self.selection.stage_platform(stage).map_err(|problem| problem.at(stage.span))?;
        let mut config = match base {
            Base::Stage(earlier) => self.stages[earlier].config.clone(),
            Base::Scratch | Base::Context(_) => ImageConfig::scratch(&platform),
            Base::Image(image) => self.images[image].config.clone(),
        };
        let replaced = self.selection.is_replaced(stage);
        let triggers = if replaced { Vec::new() } else { triggers(&mut config, stage.span)? };
        let instructions = || triggers.iter().chain(self.selection.instructions(stage));
        let steps = 1 + instructions().filter(|instruction| makes_layer(&instruction.command)).count();
        let name = stage.name.clone().unwrap_or_else(|| format!("stage-{index}"));
        let tip = match base {
            Base::Stage(earlier) => self.stages[earlier].tip,
            Base::Scratch => self.scratch(stage.span),
            Base::Image(image) => self.source(image, stage.span, format!("[{name} 1/{steps}] {}", stage.original)),
            Base::Context(files) => self.context(files, stage.span, format!("[{name} 1/{steps}] {}", stage.original)),
        };
        let env = config.config.env.iter().map(|entry| {
            let name = entry.split_once('=').map_or(entry.as_str(), |(name, _)| name);
            (name.to_owned(), entry.clone())
        });
        let env = env.collect();
        let (scope, args) = match base {
            // What a stage declares is declared in those that are built on it (Dockerfile reference, "Scope").
            Base::Stage(earlier) => (self.stages[earlier].scope.clone(), self.stages[earlier].args.clone()),
            Base::Scratch | Base::Image(_) | Base::Context(_) => (self.scope(&config), IndexSet::new()),
        };
        let mut lowered =
            StageState { tip, config, scope, args, env, cmd_set: false, platform, index, name, step: 1, steps };
        let kept = lowered.scope.budget().spend(STAGE).and_then(|()| lowered.scope.spend());
        let begun = kept.and_then(|()| lowered.spend_history(0));
        begun.map_err(|problem| problem.at(stage.span))?;
        if matches!(base, Base::Context(_)) {
            lowered.layer_history(&stage.original);
        }
        for instruction in instructions() {
            let known = lowered.config.history.len();
            let step = if makes_layer(&instruction.command) { STEP } else { 0 };
            lowered.scope.budget().spend(step).map_err(|problem| problem.at(instruction.span))?;
            let done = self.instruction(&mut lowered, instruction).and_then(|()| lowered.spend_history(known));
            done.map_err(|problem| problem.at(instruction.span))?;
        }
        lowered.config.config.env = lowered.env.values().cloned().collect();
        Ok(lowered)
    }

    /// The variables that a stage on an image begins with: those of the image, and a search path.
    fn scope(&self, config: &ImageConfig) -> Scope {
        let budget = self.selection.globals.budget().clone();
        let mut scope = Scope::new(self.selection.dockerfile.escape, budget);
        for (name, value) in config.config.env_pairs() {
            scope.set(name, value);
        }
        if scope.get("PATH").is_none() {
            scope.set("PATH", DEFAULT_PATH);
        }
        scope
    }

    /// The vertex whose tree is the files of a named context.
    fn context(&mut self, context: &str, span: Span, name: String) -> VertexId {
        let scratch = self.scratch(span);
        let op = CopyOp {
            context: Some(context.to_owned()),
            sources: vec![CopySource::Path("/".into())],
            destination: "/".into(),
            chown: None,
            chmod: None,
            exclude: Vec::new(),
            parents: false,
            unpack: false,
            link: false,
        };
        self.push(Vertex { op: Op::Copy(op), base: Some(scratch), from: Vec::new(), span, name })
    }

    fn scratch(&mut self, span: Span) -> VertexId {
        self.push(Vertex { op: Op::Scratch, base: None, from: Vec::new(), span, name: "FROM scratch".into() })
    }

    /// The vertex of an image; one for all its uses.
    fn source(&mut self, image: &ImageName, span: Span, name: String) -> VertexId {
        if let Some(&vertex) = self.sources.get(image) {
            return vertex;
        }
        let op = Op::Source(Arc::clone(&self.images[image]));
        let vertex = self.push(Vertex { op, base: None, from: Vec::new(), span, name });
        self.sources.insert(image.clone(), vertex);
        vertex
    }

    /// The vertex that `--from=word` reads.
    pub(super) fn from(&mut self, state: &StageState, word: &str, span: Span) -> Result<VertexId, Problem> {
        // What only a trigger of a base image names was not known when stages and images were selected.
        let unknown = || Problem::NotImplemented { what: format!("`from={word}` in an ONBUILD trigger") };
        Ok(match self.selection.from(state.index, word)? {
            Base::Stage(earlier) => self.stages.get(&earlier).ok_or_else(unknown)?.tip,
            Base::Scratch => self.scratch(span),
            Base::Image(image) if !self.images.contains_key(&image) => return Err(unknown()),
            Base::Image(image) => self.source(&image, span, format!("FROM {word}")),
            Base::Context(files) if !self.selection.contexts.contains(&files) => return Err(unknown()),
            Base::Context(files) => self.context(&files, span, format!("FROM {word}")),
        })
    }

    /// Appends a layer-making vertex to a stage.
    pub(super) fn layer(
        &mut self,
        state: &mut StageState,
        op: Op,
        from: impl IntoIterator<Item = VertexId>,
        instruction: &Instruction,
    ) {
        let from = from.into_iter().collect();
        state.step += 1;
        let shown = match instruction.original.char_indices().nth(LONGEST_SHOWN) {
            Some((end, _)) => format!("{}…", &instruction.original[..end]),
            None => instruction.original.clone(),
        };
        let name = format!("[{} {}/{}] {shown}", state.name, state.step, state.steps);
        state.tip = self.push(Vertex { op, base: Some(state.tip), from, span: instruction.span, name });
    }

    fn push(&mut self, vertex: Vertex) -> VertexId {
        self.vertices.push(vertex);
        VertexId(self.vertices.len() - 1)
    }
}

impl StageState {
    /// Counts what was added to the history behind its first `known` entries.
    fn spend_history(&self, known: usize) -> Result<(), Problem> {
        let entries = &self.config.history[known..];
        self.scope.budget().spend(entries.iter().map(|entry| entry.created_by.len() + size_of::<History>()).sum())
    }

    /// Notes an instruction that made a layer.
    pub(super) fn layer_history(&mut self, text: &str) {
        self.history(format!("{text} # buildkit"), false);
    }

    /// Notes an instruction that changed the config alone.
    pub(super) fn config_history(&mut self, text: String) {
        self.history(text, true);
    }

    /// Notes an instruction by its whole text.
    pub(super) fn history(&mut self, created_by: String, empty_layer: bool) {
        self.config.history.push(History {
            created_by,
            comment: HISTORY_COMMENT.into(),
            empty_layer,
            ..History::default()
        });
    }
}

/// Takes the base's ONBUILD triggers: they run first in this stage, and its image no longer has them.
fn triggers(config: &mut ImageConfig, span: Span) -> Result<Vec<Instruction>, GraphError> {
    std::mem::take(&mut config.config.on_build)
        .into_iter()
        .map(|trigger| {
            // Its lines are the trigger's own; errors point at the FROM that runs it.
            let parsed = parse_trigger(&trigger).map(|instruction| Instruction { span, ..instruction });
            parsed.map_err(|error| Problem::BadTrigger { trigger, reason: error.to_string() }.at(span))
        })
        .collect()
}
