//! What changes a content digest and what does not, with and without a memo.

use std::os::unix::fs::{PermissionsExt, symlink};
use std::thread;
use std::time::Duration;

use fs_err as fs;
use rustix::fs::{AtFlags, CWD, Timespec, Timestamps, XattrFlags};

use super::super::local::Modes;
use super::*;

/// Why a test cannot set an attribute.
const TRUSTED: &str = "only root can set trusted.* and security.* attributes: run this test as root";

/// The length of the file `d/large`: more than any buffer on the way.
pub(in super::super) const LARGE: usize = 3 * BUFFER + 1;

/// A tree that digests of all kinds of entries can be taken of.
pub(in super::super) struct Tree(pub(in super::super) tempfile::TempDir);

impl Tree {
    pub(in super::super) fn new() -> Self {
        let tree = Self(tempfile::tempdir().unwrap());
        fs::create_dir_all(tree.path("d/e")).unwrap();
        fs::write(tree.path("d/file"), "bytes").unwrap();
        fs::write(tree.path("d/e/empty"), "").unwrap();
        fs::write(tree.path("d/large"), vec![7; LARGE]).unwrap();
        symlink("file", tree.path("d/link")).unwrap();
        tree
    }

    pub(in super::super) fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn digest_with(&self, memo: &Memo, pattern: &str) -> blake3::Hash {
        digest_of(self.0.path(), pattern, memo)
    }

    fn digest(&self, pattern: &str) -> blake3::Hash {
        self.digest_with(&Memo::default(), pattern)
    }

    /// Sets the mtime to the past.
    fn touch(&self, name: &str, seconds: i64) {
        let time = Timespec { tv_sec: seconds, tv_nsec: 0 };
        let times = Timestamps { last_access: time, last_modification: time };
        rustix::fs::utimensat(CWD, self.path(name), &times, AtFlags::SYMLINK_NOFOLLOW).unwrap();
    }
}

/// The digest of what a pattern selects in a directory now.
fn digest_of(root: &Path, pattern: &str, memo: &Memo) -> blake3::Hash {
    let context = LocalContext::open(root, Ignore::default()).unwrap();
    let selected = context.select(pattern).unwrap();
    context.list(&selected, &Ignore::default(), memo).unwrap().digest()
}

#[track_caller]
fn same(pattern: &str, change: impl FnOnce(&Tree)) {
    let tree = Tree::new();
    let before = tree.digest(pattern);
    change(&tree);
    assert_eq!(tree.digest(pattern), before);
}

#[track_caller]
fn differs(pattern: &str, change: impl FnOnce(&Tree)) {
    let tree = Tree::new();
    let before = tree.digest(pattern);
    change(&tree);
    assert_ne!(tree.digest(pattern), before);
}

fn chmod(path: &Path, mode: u32) {
    fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).unwrap();
}

#[test]
fn a_touch_is_no_change() {
    same("d", |tree| {
        for name in ["d", "d/file", "d/link", "d/e"] {
            tree.touch(name, 12345);
        }
    });
}

#[test]
fn the_owner_on_the_host_is_no_change() {
    same("d", |tree| {
        let root = "only root can give files away: run this test as root";
        std::os::unix::fs::chown(tree.path("d/file"), Some(1234), Some(5678)).expect(root);
        std::os::unix::fs::lchown(tree.path("d/link"), Some(1234), Some(5678)).expect(root);
    });
}

#[test]
fn labels_and_overlay_attributes_are_no_change() {
    same("d", |tree| {
        for name in ["user.overlay.opaque", "user.rbuild.owner", "trusted.overlay.opaque"] {
            rustix::fs::setxattr(tree.path("d"), name, b"y", XattrFlags::empty()).expect(TRUSTED);
        }
    });
}

#[test]
fn links_and_files_that_are_not_selected_are_no_change() {
    same("d", |tree| {
        fs::write(tree.path("other"), "x").unwrap();
        fs::hard_link(tree.path("d/file"), tree.path("again")).unwrap();
    });
}

