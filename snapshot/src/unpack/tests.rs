use std::os::unix::fs::{MetadataExt, PermissionsExt};

use proptest::prelude::*;

use super::*;
use crate::LayerIndex;
use crate::layer::TarError;
use crate::testing::*;

/// A place with a file beside the store that no archive may touch.
struct Canary {
    place: Place,
    before: Vec<(PathBuf, u64, u32, u64, i64)>,
}

impl Canary {
    fn new() -> Self {
        let place = Place::new();
        let outside = place.directory.path().join("outside");
        fs_err::create_dir(&outside).unwrap();
        fs_err::write(outside.join("secret"), "canary").unwrap();
        fs_err::set_permissions(outside.join("secret"), PermissionsExt::from_mode(0o600)).unwrap();
        let before = Self::look(&place);
        Self { place, before }
    }

    fn look(place: &Place) -> Vec<(PathBuf, u64, u32, u64, i64)> {
        let outside = place.directory.path().join("outside");
        [outside.clone(), outside.join("secret")]
            .into_iter()
            .map(|path| {
                let status = fs_err::symlink_metadata(&path).unwrap();
                (path, status.len(), status.mode(), status.nlink(), status.mtime_nsec())
            })
            .collect()
    }

    fn check(&self) {
        assert_eq!(Self::look(&self.place), self.before);
        let text = fs_err::read_to_string(self.place.directory.path().join("outside/secret")).unwrap();
        assert_eq!(text, "canary");
    }
}

/// Unpacks one layer alone; returns the paths of its tree.
fn paths(tar: &[u8]) -> Result<Vec<String>, Error> {
    let canary = Canary::new();
    let mut stack = Stack::default();
    let result = canary.place.unpack(tar, &mut stack);
    canary.check();
    result?;
    consistent(&stack);
    Ok(scan(stack.top()).into_keys().map(|path| path.display().to_string()).collect())
}

/// Whether tree and index of the layer on top tell the same.
fn consistent(stack: &Stack) {
    let index = stack.view.layers().last().unwrap();
    let tree = scan(stack.top());
    for (path, item) in &tree {
        let node = index.nodes().get(path);
        let Item::Entry(entry, content) = item else {
            assert!(node.is_some(), "{}", path.display());
            continue;
        };
        let is_opaque = entry.metadata.xattrs.contains_key(&b"user.overlay.opaque"[..]);
        match node {
            Some(Node::Whiteout) => assert_eq!(entry.kind, Kind::CharDevice { major: 0, minor: 0 }),
            Some(Node::Opaque) => assert!(is_opaque),
            Some(Node::HardLink { .. }) => assert_ne!(entry.kind, Kind::Directory),
            None => assert!(entry.kind == Kind::Directory && !is_opaque, "{}", path.display()),
            Some(Node::Entry { entry: said, content: digest, opaque }) => {
                let mut entry = entry.clone();
                entry.metadata.xattrs.remove(&b"user.overlay.opaque"[..]);
                if let Kind::Symlink { .. } = entry.kind {
                    entry.metadata.mode = said.metadata.mode;
                }
                assert_eq!((&entry, is_opaque), (said, *opaque), "{}", path.display());
                if let Some(Content(digest)) = digest {
                    assert_eq!(blake3::hash(content), *digest);
                }
            }
        }
    }
    for (path, node) in index.nodes() {
        let may_lack = path == Path::new(".") || *node == Node::Whiteout;
        assert!(may_lack || tree.contains_key(path), "{}: {node:?}", path.display());
    }
}

fn tar() -> RawTar {
    RawTar::default()
}

