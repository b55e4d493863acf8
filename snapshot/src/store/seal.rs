//! Whether a snapshot is still what was committed.
//!
//! Its last file, `sealed`, is made when nothing of the tree will ever change again. The kernel gives every inode that
//! is changed the time of that (`ctime`), and no program can set it: a tree with a later one was touched by somebody
//! else. Damage below the file system escapes this; `rbuild cache verify` reads the bytes.

use std::path::Path;

use super::uses::stamp;
use crate::Error;
use crate::path::last_change;

const SEAL: &str = "sealed";

/// Says that the tree in `place` is complete.
pub(crate) fn seal(place: &Path) -> Result<(), Error> {
    Ok(fs_err::File::create(place.join(SEAL)).map(drop)?)
}

/// Whether the tree `tree` in `place` is as it was when it was sealed.
pub(crate) fn is_intact(place: &Path, tree: &Path) -> bool {
    let sealed = fs_err::symlink_metadata(place.join(SEAL));
    let (Ok(sealed), Ok(changed)) = (sealed, last_change(tree)) else { return false };
    changed <= stamp(&sealed)
}
