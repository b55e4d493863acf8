//! Why a build context could not be read.

use std::io;
use std::path::PathBuf;

use super::ignore::IgnoreError;
use super::pattern::PatternError;

/// Why a build context could not be read. Paths are relative to the context unless the text says otherwise.
#[derive(Debug, thiserror::Error)]
pub enum ContextError {
    /// The root is missing, unreadable or no directory.
    #[error("cannot open the build context `{}`", path.display())]
    Root {
        /// The root, as given.
        path: PathBuf,
        /// The cause.
        source: io::Error,
    },
    /// `/proc`, through which extended attributes are read, is not there.
    #[error("cannot read the build context: /proc is not mounted")]
    NoProc(#[source] io::Error),
    /// Nothing has this path.
    #[error("`{}`: no such file or directory in the build context", path.display())]
    Missing {
        /// The path, as asked for.
        path: PathBuf,
    },
    /// The path exists and the ignore rules hide it.
    #[error("`{}`: no such file or directory in the build context: it is excluded by .dockerignore", path.display())]
    Ignored {
        /// The path, as asked for.
        path: PathBuf,
    },
    /// A symbolic link that leads to itself, or a chain of more than the limit.
    #[error("`{}`: too many levels of symbolic links in the build context", path.display())]
    Links {
        /// The path, as asked for.
        path: PathBuf,
    },
    /// Bytes were asked of something that has none.
    #[error("`{}` in the build context is not a regular file", path.display())]
    NotAFile {
        /// The path.
        path: PathBuf,
    },
    /// A file, directory, link or attribute could not be read.
    #[error("cannot read `{}` in the build context", path.display())]
    Read {
        /// The path.
        path: PathBuf,
        /// The cause.
        source: io::Error,
    },
    /// The file did not hold still while it was read.
    #[error("`{}` in the build context changed while it was read", path.display())]
    Changed {
        /// The path.
        path: PathBuf,
    },
    /// What is to be copied is not what the key was made of.
    #[error("the build context changed between two looks at it")]
    ChangedSince,
    /// Names are nested beyond what a path can say (Linux `PATH_MAX`).
    #[error("`{}…` in the build context is longer than {limit} bytes", path.display())]
    TooLong {
        /// The beginning of the path.
        path: PathBuf,
        /// The limit in bytes.
        limit: usize,
    },
    /// A source pattern does not follow the syntax.
    #[error("the pattern `{pattern}` is malformed")]
    Pattern {
        /// The pattern, as given.
        pattern: String,
        /// What is wrong with it.
        source: PatternError,
    },
    /// The ignore file could not be read.
    #[error("cannot read the ignore file `{}`", path.display())]
    ReadIgnore {
        /// The ignore file.
        path: PathBuf,
        /// The cause.
        source: io::Error,
    },
    /// A line of the ignore file does not follow the syntax.
    #[error("the ignore file `{}` is malformed", path.display())]
    Ignore {
        /// The ignore file.
        path: PathBuf,
        /// The line and what is wrong with it.
        source: IgnoreError,
    },
}
