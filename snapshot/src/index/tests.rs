#![expect(clippy::needless_raw_string_hashes, reason = "expect-test writes its strings so")]

use std::path::Path;
use std::sync::Arc;

use expect_test::{Expect, expect};
use proptest::prelude::*;

use super::*;
use crate::testing::*;
use crate::{ChangeSink, Error};

/// One change, in the short form of the tables below.
fn change(writer: &mut IndexWriter, text: &str) -> Result<(), Error> {
    let (path, rest) = text.split_once(' ').unwrap_or((text, ""));
    let put = |writer: &mut IndexWriter, path: &str, item: Item| emit(&model([(path, item)]), writer);
    if let Some(removed) = path.strip_prefix('-') {
        writer.whiteout(Path::new(removed))
    } else if let Some(directory) = path.strip_suffix("/!") {
        writer.opaque(Path::new(if directory.is_empty() { "." } else { directory }))
    } else if let Some(path) = path.strip_suffix('/') {
        put(writer, path, directory(if rest.is_empty() { 0o755 } else { u32::from_str_radix(rest, 8).unwrap() }))
    } else if let Some(target) = rest.strip_prefix("-> ") {
        put(writer, path, symlink(target))
    } else if let Some(target) = rest.strip_prefix("== ") {
        writer.hard_link(Path::new(path), Path::new(target))
    } else {
        put(writer, path, file(rest))
    }
}

fn layer(changes: &[&str]) -> Arc<LayerIndex> {
    let mut writer = IndexWriter::default();
    for text in changes {
        change(&mut writer, text).unwrap();
    }
    Arc::new(writer.finish())
}

fn view(layers: &[&[&str]]) -> View {
    View::new(layers.iter().map(|changes| layer(changes)).collect())
}

fn line(path: &Path, found: &Found<'_>) -> String {
    let path = path.display();
    match &found.entry.kind {
        Kind::Directory => format!("{path}/ {:o}", found.entry.metadata.mode),
        Kind::Symlink { target } => format!("{path} -> {}", target.escape_ascii()),
        _ => {
            let size = if let Kind::File { size } = found.entry.kind { size } else { 0 };
            format!("{path} {size} bytes in {}:{}", found.layer, found.file.display())
        }
    }
}

