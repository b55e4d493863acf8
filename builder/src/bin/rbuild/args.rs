//! The commands. What each takes is beside it.

use clap::error::{ContextKind, ContextValue, ErrorKind};
use clap::{Parser, Subcommand};

use crate::commands::{app, build, cache, copy, debug, images, inspect, login};
use crate::report::Failure;

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
    pub(crate) build: build::BuildArgs,
}

/// What rbuild does. What a command takes is read when it is the one that is given: it is much for a short build. Its type
/// says again what it is for, for that is read after what the variant says.
#[derive(Debug, Subcommand)]
#[command(defer = true)]
pub(crate) enum Command {
    /// Build an image from a Dockerfile
    Build(Box<build::BuildArgs>),
    /// Build every service of an app and promote the release
    #[command(display_order = 100)]
    Deploy(Box<app::build::DeployArgs>),
    /// List the builds of an app; look at, export and import one
    #[command(display_order = 100)]
    Builds(app::builds::BuildsArgs),
    /// List the releases of an app; look at, promote and put together some
    #[command(display_order = 100)]
    Releases(app::releases::ReleasesArgs),
    /// Show and change the environment of an app
    #[command(display_order = 100)]
    Env(app::environment::EnvArgs),
    /// Run a service of an app, as it was built
    #[command(display_order = 100)]
    Run(app::run::RunArgs),
    /// Show and change the settings of an app
    #[command(display_order = 100)]
    Apps(app::racks::AppsArgs),
    /// Show and change the settings of a rack: a profile on this machine
    #[command(display_order = 100)]
    Rack(app::racks::RackArgs),
    /// List and keep the credentials of registries
    #[command(display_order = 100)]
    Registries(app::racks::RegistriesArgs),
    /// List the images in the store
    Images(images::ImagesArgs),
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
    Cache(cache::CacheCommand),
    /// The same as `rbuild cache prune`
    Prune(cache::PruneArgs),
    /// Say what this machine lets rbuild do, and what would let it do more
    Doctor,
    /// Look inside
    #[command(subcommand, hide = true)]
    Debug(debug::DebugCommand),
}

/// What to say of a second build context, which clap takes for a command in the wrong place.
pub(crate) fn explained(error: &clap::Error) -> Option<Failure> {
    match error.get(ContextKind::InvalidSubcommand) {
        Some(ContextValue::String(second)) if error.kind() == ErrorKind::ArgumentConflict => {
            Some(Failure::Usage(format!(
                "`{second}` is one argument too many: rbuild builds one context; `rbuild --help` lists its commands"
            )))
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use clap::{Command, CommandFactory, Parser};

    use super::{Cli, explained};
    use crate::report::Failure;

    #[test]
    fn a_second_context_is_one_too_many() {
        for (arguments, second) in [([".", "extra"], "extra"), (["bulid", "."], ".")] {
            let error = Cli::try_parse_from(std::iter::once("rbuild").chain(arguments)).unwrap_err();
            let Some(Failure::Usage(text)) = explained(&error) else { panic!("{error}") };
            assert!(text.starts_with(&format!("`{second}` is one argument too many")), "{text}");
        }
        let unknown = Cli::try_parse_from(["rbuild", "--nonsense"]).unwrap_err();
        assert!(explained(&unknown).is_none());
    }

    #[test]
    fn a_command_says_of_itself_what_the_list_says_of_it() {
        let list = Cli::command();
        let mut read = list.clone();
        read.build();
        let about = |command: &Command| (command.get_about().cloned(), command.get_long_about().cloned());
        for command in list.get_subcommands() {
            let name = command.get_name();
            let own = read.find_subcommand(name).map(about);
            assert_eq!(format!("{own:?}"), format!("{:?}", Some(about(command))), "{name}");
        }
    }
}
