#![expect(clippy::needless_raw_string_hashes, reason = "expect-test writes its strings so")]

use std::ffi::OsStr;
use std::io::{Read, Write};
use std::os::unix::ffi::OsStrExt;

use expect_test::expect;

use super::*;
use crate::testing::*;
use crate::{Metadata, Mtime, Xattrs};

/// A tree with everything that a header can say. Owners are fixed, so that its bytes are the same for everybody.
pub(super) fn sample() -> Model {
    let mut tree = model([
        ("bin", directory(0o755)),
        ("bin/sh", symlink("dash")),
        ("bin/dash", file("#!\n")),
        ("bin/link", link("bin/dash")),
        ("etc", directory(0o1777)),
        ("etc/motd", file(&"welcome\n".repeat(1000))),
        ("etc/empty", file("")),
        (
            "dev-null",
            Item::Entry(Entry { kind: Kind::CharDevice { major: 1, minor: 3 }, metadata: metadata(0o666) }, vec![]),
        ),
        (
            "dev-sda",
            Item::Entry(Entry { kind: Kind::BlockDevice { major: 8, minor: 0 }, metadata: metadata(0o660) }, vec![]),
        ),
        ("fifo", Item::Entry(Entry { kind: Kind::Fifo, metadata: metadata(0o600) }, vec![])),
    ]);
    let long = format!("long/{}/{}", "d".repeat(120), "f".repeat(120));
    for directory_path in Path::new(&long).ancestors().skip(1).filter(|path| !path.as_os_str().is_empty()) {
        tree.insert(directory_path.into(), directory(0o755));
    }
    tree.insert(long.clone().into(), file("long"));
    tree.insert("long-link".into(), symlink(&long));
    tree.insert("long-hard".into(), link(&long));
    tree.insert(OsStr::from_bytes(b"not-utf8-\xff").into(), file("bytes"));
    let odd = Metadata {
        mode: 0o4711,
        uid: 3_000_000,
        gid: 4_000_000,
        mtime: Mtime { seconds: -5, nanoseconds: 999 },
        xattrs: Xattrs::from([(b"user.note".to_vec(), b"a\0b\n".to_vec()), (b"user.empty".to_vec(), vec![])]),
    };
    tree.insert("odd".into(), Item::Entry(Entry { kind: Kind::File { size: 3 }, metadata: odd }, b"odd".to_vec()));
    for item in tree.values_mut() {
        if let Item::Entry(entry, _) = item
            && entry.metadata.uid < 3_000_000
        {
            (entry.metadata.uid, entry.metadata.gid) = (0, 42);
        }
    }
    tree
}

fn noise(length: usize) -> Vec<u8> {
    let mut bytes = vec![0; length];
    blake3::Hasher::new().finalize_xof().fill(&mut bytes);
    bytes
}

/// Some 24 MB in files of all sizes, half of it noise.
pub(super) fn large() -> Model {
    let noise = noise(9_000_000);
    let mut tree = Model::new();
    for number in 0..600_usize {
        let size = (number * 7919) % 40_000;
        let content = if number % 2 == 0 { noise[number..number + size].to_vec() } else { vec![b'x'; size] };
        let entry = Entry { kind: Kind::File { size: size as u64 }, metadata: metadata(0o644) };
        tree.insert(format!("small/{number:04}").into(), Item::Entry(entry, content));
    }
    for (name, size) in [("four", 4 << 20), ("nine", 9_000_000)] {
        let entry = Entry { kind: Kind::File { size: size as u64 }, metadata: metadata(0o644) };
        tree.insert(format!("large/{name}").into(), Item::Entry(entry, noise[..size].to_vec()));
    }
    tree
}

