//! `RUN --mount`: from options with values to what a step is given.

use std::path::{Path, PathBuf};

use crate::dockerfile::{Mount, MountKind, MountOptions, Sharing, Span};
use crate::graph::frontend_args;
use crate::graph::instructions::absolute;
use crate::graph::lower::{Lowering, StageState};
use crate::graph::{Problem, VertexId};

/// The variable by which ssh finds an agent (ssh-agent(1)).
const AGENT_VARIABLE: &str = "SSH_AUTH_SOCK";
/// Where secrets are unless their mount says otherwise (Dockerfile reference, "RUN --mount=type=secret").
const SECRETS: &str = "/run/secrets";
/// Permissions of a secret (Dockerfile reference).
const SECRET_MODE: u32 = 0o400;
/// Permissions of an agent's socket (Dockerfile reference).
const SOCKET_MODE: u32 = 0o600;

/// One mount of a RUN. Closed: keys and the solver match on it. Targets are absolute.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum MountOp {
    /// Files of the build context or of a tree.
    Bind(BindOp),
    /// A directory that outlives the build.
    Cache(CacheOp),
    /// An empty directory in memory.
    Tmpfs(TmpfsOp),
    /// A value that the caller of the build gives.
    Secret(SecretOp),
    /// The socket of an ssh agent that the caller of the build gives.
    Ssh(SshOp),
}

/// `type=bind`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BindOp {
    /// The tree; the build context when absent.
    pub from: Option<VertexId>,
    /// What of it, from its root; `/` is all.
    pub source: String,
    /// Where the step sees it.
    pub target: PathBuf,
    /// The step may write; what it wrote is thrown away.
    pub writable: bool,
}

/// `type=cache`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CacheOp {
    /// Its name; the target where none was given.
    pub id: String,
    /// Where the step sees it.
    pub target: PathBuf,
    /// Who may use it at the same time.
    pub sharing: Sharing,
    /// Permissions of a new one, where they are not those of `source` or 0755.
    pub mode: Option<u32>,
    /// Owner of a new one, where it is not that of `source` or root.
    pub uid: Option<u32>,
    /// Group of a new one, likewise.
    pub gid: Option<u32>,
    /// Refuses writes.
    pub readonly: bool,
    /// The tree that a new one is a copy of.
    pub from: Option<VertexId>,
    /// What of that tree, from its root.
    pub source: String,
}

/// `type=tmpfs`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TmpfsOp {
    /// Where the step sees it.
    pub target: PathBuf,
    /// Its limit in bytes.
    pub size: Option<u64>,
    /// Refuses writes.
    pub readonly: bool,
}

/// `type=secret`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SecretOp {
    /// Its name among the secrets of the build.
    pub id: String,
    /// The file that has the value.
    pub target: Option<PathBuf>,
    /// The variable that has the value.
    pub env: Option<String>,
    /// The step fails when the build has no such secret; otherwise it runs without.
    pub required: bool,
    /// Permissions of the file.
    pub mode: u32,
    /// Owner of the file.
    pub uid: u32,
    /// Group of the file.
    pub gid: u32,
}

/// `type=ssh`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SshOp {
    /// Its name among the agents of the build.
    pub id: String,
    /// The socket.
    pub target: PathBuf,
    /// The step fails when the build has no such agent; otherwise it runs without.
    pub required: bool,
    /// Permissions of the socket.
    pub mode: u32,
    /// Owner of the socket.
    pub uid: u32,
    /// Group of the socket.
    pub gid: u32,
}

impl MountOp {
    /// Where the step sees it; a secret may be a variable alone.
    pub fn target(&self) -> Option<&Path> {
        match self {
            Self::Bind(BindOp { target, .. })
            | Self::Cache(CacheOp { target, .. })
            | Self::Tmpfs(TmpfsOp { target, .. })
            | Self::Ssh(SshOp { target, .. }) => Some(target),
            Self::Secret(SecretOp { target, .. }) => target.as_deref(),
        }
    }

    /// The tree that it reads.
    pub fn from(&self) -> Option<VertexId> {
        match self {
            Self::Bind(BindOp { from, .. }) | Self::Cache(CacheOp { from, .. }) => *from,
            Self::Tmpfs(_) | Self::Secret(_) | Self::Ssh(_) => None,
        }
    }
}

/// The mounts of one RUN.
pub(super) struct Mounts {
    /// Parents before what is mounted in them.
    pub(super) ops: Vec<MountOp>,
    /// The trees that they read.
    pub(super) from: Vec<VertexId>,
    /// The variable that leads to the first agent.
    pub(super) agent: Option<(String, String)>,
}

