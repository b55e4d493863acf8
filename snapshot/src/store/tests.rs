use std::os::unix::fs::{PermissionsExt, symlink};

use super::*;
use crate::digest::sha256;
use crate::{ChangeSink, IndexWriter, SnapshotId, chain_id};

fn store() -> (tempfile::TempDir, Store) {
    let root = tempfile::tempdir().unwrap();
    let store = Store::open(&root.path().join("home/rbuild"), Flavour::UserXattr).unwrap();
    (root, store)
}

fn reopen(store: &Store) -> Store {
    Store::open(store.path().parent().unwrap(), Flavour::UserXattr).unwrap()
}

fn snapshots(store: &Store) -> PathBuf {
    store.path().join("snapshots-userxattr")
}

fn names(folder: PathBuf) -> usize {
    fs_err::read_dir(folder).unwrap().count()
}

/// A snapshot with one file.
fn snapshot(store: &Store, name: &[u8], content: &str) -> SnapshotId {
    let id = SnapshotId(sha256(name));
    let active = store.snapshots().prepare().unwrap();
    fs_err::write(active.upper().join("f"), content).unwrap();
    active.commit(&id).unwrap();
    id
}

#[test]
fn a_store_is_closed_to_others() {
    let (_root, store) = store();
    let mode = |path: &str| fs_err::metadata(store.path().join(path)).unwrap().permissions().mode() & 0o7777;
    for directory in
        ["", "blobs", "blobs/sha256", "snapshots-userxattr", "indexes", "cache", "tags", "tmp", "leases", "segments"]
    {
        assert_eq!(mode(directory), 0o700, "{directory}");
    }
    store.put_record("tags", "a", b"x").unwrap();
    let (digest, _) = store.blobs().ingest(None, &mut &b"x"[..]).unwrap();
    assert_eq!(mode("tags/a"), 0o600);
    assert_eq!(fs_err::metadata(store.blobs().path(&digest)).unwrap().permissions().mode() & 0o7777, 0o600);
    // One that others could read is closed again; one that they could write cannot be trusted.
    fs_err::set_permissions(store.path(), PermissionsExt::from_mode(0o2755)).unwrap();
    reopen(&store);
    assert_eq!(mode(""), 0o700);
    assert_eq!(mode(".."), 0o700);
    for writable in [0o770, 0o702] {
        fs_err::set_permissions(store.path(), PermissionsExt::from_mode(writable)).unwrap();
        let refused = Store::open(store.path().parent().unwrap(), Flavour::UserXattr);
        assert!(matches!(refused, Err(Error::OpenStore { mode, .. }) if mode == writable), "{refused:?}");
    }
}

#[test]
fn a_foreign_or_faked_store_is_refused() {
    let root = tempfile::tempdir().unwrap();
    let elsewhere = tempfile::tempdir().unwrap();
    symlink(elsewhere.path(), root.path().join(VERSION)).unwrap();
    assert!(Store::open(root.path(), Flavour::UserXattr).is_err());
    assert_eq!(fs_err::read_dir(elsewhere.path()).unwrap().count(), 0);
    let (_root, store) = store();
    if crate::testing::can_give_away() {
        std::os::unix::fs::chown(store.path(), Some(1), Some(1)).unwrap();
        let refused = Store::open(store.path().parent().unwrap(), Flavour::UserXattr);
        assert!(matches!(refused, Err(Error::ForeignStore { owner: 1, user: 0, .. })));
    } else {
        // Whose root directory it is depends, but it is never that of a user who cannot give files away.
        assert!(matches!(claim(Path::new("/")), Err(Error::ForeignStore { .. })));
    }
}