fn check(layers: &[&[&str]], expected: &Expect) {
    let view = view(layers);
    let walked: Vec<(PathBuf, Found<'_>)> = view.walk(Path::new(".")).collect();
    for (path, found) in &walked {
        let alone = view.lookup(path).unwrap();
        assert_eq!(line(path, &alone), line(path, found));
    }
    let lines: Vec<String> = walked.iter().map(|(path, found)| line(path, found)).collect();
    expected.assert_eq(&lines.join("\n"));
}

#[test]
fn layers_cover_each_other() {
    check(
        &[&["a/ 700", "a/x one", "a/y two", "b/", "b/z three", "c four"], &["a/y", "b", "c/", "c/d"]],
        &expect![[r#"
            a/ 700
            a/x 3 bytes in 0:a/x
            a/y 0 bytes in 1:a/y
            b 0 bytes in 1:b
            c/ 755
            c/d 0 bytes in 1:c/d"#]],
    );
}

#[test]
fn whiteouts_remove() {
    check(
        &[&["a/", "a/b/", "a/b/c x", "d x", "e x"], &["-a/b", "-d", "-never"], &["a/b/"]],
        &expect![[r#"
        a/ 755
        a/b/ 755
        e 1 bytes in 0:e"#]],
    );
}

#[test]
fn opaque_directories_hide() {
    check(
        &[&["a/ 700", "a/b/", "a/b/c x", "k"], &["a/ 711", "a/!", "a/new"], &["a/b/!"]],
        &expect![[r#"
        a/ 711
        a/b/ 755
        a/new 0 bytes in 1:a/new
        k 0 bytes in 0:k"#]],
    );
    check(
        &[&["a/ 700", "a/b x"], &["a/!", "a/c"]],
        &expect![[r#"
        a/ 700
        a/c 0 bytes in 1:a/c"#]],
    );
    check(&[&["a/", "b"], &["/!", "c"]], &expect!["c 0 bytes in 1:c"]);
}

#[test]
fn implied_directories_are_transparent() {
    check(
        &[&["usr/ 700", "usr/bin/ 711"], &["usr/bin/x", "opt/y/z"]],
        &expect![[r#"
        opt/ 755
        opt/y/ 755
        opt/y/z 0 bytes in 1:opt/y/z
        usr/ 700
        usr/bin/ 711
        usr/bin/x 0 bytes in 1:usr/bin/x"#]],
    );
    check(
        &[&["usr x"], &["usr/bin"]],
        &expect![[r#"
        usr/ 755
        usr/bin 0 bytes in 1:usr/bin"#]],
    );
}

#[test]
fn hard_links_lead_to_their_bytes() {
    check(
        &[&["a one", "b == a", "c == b"], &["d == a", "x/e == b"], &["-a", "f == d"]],
        &expect![[r#"
        b 3 bytes in 0:a
        c 3 bytes in 0:a
        d 3 bytes in 0:a
        f 3 bytes in 0:a
        x/ 755
        x/e 3 bytes in 0:a"#]],
    );
}

#[test]
fn names_sort_before_what_is_below_their_neighbours() {
    check(
        &[&["a/", "a/b", "a-b", "a.b", "a/b-c", "a\u{1}"]],
        &expect![[r#"
        a/ 755
        a/b 0 bytes in 0:a/b
        a/b-c 0 bytes in 0:a/b-c
        a 0 bytes in 0:a
        a-b 0 bytes in 0:a-b
        a.b 0 bytes in 0:a.b"#]],
    );
}

#[test]
fn the_root_is_always_there() {
    assert_eq!(View::default().lookup(Path::new(".")).unwrap().entry.metadata.mode, 0o755);
    let view = view(&[&["./ 555", "a"], &["b"]]);
    assert_eq!(view.lookup(Path::new(".")).unwrap().entry.metadata.mode, 0o555);
    assert_eq!(view.children(Path::new(".")), ["a", "b"]);
    assert_eq!(view.children(Path::new("a")), [""; 0]);
    assert!(view.lookup(Path::new("a/b")).is_none());
}

#[test]
fn order_and_repetition() {
    for (changes, expected) in [
        // The later one stands.
        (&["a one", "a"][..], expect!["a 644 File { size: 0 } opaque=false"]),
        (&["a/", "a/b", "a", "a/"], expect!["a 755 Directory opaque=true"]),
        (
            &["a/ 700", "a/b", "a/ 711"],
            expect![[r#"
            a 711 Directory opaque=false
            a/b 644 File { size: 0 } opaque=false"#]],
        ),
        // A whiteout spares its own layer, in whatever order.
        (&["-a", "a x"], expect!["a 644 File { size: 1 } opaque=false"]),
        (&["a x", "-a"], expect!["a 644 File { size: 1 } opaque=false"]),
        (
            &["-a", "a/", "a/b"],
            expect![[r#"
            a 755 Directory opaque=true
            a/b 644 File { size: 0 } opaque=false"#]],
        ),
        (
            &["-a", "a/b"],
            expect![[r#"
            a 755 Directory opaque=true
            a/b 644 File { size: 0 } opaque=false"#]],
        ),
        (
            &["a/b", "-a"],
            expect![[r#"
            a 755 Directory opaque=true
            a/b 644 File { size: 0 } opaque=false"#]],
        ),
        (&["a/!", "a/ 700"], expect!["a 700 Directory opaque=true"]),
        // The bytes of a replaced file live on in its links.
        (
            &["a one", "b == a", "c == a", "a"],
            expect![[r#"
            a 644 File { size: 0 } opaque=false
            b 644 File { size: 3 } opaque=false
            c HardLink { target: "b" }"#]],
        ),
        (
            &["a/b one", "c == a/b", "a"],
            expect![[r#"
            a 644 File { size: 0 } opaque=false
            c 644 File { size: 3 } opaque=false"#]],
        ),
    ] {
        let index = layer(changes);
        let lines: Vec<String> = index
            .nodes()
            .iter()
            .map(|(path, node)| match node {
                Node::Entry { entry, opaque, .. } => {
                    format!("{} {:o} {:?} opaque={opaque}", path.display(), entry.metadata.mode, entry.kind)
                }
                other => format!("{} {other:?}", path.display()),
            })
            .collect();
        expected.assert_eq(&lines.join("\n"));
    }
}

#[test]
fn impossible_changes_are_refused() {
    for changes in [
        &["a x", "a/b"][..],
        &["a -> b", "a/b"],
        &["a -> b", "a/!"],
        &["a x", "-a/b"],
        &["a == a"],
        &["a/", "b == a"],
        &["-a", "b == a"],
        &["a/b == a/b/c"],
        &["a/b x", "a == a/b"],
        &["b == a", "a x"],
        &["-."],
        &[". x"],
    ] {
        let mut writer = IndexWriter::default();
        let results: Vec<_> = changes.iter().map(|text| change(&mut writer, text)).collect();
        assert!(results.iter().rev().skip(1).all(Result::is_ok), "{changes:?}: {results:?}");
        assert!(results.last().unwrap().is_err(), "{changes:?}");
    }
}

#[test]
fn symbolic_links_are_resolved_inside_the_root() {
    let view = view(&[
        &["usr/", "usr/lib/", "usr/lib/x", "lib -> usr/lib", "abs -> /usr", "up -> ../../../usr", "self -> self"],
        &["a -> b", "b -> a", "usr/loop -> ../usr/loop/x", "dot -> .", "lib64 -> lib/", "f x", "dangling -> no/where"],
    ]);
    for (path, expected) in [
        ("usr/lib/x", "usr/lib/x"),
        ("lib/x", "usr/lib/x"),
        ("/lib//x/", "usr/lib/x"),
        ("lib64/x", "usr/lib/x"),
        ("lib/../x", "usr/x"),
        ("abs/lib", "usr/lib"),
        ("up/lib", "usr/lib"),
        ("dot/dot/lib", "usr/lib"),
        ("../../x", "x"),
        ("/", "."),
        ("", "."),
        ("usr/..", "."),
        ("dangling", "no/where"),
        ("dangling/../x", "no/x"),
        ("missing/y/../z", "missing/z"),
        ("f/y", "f/y"),
    ] {
        assert_eq!(view.resolve(Path::new(path)).unwrap(), Path::new(expected), "{path}");
    }
    for path in ["a", "self", "self/x", "usr/loop"] {
        assert!(matches!(view.resolve(Path::new(path)), Err(Error::SymlinkLoop { .. })), "{path}");
    }
}

#[test]
fn damage_is_found() {
    let index = layer(&["a/", "a/b x", "c == a/b", "-d", "e/!", "l -> a"]);
    let bytes = index.encode();
    assert_eq!(LayerIndex::decode(&bytes).unwrap(), *index);
    for length in 0..bytes.len() {
        assert!(LayerIndex::decode(&bytes[..length]).is_err());
    }
    for at in 0..bytes.len() {
        let mut damaged = bytes.clone();
        damaged[at] ^= 0x10;
        assert!(LayerIndex::decode(&damaged).is_err(), "{at}");
    }
}

fn node() -> impl Strategy<Value = Node> {
    let metadata = (0..0o10000u32, any::<u32>(), any::<u32>(), any::<i64>(), 0..1_000_000_000u32);
    let xattrs = proptest::collection::btree_map("user\\.[a-c]", proptest::collection::vec(any::<u8>(), 0..4), 0..3);
    let kind = prop_oneof![
        Just(Kind::Directory),
        Just(Kind::Fifo),
        any::<u64>().prop_map(|size| Kind::File { size }),
        "[a-z/]{1,9}".prop_map(|target| Kind::Symlink { target: target.into() }),
        any::<(u32, u32)>().prop_map(|(major, minor)| Kind::CharDevice { major, minor }),
        any::<(u32, u32)>().prop_map(|(major, minor)| Kind::BlockDevice { major, minor }),
    ];
    let entry = (kind, metadata, xattrs).prop_map(|(kind, (mode, uid, gid, seconds, nanoseconds), xattrs)| Entry {
        kind,
        metadata: Metadata {
            mode,
            uid,
            gid,
            mtime: Mtime { seconds, nanoseconds },
            xattrs: xattrs.into_iter().map(|(name, value)| (name.into_bytes(), value)).collect(),
        },
    });
    prop_oneof![
        8 => (entry, any::<Option<[u8; 32]>>(), any::<bool>()).prop_map(|(entry, content, opaque)| Node::Entry {
            entry,
            content: content.map(Content),
            opaque,
        }),
        1 => "[a-z]{1,5}(/[a-z]{1,5})?".prop_map(|target| Node::HardLink { target: target.into() }),
        1 => Just(Node::Whiteout),
        1 => Just(Node::Opaque),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn every_index_survives_the_disk(nodes in proptest::collection::btree_map("[a-c]{1,3}(/[a-c-]{1,3}){0,3}", node(), 0..20)) {
        let nodes: BTreeMap<PathBuf, Node> = nodes.into_iter().map(|(path, node)| (path.into(), node)).collect();
        let index = LayerIndex::from(nodes);
        prop_assert_eq!(LayerIndex::decode(&index.encode()).unwrap(), index);
    }

    #[test]
    fn foreign_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200), sealed in any::<bool>()) {
        let mut bytes = bytes;
        if sealed {
            bytes.splice(0..0, b"rbuild-index\x01".iter().copied());
            let digest = blake3::hash(&bytes);
            bytes.extend(digest.as_bytes());
        }
        LayerIndex::decode(&bytes).ok();
    }
}
