//! `rbuild cache`: what the store takes up, what may go, and whether it is whole.

use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context;
use builder::build::open_store;
use builder::prune::{Limit, Policy, prune};
use builder::verify::{repair, verify};
use clap::{Args, Subcommand};
use serde_json::{Map, Value, json};
use snapshot::Store;
use snapshot::store::{Inventory, KnownSizes, ObjectKind};

use crate::report::Failure;
use crate::ui;

/// `rbuild cache`.
#[derive(Debug, Subcommand)]
pub(crate) enum CacheCommand {
    /// Say what takes up how much of the disk
    Du(DuArgs),
    /// Remove cached steps and every layer that no named image needs; what a running build uses stays
    Prune(PruneArgs),
    /// Read everything in the store and compare it with its digests; ends with 1 when something is broken
    Verify(VerifyArgs),
}

/// `rbuild cache du`.
#[derive(Debug, Args)]
pub(crate) struct DuArgs {
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// The same as `rbuild cache prune`
#[derive(Debug, Args)]
pub(crate) struct PruneArgs {
    /// Remove the named images and the content of cache mounts too
    #[arg(short, long)]
    all: bool,
    /// Remove only what is above this size, the longest unused first: bytes (`500m`, `20GiB`) or a share of the disk
    /// (`25%`). Then names and cache mounts may go too
    #[arg(long, value_name = "SIZE")]
    keep_storage: Option<Limit>,
    /// Remove only what was not used for a time: `until=24h`
    #[arg(long, value_name = "FILTER", value_parser = parse_filter)]
    filter: Option<Duration>,
}

/// `rbuild cache verify`.
#[derive(Debug, Args)]
pub(crate) struct VerifyArgs {
    /// Remove what is broken, so that the next build makes it or fetches it again
    #[arg(long)]
    repair: bool,
}

/// Does what is asked.
pub(crate) fn run(command: &CacheCommand) -> Result<ExitCode, Failure> {
    match command {
        CacheCommand::Du(args) => run_du(args).map(|()| ExitCode::SUCCESS),
        CacheCommand::Prune(args) => run_prune(args).map(|()| ExitCode::SUCCESS),
        CacheCommand::Verify(args) => run_verify(args),
    }
}

fn store() -> Result<Store, Failure> {
    // In the user namespace rbuild may see and remove what steps made as other users.
    let sandbox = super::enter()?;
    Ok(open_store(&super::home()?, &sandbox).context("cannot use the store")?)
}

fn run_du(args: &DuArgs) -> Result<(), Failure> {
    let store = store()?;
    let inventory = store.inventory(&KnownSizes::new()).context("cannot measure the store")?;
    if args.json {
        ui::print(&format!("{:#}\n", du_json(&store, &inventory)));
        return Ok(());
    }
    let mut rows = vec![["KIND", "COUNT", "SIZE"].map(str::to_owned)];
    for (kind, count, bytes) in sums(&inventory) {
        rows.push([kind.plural().to_owned(), count.to_string(), ui::bytes(bytes)]);
    }
    rows.push(["other".to_owned(), String::new(), ui::bytes(inventory.other)]);
    rows.push(["total".to_owned(), inventory.objects.len().to_string(), ui::bytes(inventory.total())]);
    ui::table(&rows);
    Ok(())
}

fn sums(inventory: &Inventory) -> impl Iterator<Item = (ObjectKind, usize, u64)> {
    ObjectKind::ALL.into_iter().map(|kind| {
        let of_kind = || inventory.objects.iter().filter(|object| object.kind == kind);
        (kind, of_kind().count(), of_kind().map(|object| object.bytes).sum())
    })
}

fn du_json(store: &Store, inventory: &Inventory) -> Value {
    let mut kinds = Map::new();
    for (kind, count, bytes) in sums(inventory) {
        kinds.insert(kind.plural().to_owned(), json!({ "count": count, "bytes": bytes }));
    }
    json!({ "path": store.path(), "kinds": kinds, "other": inventory.other, "total": inventory.total() })
}

/// `rbuild cache prune`, and `rbuild prune`.
pub(crate) fn run_prune(args: &PruneArgs) -> Result<(), Failure> {
    let store = store()?;
    let policy = Policy { all: args.all, keep: args.keep_storage, unused_for: args.filter };
    let pruned = prune(&store, &policy).context("cannot prune the store")?;
    for name in pruned.forgotten.iter().filter(|_| !args.all) {
        ui::note(&format!("the image `{name}` is no more: it was the longest unused in a store above its limit"));
    }
    if pruned.above > 0 {
        let above = ui::bytes(pruned.above);
        let young = if args.filter.is_some() { "it was used too lately for the `--filter`, " } else { "" };
        ui::note(&format!(
            "the store is still {above} above its limit: {young}running builds use it, or it is none of what may go (`other` in \
             `rbuild cache du`)"
        ));
    }
    ui::print(&format!("freed {}\n", ui::bytes(pruned.freed)));
    Ok(())
}

fn run_verify(args: &VerifyArgs) -> Result<ExitCode, Failure> {
    let store = store()?;
    let verified = verify(&store).context("cannot read the store")?;
    for broken in &verified.broken {
        let (kind, name) = (broken.object.kind.plural(), &broken.object.name);
        ui::print(&format!("broken: {kind} {name}: {}\n", broken.reason));
    }
    if args.repair {
        repair(&store, &verified.broken).context("cannot remove what is broken")?;
    }
    let (count, objects) = (verified.broken.len(), verified.objects);
    let done = if args.repair && count > 0 { ", and removed" } else { "" };
    ui::print(&format!("{count} of {objects} objects are broken{done}\n"));
    Ok(if count > 0 && !args.repair { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

/// `until=` and a time.
fn parse_filter(text: &str) -> Result<Duration, String> {
    let time = text.strip_prefix("until=").ok_or("the only filter is `until=TIME`, such as `until=24h`")?;
    super::settings::duration(time)
}
