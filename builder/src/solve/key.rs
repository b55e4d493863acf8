//! Cache keys: what a step's result depends on, and nothing else.
//!
//! | field | RUN | COPY, ADD | WORKDIR | image |
//! |---|---|---|---|---|
//! | resolved operation | argv, script, working directory, user, network | destination, `--chown`, `--chmod`, `--exclude`, `--parents`, unpack | path, owner | – |
//! | variables in scope (ARG, ENV), in order | yes | expanded into the fields | expanded into the fields | – |
//! | content of the sources: names, types, modes, bytes, links, attributes | – | yes | – | – |
//! | digest and file name of a download; commit and directory of a repository | – | yes | – | – |
//! | names of secret variables; whether layers may hold secrets, where a step has any | yes | – | – | – |
//! | the emulation of root, where it is not exact | yes | – | – | – |
//! | each mount: type, target, options; content of what it binds of the context | yes | – | – | – |
//! | the build's fixed time, which new directories and heredocs' files get | – | yes | yes | – |
//! | *input*: the tree below | yes | unless `--link`, which only looks names of `--chown` up there | yes | – |
//! | *input*: what `--from` and mounts read of other trees | yes | yes | – | – |
//! | chain_id of its layers | – | – | – | yes |
//!
//! A step has two keys, which differ in how they name its inputs:
//!
//! | | the tree below | other trees | known |
//! |---|---|---|---|
//! | definition | its definition key | their definition keys | before anything runs |
//! | content | the diff_ids of an image's layers, the content of a step's | content of the paths that are read | when the inputs are |
//!
//! A step that ran again and made the same as before lets what stands on it hit by content, though all definitions
//! changed. The content of a tree is everything but times (`snapshot::ContentDigest`).
//!
//! Never in a key: predefined proxy arguments, the number of jobs, progress and output options, tags, the clock, the owner
//! of a context file on the host, the values of secrets, what a cache mount has, labels and other config that no command
//! sees. Every field is framed by its name and its length, so no two different lists of fields have the same bytes.

mod fields;

use oci_spec::image::Digest;
use snapshot::chain_id;

use crate::context::Ignore;
use crate::graph::chmod::Chmod;
use crate::graph::frontend_args::USUAL_HOSTNAME;
use crate::graph::{CopyOp, CopySource, Graph, MountOp, Op, PinnedImage, RunOp, Vertex, VertexId};
use crate::sandbox::RootEmulation;

use super::error::{Cause, SolveError};
use super::select::{self, Chosen};
use super::{World, mounts};

pub(crate) use fields::Fields;
pub use fields::{CacheKey, Field};

/// Raised when a step's result changes for the same inputs: what older versions cached is then not found.
const VERSION: &str = "2";

/// What one vertex is known by.
#[derive(Debug, Clone)]
pub(crate) struct Key {
    /// Its fields but for its inputs.
    pub(crate) own: Fields,
    /// Its definition key.
    pub(crate) definition: CacheKey,
}

/// A tree that a step reads.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Input<'a> {
    /// Whose.
    pub(crate) id: VertexId,
    /// All of it, when the step stands on it; else what.
    pub(crate) part: Option<Part<'a>>,
}

/// What a step reads of a tree that it does not stand on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Part<'a> {
    /// What the sources of a COPY select.
    Copied(&'a str),
    /// What a mount shows.
    Mounted(&'a str),
}

impl Input<'_> {
    /// The name of the input's field.
    pub(crate) fn name(&self) -> &'static str {
        if self.part.is_none() { "base" } else { "from" }
    }
}

/// The trees that the result of a vertex depends on.
pub(crate) fn inputs(vertex: &Vertex) -> Vec<Input<'_>> {
    let base = vertex.base.map(|id| Input { id, part: None });
    match &vertex.op {
        Op::Scratch | Op::Source(_) => Vec::new(),
        Op::Mkdir(_) => base.into_iter().collect(),
        Op::Run(op) => base.into_iter().chain(op.mounts.iter().filter_map(mounted)).collect(),
        Op::Copy(op) => {
            let base = base.filter(|_| !op.link || looks_up_names(op));
            let from = vertex.from.first().into_iter();
            let copied = from.flat_map(|&id| {
                op.sources.iter().filter_map(move |source| match source {
                    CopySource::Path(pattern) => Some(Input { id, part: Some(Part::Copied(pattern)) }),
                    CopySource::Http { .. } | CopySource::Git(_) | CopySource::Inline { .. } => None,
                })
            });
            base.into_iter().chain(copied).collect()
        }
    }
}

