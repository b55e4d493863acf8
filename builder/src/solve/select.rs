//! What a source pattern selects in the tree of a stage or an image.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use snapshot::{Kind, View};

use crate::context::{Selected, glob};

use super::error::Cause;
use super::relative;

/// The matches of a pattern, sorted. Links on the way and a match that is one are followed inside the tree. A literal
/// path that is not there selects nothing.
pub(super) fn select(view: &View, pattern: &str) -> Result<Vec<Selected>, Cause> {
    let mut found = vec![(PathBuf::new(), OsString::new())];
    for part in clean(pattern) {
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
