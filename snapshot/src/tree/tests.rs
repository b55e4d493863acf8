use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink as make_symlink};

use super::*;
use crate::testing::*;

fn writer(flavour: Flavour) -> (tempfile::TempDir, TreeWriter) {
    needs_root();
    let directory = tempfile::tempdir().unwrap();
    fs_err::create_dir(directory.path().join("root")).unwrap();
    fs_err::write(directory.path().join("outside"), "outside").unwrap();
    let writer = TreeWriter::new(&directory.path().join("root"), flavour).unwrap();
    (directory, writer)
}

#[test]
fn a_tree_is_written_as_it_is_described() {
    let (directory_, mut tree) = writer(Flavour::Plain);
    let mut expected = model([
        ("closed", directory(0o500)),
        ("closed/f", file("in a directory that nobody may write")),
        ("closed/none", directory(0o000)),
        ("closed/none/deep", file("x")),
        ("l", symlink("nowhere")),
        ("m", file("")),
        ("n", link("m")),
    ]);
    for (path, mode) in [("setuid", 0o6755), ("m", 0o4711)] {
        let mut item = file("program");
        if let Item::Entry(entry, _) = &mut item {
            entry.metadata.mode = mode;
            entry.metadata.mtime.nanoseconds = 123_456_789;
            entry.metadata.xattrs.insert(b"user.note".to_vec(), vec![0, 1, 2]);
            if can_give_away() {
                (entry.metadata.uid, entry.metadata.gid) = (1, 2);
            }
        }
        expected.insert(path.into(), item);
    }
    emit(&expected, &mut tree).unwrap();
    tree.finish().unwrap();
    assert_eq!(scan(&directory_.path().join("root")), expected);
}

#[test]
fn links_are_never_followed() {
    let (directory_, mut tree) = writer(Flavour::UserXattr);
    emit(&model([("up", symlink("..")), ("out", symlink("../outside"))]), &mut tree).unwrap();
    let refused = |result: Result<(), Error>| assert!(matches!(result, Err(Error::NotDirectory { .. })), "{result:?}");
    refused(emit(&model([("up/new", file("x"))]), &mut tree));
    refused(emit(&model([("up/new/new", file("x"))]), &mut tree));
    refused(emit(&model([("out/new", directory(0o755))]), &mut tree));
    refused(tree.whiteout(Path::new("up/outside")));
    refused(tree.opaque(Path::new("up")));
    assert!(tree.hard_link(Path::new("new"), Path::new("up/outside")).is_err());
    // Replaced, not written or chmodded through.
    emit(&model([("out", file("inside"))]), &mut tree).unwrap();
    tree.hard_link(Path::new("up2"), Path::new("up")).unwrap();
    tree.finish().unwrap();
    let outside = directory_.path().join("outside");
    assert_eq!(fs_err::read_to_string(&outside).unwrap(), "outside");
    assert_eq!(fs_err::metadata(&outside).unwrap().nlink(), 1);
    assert_eq!(fs_err::read_dir(directory_.path()).unwrap().count(), 2);
}

#[test]
fn the_later_change_stands() {
    let (directory_, mut tree) = writer(Flavour::UserXattr);
    let steps = [
        ("a", file("one")),
        ("a", directory(0o700)),
        ("a/b/c", file("deep")),
        ("a", directory(0o711)),
        ("x/y/z", file("z")),
        ("x", symlink("a")),
        ("x", file("two")),
        ("x", file("three")),
        ("e", directory(0o700)),
        ("e/f", directory(0o700)),
        ("e", file("flat")),
    ];
    for step in steps {
        emit(&model([step]), &mut tree).unwrap();
    }
    tree.finish().unwrap();
    let mut implied = directory(0o755);
    if let Item::Entry(entry, _) = &mut implied {
        entry.metadata = implied_directory().metadata;
    }
    let expected = model([
        ("a", directory(0o711)),
        ("a/b", implied),
        ("a/b/c", file("deep")),
        ("x", file("three")),
        ("e", file("flat")),
    ]);
    assert_eq!(scan(&directory_.path().join("root")), expected);
}

