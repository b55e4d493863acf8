use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};

use super::*;

/// The newest ctime of a tree, the plain way.
fn newest(path: &Path) -> (i64, i64) {
    let status = fs_err::symlink_metadata(path).unwrap();
    let own = (status.ctime(), status.ctime_nsec());
    if !status.is_dir() {
        return own;
    }
    fs_err::read_dir(path).unwrap().fold(own, |latest, entry| latest.max(newest(&entry.unwrap().path())))
}

/// A change anywhere is seen: above and below the depth from which threads share the tree, and beside it.
#[test]
fn the_last_change_is_found_at_every_depth() {
    let place = tempfile::tempdir().unwrap();
    let top = place.path().join("tree");
    let directories = ["", "a", "a/b", "a/b/c", "a/b/c/d", "a/b/c/d/e", "z", "z/y", "z/y/empty"];
    for directory in directories {
        fs_err::create_dir(top.join(directory)).unwrap();
    }
    let files = ["one", "a/two", "a/b/three", "a/b/c/four", "a/b/c/d/e/five", "z/y/six"];
    for file in files {
        fs_err::write(top.join(file), file).unwrap();
    }
    symlink("/nowhere", top.join("z/y/link")).unwrap();
    // So many that several threads share them.
    for share in 0..3 * SHARES_LEAST {
        fs_err::create_dir_all(top.join(format!("z/{share}/within"))).unwrap();
    }
    for path in directories.into_iter().chain(files).chain(["z/47/within"]) {
        let mode = if top.join(path).is_dir() { 0o711 } else { 0o604 };
        let before = last_change(&top).unwrap();
        assert_eq!(before, newest(&top), "{path}");
        assert_eq!(before, measure(&top).unwrap().changed, "{path}");
        // The kernel's clock ticks every few milliseconds: a change in the same tick has the same time.
        while last_change(&top).unwrap() == before {
            fs_err::set_permissions(top.join(path), PermissionsExt::from_mode(mode)).unwrap();
        }
        assert_eq!(last_change(&top).unwrap(), newest(&top), "{path}");
    }
}

/// Coming back from below goes on beside it, and what has two names counts once.
#[test]
fn a_measure_is_of_all_files() {
    let place = tempfile::tempdir().unwrap();
    let top = place.path().join("tree");
    fs_err::create_dir_all(top.join("a/b")).unwrap();
    fs_err::write(top.join("a/b/file"), [7; 5000]).unwrap();
    fs_err::write(top.join("z"), [7; 5000]).unwrap();
    fs_err::hard_link(top.join("z"), top.join("a/again")).unwrap();
    let blocks = |name| fs_err::symlink_metadata(top.join(name)).unwrap().blocks() * 512;
    let expected: u64 = ["", "a", "a/b", "a/b/file", "z"].into_iter().map(blocks).sum();
    assert_eq!(measure(&top).unwrap().bytes, expected);
}

#[test]
fn there_is_no_last_change_of_nothing() {
    let place = tempfile::tempdir().unwrap();
    assert!(last_change(&place.path().join("none")).is_err());
    assert_eq!(measure(&place.path().join("none")).unwrap(), Measure::default());
}