#[test]
fn an_equal_tree_of_another_name_has_the_same_digest() {
    let tree = Tree::new();
    let before = tree.digest("d");
    fs::rename(tree.path("d"), tree.path("moved")).unwrap();
    assert_eq!(tree.digest("moved"), before);
    assert_eq!(Tree::new().digest("d"), before);
}

#[test]
fn links_among_what_is_selected_count() {
    let copied = |tree: &Tree| fs::copy(tree.path("d/file"), tree.path("d/z")).map(drop);
    let linked = |tree: &Tree, to: &str| fs::hard_link(tree.path(to), tree.path("d/z"));
    let digest = |make: &dyn Fn(&Tree) -> io::Result<()>| {
        let tree = Tree::new();
        fs::write(tree.path("d/same"), "bytes").unwrap();
        make(&tree).unwrap();
        [tree.digest("d"), tree.digest("d/*")]
    };
    let all = [digest(&copied), digest(&|tree| linked(tree, "d/file")), digest(&|tree| linked(tree, "d/same"))];
    assert_ne!(all[0][0], all[1][0]);
    assert_ne!(all[1][0], all[2][0]);
    assert_ne!(all[0][0], all[2][0]);
    // Each match is copied for itself.
    assert!(all.iter().all(|digests| digests[1] == all[0][1]));
}

#[test]
fn a_check_out_has_no_links() {
    let tree = Tree::new();
    let digest = || {
        let context = LocalContext::open(tree.0.path(), Ignore::default()).unwrap().with_modes(Modes::Git);
        let selected = context.select("d").unwrap();
        context.list(&selected, &Ignore::default(), &Memo::default()).unwrap().digest()
    };
    fs::copy(tree.path("d/file"), tree.path("d/z")).unwrap();
    let copied = digest();
    fs::remove_file(tree.path("d/z")).unwrap();
    fs::hard_link(tree.path("d/file"), tree.path("d/z")).unwrap();
    assert_eq!(digest(), copied);
}

#[test]
fn modes_count() {
    differs("d", |tree| chmod(&tree.path("d/file"), 0o755));
    differs("d", |tree| chmod(&tree.path("d/e"), 0o700));
    differs("d", |tree| chmod(&tree.path("d"), 0o700));
    differs("d", |tree| chmod(&tree.path("d/file"), 0o4644));
    differs("d/file", |tree| chmod(&tree.path("d/file"), 0o600));
}

