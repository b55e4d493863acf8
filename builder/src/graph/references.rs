//! Which stages a target needs and which images they start from.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use crate::dockerfile::{Command, Dockerfile, Instruction, MountOptions, Span, Stage, parse_trigger, quoted, suggest};
use crate::graph::budget::Budget;
use crate::graph::frontend_args;
use crate::graph::named::{LayoutName, NamedContext, canonical, for_platform};
use crate::graph::platform::Platform;
use crate::graph::scope::{Scope, platform_args};
use crate::graph::{GraphError, PinnedImage, Problem};

/// The most stages that an error lists.
const MOST_LISTED: usize = 50;

/// What buildah's `FROM` takes before a `:` and a path (containers-transports(5)).
const TRANSPORTS: [&str; 6] = ["containers-storage", "dir", "docker-archive", "docker-daemon", "oci", "oci-archive"];

/// What the caller of a build decides about its graph.
#[derive(Debug, Clone)]
pub struct Request {
    /// `--build-arg`.
    pub build_args: BTreeMap<String, String>,
    /// Build args whose values are secrets that the graph does not know, by name.
    pub secret_args: BTreeSet<String>,
    /// `--target`: a stage's name or number; the last stage when absent.
    pub target: Option<String>,
    /// `--platform`.
    pub platform: Platform,
    /// `--label`, set on the result.
    pub labels: BTreeMap<String, String>,
    /// `--network`.
    pub network: StepNetwork,
    /// When the build's context last changed, in seconds since 1970, where that is known.
    pub context_time: Option<i64>,
    /// `--build-context`, by [`canonical`] name, or by one [`for_platform`]: it stands in for a stage or an image of that
    /// name.
    pub contexts: BTreeMap<String, NamedContext>,
}

/// What of the network the steps see that do not say it themselves.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum StepNetwork {
    /// The machine's.
    #[default]
    Host,
    /// None.
    None,
    /// One of their own with a way out.
    Private,
}

/// An image that has to be pinned before lowering.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ImageName {
    /// Canonical text of the reference.
    pub reference: String,
    /// Where it is instead of a registry.
    pub layout: Option<LayoutName>,
    /// The platform wanted, as text.
    pub platform: String,
}

/// What a stage starts from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Base {
    /// Nothing.
    Scratch,
    /// An earlier stage.
    Stage(usize),
    /// An image.
    Image(ImageName),
    /// The files of a named context, by its canonical name.
    Context(String),
}

/// What a build needs of a Dockerfile.
#[derive(Debug, Clone)]
pub struct Selection<'a> {
    /// The file.
    pub dockerfile: &'a Dockerfile,
    /// What was asked for.
    pub request: &'a Request,
    /// The global `ARG`s and the platform arguments, for `FROM` and for re-declaration.
    pub globals: Scope,
    /// The base of each stage that is needed.
    pub bases: BTreeMap<usize, Base>,
    /// The target's index.
    pub target: usize,
    /// The stages of each name, in order.
    names: HashMap<&'a str, Vec<usize>>,
    /// The images needed, each with the lines of the first instruction that names it.
    pub images: BTreeMap<ImageName, Span>,
    /// The named contexts needed that are files.
    pub contexts: BTreeSet<String>,
}

/// The images that were pinned so far.
pub type Pinned = BTreeMap<ImageName, Arc<PinnedImage>>;