#[test]
fn hostile_archives_are_refused() {
    let long = "x".repeat(256);
    let deep = "d/".repeat(2048) + "f";
    let cases: Vec<(&str, RawTar)> = vec![
        ("`..` out of the root", tar().file("../outside/secret", "x")),
        ("`..` below a directory", tar().directory("a/").file("a/../../outside/secret", "x")),
        ("`..` by a link's text", tar().link("l", "../outside/secret")),
        ("`..` in a PAX path", tar().pax(&[("path", b"../outside/secret")]).file("a", "x")),
        ("`..` in a long name", tar().raw(b'L', b"././@LongLink", b"../../outside\0", |_| {}).file("a", "x")),
        ("a file below a file", tar().file("a", "x").file("a/b", "x")),
        ("a file below a device", tar().raw(b'6', b"a", b"", |_| {}).file("a/b", "x")),
        ("a hard link to a directory", tar().directory("d/").link("l", "d")),
        ("a hard link to what it replaces", tar().file("a/b", "x").link("a", "a/b")),
        ("a hard link to nowhere", tar().link("l", "nowhere")),
        ("a symbolic link as the root", tar().symlink("./", "/outside")),
        ("a file as the root", tar().file(".", "x")),
        ("a loop of links", tar().symlink("a", "b").symlink("b", "a").file("a/f", "x")),
        ("a whiteout of `..`", tar().file("a/.wh...", "")),
        ("a whiteout of `.`", tar().file("a/.wh..", "")),
        ("a whiteout of nothing", tar().file("a/.wh.", "")),
        ("a whiteout of a whiteout", tar().file("a/.wh..wh.b", "")),
        ("a file below a whiteout", tar().file(".wh.a/b", "")),
        ("an opaque file", tar().file("a", "x").file("a/.wh..wh..opq", "")),
        ("an opaque link", tar().symlink("a", "/outside").file("a/.wh..wh..opq", "")),
        ("an empty name", tar().file("", "x")),
        ("a name with a NUL", tar().pax(&[("path", b"a\0b")]).file("a", "x")),
        ("a name that is too long", tar().pax(&[("path", long.as_bytes())]).file("a", "x")),
        ("a path that is too long", tar().pax(&[("path", deep.as_bytes())]).file("a", "x")),
        ("a link without a target", tar().symlink("a", "")),
        ("two PAX headers", tar().pax(&[("path", b"a")]).pax(&[("path", b"b")]).file("c", "x")),
        ("two long names", long_name(long_name(tar(), "a"), "b").file("c", "x")),
        ("a PAX path and a long name", long_name(tar().pax(&[("path", b"a")]), "b").file("c", "x")),
        ("a PAX header for nothing", tar().pax(&[("path", b"a")])),
        ("a PAX size that is none", tar().pax(&[("size", b"0x10")]).file("a", "x")),
        ("a PAX size beyond the end", tar().pax(&[("size", b"5000")]).file("a", "x")),
        ("a global path", tar().raw(b'g', b"g", b"9 path=b\n", |_| {}).file("a", "x")),
        ("a sparse file without a map", tar().raw(b'S', b"a", b"", |_| {})),
        ("a PAX sparse file without a map", tar().pax(&[("GNU.sparse.major", b"1")]).file("a", "x")),
        ("a volume header", tar().raw(b'V', b"a", b"", |_| {})),
        ("a continued file", tar().raw(b'M', b"a", b"", |_| {})),
        ("an unknown type", tar().raw(b'Z', b"a", b"", |_| {})),
        ("a mode that is none", tar().raw(b'0', b"a", b"", |header| header.as_mut_bytes()[100] = b'9')),
        ("a negative size", tar().raw(b'0', b"a", b"", |header| header.as_mut_bytes()[124..136].fill(0xff))),
        ("an enormous size", tar().raw(b'0', b"a", b"", |header| header.set_size(1 << 62))),
        ("an owner too large", tar().raw(b'0', b"a", b"", |header| header.set_uid(1 << 32))),
        ("an owner that is nobody", tar().pax(&[("uid", b"4294967295")]).file("a", "x")),
    ];
    for (name, tar) in cases {
        let result = paths(&tar.end());
        assert!(result.is_err(), "{name}: {result:?}");
    }
}

fn long_name(tar: RawTar, name: &str) -> RawTar {
    tar.raw(b'L', b"././@LongLink", format!("{name}\0").as_bytes(), |_| {})
}

