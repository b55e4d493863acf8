//! `rbuild images`.

use anyhow::Context;
use builder::build::open_store;
use builder::export::tags::{self, Tag};
use clap::Args;
use jiff::Timestamp;

use crate::report::Failure;
use crate::ui;

/// List the images in the store
#[derive(Debug, Args)]
pub(crate) struct ImagesArgs {
    /// Print JSON
    #[arg(long)]
    pub(crate) json: bool,
}

pub(crate) fn run(args: &ImagesArgs) -> Result<(), Failure> {
    let sandbox = super::enter()?;
    let store = open_store(&super::home()?, &sandbox).context("cannot use the store")?;
    let tags = tags::list(&store).context("cannot list the images")?;
    if args.json {
        ui::print(&(serde_json::to_string_pretty(&tags).context("cannot print the images")? + "\n"));
        return Ok(());
    }
    let header = ["NAME", "DIGEST", "SIZE", "TAGGED"].map(str::to_owned);
    ui::table(&std::iter::once(header).chain(tags.iter().map(row)).collect::<Vec<_>>());
    Ok(())
}

fn row(tag: &Tag) -> [String; 4] {
    let size = tag.layers.iter().map(|layer| layer.blob.size()).sum::<u64>() + tag.config.size() + tag.manifest.size();
    let tagged =
        tag.tagged.parse::<Timestamp>().map_or_else(|_| tag.tagged.clone(), |time| ui::ago(time, Timestamp::now()));
    [tag.name.clone(), format!("{:.12}", tag.manifest.digest().digest()), ui::bytes(size), tagged]
}
