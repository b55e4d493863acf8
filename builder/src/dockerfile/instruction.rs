//! The typed instructions of a Dockerfile, before any expansion: what the author wrote, with spans, and nothing else.
//!
//! Words that undergo `$variable` expansion stay raw text ([`Word`]); the graph expands them when it knows the
//! values. Everything that can be refused without knowing a value is refused by the parser.

use std::time::Duration;

use super::mount::MountOptions;

/// The lines of the Dockerfile that something was written on, both ends included, counted from 1.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct Span {
    /// The first line.
    pub start: usize,
    /// The last line.
    pub end: usize,
}

/// Raw text that is expanded (`$v`, quotes, escapes) with the variables known where it stands.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Word(pub String);

/// A whole file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Dockerfile {
    /// The `# escape=` character: `\` or `` ` ``.
    pub escape: char,
    /// The text of `# syntax=`, which rbuild reads and does not fetch.
    pub syntax: Option<String>,
    /// The `ARG`s before the first `FROM`.
    pub global_args: Vec<Instruction>,
    /// The stages in order; at least one.
    pub stages: Vec<Stage>,
}

/// One `FROM` and what follows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stage {
    /// Where the `FROM` stands.
    pub span: Span,
    /// The text of the `FROM` instruction.
    pub original: String,
    /// The image or stage, expanded with the global `ARG`s.
    pub base: Word,
    /// `--platform=`.
    pub platform: Option<Word>,
    /// The name after `AS`, lower case.
    pub name: Option<String>,
    /// What the comment above says of the name.
    pub description: Option<String>,
    /// The instructions after the `FROM`.
    pub instructions: Vec<Instruction>,
}

/// One instruction.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Instruction {
    /// The lines it covers, heredoc bodies included.
    pub span: Span,
    /// Its text on one line, continuations joined, without heredoc bodies.
    pub original: String,
    /// What it says.
    pub command: Command,
}

/// What an instruction says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Command {
    /// `ADD`: like `COPY`, and sources may be archives or URLs.
    Add(Add),
    /// `ARG`: one or more names with an optional default.
    Arg(Vec<ArgDeclaration>),
    /// `CMD`.
    Cmd(CommandLine),
    /// `COPY`.
    Copy(Copy),
    /// `ENTRYPOINT`.
    Entrypoint(CommandLine),
    /// `ENV`: pairs in order; all values are expanded as they were before the instruction.
    Env(Vec<(Word, Word)>),
    /// `EXPOSE`: each word is `port`, `port/protocol` or a range.
    Expose(Vec<Word>),
    /// `HEALTHCHECK`.
    Healthcheck(Healthcheck),
    /// `LABEL`: pairs in order.
    Label(Vec<(Word, Word)>),
    /// `MAINTAINER`.
    Maintainer(String),
    /// `ONBUILD`: the trigger's text, checked to parse as an instruction; a heredoc's body is part of it.
    Onbuild(String),
    /// `RUN`.
    Run(Run),
    /// `SHELL`: the words of its JSON array; at least one.
    Shell(Vec<String>),
    /// `STOPSIGNAL`.
    Stopsignal(Word),
    /// `USER`.
    User(Word),
    /// `VOLUME`.
    Volume(Vec<Word>),
    /// `WORKDIR`.
    Workdir(Word),
}

/// `NAME` or `NAME=default` of an `ARG`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ArgDeclaration {
    /// The name.
    pub name: String,
    /// The default, expanded with what is known at this point.
    pub default: Option<Word>,
    /// What the comment above says of the name.
    pub description: Option<String>,
}

/// A command in shell or exec form.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CommandLine {
    /// Run by the stage's `SHELL`.
    Shell(String),
    /// A JSON array: run as it is.
    Exec(Vec<String>),
}

/// A here-document.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Heredoc {
    /// The delimiter, which is also the name of the file in `COPY` and `ADD`.
    pub name: String,
    /// The file descriptor in `3<<EOF`; 0 by default.
    pub fd: u32,
    /// False when the delimiter was quoted: the body is taken literally.
    pub expand: bool,
    /// `<<-`: leading tabs were removed from `body` (they already are).
    pub strip_tabs: bool,
    /// The lines between the delimiters, with their newlines.
    pub body: String,
}

