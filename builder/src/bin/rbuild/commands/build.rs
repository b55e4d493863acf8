//! `rbuild build`. Flags have the names and the meaning that `docker buildx build` gave them.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Context;
use builder::build::{self, Build, Machine};
use builder::cache::CacheTo;
use builder::context::Ignore;
use builder::contexts::{self, MainContext};
use builder::export::{Output, OutputSpec, compression};
use builder::grants::{AgentSpec, Grants, SecretSpec};
use builder::graph::frontend_args::{self, EPOCH, INLINE_CACHE};
use builder::graph::named::{NamedContext, canonical, for_platform};
use builder::graph::platform::{Platform, PlatformError};
use builder::graph::references::Request;
use builder::image::Image;
use builder::paths;
use builder::prune::Limit;
use builder::remote::Remotes;
use builder::remote::location::Location;
use builder::sandbox::{Cancel, Sandbox};
use clap::Args;
use serde_json::json;

use crate::commands::caching::CachingArgs;
use crate::commands::registries::RegistryArgs;
use crate::commands::settings::{NetworkMode, SettingsArgs};
use crate::commands::{app, call, grants, registries};
use crate::report::{Dockerfile, Failure};
use crate::signals;
use crate::ui::{self, Mode};

/// Build an image from a Dockerfile
#[derive(Debug, Clone, Args)]
pub(crate) struct BuildArgs {
    /// The build context: a directory, a git or https URL, or `-` for a tar archive or a Dockerfile on standard input
    #[arg(value_name = "CONTEXT", default_value = ".")]
    pub(crate) context: String,
    /// The Dockerfile; `-` reads it from standard input; of a fetched context, a file in it [default: Dockerfile]
    #[arg(short, long, value_name = "PATH")]
    pub(crate) file: Option<PathBuf>,
    /// A name for the image, `name[:tag]`; may be given several times
    #[arg(short, long = "tag", value_name = "NAME")]
    pub(crate) tags: Vec<String>,
    /// Push the image to the registry that each name names
    #[arg(long)]
    pub(crate) push: bool,
    /// `type=oci|docker|local|tar|registry[,dest=PATH][,tar=false][,compression=KIND][,compression-level=N][,force-compression=true]`; `-` is
    /// standard output; may be given several times
    #[arg(short, long = "output", value_name = "SPEC", value_parser = |text: &str| text.parse::<OutputSpec>())]
    pub(crate) outputs: Vec<OutputSpec>,
    /// How new layers are compressed where an output does not say it: `gzip`, `zstd` or `uncompressed` [default: gzip]
    #[arg(long, value_name = "KIND")]
    pub(crate) compression: Option<String>,
    /// The level of the compression: 0 to 9 for gzip, 1 for zstd [default: 6 for gzip]
    #[arg(long, value_name = "N")]
    pub(crate) compression_level: Option<String>,
    /// Build this stage instead of the last
    #[arg(long, value_name = "STAGE")]
    pub(crate) target: Option<String>,
    /// Set an ARG, `NAME=VALUE`; `NAME` alone takes the value from the environment
    #[arg(id = "build_arg", long = "build-arg", value_name = "NAME[=VALUE]")]
    pub(crate) arguments: Vec<String>,
    /// A context with a name, `NAME=VALUE`, for `COPY --from=NAME` and instead of an image or a stage `NAME`: a directory,
    /// a git or https URL, `docker-image://REF` or `oci-layout://PATH[:TAG|@DIGEST]`
    #[arg(long = "build-context", value_name = "NAME=VALUE")]
    pub(crate) contexts: Vec<String>,
    /// Set a label of the image, `NAME=VALUE`
    #[arg(long = "label", value_name = "NAME=VALUE")]
    pub(crate) labels: Vec<String>,
    /// Let steps mount a secret, `id=NAME[,src=PATH|,env=VARIABLE]`; may be given several times
    #[arg(long = "secret", value_name = "SPEC", value_parser = |text: &str| SecretSpec::parse(text))]
    pub(crate) secrets: Vec<SecretSpec>,
    /// Let layers hold the values of secrets: a step that puts one there fails otherwise
    #[arg(long)]
    pub(crate) allow_secret_in_layer: bool,
    /// Let steps use an ssh agent: `default`, `NAME=SOCKET` or `NAME=KEY[,KEY]`; may be given several times
    #[arg(long = "ssh", value_name = "SPEC", value_parser = |text: &str| AgentSpec::parse(text))]
    pub(crate) agents: Vec<AgentSpec>,
    /// The platform to build for, `linux/ARCH`
    #[arg(long, value_name = "OS/ARCH", value_parser = |text: &str| text.parse::<Platform>())]
    pub(crate) platform: Option<Platform>,
    #[command(flatten)]
    pub(crate) call: call::CallArgs,
    /// Run every step and read every file of the context, whatever the cache has
    #[arg(long)]
    pub(crate) no_cache: bool,
    #[command(flatten)]
    pub(crate) caching: CachingArgs,
    /// Ask the registry for every base image (rbuild always does)
    #[arg(long)]
    pub(crate) pull: bool,
    /// How large the store may be when the build is done: bytes (`20GiB`) or a share of the disk; the longest unused goes
    #[arg(long, value_name = "SIZE", default_value_t = Limit::default())]
    pub(crate) keep_storage: Limit,
    /// Steps to run at a time [default: the number of processors]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..))]
    pub(crate) jobs: Option<u16>,
    /// The network of the steps that do not say it themselves; `private` needs `slirp4netns`
    #[arg(long, value_name = "MODE", default_value = "default")]
    pub(crate) network: NetworkMode,
    #[command(flatten)]
    pub(crate) settings: SettingsArgs,
    #[command(flatten)]
    pub(crate) isolation: super::isolation::IsolationArgs,
    /// Write the digest of the image's config to a file
    #[arg(long, value_name = "FILE")]
    pub(crate) iidfile: Option<PathBuf>,
    /// Write what was built to a file, as JSON
    #[arg(long, value_name = "FILE")]
    pub(crate) metadata_file: Option<PathBuf>,
    #[command(flatten)]
    pub(crate) registries: RegistryArgs,
    /// How to show what happens
    #[arg(long, value_name = "MODE", default_value = "auto")]
    pub(crate) progress: Mode,
    /// Show nothing but errors and print the image's digest
    #[arg(short, long)]
    pub(crate) quiet: bool,
    #[command(flatten)]
    pub(crate) app: app::build::AppFlags,
}