impl Lowering<'_> {
    /// Resolves the mounts of a RUN.
    pub(super) fn mounts(
        &mut self,
        state: &StageState,
        options: &[MountOptions],
        span: Span,
    ) -> Result<Mounts, Problem> {
        let mut mounts = Vec::new();
        let mut agents: Vec<PathBuf> = Vec::new();
        for options in options {
            let expand = |text: &str| state.scope.expand_text(text);
            let mount = options
                .resolve(&expand)
                .map_err(|source| Problem::Mount { text: options.text().to_owned(), source: Box::new(source) })?;
            let from = match mount.from.as_deref().filter(|word| !word.is_empty()) {
                Some(word) => Some(self.from(state, word, span)?),
                None => None,
            };
            let mut mount = self::mount(state, mount, from, agents.len())?;
            if let MountOp::Cache(cache) = &mut mount {
                cache.id = frontend_args::cache_mount(self.selection.request, std::mem::take(&mut cache.id));
            }
            if let MountOp::Ssh(ssh) = &mount {
                agents.push(ssh.target.clone());
            }
            mounts.push(mount);
        }
        let mut from: Vec<VertexId> = mounts.iter().filter_map(MountOp::from).collect();
        from.sort_unstable();
        from.dedup();
        mounts.sort_by(|one, other| one.target().cmp(&other.target()));
        let agent = agents.first().map(|agent| (AGENT_VARIABLE.to_owned(), agent.display().to_string()));
        Ok(Mounts { ops: mounts, from, agent })
    }
}

/// One mount; `agents` is how many agents come before it.
fn mount(state: &StageState, mount: Mount, from: Option<VertexId>, agents: usize) -> Result<MountOp, Problem> {
    let target = mount.target.as_deref().map(|target| target_of(state, target)).transpose()?;
    let (uid, gid) = (mount.uid.unwrap_or(0), mount.gid.unwrap_or(0));
    let source = rooted(mount.source.as_deref().unwrap_or("/"));
    Ok(match mount.kind {
        MountKind::Bind => {
            let target = target.expect("the options of a bind have a target");
            MountOp::Bind(BindOp { from, source, target, writable: mount.readonly == Some(false) })
        }
        MountKind::Cache => {
            let target = target.expect("the options of a cache have a target");
            let id = mount.id.filter(|id| !id.is_empty()).unwrap_or_else(|| target.display().to_string());
            MountOp::Cache(CacheOp {
                id,
                target,
                sharing: mount.sharing,
                mode: mount.mode.map(permissions).transpose()?,
                uid: mount.uid,
                gid: mount.gid,
                readonly: mount.readonly == Some(true),
                from,
                source,
            })
        }
        MountKind::Tmpfs => {
            let target = target.expect("the options of a tmpfs have a target");
            MountOp::Tmpfs(TmpfsOp { target, size: mount.size, readonly: mount.readonly == Some(true) })
        }
        MountKind::Secret => secret(mount, target, (uid, gid))?,
        MountKind::Ssh => MountOp::Ssh(SshOp {
            id: mount.id.filter(|id| !id.is_empty()).unwrap_or_else(|| "default".to_owned()),
            target: target.unwrap_or_else(|| PathBuf::from(format!("/run/buildkit/ssh_agent.{agents}"))),
            required: mount.required,
            mode: permissions(mount.mode.unwrap_or(SOCKET_MODE))?,
            uid,
            gid,
        }),
    })
}

fn secret(mount: Mount, target: Option<PathBuf>, (uid, gid): (u32, u32)) -> Result<MountOp, Problem> {
    let name = |path: &Path| path.file_name().map(|name| name.to_string_lossy().into_owned());
    let id = mount.id.or(mount.source).filter(|id| !id.is_empty()).or_else(|| target.as_deref().and_then(name));
    let id = id.ok_or(Problem::BadValue {
        what: "the id of a secret",
        value: String::new(),
        reason: "write `id=NAME`, as in `--secret id=NAME`",
    })?;
    let usual = || name(Path::new(&id)).map(|name| Path::new(SECRETS).join(name));
    let target = if mount.env.is_none() { target.or_else(usual) } else { target };
    if target.is_none() && mount.env.is_none() {
        return Err(Problem::BadValue { what: "the id of a secret", value: id, reason: "it is no name for a file" });
    }
    if let Some(env) = mount.env.as_ref().filter(|env| env.is_empty() || env.contains(['=', '\0'])) {
        return Err(Problem::BadValue { what: "the `env` of a secret", value: env.clone(), reason: "it is no name" });
    }
    let mode = permissions(mount.mode.unwrap_or(SECRET_MODE))?;
    Ok(MountOp::Secret(SecretOp { id, target, env: mount.env, required: mount.required, mode, uid, gid }))
}

fn target_of(state: &StageState, target: &str) -> Result<PathBuf, Problem> {
    match absolute(state, target).as_str() {
        "/" => Err(Problem::BadValue {
            what: "the target of a mount",
            value: target.to_owned(),
            reason: "a mount over the root would hide the image",
        }),
        path => Ok(PathBuf::from(path)),
    }
}

/// A path from the root of a source tree: `..` stops there.
fn rooted(source: &str) -> String {
    let mut parts: Vec<&str> = Vec::new();
    for part in source.split('/') {
        match part {
            "" | "." => {}
            ".." => _ = parts.pop(),
            name => parts.push(name),
        }
    }
    format!("/{}", parts.join("/"))
}

fn permissions(mode: u32) -> Result<u32, Problem> {
    if mode <= 0o7777 {
        return Ok(mode);
    }
    let reason = "write an octal mode such as `0440`";
    Err(Problem::BadValue { what: "the mode of a mount", value: format!("{mode:o}"), reason })
}
