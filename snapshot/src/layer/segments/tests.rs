use std::sync::atomic::AtomicUsize;
use std::time::Duration;

use super::*;
use crate::layer::tests::large;
use crate::testing::*;
use crate::{Compression, Layer, LayerOptions, LayerWriter};

fn cache(place: &Place) -> Arc<SegmentCache> {
    Arc::new(SegmentCache::open_at(place.directory.path(), place.blobs.clone()).unwrap())
}

/// Writes a tree with a cache that was just opened; returns what it looked up.
fn write(place: &Place, tree: &Model, compression: Compression) -> (Layer, SegmentCounts) {
    let segments = cache(place);
    let options = LayerOptions { compression, segments: Some(Arc::clone(&segments)), threads: None };
    let mut writer = LayerWriter::new(&place.blobs, options).unwrap();
    emit(tree, &mut writer).unwrap();
    let (layer, _) = writer.finish().unwrap();
    (layer, segments.counts())
}

/// What the same tree gives where nothing is known.
fn cold(tree: &Model, compression: Compression) -> Layer {
    write(&Place::new(), tree, compression).0
}

const GZIP: Compression = Compression::Gzip { level: 6 };

const ZSTD: Compression = Compression::Zstd { level: 1 };

#[test]
fn warm_bytes_are_cold_bytes() {
    let tree = large();
    for compression in [GZIP, ZSTD] {
        let place = Place::new();
        let (first, counts) = write(&place, &tree, compression);
        assert_eq!(counts.reused, 0);
        assert!(counts.compressed > 10, "{counts:?}");
        let (again, warm) = write(&place, &tree, compression);
        assert_eq!(again, first);
        assert_eq!(warm, SegmentCounts { reused: counts.compressed, compressed: 0 });
        assert_eq!(place.blobs.verify(again.blob.digest()).unwrap(), again.blob.size());
    }
}

#[test]
fn a_changed_file_costs_its_own_bundles() {
    let mut tree = large();
    let place = Place::new();
    let (_, all) = write(&place, &tree, GZIP);
    let name = Path::new("small/0301");
    let Some(Item::Entry(entry, content)) = tree.get_mut(name) else { panic!("no such file") };
    content.push(b'!');
    entry.kind = crate::Kind::File { size: content.len() as u64 };
    let (grown, counts) = write(&place, &tree, GZIP);
    assert!(counts.compressed <= 2 && counts.reused + 2 >= all.compressed, "{counts:?} of {all:?}");
    assert_eq!(grown, cold(&tree, GZIP));
    tree.remove(name);
    let (removed, counts) = write(&place, &tree, GZIP);
    assert!(counts.compressed <= 2, "{counts:?}");
    assert_eq!(removed, cold(&tree, GZIP));
}

/// Writes a tree whose files are read when they must be, cut short or not; returns how many of them were.
fn write_later(place: &Place, tree: &Model, cut_short: bool) -> (Result<Layer, Error>, usize) {
    struct Counting(io::Cursor<Vec<u8>>, Arc<AtomicUsize>);
    impl io::Read for Counting {
        fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
            if self.0.position() == 0 {
                self.1.fetch_add(1, Ordering::Relaxed);
            }
            self.0.read(buffer)
        }
    }
    let read = Arc::new(AtomicUsize::new(0));
    let options = LayerOptions { compression: GZIP, segments: Some(cache(place)), threads: None };
    let mut writer = LayerWriter::new(&place.blobs, options).unwrap();
    let write = |writer: &mut LayerWriter| -> Result<(), Error> {
        for (path, item) in tree {
            match item {
                Item::Entry(entry, content) if matches!(entry.kind, crate::Kind::File { .. }) => {
                    let digest = crate::Content(*blake3::hash(content).as_bytes());
                    let length = if cut_short { content.len() / 2 } else { content.len() };
                    let bytes = Counting(io::Cursor::new(content[..length].to_vec()), Arc::clone(&read));
                    writer.put(path, entry, crate::Bytes::Later(Box::new(bytes), digest))?;
                }
                Item::Entry(entry, _) => crate::ChangeSink::entry(writer, path, entry, &mut io::empty())?,
                Item::Link(_) => panic!("a tree without links"),
            }
        }
        Ok(())
    };
    let layer = write(&mut writer).and_then(|()| Ok(writer.finish()?.0));
    (layer, read.load(Ordering::Relaxed))
}

