use std::os::unix::fs::{PermissionsExt, symlink};

use super::*;
use crate::digest::sha256;
use crate::{ChangeSink, IndexWriter, chain_id};

fn store() -> (tempfile::TempDir, Store) {
    let root = tempfile::tempdir().unwrap();
    let store = Store::open(&root.path().join("home/rbuild"), Flavour::UserXattr).unwrap();
    (root, store)
}

#[test]
fn a_store_is_closed_to_others() {
    let (_root, store) = store();
    let mode = |path: &str| fs_err::metadata(store.path().join(path)).unwrap().permissions().mode() & 0o7777;
    for directory in ["", "blobs", "blobs/sha256", "snapshots-userxattr", "indexes", "cache", "tags", "tmp", "leases"] {
        assert_eq!(mode(directory), 0o700, "{directory}");
    }
    store.put_record("tags", "a", b"x").unwrap();
    let (digest, _) = store.blobs().ingest(None, &mut &b"x"[..]).unwrap();
    assert_eq!(mode("tags/a"), 0o600);
    assert_eq!(fs_err::metadata(store.blobs().path(&digest)).unwrap().permissions().mode() & 0o7777, 0o600);
    // One that was opened up is closed again.
    fs_err::set_permissions(store.path(), PermissionsExt::from_mode(0o2777)).unwrap();
    Store::open(store.path().parent().unwrap(), Flavour::UserXattr).unwrap();
    assert_eq!(mode(""), 0o700);
    assert_eq!(mode(".."), 0o700);
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
    fs_err::create_dir_all(store.snapshots().directory().join("tmp/dead/fs/x")).unwrap();
    Store::open(store.path().parent().unwrap(), Flavour::UserXattr).unwrap();
    assert!(active.upper().is_dir() && active.work().is_dir());
    assert_eq!(fs_err::read_dir(store.path().join("tmp")).unwrap().count(), 1);
    assert_eq!(fs_err::read_dir(store.snapshots().directory().join("tmp")).unwrap().count(), 1);
    drop(blob);
    drop(active);
    assert_eq!(fs_err::read_dir(store.path().join("tmp")).unwrap().count(), 0);
    assert_eq!(fs_err::read_dir(store.snapshots().directory().join("tmp")).unwrap().count(), 0);
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
        let mark = store.snapshots().directory().join(ids[1].0.digest()).join("unsynced");
        assert!(store.snapshots().get(&ids[1]).is_some());
        fs_err::write(mark, boot).unwrap();
        assert!(store.snapshots().get(&ids[1]).is_none());
        assert!(store.snapshots().get(&ids[0]).is_some());
        store.snapshots().prepare().unwrap().commit(&ids[1]).unwrap();
    }
}

#[test]
fn only_the_unreferenced_is_removed() {
    let (_root, store) = store();
    let mut keep = Referenced::default();
    for (name, kept) in [(&b"kept"[..], true), (b"gone", false)] {
        let (digest, _) = store.blobs().ingest(None, &mut &*name).unwrap();
        let id = chain_id(Some(&SnapshotId(digest.clone())), &digest);
        let active = store.snapshots().prepare().unwrap();
        fs_err::write(active.upper().join("f"), vec![1; 100_000]).unwrap();
        active.commit(&id).unwrap();
        store.put_index(&digest, &LayerIndex::default()).unwrap();
        if kept {
            keep.blobs.insert(digest.clone());
            keep.snapshots.insert(id);
            keep.indexes.insert(digest);
        }
    }
    let before = store.usage().unwrap();
    let other = Store::open(store.path().parent().unwrap(), Flavour::UserXattr).unwrap();
    assert!(matches!(store.remove_unreferenced(&keep), Err(Error::Busy { .. })));
    drop(other);
    assert!(store.remove_unreferenced(&keep).unwrap() >= 100_000);
    assert_eq!(store.remove_unreferenced(&keep).unwrap(), 0);
    let after = store.usage().unwrap();
    assert!(after.snapshots + 100_000 <= before.snapshots && after.records < before.records);
    assert_eq!(store.blobs().list().unwrap().len(), 1);
    assert_eq!(store.snapshots().list().unwrap().len(), 1);
}

#[test]
fn chain_ids_are_those_of_the_specification() {
    let [a, b] = [b"a", b"b"].map(|name| sha256(name));
    let first = chain_id(None, &a);
    assert_eq!(first.0, a);
    assert_eq!(chain_id(Some(&first), &b).0, sha256(format!("{a} {b}").as_bytes()));
}