impl BuildArgs {
    /// All outputs: those of `-o`, and `--push`.
    pub(crate) fn all_outputs(&self) -> Vec<OutputSpec> {
        let mut outputs = self.outputs.clone();
        if self.push && outputs.iter().all(|spec| spec.output != Output::Push) {
            outputs.push(OutputSpec { output: Output::Push, compression: None, force: false });
        }
        outputs
    }
}

pub(crate) fn run(args: &BuildArgs) -> Result<ExitCode, Failure> {
    if app::build::is_app(args) {
        return app::build::run(args).map(|()| ExitCode::SUCCESS);
    }
    let mut location = Location::parse(&args.context).map_err(|error| Failure::Usage(error.to_string()))?;
    let mut build = build_of(args)?;
    let (grants, _agents) = grants::read(&args.secrets, &args.agents)?;
    build.grants = Grants { secrets_in_layers: args.allow_secret_in_layer, ..grants };
    if let Location::Git(git) = &mut location {
        git.keep_git_dir |= build.request.build_args.get(frontend_args::KEEP_GIT_DIR).is_some_and(|value| value == "1");
    }
    let registry = registries::options(&args.registries)?;
    let local = local_context(args, &location)?;
    let asked = args.call.asked();
    let sandbox = if asked.is_some() && local.is_some() { None } else { Some(args.isolation.enter()?) };
    let cancel = Cancel::new().context("cannot prepare to cancel steps").map_err(Failure::Environment)?;
    signals::cancel_on_signals(cancel.clone()).context("cannot take signals").map_err(Failure::Environment)?;
    let mut main = match local {
        Some(main) => main,
        None => fetched_context(args, &location, &build, (sandbox.as_ref(), &cancel))?,
    };
    build.dockerfile = std::mem::take(&mut main.dockerfile);
    build.dockerfile_name.clone_from(&main.name);
    build.context.clone_from(&main.directory);
    build.ignore = std::mem::take(&mut main.ignore);
    build.request.context_time = main.changed;
    build.epoch = epoch(&build.request)?;
    let text = String::from_utf8_lossy(&build.dockerfile).into_owned();
    let dockerfile = Dockerfile { name: main.name.clone(), text };
    if let Some(asked) = asked {
        return call::answer(asked, &build, &registry, dockerfile);
    }
    let sandbox = sandbox.expect("only to answer a call there is none");
    let home = super::home()?;

    let mode = if args.quiet { Mode::Quiet } else { args.progress };
    let display = ui::display(mode);
    let keep_storage = args.keep_storage;
    let machine = Machine { home: &home, sandbox: &sandbox, registry: &registry, cancel: &cancel, keep_storage };
    let result = build::build(&build, &machine, display.as_ref());
    display.finish(result.is_ok());
    let image =
        result.map_err(|error| Failure::Build { error: Box::new(error), dockerfile, is_told: ui::tells_all(mode) })?;
    write_results(args, &build, &image)?;
    if !build.outputs.iter().any(Output::is_stdout) {
        ui::built(mode, &image, &build.tags);
    }
    Ok(ExitCode::SUCCESS)
}

