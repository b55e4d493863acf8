//! Walks what was selected, depth first, with the ignore rules applied.

use std::ffi::OsStr;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::vec;

use rustix::fs::FileType;
use snapshot::{Content, Entry, Kind, Metadata, Xattrs};

use super::beneath::{self, Name, Stat};
use super::error::ContextError;
use super::ignore::{Ignore, Inherited};
use super::local::{LocalContext, Selected};
use super::memo::Memo;

/// The longest path in bytes, without its end: what Linux (`PATH_MAX`) lets anybody open by name.
const PATH_LIMIT: usize = 4095;

/// How many directories a walk keeps open; the ones above are opened again on the way back. Deep trees would
/// otherwise meet the limit of open files, which is 1024 on most machines.
const OPEN_LIMIT: usize = 64;

/// One entry of a walk.
pub(super) struct Found<'a> {
    /// Relative to the match; empty for the match itself.
    pub(super) relative: &'a Path,
    /// Relative to the context.
    pub(super) path: &'a Path,
    pub(super) entry: Entry,
    pub(super) stat: Stat,
    /// The digest of a regular file's bytes, where the memo knows it.
    pub(super) content: Option<Content>,
}

/// Called for each entry.
pub(super) type Visit<'v, E> = &'v mut dyn FnMut(Found<'_>) -> Result<(), E>;

/// What there is to know of a name without opening it.
struct Known {
    entry: Entry,
    stat: Stat,
    content: Option<Content>,
}

/// Finds out about a name; none for a socket. A file that the memo knows need not be asked for its attributes.
fn look(directory: BorrowedFd<'_>, name: &OsStr, stat: Stat, memo: Option<&Memo>) -> io::Result<Option<Known>> {
    if stat.file_type == FileType::RegularFile
        && let Some(content) = memo.and_then(|memo| memo.recall(&stat.identity))
    {
        return Ok(Some(Known { entry: beneath::plain_entry(&stat), stat, content: Some(content) }));
    }
    let entry = beneath::entry(directory, name, &stat)?;
    Ok(entry.map(|entry| Known { entry, stat, content: None }))
}

/// Walks `at`; see [`LocalContext::walk`]. Of files that `memo` knows the digests are found too.
pub(super) fn walk<E: From<ContextError>>(
    context: &LocalContext,
    at: &Selected,
    exclude: &Ignore,
    memo: Option<&Memo>,
    visit: Visit<'_, E>,
) -> Result<(), E> {
    walk_as_found(context, at, exclude, memo, &mut |mut found| {
        context.set_mode(&mut found.entry);
        visit(found)
    })
}

fn walk_as_found<E: From<ContextError>>(
    context: &LocalContext,
    at: &Selected,
    exclude: &Ignore,
    memo: Option<&Memo>,
    visit: Visit<'_, E>,
) -> Result<(), E> {
    let failed = |source| super::resolve::not_found_or_read(&at.path, source);
    let (Some(parent), Some(name)) = (at.path.parent(), at.path.file_name()) else {
        return walk_root(context, exclude, memo, visit);
    };
    let directory = beneath::open_directory(context.root(), parent).map_err(failed)?;
    let stat = beneath::stat(directory.as_fd(), name).map_err(failed)?;
    if stat.file_type != FileType::Directory {
        if exclude.is_ignored(Path::new(&at.name)) {
            return Ok(());
        }
        let known = look(directory.as_fd(), name, stat, memo).map_err(failed)?;
        let relative = Path::new("");
        return known.map_or(Ok(()), |Known { entry, stat, content }| {
            visit(Found { relative, path: &at.path, entry, stat, content })
        });
    }
    let opened = beneath::open_subdirectory(directory.as_fd(), name).map_err(failed)?;
    let entry = beneath::entry(directory.as_fd(), name, &stat).map_err(failed)?;
    if let Some(entry) = entry {
        let relative = Path::new("");
        visit(Found { relative, path: &at.path, entry, stat, content: None })?;
    }
    Walk::new((context, exclude, memo), at.path.as_os_str().as_bytes()).run(opened, visit)
}

/// Walks the whole context. Its root is what the user happened to create the directory with (0700 in a temporary
/// directory), so it is given as a plain 0755 directory.
fn walk_root<E: From<ContextError>>(
    context: &LocalContext,
    exclude: &Ignore,
    memo: Option<&Memo>,
    visit: Visit<'_, E>,
) -> Result<(), E> {
    let failed = |source| ContextError::Read { path: ".".into(), source };
    let opened = beneath::open_directory(context.root(), Path::new("")).map_err(failed)?;
    let stat = beneath::stat_open(opened.as_fd()).map_err(failed)?;
    let metadata = Metadata { mode: 0o755, uid: 0, gid: 0, mtime: stat.mtime(), xattrs: Xattrs::new() };
    let entry = Entry { kind: Kind::Directory, metadata };
    let nothing = Path::new("");
    visit(Found { relative: nothing, path: nothing, entry, stat, content: None })?;
    Walk::new((context, exclude, memo), b"").run(opened, visit)
}

/// A directory that a walk is in.
struct Frame {
    /// None when it was closed for the sake of `OPEN_LIMIT`.
    open: Option<OwnedFd>,
    names: vec::IntoIter<Name>,
    /// The length of its path.
    length: usize,
    ignored: Inherited,
    excluded: Inherited,
    /// The directory is hidden itself: it is visited only if something below it is.
    pending: Option<Known>,
}

struct Walk<'a> {
    context: &'a LocalContext,
    exclude: &'a Ignore,
    memo: Option<&'a Memo>,
    /// The path of the entry at hand, relative to the context.
    path: Vec<u8>,
    /// Where the part that is relative to the match begins.
    relative: usize,
    frames: Vec<Frame>,
}