fn mounted(mount: &MountOp) -> Option<Input<'_>> {
    let source = match mount {
        MountOp::Bind(bind) => &bind.source,
        MountOp::Cache(cache) => &cache.source,
        MountOp::Tmpfs(_) | MountOp::Secret(_) | MountOp::Ssh(_) => return None,
    };
    mount.from().map(|id| Input { id, part: Some(Part::Mounted(source)) })
}

/// The key of every vertex. Reads the parts of the build context that the graph copies.
pub(crate) fn keys(graph: &Graph, world: &World<'_>) -> Result<Vec<Key>, SolveError> {
    let mut keys: Vec<Key> = Vec::with_capacity(graph.vertices.len());
    for vertex in &graph.vertices {
        let own = own(vertex, world).map_err(|cause| SolveError::new(vertex, cause))?;
        let named = |input: &Input<'_>| (input.name(), keys[input.id.0].definition.hex());
        let definition = own.key("definition", &inputs(vertex).iter().map(named).collect::<Vec<_>>());
        keys.push(Key { own, definition });
    }
    Ok(keys)
}

/// The fields of a vertex but for its inputs.
fn own(vertex: &Vertex, world: &World<'_>) -> Result<Fields, Cause> {
    Ok(match &vertex.op {
        Op::Scratch => Fields::new("scratch"),
        Op::Source(image) => source(image),
        Op::Run(op) => mounts(secrets(run(op, world.options.emulation), op, world), op, world)?,
        Op::Mkdir(op) => Fields::new("mkdir")
            .field("path", op.path.as_os_str().as_encoded_bytes())
            .field("user", &op.user)
            .fields("epoch", &world.options.epoch),
        Op::Copy(op) => copy(op, !vertex.from.is_empty(), world)?,
    })
}

fn source(image: &PinnedImage) -> Fields {
    Fields::new("image").fields("chain", chain(image).map(|id| id.to_string()))
}

/// The chain_id of an image's layers (OCI image spec, config.md); none of an image without any.
pub(crate) fn chain(image: &PinnedImage) -> Option<Digest> {
    let chain = image.layers.iter().fold(None, |below, layer| Some(chain_id(below.as_ref(), &layer.diff_id)));
    chain.map(|id| id.0)
}

fn run(op: &RunOp, emulation: Option<RootEmulation>) -> Fields {
    let variables = op.env.iter().map(|(name, value)| format!("{name}={value}"));
    let script = op.script.as_ref().map(|script| &script.content);
    let fields = Fields::new("run")
        .fields("argv", &op.argv)
        .fields("script", script)
        .fields("variable", variables)
        .field("cwd", op.cwd.as_os_str().as_encoded_bytes())
        .field("user", &op.user)
        .field("network", format!("{:?}", op.network));
    // What is as usual is left out: steps that were cached before it could be chosen are found.
    let fields = match emulation.filter(|kind| *kind != RootEmulation::Full) {
        Some(kind) => fields.field("emulation", kind.name()),
        None => fields,
    };
    if op.hostname == USUAL_HOSTNAME { fields } else { fields.field("hostname", &op.hostname) }
}

/// Adds the names of secret variables, and whether layers may hold secrets, where there are any: never a value.
fn secrets(fields: Fields, op: &RunOp, world: &World<'_>) -> Fields {
    let fields = if op.secret_env.is_empty() { fields } else { fields.fields("secrets", &op.secret_env) };
    if world.options.secrets_in_layers { fields.field("secrets in layers", "allowed") } else { fields }
}

fn mounts(fields: Fields, op: &RunOp, world: &World<'_>) -> Result<Fields, Cause> {
    op.mounts.iter().try_fold(fields, |fields, mount| {
        let content = match mount {
            MountOp::Bind(bind) if bind.from.is_none() => Some(context_digest(world, &bind.source)?),
            MountOp::Bind(_) | MountOp::Cache(_) | MountOp::Tmpfs(_) | MountOp::Secret(_) | MountOp::Ssh(_) => None,
        };
        Ok(self::mount(fields, mount, content))
    })
}

