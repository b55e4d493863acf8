#![expect(clippy::needless_raw_string_hashes, reason = "expect-test writes its strings so")]

use std::os::unix::fs::{PermissionsExt, symlink};

use expect_test::{Expect, expect};

use super::*;
use crate::testing::{Place, Stack, directory, emit, file, link, model, resolved, scan, shown};
use crate::{IndexWriter, Node, View};

/// Two layers: files with two names, something that the upper one takes away, and a directory that it replaces.
fn layers(place: &Place) -> Stack {
    let mut stack = Stack::default();
    let lower = model([
        ("d", directory(0o755)),
        ("d/e", directory(0o700)),
        ("d/e/f", file("f")),
        ("d/g", file("ggg")),
        ("gone", file("x")),
        ("h", file("h")),
        ("i", link("h")),
        ("j", link("h")),
        ("l", crate::testing::symlink("h")),
        ("o", directory(0o755)),
        ("o/old", file("old")),
        ("single", file("s")),
    ]);
    let (layer, _) = place.layer(|writer| emit(&lower, writer)).unwrap();
    place.unpack(&place.tar(&layer), &mut stack).unwrap();
    let upper = model([("d", directory(0o755)), ("d/g", file("g2")), ("o", directory(0o711)), ("o/new", file("new"))]);
    let (layer, _) = place
        .layer(|writer| {
            emit(&upper, writer)?;
            writer.opaque(Path::new("o"))?;
            writer.whiteout(Path::new("gone"))
        })
        .unwrap();
    place.unpack(&place.tar(&layer), &mut stack).unwrap();
    stack
}

fn whole(place: &Place, stack: &Stack) -> Whole {
    let mut whole = Whole::new(place.snapshots.prepare().unwrap());
    for layer in &stack.trees {
        whole.push(&layer.dir).unwrap();
    }
    whole
}

fn line((path, node): (&PathBuf, &Node)) -> String {
    let path = path.display();
    match node {
        Node::Whiteout => format!("-{path}\n"),
        Node::Opaque => format!("{path}/!\n"),
        Node::HardLink { target } => format!("{path} == {}\n", target.display()),
        Node::Entry { entry, opaque, .. } => {
            let mark = if *opaque { "!" } else { "" };
            format!("{path}{mark} {:o}\n", entry.metadata.mode)
        }
    }
}

/// Edits the tree as a step does and checks the step's layer: what it lists, and that it makes the layers below show what
/// is in the tree. What was found once is not found again.
fn check(edit: impl FnOnce(&dyn Fn(&str) -> PathBuf), expected: &Expect) {
    let place = Place::with_flavour(Flavour::UserXattr);
    let stack = layers(&place);
    let mut whole = whole(&place, &stack);
    whole.observe().unwrap();
    edit(&|name| whole.path().join(name));
    let layer = |whole: &mut Whole, below: &View| {
        let upper = place.snapshots.prepare().unwrap();
        whole.changes(upper.upper()).unwrap();
        let mut index = IndexWriter::default();
        crate::diff::changes(upper.upper(), upper.flavour(), below, &mut index).unwrap();
        std::sync::Arc::new(index.finish())
    };
    let index = layer(&mut whole, &stack.view);
    let mut view = stack.view.clone();
    view.push(std::sync::Arc::clone(&index));
    assert_eq!(resolved(&scan(whole.path())), shown(&view));
    let lines: String = index.nodes().iter().filter(|(path, _)| *path != Path::new(".")).map(line).collect();
    expected.assert_eq(&lines);
    whole.observe().unwrap();
    let again = layer(&mut whole, &view);
    assert_eq!(again.nodes().keys().filter(|path| *path != Path::new(".")).count(), 0, "{again:?}");
}

#[test]
fn layers_make_the_tree_that_they_show() {
    let place = Place::with_flavour(Flavour::UserXattr);
    let stack = layers(&place);
    let whole = whole(&place, &stack);
    let tree = scan(whole.path());
    assert_eq!(resolved(&tree), stack.shown());
    assert_eq!(tree[Path::new("i")], crate::testing::Item::Link("h".into()), "a file with two names is one file");
}