/// Opens a build context that is a directory.
fn local_context(args: &BuildArgs, location: &Location) -> Result<Option<MainContext>, Failure> {
    let Location::Directory(directory) = location else { return Ok(None) };
    let opened = contexts::open_local(directory, args.file.as_deref(), &mut std::io::stdin());
    opened.map(Some).map_err(|error| Failure::Other(error.into()))
}

/// Opens a build context that has to be kept in the store, which is as the sandbox's rung needs it.
fn fetched_context(
    args: &BuildArgs,
    location: &Location,
    build: &Build,
    (sandbox, cancel): (Option<&Sandbox>, &Cancel),
) -> Result<MainContext, Failure> {
    let sandbox = sandbox.expect("only for a directory is there no sandbox");
    let store = build::open_store(&super::home()?, sandbox).context("cannot use the store")?;
    let remotes = Remotes::new(&build.grants, cancel);
    let opened = contexts::open(location, args.file.as_deref(), std::io::stdin(), (&store, &remotes));
    opened.map_err(|error| if error.is_cancelled() { Failure::Cancelled } else { Failure::Other(error.into()) })
}

/// What the arguments say; the context is still to be opened.
pub(crate) fn build_of(args: &BuildArgs) -> Result<Build, Failure> {
    let tags: Result<Vec<_>, _> = args.tags.iter().map(|tag| registry::reference::parse(tag)).collect();
    let tags = tags.map_err(|error| Failure::Usage(error.to_string()))?;
    if let Some(tag) = tags.iter().find(|tag| tag.digest().is_some()) {
        return Err(Failure::Usage(format!("`{}` has a digest: a name for a new image cannot", tag.whole())));
    }
    let specs = args.all_outputs();
    let general = compression::read(args.compression.as_deref(), args.compression_level.as_deref());
    let chosen = general.and_then(|general| compression::choose(general, &specs));
    let compression = chosen.map_err(|error| Failure::Usage(error.to_string()))?;
    let outputs: Vec<Output> = specs.into_iter().map(|spec| spec.output).collect();
    if outputs.contains(&Output::Push) && tags.is_empty() {
        return Err(Failure::Usage("pushing needs a name: add `-t registry/name:tag`".into()));
    }
    let mut build_args = BTreeMap::new();
    for text in &args.arguments {
        match text.split_once('=') {
            Some((name, value)) => _ = build_args.insert(name.to_owned(), value.to_owned()),
            None => build_args.extend(paths::variable(text).map(|value| (text.clone(), value))),
        }
    }
    // As buildx does: an ARG of this name sees the caller's variable, too.
    if let (false, Some(seconds)) = (build_args.contains_key(EPOCH), paths::variable(EPOCH)) {
        build_args.insert(EPOCH.to_owned(), seconds);
    }
    let mut caching = args.caching.caching();
    if build_args.get(INLINE_CACHE).is_some_and(|value| matches!(value.as_str(), "1" | "true")) {
        caching.to.push(CacheTo::inline());
    }
    let mut build = Build {
        dockerfile: Vec::new(),
        dockerfile_name: String::new(),
        context: PathBuf::new(),
        ignore: Ignore::default(),
        request: Request {
            secret_args: BTreeSet::new(),
            build_args,
            target: args.target.clone(),
            platform: args.platform.clone().unwrap_or_else(Platform::host),
            labels: labels(&args.labels)?,
            network: args.network.into(),
            context_time: None,
            contexts: named_contexts(&args.contexts)?,
        },
        tags,
        outputs,
        compression,
        no_cache: args.no_cache,
        caching,
        jobs: args.jobs.map(usize::from),
        settings: args.settings.read(args.network)?,
        grants: Grants::default(),
        epoch: None,
    };
    build.epoch = epoch(&build.request)?;
    Ok(build)
}