/// Adds one mount; `content` is what it binds of the context.
fn mount(fields: Fields, mount: &MountOp, content: Option<[u8; 32]>) -> Fields {
    let target = mount.target().map(|target| target.as_os_str().as_encoded_bytes());
    let fields =
        fields.fields("target", target).field("tree", [u8::from(mount.from().is_some())]).fields("content", content);
    match mount {
        MountOp::Bind(bind) => {
            fields.field("mount", "bind").field("source", &bind.source).field("writable", [u8::from(bind.writable)])
        }
        MountOp::Cache(cache) => fields
            .field("mount", "cache")
            .field("id", &cache.id)
            .field("sharing", format!("{:?}", cache.sharing))
            .fields("mode", cache.mode.map(u32::to_le_bytes))
            .fields("uid", cache.uid.map(u32::to_le_bytes))
            .fields("gid", cache.gid.map(u32::to_le_bytes))
            .field("readonly", [u8::from(cache.readonly)])
            .field("source", &cache.source),
        MountOp::Tmpfs(tmpfs) => fields
            .field("mount", "tmpfs")
            .fields("size", tmpfs.size.map(u64::to_le_bytes))
            .field("readonly", [u8::from(tmpfs.readonly)]),
        MountOp::Secret(secret) => fields
            .field("mount", "secret")
            .field("id", &secret.id)
            .fields("env", &secret.env)
            .field("required", [u8::from(secret.required)])
            .field("owner", owner(secret.mode, secret.uid, secret.gid)),
        MountOp::Ssh(ssh) => fields
            .field("mount", "ssh")
            .field("id", &ssh.id)
            .field("required", [u8::from(ssh.required)])
            .field("owner", owner(ssh.mode, ssh.uid, ssh.gid)),
    }
}

fn owner(mode: u32, uid: u32, gid: u32) -> Vec<u8> {
    [mode, uid, gid].into_iter().flat_map(u32::to_le_bytes).collect()
}

/// The digest of what a mount binds of the build context.
fn context_digest(world: &World<'_>, source: &str) -> Result<[u8; 32], Cause> {
    let selected = mounts::select(world, source)?;
    Ok(*world.context.list(&[selected], &Ignore::default(), world.memo)?.digest().as_bytes())
}

/// The fields of a COPY; `from` says whether its paths are in another tree.
fn copy(op: &CopyOp, from: bool, world: &World<'_>) -> Result<Fields, Cause> {
    let mut fields = Fields::new("copy")
        .field("tree", [u8::from(from)])
        .field("destination", &op.destination)
        .fields("chown", &op.chown)
        .fields("chmod", op.chmod.as_ref().map(Chmod::text))
        .fields("exclude", &op.exclude)
        .field("parents", [u8::from(op.parents)])
        .field("unpack", [u8::from(op.unpack)])
        .field("link", [u8::from(op.link)])
        .fields("epoch", &world.options.epoch);
    for source in &op.sources {
        fields = match source {
            CopySource::Inline { name, content } => fields.field("inline", name).field("content", content),
            CopySource::Http { url, checksum, unpack } => {
                let download = world.remotes.download(world.store, url, checksum.as_deref())?;
                let name = download.file_name(url);
                fields
                    .field("http", download.digest.as_ref() as &str)
                    .fields("name", name)
                    .field("unpack", [u8::from(*unpack)])
            }
            CopySource::Git(source) => fields
                .field("git", world.remotes.commit(world.store, source)?)
                .field("subdir", source.subdir.as_deref().unwrap_or_default())
                .field("keep-git-dir", [u8::from(source.keep_git_dir)])
                .field("submodules", [u8::from(source.submodules)])
                .field("times", format!("{:?}", source.times)),
            CopySource::Path(pattern) if from => fields.field("path", pattern),
            CopySource::Path(pattern) => {
                let Chosen { matches, rules } = select::in_context(world.context_of(op), op, pattern)?;
                let digest = world.context_of(op).list(&matches, &rules, world.memo)?.digest();
                fields.field("content", digest.to_hex().as_str())
            }
        };
    }
    Ok(fields)
}

/// Whether `--chown` names somebody, whom only the tree below knows.
pub(super) fn looks_up_names(op: &CopyOp) -> bool {
    op.chown.as_ref().is_some_and(|owner| owner.split(':').any(|id| id.parse::<u32>().is_err()))
}

#[cfg(test)]
mod tests;