/// What an earlier layer begins with is not read, and nobody can tell.
#[test]
fn files_before_the_first_change_are_not_read() {
    let mut tree = large();
    let place = Place::new();
    let (first, all) = write_later(&place, &tree, false);
    assert_eq!(first.unwrap(), cold(&tree, GZIP));
    let (again, read) = write_later(&place, &tree, false);
    assert_eq!(again.unwrap(), cold(&tree, GZIP));
    // What is too small to be looked up is read, as is a file that is split.
    assert!(read * 4 < all, "{read} of {all}");
    let (middle, _) = tree.iter().filter(|(path, _)| path.starts_with("small")).nth(150).unwrap();
    let middle = middle.clone();
    let Some(Item::Entry(_, content)) = tree.get_mut(&middle) else { panic!("no such file") };
    content[0] ^= 1;
    let (changed, some) = write_later(&place, &tree, false);
    assert_eq!(changed.unwrap(), cold(&tree, GZIP));
    assert!(read < some && some < all, "{read}, {some}, {all}");
}

/// Small files behind a change are read in bundles, and one by one only where a bundle is damaged.
#[test]
fn small_files_behind_a_change_are_not_read_one_by_one() {
    let mut tree = Model::new();
    for number in 0..4000_usize {
        let content = blake3::hash(&number.to_le_bytes()).to_hex().repeat(number % 40);
        tree.insert(format!("{number:04}").into(), file(&content));
    }
    let place = Place::new();
    let (_, all) = write_later(&place, &tree, false);
    let mut change = |byte: u8| {
        let Some(Item::Entry(_, content)) = tree.get_mut(Path::new("0039")) else { panic!("no such file") };
        content[0] = byte;
        let (layer, read) = write_later(&place, &tree, false);
        assert_eq!(layer.unwrap(), cold(&tree, GZIP));
        read
    };
    let read = change(b'1');
    assert!(read * 2 < all, "{read} of {all}");
    let bundles = fs_err::read_dir(place.directory.path().join("bundles")).unwrap();
    for bundle in bundles {
        let path = bundle.unwrap().path();
        let mut bytes = fs_err::read(&path).unwrap();
        bytes[1000] ^= 1;
        fs_err::write(&path, &bytes).unwrap();
    }
    assert_eq!(change(b'2'), all);
    assert_eq!(change(b'3'), read);
}

#[test]
fn a_file_that_is_not_what_it_was_ends_the_layer() {
    let place = Place::new();
    let (layer, _) = write_later(&place, &large(), true);
    assert!(matches!(layer, Err(Error::ShortContent { .. })));
}

#[test]
fn another_codec_or_level_shares_nothing() {
    let tree = large();
    let place = Place::new();
    write(&place, &tree, GZIP);
    for other in [Compression::Gzip { level: 1 }, ZSTD] {
        let (layer, counts) = write(&place, &tree, other);
        assert_eq!(counts.reused, 0);
        assert_eq!(layer, cold(&tree, other));
    }
}

#[test]
fn damage_is_found_and_costs_a_compression() {
    let tree = large();
    let place = Place::new();
    let (layer, counts) = write(&place, &tree, GZIP);
    let blob = place.blobs.path(layer.blob.digest());
    let list = place.directory.path().join("segments").join(layer.blob.digest().digest());
    let good = fs_err::read(&list).unwrap();
    // One segment of the blob.
    let mut bytes = fs_err::read(&blob).unwrap();
    bytes[5_000_000] ^= 1;
    fs_err::write(&blob, &bytes).unwrap();
    let (again, found) = write(&place, &tree, GZIP);
    assert_eq!((again, found.compressed), (layer.clone(), 1));
    // The end of the blob. Its list, too, was written anew.
    fs_err::write(&blob, &bytes[..bytes.len() / 2]).unwrap();
    let (again, found) = write(&place, &tree, GZIP);
    assert!(found.compressed > 1 && found.reused > 0, "{found:?}");
    assert_eq!(again, layer);
    // The list: any byte, its end, another blob's.
    let mut flipped = good.clone();
    flipped[100] ^= 1;
    for damaged in [&flipped[..], &good[..good.len() - 1], &good[..RECORD], b""] {
        fs_err::write(&list, damaged).unwrap();
        let (again, found) = write(&place, &tree, GZIP);
        assert_eq!((again, found), (layer.clone(), counts));
    }
    assert!(decode(layer.blob.digest(), &good).is_some());
    assert!(decode(&layer.diff_id, &good).is_none());
    // The blob is gone.
    place.blobs.remove(layer.blob.digest()).unwrap();
    assert_eq!(write(&place, &tree, GZIP), (layer, counts));
}

