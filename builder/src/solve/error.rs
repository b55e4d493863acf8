//! Why a step did not end well.

use std::error::Error as StdError;
use std::path::PathBuf;

use crate::accounts::AccountError;
use crate::context::ContextError;
use crate::dockerfile::Span;
use crate::graph::Vertex;
use crate::remote::git::GitError;
use crate::remote::http::HttpError;
use crate::sandbox::SandboxError;

/// A step that failed.
#[derive(Debug, thiserror::Error)]
#[error("{cause}")]
pub struct SolveError {
    /// Its lines in the Dockerfile.
    pub span: Span,
    /// How it is shown.
    pub step: String,
    /// Why.
    #[source]
    pub cause: Box<Cause>,
}

impl SolveError {
    pub(super) fn new(vertex: &Vertex, cause: Cause) -> Self {
        Self { span: vertex.span, step: vertex.name.clone(), cause: Box::new(cause) }
    }
}

/// An error with its causes, in one line.
pub(crate) fn chain(error: &(dyn StdError + 'static)) -> String {
    let causes = std::iter::successors(Some(error), |error| (*error).source());
    causes.map(ToString::to_string).collect::<Vec<_>>().join(": ")
}

/// Why a step failed.
#[derive(Debug, thiserror::Error)]
pub enum Cause {
    /// The command ended with a code other than 0.
    #[error("`{command}` exited with status {code}")]
    Exit {
        /// The command, as in the Dockerfile.
        command: String,
        /// Its code; 128 + n after signal n.
        code: i32,
    },
    /// The same, and the kernel has killed a process in the meantime.
    #[error("`{command}` exited with status {code}, and the kernel killed a process for want of memory while it ran")]
    OutOfMemory {
        /// The command, as in the Dockerfile.
        command: String,
        /// Its code.
        code: i32,
    },
    /// The same, and the file system that the command wrote to is full, or nearly so.
    #[error("`{command}` exited with status {code}, and hardly any room is left on the disk that it wrote to")]
    DiskFull {
        /// The command, as in the Dockerfile.
        command: String,
        /// Its code.
        code: i32,
    },
    /// The command took longer than `--timeout` allows.
    #[error("`{command}` took longer than {} seconds and was ended", after.as_secs_f64())]
    TimedOut {
        /// The command, as in the Dockerfile.
        command: String,
        /// What it may take.
        after: std::time::Duration,
    },
    /// The command asks for what its root does not have: a user, a working directory.
    #[error("cannot run the command: {reason}")]
    Step {
        /// What, in a sentence.
        reason: String,
    },
    /// The command, or a variable that it would see, is too long.
    #[error("cannot run the command: {reason}")]
    TooLong {
        /// How long, in a sentence.
        reason: String,
    },
    /// The command could not be run.
    #[error("cannot run the command in its sandbox")]
    Sandbox(#[from] SandboxError),
    /// The build context did not give the files.
    #[error(transparent)]
    Context(#[from] ContextError),
    /// A wildcard that matches nothing, or a path that the source tree does not have.
    #[error("`{patterns}` matches nothing in {place}")]
    NoMatch {
        /// The sources as written.
        patterns: String,
        /// The build context or the stage's tree.
        place: &'static str,
    },
    /// A link that leads to nothing: nobody can say what was meant.
    #[error("`{}` matches `{}`, a link to what is not there", patterns, path.display())]
    Dangling {
        /// The sources as written.
        patterns: String,
        /// The link.
        path: PathBuf,
    },
    /// A wildcard pattern that is malformed.
    #[error("`{pattern}` is not a pattern")]
    Pattern {
        /// The source as written.
        pattern: String,
        /// What is wrong with it.
        source: crate::context::PatternError,
    },
    /// A pattern of `--exclude` or `--parents` that is malformed.
    #[error("cannot read the patterns of `--exclude` and `--parents`")]
    Exclude(#[source] crate::context::IgnoreError),
    /// A file stands where a directory has to be, or the other way round.
    #[error("cannot copy over `{}`: {reason}", path.display())]
    Obstacle {
        /// The path in the image.
        path: PathBuf,
        /// What stands there.
        reason: &'static str,
    },
    /// `--chown` or `USER` names someone whom the image does not know.
    #[error(transparent)]
    Account(#[from] AccountError),
    /// The archive of an ADD is malformed.
    #[error("cannot unpack `{source_path}`")]
    Archive {
        /// The source as written.
        source_path: String,
        /// What is wrong.
        source: snapshot::Error,
    },
    /// An image's layer could not be fetched.
    #[error("cannot fetch a layer of `{reference}`")]
    Fetch {
        /// The image.
        reference: String,
        /// Why.
        source: Box<registry::Error>,
    },
    /// A step that was run to verify the cache made something else.
    #[error("the cache has another result than the step makes now: `/{}` {how}", path.display())]
    Differs {
        /// The first path that differs.
        path: PathBuf,
        /// How.
        how: &'static str,
    },
    /// A layer of a cache could not be fetched.
    #[error("cannot fetch a layer from the cache `{place}`")]
    Import {
        /// The cache.
        place: String,
        /// Why.
        source: Box<crate::cache::PlaceError>,
    },
    /// An image's layer could not be read from its OCI layout.
    #[error(transparent)]
    Layout(Box<crate::layout::LayoutError>),
    /// A file behind http(s) could not be fetched.
    #[error(transparent)]
    Http(HttpError),
    /// A git repository could not be read.
    #[error(transparent)]
    Git(GitError),
    /// A URL that gives a directory's new file no name.
    #[error("`{url}` gives the file no name: end the destination with one")]
    NoName {
        /// The URL.
        url: String,
    },
    /// A layer's bytes are not what the image's config says.
    #[error("a layer of `{reference}` is not what its config says: expected diff_id `{expected}`, found `{found}`")]
    DiffId {
        /// The image.
        reference: String,
        /// By the config.
        expected: String,
        /// By the bytes.
        found: String,
    },
    /// A mount needs a secret that the build does not have.
    #[error(
        "the step needs the secret `{id}`: give it with `--secret id={id},src=FILE` or `--secret id={id},env=NAME`"
    )]
    NoSecret {
        /// Its name.
        id: String,
    },
    /// A mount needs an ssh agent that the build does not have.
    #[error("the step needs the ssh agent `{id}`: give it with `--ssh {id}` or `--ssh {id}=SOCKET`")]
    NoAgent {
        /// Its name.
        id: String,
    },
    /// The socket that leads a step to its ssh agent could not be made.
    #[error("cannot make a socket for the ssh agent `{id}`")]
    Agent {
        /// Its name.
        id: String,
        /// The system's answer.
        source: std::io::Error,
    },
    /// The directory of a cache mount could not be made or locked.
    #[error("cannot {action} the directory of the cache mount `{id}`")]
    CacheDirectory {
        /// What was attempted.
        action: &'static str,
        /// Its name.
        id: String,
        /// The system's answer.
        source: std::io::Error,
    },
    /// What a cache mount begins with is no directory.
    #[error("the cache mount `{id}` cannot begin as `{source_path}`, which is no directory")]
    CacheSource {
        /// Its name.
        id: String,
        /// The source as written.
        source_path: String,
    },
    /// A secret in what would become a layer.
    #[error(transparent)]
    Secret(#[from] crate::secrets::Found),
    /// The store or a tree on disk.
    #[error(transparent)]
    Snapshot(snapshot::Error),
    /// A file operation; the text names the path.
    #[error(transparent)]
    Io(#[from] std::io::Error),
    /// The build was cancelled, or another step failed.
    #[error("cancelled")]
    Cancelled,
}

impl From<HttpError> for Cause {
    fn from(error: HttpError) -> Self {
        if matches!(error, HttpError::Cancelled) { Self::Cancelled } else { Self::Http(error) }
    }
}

impl From<GitError> for Cause {
    fn from(error: GitError) -> Self {
        if matches!(error, GitError::Cancelled) { Self::Cancelled } else { Self::Git(error) }
    }
}

impl From<snapshot::Error> for Cause {
    /// What a file of the context had to say when its bytes were read is the cause, not what came of it.
    fn from(error: snapshot::Error) -> Self {
        match error {
            snapshot::Error::Content { path, source } => match source.downcast::<ContextError>() {
                Ok(context) => context.into(),
                Err(source) => Self::Snapshot(snapshot::Error::Content { path, source }),
            },
            error => Self::Snapshot(error),
        }
    }
}
