//! A directory of the host as a build context.

use std::ffi::OsString;
use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Component, Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use fs_err as fs;
use rustix::fs::{Mode, OFlags};
use snapshot::{Entry, Kind};

use super::beneath::Opener;
use super::error::ContextError;
use super::ignore::Ignore;
use super::listing::{self, Listing};
use super::memo::Memo;
use super::{resolve, walk};

#[cfg(test)]
mod tests;

/// The longest ignore file in bytes: far beyond any that a person wrote, and no way to exhaust the memory.
const IGNORE_LIMIT: u64 = 4 << 20;

/// The most entries of listings that are kept: some 30 MB.
const KEPT_MAX: usize = 100_000;

/// A directory as a build context. Nothing outside it can be reached through it.
#[derive(Debug)]
pub struct LocalContext {
    root: Arc<OwnedFd>,
    ignore: Ignore,
    modes: Modes,
    /// What was listed.
    kept: Mutex<Vec<Kept>>,
}

/// Which permissions the files of a context have.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Modes {
    /// Their own.
    #[default]
    Kept,
    /// Those that git keeps: 0755 for directories and for what its owner may execute, else 0644. The umask of whoever
    /// checked the files out is nowhere to be seen then.
    Git,
}

/// What a listing was made of.
#[derive(Debug)]
struct Kept {
    selected: Vec<Selected>,
    exclude: Ignore,
    digest: blake3::Hash,
    /// None where it would take too much memory: it can be made again.
    listing: Option<Arc<Listing>>,
}

/// One match of a source pattern.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Selected {
    /// Where the match is: relative to the root, free of symbolic links; empty for the root itself.
    pub path: PathBuf,
    /// The name that the destination gives it when the destination is a directory: the last component as the pattern
    /// matched it, before a link was followed. Empty for a directory, whose entries are copied rather than itself.
    /// It is part of the digest.
    pub name: OsString,
    /// Whether the match is a directory.
    pub directory: bool,
}

impl LocalContext {
    /// Opens the directory `root` as a context in which `ignore` hides paths.
    pub fn open(root: &Path, ignore: Ignore) -> Result<Self, ContextError> {
        let directory = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let opened = rustix::fs::open(root, directory, Mode::empty())
            .map_err(|source| ContextError::Root { path: root.to_owned(), source: source.into() })?;
        fs::metadata("/proc/self/fd").map_err(ContextError::NoProc)?;
        Ok(Self { root: opened.into(), ignore, modes: Modes::Kept, kept: Mutex::default() })
    }

    /// Returns what `pattern` selects, sorted by path as the pattern sees it: a literal path, or wildcards as in
    /// [`super::glob`]. A leading `/` is the root, `..` stops there. Symbolic links on the way to a match and a match
    /// that is one are followed inside the root.
    ///
    /// A literal path that does not exist or is ignored is an error; wildcards that match nothing select nothing.
    pub fn select(&self, pattern: &str) -> Result<Vec<Selected>, ContextError> {
        resolve::select(self, pattern)
    }

    /// Calls `visit` for the entry at `at` and for those below it: depth-first, parents first, names sorted bytewise,
    /// ignored ones and sockets left out. Paths are relative to `at`, whose own is empty. The context's root is given
    /// as a directory of mode 0755.
    ///
    /// `exclude` are the patterns of `COPY --exclude`, relative to `at`; a match that is no directory is held against
    /// them by its name.
    pub fn walk<E: From<ContextError>>(
        &self,
        at: &Selected,
        exclude: &Ignore,
        visit: &mut dyn FnMut(&Path, &Entry) -> Result<(), E>,
    ) -> Result<(), E> {
        walk::walk(self, at, exclude, None, &mut |found| visit(found.relative, &found.entry))
    }