/// Selects the stages that `request.target` needs. What the triggers of its base images need is only known of those in
/// `pinned`: once they are, this is to be asked again, until it names no more images.
pub fn select<'a>(
    dockerfile: &'a Dockerfile,
    request: &'a Request,
    pinned: &Pinned,
) -> Result<Selection<'a>, GraphError> {
    let globals = globals(dockerfile, request)?;
    let target = target(dockerfile, request)?;
    let mut selection = Selection {
        dockerfile,
        request,
        globals,
        bases: BTreeMap::new(),
        target,
        names: names(&dockerfile.stages),
        images: BTreeMap::new(),
        contexts: BTreeSet::new(),
    };
    let mut open = BTreeSet::from([target]);
    while let Some(index) = open.pop_last() {
        let stage = &dockerfile.stages[index];
        let base = selection.base_of(index, stage)?;
        match &base {
            Base::Scratch => {}
            Base::Stage(earlier) => _ = open.insert(*earlier),
            Base::Image(name) => _ = selection.images.entry(name.clone()).or_insert(stage.span),
            Base::Context(name) => _ = selection.contexts.insert(name.clone()),
        }
        let replaced = selection.is_replaced(stage);
        let triggers = if replaced { Vec::new() } else { triggers(dockerfile, &base, pinned, stage.span) };
        selection.bases.insert(index, base);
        for (word, span) in triggers.iter().chain(selection.instructions(stage)).flat_map(read_by) {
            match selection.from(index, word).map_err(|problem| problem.at(span))? {
                Base::Stage(earlier) => _ = open.insert(earlier),
                Base::Image(name) => _ = selection.images.entry(name).or_insert(span),
                Base::Context(name) => _ = selection.contexts.insert(name),
                Base::Scratch => {}
            }
        }
    }
    Ok(selection)
}

/// The triggers of a stage's base, on the lines of its `FROM`. One that does not parse is the business of lowering.
fn triggers(dockerfile: &Dockerfile, base: &Base, pinned: &Pinned, span: Span) -> Vec<Instruction> {
    let own = |instruction: &Instruction| match &instruction.command {
        Command::Onbuild(trigger) => Some(trigger.clone()),
        _ => None,
    };
    let texts: Vec<String> = match base {
        Base::Stage(earlier) => dockerfile.stages[*earlier].instructions.iter().filter_map(own).collect(),
        Base::Image(name) => pinned.get(name).map(|image| image.config.config.on_build.clone()).unwrap_or_default(),
        Base::Scratch | Base::Context(_) => Vec::new(),
    };
    let parsed = texts.iter().filter_map(|text| parse_trigger(text).ok());
    parsed.map(|instruction| Instruction { span, ..instruction }).collect()
}

/// The words of an instruction that name another tree: `COPY --from=` and the `from=` of a `RUN --mount`.
pub(super) fn read_by(instruction: &Instruction) -> Vec<(&str, Span)> {
    let words: Vec<&str> = match &instruction.command {
        Command::Copy(copy) => copy.from.iter().map(|word| word.0.as_str()).collect(),
        Command::Run(run) => run.mounts.iter().filter_map(MountOptions::from).collect(),
        _ => Vec::new(),
    };
    words.into_iter().map(|word| (word, instruction.span)).collect()
}