#[test]
fn a_layer_finds_the_segments_of_this_process() {
    let tree = large();
    let place = Place::new();
    let segments = cache(&place);
    let options = || LayerOptions { segments: Some(Arc::clone(&segments)), ..LayerOptions::default() };
    for _ in 0..2 {
        let mut writer = LayerWriter::new(&place.blobs, options()).unwrap();
        emit(&tree, &mut writer).unwrap();
        writer.finish().unwrap();
    }
    assert_eq!(segments.counts().reused, segments.counts().compressed);
}

#[test]
fn small_layers_leave_no_list() {
    let place = Place::new();
    let (_, counts) = write(&place, &model([("f", file("small"))]), GZIP);
    assert_eq!(counts, SegmentCounts::default());
    assert!(cache(&place).lists().unwrap().is_empty());
}

#[test]
fn the_longest_unused_lists_go_first() {
    let place = Place::new();
    let cache = cache(&place);
    let digests = [b"a", b"b", b"c"].map(|name| crate::digest::sha256(name));
    let span = Span { key: [1; HASH], offset: 0, size: 1, length: 1, crc: 0, check: [2; HASH] };
    let record = Record { span, chain: [3; HASH], after: Midstate([4; MIDSTATE]) };
    for (age, digest) in digests.iter().enumerate() {
        cache.put(digest, &[record]).unwrap();
        let used = SystemTime::now() - Duration::from_secs(3600 * (1 + age as u64));
        let list = fs_err::File::options().write(true).open(cache.directory.join(digest.digest())).unwrap();
        list.file().set_modified(used).unwrap();
    }
    // The oldest is used again.
    cache.used.lock().unwrap().insert(Arc::new(digests[2].clone()));
    cache.touch_used();
    let one = (MAGIC.len() + RECORD + HASH) as u64;
    cache.trim(2 * one).unwrap();
    let mut left: Vec<_> = cache.lists().unwrap().iter().filter_map(List::blob).collect();
    left.sort_by_key(ToString::to_string);
    let mut expected = vec![digests[0].clone(), digests[2].clone()];
    expected.sort_by_key(ToString::to_string);
    assert_eq!(left, expected);
}

#[test]
fn many_writers_share_the_lists() {
    let tree = large();
    let place = Place::new();
    let expected = cold(&tree, GZIP);
    std::thread::scope(|scope| {
        let writers: Vec<_> = (0..3).map(|_| scope.spawn(|| write(&place, &tree, GZIP).0)).collect();
        for writer in writers {
            assert_eq!(writer.join().unwrap(), expected);
        }
    });
    assert_eq!(cache(&place).lists().unwrap().len(), 1);
}

#[test]
fn a_layer_in_another_compression_is_the_one_that_it_would_have_been() {
    let root = tempfile::tempdir().unwrap();
    let store = crate::Store::open(root.path(), crate::Flavour::UserXattr).unwrap();
    for tree in [crate::layer::tests::sample(), large()] {
        let made = [GZIP, ZSTD, Compression::None].map(|compression| {
            let mut writer = store.layer_writer(compression).unwrap();
            emit(&tree, &mut writer).unwrap();
            (compression, writer.finish().unwrap().0)
        });
        for (_, from) in &made {
            for (compression, to) in &made {
                assert_eq!(store.recompress(from, *compression).unwrap(), *to);
            }
        }
    }
}