#[test]
fn attributes_count() {
    for name in ["user.a", "trusted.a"] {
        differs("d", |tree| {
            rustix::fs::setxattr(tree.path("d/file"), name, b"v", XattrFlags::empty()).expect(TRUSTED);
        });
    }
    let capability = [1, 0, 0, 2, 0, 4, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    differs("d", |tree| {
        let path = tree.path("d/file");
        rustix::fs::setxattr(path, "security.capability", &capability, XattrFlags::empty()).expect(TRUSTED);
    });
    let tree = Tree::new();
    let set = |value: &[u8]| rustix::fs::setxattr(tree.path("d/e"), "user.a", value, XattrFlags::empty()).unwrap();
    set(b"1");
    let before = tree.digest("d");
    set(&[b'1'; 1000]);
    assert_ne!(tree.digest("d"), before);
}

#[test]
fn names_bytes_types_and_links_count() {
    differs("d", |tree| fs::rename(tree.path("d/file"), tree.path("d/fil")).unwrap());
    differs("d", |tree| fs::write(tree.path("d/file"), "bytez").unwrap());
    differs("d", |tree| fs::write(tree.path("d/file"), "bytes\0").unwrap());
    differs("d", |tree| fs::write(tree.path("d/new"), "").unwrap());
    differs("d", |tree| fs::create_dir(tree.path("d/new")).unwrap());
    differs("d", |tree| fs::remove_file(tree.path("d/e/empty")).unwrap());
    differs("d", |tree| fs::rename(tree.path("d/e/empty"), tree.path("d/empty")).unwrap());
    differs("d", |tree| {
        fs::remove_file(tree.path("d/link")).unwrap();
        symlink("filf", tree.path("d/link")).unwrap();
    });
    differs("d", |tree| {
        fs::remove_file(tree.path("d/link")).unwrap();
        fs::write(tree.path("d/link"), "file").unwrap();
        chmod(&tree.path("d/link"), 0o777);
    });
    differs("d/*", |tree| fs::rename(tree.path("d/large"), tree.path("d/larger")).unwrap());
    differs("d/la*", |tree| fs::rename(tree.path("d/large"), tree.path("d/larger")).unwrap());
}

#[test]
fn fields_do_not_run_into_each_other() {
    let digest = |make: &dyn Fn(&Path)| {
        let scratch = tempfile::tempdir().unwrap();
        make(scratch.path());
        digest_of(scratch.path(), "*", &Memo::default())
    };
    let ab = digest(&|root| {
        symlink("bc", root.join("a")).unwrap();
        fs::write(root.join("bc"), "").unwrap();
    });
    let abc = digest(&|root| {
        symlink("abc", root.join("ab")).unwrap();
        fs::write(root.join("abc"), "").unwrap();
    });
    assert_ne!(ab, abc);
}

/// The stale hit of builders that compare size and mtime only.
#[test]
fn new_bytes_under_an_old_size_and_mtime_count() {
    let tree = Tree::new();
    tree.touch("d/file", 1000);
    let memo = Memo::default();
    let before = tree.digest_with(&memo, "d");
    thread::sleep(Duration::from_millis(2100));
    assert_eq!(tree.digest_with(&memo, "d"), before);
    assert_eq!(tree.digest_with(&memo, "d"), before);
    fs::write(tree.path("d/file"), "other").unwrap();
    tree.touch("d/file", 1000);
    assert_ne!(tree.digest_with(&memo, "d"), before);
}

#[test]
fn new_bytes_within_one_tick_of_the_clock_count() {
    let tree = Tree::new();
    let memo = Memo::default();
    for round in 0..100 {
        fs::write(tree.path("d/file"), format!("{round:05}")).unwrap();
        tree.touch("d/file", 1000);
        let digest = tree.digest_with(&memo, "d/file");
        assert_eq!(digest, tree.digest_with(&Memo::default(), "d/file"), "round {round}");
    }
}

#[test]
fn a_fresh_file_is_read_again_and_a_quiet_one_is_not() {
    let scratch = tempfile::tempdir().unwrap();
    let saved = scratch.path().join("memo");
    let tree = Tree::new();
    let memo = Memo::at(&saved);
    tree.digest_with(&memo, "d");
    memo.save(|bytes| fs::write(&saved, bytes)).unwrap();
    assert!(!saved.exists(), "everything was fresh: nothing to remember");
    thread::sleep(Duration::from_millis(2100));
    let before = tree.digest_with(&memo, "d");
    memo.save(|bytes| fs::write(&saved, bytes)).unwrap();
    assert!(saved.exists());

    // What was remembered is used: a memo with false contents gives a false digest.
    let forged = Memo::at(&saved);
    let stat = beneath::stat(CWD, tree.path("d/file").as_os_str()).unwrap();
    forged.learn(stat.identity, Content([0; 32]), SystemTime::now());
    assert_ne!(tree.digest_with(&forged, "d"), before);
}

#[test]
fn many_files_and_threads_give_one_digest() {
    let tree = tempfile::tempdir().unwrap();
    for directory in 0..100 {
        let path = tree.path().join(format!("d{directory}"));
        fs::create_dir(&path).unwrap();
        for file in 0..100 {
            fs::write(path.join(format!("f{file}")), format!("{directory} {file}")).unwrap();
        }
    }
    let digest = || digest_of(tree.path(), ".", &Memo::default());
    let first = digest();
    assert_eq!(digest(), first);
    fs::write(tree.path().join("d99/f99"), "99 9x").unwrap();
    assert_ne!(digest(), first);
}

#[test]
fn a_file_that_changed_since_it_was_seen_is_read_as_it_is_now() {
    let tree = Tree::new();
    let context = LocalContext::open(tree.0.path(), Ignore::default()).unwrap();
    let path = PathBuf::from("d/file");
    let stat = beneath::stat(CWD, tree.path("d/file").as_os_str()).unwrap();
    let directory = beneath::open_directory(context.root(), Path::new("d")).unwrap();
    let entry = beneath::entry(directory.as_fd(), OsStr::new("file"), &stat).unwrap().unwrap();
    let items = [Item { path, prefix: 2, entry, file: None, first: None }];
    fs::write(tree.path("d/file"), "more bytes").unwrap();
    chmod(&tree.path("d/file"), 0o600);
    let read = || read_all(&context, &Memo::default(), &items, &[(0, stat.identity)]);
    let (index, found) = read().unwrap().remove(0);
    let (entry, file) = found.unwrap();
    assert_eq!((index, entry.kind, entry.metadata.mode), (0, Kind::File { size: 10 }, 0o600));
    assert_eq!(file.content.0, *blake3::hash(b"more bytes").as_bytes());
    fs::remove_file(tree.path("d/file")).unwrap();
    assert_eq!(read().unwrap(), [(0, None)]);
    symlink("large", tree.path("d/file")).unwrap();
    assert!(matches!(read(), Err(ContextError::Changed { .. })));
}

/// What a key was made of and what is copied are one look at the context.
#[test]
fn what_was_listed_stays_what_it_was() {
    let tree = Tree::new();
    let context = LocalContext::open(tree.0.path(), Ignore::default()).unwrap();
    let selected = context.select("d").unwrap();
    let list = || context.list(&selected, &Ignore::default(), &Memo::default()).unwrap();
    let first = list();
    fs::write(tree.path("d/new"), "later").unwrap();
    assert_eq!(list().digest(), first.digest());
    assert!(list().entries(0).all(|listed| listed.path() != Path::new("new")));
    assert_ne!(tree.digest("d"), first.digest());
}

#[test]
fn what_is_too_long_to_keep_must_be_the_same_again() {
    let tree = Tree::new();
    let context = LocalContext::open(tree.0.path(), Ignore::default()).unwrap();
    let selected = context.select("d").unwrap();
    let list = || context.list(&selected, &Ignore::default(), &Memo::default());
    let first = list().unwrap();
    context.forget();
    assert_eq!(list().unwrap().digest(), first.digest());
    fs::write(tree.path("d/new"), "later").unwrap();
    assert!(matches!(list(), Err(ContextError::ChangedSince)));
}

#[test]
fn exclusions_are_in_no_listing() {
    let tree = Tree::new();
    let context = LocalContext::open(tree.0.path(), Ignore::default()).unwrap();
    let selected = context.select("d").unwrap();
    let exclude = Ignore::parse("e\nlarge").unwrap();
    let listing = context.list(&selected, &exclude, &Memo::default()).unwrap();
    assert_ne!(listing.digest(), tree.digest("d"));
    let names: Vec<_> = listing.entries(0).map(|listed| listed.path().display().to_string()).collect();
    assert_eq!(names, ["", "file", "link"]);
}

#[test]
fn a_match_that_is_gone_is_an_error() {
    let tree = Tree::new();
    let context = LocalContext::open(tree.0.path(), Ignore::default()).unwrap();
    let mut selected = context.select("d/file").unwrap();
    selected[0].path = "gone".into();
    let listed = context.list(&selected, &Ignore::default(), &Memo::default());
    assert!(matches!(listed, Err(ContextError::Missing { .. })));
}
