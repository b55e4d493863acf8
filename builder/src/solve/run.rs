//! `RUN`: a command in a sandbox on an overlay of the layers below.

use std::ffi::OsString;
use std::os::unix::fs::PermissionsExt;

use snapshot::Active;

use crate::dockerfile::Network;
use crate::graph::{RunOp, Script};
use crate::progress::Step;
use crate::sandbox::{Mount, Process, Root, SandboxError, Stream};

use super::World;
use super::error::Cause;
use super::tree::Tree;

/// What a step finds as its host name, as under BuildKit.
const HOSTNAME: &str = "buildkitsandbox";

/// Runs the command and commits what it changed as the layer on top of `tree`.
pub(super) fn run(world: &World<'_>, op: &RunOp, base: &Tree, tree: &Tree, step: &Step<'_>) -> Result<(), Cause> {
    let mut lowers = base.dirs(world)?;
    lowers.reverse();
    let active = world.store.snapshots().prepare()?;
    if let Some(top) = lowers.first() {
        active.adopt_root_of(top)?;
    }
    let script = op.script.as_ref().map(|script| write_script(world, script)).transpose()?;
    let mounts: Vec<Mount> = script.iter().map(|(_, mount)| mount.clone()).collect();
    let root = Root { lowers, upper: active.upper().to_owned(), work: active.work().to_owned() };
    let mut output = |stream: Stream, bytes: &[u8]| step.output(stream == Stream::Stderr, bytes);
    let status =
        world.executor.run(&root, &process(op), &mounts, world.cancel, &mut output).map_err(|error| match error {
            SandboxError::Cancelled => Cause::Cancelled,
            SandboxError::InvalidStep { reason } => Cause::Step { reason },
            other => Cause::Sandbox(other),
        })?;
    if status.code != 0 {
        return Err(Cause::Exit { command: op.argv.join(" "), code: status.code });
    }
    tree.top().keep_snapshot(active.commit(tree.top().id())?);
    tree.remember(world, &format!("RUN {}", op.argv.join(" ")))
}

fn process(op: &RunOp) -> Process {
    let env = op.proxy_env.iter().chain(&op.env).map(|(name, value)| (OsString::from(name), OsString::from(value)));
    Process {
        argv: op.argv.iter().map(OsString::from).collect(),
        env: env.collect(),
        cwd: op.cwd.clone(),
        user: op.user.clone(),
        hostname: HOSTNAME.into(),
        network: match op.network {
            Network::Default | Network::Host => crate::sandbox::Network::Host,
            Network::None => crate::sandbox::Network::None,
        },
        stdin: None,
    }
}

/// Writes a heredoc's script to a file of the host that the step sees read-only, in a directory that is locked: no
/// other process takes it for a dead one's.
fn write_script(world: &World<'_>, script: &Script) -> Result<(Active, Mount), Cause> {
    let room = world.store.snapshots().prepare()?;
    let source = room.upper().join("script");
    fs_err::write(&source, &script.content)?;
    fs_err::set_permissions(&source, PermissionsExt::from_mode(0o755))?;
    Ok((room, Mount::Bind { source, target: script.path.clone(), readonly: true }))
}