#[test]
fn records_come_back_or_not_at_all() {
    let (_root, store) = store();
    assert_eq!(store.get_record("run", "sha256:abc"), None);
    for key in ["sha256:abc", "localhost:5000/app:latest", "..", ".hidden", "%", "ümläut", "a b\n"] {
        store.put_record("run", key, key.as_bytes()).unwrap();
        store.put_record("tags", key, b"").unwrap();
        assert_eq!(store.get_record("run", key).unwrap(), key.as_bytes());
        assert_eq!(store.get_record("tags", key).unwrap(), b"");
        assert!(store.record_keys("run").unwrap().contains(&key.to_owned()));
    }
    store.put_record("run", "sha256:abc", b"new").unwrap();
    assert_eq!(store.get_record("run", "sha256:abc").unwrap(), b"new");
    let path = store.record_path("run", "sha256:abc").unwrap();
    let whole = fs_err::read(&path).unwrap();
    for damaged in [&whole[..whole.len() - 1], &whole[1..], b"", &[&whole[..], b"x"].concat()] {
        fs_err::write(&path, damaged).unwrap();
        assert_eq!(store.get_record("run", "sha256:abc"), None);
    }
    store.remove_record("run", "sha256:abc").unwrap();
    store.remove_record("run", "sha256:abc").unwrap();
    assert!(!store.record_keys("run").unwrap().contains(&"sha256:abc".to_owned()));
    assert_eq!(store.record_keys("none").unwrap(), [""; 0]);
    for (kind, key) in [("../x", "a"), ("", "a"), ("a/b", "a"), (".", "a"), ("run", ""), ("run", &"x".repeat(256))] {
        assert!(matches!(store.put_record(kind, key, b""), Err(Error::RecordName { .. })), "{kind} {key}");
        assert_eq!(store.get_record(kind, key), None);
    }
}

#[test]
fn a_damaged_index_counts_as_absent() {
    let (_root, store) = store();
    let diff_id = sha256(b"layer");
    assert!(store.index(&diff_id).is_none());
    let mut writer = IndexWriter::default();
    writer.whiteout(Path::new("a")).unwrap();
    let index = writer.finish();
    store.put_index(&diff_id, &index).unwrap();
    assert_eq!(*store.index(&diff_id).unwrap(), index);
    fs_err::write(store.index_path(&diff_id).unwrap(), &index.encode()[1..]).unwrap();
    assert!(store.index(&diff_id).is_none());
}

#[test]
fn what_dead_processes_left_is_removed() {
    let (_root, store) = store();
    let active = store.snapshots().prepare().unwrap();
    let blob = store.blobs().writer().unwrap();
    fs_err::write(store.path().join("tmp/dead"), "x").unwrap();
    fs_err::create_dir_all(snapshots(&store).join("tmp/dead/fs/x")).unwrap();
    Store::open(store.path().parent().unwrap(), Flavour::UserXattr).unwrap();
    assert!(active.upper().is_dir() && active.work().is_dir());
    assert_eq!(fs_err::read_dir(store.path().join("tmp")).unwrap().count(), 1);
    assert_eq!(fs_err::read_dir(snapshots(&store).join("tmp")).unwrap().count(), 1);
    drop(blob);
    drop(active);
    assert_eq!(fs_err::read_dir(store.path().join("tmp")).unwrap().count(), 0);
    assert_eq!(fs_err::read_dir(snapshots(&store).join("tmp")).unwrap().count(), 0);
}

#[test]
fn snapshots_are_committed_once() {
    let (_root, store) = store();
    let id = SnapshotId(sha256(b"id"));
    assert_eq!(store.snapshots().get(&id), None);
    for content in ["first", "second"] {
        let active = store.snapshots().prepare().unwrap();
        fs_err::write(active.upper().join("f"), content).unwrap();
        let snapshot = active.commit(&id).unwrap();
        assert_eq!(fs_err::read_to_string(snapshot.dir.join("f")).unwrap(), "first");
        assert_eq!(store.snapshots().get(&id).unwrap(), snapshot);
    }
    assert_eq!(store.snapshots().list().unwrap(), std::slice::from_ref(&id));
    store.snapshots().remove(&id).unwrap();
    store.snapshots().remove(&id).unwrap();
    assert_eq!(store.snapshots().get(&id), None);
}

#[test]
fn a_crash_takes_what_was_not_synced() {
    let (_root, store) = store();
    let ids = [b"a", b"b"].map(|name| SnapshotId(sha256(name)));
    store.snapshots().prepare().unwrap().commit(&ids[0]).unwrap();
    store.snapshots().sync().unwrap();
    store.snapshots().prepare().unwrap().commit(&ids[1]).unwrap();
    for boot in ["another boot", ""] {
        let mark = snapshots(&store).join(ids[1].0.digest()).join("unsynced");
        assert!(reopen(&store).snapshots().get(&ids[1]).is_some());
        fs_err::write(mark, boot).unwrap();
        assert!(reopen(&store).snapshots().get(&ids[1]).is_none());
        assert!(reopen(&store).snapshots().get(&ids[0]).is_some());
        store.snapshots().prepare().unwrap().commit(&ids[1]).unwrap();
    }
}

