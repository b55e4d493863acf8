//! `rbuild inspect` and `rbuild tags`: what is in a registry, a layout, an archive or the store.

use anyhow::Context;
use builder::build::open_store;
use builder::graph::platform::Platform;
use builder::progress::Reporter;
use builder::transfer::{self, Choice, Machine, Parts, Place, Source};
use clap::Args;
use serde_json::{Value, json};

use super::registries::{self, RegistryArgs};
use crate::report::Failure;
use crate::ui::{self, Mode};

/// Say what an image is made of
#[derive(Debug, Args)]
pub(crate) struct InspectArgs {
    /// Where the image is: a name, or a place as `rbuild copy` takes it
    #[arg(value_name = "IMAGE")]
    image: Place,
    /// Look at the image for one platform of an index
    #[arg(long, value_name = "OS/ARCH", value_parser = |text: &str| text.parse::<Platform>())]
    platform: Option<Platform>,
    /// Print the manifest or index as it is
    #[arg(long)]
    raw: bool,
    #[command(flatten)]
    registries: RegistryArgs,
}

/// List the tags of a repository
#[derive(Debug, Args)]
pub(crate) struct TagsArgs {
    /// The repository
    #[arg(value_name = "REPOSITORY")]
    repository: String,
    #[command(flatten)]
    registries: RegistryArgs,
}

pub(crate) fn inspect(args: &InspectArgs) -> Result<(), Failure> {
    let client = registries::client(&args.registries)?;
    let store = if matches!(args.image, Place::Store(_)) {
        let sandbox = super::enter()?;
        Some(open_store(&super::home()?, &sandbox).context("cannot use the store")?)
    } else {
        None
    };
    let display = ui::display(Mode::Quiet);
    let reporter = Reporter::new(display.as_ref());
    let step = reporter.start("inspect", None);
    let machine = Machine { client: &client, store: store.as_ref(), step: &step };
    let text = describe(&machine, args).map_err(|error| {
        if error.is_registry() { Failure::Registry(error.into()) } else { Failure::Other(error.into()) }
    })?;
    ui::pass_on(false, &text);
    Ok(())
}

/// The text to print.
fn describe(machine: &Machine<'_>, args: &InspectArgs) -> Result<Vec<u8>, transfer::TransferError> {
    let source = Source::open(machine, &args.image)?;
    let choice = args.platform.as_ref().map_or(Choice::All, |platform| Choice::One(platform.into()));
    let parts = Parts::collect(&source, &choice)?;
    if args.raw {
        return Ok(parts.root_bytes().to_vec());
    }
    let mut images = Vec::new();
    for (descriptor, manifest) in parts.images() {
        let config: Value = serde_json::from_slice(&source.document(manifest.config())?).unwrap_or(Value::Null);
        let layers: Vec<Value> = manifest
            .layers()
            .iter()
            .map(|layer| json!({"digest": layer.digest(), "size": layer.size(), "mediaType": layer.media_type()}))
            .collect();
        images.push(json!({
            "digest": descriptor.digest(),
            "mediaType": descriptor.media_type(),
            "platform": {"os": config["os"], "architecture": config["architecture"], "variant": config["variant"]},
            "created": config["created"],
            "size": manifest.layers().iter().map(oci_size).sum::<u64>(),
            "layers": layers,
            "config": config["config"],
            "annotations": manifest.annotations(),
        }));
    }
    let root = parts.root();
    let described = json!({
        "image": args.image.to_string(),
        "digest": root.digest(),
        "mediaType": root.media_type(),
        "images": images,
    });
    Ok(format!("{described:#}\n").into_bytes())
}

fn oci_size(layer: &oci_spec::image::Descriptor) -> u64 {
    layer.size()
}

pub(crate) fn tags(args: &TagsArgs) -> Result<(), Failure> {
    let repository = registries::reference(&args.repository)?;
    let tags =
        registries::client(&args.registries)?.tags(&repository).map_err(|error| Failure::Registry(error.into()))?;
    ui::print(&tags.iter().fold(String::new(), |text, tag| text + tag + "\n"));
    Ok(())
}
