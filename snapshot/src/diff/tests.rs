#![expect(clippy::needless_raw_string_hashes, reason = "expect-test writes its strings so")]

use std::io::{BufRead, Write};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixListener;

use expect_test::{Expect, expect};
use proptest::prelude::*;
use rustix::fs::{CWD, Mode, XattrFlags, makedev};

use super::*;
use crate::testing::*;
use crate::{Flavour, TreeWriter};

/// Writes what it receives as lines.
#[derive(Default)]
struct Lines(Vec<String>);

impl ChangeSink for Lines {
    type Error = Error;

    fn entry(&mut self, path: &Path, entry: &Entry, content: &mut dyn BufRead) -> Result<(), Error> {
        let mut text = String::new();
        content.read_to_string(&mut text).unwrap();
        let xattrs: Vec<String> = entry
            .metadata
            .xattrs
            .iter()
            .map(|(name, value)| format!(" {}={}", name.escape_ascii(), value.escape_ascii()))
            .collect();
        let slash = if entry.kind == Kind::Directory { "/" } else { "" };
        let line = format!("{}{slash} {:o} {text}{}", path.display(), entry.metadata.mode, xattrs.concat());
        self.0.push(line.trim_end().to_owned());
        Ok(())
    }

    fn hard_link(&mut self, path: &Path, target: &Path) -> Result<(), Error> {
        self.0.push(format!("{} == {}", path.display(), target.display()));
        Ok(())
    }

    fn whiteout(&mut self, path: &Path) -> Result<(), Error> {
        self.0.push(format!("-{}", path.display()));
        Ok(())
    }

    fn opaque(&mut self, directory: &Path) -> Result<(), Error> {
        self.0.push(format!("{}/!", directory.display()));
        Ok(())
    }
}

/// The tree below, for all tables.
fn base() -> (Place, Stack) {
    let place = Place::new();
    let mut stack = Stack::default();
    let tree = model([
        ("d", directory(0o755)),
        ("d/e", directory(0o700)),
        ("d/e/f", file("f")),
        ("d/g", file("ggg")),
        ("h", file("h")),
        ("l", symlink("h")),
    ]);
    let (layer, _) = place.layer(|writer| emit(&tree, writer)).unwrap();
    place.unpack(&place.tar(&layer), &mut stack).unwrap();
    (place, stack)
}

/// Fills an upper directory and checks what is different in it.
fn check(fill: impl FnOnce(&mut TreeWriter, &Path), expected: &Expect) {
    let (place, stack) = base();
    let active = place.snapshots.prepare().unwrap();
    let mut tree = TreeWriter::new(active.upper(), Flavour::UserXattr).unwrap();
    fill(&mut tree, active.upper());
    tree.finish().unwrap();
    let mut lines = Lines::default();
    changes(active.upper(), active.flavour(), &stack.view, &mut lines).unwrap();
    expected.assert_eq(&lines.0.join("\n"));
}

fn put(tree: &mut TreeWriter, path: &str, item: Item) {
    emit(&model([(path, item)]), tree).unwrap();
}

#[test]
fn what_was_copied_up_unchanged_is_no_change() {
    check(
        |tree, _| {
            put(tree, "d", directory(0o755));
            put(tree, "d/e", directory(0o700));
            put(tree, "d/e/f", file("f"));
            put(tree, "l", symlink("h"));
        },
        &expect![""],
    );
}

