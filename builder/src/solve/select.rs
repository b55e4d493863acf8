//! What a source of a COPY selects: in a build context, or in the tree of a stage or an image.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use snapshot::{Found, Kind, View};

use crate::context::{ContextError, Ignore, LocalContext, Selected, glob};
use crate::graph::CopyOp;

use super::error::Cause;
use super::relative;

/// The matches of a pattern, sorted. Links on the way and a match that is one are followed inside the tree: one that
/// leads to nothing is an error, unless a wildcard has found it on the way to something else. A literal path that is not
/// there selects nothing.
pub(super) fn select(view: &View, pattern: &str) -> Result<Vec<Selected>, Cause> {
    let mut found = vec![(PathBuf::new(), OsString::new())];
    let parts = clean(pattern);
    for (place, part) in parts.iter().enumerate() {
        let mut next = Vec::new();
        for (directory, _) in &found {
            if glob::has_wildcard(part) {
                for name in view.children(relative(directory)) {
                    if matches(pattern, part, Path::new(&name))? {
                        next.push((directory.join(&name), name));
                    }
                }
            } else {
                next.push((directory.join(part), OsString::from(part)));
            }
        }
        found = Vec::new();
        for (path, name) in next {
            let resolved = view.resolve(&path)?;
            if view.lookup(relative(&resolved)).is_some() {
                found.push((resolved, name));
            } else if view.lookup(relative(&path)).is_some() && (place + 1 == parts.len() || !glob::has_wildcard(part))
            {
                return Err(Cause::Dangling { patterns: pattern.to_owned(), path: Path::new("/").join(path) });
            }
        }
    }
    Ok(found.into_iter().map(|(path, name)| selected(view, path, name)).collect())
}

fn selected(view: &View, path: PathBuf, name: OsString) -> Selected {
    let directory = path.as_os_str().is_empty()
        || view.lookup(relative(&path)).is_some_and(|found| matches!(found.entry.kind, Kind::Directory));
    let name = if directory { OsString::new() } else { name };
    Selected { path, name, directory }
}

fn matches(pattern: &str, part: &str, name: &Path) -> Result<bool, Cause> {
    glob::matches(part, name).map_err(|source| Cause::Pattern { pattern: pattern.to_owned(), source })
}

/// The components of a source path: `..` stops at the root.
fn clean(pattern: &str) -> Vec<&str> {
    let mut parts = Vec::new();
    for part in pattern.split('/') {
        match part {
            "" | "." => {}
            ".." => _ = parts.pop(),
            name => parts.push(name),
        }
    }
    parts
}

/// The matches of one source, and which of what is below them is left out.
pub(super) struct Chosen {
    pub(super) matches: Vec<Selected>,
    pub(super) rules: Ignore,
}

/// What a source selects in a build context, by the flags of its instruction.
pub(super) fn in_context(context: &LocalContext, op: &CopyOp, source: &str) -> Result<Chosen, Cause> {
    if !op.parents {
        return Ok(Chosen { matches: context.select(source)?, rules: excluding(op)? });
    }
    let (root, pattern) = pivot(source);
    let matches: Vec<Selected> = context.select(root)?.into_iter().filter(|found| found.directory).collect();
    if !glob::has_wildcard(&pattern) {
        let (only, mut seen) = (inclusion(&pattern, &[])?, pattern.is_empty());
        for at in &matches {
            context.walk(at, &only, &mut |path: &Path, _: &_| {
                seen |= !path.as_os_str().is_empty();
                Ok::<(), ContextError>(())
            })?;
        }
        if !seen {
            return Err(ContextError::Missing { path: source.into() }.into());
        }
    }
    Ok(Chosen { matches, rules: inclusion(&pattern, &op.exclude)? })
}

/// What a source selects in a tree, by the flags of its instruction.
pub(super) fn in_tree(view: &View, op: &CopyOp, source: &str) -> Result<Chosen, Cause> {
    let missing = || Cause::NoMatch { patterns: source.to_owned(), place: "the tree that it copies from" };
    if !op.parents {
        let matches = select(view, source)?;
        if matches.is_empty() && !glob::has_wildcard(source) {
            return Err(missing());
        }
        return Ok(Chosen { matches, rules: excluding(op)? });
    }
    let (root, pattern) = pivot(source);
    let matches: Vec<Selected> = select(view, root)?.into_iter().filter(|found| found.directory).collect();
    if !glob::has_wildcard(&pattern) {
        let (only, mut seen) = (inclusion(&pattern, &[])?, pattern.is_empty());
        for at in &matches {
            walk(view, at, &only, &mut |path, _| {
                seen |= !path.as_os_str().is_empty();
                Ok(())
            })?;
        }
        if !seen {
            return Err(missing());
        }
    }
    Ok(Chosen { matches, rules: inclusion(&pattern, &op.exclude)? })
}

/// Visits what is selected and what is below it, parents first; paths are relative to the match. Like
/// [`LocalContext::walk`], for a tree.
pub(super) fn walk(
    view: &View,
    at: &Selected,
    rules: &Ignore,
    visit: &mut dyn FnMut(&Path, &Found<'_>) -> Result<(), Cause>,
) -> Result<(), Cause> {
    if !at.directory && rules.is_ignored(Path::new(&at.name)) {
        return Ok(());
    }
    if let Some(found) = view.lookup(relative(&at.path)) {
        visit(Path::new(""), &found)?;
    }
    if !at.directory {
        return Ok(());
    }
    // Directories that are left out themselves, and lead to the entry at hand.
    let mut pending: Vec<(PathBuf, Found<'_>)> = Vec::new();
    for (path, found) in view.walk(relative(&at.path)) {
        let path = path.strip_prefix(&at.path).map(Path::to_owned).unwrap_or(path);
        pending.retain(|(directory, _)| path.starts_with(directory));
        if rules.is_ignored(&path) {
            if matches!(found.entry.kind, Kind::Directory) {
                pending.push((path, found));
            }
            continue;
        }
        for (directory, found) in pending.drain(..) {
            visit(&directory, &found)?;
        }
        visit(&path, &found)?;
    }
    Ok(())
}

/// A source of `COPY --parents`, split at its `/./`: where the paths begin that are kept, and the pattern below that.
fn pivot(source: &str) -> (&str, String) {
    let (root, pattern) = source.split_once("/./").unwrap_or(("", source));
    (root, clean(pattern).join("/"))
}

fn excluding(op: &CopyOp) -> Result<Ignore, Cause> {
    Ignore::of(&op.exclude).map_err(Cause::Exclude)
}

/// The rules that leave nothing but what a pattern matches, less what is excluded.
fn inclusion(pattern: &str, exclude: &[String]) -> Result<Ignore, Cause> {
    if pattern.is_empty() {
        return Ignore::of(exclude).map_err(Cause::Exclude);
    }
    let mut rules = vec!["**".to_owned(), format!("!{pattern}")];
    rules.extend_from_slice(exclude);
    Ignore::of(&rules).map_err(Cause::Exclude)
}