    /// Lists `selected` with what is below them, as [`LocalContext::walk`] goes. Files that `memo` knows are not read.
    ///
    /// What was listed once stays what it was then: whoever asks for the same gets the same. Where that would take too
    /// much memory it is listed again, and it is an error if it is something else by then.
    pub fn list(&self, selected: &[Selected], exclude: &Ignore, memo: &Memo) -> Result<Arc<Listing>, ContextError> {
        let same = |kept: &&Kept| kept.selected == selected && kept.exclude == *exclude;
        let known = self.kept().iter().find(same).map(|kept| (kept.digest, kept.listing.clone()));
        let before = match known {
            Some((_, Some(listing))) => return Ok(listing),
            Some((digest, None)) => Some(digest),
            None => None,
        };
        let listing = Arc::new(listing::list(self, selected, exclude, memo)?);
        match before {
            Some(digest) if digest != listing.digest() => Err(ContextError::ChangedSince),
            Some(_) => Ok(listing),
            None => {
                self.keep(selected, exclude, &listing);
                Ok(listing)
            }
        }
    }

    fn keep(&self, selected: &[Selected], exclude: &Ignore, listing: &Arc<Listing>) {
        let mut kept = self.kept();
        let entries: usize = kept.iter().filter_map(|kept| kept.listing.as_ref()).map(|listing| listing.len()).sum();
        let fits = entries + listing.len() <= KEPT_MAX;
        kept.push(Kept {
            selected: selected.to_vec(),
            exclude: exclude.clone(),
            digest: listing.digest(),
            listing: fits.then(|| Arc::clone(listing)),
        });
    }

    /// Forgets what was listed but for its digests.
    #[cfg(test)]
    pub(super) fn forget(&self) {
        self.kept().iter_mut().for_each(|kept| kept.listing = None);
    }

    fn kept(&self) -> MutexGuard<'_, Vec<Kept>> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Opens the regular file `path`, ignored or not. No component of `path` may be a symbolic link.
    pub fn open_file(&self, path: &Path) -> Result<File, ContextError> {
        let opened = Opener::new(self.root()).open(path);
        opened.map(|(file, _)| file).map_err(|source| match source.kind() {
            io::ErrorKind::InvalidInput => ContextError::NotAFile { path: path.to_owned() },
            _ => resolve::not_found_or_read(path, source),
        })
    }

    /// Resolves the links of `path` inside the root, ignored or not.
    pub fn find(&self, path: &Path) -> Result<PathBuf, ContextError> {
        let root = Arc::clone(&self.root);
        let bare = Self { root, ignore: Ignore::default(), modes: self.modes, kept: Mutex::default() };
        let relative = path.components().filter(|part| !matches!(part, Component::RootDir | Component::CurDir));
        resolve::find(&bare, &relative.collect::<PathBuf>()).map(|(found, _)| found)
    }

    /// The same for a directory.
    pub fn directory(&self, path: &str) -> Result<PathBuf, ContextError> {
        let found = self.find(Path::new(path))?;
        match super::beneath::open_directory(self.root(), &found) {
            Ok(_) => Ok(found),
            Err(source) => Err(read(Path::new(path), source)),
        }
    }

    /// Chooses which permissions its files have.
    #[must_use]
    pub fn with_modes(self, modes: Modes) -> Self {
        Self { modes, ..self }
    }

    /// Gives an entry the permissions that it has in this context.
    pub(super) fn set_mode(&self, entry: &mut Entry) {
        let mode = &mut entry.metadata.mode;
        match (self.modes, &entry.kind) {
            (Modes::Git, Kind::Directory) => *mode = 0o755,
            (Modes::Git, Kind::File { .. }) => *mode = if *mode & 0o100 == 0 { 0o644 } else { 0o755 },
            _ => {}
        }
    }

    /// Whether names of one file stay that. A check-out has a file for each name.
    pub(super) fn keeps_links(&self) -> bool {
        self.modes == Modes::Kept
    }

