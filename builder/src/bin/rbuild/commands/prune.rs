//! `rbuild prune`.

use anyhow::Context;
use builder::build::open_store;
use builder::prune::{Keep, prune};

use crate::args::PruneArgs;
use crate::report::Failure;
use crate::ui;

pub(crate) fn run(args: &PruneArgs) -> Result<(), Failure> {
    // In the user namespace rbuild may remove what steps made as other users.
    let sandbox = super::isolation::IsolationArgs::default().enter()?;
    let store = open_store(&super::home()?, &sandbox).context("cannot use the store")?;
    let keep = if args.all { Keep::Nothing } else { Keep::Images };
    let freed = prune(&store, keep).context("cannot prune the store")?;
    ui::print(&format!("freed {}\n", ui::bytes(freed)));
    Ok(())
}