impl Selection<'_> {
    fn base_of(&self, index: usize, stage: &Stage) -> Result<Base, GraphError> {
        let at = |problem: Problem| problem.at(stage.span);
        let platform = self.stage_platform(stage).map_err(at)?;
        if let Some(context) = stage.name.as_ref().and_then(|name| self.named(name, &platform).transpose()) {
            return context.map_err(at);
        }
        let name = self.globals.expand(&stage.base).map_err(at)?;
        if name.is_empty() {
            return Err(at(Problem::EmptyBase { word: stage.base.0.clone() }));
        }
        if name == "scratch" {
            return Ok(Base::Scratch);
        }
        if let Some(context) = self.named(&name, &platform).map_err(at)? {
            return Ok(context);
        }
        if let Some(earlier) = self.stage_before(index, &name) {
            return Ok(Base::Stage(earlier));
        }
        image(&name, &platform).map(Base::Image).map_err(at)
    }

    /// The named context that stands in for `name`, if there is one.
    fn named(&self, name: &str, platform: &Platform) -> Result<Option<Base>, Problem> {
        if self.request.contexts.is_empty() {
            return Ok(None);
        }
        let Some((name, context)) = self.context_of(name, platform) else { return Ok(None) };
        Ok(Some(match context {
            NamedContext::Tree(_) => Base::Context(name.clone()),
            NamedContext::Image(reference) => Base::Image(image(reference, platform)?),
            NamedContext::Layout(layout) => {
                let (reference, layout, platform) = (name.clone(), Some(layout.clone()), platform.to_string());
                Base::Image(ImageName { reference, layout, platform })
            }
        }))
    }

    /// The context of this name for this platform, else for all.
    fn context_of(&self, name: &str, platform: &Platform) -> Option<(&String, &NamedContext)> {
        let (contexts, name) = (&self.request.contexts, canonical(name));
        contexts.get_key_value(&for_platform(&name, platform)).or_else(|| contexts.get_key_value(&name))
    }

    /// Whether a named context stands in for a stage: nothing of what is written there happens then.
    pub fn is_replaced(&self, stage: &Stage) -> bool {
        let Some(name) = stage.name.as_ref().filter(|_| !self.request.contexts.is_empty()) else { return false };
        self.stage_platform(stage).is_ok_and(|platform| self.context_of(name, &platform).is_some())
    }

    /// The instructions of a stage that count.
    pub fn instructions<'s>(&self, stage: &'s Stage) -> &'s [Instruction] {
        if self.is_replaced(stage) { &[] } else { &stage.instructions }
    }

    /// The platform of a stage: `FROM --platform=`, else the build's.
    pub fn stage_platform(&self, stage: &Stage) -> Result<Platform, Problem> {
        let Some(word) = &stage.platform else { return Ok(self.request.platform.clone()) };
        let text = self.globals.expand(word)?;
        if text.is_empty() { Ok(self.request.platform.clone()) } else { Ok(text.parse()?) }
    }

    /// The last stage before stage `index` that is called `name`; names are case-insensitive.
    fn stage_before(&self, index: usize, name: &str) -> Option<usize> {
        let stages = self.names.get(name.to_ascii_lowercase().as_str())?;
        stages[..stages.partition_point(|stage| *stage < index)].last().copied()
    }

    /// What `--from=word` in stage `index` means: an earlier stage by name or number, else an image.
    pub fn from(&self, index: usize, word: &str) -> Result<Base, Problem> {
        if word.contains('$') {
            return Err(Problem::BadValue {
                what: "--from",
                value: word.into(),
                reason: "variables are not expanded here; name a stage or use a stage `FROM $NAME AS x`",
            });
        }
        if let Some(context) = self.named(word, &self.request.platform)? {
            return Ok(context);
        }
        let number = word.parse::<usize>().ok().filter(|n| *n < self.dockerfile.stages.len());
        if let Some(earlier) = number.filter(|n| *n < index).or_else(|| self.stage_before(index, word)) {
            return Ok(Base::Stage(earlier));
        }
        if number.is_some() || self.stage_before(usize::MAX, word).is_some() {
            return Err(Problem::NotEarlier { name: word.into() });
        }
        if word == "scratch" { Ok(Base::Scratch) } else { image(word, &self.request.platform).map(Base::Image) }
    }
}

/// What to say of the instruction at `span` when no image has the name that it gives: a stage may have been meant, one
/// with a similar name above, or the one of this name below.
pub fn stage_meant(dockerfile: &Dockerfile, span: Span) -> Option<String> {
    let stages = &dockerfile.stages;
    let index = stages.iter().rposition(|stage| stage.span.start <= span.start)?;
    let stage = &stages[index];
    let words: Vec<&str> = if stage.span == span {
        vec![&stage.base.0]
    } else {
        stage.instructions.iter().filter(|other| other.span == span).flat_map(read_by).map(|(word, _)| word).collect()
    };
    let above: Vec<&str> = stages[..index].iter().filter_map(|stage| stage.name.as_deref()).collect();
    words.into_iter().find_map(|word| {
        if stage_named(&stages[index + 1..], word).is_some() {
            return Some(format!("the stage `{word}` stands below: a stage builds only on those above it"));
        }
        let meant = suggest::nearest(word, &above).filter(|name| !name.eq_ignore_ascii_case(word));
        meant.map(|name| format!("did you mean the stage `{name}`?"))
    })
}