#[test]
fn broken_streams_are_refused() {
    let whole = tar().file("a", &"x".repeat(700)).directory("d/").end();
    assert_eq!(paths(&whole).unwrap(), ["a", "d"]);
    // Without its end the archive is still whole, as GNU tar has it.
    assert_eq!(paths(&whole[..whole.len() - 1024]).unwrap(), ["a", "d"]);
    assert_eq!(paths(&whole[..whole.len() - 512]).unwrap(), ["a", "d"]);
    for length in [1, 100, 511, 513, 1211, 1212, 1535, 1537, 2047] {
        assert!(paths(&whole[..length]).is_err(), "{length}");
    }
    for at in [0, 100, 148, 257, 511] {
        let mut damaged = whole.clone();
        damaged[at] ^= 1;
        let result = paths(&damaged);
        assert!(matches!(result, Err(Error::Tar(TarError::NoHeader { offset: 0 }))), "{at}: {result:?}");
    }
    let mut lone = tar().file("a", "x").0;
    lone.extend([0; 512]);
    lone.extend(tar().file("b", "x").end());
    assert!(matches!(paths(&lone), Err(Error::Tar(TarError::LoneZeroBlock))));
    let mut trailing = tar().file("a", "x").end();
    trailing.extend(tar().file("b", "x").end());
    assert_eq!(paths(&trailing).unwrap(), ["a"]);
}

#[test]
fn look_alikes_land_inside() {
    let cases: Vec<(&str, RawTar, &[&str])> = vec![
        ("an absolute path", tar().file("/etc/passwd", "x"), &["etc", "etc/passwd"]),
        ("`./`", tar().directory("./").file("./a", "x"), &["a"]),
        ("`..` that stays inside", tar().file("a/../b/./c//d", "x"), &["b", "b/c", "b/c/d"]),
        ("an absolute hard link", tar().file("a", "x").link("b", "/a"), &["a", "b"]),
        ("a hard link by `..`", tar().file("a", "x").link("d/b", "d/../a"), &["a", "d", "d/b"]),
        ("through a link", tar().symlink("l", "d").file("l/f", "x"), &["d", "d/f", "l"]),
        ("through a link out", tar().symlink("l", "/outside").file("l/f", "x"), &["l", "outside", "outside/f"]),
        ("through a link up", tar().symlink("l", "../../outside").file("l/f", "x"), &["l", "outside", "outside/f"]),
        (
            "through a chain",
            tar().symlink("a", "b/c").symlink("b", "/x").symlink("x/c", "../y").file("a/f", "x"),
            &["a", "b", "x", "x/c", "y", "y/f"],
        ),
        (
            "a hard link through a link",
            tar().file("d/f", "x").symlink("l", "d").link("h", "l/f"),
            &["d", "d/f", "h", "l"],
        ),
        ("a hard link to a link", tar().symlink("l", "/outside/secret").link("h", "l"), &["h", "l"]),
        ("a file over a link", tar().symlink("l", "/outside/secret").file("l", "x"), &["l"]),
        ("a file over a tree", tar().file("a/b/c", "x").file("a", "x"), &["a"]),
        ("a directory over a link", tar().symlink("l", "/outside").directory("l/").file("l/f", "x"), &["l", "l/f"]),
        ("a v7 directory", tar().raw(0, b"d/", b"", |_| {}), &["d"]),
        ("contiguous", tar().raw(b'7', b"f", b"x", |_| {}), &["f"]),
        ("a comment", tar().raw(b'g', b"g", b"13 comment=x\n", |_| {}).file("a", "x"), &["a"]),
        (
            "a directory with a size",
            tar().raw(b'5', b"d", b"", |header| header.set_size(4096)).file("a", "x"),
            &["a", "d"],
        ),
        (
            "overlay's device",
            tar()
                .raw(b'3', b"a", b"", |header| {
                    header.set_device_major(0).unwrap();
                    header.set_device_minor(0).unwrap();
                })
                .file("b", "x"),
            &["b"],
        ),
    ];
    for (name, tar, expected) in cases {
        assert_eq!(paths(&tar.end()).unwrap_or_else(|error| panic!("{name}: {error:?}")), expected, "{name}");
    }
}

#[test]
fn the_pax_size_counts() {
    // A reader that took the header's size would find a second entry in the content (CVE-2025-62518).
    let hidden = tar().file("smuggled", "x").0;
    let length = hidden.len().to_string();
    let archive = tar()
        .pax(&[("size", length.as_bytes())])
        .raw(b'0', b"outer", &hidden, |header| header.set_size(0))
        .file("after", "x");
    assert_eq!(paths(&archive.end()).unwrap(), ["after", "outer"]);
}