impl<'a> Walk<'a> {
    fn new((context, exclude, memo): (&'a LocalContext, &'a Ignore, Option<&'a Memo>), at: &[u8]) -> Self {
        let relative = if at.is_empty() { 0 } else { at.len() + 1 };
        Self { context, exclude, memo, path: at.to_vec(), relative, frames: Vec::new() }
    }

    fn run<E: From<ContextError>>(mut self, opened: OwnedFd, visit: Visit<'_, E>) -> Result<(), E> {
        let ignored = self.context.ignore().matches_of(Path::new(OsStr::from_bytes(&self.path)));
        self.enter(opened, ignored, self.exclude.matches_of(Path::new("")), None)?;
        while let Some(frame) = self.frames.last_mut() {
            let Some(name) = frame.names.next() else {
                self.frames.pop();
                continue;
            };
            self.path.truncate(frame.length);
            if !self.path.is_empty() {
                self.path.push(b'/');
            }
            self.path.extend_from_slice(name.text.as_bytes());
            if self.path.len() > PATH_LIMIT {
                let path = super::resolve::path_of(&self.path[..256]);
                return Err(ContextError::TooLong { path, limit: PATH_LIMIT }.into());
            }
            self.step(&name, visit)?;
        }
        Ok(())
    }

    /// Lists a directory and makes it the one that the walk is in; its path is the one at hand.
    fn enter(
        &mut self,
        open: OwnedFd,
        ignored: Inherited,
        excluded: Inherited,
        pending: Option<Known>,
    ) -> Result<(), ContextError> {
        let names = beneath::names(open.as_fd()).map_err(|source| self.unreadable(source))?.into_iter();
        self.frames.push(Frame { open: Some(open), names, length: self.path.len(), ignored, excluded, pending });
        if let Some(above) = self.frames.len().checked_sub(OPEN_LIMIT + 1) {
            self.frames[above].open = None;
        }
        Ok(())
    }

    /// Deals with one name of the directory on top; its path is the one at hand.
    fn step<E: From<ContextError>>(&mut self, name: &Name, visit: Visit<'_, E>) -> Result<(), E> {
        let hidden = self.hides();
        if hidden && !matches!(name.file_type, FileType::Unknown | FileType::Directory) {
            return Ok(());
        }
        self.reopen()?;
        let Some(stat) = self.attempt(|directory| beneath::stat(directory, name.as_os_str()))? else { return Ok(()) };
        let is_directory = stat.file_type == FileType::Directory;
        if hidden && !(is_directory && self.may_descend()) {
            return Ok(());
        }
        let Some(known) = self.attempt(|directory| look(directory, name.as_os_str(), stat, self.memo))?.flatten()
        else {
            return Ok(());
        };
        let pending = if hidden {
            Some(known)
        } else {
            self.visit_pending(visit)?;
            self.visit_one(self.path.len(), known, visit)?;
            None
        };
        if !is_directory {
            return Ok(());
        }
        let opened = match self.attempt(|directory| beneath::open_subdirectory(directory, name.as_os_str())) {
            // Nobody asked for this directory: it is only searched for what may have been brought back.
            Err(ContextError::Read { source, .. })
                if hidden && source.kind() == io::ErrorKind::PermissionDenied && !self.names_below() =>
            {
                None
            }
            opened => opened?,
        };
        let (Some(opened), Some(frame)) = (opened, self.frames.last()) else { return Ok(()) };
        let ignored = self.context.ignore().inherit(&frame.ignored, &self.path);
        let excluded = self.exclude.inherit(&frame.excluded, &self.path[self.relative..]);
        Ok(self.enter(opened, ignored, excluded, pending)?)
    }

    /// Whether a rule hides the path at hand.
    fn hides(&self) -> bool {
        let Some(frame) = self.frames.last() else { return false };
        self.context.ignore().ignores(&frame.ignored, &self.path)
            || self.exclude.ignores(&frame.excluded, &self.path[self.relative..])
    }

    /// Whether something may be brought back below the path at hand, which is a hidden directory.
    fn may_descend(&self) -> bool {
        let Some(frame) = self.frames.last() else { return false };
        let open = |rules: &Ignore, parent: &Inherited, path: &[u8]| {
            let matches = rules.inherit(parent, path);
            !rules.decide(&matches) || rules.may_descend_with(path, &matches)
        };
        open(self.context.ignore(), &frame.ignored, &self.path)
            && open(self.exclude, &frame.excluded, &self.path[self.relative..])
    }

    /// Whether a rule spells out what is to be brought back below the path at hand.
    fn names_below(&self) -> bool {
        let relative = self.path.get(self.relative..).unwrap_or_default();
        self.context.ignore().names_below(&self.path) || self.exclude.names_below(relative)
    }

    /// Asks something of the directory on top about the path at hand; none when that was removed meanwhile.
    fn attempt<T>(&self, ask: impl FnOnce(BorrowedFd<'_>) -> io::Result<T>) -> Result<Option<T>, ContextError> {
        let Some(open) = self.frames.last().and_then(|frame| frame.open.as_ref()) else { return Ok(None) };
        match ask(open.as_fd()) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            answer => answer.map(Some).map_err(|source| self.unreadable(source)),
        }
    }

    /// Opens the directory on top again if it was closed.
    fn reopen(&mut self) -> Result<(), ContextError> {
        let Some(frame) = self.frames.last_mut() else { return Ok(()) };
        if frame.open.is_none() {
            let path = Path::new(OsStr::from_bytes(&self.path[..frame.length]));
            let open = beneath::open_directory(self.context.root(), path);
            frame.open = Some(open.map_err(|source| ContextError::Read { path: path.to_owned(), source })?);
        }
        Ok(())
    }

    /// Visits the hidden directories that lead to the path at hand.
    fn visit_pending<E: From<ContextError>>(&mut self, visit: Visit<'_, E>) -> Result<(), E> {
        for index in 1..self.frames.len() {
            if let Some(directory) = self.frames[index].pending.take() {
                self.visit_one(self.frames[index].length, directory, visit)?;
            }
        }
        Ok(())
    }

    /// Visits the entry whose path is the first `length` bytes of the one at hand.
    fn visit_one<E: From<ContextError>>(
        &self,
        length: usize,
        Known { entry, stat, content }: Known,
        visit: Visit<'_, E>,
    ) -> Result<(), E> {
        let path = Path::new(OsStr::from_bytes(&self.path[..length]));
        let relative = Path::new(OsStr::from_bytes(&self.path[self.relative..length]));
        visit(Found { relative, path, entry, stat, content })
    }

    fn unreadable(&self, source: io::Error) -> ContextError {
        ContextError::Read { path: super::resolve::path_of(&self.path), source }
    }
}
