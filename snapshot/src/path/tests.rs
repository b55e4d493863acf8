use std::io::Read;
use std::os::unix::fs::{PermissionsExt, symlink};

use super::*;

fn tree() -> (tempfile::TempDir, Root) {
    let directory = tempfile::tempdir().unwrap();
    fs_err::write(directory.path().join("outside"), "outside").unwrap();
    let top = directory.path().join("root");
    fs_err::create_dir_all(top.join("a/b")).unwrap();
    fs_err::write(top.join("a/b/f"), "inside").unwrap();
    fs_err::write(top.join("outside"), "a look-alike").unwrap();
    for (target, link) in [("../outside", "up"), ("/outside", "absolute"), ("a", "dir"), ("/proc/self/exe", "magic")] {
        symlink(target, top.join(link)).unwrap();
    }
    let root = Root::open(&top).unwrap();
    (directory, root)
}

fn text(file: Result<fs_err::File, Error>) -> String {
    let mut text = String::new();
    file.unwrap().read_to_string(&mut text).unwrap();
    text
}

#[test]
fn literal_paths_follow_no_link() {
    let (_directory, root) = tree();
    assert_eq!(text(root.open_file(Path::new("a/b/f"))), "inside");
    for path in ["up", "absolute", "dir/b/f", "../outside", "a/../../outside", "/etc/passwd", "a", "magic", ""] {
        assert!(root.open_file(Path::new(path)).is_err(), "{path}");
    }
}

#[test]
fn a_path_is_within_what_it_begins_with() {
    for (path, directory) in
        [("a", "a"), ("a/b", "a"), ("a/b/c", "a/b"), ("ab", "a"), ("a", "a/b"), ("a.b", "a"), ("", "a")]
    {
        let (path, directory) = (Path::new(path), Path::new(directory));
        assert_eq!(
            is_within(path, directory),
            path.starts_with(directory),
            "{} {}",
            path.display(),
            directory.display()
        );
    }
}

#[test]
fn normal_paths_are_split_as_the_standard_library_splits_them() {
    for path in ["", ".", "a", "a/b", "a/b/c.d", ".hidden", "a/..b", "..", "a/..", "/", "/a", "/a/b"] {
        let path = Path::new(path);
        let parsed = path.parent().zip(path.file_name());
        assert_eq!(split(path), parsed, "{}", path.display());
    }
}

#[test]
fn stepwise_equals_openat2() {
    let (_directory, root) = tree();
    for path in ["a", "a/b", "a/./b", "./a", "", ".", "dir", "dir/b", "..", "a/..", "/", "none", "outside"] {
        let at_once = root.directory(Path::new(path)).map(|_| ());
        let flags = OFlags::PATH | OFlags::DIRECTORY;
        let inside = !path.starts_with(['/']) && !path.contains("..");
        let stepwise = if inside { root.open_stepwise(Path::new(path), flags).map(|_| ()) } else { Err(Errno::XDEV) };
        assert_eq!(at_once.is_ok(), stepwise.is_ok(), "{path}: {at_once:?} {stepwise:?}");
    }
}

#[test]
fn links_stay_inside_the_root() {
    let (_directory, root) = tree();
    assert_eq!(text(root.open_in(Path::new("up"))), "a look-alike");
    assert_eq!(text(root.open_in(Path::new("/absolute"))), "a look-alike");
    assert_eq!(text(root.open_in(Path::new("../../dir/b/f"))), "inside");
    assert!(root.open_in(Path::new("magic")).is_err());
}

#[test]
fn trees_are_removed_whatever_their_shape() {
    let (directory, root) = tree();
    let top = root.path().to_owned();
    // 3,000 levels: longer than PATH_MAX, deeper than the usual limit of descriptors.
    let mut deep = root.directory(Path::new("a")).unwrap();
    for _ in 0..3000 {
        rustix::fs::mkdirat(&deep, "deeper", Mode::RWXU).unwrap();
        deep = open_directory(deep.as_fd(), OsStr::new("deeper")).unwrap();
    }
    fs_err::create_dir_all(top.join("closed/child/x")).unwrap();
    fs_err::set_permissions(top.join("closed"), PermissionsExt::from_mode(0o000)).unwrap();
    remove_tree(&top).unwrap();
    assert!(!top.exists());
    assert_eq!(fs_err::read_to_string(directory.path().join("outside")).unwrap(), "outside");
    remove_tree(&top).unwrap();
    remove_tree(&directory.path().join("outside")).unwrap();
    assert_eq!(fs_err::read_dir(directory.path()).unwrap().count(), 0);
}

#[test]
fn removing_a_link_spares_its_target() {
    let (directory, _root) = tree();
    let link = directory.path().join("link");
    symlink(directory.path().join("root"), &link).unwrap();
    remove_tree(&link).unwrap();
    assert!(directory.path().join("root/a/b/f").exists());
}