#[test]
fn marks_of_overlayfs_and_of_the_store_are_dropped() {
    let place = Place::new();
    let mut stack = Stack::default();
    place.unpack(&tar().directory("d/").file("d/base", "x").end(), &mut stack).unwrap();
    let records: [(&str, &[u8]); 6] = [
        ("SCHILY.xattr.user.overlay.opaque", b"y"),
        ("SCHILY.xattr.trusted.overlay.opaque", b"y"),
        ("SCHILY.xattr.user.rbuild.owner", b"0:0"),
        ("SCHILY.xattr.security.selinux", b"x"),
        ("SCHILY.xattr.system.posix_acl_access", b"x"),
        ("SCHILY.xattr.user.kept", b"yes"),
    ];
    place.unpack(&tar().pax(&records).directory("d/").pax(&records).file("d/f", "x").end(), &mut stack).unwrap();
    for path in ["d", "d/f"] {
        let names: Vec<_> = xattrs(&stack.top().join(path)).into_keys().collect();
        assert_eq!(names, [b"user.kept"]);
    }
    assert_eq!(stack.view.children(Path::new("d")), ["base", "f"]);
}

#[test]
fn limits_have_names() {
    let place = Place::new();
    let tar = tar().file("a", &"x".repeat(1000)).file("b", "x").end();
    for (limits, what) in [
        (Limits { entries: 1, ..Limits::default() }, "entries"),
        (Limits { bytes: 1000, ..Limits::default() }, "bytes"),
        (Limits { bytes: tar.len() as u64 - 1, ..Limits::default() }, "bytes"),
    ] {
        let result =
            unpack_limited(&mut tar.as_slice(), place.snapshots.prepare().unwrap(), Flavour::UserXattr, limits);
        let text = result.unwrap_err().to_string();
        assert!(text.contains(what) && text.contains("limit"), "{text}");
    }
    let exact = Limits { bytes: tar.len() as u64, entries: 2 };
    unpack_limited(&mut tar.as_slice(), place.snapshots.prepare().unwrap(), Flavour::UserXattr, exact).unwrap();
    let endless = self::tar().pax(&[("comment", &vec![b'x'; 2 << 20])]).file("a", "x").end();
    assert!(matches!(paths(&endless), Err(Error::Limit { .. })));
}

#[test]
fn a_layer_takes_from_below_what_it_lacks() {
    let place = Place::new();
    let mut stack = Stack::default();
    let mut base = tar().raw(b'5', b"usr/", b"", |header| header.set_mode(0o2750));
    base = base.raw(b'5', b"./", b"", |header| header.set_mode(0o555));
    base =
        base.pax(&[("SCHILY.xattr.user.k", b"v")]).raw(b'0', b"usr/tool", b"bytes", |header| header.set_mode(0o4755));
    base = base.symlink("ln", "usr/tool").link("usr/alias", "usr/tool");
    place.unpack(&base.end(), &mut stack).unwrap();
    let layer = tar().file("usr/new", "x").link("a", "usr/tool").link("b", "/usr/tool").link("c", "usr/alias");
    place.unpack(&layer.link("opt/l", "ln").end(), &mut stack).unwrap();
    consistent(&stack);
    let tree = scan(stack.top());
    let below = scan(&stack.trees[0].dir);
    assert_eq!(tree[Path::new("usr")], below[Path::new("usr")]);
    assert_eq!(tree[Path::new("a")], below[Path::new("usr/alias")]);
    assert_eq!(tree[Path::new("b")], link("a"));
    assert_eq!(tree[Path::new("opt/l")], below[Path::new("ln")]);
    let root = fs_err::symlink_metadata(stack.top()).unwrap();
    assert_eq!(root.mode() & 0o7777, 0o555);
    let shown = stack.shown();
    assert_eq!(shown[Path::new("c")], shown[Path::new("usr/tool")]);
    let lost = tar().link("a", "usr/lost").end();
    assert!(matches!(place.unpack(&lost, &mut stack), Err(Error::LinkTarget { .. })));
}

