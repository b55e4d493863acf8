//! Contexts that are not simply a directory: unpacked, cloned or downloaded into one that lasts as long as the build.
//!
//! What is inside is somebody else's: its Dockerfile and ignore file are read beneath its root alone.

use std::io::{self, Read};
use std::path::{Path, PathBuf};

use snapshot::{Store, TempDirectory, layer};

use crate::archive;
use crate::context::{ContextError, Ignore, LocalContext, load_ignore, load_ignore_beneath};
use crate::remote::git::{self, GitError};
use crate::remote::http::HttpError;
use crate::remote::location::{Location, shown};
use crate::remote::waiting::Pump;
use crate::remote::{Remotes, http};

/// The longest Dockerfile, in bytes: a thousand times the longest that a person wrote.
const DOCKERFILE_LIMIT: u64 = 16 << 20;

/// Why a context could not be made ready.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// A directory.
    #[error(transparent)]
    Context(#[from] ContextError),
    /// A repository.
    #[error(transparent)]
    Git(#[from] GitError),
    /// A download.
    #[error(transparent)]
    Http(#[from] HttpError),
    /// What was sent is an archive that cannot be unpacked.
    #[error("cannot unpack the build context from {origin}")]
    Archive {
        /// Standard input or the URL.
        origin: String,
        /// Why.
        source: snapshot::Error,
    },
    /// What was sent could not be stored.
    #[error("cannot keep the build context from {origin}")]
    Keep {
        /// Standard input or the URL.
        origin: String,
        /// Why.
        source: io::Error,
    },
    /// Neither an archive nor a text that could be a Dockerfile.
    #[error("the build context from {origin} is neither a tar archive nor a Dockerfile")]
    Neither {
        /// Standard input or the URL.
        origin: String,
    },
    /// A named context that has to be a tree.
    #[error("{origin} is no tar archive: only archives can be named contexts")]
    NotATree {
        /// The URL.
        origin: String,
    },
    /// A build context that is not there, or is a file.
    #[error("there is no directory `{}` to build: a build context is a directory, and `-f` names a Dockerfile", path.display())]
    NoDirectory {
        /// What was given.
        path: PathBuf,
    },
    /// A Dockerfile that cannot be read.
    #[error("cannot read the Dockerfile `{}`; name it with `-f PATH`", path.display())]
    Dockerfile {
        /// Its path.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// `-f` beside a Dockerfile that is the whole context.
    #[error("{origin} is a Dockerfile itself: `-f {}` names a file of an archive", path.display())]
    TwoDockerfiles {
        /// Standard input or the URL.
        origin: String,
        /// What `-f` says.
        path: PathBuf,
    },
    /// Both the Dockerfile and the context come from standard input.
    #[error("the Dockerfile and the build context cannot both come from standard input")]
    StdinTwice,
    /// The build was cancelled.
    #[error("the build was cancelled")]
    Cancelled,
}

impl OpenError {
    /// Whether the build was cancelled.
    pub fn is_cancelled(&self) -> bool {
        matches!(self, Self::Cancelled | Self::Git(GitError::Cancelled) | Self::Http(HttpError::Cancelled))
    }
}

/// A build context and its Dockerfile, on disk for as long as this lives.
#[derive(Debug)]
pub struct MainContext {
    /// The directory.
    pub directory: PathBuf,
    /// What of it is ignored.
    pub ignore: Ignore,
    /// The Dockerfile's bytes.
    pub dockerfile: Vec<u8>,
    /// How the Dockerfile is called in messages.
    pub name: String,
    /// When it last changed, in seconds since 1970: the time of the commit, that of the file behind the URL, else that of
    /// the archive's newest entry. None for a directory.
    pub changed: Option<i64>,
    _held: Held,
}

/// What keeps a directory on disk.
#[derive(Debug)]
enum Held {
    Nothing,
    Scratch { _directory: TempDirectory },
    Checkout { _files: git::Checkout },
}

/// A fetched tree, or a text that is a Dockerfile.
enum Fetched {
    Tree(PathBuf, Held),
    Text(Vec<u8>, TempDirectory),
}

/// Makes a build context ready that is to be unpacked, cloned or downloaded; `file` is `-f`.
pub fn open(
    location: &Location,
    file: Option<&Path>,
    stdin: impl Read + Send + 'static,
    (store, remotes): (&Store, &Remotes),
) -> Result<MainContext, OpenError> {
    let from_stdin = file == Some(Path::new("-"));
    if from_stdin && *location == Location::Stdin {
        return Err(OpenError::StdinTwice);
    }
    let origin = origin(location);
    let kept = |source| OpenError::Keep { origin: origin.clone(), source };
    let mut stdin: Box<dyn Read> = if from_stdin || *location == Location::Stdin {
        Box::new(Pump::start(stdin, remotes.cancel()).map_err(kept)?)
    } else {
        Box::new(io::empty())
    };
    let (fetched, changed) = fetch(store, location, &mut stdin, remotes)?;
    match fetched {
        Fetched::Text(dockerfile, scratch) => match file {
            Some(path) => Err(OpenError::TwoDockerfiles { origin, path: path.to_owned() }),
            None => Ok(MainContext {
                directory: scratch.path().to_owned(),
                ignore: Ignore::default(),
                dockerfile,
                name: origin,
                changed,
                _held: Held::Scratch { _directory: scratch },
            }),
        },
        Fetched::Tree(directory, held) if from_stdin => {
            let ignore = load_ignore_beneath(&directory, None)?;
            let (dockerfile, name) = (read_stdin(&mut stdin)?, "-".to_owned());
            Ok(MainContext { directory, ignore, dockerfile, name, changed, _held: held })
        }
        Fetched::Tree(directory, held) => {
            let path = file.unwrap_or_else(|| usual_name(&directory));
            let ignore = load_ignore_beneath(&directory, Some(path))?;
            let failed = |source| OpenError::Dockerfile { path: path.to_owned(), source };
            let context = LocalContext::open(&directory, Ignore::default())?;
            let found = context.find(path)?;
            let dockerfile = read_limited(context.open_file(&found)?).map_err(failed)?;
            let name = path.display().to_string();
            Ok(MainContext { directory, ignore, dockerfile, name, changed, _held: held })
        }
    }
}

/// The Dockerfile that `-f` names: relative to the working directory as for docker, else, as for kaniko and podman, to the
/// context.
pub fn given_dockerfile(directory: &Path, file: &Path) -> PathBuf {
    let inside = directory.join(file);
    if file != Path::new("-") && !file.exists() && inside.exists() { inside } else { file.to_owned() }
}

/// Makes a directory and its Dockerfile ready: it stays where it is.
pub fn open_local(directory: &Path, file: Option<&Path>, stdin: &mut dyn Read) -> Result<MainContext, OpenError> {
    if !directory.is_dir() {
        return Err(OpenError::NoDirectory { path: directory.to_owned() });
    }
    let path = file.map_or_else(|| directory.join(usual_name(directory)), Path::to_owned);
    let from_stdin = path == Path::new("-");
    let dockerfile = if from_stdin {
        read_stdin(stdin)?
    } else {
        let failed = |source| OpenError::Dockerfile { path: path.clone(), source };
        fs_err::File::open(&path).and_then(read_limited).map_err(failed)?
    };
    let ignore = load_ignore(directory, if from_stdin { None } else { Some(&path) })?;
    let name = path.display().to_string();
    let directory = directory.to_owned();
    Ok(MainContext { directory, ignore, dockerfile, name, changed: None, _held: Held::Nothing })
}

/// The name of a directory's Dockerfile where none is given: docker's, else podman's.
fn usual_name(directory: &Path) -> &'static Path {
    let names = ["Dockerfile", "dockerfile", "Containerfile"].map(Path::new);
    names.into_iter().find(|name| directory.join(name).exists()).unwrap_or(names[0])
}

fn read_stdin(stdin: &mut dyn Read) -> Result<Vec<u8>, OpenError> {
    read_limited(stdin).map_err(|source| OpenError::Dockerfile { path: "-".into(), source })
}

fn read_limited(file: impl Read) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    let read = file.take(DOCKERFILE_LIMIT + 1).read_to_end(&mut bytes)?;
    if read as u64 > DOCKERFILE_LIMIT { Err(io::ErrorKind::FileTooLarge.into()) } else { Ok(bytes) }
}

/// A named context: a tree and what keeps it.
#[derive(Debug)]
pub struct NamedTree {
    /// Its files.
    pub context: LocalContext,
    _held: Held,
}

/// Makes a named context ready.
pub fn open_named(store: &Store, location: &Location, remotes: &Remotes) -> Result<NamedTree, OpenError> {
    if let Location::Directory(directory) = location {
        let context = LocalContext::open(directory, load_ignore(directory, None)?)?;
        return Ok(NamedTree { context, _held: Held::Nothing });
    }
    match fetch(store, location, &mut io::empty(), remotes)?.0 {
        Fetched::Tree(directory, held) => {
            let context = LocalContext::open(&directory, load_ignore_beneath(&directory, None)?)?;
            Ok(NamedTree { context, _held: held })
        }
        Fetched::Text(..) => Err(OpenError::NotATree { origin: origin(location) }),
    }
}

fn origin(location: &Location) -> String {
    match location {
        Location::Directory(path) => format!("`{}`", path.display()),
        Location::Stdin => "standard input".into(),
        Location::Git(source) => format!("`{source}`"),
        Location::Http(url) => format!("`{}`", shown(url)),
    }
}

/// Fetches a context, and says when it last changed.
fn fetch(
    store: &Store,
    location: &Location,
    stdin: &mut dyn Read,
    remotes: &Remotes,
) -> Result<(Fetched, Option<i64>), OpenError> {
    let kept = |source| OpenError::Keep { origin: origin(location), source };
    match location {
        Location::Directory(path) => Ok((Fetched::Tree(path.clone(), Held::Nothing), None)),
        Location::Git(source) => {
            let checkout = remotes.checkout(store, source)?;
            let changed = checkout.made;
            Ok((Fetched::Tree(checkout.path().to_owned(), Held::Checkout { _files: checkout }), changed))
        }
        Location::Http(url) => {
            let download: http::Download = remotes.download(store, url, None)?;
            let file = store.blobs().open_verified(&download.digest);
            let file = file.map_err(|source| OpenError::Archive { origin: origin(location), source })?;
            let (fetched, newest) = unpack((store, remotes), location, file.into_parts().0)?;
            Ok((fetched, download.modified.or(newest)))
        }
        Location::Stdin => {
            let mut file = tempfile::tempfile_in(store.path().join("tmp")).map_err(kept)?;
            let limit = layer::Limits::default().bytes;
            let copied = io::copy(&mut stdin.take(limit + 1), &mut file);
            if remotes.cancel().is_cancelled() {
                return Err(OpenError::Cancelled);
            }
            let copied = copied.map_err(kept)?;
            if copied > limit {
                return Err(kept(io::ErrorKind::FileTooLarge.into()));
            }
            unpack((store, remotes), location, file)
        }
    }
}

/// Unpacks an archive, and says how old its newest entry is; a text that is none counts as a Dockerfile.
fn unpack(
    (store, remotes): (&Store, &Remotes),
    location: &Location,
    file: std::fs::File,
) -> Result<(Fetched, Option<i64>), OpenError> {
    use io::Seek;
    let kept = |source| OpenError::Keep { origin: origin(location), source };
    let scratch = store.scratch().map_err(io::Error::other).map_err(kept)?;
    let mut text = file.try_clone().map_err(kept)?;
    text.rewind().map_err(kept)?;
    if let Some(archive) = archive::open(file).map_err(kept)? {
        let unpacked = archive.unpack(scratch.path(), archive::Owners::Ours, remotes.cancel());
        if remotes.cancel().is_cancelled() {
            return Err(OpenError::Cancelled);
        }
        let unpacked = unpacked.map_err(|source| OpenError::Archive { origin: origin(location), source })?;
        let tree = Fetched::Tree(scratch.path().to_owned(), Held::Scratch { _directory: scratch });
        return Ok((tree, unpacked.newest()));
    }
    text.rewind().map_err(kept)?;
    let bytes = read_limited(text).map_err(kept)?;
    if bytes.contains(&0) {
        return Err(OpenError::Neither { origin: origin(location) });
    }
    Ok((Fetched::Text(bytes, scratch), None))
}