/// What `du` says: the kernel's count of the blocks below a directory.
fn disk_usage(path: &Path) -> u64 {
    let output = std::process::Command::new("du").args(["-s", "-B1"]).arg(path).output().unwrap();
    String::from_utf8(output.stdout).unwrap().split_whitespace().next().unwrap().parse().unwrap()
}

#[test]
fn the_inventory_is_all_that_is_on_the_disk() {
    let (_root, store) = store();
    let (digest, _) = store.blobs().ingest(None, &mut vec![1; 100_000].as_slice()).unwrap();
    store.put_index(&digest, &LayerIndex::default()).unwrap();
    store.put_record("steps", "a b", b"x").unwrap();
    store.put_record("tags", "t", b"x").unwrap();
    snapshot(&store, b"a", &"x".repeat(50_000));
    fs_err::create_dir_all(store.use_mount("m").unwrap().join("0/fs")).unwrap();
    fs_err::hard_link(store.blobs().path(&digest), store.mounts().join("m/0/fs/one")).unwrap();
    fs_err::hard_link(store.blobs().path(&digest), store.mounts().join("m/0/fs/two")).unwrap();
    fs_err::write(store.path().join("context-digests"), "x").unwrap();
    fs_err::create_dir(store.path().join("bundles")).unwrap();
    fs_err::write(store.path().join("bundles/b"), "x").unwrap();
    fs_err::remove_file(store.blobs().path(&digest)).unwrap();
    let inventory = store.inventory(&KnownSizes::new()).unwrap();
    assert_eq!(inventory.total(), disk_usage(store.path()));
    let mut found: Vec<_> = inventory.objects.iter().map(|o| (o.kind, o.name.as_str())).collect();
    found.sort_unstable();
    let hex = sha256(b"a");
    let expected = [
        (ObjectKind::Bundle, "b"),
        (ObjectKind::Snapshot, hex.digest()),
        (ObjectKind::Record, "steps/a b"),
        (ObjectKind::Index, digest.digest()),
        (ObjectKind::ContextDigests, "context-digests"),
        (ObjectKind::Mount, "m"),
        (ObjectKind::Tag, "t"),
    ];
    assert_eq!(found, expected);
    let snapshot = inventory.objects.iter().find(|object| object.kind == ObjectKind::Snapshot).unwrap();
    let known = KnownSizes::from([(snapshot.path.clone(), 7)]);
    let cheap = store.inventory(&known).unwrap();
    assert_eq!(cheap.total(), inventory.total() - snapshot.bytes + 7);
}

#[test]
fn trees_of_any_depth_are_measured() {
    let (_root, store) = store();
    let active = store.snapshots().prepare().unwrap();
    let before = disk_usage(store.path());
    let mut at = rustix::fs::open(active.upper(), OFlags::PATH | OFlags::DIRECTORY, Mode::empty()).unwrap();
    for _ in 0..3000 {
        rustix::fs::mkdirat(&at, "deeper", Mode::RWXU).unwrap();
        at = rustix::fs::openat(&at, "deeper", OFlags::PATH | OFlags::DIRECTORY, Mode::empty()).unwrap();
    }
    let inventory = store.inventory(&KnownSizes::new()).unwrap();
    assert!(inventory.total() >= before && inventory.other == inventory.total());
    active.commit(&SnapshotId(sha256(b"deep"))).unwrap();
    let intact = reopen(&store);
    assert!(intact.snapshots().get(&SnapshotId(sha256(b"deep"))).is_some());
}

/// Objects that may go, by what was done with them.
fn removable(store: &Store) -> Vec<ObjectKind> {
    let inventory = store.inventory(&KnownSizes::new()).unwrap();
    let all: Vec<&Object> = inventory.objects.iter().collect();
    let mut kinds: Vec<_> = store.remove(&all).unwrap().iter().map(|object| object.kind).collect();
    kinds.sort_unstable();
    kinds
}

