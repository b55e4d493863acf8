//! What `RUN --mount` gives a step: made before it runs, thrown away or unlocked after it.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::io;
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};

use snapshot::{Active, ChangeSink, Flavour, Found, Kind, TreeWriter, View, buffered};

use crate::context::{Ignore, Selected};
use crate::dockerfile::Sharing;
use crate::graph::{BindOp, CacheOp, MountOp, RunOp, SecretOp, SshOp};
use crate::sandbox::{Content, Mount, Writes};

use super::agent::Proxy;
use super::cache_mount::{self, Held};
use super::error::Cause;
use super::flatten;
use super::tree::Tree;
use super::{World, relative};

/// The mounts of one step, with what they stand on.
#[derive(Debug, Default)]
pub(super) struct Prepared {
    /// In the order in which they are mounted.
    pub(super) mounts: Vec<Mount>,
    /// The variables of secrets.
    pub(super) env: Vec<(OsString, OsString)>,
    copies: Vec<Active>,
    /// Directories of the context: where they are in the step, and their copies.
    contexts: Vec<(PathBuf, PathBuf)>,
    agents: Vec<Proxy>,
    caches: Vec<Held>,
}

impl Prepared {
    /// Throws away what was for the step alone, and lets others use the caches.
    pub(super) fn release(self) {
        self.caches.into_iter().for_each(Held::release);
        drop((self.agents, self.copies));
    }

    /// Prepares the mounts of `op`, which read `trees`.
    pub(super) fn new(world: &World<'_>, op: &RunOp, trees: &[Tree]) -> Result<Self, Cause> {
        let mut prepared = Self::default();
        let mut mounts: Vec<Option<Mount>> = Vec::new();
        for mount in &op.mounts {
            mounts.push(match mount {
                MountOp::Bind(bind) => Some(match bind.from {
                    Some(from) => prepared.bind_tree(world, bind, &trees[from.0])?,
                    None => prepared.bind_context(world, bind)?,
                }),
                MountOp::Cache(_) => None,
                MountOp::Tmpfs(tmpfs) => {
                    Some(Mount::Tmpfs { target: tmpfs.target.clone(), size: tmpfs.size, readonly: tmpfs.readonly })
                }
                MountOp::Secret(secret) => prepared.secret(world, secret)?,
                MountOp::Ssh(ssh) => prepared.agent(world, ssh)?,
            });
        }
        // Last, for others may be waiting.
        for (mount, cache) in prepared.caches(world, op, trees)? {
            mounts[mount] = Some(cache);
        }
        prepared.mounts = mounts.into_iter().flatten().collect();
        prepared.make_mount_points()?;
        Ok(prepared)
    }

    /// Makes the places of mounts that are inside a bind of the context, in its copy: the step's own is read-only.
    fn make_mount_points(&self) -> Result<(), Cause> {
        for (outer, copy) in &self.contexts {
            for mount in &self.mounts {
                let Some(below) = mount.target().strip_prefix(outer).ok().filter(|path| *path != Path::new("")) else {
                    continue;
                };
                let directory = match mount {
                    Mount::Tmpfs { .. } => true,
                    Mount::File { .. } => false,
                    Mount::Bind { source, .. } => source.is_dir(),
                    Mount::Layers { .. } => continue,
                };
                make_mount_point(copy, below, directory)?;
            }
        }
        Ok(())
    }

    fn bind_tree(&mut self, world: &World<'_>, bind: &BindOp, tree: &Tree) -> Result<Mount, Cause> {
        let source = find(&tree.view(world)?, &bind.source)?;
        if !world.executor.stacks_layers() {
            return self.bind_copy(world, bind, tree, &source);
        }
        let lowers = flatten::lowers(world, tree)?;
        let writes = if bind.writable {
            let active = world.store.snapshots().prepare()?;
            if let Some(top) = lowers.first() {
                active.adopt_root_of(top)?;
            }
            let writes = Writes { upper: active.upper().to_owned(), work: active.work().to_owned() };
            self.copies.push(active);
            Some(writes)
        } else {
            None
        };
        Ok(Mount::Layers { lowers, writes, source, target: bind.target.clone() })
    }

