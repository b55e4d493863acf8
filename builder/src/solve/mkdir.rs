//! `WORKDIR`: a directory that exists afterwards, owned by the stage's user where it had to be made.

use crate::graph::MkdirOp;

use super::destination::{Destination, Placement};
use super::error::Cause;
use super::tree::Tree;
use super::{Needs, World};

/// Makes the directory, in a layer that is empty when it was there.
pub(super) fn mkdir(world: &World<'_>, op: &MkdirOp, base: &Tree, tree: &Tree, needs: Needs) -> Result<(), Cause> {
    let view = base.view(world)?;
    let destination = Destination::resolve(&view, &format!("{}/", op.path.display()), false)?;
    let owner = if op.user.is_empty() {
        (0, 0)
    } else {
        // As `--chown` reads it: a number alone is the group too, whatever group a process of that user would have.
        base.accounts(&view, world)?.owner(&op.user)?
    };
    let mut placement = Placement::new(world, &view, needs, base)?.with(Some(owner), None);
    if !destination.exists() {
        placement.directory(&destination.path)?;
    }
    placement.finish(world, tree)
}
