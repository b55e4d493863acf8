//! The directed acyclic graph of steps that a Dockerfile means, with every value expanded and every image pinned.
//!
//! Pure: [`references`] says which images a target needs, [`lower()`] turns the AST and the pinned images into a
//! [`Graph`]. Nothing here touches a disk or a network.

mod budget;
pub mod chmod;
pub mod config;
mod files;
pub mod frontend_args;
mod go;
pub mod instructions;
pub mod lower;
mod mounts;
pub mod named;
pub mod outline;
pub mod platform;
pub mod references;
pub mod scope;
#[cfg(test)]
mod tests;
pub mod unused;

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::Arc;

use oci_spec::distribution::Reference;
use oci_spec::image::Digest;
use serde::Serialize;

use crate::dockerfile::{Network, Span};
use crate::graph::chmod::Chmod;
use crate::graph::config::ImageConfig;
use crate::graph::platform::Platform;
use crate::remote::location::GitSource;

mod error;

pub use error::{GraphError, Problem};
pub use lower::lower;
pub use mounts::{BindOp, CacheOp, MountOp, SecretOp, SshOp, TmpfsOp};

/// Where a vertex stands in [`Graph::vertices`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
pub struct VertexId(pub usize);

/// The steps of a build. A vertex's inputs always precede it, so a cycle cannot be written down.
#[derive(Debug, Clone)]
pub struct Graph {
    /// The vertices, inputs first; only those that the target needs.
    pub vertices: Vec<Vertex>,
    /// The vertex whose tree is the image's.
    pub target: VertexId,
    /// The image's config, complete but for its layers and times.
    pub config: ImageConfig,
    /// The platform of the target.
    pub platform: Platform,
    /// The time of everything that the build makes, RFC 3339, where the Dockerfile says it (`ARG SOURCE_DATE_EPOCH=`
    /// before the first `FROM`).
    pub epoch: Option<String>,
}

impl Graph {
    /// The image that the target's tree begins with.
    pub fn base_image(&self) -> Option<&PinnedImage> {
        let below = |id: &VertexId| self.vertices[id.0].base;
        let first = std::iter::successors(Some(self.target), below).last()?;
        match &self.vertices[first.0].op {
            Op::Source(image) => Some(image),
            Op::Scratch | Op::Run(_) | Op::Copy(_) | Op::Mkdir(_) => None,
        }
    }

    /// The names of the secrets that its steps may see.
    pub fn secrets(&self) -> BTreeSet<&str> {
        let mut names = BTreeSet::new();
        for vertex in &self.vertices {
            let Op::Run(op) = &vertex.op else { continue };
            names.extend(op.secret_env.iter().map(String::as_str));
            names.extend(op.mounts.iter().filter_map(|mount| match mount {
                MountOp::Secret(secret) => Some(secret.id.as_str()),
                MountOp::Bind(_) | MountOp::Cache(_) | MountOp::Tmpfs(_) | MountOp::Ssh(_) => None,
            }));
        }
        names
    }
}

/// One step.
#[derive(Debug, Clone)]
pub struct Vertex {
    /// What it does.
    pub op: Op,
    /// The tree that it starts from; none for [`Op::Scratch`] and [`Op::Source`].
    pub base: Option<VertexId>,
    /// The trees that it reads besides: that of a `COPY --from`, those of a RUN's mounts.
    pub from: Vec<VertexId>,
    /// Where it stands in the Dockerfile.
    pub span: Span,
    /// How it is shown: `[build 2/4] RUN make`.
    pub name: String,
}

impl Vertex {
    /// The instruction's text: [`Vertex::name`] without the place in its stage.
    pub fn instruction(&self) -> &str {
        self.name.split_once("] ").map_or(self.name.as_str(), |(_, text)| text)
    }

    /// The vertices that must be known before this one.
    pub fn inputs(&self) -> impl Iterator<Item = VertexId> {
        self.base.into_iter().chain(self.from.iter().copied())
    }
}

