use std::os::unix::fs::MetadataExt;

use snapshot::{Flavour, SnapshotId};

use super::*;

#[test]
fn limits_are_read() {
    for (text, limit) in [
        ("0", Limit::Bytes(0)),
        ("500m", Limit::Bytes(500 << 20)),
        ("20GiB", Limit::Bytes(20 << 30)),
        ("25%", Limit::Percent(25)),
        ("100%", Limit::Percent(100)),
    ] {
        assert_eq!(text.parse(), Ok(limit), "{text}");
    }
    for text in ["", "%", "101%", "-1", "1.5%", "x", "5 apples"] {
        assert_eq!(text.parse::<Limit>(), Err(LimitError(text.into())), "{text}");
    }
    assert_eq!(Limit::default().to_string().parse(), Ok(Limit::default()));
}

fn store() -> (tempfile::TempDir, Store) {
    let root = tempfile::tempdir().unwrap();
    let store = Store::open(&root.path().join("home"), Flavour::UserXattr).unwrap();
    (root, store)
}

/// Makes the last use of something so many hours ago.
fn age(path: &Path, hours: u64) {
    let used = SystemTime::now() - Duration::from_hours(hours);
    std::fs::File::options().write(true).open(path).and_then(|file| file.set_modified(used)).unwrap();
}

/// A blob of some 100 kB that nobody has used for so many hours.
fn blob(store: &Store, number: u8, hours: u64) -> snapshot::Layer {
    let bytes = vec![number; 100_000];
    let (digest, size) = store.blobs().ingest(None, &mut &bytes[..]).unwrap();
    age(&store.blobs().path(&digest), hours);
    let blob = oci_spec::image::Descriptor::new(oci_spec::image::MediaType::ImageLayerGzip, size, digest.clone());
    snapshot::Layer { diff_id: digest, blob }
}

fn left(store: &Store, layers: &[snapshot::Layer]) -> Vec<bool> {
    layers.iter().map(|layer| fs_err::metadata(store.blobs().path(layer.blob.digest())).is_ok()).collect()
}

/// Gives an image of one layer a name, so many hours ago.
fn name(store: &Store, name: &str, layer: &snapshot::Layer, hours: u64) {
    let blob = layer.blob.clone();
    let tag = tags::Tag {
        name: name.to_owned(),
        manifest: blob.clone(),
        config: blob,
        layers: vec![layer.clone()],
        origins: std::collections::BTreeMap::new(),
        tagged: String::new(),
    };
    store.put_record("tags", &tags::key(name), &serde_json::to_vec(&tag).unwrap()).unwrap();
    age(&store.path().join("tags").join(tags::key(name)), hours);
}

/// Whole bytes that the store takes up, by the kernel.
fn on_disk(store: &Store) -> u64 {
    let mut total = 0;
    let mut open = vec![store.path().to_owned()];
    while let Some(path) = open.pop() {
        let metadata = fs_err::symlink_metadata(&path).unwrap();
        total += metadata.blocks() * 512;
        if metadata.is_dir() {
            open.extend(fs_err::read_dir(&path).unwrap().map(|entry| entry.unwrap().path()));
        }
    }
    total
}

#[test]
fn the_longest_unused_goes_first_and_only_as_much_as_must() {
    let (_root, store) = store();
    let layers: Vec<_> = (0..5).map(|number| blob(&store, number, u64::from(number))).collect();
    let limit = on_disk(&store) - 150_000;
    let pruned = prune(&store, &Policy { keep: Some(Limit::Bytes(limit)), ..Policy::default() }).unwrap();
    assert_eq!(left(&store, &layers), [true, true, true, false, false]);
    assert!(on_disk(&store) <= limit && pruned.above == 0 && pruned.freed >= 200_000, "{pruned:?}");
    let again = prune(&store, &Policy { keep: Some(Limit::Bytes(limit)), ..Policy::default() }).unwrap();
    assert_eq!(again, Pruned::default());
}

#[test]
fn what_was_used_lately_stays() {
    let (_root, store) = store();
    let layers: Vec<_> = [1, 30, 20].into_iter().zip(0..).map(|(hours, n)| blob(&store, n, hours)).collect();
    let day = Some(Duration::from_hours(24));
    prune(&store, &Policy { unused_for: day, ..Policy::default() }).unwrap();
    assert_eq!(left(&store, &layers), [true, false, true]);
}

