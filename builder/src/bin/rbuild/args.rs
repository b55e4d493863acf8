//! The arguments. Flags have the names and the meaning that `docker buildx build` gave them.

use std::path::PathBuf;

use crate::commands::registries::RegistryArgs;
use crate::commands::{copy, inspect, login};
use builder::export::{Output, OutputSpec};
use builder::grants::{AgentSpec, SecretSpec};
use builder::graph::platform::Platform;
use builder::graph::references::StepNetwork;
use builder::prune::Limit;
use clap::{Args, Parser, Subcommand, ValueEnum};

use crate::commands::caching::CachingArgs;

/// Builds OCI images from Dockerfiles: no daemon, no setuid helper, one binary.
#[derive(Debug, Parser)]
#[command(
    name = "rbuild",
    version,
    about,
    args_conflicts_with_subcommands = true,
    subcommand_precedence_over_arg = true
)]
#[command(after_help = "`rbuild DIR` is short for `rbuild build DIR`.\n\n\
    Examples:\n  \
    rbuild -t registry.example.com/app:1 --push .\n  \
    rbuild -f ci.Dockerfile --target test --build-arg VERSION=2 .\n  \
    rbuild -o type=oci,dest=app.tar .")]
pub(crate) struct Cli {
    /// What to do; build when it is not said.
    #[command(subcommand)]
    pub(crate) command: Option<Command>,
    #[command(flatten)]
    pub(crate) build: BuildArgs,
}

/// What rbuild does.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Build an image from a Dockerfile
    Build(Box<BuildArgs>),
    /// Build every service of an app and promote the release
    #[command(display_order = 100)]
    Deploy(Box<crate::commands::app::build::DeployArgs>),
    /// List the builds of an app; look at, export and import one
    #[command(display_order = 100)]
    Builds(crate::commands::app::builds::BuildsArgs),
    /// List the releases of an app; look at, promote and put together some
    #[command(display_order = 100)]
    Releases(crate::commands::app::releases::ReleasesArgs),
    /// Show and change the environment of an app
    #[command(display_order = 100)]
    Env(crate::commands::app::environment::EnvArgs),
    /// Run a service of an app, as it was built
    #[command(display_order = 100)]
    Run(crate::commands::app::run::RunArgs),
    /// Show and change the settings of an app
    #[command(display_order = 100)]
    Apps(crate::commands::app::racks::AppsArgs),
    /// Show and change the settings of a rack: a profile on this machine
    #[command(display_order = 100)]
    Rack(crate::commands::app::racks::RackArgs),
    /// List and keep the credentials of registries
    #[command(display_order = 100)]
    Registries(crate::commands::app::racks::RegistriesArgs),
    /// List the images in the store
    Images(ImagesArgs),
    /// Copy an image, with all its platforms, between registries, OCI layouts, archives and the store
    Copy(copy::CopyArgs),
    /// Push an image of the store
    Push(copy::PushArgs),
    /// Pull an image into the store
    Pull(copy::PullArgs),
    /// Say what an image is made of
    Inspect(inspect::InspectArgs),
    /// List the tags of a repository
    Tags(inspect::TagsArgs),
    /// Keep the credentials for a registry
    Login(login::LoginArgs),
    /// Forget the credentials for a registry
    Logout(login::LogoutArgs),
    /// What the store takes up, what may go, and whether it is whole
    #[command(subcommand)]
    Cache(crate::commands::cache::CacheCommand),
    /// The same as `rbuild cache prune`
    Prune(crate::commands::cache::PruneArgs),
    /// Say what this machine lets rbuild do, and what would let it do more
    Doctor(DoctorArgs),
    /// Look inside
    #[command(subcommand, hide = true)]
    Debug(DebugCommand),
}

/// `rbuild build`.
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
    pub(crate) call: crate::commands::call::CallArgs,
    /// Run every step, whatever the cache has
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
    pub(crate) settings: crate::commands::settings::SettingsArgs,
    #[command(flatten)]
    pub(crate) isolation: crate::commands::isolation::IsolationArgs,
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
    pub(crate) app: crate::commands::app::build::AppFlags,
}

/// `--progress`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Mode {
    /// A live display on a terminal, else a plain log
    Auto,
    /// A live display
    Tty,
    /// A log, line by line
    Plain,
    /// Nothing but errors
    Quiet,
    /// One JSON object a line, on standard error
    #[value(alias = "rawjson")]
    Json,
}

/// `--network`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum NetworkMode {
    /// The network of the machine
    #[value(alias = "host")]
    Default,
    /// A loopback interface and nothing else
    None,
    /// A network of its own with a way out; addresses of the machine's loopback are out of reach
    Private,
}

impl From<NetworkMode> for StepNetwork {
    fn from(mode: NetworkMode) -> Self {
        match mode {
            NetworkMode::Default => Self::Host,
            NetworkMode::None => Self::None,
            NetworkMode::Private => Self::Private,
        }
    }
}

/// `rbuild images`.
#[derive(Debug, Args)]
pub(crate) struct ImagesArgs {
    /// Print JSON
    #[arg(long)]
    pub(crate) json: bool,
}

/// `rbuild doctor`.
#[derive(Debug, Args)]
pub(crate) struct DoctorArgs {}

/// `rbuild debug`.
#[derive(Debug, Subcommand)]
pub(crate) enum DebugCommand {
    /// Print the syntax tree of a Dockerfile
    Ast {
        /// The Dockerfile
        file: PathBuf,
    },
    /// Tell what the machine allows, with overlayfs tried in a directory
    Doctor {
        /// An existing directory
        directory: PathBuf,
    },
    /// Run one process in one root file system
    Run(Box<crate::commands::debug::Run>),
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