#[test]
fn what_a_lease_holds_stays() {
    let (_root, store) = store();
    let (digest, size) = store.blobs().ingest(None, &mut &b"blob"[..]).unwrap();
    let id = snapshot(&store, b"a", "x");
    store.put_index(&digest, &LayerIndex::default()).unwrap();
    store.put_record("steps", "a", b"x").unwrap();
    store.put_record("tags", "a", b"x").unwrap();
    store.use_mount("m").unwrap();
    std::thread::sleep(std::time::Duration::from_millis(20));
    let builder = reopen(&store);
    let lease = builder.lease("a build").unwrap();
    // What is found or made under a lease is held; the index and the tag are not.
    assert_eq!(builder.blobs().has(&digest), Some(size));
    assert!(builder.snapshots().get(&id).is_some());
    assert!(builder.get_record("steps", "a").is_some() && builder.peek_record("tags", "a").is_some());
    builder.use_mount("m").unwrap();
    let (new, _) = builder.blobs().ingest(None, &mut &b"new"[..]).unwrap();
    assert_eq!(removable(&store), [ObjectKind::Index, ObjectKind::Tag]);
    // The lease of a dead process holds nothing.
    fs_err::write(store.path().join("leases/dead"), "").unwrap();
    std::fs::File::options()
        .write(true)
        .open(store.path().join("leases/dead"))
        .and_then(|file| file.set_modified(std::time::UNIX_EPOCH))
        .unwrap();
    drop(lease);
    assert_eq!(removable(&store).len(), 5);
    assert_eq!(names(store.path().join("leases")), 0);
    assert_eq!((builder.blobs().has(&digest), builder.blobs().has(&new)), (None, None));
    assert!(builder.snapshots().get(&id).is_none() && builder.get_record("steps", "a").is_none());
    assert_eq!(names(store.path().join("tmp")), 0);
}

/// Threads that find things, and rely on them, while another removes all that is not held.
#[test]
fn what_was_found_is_there() {
    let (_root, store) = store();
    let done = std::sync::atomic::AtomicBool::new(false);
    std::thread::scope(|scope| {
        let finders: Vec<_> = (0..4u8)
            .map(|number| {
                let store = reopen(&store);
                scope.spawn(move || {
                    for round in 0..60u32 {
                        let _lease = store.lease("a finder").unwrap();
                        let bytes = [number % 2, u8::try_from(round % 5).unwrap()];
                        let digest = sha256(&bytes);
                        if store.blobs().has(&digest).is_none() {
                            store.blobs().ingest(None, &mut &bytes[..]).unwrap();
                        }
                        std::thread::yield_now();
                        assert_eq!(store.blobs().read(&digest, 2).unwrap(), bytes);
                    }
                })
            })
            .collect();
        let remover = scope.spawn(|| {
            let mut removed = 0;
            while !done.load(std::sync::atomic::Ordering::Relaxed) {
                removed += removable(&store).len();
            }
            removed
        });
        let outcomes: Vec<_> = finders.into_iter().map(std::thread::ScopedJoinHandle::join).collect();
        done.store(true, std::sync::atomic::Ordering::Relaxed);
        assert!(remover.join().unwrap() > 0);
        assert!(outcomes.iter().all(Result::is_ok));
    });
}

/// A change of a snapshot's directory.
type Change = fn(&Path);