    /// Where layers cannot be stacked the step gets a copy of what it asks for.
    fn bind_copy(&mut self, world: &World<'_>, bind: &BindOp, tree: &Tree, source: &Path) -> Result<Mount, Cause> {
        let active = world.store.snapshots().prepare()?;
        let name = copy_part(world, tree, source, active.upper())?;
        let source = real(&active.upper().join(name))?;
        self.copies.push(active);
        Ok(Mount::Bind { source, target: bind.target.clone(), readonly: !bind.writable })
    }

    /// The step gets a copy: it has what the ignore rules leave and nothing else, and cannot change under the step.
    fn bind_context(&mut self, world: &World<'_>, bind: &BindOp) -> Result<Mount, Cause> {
        let selected = select(world, &bind.source)?;
        let selected = std::slice::from_ref(&selected);
        let active = world.store.snapshots().prepare()?;
        let mut writer = TreeWriter::new(active.upper(), Flavour::Plain)?;
        let name = Path::new(&selected[0].name);
        for file in world.context.list(selected, &Ignore::default(), world.memo)?.entries(0) {
            let path = if selected[0].directory { relative(file.path()) } else { name };
            match (file.first().map(relative).filter(|first| *first != path && selected[0].directory), file.content()) {
                (Some(first), _) => writer.hard_link(path, first)?,
                (None, Some((bytes, _))) => writer.entry(path, file.entry(), &mut buffered(file.entry(), bytes))?,
                (None, None) => writer.entry(path, file.entry(), &mut io::empty())?,
            }
        }
        writer.finish()?;
        let source = real(active.upper())?.join(name);
        if selected[0].directory {
            self.contexts.push((bind.target.clone(), source.clone()));
        }
        self.copies.push(active);
        Ok(Mount::Bind { source, target: bind.target.clone(), readonly: !bind.writable })
    }

    /// The file of a secret, if it has one.
    fn secret(&mut self, world: &World<'_>, op: &SecretOp) -> Result<Option<Mount>, Cause> {
        let Some(secret) = world.grants.secrets.get(&op.id) else {
            return if op.required { Err(Cause::NoSecret { id: op.id.clone() }) } else { Ok(None) };
        };
        self.env.extend(op.env.iter().map(|name| (name.into(), OsString::from_vec(secret.0.clone()))));
        Ok(op.target.as_ref().map(|target| Mount::File {
            content: Content(secret.0.clone()),
            target: target.clone(),
            mode: op.mode,
            uid: op.uid,
            gid: op.gid,
        }))
    }

    fn agent(&mut self, world: &World<'_>, op: &SshOp) -> Result<Option<Mount>, Cause> {
        let Some(agent) = world.grants.agents.get(&op.id) else {
            return if op.required { Err(Cause::NoAgent { id: op.id.clone() }) } else { Ok(None) };
        };
        let proxy = Proxy::start(world.store.snapshots().prepare()?, op, agent)
            .map_err(|source| Cause::Agent { id: op.id.clone(), source })?;
        let source = real(&proxy.path())?;
        self.agents.push(proxy);
        Ok(Some(Mount::Bind { source, target: op.target.clone(), readonly: true }))
    }

    /// The cache mounts by their number among all. Every step takes its locks in the order of their places, so that no
    /// two wait for each other; a directory that a step has twice is locked once.
    fn caches(&mut self, world: &World<'_>, op: &RunOp, trees: &[Tree]) -> Result<Vec<(usize, Mount)>, Cause> {
        let mut places: BTreeMap<String, Vec<(usize, &CacheOp)>> = BTreeMap::new();
        for (number, mount) in op.mounts.iter().enumerate() {
            if let MountOp::Cache(cache) = mount {
                let name = cache_mount::name(cache, from(cache, trees));
                places.entry(name).or_default().push((number, cache));
            }
        }
        let mut mounts = Vec::new();
        for (name, uses) in places {
            let strictest = uses.iter().map(|(_, cache)| cache.sharing).max_by_key(|sharing| strictness(*sharing));
            let first = uses[0].1;
            let fill = |new: &Path| {
                if world.caches.fill_mount(world, &name, new)? {
                    return Ok(());
                }
                cache_mount::fill(world, first, from(first, trees), new)
            };
            // What is moved into a tree is nowhere else meanwhile.
            let shareable = world.executor.stacks_layers();
            let sharing = strictest.filter(|sharing| shareable || *sharing != Sharing::Shared);
            let held = cache_mount::hold(world, &name, sharing.unwrap_or(Sharing::Locked), &fill)?;
            let source = real(held.directory())?;
            world.caches.used_mount(&name);
            self.caches.push(held);
            mounts.extend(uses.into_iter().map(|(number, cache)| {
                let target = cache.target.clone();
                (number, Mount::Bind { source: source.clone(), target, readonly: cache.readonly })
            }));
        }
        Ok(mounts)
    }
}