#[test]
fn a_users_directory_is_not_emptied() {
    let (directory_, _) = writer(Flavour::Plain);
    let root = directory_.path().join("root");
    fs_err::create_dir_all(root.join("mine/precious")).unwrap();
    fs_err::create_dir(root.join("empty")).unwrap();
    make_symlink("mine", root.join("link")).unwrap();
    let mut tree = TreeWriter::new(&root, Flavour::Plain).unwrap();
    assert!(emit(&model([("mine", file("x"))]), &mut tree).is_err());
    emit(&model([("empty", file("x")), ("link", file("x"))]), &mut tree).unwrap();
    emit(&model([("mine", directory(0o755)), ("mine/new", file("x"))]), &mut tree).unwrap();
    tree.finish().unwrap();
    assert!(root.join("mine/precious").is_dir() && root.join("mine/new").is_file());
}

#[test]
fn what_a_flavour_cannot_hold_is_refused() {
    let (_directory, mut plain) = writer(Flavour::Plain);
    assert!(matches!(plain.whiteout(Path::new("a")), Err(Error::PlainWhiteout { .. })));
    assert!(matches!(plain.opaque(Path::new("a")), Err(Error::PlainWhiteout { .. })));
    let (_directory, mut layer) = writer(Flavour::UserXattr);
    let device = Kind::CharDevice { major: 0, minor: 0 };
    let device = Item::Entry(Entry { kind: device, metadata: metadata(0o600) }, vec![]);
    assert!(matches!(emit(&model([("a", device)]), &mut layer), Err(Error::Unrepresentable { .. })));
    let mut nobody = file("x");
    if let Item::Entry(entry, _) = &mut nobody {
        entry.metadata.uid = u32::MAX;
    }
    assert!(matches!(emit(&model([("a", nobody)]), &mut layer), Err(Error::Unrepresentable { .. })));
}

#[test]
fn marks_are_those_of_the_flavour() {
    let mut flavours = vec![(Flavour::UserXattr, &b"user.overlay.opaque"[..])];
    if fs_err::read_to_string("/proc/self/uid_map").unwrap().ends_with("4294967295\n") {
        flavours.push((Flavour::Trusted, b"trusted.overlay.opaque"));
    }
    for (flavour, mark) in flavours {
        let (directory_, mut tree) = writer(flavour);
        tree.opaque(Path::new("a/b")).unwrap();
        tree.whiteout(Path::new("c/d")).unwrap();
        tree.finish().unwrap();
        let root = directory_.path().join("root");
        assert_eq!(xattrs(&root.join("a/b")).into_iter().collect::<Vec<_>>(), [(mark.to_vec(), b"y".to_vec())]);
        let whiteout = fs_err::symlink_metadata(root.join("c/d")).unwrap();
        assert_eq!((whiteout.rdev(), whiteout.mode() & 0o170_000), (0, 0o020_000));
    }
}

#[test]
fn files_are_copied_from_file_to_file() {
    let (directory_, mut tree) = writer(Flavour::UserXattr);
    let content: String = "0123456789".repeat(100_000);
    let source = directory_.path().join("source");
    fs_err::write(&source, &content).unwrap();
    fs_err::set_permissions(&source, PermissionsExt::from_mode(0o777)).unwrap();
    let Item::Entry(entry, _) = file(&content) else { panic!() };
    tree.copy_file(Path::new("d/copy"), &entry, &File::open(&source).unwrap()).unwrap();
    tree.copy_file(Path::new("d/copy"), &entry, &File::open(&source).unwrap()).unwrap();
    let longer = Entry { kind: Kind::File { size: 1_000_001 }, ..entry.clone() };
    let short = tree.copy_file(Path::new("d/short"), &longer, &File::open(&source).unwrap());
    assert!(matches!(short, Err(Error::ShortContent { size: 1_000_001, .. })));
    let shorter = Entry { kind: Kind::File { size: 10 }, ..entry };
    tree.copy_file(Path::new("d/short"), &shorter, &File::open(&source).unwrap()).unwrap();
    tree.finish().unwrap();
    let written = scan(&directory_.path().join("root"));
    assert_eq!(written[Path::new("d/copy")], file(&content));
    assert_eq!(written[Path::new("d/short")], file("0123456789"));
}

#[test]
fn content_that_ends_too_early_is_an_error() {
    let (_directory, mut tree) = writer(Flavour::UserXattr);
    let Item::Entry(entry, _) = file("12345") else { panic!() };
    let short = tree.entry(Path::new("f"), &entry, &mut &b"123"[..]);
    assert!(matches!(short, Err(Error::ShortContent { size: 5, .. })));
}