/// What a vertex does. Closed: the solver matches on it.
#[derive(Debug, Clone)]
pub enum Op {
    /// The empty tree.
    Scratch,
    /// The tree of an image.
    Source(Arc<PinnedImage>),
    /// Runs a command.
    Run(RunOp),
    /// Copies files.
    Copy(CopyOp),
    /// Makes a directory.
    Mkdir(MkdirOp),
}

/// An image that a registry was asked for, pinned to one manifest of one platform.
#[derive(Debug, Clone)]
pub struct PinnedImage {
    /// Where it came from, with its tag: for people and for pulling.
    pub reference: Reference,
    /// The OCI layout that its layers are in, instead of the registry.
    pub layout: Option<PathBuf>,
    /// The digest of the platform's manifest.
    pub manifest: Digest,
    /// The config's JSON, read.
    pub config: ImageConfig,
    /// Its layers, bottom first.
    pub layers: Vec<snapshot::Layer>,
}

/// `RUN`, resolved.
#[derive(Debug, Clone)]
pub struct RunOp {
    /// The program and its arguments.
    pub argv: Vec<String>,
    /// The file that `RUN <<NAME` with a `#!` line runs, mounted at `/dev/pipes/NAME`.
    pub script: Option<Script>,
    /// The variables of `ENV` and `ARG` in scope, in order.
    pub env: Vec<(String, String)>,
    /// Variables whose values are secrets of the build, by name.
    pub secret_env: Vec<String>,
    /// Predefined proxy arguments: visible to the command, in no key and no history.
    pub proxy_env: Vec<(String, String)>,
    /// The working directory, absolute.
    pub cwd: PathBuf,
    /// `USER`, as written: `name|uid[:group|gid]`; root when empty.
    pub user: String,
    /// `--network`.
    pub network: Network,
    /// The host name that it finds.
    pub hostname: String,
    /// `--mount`, parents before what is mounted in them.
    pub mounts: Vec<MountOp>,
}

/// An executable file that exists while its step runs.
#[derive(Debug, Clone)]
pub struct Script {
    /// Its absolute path in the step's root.
    pub path: PathBuf,
    /// Its bytes.
    pub content: String,
}

/// `COPY` and `ADD`, resolved.
#[derive(Debug, Clone)]
pub struct CopyOp {
    /// The named context that paths are in; the build context when absent. Not with [`Vertex::from`].
    pub context: Option<String>,
    /// What is copied, in order.
    pub sources: Vec<CopySource>,
    /// The absolute destination; a trailing slash is kept, since it means a directory.
    pub destination: String,
    /// `--chown`, as written.
    pub chown: Option<String>,
    /// `--chmod`.
    pub chmod: Option<Chmod>,
    /// `--exclude`: patterns as in `.dockerignore`, relative to each match of a source.
    pub exclude: Vec<String>,
    /// `--parents`: a source keeps the directories that lead to it, from its `/./` on.
    pub parents: bool,
    /// `ADD`: a local archive is unpacked.
    pub unpack: bool,
    /// `--link`: the layer depends on nothing below it.
    pub link: bool,
}

/// One source of a [`CopyOp`].
#[derive(Debug, Clone)]
pub enum CopySource {
    /// A path or pattern, in the build context or in the tree of the first of [`Vertex::from`].
    Path(String),
    /// `ADD` of a file behind http(s).
    Http {
        /// The URL.
        url: String,
        /// `--checksum`, `sha256:…`.
        checksum: Option<String>,
        /// `--unpack`.
        unpack: bool,
    },
    /// `ADD` of a git repository.
    Git(GitSource),
    /// A file that the Dockerfile itself holds.
    Inline {
        /// The file's name.
        name: String,
        /// Its bytes.
        content: String,
    },
}

impl CopySource {
    /// The source as written; a heredoc by its name.
    pub fn shown(&self) -> &str {
        match self {
            Self::Path(path) => path,
            Self::Http { url, .. } => url,
            Self::Git(source) => &source.remote,
            Self::Inline { name, .. } => name,
        }
    }
}

/// `WORKDIR`: a directory that exists afterwards.
#[derive(Debug, Clone)]
pub struct MkdirOp {
    /// The absolute path.
    pub path: PathBuf,
    /// Who owns what has to be made, as `USER` says.
    pub user: String,
}
