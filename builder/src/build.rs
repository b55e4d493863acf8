//! A build from end to end: parse → references → bases → lower → solve → image → export.

mod prepare;

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

use snapshot::{Flavour, Store};

use crate::bases::{BaseError, Places};
use crate::cache::{self, CacheFrom, CacheTo, Caches};
use crate::context::{ContextError, Ignore, LocalContext, Memo, Modes};
use crate::contexts::{NamedTree, OpenError, open_named};
use crate::dockerfile::lint::Finding;
use crate::dockerfile::{self, CheckOptionError};
use crate::export::compression::Chosen;
use crate::export::{self, ExportError, Exported, Output, Uploads};
use crate::grants::Grants;
use crate::graph::frontend_args;
use crate::graph::named::{self, NamedContext};
use crate::graph::outline::Outline;
use crate::graph::references::{Request, StepNetwork};
use crate::graph::{Graph, GraphError, PinnedImage};
use crate::image::{Image, assemble};
use crate::progress::{Progress, Reporter};
use crate::prune::{self, Limit};
use crate::remote::Remotes;
use crate::sandbox::{Cancel, RootEmulation, Rung, Sandbox, Settings};
use crate::solve::whole::Wholes;
use crate::solve::{self, Cause, SolveError, World};

use prepare::{Prepared, prepare, with_selection};

/// How often a build begins again because it found a damaged file in the store: each time there is one less.
const RETRIES: usize = 8;

/// The store's file of what files of build contexts contain.
const CONTEXT_DIGESTS: &str = "context-digests";

/// What to build.
#[derive(Debug, Clone)]
pub struct Build {
    /// The Dockerfile's bytes.
    pub dockerfile: Vec<u8>,
    /// How the Dockerfile is called in messages.
    pub dockerfile_name: String,
    /// The directory of the build context.
    pub context: PathBuf,
    /// What of it is ignored.
    pub ignore: Ignore,
    /// What is asked of the Dockerfile.
    pub request: Request,
    /// Names for the image.
    pub tags: Vec<registry::Reference>,
    /// Where the image goes besides the store.
    pub outputs: Vec<Output>,
    /// How layers are compressed.
    pub compression: Chosen,
    /// Look nothing up in the cache.
    pub no_cache: bool,
    /// How it uses caches.
    pub caching: Caching,
    /// Steps at a time; as many as there are processors when absent.
    pub jobs: Option<usize>,
    /// What its steps may have.
    pub grants: Grants,
    /// What each of its steps has.
    pub settings: Settings,
    /// The time of everything that the build makes, RFC 3339; when absent what the Dockerfile says, else the clock's.
    pub epoch: Option<String>,
    /// Whether to tell of what was given and the Dockerfile has no place for: all of it was given for this one.
    pub tell_unused: bool,
}

/// How a build uses caches, and tells of it.
#[derive(Debug, Clone, Default)]
pub struct Caching {
    /// Look nothing of these stages up in the cache.
    pub no_cache_stages: Vec<String>,
    /// After a failure, finish what does not depend on the step that failed.
    pub keep_going: bool,
    /// Say of each step that runs why the cache did not have it.
    pub explain: bool,
    /// Which permissions the files of the build context have.
    pub modes: Modes,
    /// How many of a hundred steps that the cache has are run all the same, and compared.
    pub verify: u8,
    /// Where steps are looked up besides the store.
    pub from: Vec<CacheFrom>,
    /// Where steps are kept besides the store.
    pub to: Vec<CacheTo>,
}

/// What a build stands on.
#[derive(Debug, Clone, Copy)]
pub struct Machine<'a> {
    /// The state directory.
    pub home: &'a std::path::Path,
    /// What runs commands.
    pub sandbox: &'a Sandbox,
    /// Settings of the registry client.
    pub registry: &'a registry::Options,
    /// Ends the build.
    pub cancel: &'a Cancel,
    /// How large the store may be afterwards.
    pub keep_storage: Limit,
}

