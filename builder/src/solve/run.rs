//! `RUN`: a command in a sandbox, on an overlay of the layers below or on a whole tree of them.

use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;
use std::path::Path;

use snapshot::{Active, Whole, diff};

use crate::dockerfile::Network;
use crate::graph::{RunOp, Script};
use crate::progress::Step;
use crate::sandbox::{Content, Mount, Process, Root, SandboxError, Stream};
use crate::secrets::Search;

use super::error::Cause;
use super::flatten;
use super::mounts::Prepared;
use super::tree::Tree;
use super::{Needs, Options, World};

/// The trees around a step.
pub(super) struct Trees<'a> {
    /// What it runs on.
    pub(super) base: &'a Tree,
    /// Those of all vertices, which its mounts may read.
    pub(super) all: &'a [Tree],
    /// What it makes.
    pub(super) own: &'a Tree,
    pub(super) needs: Needs,
}

/// Runs the command and commits what it changed as the layer on top.
pub(super) fn run(
    world: &World<'_>,
    op: &RunOp,
    trees: &Trees<'_>,
    (instruction, step): (&str, &Step<'_>),
) -> Result<(), Cause> {
    let active = world.store.snapshots().prepare()?;
    let (root, whole) = root(world, trees.base, &active)?;
    let mut prepared = Prepared::new(world, op, trees.all)?;
    prepared.mounts.extend(op.script.as_ref().map(script));
    for name in &op.secret_env {
        let value = world.grants.secrets.get(name).map(|secret| OsString::from_vec(secret.0.clone()));
        prepared.env.extend(value.map(|value| (name.into(), value)));
    }
    let process = process(op, &prepared.env, world.options);
    let mut output = |stream: Stream, bytes: &[u8]| step.output(stream == Stream::Stderr, bytes);
    let ended = world.executor.run(&root, &process, &prepared.mounts, world.cancel, &mut output);
    prepared.release();
    let status = ended.map_err(|error| match error {
        SandboxError::Cancelled => Cause::Cancelled,
        SandboxError::InvalidStep { reason } => Cause::Step { reason },
        error @ SandboxError::TooLong { .. } => Cause::TooLong { reason: error.to_string() },
        SandboxError::TimedOut { after } => Cause::TimedOut { command: shorten(instruction), after },
        other => Cause::Sandbox(other),
    })?;
    if status.code != 0 {
        let (command, code) = (shorten(instruction), status.code);
        return Err(if status.out_of_memory {
            Cause::OutOfMemory { command, code }
        } else if is_full(active.upper()) {
            // What it wrote is still there, and will be gone when anybody else could look.
            Cause::DiskFull { command, code }
        } else {
            Cause::Exit { command, code }
        });
    }
    if let Some(whole) = whole {
        world.wholes.settle(whole, trees.own, active.upper())?;
    }
    if trees.needs.layer {
        diff::check_names(active.upper())?;
    }
    if let Some(needles) = world.needles {
        let flavour = world.store.snapshots().flavour();
        diff::changes(active.upper(), flavour, &trees.base.view(world)?, &mut Search(needles))?;
    }
    let top = trees.own.top();
    top.keep_snapshot(active.commit(top.id())?);
    Ok(())
}

/// Whether next to nothing can be written where a path lies: less than a hundredth of the disk and than 16 MiB, or no file.
fn is_full(path: &Path) -> bool {
    const LITTLE: u64 = 16 << 20;
    let Ok(status) = rustix::fs::statvfs(path) else { return false };
    let (size, left) =
        (status.f_blocks.saturating_mul(status.f_frsize), status.f_bavail.saturating_mul(status.f_frsize));
    // Some file systems count no files.
    left < LITTLE.min(size / 100) || status.f_files > 0 && status.f_favail == 0
}

/// Runs a process on a tree and throws away what it changes; returns its exit code.
pub(crate) fn try_out(
    world: &World<'_>,
    tree: &Tree,
    process: &Process,
    output: &mut dyn FnMut(Stream, &[u8]),
) -> Result<i32, Cause> {
    let active = world.store.snapshots().prepare()?;
    let (root, _whole) = root(world, tree, &active)?;
    Ok(world.executor.run(&root, process, &[], world.cancel, output)?.code)
}

/// The root of a process on `base`, and the tree that it is where layers cannot be stacked.
fn root(world: &World<'_>, base: &Tree, active: &Active) -> Result<(Root, Option<Whole>), Cause> {
    if world.executor.stacks_layers() {
        return Ok((stacked(world, base, active)?, None));
    }
    let whole = world.wholes.take(world, base)?;
    let (upper, work) = (whole.path().to_owned(), active.work().to_owned());
    Ok((Root { lowers: Vec::new(), upper, work }, Some(whole)))
}

/// An overlay over the layers of `base`, written to `active`.
fn stacked(world: &World<'_>, base: &Tree, active: &Active) -> Result<Root, Cause> {
    let lowers = flatten::lowers(world, base)?;
    if let Some(top) = lowers.first() {
        active.adopt_root_of(top)?;
    }
    Ok(Root { lowers, upper: active.upper().to_owned(), work: active.work().to_owned() })
}

/// The beginning of a long command: the excerpt of the Dockerfile shows the rest.
fn shorten(instruction: &str) -> String {
    const LONGEST: usize = 100;
    let cut: String = instruction.chars().take(LONGEST).collect();
    if cut.len() < instruction.len() { format!("{cut}…") } else { cut }
}

/// Describes the process; `secrets` are variables that stand in place of others of the same name.
fn process(op: &RunOp, secrets: &[(OsString, OsString)], options: &Options) -> Process {
    let known = op.proxy_env.iter().chain(&op.env).map(|(name, value)| (OsString::from(name), OsString::from(value)));
    let env = known.filter(|(name, _)| secrets.iter().all(|(secret, _)| secret != name)).chain(secrets.iter().cloned());
    Process {
        argv: op.argv.iter().map(OsString::from).collect(),
        env: env.collect(),
        cwd: op.cwd.clone(),
        user: op.user.clone(),
        hostname: op.hostname.clone(),
        network: match op.network {
            Network::Default if options.private_network => crate::sandbox::Network::Private,
            Network::Default | Network::Host => crate::sandbox::Network::Host,
            Network::None => crate::sandbox::Network::None,
        },
        settings: options.settings.clone(),
        stdin: None,
    }
}

/// A heredoc's script, which the step can run and not write.
fn script(script: &Script) -> Mount {
    let content = Content(script.content.clone().into_bytes());
    Mount::File { content, target: script.path.clone(), mode: 0o755, uid: 0, gid: 0 }
}