fn from<'a>(cache: &CacheOp, trees: &'a [Tree]) -> Option<&'a Tree> {
    cache.from.map(|from| &trees[from.0])
}

fn strictness(sharing: Sharing) -> u8 {
    match sharing {
        Sharing::Shared => 0,
        Sharing::Private => 1,
        Sharing::Locked => 2,
    }
}

/// What a mount binds of the build context: a path, with no wildcards.
pub(super) fn select(world: &World<'_>, source: &str) -> Result<Selected, Cause> {
    let mut literal = String::with_capacity(source.len());
    for character in source.chars() {
        if matches!(character, '*' | '?' | '[' | '\\') {
            literal.push('\\');
        }
        literal.push(character);
    }
    let missing = || Cause::NoMatch { patterns: source.to_owned(), place: "the build context" };
    world.context.select(&literal)?.into_iter().next().ok_or_else(missing)
}

/// Where `source` is in a tree: relative to its root, and without links, which are followed inside the tree.
pub(super) fn find(view: &View, source: &str) -> Result<PathBuf, Cause> {
    let path = view.resolve(relative(Path::new(source)))?;
    if path != Path::new(".") && view.lookup(&path).is_none() {
        return Err(Cause::NoMatch { patterns: source.to_owned(), place: "the tree that it is mounted from" });
    }
    Ok(path)
}

/// Copies what is at `source` in a tree: the content of a directory into the directory `to`, and anything else under its
/// own name, which is returned; the name of a directory is empty.
pub(super) fn copy_part(world: &World<'_>, tree: &Tree, source: &Path, to: &Path) -> Result<PathBuf, Cause> {
    let view = tree.view(world)?;
    let mut writer = TreeWriter::new(to, world.store.snapshots().flavour())?;
    let mut put = |path: &Path, found: &Found<'_>| -> Result<(), Cause> {
        if matches!(found.entry.kind, Kind::File { .. }) {
            writer.copy_file(path, &found.entry, &tree.open(found, world)?)?;
        } else {
            writer.entry(path, &found.entry, &mut io::empty())?;
        }
        Ok(())
    };
    let found = view.lookup(source);
    let file = found.as_ref().filter(|found| found.entry.kind != Kind::Directory);
    let name = file.and_then(|_| source.file_name()).map(PathBuf::from).unwrap_or_default();
    if let Some(found) = &found {
        put(relative(&name), found)?;
    }
    if file.is_none() {
        for (path, found) in view.walk(source) {
            put(path.strip_prefix(source).unwrap_or(&path), &found)?;
        }
    }
    writer.finish()?;
    Ok(name)
}

/// Makes `path` in a copy where it is missing. What a link is in the way of is left to the sandbox, which judges it.
fn make_mount_point(copy: &Path, path: &Path, directory: bool) -> Result<(), Cause> {
    let mut at = copy.to_owned();
    let mut names = path.components().peekable();
    while let Some(name) = names.next() {
        at.push(name);
        match fs_err::symlink_metadata(&at) {
            Ok(found) if found.is_dir() => {}
            Ok(_) => return Ok(()),
            Err(_) if directory || names.peek().is_some() => fs_err::create_dir(&at)?,
            Err(_) => drop(fs_err::File::create(&at)?),
        }
    }
    Ok(())
}

/// The sandbox binds no path with a link in it, and the store may be behind one.
fn real(path: &Path) -> Result<PathBuf, Cause> {
    Ok(fs_err::canonicalize(path)?)
}