#[test]
fn names_keep_their_images_as_long_as_their_age_lets_them() {
    let (_root, store) = store();
    let layers: Vec<_> = (0..4).map(|number| blob(&store, number, 9)).collect();
    name(&store, "older", &layers[0], 7);
    name(&store, "newer", &layers[1], 1);
    age(&store.blobs().path(layers[3].blob.digest()), 3);
    let keep = |more: u64| Policy { keep: Some(Limit::Bytes(on_disk(&store) - more)), ..Policy::default() };
    // In the order of their use: the layer of no image, the older name with its image, the other layer.
    for (expected, forgotten) in [
        ([true, true, false, true], vec![]),
        ([false, true, false, true], vec!["older"]),
        ([false, true, false, false], vec![]),
    ] {
        let pruned = prune(&store, &keep(50_000)).unwrap();
        assert_eq!(
            (left(&store, &layers), pruned.forgotten),
            (expected.to_vec(), forgotten.iter().map(|n| (*n).to_owned()).collect())
        );
    }
    assert_eq!(prune(&store, &Policy::default()).unwrap().forgotten, [""; 0]);
    assert_eq!(left(&store, &layers), [false, true, false, false]);
    let pruned = prune(&store, &Policy { all: true, ..Policy::default() }).unwrap();
    assert_eq!((left(&store, &layers), pruned.forgotten), (vec![false; 4], vec!["newer".to_owned()]));
}

#[test]
fn mounts_go_only_when_all_may_or_a_limit_says_so() {
    let all = Policy { all: true, ..Policy::default() };
    let limit = Policy { keep: Some(Limit::Bytes(0)), ..Policy::default() };
    for (policy, stays) in [(Policy::default(), true), (all, false), (limit, false)] {
        let (_root, store) = store();
        let mount = store.use_mount("m").unwrap();
        fs_err::create_dir_all(mount.join("0/fs")).unwrap();
        prune(&store, &policy).unwrap();
        assert_eq!(mount.exists(), stays, "{policy:?}");
    }
}

#[test]
fn a_step_whose_layer_and_directory_are_gone_is_no_step() {
    let (_root, store) = store();
    let layer = blob(&store, 1, 5);
    let key = layer.diff_id.digest().to_owned();
    let record = crate::solve::cache::Record {
        layer: Some(layer),
        compression: snapshot::Compression::default(),
        created: String::new(),
        name: String::new(),
    };
    let put = || store.put_record("steps", &key, &serde_json::to_vec(&record).unwrap()).unwrap();
    put();
    store.snapshots().prepare().unwrap().commit(&SnapshotId(record.layer.as_ref().unwrap().diff_id.clone())).unwrap();
    assert!(crate::verify::verify(&store).unwrap().broken.is_empty());
    store.snapshots().remove(&SnapshotId(record.layer.as_ref().unwrap().diff_id.clone())).unwrap();
    assert!(crate::verify::verify(&store).unwrap().broken.is_empty());
    let hour = Some(Duration::from_hours(1));
    prune(&store, &Policy { unused_for: hour, ..Policy::default() }).unwrap();
    assert_eq!(store.record_keys("steps").unwrap(), [""; 0]);
    // Where somebody else has removed it, it is found.
    put();
    let verified = crate::verify::verify(&store).unwrap();
    assert_eq!(verified.broken.len(), 1);
    crate::verify::repair(&store, &verified.broken).unwrap();
    assert!(crate::verify::verify(&store).unwrap().broken.is_empty());
}

#[test]
fn what_a_build_holds_is_above_the_limit() {
    let (_root, store) = store();
    let lease = store.lease("a build").unwrap();
    let (digest, _) = store.blobs().ingest(None, &mut vec![1; 100_000].as_slice()).unwrap();
    let policy = Policy { keep: Some(Limit::Bytes(50_000)), ..Policy::default() };
    let pruned = prune(&store, &policy).unwrap();
    assert!(pruned.above >= 50_000 && store.blobs().has(&digest).is_some(), "{pruned:?}");
    drop(lease);
    assert!(prune(&store, &policy).unwrap().freed >= 100_000);
}

#[test]
fn a_store_that_did_not_grow_is_not_measured() {
    let (_root, store) = store();
    assert_eq!(keep_within(&store, Limit::Bytes(0)).unwrap(), Pruned::default());
    let (digest, _) = store.blobs().ingest(None, &mut vec![1; 100_000].as_slice()).unwrap();
    assert_eq!(keep_within(&store, Limit::Percent(100)).unwrap(), Pruned::default());
    store.snapshots().prepare().unwrap().commit(&SnapshotId(digest.clone())).unwrap();
    let limit = on_disk(&store) + 50_000;
    assert_eq!(keep_within(&store, Limit::Bytes(limit)).unwrap(), Pruned::default());
    // The size of the snapshot is known by now: nothing of it is measured again.
    let sizes = store.peek_record(SIZES.0, SIZES.1).unwrap();
    assert!(String::from_utf8(sizes).unwrap().contains(digest.digest()));
    assert!(keep_within(&store, Limit::Bytes(1 << 16)).unwrap().freed >= 100_000);
    assert_eq!(store.blobs().has(&digest), None);
}