/// The last of `stages` that is called `name`; names are case-insensitive.
fn stage_named(stages: &[Stage], name: &str) -> Option<usize> {
    let name = name.to_ascii_lowercase();
    stages.iter().rposition(|stage| stage.name.as_ref() == Some(&name))
}

/// The stages of each name, in order.
fn names(stages: &[Stage]) -> HashMap<&str, Vec<usize>> {
    let mut names: HashMap<&str, Vec<usize>> = HashMap::new();
    for (index, stage) in stages.iter().enumerate() {
        if let Some(name) = &stage.name {
            names.entry(name).or_default().push(index);
        }
    }
    names
}

fn image(name: &str, platform: &Platform) -> Result<ImageName, Problem> {
    let reference = registry::reference::parse(name).map_err(|error| {
        let transport = name.split_once(':').map(|(word, _)| word).filter(|word| TRANSPORTS.contains(word));
        transport.map_or_else(|| Problem::BadReference(error.to_string()), |_| Problem::Transport(name.to_owned()))
    })?;
    Ok(ImageName { reference: reference.whole(), layout: None, platform: platform.to_string() })
}

fn target(dockerfile: &Dockerfile, request: &Request) -> Result<usize, GraphError> {
    let last = dockerfile.stages.len() - 1;
    let Some(name) = &request.target else { return Ok(last) };
    stage_named(&dockerfile.stages, name).or_else(|| name.parse().ok().filter(|&index| index <= last)).ok_or_else(
        || {
            let named = dockerfile.stages.iter().enumerate();
            let named = named.map(|(index, stage)| stage.name.clone().unwrap_or_else(|| index.to_string()));
            let mut known: Vec<String> = named.take(MOST_LISTED).map(|name| format!("`{}`", quoted(&name))).collect();
            if last >= MOST_LISTED {
                known.push(format!("and {} more", last + 1 - MOST_LISTED));
            }
            Problem::UnknownTarget { name: name.clone(), known: known.join(", ") }.at(dockerfile.stages[last].span)
        },
    )
}

/// The global scope: platform arguments first, which need no `ARG` here and can be given all the same, then the `ARG`s
/// before the first `FROM`, each as `--build-arg` says or by its default.
fn globals(dockerfile: &Dockerfile, request: &Request) -> Result<Scope, GraphError> {
    let mut scope = Scope::new(dockerfile.escape, Budget::default());
    let stage = request.target.as_deref().unwrap_or("default").to_owned();
    let automatic = platform_args(&request.platform, &Platform::host());
    for (name, value) in automatic.into_iter().chain([("TARGETSTAGE".to_owned(), stage)]) {
        scope.set(&name, request.build_args.get(&name).unwrap_or(&value));
    }
    for instruction in &dockerfile.global_args {
        let Command::Arg(declarations) = &instruction.command else { continue };
        for declaration in declarations {
            if request.secret_args.contains(&declaration.name) {
                scope.hide(&declaration.name);
                continue;
            }
            let settled = |value| frontend_args::settled(&declaration.name, value, request);
            let value =
                match (request.build_args.get(&declaration.name).cloned().and_then(settled), &declaration.default) {
                    (Some(given), _) => Some(given),
                    (None, Some(word)) => Some(scope.expand(word).map_err(|problem| problem.at(instruction.span))?),
                    (None, None) => None,
                };
            if let Some(value) = value.and_then(settled) {
                scope.set(&declaration.name, &value);
            }
        }
    }
    Ok(scope)
}