#[test]
fn whiteouts_in_any_order_agree_with_the_index() {
    for layer in [
        tar().file(".wh.a", "").file("a/x", "1"),
        tar().file("a/x", "1").file(".wh.a", ""),
        tar().directory("a/").file(".wh.a", ""),
        tar().file(".wh.a", "").directory("a/"),
        tar().file("a", "1").file(".wh.a", ""),
        tar().file(".wh.a", "").file("a", "1"),
        tar().file(".wh.a", "").file("a/.wh.b", ""),
        tar().file(".wh.a", "").file("a/.wh..wh..opq", ""),
        tar().file("a/.wh..wh..opq", "").file("a/b/c", "1"),
        tar().file("a/b/c", "1").file("a/.wh..wh..opq", ""),
        tar().file("a/.wh..wh..opq", "").directory("a/"),
        tar().file("a/.wh.b", "").file("a/.wh.b", "").directory("a/b/"),
        tar().link("h", "a/b/c").file(".wh.a", ""),
        tar().file(".wh..wh..opq", "").file("k", "1"),
        tar().file(".wh..wh..opq", "").directory("a/").directory("./"),
        tar().file("a", "1").directory("a/").file("a/n", "1"),
        tar().symlink("s", "a").file("s/.wh.b", ""),
    ] {
        let place = Place::new();
        let mut stack = Stack::default();
        place.unpack(&tar().directory("a/").file("a/b/c", "0").file("z", "0").end(), &mut stack).unwrap();
        let tar = layer.end();
        place.unpack(&tar, &mut stack).unwrap();
        // An opaque root is written down name by name, which the index knows nothing of.
        let root = stack.view.layers()[1].nodes().get(Path::new("."));
        if !matches!(root, Some(Node::Opaque | Node::Entry { opaque: true, .. })) {
            consistent(&stack);
        }
        merged_equals_view(&stack);
    }
}

/// Whether overlayfs shows what the view shows; the kernel judges.
pub(crate) fn merged_equals_view(stack: &Stack) {
    let merged = overlay(stack);
    let shown: Vec<PathBuf> = stack.shown().into_keys().collect();
    let mounted: Vec<PathBuf> = scan(&merged.path()).into_keys().collect();
    assert_eq!(mounted, shown);
}

#[test]
fn unpacking_does_not_depend_on_the_layers_below() {
    let place = Place::new();
    let tar = tar().file("usr/bin/x", "x").file("usr/.wh.y", "").link("l", "usr/z").end();
    let alone = unpack(&mut tar.as_slice(), place.snapshots.prepare().unwrap(), Flavour::UserXattr).unwrap();
    let decoded = LayerIndex::decode(&alone.index().encode()).unwrap();
    assert_eq!(decoded, **alone.index());
    drop(alone);
    assert_eq!(fs_err::read_dir(place.directory.path().join("snapshots-userxattr/tmp")).unwrap().count(), 0);
    assert_eq!(place.snapshots.list().unwrap(), []);
}

#[test]
fn implied_directories_go_where_links_below_lead() {
    let base = tar().directory("usr/").directory("usr/bin/").file("usr/bin/old", "0").file("usr/lib/x/f", "0");
    let base =
        base.symlink("bin", "usr/bin").symlink("lib", "/usr/lib").symlink("usr/lib/y", "x").symlink("gone", "no/where");
    let base = base.symlink("file", "usr/bin/old").symlink("a", "b").symlink("b", "a").end();
    let cases: Vec<(RawTar, &[&str])> = vec![
        (tar().file("bin/new", "1"), &["usr/bin/new"]),
        (tar().file("bin/new", "1").link("bin/hard", "bin/new"), &["usr/bin/hard", "usr/bin/new"]),
        (tar().link("opt/hard", "bin/old"), &["opt/hard"]),
        (tar().link("bin/hard", "bin/old"), &["usr/bin/hard"]),
        (tar().file("lib/y/g", "1").directory("lib/z/").file("lib/z/h", "1"), &["usr/lib/x/g", "usr/lib/z/h"]),
        (tar().file("bin/.wh.old", "").file("bin/new", "1"), &["-usr/bin/old", "usr/bin/new"]),
        (tar().file("gone/f", "1"), &["no/where/f"]),
        // Described, so it covers the link.
        (tar().directory("bin/").file("bin/new", "1"), &["bin/new"]),
        (tar().file(".wh.bin", "").file("bin/new", "1"), &["bin/new"]),
        // Nowhere to go: covered as well.
        (tar().file("file/f", "1"), &["file/f"]),
        (tar().file("a/f", "1"), &["a/f"]),
        (tar().file("bin/both", "1").file("usr/bin/both", "2"), &["bin/both", "usr/bin/both"]),
        (tar().file(".wh.usr", "").file("bin/new", "1"), &["bin/new", "-usr"]),
    ];
    for (layer, expected) in cases {
        let place = Place::new();
        let mut stack = Stack::default();
        place.unpack(&base, &mut stack).unwrap();
        place.unpack(&layer.end(), &mut stack).unwrap();
        consistent(&stack);
        merged_equals_view(&stack);
        for path in expected {
            let removed = path.strip_prefix('-');
            let found = stack.view.lookup(Path::new(removed.unwrap_or(path)));
            assert_eq!(found.is_none(), removed.is_some(), "{path}");
        }
    }
}

