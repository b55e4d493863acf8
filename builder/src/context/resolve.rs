//! From a source pattern to the paths that it selects: wildcards expanded, symbolic links followed inside the root.

use std::collections::VecDeque;
use std::ffi::{OsStr, OsString};
use std::io;
use std::os::fd::AsFd;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

use rustix::fs::FileType;

use super::beneath;
use super::error::ContextError;
use super::glob::{Glob, has_wildcard, unescape};
use super::local::{LocalContext, Selected};
use super::pattern::{PatternError, clean};

/// The most links that one path may lead through: as many as the kernel follows (`MAXSYMLINKS`) would refuse trees
/// that container engines accept; theirs is 255.
const LINKS: usize = 255;

/// Expands `pattern`; see [`LocalContext::select`].
pub(super) fn select(context: &LocalContext, pattern: &str) -> Result<Vec<Selected>, ContextError> {
    let rooted = format!("/{pattern}");
    let cleaned = clean(&rooted);
    let components: Vec<&str> = cleaned.split('/').filter(|component| !component.is_empty()).collect();
    let literal = components.iter().position(|component| has_wildcard(component)).unwrap_or(components.len());
    let malformed = |source: PatternError| ContextError::Pattern { pattern: pattern.to_owned(), source };

    let (head, globs) = components.split_at(literal);
    let head: PathBuf =
        head.iter().map(|component| unescape(component)).collect::<Result<_, _>>().map_err(malformed)?;
    let globs =
        globs.iter().map(|component| Glob::parse(component)).collect::<Result<Vec<_>, _>>().map_err(malformed)?;

    let resolved = follow(context, &head)?;
    if globs.is_empty() {
        return settle(context, &head, resolved).map(|selected| vec![selected]);
    }
    let mut selected = Vec::new();
    if resolved.file_type == FileType::Directory {
        expand(context, &resolved.path, &globs, &mut selected)?;
    }
    Ok(selected)
}

/// A path without links, and what it is.
struct Resolved {
    path: PathBuf,
    file_type: FileType,
}

/// Follows the links of `asked`, the last component's too, as if the context were `/`.
fn follow(context: &LocalContext, asked: &Path) -> Result<Resolved, ContextError> {
    let mut left: VecDeque<OsString> = asked.components().map(|component| component.as_os_str().to_owned()).collect();
    let mut resolved = Resolved { path: PathBuf::new(), file_type: FileType::Directory };
    let mut links = 0;
    while let Some(name) = left.pop_front() {
        if name == ".." {
            resolved.path.pop();
            resolved.file_type = FileType::Directory;
            continue;
        }
        if resolved.file_type != FileType::Directory {
            return Err(ContextError::Missing { path: asked.to_owned() });
        }
        let failed = |source| not_found_or_read(asked, source);
        let directory = beneath::open_directory(context.root(), &resolved.path).map_err(failed)?;
        let stat = beneath::stat(directory.as_fd(), &name).map_err(failed)?;
        if stat.file_type != FileType::Symlink {
            resolved.path.push(&name);
            resolved.file_type = stat.file_type;
            continue;
        }
        if context.ignore().is_ignored(&resolved.path.join(&name)) {
            return Err(ContextError::Ignored { path: asked.to_owned() });
        }
        links += 1;
        if links > LINKS {
            return Err(ContextError::Links { path: asked.to_owned() });
        }
        let target = beneath::link_target(directory.as_fd(), &name).map_err(failed)?;
        if target.first() == Some(&b'/') {
            resolved.path.clear();
        }
        let steps = target.split(|&byte| byte == b'/').filter(|step| !matches!(*step, b"" | b"."));
        for step in steps.rev() {
            left.push_front(OsStr::from_bytes(step).to_owned());
        }
    }
    Ok(resolved)
}

/// Follows the links of a path inside the root; says whether it leads to a directory.
pub(super) fn find(context: &LocalContext, path: &Path) -> Result<(PathBuf, bool), ContextError> {
    follow(context, path).map(|found| (found.path, found.file_type == FileType::Directory))
}

/// Makes a match of a path that was `asked` for and `resolved`, unless it is hidden or nothing that can be copied.
fn settle(context: &LocalContext, asked: &Path, resolved: Resolved) -> Result<Selected, ContextError> {
    let directory = resolved.file_type == FileType::Directory;
    if resolved.file_type == FileType::Socket {
        return Err(ContextError::NotAFile { path: asked.to_owned() });
    }
    let name = if directory { OsString::new() } else { asked.file_name().unwrap_or_default().to_owned() };
    let selected = Selected { path: resolved.path, name, directory };
    let hidden = context.ignore().is_ignored(&selected.path);
    if hidden && !(directory && context.has_entries(&selected)?) {
        return Err(ContextError::Ignored { path: asked.to_owned() });
    }
    Ok(selected)
}

/// Adds what `globs` match below `directory`. Only a match itself is followed when it is a link: like Go's
/// `filepath.Walk`, wildcards do not look through links on the way.
fn expand(
    context: &LocalContext,
    directory: &Path,
    globs: &[Glob],
    selected: &mut Vec<Selected>,
) -> Result<(), ContextError> {
    let Some((glob, below)) = globs.split_first() else { return Ok(()) };
    let failed = |source| not_found_or_read(directory, source);
    let open = beneath::open_directory(context.root(), directory).map_err(failed)?;
    for name in beneath::names(open.as_fd()).map_err(failed)? {
        if !glob.matches(name.as_os_str()) {
            continue;
        }
        let path = directory.join(name.as_os_str());
        let file_type = match name.file_type {
            FileType::Unknown => {
                let stat = beneath::stat(open.as_fd(), name.as_os_str());
                stat.map_err(|source| not_found_or_read(&path, source))?.file_type
            }
            known => known,
        };
        let ignored = context.ignore().is_ignored(&path);
        if ignored && !(file_type == FileType::Directory && context.ignore().may_descend(&path)) {
            continue;
        }
        if !below.is_empty() {
            if file_type == FileType::Directory {
                expand(context, &path, below, selected)?;
            }
            continue;
        }
        let resolved = match file_type {
            FileType::Socket => continue,
            FileType::Symlink => follow(context, &path)?,
            file_type => Resolved { path: path.clone(), file_type },
        };
        match settle(context, &path, resolved) {
            // Only what lies below an ignored directory could have been brought back, and nothing was.
            Err(ContextError::Ignored { .. }) if ignored => {}
            settled => selected.push(settled?),
        }
    }
    Ok(())
}

/// The error for a path that was `asked` for.
pub(super) fn not_found_or_read(asked: &Path, source: io::Error) -> ContextError {
    let path = asked.to_owned();
    match source.kind() {
        io::ErrorKind::NotFound | io::ErrorKind::NotADirectory => ContextError::Missing { path },
        _ => ContextError::Read { path, source },
    }
}

/// The bytes of a path that `follow` or a walk made.
pub(super) fn path_of(bytes: &[u8]) -> PathBuf {
    PathBuf::from(OsString::from_vec(bytes.to_vec()))
}