    pub(super) fn root(&self) -> BorrowedFd<'_> {
        self.root.as_fd()
    }

    /// The root, for what outlives the context.
    pub(super) fn root_handle(&self) -> &Arc<OwnedFd> {
        &self.root
    }

    pub(super) fn ignore(&self) -> &Ignore {
        &self.ignore
    }

    /// Whether anything below the directory `at` is left by the ignore rules.
    pub(super) fn has_entries(&self, at: &Selected) -> Result<bool, ContextError> {
        enum Stop {
            Found,
            Failed(ContextError),
        }
        impl From<ContextError> for Stop {
            fn from(error: ContextError) -> Self {
                Self::Failed(error)
            }
        }
        let nothing = Ignore::default();
        let walked = walk::walk(self, at, &nothing, None, &mut |found| {
            if found.relative.as_os_str().is_empty() { Ok(()) } else { Err(Stop::Found) }
        });
        match walked {
            Ok(()) => Ok(false),
            Err(Stop::Found) => Ok(true),
            Err(Stop::Failed(error)) => Err(error),
        }
    }
}

fn read(path: &Path, source: io::Error) -> ContextError {
    ContextError::Read { path: path.to_owned(), source }
}

/// What ignore files are called, the first that is there counts: docker's name, and podman's (containerignore(5)).
const IGNORE_FILES: [&str; 2] = [".dockerignore", ".containerignore"];

/// The ignore files that a Dockerfile may have of its own.
fn beside(dockerfile: Option<&Path>) -> impl Iterator<Item = PathBuf> {
    dockerfile.into_iter().flat_map(|dockerfile| {
        IGNORE_FILES.map(|name| {
            let mut beside = dockerfile.as_os_str().to_owned();
            beside.push(name);
            PathBuf::from(beside)
        })
    })
}

/// Like [`load_ignore`], where the Dockerfile too is in `root`, and no link leads out of it.
pub fn load_ignore_beneath(root: &Path, dockerfile: Option<&Path>) -> Result<Ignore, ContextError> {
    let context = LocalContext::open(root, Ignore::default())?;
    for path in beside(dockerfile).chain(IGNORE_FILES.map(PathBuf::from)) {
        match context.find(&path) {
            Err(ContextError::Missing { .. }) => {}
            found => return parse_ignore(path, read_text(context.open_file(&found?)?)),
        }
    }
    Ok(Ignore::default())
}

/// Reads the ignore file that applies: `<dockerfile>.dockerignore` beside the Dockerfile, else `.dockerignore` in
/// `root` (a link there is followed inside the root only), each also by podman's name, else nothing is ignored.
pub fn load_ignore(root: &Path, dockerfile: Option<&Path>) -> Result<Ignore, ContextError> {
    for beside in beside(dockerfile) {
        match fs::metadata(&beside) {
            Ok(metadata) if metadata.is_file() => {
                let opened = fs::File::open(&beside);
                let text = opened.and_then(read_text);
                return parse_ignore(beside, text);
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(source) => return Err(ContextError::ReadIgnore { path: beside, source }),
            Ok(_) => {
                let source = io::Error::from(io::ErrorKind::InvalidInput);
                return Err(ContextError::ReadIgnore { path: beside, source });
            }
        }
    }
    let context = LocalContext::open(root, Ignore::default())?;
    for name in IGNORE_FILES {
        let selected = match context.select(name) {
            Err(ContextError::Missing { .. }) => continue,
            selected => selected?,
        };
        let path = selected.into_iter().next().map(|selected| selected.path).unwrap_or_default();
        let text = read_text(context.open_file(&path)?);
        return parse_ignore(root.join(path), text);
    }
    Ok(Ignore::default())
}

fn read_text(file: impl Read) -> io::Result<String> {
    let mut text = String::new();
    let read = file.take(IGNORE_LIMIT + 1).read_to_string(&mut text)?;
    if read as u64 > IGNORE_LIMIT { Err(io::ErrorKind::FileTooLarge.into()) } else { Ok(text) }
}

fn parse_ignore(path: PathBuf, text: io::Result<String>) -> Result<Ignore, ContextError> {
    match text {
        Ok(text) => Ignore::parse(&text).map_err(|source| ContextError::Ignore { path, source }),
        Err(source) => Err(ContextError::ReadIgnore { path, source }),
    }
}