/// Why a build failed.
#[derive(Debug, thiserror::Error)]
pub enum BuildError {
    /// The Dockerfile does not parse: all its errors.
    #[error(transparent)]
    Parse(#[from] dockerfile::Errors),
    /// The Dockerfile asks for what cannot be.
    #[error(transparent)]
    Graph(#[from] GraphError),
    /// A base image.
    #[error(transparent)]
    Base(#[from] BaseError),
    /// A step.
    #[error(transparent)]
    Solve(#[from] SolveError),
    /// The build context.
    #[error(transparent)]
    Context(#[from] ContextError),
    /// A context with a name.
    #[error("cannot open the build context that is called `{name}`")]
    NamedContext {
        /// Its name.
        name: String,
        /// Why.
        source: Box<OpenError>,
    },
    /// An output.
    #[error(transparent)]
    Export(#[from] ExportError),
    /// The store.
    #[error("cannot use the store")]
    Store(#[from] snapshot::Error),
    /// The registry client.
    #[error("cannot set up the registry client")]
    Client(#[source] Box<registry::Error>),
    /// The build arg that stands for `# check=`.
    #[error("cannot read the build arg BUILDKIT_DOCKERFILE_CHECK")]
    CheckOptions(#[from] CheckOptionError),
    /// A cache was not written that had to be.
    #[error("cannot keep the steps in the cache `{place}`: see the warnings above")]
    Cache {
        /// The cache.
        place: String,
    },
    /// Checks that found something where `error=true` is asked for.
    #[error("the checks found something, and `error=true` makes that an error")]
    Checks(Vec<Finding>),
}

impl BuildError {
    /// Whether somebody cancelled the build.
    pub fn is_cancelled(&self) -> bool {
        match self {
            Self::Solve(error) => matches!(*error.cause, Cause::Cancelled),
            Self::NamedContext { source, .. } => source.is_cancelled(),
            Self::Export(error) => matches!(error, ExportError::Cancelled),
            _ => false,
        }
    }
}

/// Threads that keep steps in caches: each waits for the network most of the time.
const KEEPERS: usize = 4;

/// The store as the sandbox's rung needs it.
pub fn open_store(home: &std::path::Path, sandbox: &Sandbox) -> Result<Store, snapshot::Error> {
    let flavour = match (sandbox.emulation(), sandbox.user_xattr()) {
        (Some(_), _) => Flavour::Single,
        (None, true) => Flavour::UserXattr,
        (None, false) => Flavour::Trusted,
    };
    Store::open(home, flavour)
}

/// A client of the registries.
pub fn client(options: &registry::Options) -> Result<registry::Client, BuildError> {
    registry::Client::new(options.clone()).map_err(|source| BuildError::Client(Box::new(source)))
}

/// Makes the checks and builds nothing. The base images are pinned, for what they set is known to some checks.
pub fn check(build: &Build, registry: &registry::Options, progress: &dyn Progress) -> Result<Vec<Finding>, BuildError> {
    let places = Places { client: &client(registry)?, configs: None };
    Ok(prepare(build, places, &Reporter::new(progress))?.findings)
}

/// Says what the target may be given, and builds nothing. The base images are pinned, for their variables have a say in
/// the defaults of build args.
pub fn outline(build: &Build, registry: &registry::Options, progress: &dyn Progress) -> Result<Outline, BuildError> {
    let reporter = Reporter::new(progress);
    let places = Places { client: &client(registry)?, configs: None };
    with_selection(build, places, &reporter, |_, selection, images| Ok(Outline::of(&selection, images)?))
}

/// What the builds of one command share.
#[derive(Debug, Clone, Copy)]
pub struct Shared<'a> {
    /// The machine.
    pub machine: &'a Machine<'a>,
    /// The registries.
    pub client: &'a registry::Client,
    /// The store.
    pub store: &'a Store,
    /// Where events go.
    pub reporter: &'a Reporter<'a>,
}

/// Builds.
pub fn build(build: &Build, machine: &Machine<'_>, progress: &dyn Progress) -> Result<Image, BuildError> {
    let reporter = &Reporter::new(progress);
    let client = &client(machine.registry)?;
    // The process ends soon after the build, and quicker than the client's thread would in good order.
    std::mem::forget(client.clone());
    let store = &open_store(machine.home, machine.sandbox)?;
    let image = build_with(build, &Shared { machine, client, store, reporter })?;
    reporter.sum_up();
    Ok(image)
}

/// Builds with what other builds use too.
pub fn build_with(build: &Build, shared: &Shared<'_>) -> Result<Image, BuildError> {
    let Shared { machine, client, store, reporter } = *shared;
    let pushed: &[_] = if build.outputs.contains(&Output::Push) { &build.tags } else { &[] };
    let uploads = &Uploads::begin(client, pushed);
    let Prepared { graph, contexts, findings, notes } =
        prepare(build, Places { client, configs: Some(store.blobs()) }, reporter)?;
    let secrets = graph.secrets();
    let needles = build.grants.needles(&secrets);
    let reporter = &reporter.hiding(&needles);
    let name = &build.dockerfile_name;
    for Finding { rule, span, message, .. } in &findings {
        reporter.warn(&format!("{rule}: {message} ({name}:{})", span.start));
    }
    if machine.sandbox.rung() == Rung::Chroot {
        reporter.warn("steps are confined by this container alone: see `rbuild doctor`");
    }
    if let Some(reason) = machine.sandbox.limit(&build.settings) {
        reporter.warn(&format!("the memory and processors of steps are not limited: {reason}; `systemd-run --user --scope -p Delegate=yes rbuild …` gives it a cgroup"));
    }
    let notes = notes.into_iter().chain(frontend_args::without_effect(&build.request));
    notes.chain(build.grants.unset(&secrets)).for_each(|note| reporter.warn(&note));
    uploads.check()?;
    export::check(&build.outputs)?;

    let lease = store.lease(&format!("building `{name}`"))?;
    let context = LocalContext::open(&build.context, build.ignore.clone())?.with_modes(build.caching.modes);
    let remotes = Remotes::new(&build.grants, machine.cancel);
    let contexts = named_contexts(&contexts, &build.request, store, &remotes)?;
    // Who asks for no cache wants every file read, too.
    let memo = if build.no_cache { Memo::default() } else { Memo::at(&store.path().join(CONTEXT_DIGESTS)) };
    let options = solve::Options {
        secrets_in_layers: build.grants.secrets_in_layers && !needles.is_empty(),
        ..options(build, &graph, machine.sandbox.emulation())
    };
    let caches = Caches::new(&build.caching.from, &build.caching.to);
    let wholes = Wholes::default();
    let world = World {
        store,
        wholes: &wholes,
        client,
        executor: machine.sandbox,
        context: &context,
        contexts: &contexts,
        remotes: &remotes,
        memo: &memo,
        reporter,
        cancel: machine.cancel,
        options: &options,
        caches: &caches,
        grants: &build.grants,
        made: &|_| (),
        making: None,
        needles: Some(&needles).filter(|needles| !needles.is_empty() && !options.secrets_in_layers),
    };
    let made = std::thread::scope(|scope| {
        // What steps made goes into caches while later steps run and the image is pushed.
        let workers = if caches.can_export() { KEEPERS } else { 0 };
        (0..workers).for_each(|_| drop(scope.spawn(|| world.caches.work(&world))));
        let mut made = make(build, &graph, &world, uploads);
        // The layers of steps that a cache has are fetched when something wants them, be it a step or an output.
        if made.is_err() && !machine.cancel.is_cancelled() && caches.give_up(reporter) {
            made = make(build, &graph, &world, uploads);
        }
        for damaged in 1..=RETRIES {
            if made.is_ok() || store.blobs().damaged() < damaged {
                break;
            }
            reporter.warn("a damaged file was removed from the store: what it was for is made again");
            made = make(build, &graph, &world, uploads);
        }
        caches.keep_mounts(&world);
        caches.close();
        made
    });
    let keep = |bytes: &[u8]| if build.no_cache { Ok(()) } else { store.put_file(CONTEXT_DIGESTS, bytes) };
    let learnt = memo.save(keep);
    drop(lease);
    tidy(store, machine.keep_storage, reporter);
    // What made the build fail is told, and a build that is done does not fail for what the next one can find out again.
    let image = made?;
    if let Err(error) = learnt {
        reporter.warn(&format!("the next build reads all of its context again: {}", solve::chain(&error)));
    }
    if let Some(place) = caches.failure() {
        return Err(BuildError::Cache { place: place.to_string() });
    }
    Ok(image)
}

/// Keeps the store within its limit. A build that is done does not fail for it.
fn tidy(store: &Store, limit: Limit, reporter: &Reporter<'_>) {
    match prune::keep_within(store, limit) {
        Ok(pruned) => {
            for name in pruned.forgotten {
                reporter.warn(&format!(
                    "the image `{name}` is no more: it was the longest unused in a store above its limit ({limit})"
                ));
            }
        }
        Err(error) => reporter.warn(&format!("cannot keep the store within its limit ({limit}): {error}")),
    }
}

/// Solves a graph and exports what came of it.
fn make(build: &Build, graph: &Graph, world: &World<'_>, uploads: &Uploads) -> Result<Image, BuildError> {
    let solve = |world: &World<'_>| solve::solve(graph, world);
    let push = build.outputs.contains(&Output::Push);
    let tree = if push { export::pushing(world, &build.tags, solve) } else { solve(world) }?;
    export::wanted(world)?;
    let made: Vec<Option<&str>> = tree.layers().iter().map(|layer| layer.created()).collect();
    let export_layers = world.options.export_layers;
    let layers = if export_layers { tree.blobs(world).map_err(ExportError::from)? } else { Vec::new() };
    export::wanted(world)?;
    let mut image = assemble(graph.config.clone(), layers, &made, world.options.epoch.as_deref());
    if world.caches.is_inline() {
        cache::annotate(&mut image, &tree.records(world));
    }
    let exported = Exported { image: &image, tree: &tree, tags: &build.tags };
    uploads.send(&image);
    if export_layers {
        export::store(world, &exported)?;
    }
    for output in &build.outputs {
        export::wanted(world)?;
        export::export(world, output, &exported, uploads)?;
    }
    Ok(image)
}

/// Opens the named contexts that are files and that the build needs.
fn named_contexts(
    names: &BTreeSet<String>,
    request: &Request,
    store: &Store,
    remotes: &Remotes,
) -> Result<BTreeMap<String, NamedTree>, BuildError> {
    let mut opened = BTreeMap::new();
    for name in names {
        if let Some(NamedContext::Tree(location)) = request.contexts.get(name) {
            let tree = open_named(store, location, remotes);
            let failed =
                |source| BuildError::NamedContext { name: named::familiar(name).to_owned(), source: Box::new(source) };
            opened.insert(name.clone(), tree.map_err(failed)?);
        }
    }
    Ok(opened)
}

fn options(build: &Build, graph: &Graph, emulation: Option<RootEmulation>) -> solve::Options {
    solve::Options {
        jobs: build.jobs,
        no_cache: build.no_cache,
        no_cache_stages: build.caching.no_cache_stages.clone(),
        keep_going: build.caching.keep_going,
        explain: build.caching.explain,
        verify: build.caching.verify,
        secrets_in_layers: false,
        settings: build.settings.clone(),
        private_network: build.request.network == StepNetwork::Private,
        emulation,
        compression: build.compression.compression,
        force_compression: build.compression.force,
        keep_blobs_of: graph.base_image().filter(|base| wants_blobs(build, base)).map(|base| base.manifest.clone()),
        epoch: build.epoch.clone().or_else(|| graph.epoch.clone()),
        export_layers: build.outputs.is_empty()
            || build.outputs.iter().any(Output::wants_layers)
            || !build.tags.is_empty(),
    }
}

/// Whether an output may want the layers of the image's base as they were fetched: a registry that they did not come from
/// may not have them.
fn wants_blobs(build: &Build, base: &PinnedImage) -> bool {
    let elsewhere = |tag: &registry::Reference| tag.registry() != base.reference.registry();
    build.compression.force
        || build.outputs.iter().any(|output| match output {
            Output::Push => build.tags.iter().any(elsewhere),
            Output::Store | Output::Oci { .. } | Output::Docker { .. } => true,
            Output::Local { .. } | Output::Tar { .. } => false,
        })
}