#[test]
fn directories_come_with_what_changed_in_them() {
    check(
        |tree, _| {
            put(tree, "d", directory(0o755));
            put(tree, "d/e", directory(0o700));
            put(tree, "d/e/new", file("new"));
            put(tree, "d/g", file("ggg"));
        },
        &expect![[r#"
            d/ 755
            d/e/ 700
            d/e/new 644 new"#]],
    );
    check(|tree, _| put(tree, "d", directory(0o711)), &expect!["d/ 711"]);
}

#[test]
fn equal_sizes_and_times_do_not_deceive() {
    check(
        |tree, _| {
            put(tree, "d", directory(0o755));
            put(tree, "d/g", file("ggG"));
        },
        &expect![[r#"
            d/ 755
            d/g 644 ggG"#]],
    );
}

#[test]
fn whiteouts_count_only_where_there_is_something_below() {
    check(
        |tree, _| {
            put(tree, "d", directory(0o755));
            for path in ["d/e", "d/never", "h", "never"] {
                tree.whiteout(Path::new(path)).unwrap();
            }
        },
        &expect![[r#"
            d/ 755
            -d/e
            -h"#]],
    );
}

#[test]
fn opaque_counts_only_where_there_is_a_directory_below() {
    check(
        |tree, _| {
            for path in ["d", "h", "new"] {
                put(tree, path, directory(0o755));
                tree.opaque(Path::new(path)).unwrap();
            }
            put(tree, "d/only", file("x"));
        },
        &expect![[r#"
            d/ 755
            d/!
            d/only 644 x
            h/ 755
            new/ 755"#]],
    );
}

#[test]
fn nothing_shows_through_an_opaque_directory() {
    check(
        |tree, _| {
            put(tree, "d", directory(0o755));
            put(tree, "d/e", directory(0o700));
            put(tree, "d/e/f", file("f"));
            put(tree, "d/g", file("ggg"));
            tree.opaque(Path::new("d")).unwrap();
        },
        &expect![[r#"
            d/ 755
            d/!
            d/e/ 700
            d/e/f 644 f
            d/g 644 ggg"#]],
    );
}

#[test]
fn links_within_the_layer_stay_links() {
    check(
        |tree, _| {
            put(tree, "z", file("z"));
            put(tree, "a", link("z"));
            put(tree, "h", file("h"));
            put(tree, "i", link("h"));
            put(tree, "s", symlink("z"));
            put(tree, "t", link("s"));
        },
        &expect![[r#"
            a 644 z
            h 644 h
            i == h
            s 777
            t == s
            z == a"#]],
    );
}

#[test]
fn nested_overlays_write_whiteouts_as_attributes() {
    check(
        |tree, upper| {
            put(tree, "d", directory(0o755));
            put(tree, "d/g", file(""));
            put(tree, "d/never", file(""));
            put(tree, "h", file(""));
            set(upper, "d", "user.overlay.opaque", b"x");
            for path in ["d/g", "d/never", "h"] {
                set(upper, path, "user.overlay.whiteout", b"");
            }
        },
        &expect![[r#"
            d/ 755
            -d/g
            h 644"#]],
    );
}

fn set(root: &Path, path: &str, name: &str, value: &[u8]) {
    rustix::fs::lsetxattr(root.join(path), name, value, XattrFlags::empty()).unwrap();
}

#[test]
fn what_is_no_part_of_an_image_is_left_out() {
    check(
        |tree, upper| {
            put(tree, "f", file("x"));
            for name in ["user.overlay.origin", "user.rbuild.owner", "user.kept"] {
                set(upper, "f", name, b"v");
            }
            UnixListener::bind(upper.join("socket")).unwrap();
        },
        &expect!["f 644 x user.kept=v"],
    );
}

#[test]
fn the_root_is_a_change_when_more_than_its_time_is() {
    check(|_, upper| fs_err::set_permissions(upper, PermissionsExt::from_mode(0o711)).unwrap(), &expect!["./ 711"]);
}

#[test]
fn other_overlay_features_are_refused() {
    for name in ["user.overlay.metacopy", "user.overlay.redirect"] {
        let (place, stack) = base();
        let active = place.snapshots.prepare().unwrap();
        fs_err::create_dir(active.upper().join("d")).unwrap();
        set(active.upper(), "d", name, b"");
        let result = changes(active.upper(), active.flavour(), &stack.view, &mut Lines::default());
        assert!(matches!(result, Err(Error::OverlayFeature { .. })), "{name}");
    }
}

/// What a step does to a file system.
#[derive(Debug, Clone)]
enum Step {
    Write(usize, u8),
    Append(usize),
    Mkdir(usize),
    Symlink(usize, usize),
    Link(usize, usize),
    Remove(usize),
    Rename(usize, usize),
    Chmod(usize, u32),
    Chown(usize, u32),
    Xattr(usize, u8),
    Fifo(usize),
    Device(usize),
    Touch(usize),
}

const PATHS: [&str; 14] = [
    "a",
    "a/b",
    "a/b/c",
    "a/b/d",
    "a/e",
    "a/b-c",
    "a.f",
    "g",
    "g/h",
    "g/h/i",
    "g/b",
    "j",
    "a/b/c/k",
    "g/\u{fc}nicode l",
];

fn step() -> impl Strategy<Value = Step> {
    let path = || 0..PATHS.len();
    prop_oneof![
        4 => (path(), any::<u8>()).prop_map(|(path, size)| Step::Write(path, size)),
        2 => path().prop_map(Step::Append),
        4 => path().prop_map(Step::Mkdir),
        1 => (path(), path()).prop_map(|(path, target)| Step::Symlink(path, target)),
        2 => (path(), path()).prop_map(|(path, target)| Step::Link(path, target)),
        3 => path().prop_map(Step::Remove),
        2 => (path(), path()).prop_map(|(from, to)| Step::Rename(from, to)),
        2 => (path(), prop_oneof![Just(0o4755), Just(0o600), Just(0o2770), Just(0o1777)])
            .prop_map(|(path, mode)| Step::Chmod(path, mode)),
        1 => (path(), 0..3u32).prop_map(|(path, owner)| Step::Chown(path, owner)),
        1 => (path(), any::<u8>()).prop_map(|(path, value)| Step::Xattr(path, value)),
        1 => path().prop_map(Step::Fifo),
        1 => path().prop_map(Step::Device),
        1 => path().prop_map(Step::Touch),
    ]
}

impl Step {
    /// Does the step below `root`. Most steps fail on most trees, as those of a shell script would: that is fine.
    fn take(&self, root: &Path) -> Option<()> {
        let at = |path: &usize| root.join(PATHS[*path]);
        match self {
            Self::Write(path, size) => {
                let mut file = open(&at(path), fs_err::OpenOptions::new().create(true).write(true).truncate(true))?;
                file.write_all(&vec![*size; usize::from(*size)]).ok()
            }
            Self::Append(path) => open(&at(path), fs_err::OpenOptions::new().append(true))?.write_all(b"more").ok(),
            Self::Mkdir(path) => fs_err::create_dir_all(at(path)).ok(),
            Self::Symlink(path, target) => std::os::unix::fs::symlink(PATHS[*target], at(path)).ok(),
            Self::Link(path, target) => fs_err::hard_link(at(target), at(path)).ok(),
            Self::Remove(path) => crate::path::remove_tree(&at(path)).ok(),
            Self::Rename(from, to) => fs_err::rename(at(from), at(to)).ok(),
            Self::Chmod(path, mode) => {
                let status = fs_err::symlink_metadata(at(path)).ok()?;
                (!status.is_symlink()).then(|| rustix::fs::chmod(at(path), Mode::from_raw_mode(*mode)).unwrap())
            }
            Self::Chown(path, owner) => std::os::unix::fs::lchown(at(path), Some(*owner), Some(*owner + 1)).ok(),
            Self::Xattr(path, value) => {
                rustix::fs::lsetxattr(at(path), "user.test", &[*value], XattrFlags::empty()).ok()
            }
            Self::Fifo(path) => rustix::fs::mkfifoat(CWD, at(path), Mode::RUSR).ok(),
            Self::Device(path) => {
                let kind = FileType::CharacterDevice;
                rustix::fs::mknodat(CWD, at(path), kind, Mode::RUSR, makedev(1, 3)).ok()
            }
            Self::Touch(path) => {
                let file = open(&at(path), fs_err::OpenOptions::new().read(true))?;
                file.file().set_modified(std::time::UNIX_EPOCH).ok()
            }
        }
    }
}

/// Opens without waiting for the other end of a FIFO.
fn open(path: &Path, options: &mut fs_err::OpenOptions) -> Option<fs_err::File> {
    use fs_err::os::unix::fs::OpenOptionsExt;
    options.custom_flags(libc::O_NONBLOCK).open(path).ok()
}

/// A scanned tree as a layer keeps it.
fn cut(mut tree: Model) -> Model {
    for item in tree.values_mut() {
        if let Item::Entry(entry, _) = item {
            entry.metadata.mtime.nanoseconds = 0;
        }
    }
    tree
}

/// Takes the steps in an overlay on top of `stack`, and puts the layer that they make on the stack by way of its blob.
fn build(place: &Place, stack: &mut Stack, steps: &[Step]) {
    let active = place.snapshots.prepare().unwrap();
    if let Some(top) = stack.trees.last() {
        active.adopt_root_of(&top.dir).unwrap();
    }
    let lowers: Vec<PathBuf> = stack.trees.iter().map(|tree| tree.dir.clone()).collect();
    let flavour = place.snapshots.flavour();
    let mounted = mount_overlay(&lowers, Some((active.upper(), active.work())), flavour);
    for step in steps {
        step.take(&mounted.path());
    }
    drop(mounted);
    // Mounted afresh: right after link(2) overlayfs still shows two inodes.
    let with = |top: &Path| mount_overlay(&[&lowers[..], &[top.to_owned()]].concat(), None, flavour);
    let expected = cut(scan(&with(active.upper()).path()));
    let (layer, index) = place.layer(|writer| changes(active.upper(), active.flavour(), &stack.view, writer)).unwrap();
    let below = stack.view.clone();
    place.unpack(&place.tar(&layer), stack).unwrap();

    // The same tree, through the kernel's eyes and through the view's.
    assert_eq!(cut(scan(&with(stack.top()).path())), expected);
    let shown: std::collections::BTreeMap<_, _> = stack.shown();
    assert_eq!(shown, resolved(&expected));
    // The index of the writer is that of the reader, and the unpacked layer differs from what is below by itself.
    let mut index = index;
    index.cut_times();
    assert_eq!(index, **stack.view.layers().last().unwrap());
    let (same, _) = place.layer(|writer| changes(stack.top(), active.flavour(), &below, writer)).unwrap();
    assert_eq!(same.diff_id, layer.diff_id);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, failure_persistence: None, max_shrink_iters: 200, ..ProptestConfig::default() })]

    #[test]
    fn unpacking_a_layer_of_a_diff_gives_the_tree(
        layers in proptest::collection::vec(proptest::collection::vec(step(), 0..24), 1..4),
        trusted in any::<bool>(),
    ) {
        let initial = fs_err::read_to_string("/proc/self/uid_map").unwrap().ends_with("4294967295\n");
        let place = Place::with_flavour(if trusted && initial { Flavour::Trusted } else { Flavour::UserXattr });
        let mut stack = Stack::default();
        for steps in &layers {
            build(&place, &mut stack, steps);
        }
    }
}

#[test]
fn capabilities_travel() {
    let place = Place::new();
    let mut stack = Stack::default();
    build(&place, &mut stack, &[Step::Write(0, 1)]);
    let active = place.snapshots.prepare().unwrap();
    fs_err::write(active.upper().join("ping"), "x").unwrap();
    // cap_net_raw+ep, version 2.
    let capability = [1, 0, 0, 2, 0, 0x20, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    set(active.upper(), "ping", "security.capability", &capability);
    let (layer, _) = place.layer(|writer| changes(active.upper(), active.flavour(), &stack.view, writer)).unwrap();
    place.unpack(&place.tar(&layer), &mut stack).unwrap();
    assert_eq!(xattrs(&stack.top().join("ping"))[&b"security.capability"[..]], capability);
}

/// What a single id makes of a layer: exact owners and devices in a tree that is all its own.
#[test]
fn owners_and_devices_of_a_single_id_are_kept_in_attributes() {
    let place = Place::with_flavour(Flavour::Single);
    let owned = |mut item: Item, uid, gid| {
        let Item::Entry(entry, _) = &mut item else { panic!("an entry") };
        (entry.metadata.uid, entry.metadata.gid) = (uid, gid);
        item
    };
    let special = |kind| Item::Entry(Entry { kind, metadata: metadata(0o640) }, Vec::new());
    let tree = model([
        ("d", owned(directory(0o700), 33, 34)),
        ("d/f", owned(file("f"), 1000, 0)),
        ("d/l", owned(symlink("f"), 1000, 1001)),
        ("fifo", owned(special(Kind::Fifo), 5, 6)),
        ("null", owned(special(Kind::CharDevice { major: 1, minor: 3 }), 0, 7)),
        ("root", owned(file("r"), 0, 0)),
        ("sda", owned(special(Kind::BlockDevice { major: 8, minor: 300 }), 0, 6)),
    ]);
    let (layer, index) = place.layer(|writer| emit(&tree, writer)).unwrap();
    let mut stack = Stack::default();
    place.unpack(&place.tar(&layer), &mut stack).unwrap();
    let real = scan(stack.top());
    for (path, item) in &real {
        let Item::Entry(entry, _) = item else { panic!("a link") };
        assert_eq!((entry.metadata.uid, entry.metadata.gid), own(), "{}", path.display());
    }
    let Item::Entry(null, _) = &real[Path::new("null")] else { panic!("an entry") };
    assert_eq!(null.kind, Kind::File { size: 0 });
    let (_, again) = place.layer(|writer| changes(stack.top(), Flavour::Single, &View::default(), writer)).unwrap();
    let nodes = |index: &crate::LayerIndex| {
        index.nodes().iter().map(|(path, node)| format!("{path:?} {node:?}")).collect::<Vec<_>>()
    };
    assert_eq!(nodes(&again), nodes(&index));
    // On top of itself it changes nothing; as a tree of another flavour it is what the file system says.
    let mut lines = Lines::default();
    changes(stack.top(), Flavour::Single, &stack.view, &mut lines).unwrap();
    assert_eq!(lines.0, [""; 0]);
    let mut lines = Lines::default();
    changes(stack.top(), Flavour::UserXattr, &stack.view, &mut lines).unwrap();
    assert_eq!(lines.0.len(), 6);
}

#[test]
fn names_that_layers_reserve_are_found_anywhere() {
    let directory = tempfile::tempdir().unwrap();
    fs_err::create_dir_all(directory.path().join("a/b/c")).unwrap();
    fs_err::write(directory.path().join("a/b/x.wh.y"), "x").unwrap();
    let _socket = UnixListener::bind(directory.path().join("a/.wh.socket")).unwrap();
    check_names(directory.path()).unwrap();
    for name in [".wh.x", "a/b/c/.wh..wh..opq", "a/.wh.directory/", "a/b/.wh."] {
        let path = directory.path().join(name);
        if name.ends_with('/') { fs_err::create_dir(&path) } else { fs_err::write(&path, "") }.unwrap();
        let Err(Error::ReservedName { path: said }) = check_names(directory.path()) else { panic!("{name}") };
        assert_eq!(said, Path::new(name));
        if name.ends_with('/') { fs_err::remove_dir(&path) } else { fs_err::remove_file(&path) }.unwrap();
    }
}
