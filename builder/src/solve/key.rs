//! Cache keys: what a step's result depends on, and nothing else.
//!
//! | field | RUN | COPY, ADD | WORKDIR | image |
//! |---|---|---|---|---|
//! | key of the tree below | yes | unless `--link`, which only looks names of `--chown` up there | yes | – |
//! | resolved operation | argv, script, working directory, user, network | destination, `--chown`, `--chmod`, `--exclude`, `--parents`, unpack | path, owner | – |
//! | variables in scope (ARG, ENV), in order | yes | expanded into the fields | expanded into the fields | – |
//! | content of the sources: names, types, modes, bytes, links, attributes | – | yes | – | – |
//! | digest and file name of a download; commit and directory of a repository | – | yes | – | – |
//! | key of the tree that `--from` reads, and the patterns | – | yes | – | – |
//! | names of secret variables; whether layers may hold secrets, where a step has any | yes | – | – | – |
//! | the emulation of root, where it is not exact | yes | – | – | – |
//! | each mount: type, target, options; content of what it binds, or the key of its tree | yes | – | – | – |
//! | the build's fixed time, which new directories and heredocs' files get | – | yes | yes | – |
//! | chain_id of its layers | – | – | – | yes |
//!
//! Never in a key: predefined proxy arguments, the number of jobs, progress and output options, tags, the clock, the owner
//! of a context file on the host, the values of secrets, what a cache mount has, labels and other config that no command
//! sees. Every field is framed by its name and its length, so no two different lists of fields have the same bytes.

use std::fmt;
use std::io::{self, Sink, Write};

use oci_spec::image::Digest;
use snapshot::chain_id;
use snapshot::digest::HashingWriter;

use crate::context::Ignore;
use crate::graph::chmod::Chmod;
use crate::graph::frontend_args::USUAL_HOSTNAME;
use crate::graph::{CopyOp, CopySource, Graph, MountOp, Op, PinnedImage, RunOp, Vertex};
use crate::sandbox::RootEmulation;

use super::error::{Cause, SolveError};
use super::select::{self, Chosen};
use super::{World, mounts};

/// Raised when a step's result changes for the same inputs: what older versions cached is then not found.
const VERSION: &str = "1";

/// Names the result of a step.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct CacheKey(pub Digest);

impl CacheKey {
    /// The 64 hexadecimal digits.
    pub fn hex(&self) -> String {
        self.0.digest().to_owned()
    }
}

impl fmt::Display for CacheKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0.digest())
    }
}

/// Collects framed fields.
struct Fields(HashingWriter<Sink>);

impl Fields {
    fn new(operation: &str) -> Self {
        Self(HashingWriter::new(io::sink())).field("version", VERSION).field("operation", operation)
    }

    fn field(mut self, name: &str, value: impl AsRef<[u8]>) -> Self {
        for part in [name.as_bytes(), value.as_ref()] {
            let length = (part.len() as u64).to_le_bytes();
            self.0.write_all(&length).and_then(|()| self.0.write_all(part)).expect("a sink takes everything");
        }
        self
    }

    fn fields<T: AsRef<[u8]>>(self, name: &str, values: impl IntoIterator<Item = T>) -> Self {
        let mut count = 0_u64;
        let fields = values.into_iter().fold(self, |fields, value| {
            count += 1;
            fields.field(name, value)
        });
        fields.field("count", count.to_le_bytes())
    }

    fn finish(self) -> CacheKey {
        CacheKey(self.0.finish())
    }
}

/// The key of every vertex. Reads the parts of the build context that the graph copies.
pub fn keys(graph: &Graph, world: &World<'_>) -> Result<Vec<CacheKey>, SolveError> {
    let mut keys: Vec<CacheKey> = Vec::with_capacity(graph.vertices.len());
    for vertex in &graph.vertices {
        let key = key(vertex, &keys, world).map_err(|cause| SolveError::new(vertex, cause))?;
        keys.push(key);
    }
    Ok(keys)
}

fn key(vertex: &Vertex, keys: &[CacheKey], world: &World<'_>) -> Result<CacheKey, Cause> {
    let base = vertex.base.map_or("", |base| keys[base.0].0.as_ref());
    let from = vertex.from.first().map(|from| keys[from.0].0.as_ref());
    Ok(match &vertex.op {
        Op::Scratch => Fields::new("scratch").finish(),
        Op::Source(image) => source(image),
        Op::Run(op) => mounts(secrets(run(op, base, world.options.emulation), op, world), op, keys, world)?.finish(),
        Op::Mkdir(op) => Fields::new("mkdir")
            .field("base", base)
            .field("path", op.path.as_os_str().as_encoded_bytes())
            .field("user", &op.user)
            .fields("epoch", &world.options.epoch)
            .finish(),
        Op::Copy(op) => copy(op, base, from, world)?,
    })
}

fn source(image: &PinnedImage) -> CacheKey {
    let chain = image.layers.iter().fold(None, |below, layer| Some(chain_id(below.as_ref(), &layer.diff_id)));
    Fields::new("image").fields("chain", chain.map(|id| id.0.to_string())).finish()
}

fn run(op: &RunOp, base: &str, emulation: Option<RootEmulation>) -> Fields {
    let env = op.env.iter().flat_map(|(name, value)| [name, value]);
    let script = op.script.as_ref().map(|script| &script.content);
    let fields = Fields::new("run")
        .field("base", base)
        .fields("argv", &op.argv)
        .fields("script", script)
        .fields("env", env)
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

fn mounts(fields: Fields, op: &RunOp, keys: &[CacheKey], world: &World<'_>) -> Result<Fields, Cause> {
    op.mounts.iter().try_fold(fields, |fields, mount| {
        let from = mount.from().map(|from| keys[from.0].0.as_ref());
        let content = match mount {
            MountOp::Bind(bind) if bind.from.is_none() => Some(context_digest(world, &bind.source)?),
            MountOp::Bind(_) | MountOp::Cache(_) | MountOp::Tmpfs(_) | MountOp::Secret(_) | MountOp::Ssh(_) => None,
        };
        Ok(self::mount(fields, mount, from, content))
    })
}

/// Adds one mount: `from` is the key of its tree, `content` what it binds of the context.
fn mount(fields: Fields, mount: &MountOp, from: Option<&str>, content: Option<[u8; 32]>) -> Fields {
    let target = mount.target().map(|target| target.as_os_str().as_encoded_bytes());
    let fields = fields.fields("target", target).fields("from", from).fields("content", content);
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
    Ok(*world.context.digest(&[selected], &Ignore::default(), world.memo)?.as_bytes())
}

fn copy(op: &CopyOp, base: &str, from: Option<&str>, world: &World<'_>) -> Result<CacheKey, Cause> {
    let mut fields = Fields::new("copy")
        .field("base", if op.link && !looks_up_names(op) { "" } else { base })
        .fields("from", from)
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
            CopySource::Path(pattern) if from.is_some() => fields.field("path", pattern),
            CopySource::Path(pattern) => {
                let Chosen { matches, rules } = select::in_context(world.context_of(op), op, pattern)?;
                let digest = world.context_of(op).digest(&matches, &rules, world.memo)?;
                fields.field("content", digest.as_bytes())
            }
        };
    }
    Ok(fields.finish())
}

/// Whether `--chown` names somebody, whom only the tree below knows.
fn looks_up_names(op: &CopyOp) -> bool {
    op.chown.as_ref().is_some_and(|owner| owner.split(':').any(|id| id.parse::<u32>().is_err()))
}

#[cfg(test)]
mod tests;