/// `RUN`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Run {
    /// The command; for a heredoc form, the line that opens it (`<<EOF`, `python3 <<EOF`).
    pub command: CommandLine,
    /// The heredocs opened on that line, in order.
    pub heredocs: Vec<Heredoc>,
    /// `--mount=`, each waiting for the values of its variables.
    pub mounts: Vec<MountOptions>,
    /// `--network=`.
    pub network: Network,
    /// `--security=insecure`.
    pub insecure: bool,
    /// `--device=`, as written.
    pub devices: Vec<String>,
}

/// `RUN --network=`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum Network {
    /// What the command line says.
    #[default]
    Default,
    /// Loopback only.
    None,
    /// The host's.
    Host,
}

/// `RUN --mount=` with its variables expanded; which options a type may have has been checked.
///
/// Made by [`MountOptions::resolve`](super::MountOptions::resolve).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mount {
    /// `type=`; bind where it is not said.
    pub kind: MountKind,
    /// `id=`.
    pub id: Option<String>,
    /// `target=`, `dst=` or `destination=`; never missing for bind, cache and tmpfs.
    pub target: Option<String>,
    /// `source=` or `src=`.
    pub source: Option<String>,
    /// `from=`: a stage, an image or a named context.
    pub from: Option<String>,
    /// `ro`/`readonly` (true), `rw`/`readwrite` (false), or not said.
    pub readonly: Option<bool>,
    /// `required`.
    pub required: bool,
    /// `sharing=`, for caches.
    pub sharing: Sharing,
    /// `mode=`, octal.
    pub mode: Option<u32>,
    /// `uid=`.
    pub uid: Option<u32>,
    /// `gid=`.
    pub gid: Option<u32>,
    /// `size=` of a tmpfs, in bytes.
    pub size: Option<u64>,
    /// `env=`: the variable that receives a secret.
    pub env: Option<String>,
}

/// The type of a `RUN --mount`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum MountKind {
    /// Files of the context, a stage or an image.
    #[default]
    Bind,
    /// A directory that outlives the build.
    Cache,
    /// Memory.
    Tmpfs,
    /// A secret's value, as a file or a variable.
    Secret,
    /// The ssh agent's socket.
    Ssh,
}

/// `sharing=` of a cache mount.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum Sharing {
    /// Several steps at once.
    #[default]
    Shared,
    /// A directory of its own for each step at a time.
    Private,
    /// One step at a time.
    Locked,
}

/// A source of `COPY` or `ADD`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CopySource {
    /// A path, a wildcard pattern or (in `ADD`) a URL.
    Path(Word),
    /// A file written in the Dockerfile itself.
    Heredoc(Heredoc),
}

/// What `COPY` and `ADD` share.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CopyFiles {
    /// The sources in order; at least one.
    pub sources: Vec<CopySource>,
    /// Where they go.
    pub destination: Word,
    /// `--chown=`.
    pub chown: Option<Word>,
    /// `--chmod=`.
    pub chmod: Option<Word>,
    /// `--link`.
    pub link: bool,
    /// `--exclude=`, each a pattern.
    pub exclude: Vec<Word>,
}

/// `COPY`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Copy {
    /// Sources, destination and their options.
    pub files: CopyFiles,
    /// `--from=`: a stage, a number, an image or a named context.
    pub from: Option<Word>,
    /// `--parents`.
    pub parents: bool,
}

/// `ADD`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Add {
    /// Sources, destination and their options.
    pub files: CopyFiles,
    /// `--checksum=`.
    pub checksum: Option<Word>,
    /// `--keep-git-dir`.
    pub keep_git_dir: bool,
    /// `--unpack=`, or not said.
    pub unpack: Option<bool>,
}

/// `HEALTHCHECK`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Healthcheck {
    /// `NONE`: drop the base image's.
    None,
    /// `CMD`.
    Check {
        /// The command.
        command: CommandLine,
        /// `--interval=`.
        interval: Option<Duration>,
        /// `--timeout=`.
        timeout: Option<Duration>,
        /// `--start-period=`.
        start_period: Option<Duration>,
        /// `--start-interval=`.
        start_interval: Option<Duration>,
        /// `--retries=`.
        retries: Option<u32>,
    },
}