fn named_contexts(contexts: &[String]) -> Result<BTreeMap<String, NamedContext>, Failure> {
    contexts
        .iter()
        .map(|text| match text.split_once('=') {
            Some((name, value)) if !name.is_empty() => {
                let context = NamedContext::parse(value).map_err(|error| Failure::Usage(error.to_string()))?;
                let key = match name.split_once("::") {
                    None => canonical(name),
                    Some((name, platform)) => {
                        let platform =
                            platform.parse().map_err(|error: PlatformError| Failure::Usage(error.to_string()));
                        for_platform(&canonical(name), &platform?)
                    }
                };
                Ok((key, context))
            }
            _ => Err(Failure::Usage(format!("`--build-context {text}`: write `--build-context NAME=VALUE`"))),
        })
        .collect()
}

fn labels(labels: &[String]) -> Result<BTreeMap<String, String>, Failure> {
    labels
        .iter()
        .map(|text| {
            let (name, value) = text.split_once('=').unwrap_or((text, ""));
            if name.is_empty() {
                return Err(Failure::Usage(format!("`--label {text}` has no name: write `--label NAME=VALUE`")));
            }
            Ok((name.to_owned(), value.to_owned()))
        })
        .collect()
}

/// `SOURCE_DATE_EPOCH` (reproducible-builds.org) as RFC 3339.
fn epoch(request: &Request) -> Result<Option<String>, Failure> {
    let Some(seconds) = frontend_args::given_epoch(request) else { return Ok(None) };
    let wrong =
        || Failure::Usage(format!("SOURCE_DATE_EPOCH=`{seconds}` is neither a number of seconds nor `context`"));
    frontend_args::epoch_time(&seconds).map(Some).ok_or_else(wrong)
}

/// `--iidfile` and `--metadata-file`, with the keys that buildx writes.
fn write_results(args: &BuildArgs, build: &Build, image: &Image) -> Result<(), Failure> {
    if let Some(file) = &args.iidfile {
        fs_err::write(file, image.config_descriptor.digest().to_string()).context("cannot write the --iidfile")?;
    }
    if let Some(file) = &args.metadata_file {
        let names: Vec<String> = build.tags.iter().map(registry::Reference::whole).collect();
        let mut metadata = json!({
            "containerimage.config.digest": image.config_descriptor.digest(),
            "containerimage.descriptor": image.descriptor,
            "containerimage.digest": image.descriptor.digest(),
        });
        if !names.is_empty() {
            metadata["image.name"] = names.join(",").into();
        }
        let text = serde_json::to_string_pretty(&metadata).context("cannot write the --metadata-file")?;
        fs_err::write(file, text + "\n").context("cannot write the --metadata-file")?;
    }
    Ok(())
}