#[test]
fn what_a_step_writes_never_reaches_a_layer() {
    let place = Place::with_flavour(Flavour::UserXattr);
    let stack = layers(&place);
    let (before, whole) = (scan(&stack.trees[0].dir), whole(&place, &stack));
    fs_err::write(whole.path().join("h"), "changed").unwrap();
    assert_eq!(scan(&stack.trees[0].dir), before);
}

#[test]
fn a_step_that_changes_nothing_leaves_nothing() {
    check(|_| (), &expect![""]);
    check(
        |path| {
            fs_err::rename(path("single"), path("away")).unwrap();
            fs_err::rename(path("away"), path("single")).unwrap();
            fs_err::set_permissions(path("d/g"), PermissionsExt::from_mode(0o600)).unwrap();
            fs_err::set_permissions(path("d/g"), PermissionsExt::from_mode(0o644)).unwrap();
        },
        &expect![""],
    );
}

#[test]
fn a_rewrite_in_place_with_the_old_time_is_seen() {
    check(
        |path| {
            let time = fs_err::metadata(path("d/e/f")).unwrap().modified().unwrap();
            fs_err::write(path("d/e/f"), "F").unwrap();
            std::fs::File::options().append(true).open(path("d/e/f")).unwrap().set_modified(time).unwrap();
        },
        &expect![[r#"
            d 755
            d/e 700
            d/e/f 644
        "#]],
    );
}

#[test]
fn new_and_gone_and_changed_files_are_found() {
    check(
        |path| {
            fs_err::create_dir(path("n")).unwrap();
            fs_err::write(path("n/file"), "n").unwrap();
            symlink("file", path("n/link")).unwrap();
            fs_err::remove_file(path("d/g")).unwrap();
            fs_err::remove_dir_all(path("o")).unwrap();
            fs_err::set_permissions(path("single"), PermissionsExt::from_mode(0o4755)).unwrap();
        },
        &expect![[r#"
            d 755
            -d/g
            n 755
            n/file 644
            n/link 777
            -o
            single 4755
        "#]],
    );
}

#[test]
fn a_directory_made_anew_hides_the_old_one() {
    check(
        |path| {
            fs_err::rename(path("d"), path("kept")).unwrap();
            fs_err::create_dir(path("d")).unwrap();
            fs_err::rename(path("kept/e"), path("d/e")).unwrap();
            fs_err::remove_dir_all(path("kept")).unwrap();
        },
        &expect![[r#"
            d! 755
            d/e 700
            d/e/f 644
        "#]],
    );
}

#[test]
fn a_moved_directory_takes_everything_with_it() {
    check(
        |path| fs_err::rename(path("d"), path("moved")).unwrap(),
        &expect![[r#"
            -d
            moved 755
            moved/e 700
            moved/e/f 644
            moved/g 644
        "#]],
    );
}

#[test]
fn files_and_directories_take_each_other_s_place() {
    check(
        |path| {
            fs_err::remove_dir_all(path("d")).unwrap();
            fs_err::write(path("d"), "file").unwrap();
            fs_err::remove_file(path("single")).unwrap();
            fs_err::create_dir(path("single")).unwrap();
            fs_err::write(path("single/in"), "in").unwrap();
        },
        &expect![[r#"
            d 644
            single 755
            single/in 644
        "#]],
    );
}

#[test]
fn a_second_name_of_a_file_comes_with_the_first_alone() {
    check(
        |path| fs_err::hard_link(path("single"), path("twin")).unwrap(),
        &expect![[r#"
            single 644
            twin == single
        "#]],
    );
    check(
        |path| fs_err::hard_link(path("h"), path("k")).unwrap(),
        &expect![[r#"
            k 644
        "#]],
    );
    check(
        |path| fs_err::remove_file(path("i")).unwrap(),
        &expect![[r#"
            -i
        "#]],
    );
    check(
        |path| fs_err::write(path("i"), "all").unwrap(),
        &expect![[r#"
            h 644
            i == h
            j == h
        "#]],
    );
}