#[test]
fn a_snapshot_that_was_changed_is_none() {
    let cases: [(&str, Change); 8] = [
        ("other bytes", |place| fs_err::write(place.join("fs/f"), "y").unwrap()),
        ("other bytes and the old time", |place| {
            let time = fs_err::metadata(place.join("fs/f")).unwrap().modified().unwrap();
            fs_err::write(place.join("fs/f"), "y").unwrap();
            std::fs::File::options().write(true).open(place.join("fs/f")).unwrap().set_modified(time).unwrap();
        }),
        ("a mode", |place| fs_err::set_permissions(place.join("fs/f"), PermissionsExt::from_mode(0o777)).unwrap()),
        ("a file less", |place| fs_err::remove_file(place.join("fs/f")).unwrap()),
        ("a file more", |place| fs_err::write(place.join("fs/g"), "").unwrap()),
        ("no tree", |place| fs_err::remove_dir_all(place.join("fs")).unwrap()),
        ("no seal", |place| fs_err::remove_file(place.join("sealed")).unwrap()),
        ("another boot", |place| fs_err::write(place.join("unsynced"), "y").unwrap()),
    ];
    for (name, change) in cases {
        let (_root, store) = store();
        let id = snapshot(&store, b"a", "x");
        // The clock of file systems ticks.
        std::thread::sleep(std::time::Duration::from_millis(20));
        assert!(reopen(&store).snapshots().get(&id).is_some(), "{name}");
        let place = snapshots(&store).join(id.0.digest());
        change(&place);
        assert!(reopen(&store).snapshots().get(&id).is_none(), "{name}");
        assert!(!place.exists(), "{name}");
        // Nor is it in the way of the next one.
        snapshot(&store, b"b", "x");
        std::thread::sleep(std::time::Duration::from_millis(20));
        change(&snapshots(&store).join(sha256(b"b").digest()));
        let again = reopen(&store);
        let id = snapshot(&again, b"b", "new");
        let tree = again.snapshots().get(&id).unwrap().dir;
        assert_eq!(fs_err::read_to_string(tree.join("f")).unwrap(), "new", "{name}");
    }
}

#[test]
fn verifying_finds_every_damaged_object() {
    let (_root, store) = store();
    let tree =
        crate::testing::model([("d", crate::testing::directory(0o755)), ("d/f", crate::testing::file("content"))]);
    let mut writer = store.layer_writer(Compression::default()).unwrap();
    crate::testing::emit(&tree, &mut writer).unwrap();
    let (layer, index) = writer.finish().unwrap();
    store.put_index(&layer.diff_id, &index).unwrap();
    let blob = store.blobs().open(layer.blob.digest()).unwrap();
    let mut tar = layer::decompress(blob, 1 << 20).unwrap();
    let unpacked = crate::unpack(&mut tar, store.snapshots().prepare().unwrap(), Flavour::UserXattr).unwrap();
    unpacked.settle(&crate::View::default(), &[], &chain_id(None, &layer.diff_id)).unwrap();
    store.put_record("steps", "a", b"x").unwrap();
    store.put_record("tags", "a", b"x").unwrap();
    let broken = || -> Vec<(ObjectKind, String)> {
        let objects = store.inventory(&KnownSizes::new()).unwrap().objects;
        let expectations = store.expectations(&objects);
        let failed = |object: &Object| Some((object.kind, store.verify(object, &expectations).err()?.to_string()));
        objects.iter().filter_map(failed).collect()
    };
    assert_eq!(broken(), []);
    for object in store.inventory(&KnownSizes::new()).unwrap().objects {
        let file = if object.kind == ObjectKind::Snapshot { object.path.join("fs/d/f") } else { object.path.clone() };
        let whole = fs_err::read(&file).unwrap();
        let time = fs_err::metadata(&file).unwrap().modified().unwrap();
        let mut flipped = whole.clone();
        flipped[0] ^= 1;
        for bytes in [flipped, whole[..whole.len() - 1].to_vec(), Vec::new()] {
            fs_err::write(&file, &bytes).unwrap();
            // As if the disk itself had done it: no time tells.
            if object.kind == ObjectKind::Snapshot {
                std::fs::File::options().write(true).open(&file).unwrap().set_modified(time).unwrap();
                std::thread::sleep(std::time::Duration::from_millis(20));
                fs_err::remove_file(object.path.join("sealed")).unwrap();
                seal::seal(&object.path).unwrap();
            }
            let found = broken();
            assert_eq!(found.iter().map(|(kind, _)| *kind).collect::<Vec<_>>(), [object.kind], "{found:?}");
            assert!(found[0].1.contains(&object.name) || object.kind == ObjectKind::Blob, "{found:?}");
        }
        fs_err::write(&file, &whole).unwrap();
        if object.kind == ObjectKind::Snapshot {
            store.remove_broken(&[&object]).unwrap();
        }
        assert_eq!(broken(), []);
    }
}

#[test]
fn chain_ids_are_those_of_the_specification() {
    let [a, b] = [b"a", b"b"].map(|name| sha256(name));
    let first = chain_id(None, &a);
    assert_eq!(first.0, a);
    assert_eq!(chain_id(Some(&first), &b).0, sha256(format!("{a} {b}").as_bytes()));
}
