//! `rbuild copy`, `rbuild push` and `rbuild pull`: images from place to place.

use anyhow::Context;
use builder::build::open_store;
use builder::graph::platform::Platform;
use builder::progress::Reporter;
use builder::transfer::{self, Choice, Machine, Place};
use clap::Args;

use super::registries::{self, RegistryArgs};
use crate::report::Failure;
use crate::ui::{self, Mode};

/// Copy an image, with all its platforms, between registries, OCI layouts, archives and the store
#[derive(Debug, Args)]
#[command(
    after_help = "Places are `docker://NAME` or just `NAME`, `oci:PATH[:TAG|@DIGEST]`, `oci-archive:PATH[:TAG]`, \
    `docker-archive:PATH[:NAME]` and `store:NAME`.\n\n\
    Examples:\n  \
    rbuild copy registry.example.com/app:1 other.example.com/app:1\n  \
    rbuild copy --platform linux/arm64 debian:12 oci-archive:debian.tar:12"
)]
pub(crate) struct CopyArgs {
    /// Where the image is
    #[arg(value_name = "SOURCE")]
    from: Place,
    /// Where it shall be
    #[arg(value_name = "DESTINATION", required = true)]
    to: Vec<Place>,
    /// Copy what refers to the image too (signatures, attestations), from registry to registry
    #[arg(long, conflicts_with = "platform")]
    referrers: bool,
    #[command(flatten)]
    how: How,
}

/// Push an image of the store
#[derive(Debug, Args)]
pub(crate) struct PushArgs {
    /// The name of an image in the store
    #[arg(value_name = "NAME")]
    name: String,
    /// Names to push it as [default: its own]
    #[arg(value_name = "DESTINATION")]
    to: Vec<String>,
    /// How to show what happens
    #[arg(long, value_name = "MODE", default_value = "auto")]
    progress: Mode,
    #[command(flatten)]
    registries: RegistryArgs,
}

/// Pull an image into the store
#[derive(Debug, Args)]
pub(crate) struct PullArgs {
    /// The image
    #[arg(value_name = "NAME")]
    name: String,
    #[command(flatten)]
    how: How,
}

/// What the three have in common.
#[derive(Debug, Args)]
struct How {
    /// The image for one platform of an index, `linux/ARCH`, without the index
    #[arg(long, value_name = "OS/ARCH", value_parser = |text: &str| text.parse::<Platform>())]
    platform: Option<Platform>,
    /// How to show what happens
    #[arg(long, value_name = "MODE", default_value = "auto")]
    progress: Mode,
    #[command(flatten)]
    registries: RegistryArgs,
}

pub(crate) fn copy(args: &CopyArgs) -> Result<(), Failure> {
    let choice = match &args.how.platform {
        Some(platform) => Choice::One(platform.into()),
        None if args.referrers => Choice::AllWithReferrers,
        None => Choice::All,
    };
    transfer(&args.from, &args.to, &choice, args.how.progress, &args.how.registries)
}

pub(crate) fn push(args: &PushArgs) -> Result<(), Failure> {
    let name = registries::reference(&args.name)?;
    let to = args.to.iter().map(|name| registries::reference(name).map(Place::Registry));
    let mut to = to.collect::<Result<Vec<_>, _>>()?;
    if to.is_empty() {
        to.push(Place::Registry(name.clone()));
    }
    transfer(&Place::Store(name), &to, &Choice::All, args.progress, &args.registries)
}

pub(crate) fn pull(args: &PullArgs) -> Result<(), Failure> {
    let name = registries::reference(&args.name)?;
    let choice = args.how.platform.as_ref().map_or_else(|| Choice::One(transfer::host()), |p| Choice::One(p.into()));
    transfer(&Place::Registry(name.clone()), &[Place::Store(name)], &choice, args.how.progress, &args.how.registries)
}

fn transfer(
    from: &Place,
    to: &[Place],
    choice: &Choice,
    progress: Mode,
    registries: &RegistryArgs,
) -> Result<(), Failure> {
    let client = registries::client(registries)?;
    // Only the store needs its owner's user namespace.
    let is_stored = |place: &Place| matches!(place, Place::Store(_));
    let store = if is_stored(from) || to.iter().any(is_stored) {
        let sandbox = super::enter()?;
        Some(open_store(&super::home()?, &sandbox).context("cannot use the store")?)
    } else {
        None
    };
    let display = ui::display(progress);
    let reporter = Reporter::new(display.as_ref());
    let step = reporter.start(&format!("copy {from}"), None);
    let machine = Machine { client: &client, store: store.as_ref(), step: &step };
    let result = transfer::copy(&machine, from, to, choice);
    let result = step.finish(result);
    display.finish(result.is_ok());
    match result {
        Ok(root) => {
            ui::print(&format!("{}\n", root.digest()));
            Ok(())
        }
        Err(error) if error.is_registry() => Err(Failure::Registry(error.into())),
        Err(error) => Err(Failure::Other(error.into())),
    }
}