#[test]
fn golden_digests() {
    let place = Place::new();
    let (layer, _) = place.layer(|writer| emit(&sample(), writer)).unwrap();
    expect![[r#"
        sha256:5e0f782fa0dda3ef4e164a8db25609e763bb596a6541f0963b8380c613d4bb1b
        sha256:6a77f9faf576019e80e39b002649e5553763512157032bc5dd01ce8bbc19c381
        706
    "#]]
    .assert_eq(&format!("{}\n{}\n{}\n", layer.diff_id, layer.blob.digest(), layer.blob.size()));
    let mut fixed = large();
    for item in fixed.values_mut() {
        if let Item::Entry(entry, _) = item {
            (entry.metadata.uid, entry.metadata.gid) = (0, 0);
        }
    }
    let (layer, _) = place.layer(|writer| emit(&fixed, writer)).unwrap();
    expect![[r#"
        sha256:444a42e35f00dca26278ced49948fdda8eba92cee74c844a9bd62e49f73bcb98
        sha256:da1d4ae2c5ee67097485136a6bcd7dc43c5a23052fac14f769130a1b6b645ad3
        18764740
    "#]]
    .assert_eq(&format!("{}\n{}\n{}\n", layer.diff_id, layer.blob.digest(), layer.blob.size()));
}

/// The zstd layer of the same trees, under its media type.
#[test]
fn golden_digest_of_zstd() {
    let place = Place::new();
    let mut writer = LayerWriter::new(&place.blobs, Compression::Zstd { level: 1 }.into()).unwrap();
    emit(&sample(), &mut writer).unwrap();
    let (layer, _) = writer.finish().unwrap();
    expect![[r#"
        sha256:5e0f782fa0dda3ef4e164a8db25609e763bb596a6541f0963b8380c613d4bb1b
        sha256:66f2b748202ffaacb23e0243c476d1e7f39c5a853846f9c9616b4049c74226e9
        1030
    "#]]
    .assert_eq(&format!("{}\n{}\n{}\n", layer.diff_id, layer.blob.digest(), layer.blob.size()));
    assert_eq!(layer.blob.media_type().as_ref(), "application/vnd.oci.image.layer.v1.tar+zstd");
    place.tar(&layer);
    for level in [0, 2, 3, 22] {
        let refused = LayerWriter::new(&place.blobs, Compression::Zstd { level }.into());
        assert!(matches!(refused, Err(Error::ZstdLevel { .. })));
    }
}

#[test]
fn the_number_of_threads_changes_no_byte() {
    let place = Place::new();
    let tree = large();
    let layers = [1, 2, 7].map(|threads| {
        let mut writer =
            LayerWriter::new(&place.blobs, LayerOptions { threads: Some(threads), ..LayerOptions::default() }).unwrap();
        emit(&tree, &mut writer).unwrap();
        writer.finish().unwrap().0
    });
    assert_eq!(layers[0], layers[1]);
    assert_eq!(layers[0], layers[2]);
}

#[test]
fn all_writers_write_the_same_tar() {
    let place = Place::new();
    for tree in [sample(), large()] {
        let (layer, index) = place.layer(|writer| emit(&tree, writer)).unwrap();
        let mut plain = LayerWriter::new(&place.blobs, Compression::None.into()).unwrap();
        emit(&tree, &mut plain).unwrap();
        let (plain, plain_index) = plain.finish().unwrap();
        assert_eq!(plain.diff_id, layer.diff_id);
        assert_eq!(*plain.blob.digest(), layer.diff_id);
        assert_eq!(plain_index, index);
        let mut archive = TarWriter::new(Vec::new());
        emit(&tree, &mut archive).unwrap();
        assert_eq!(crate::digest::sha256(&archive.finish().unwrap()), layer.diff_id);
    }
}

#[test]
fn what_was_written_is_read_back() {
    let place = Place::new();
    for tree in [sample(), large()] {
        let (layer, index) = place.layer(|writer| emit(&tree, writer)).unwrap();
        let mut again = IndexWriter::default();
        read(&mut place.tar(&layer).as_slice(), &mut again).unwrap();
        let mut expected = index;
        expected.cut_times();
        assert!(again.finish() == expected);
    }
}

#[test]
fn gzip_reads_the_blob_as_one_member() {
    let place = Place::new();
    let (layer, _) = place.layer(|writer| emit(&large(), writer)).unwrap();
    let blob = place.blobs.path(layer.blob.digest());
    let copy = place.directory.path().join("layer.tar.gz");
    fs_err::copy(&blob, &copy).unwrap();
    run("gzip", "gzip", &["-t".as_ref(), copy.as_ref()]);
    // Not a multi-member file: a single decoder reads it to the end.
    let bytes = fs_err::read(&blob).unwrap();
    let mut single = flate2::read::GzDecoder::new(bytes.as_slice());
    let mut tar = Vec::new();
    single.read_to_end(&mut tar).unwrap();
    assert_eq!(crate::digest::sha256(&tar), layer.diff_id);
    assert_eq!(bytes[..10], [0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 0xff]);
}

#[test]
fn gnu_tar_extracts_the_same_tree() {
    let place = Place::new();
    let mut tree = sample();
    tree.retain(|path, _| can_give_away() || !bytes_of(path).starts_with(b"dev"));
    if !can_give_away() {
        for item in tree.values_mut() {
            if let Item::Entry(entry, _) = item {
                (entry.metadata.uid, entry.metadata.gid) = own();
            }
        }
    }
    let (layer, _) = place.layer(|writer| emit(&tree, writer)).unwrap();
    let archive = place.directory.path().join("layer.tar");
    fs_err::write(&archive, place.tar(&layer)).unwrap();
    let out = place.directory.path().join("out");
    fs_err::create_dir(&out).unwrap();
    let mut arguments: Vec<&OsStr> = ["--xattrs", "--xattrs-include=*", "-xpf"].map(OsStr::new).to_vec();
    arguments.extend([archive.as_os_str(), OsStr::new("-C"), out.as_os_str()]);
    run("tar", "tar", &arguments);
    let mut expected = tree;
    for item in expected.values_mut() {
        if let Item::Entry(entry, _) = item {
            entry.metadata.mtime.nanoseconds = 0;
        }
    }
    assert_eq!(scan(&out), renamed_links(expected));
}

/// Scanning calls the first name of a file the file, whatever it was when it was written.
fn renamed_links(mut tree: Model) -> Model {
    let links: Vec<_> =
        tree.iter().filter(|(_, item)| matches!(item, Item::Link(_))).map(|(path, _)| path.clone()).collect();
    for path in links {
        let Some(Item::Link(target)) = tree.get(&path).cloned() else { continue };
        if path < target {
            let file = tree.insert(target.clone(), Item::Link(path.clone())).unwrap();
            tree.insert(path, file);
        }
    }
    tree
}

#[test]
fn other_tools_archives_are_read() {
    let place = Place::new();
    let source = place.directory.path().join("source");
    fs_err::create_dir(&source).unwrap();
    let mut tree = crate::TreeWriter::new(&source, crate::Flavour::Plain).unwrap();
    let long = "a-rather-long-name/".repeat(8) + &"x".repeat(150);
    for item in [("d", directory(0o750)), ("d/f", file("content")), ("d/l", symlink("f")), ("hard", link("d/f"))] {
        emit(&model([item]), &mut tree).unwrap();
    }
    emit(&model([(long.as_str(), file("deep"))]), &mut tree).unwrap();
    emit(&model([("long-link", symlink(&long)), ("long-hard", link(&long))]), &mut tree).unwrap();
    tree.finish().unwrap();
    for format in ["gnu", "pax", "oldgnu"] {
        let archive = place.directory.path().join(format);
        let format_flag = format!("--format={format}");
        let mut arguments: Vec<&OsStr> = vec!["-cf".as_ref(), archive.as_os_str(), format_flag.as_ref()];
        arguments.extend(["-C".as_ref(), source.as_os_str(), ".".as_ref()]);
        run("tar", "tar", &arguments);
        let mut stack = Stack::default();
        place.unpack(&fs_err::read(&archive).unwrap(), &mut stack).unwrap();
        assert_eq!(scan(stack.top()), scan(&source), "{format}");
    }
    let archive = place.directory.path().join("python");
    let script = "import sys, tarfile\nwith tarfile.open(sys.argv[1], 'w') as t: t.add(sys.argv[2], '.')";
    run("python3", "python3", &["-c".as_ref(), script.as_ref(), archive.as_os_str(), source.as_os_str()]);
    let mut stack = Stack::default();
    place.unpack(&fs_err::read(&archive).unwrap(), &mut stack).unwrap();
    assert_eq!(scan(stack.top()), scan(&source), "python");
}

#[test]
fn python_reads_the_layer() {
    let place = Place::new();
    let (layer, index) = place.layer(|writer| emit(&sample(), writer)).unwrap();
    let blob = place.blobs.path(layer.blob.digest());
    let script = "import sys, tarfile\nprint(len(tarfile.open(sys.argv[1], 'r:gz').getmembers()))";
    let count = run("python3", "python3", &["-c".as_ref(), script.as_ref(), blob.as_os_str()]);
    assert_eq!(count.trim(), index.nodes().len().to_string());
}

#[test]
fn a_failed_layer_leaves_nothing() {
    let place = Place::new();
    let entry = Entry { kind: Kind::File { size: 10 }, metadata: metadata(0o644) };
    let mut writer = LayerWriter::new(&place.blobs, LayerOptions::default()).unwrap();
    let short = writer.entry(Path::new("f"), &entry, &mut &b"short"[..]);
    assert!(matches!(short, Err(Error::ShortContent { size: 10, .. })));
    drop(writer);
    let mut writer = LayerWriter::new(&place.blobs, LayerOptions::default()).unwrap();
    emit(&large(), &mut writer).unwrap();
    drop(writer);
    let mut writer = LayerWriter::new(&place.blobs, LayerOptions::default()).unwrap();
    let lost = writer.hard_link(Path::new("l"), Path::new("nowhere"));
    assert!(matches!(lost, Err(Error::LinkTarget { .. })));
    drop(writer);
    for directory in ["tmp", "blobs/sha256"] {
        assert_eq!(fs_err::read_dir(place.directory.path().join(directory)).unwrap().count(), 0);
    }
    assert!(matches!(LayerWriter::new(&place.blobs, Compression::Gzip { level: 10 }.into()), Err(Error::Limit { .. })));
}

#[test]
fn decompression_knows_its_formats() {
    let tar = noise(300_000);
    let directory = tempfile::tempdir().unwrap();
    let raw = directory.path().join("raw");
    fs_err::write(&raw, &tar).unwrap();
    let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::new(6));
    gzip.write_all(&tar[..100_000]).unwrap();
    let mut gzip = gzip.finish().unwrap();
    let mut second = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::new(1));
    second.write_all(&tar[100_000..]).unwrap();
    gzip.extend(second.finish().unwrap());
    run("zstd", "zstd", &["-q".as_ref(), "-k".as_ref(), raw.as_os_str()]);
    let zstd = fs_err::read(directory.path().join("raw.zst")).unwrap();
    let skippable = [&[0x50, 0x2a, 0x4d, 0x18, 3, 0, 0, 0, 1, 2, 3][..], &zstd, &zstd].concat();
    let twice = [&tar[..], &tar].concat();
    for (bytes, expected) in [(&tar, &tar), (&gzip, &tar), (&zstd, &tar), (&skippable, &twice), (&vec![], &vec![])] {
        let mut out = Vec::new();
        decompress(bytes.as_slice(), expected.len() as u64).unwrap().read_to_end(&mut out).unwrap();
        assert!(out == *expected);
        if !expected.is_empty() {
            let over = decompress(bytes.as_slice(), expected.len() as u64 - 1).unwrap().read_to_end(&mut out);
            assert_eq!(over.unwrap_err().kind(), std::io::ErrorKind::FileTooLarge);
        }
    }
    // What a tape's blocks are filled up with; of anything else nobody knows what it was.
    for (after, accepted) in [(&[0][..], true), (&vec![0; 70_000], true), (b"x", false), (&[0, 0x1f], false)] {
        let padded = [&gzip, after].concat();
        let mut out = Vec::new();
        let result = decompress(padded.as_slice(), u64::MAX).unwrap().read_to_end(&mut out);
        assert!(out == tar && result.is_ok() == accepted, "{result:?}");
    }
    assert!(
        decompress([&gzip, &[0; 9][..], &gzip].concat().as_slice(), u64::MAX)
            .unwrap()
            .read_to_end(&mut Vec::new())
            .is_err()
    );
    // A byte of the checksum: the blob is another one, though its content is the same.
    let mut checksum = gzip.clone();
    checksum[gzip.len() - 5] ^= 1;
    assert!(decompress(checksum.as_slice(), u64::MAX).unwrap().read_to_end(&mut Vec::new()).is_err());
    for mut damaged in [gzip, zstd] {
        for cut in [damaged.len() - 1, damaged.len() / 2] {
            assert!(decompress(&damaged[..cut], u64::MAX).unwrap().read_to_end(&mut Vec::new()).is_err());
        }
        let middle = damaged.len() / 2;
        damaged[middle] ^= 1;
        assert!(decompress(damaged.as_slice(), u64::MAX).unwrap().read_to_end(&mut Vec::new()).is_err());
    }
}

/// A tar that nobody here would write so keeps its bytes.
#[test]
fn any_stream_is_compressed_anew_as_it_is() {
    let place = Place::new();
    let source = place.directory.path().join("source");
    fs_err::create_dir(&source).unwrap();
    fs_err::write(source.join("file"), noise(3_000_000)).unwrap();
    fs_err::write(source.join("text"), "text\n".repeat(500_000)).unwrap();
    let archive = place.directory.path().join("gnu.tar");
    let names = ["--format=gnu", "-cf", archive.to_str().unwrap(), "-C", source.to_str().unwrap(), "."];
    run("tar", "tar", &names.map(OsStr::new));
    let tar = fs_err::read(&archive).unwrap();
    for compression in [Compression::default(), Compression::Zstd { level: 1 }, Compression::None] {
        let made = recompress(&mut &*tar, &place.blobs, compression.into()).unwrap();
        assert_eq!(made.diff_id, crate::digest::sha256(&tar));
        assert_eq!(*made.blob.media_type(), compression.media_type());
        assert!(place.tar(&made) == tar);
        assert_eq!(recompress(&mut &*tar, &place.blobs, compression.into()).unwrap(), made);
    }
}