/// Sizes around those of the buffers, so that files end in one, at its end, and in the next.
#[test]
fn files_are_whole_wherever_the_buffer_ends() {
    let sizes = [200_000, 60_000, 262_144 - 512, 1, 262_144, 600_000, 131_072, 0, 5000];
    let text: String = (0..600_000).map(|at| char::from(b'a' + u8::try_from(at % 23).unwrap())).collect();
    let tar = sizes.iter().enumerate().fold(tar(), |tar, (at, size)| tar.file(&format!("f{at}"), &text[..*size])).end();
    let mut stack = Stack::default();
    let place = Place::new();
    place.unpack(&tar, &mut stack).unwrap();
    consistent(&stack);
    for (at, size) in sizes.iter().enumerate() {
        assert_eq!(fs_err::read_to_string(stack.top().join(format!("f{at}"))).unwrap(), text[..*size]);
    }
    assert_eq!(survey(&mut tar.as_slice()).unwrap(), **stack.view.layers().last().unwrap());
}

#[test]
fn bytes_are_digested_once_however_they_are_taken() {
    let bytes = b"0123456789".repeat(10);
    for (capacity, taken) in [(1, 1), (7, 3), (7, 7), (64, 40), (1000, 1)] {
        let mut inner = io::BufReader::with_capacity(capacity, bytes.as_slice());
        let mut digesting = Digesting { inner: &mut inner, state: blake3::Hasher::new(), ahead: 0 };
        let mut seen = vec![0; taken];
        digesting.read_exact(&mut seen).unwrap();
        while let Some(count) = Some(digesting.fill_buf().unwrap().len().min(taken)).filter(|count| *count > 0) {
            seen.extend(&digesting.fill_buf().unwrap()[..count]);
            digesting.consume(count);
        }
        assert_eq!((seen, digesting.state.finalize()), (bytes.clone(), blake3::hash(&bytes)), "{capacity} {taken}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, failure_persistence: None, ..ProptestConfig::default() })]

    /// Whatever is changed in an archive, it is refused or lands inside, and the index tells the truth.
    #[test]
    fn spoiled_archives_do_no_harm(
        spoils in proptest::collection::vec((0..8usize, 0..512usize, any::<u8>()), 1..6),
        resum in any::<bool>(),
        cut in proptest::option::of(0..6000usize),
    ) {
        let whole = tar()
            .directory("d/")
            .pax(&[("path", b"d/long"), ("SCHILY.xattr.user.a", b"b")])
            .file("short", "content")
            .symlink("l", "d")
            .link("h", "d/long")
            .file("d/.wh.gone", "")
            .file("l/through", "x");
        let mut archive = long_name(whole, "d/other").file("x", "y").end();
        for (block, at, value) in spoils {
            let start = block * 512;
            archive[start + at] = value;
            if resum {
                let mut header = tar::Header::new_old();
                header.as_mut_bytes().copy_from_slice(&archive[start..start + 512]);
                header.set_cksum();
                archive[start..start + 512].copy_from_slice(header.as_bytes());
            }
        }
        archive.truncate(cut.unwrap_or(usize::MAX));
        let canary = Canary::new();
        let mut stack = Stack::default();
        if canary.place.unpack(&archive, &mut stack).is_ok() {
            consistent(&stack);
        }
        canary.check();
    }
}
