//! What a listed file gives, and what it does when the file changes.

use std::path::{Path, PathBuf};

use fs_err as fs;
use snapshot::{Content, Kind};

use super::super::listing::tests::{LARGE, Tree};
use super::super::local::LocalContext;
use super::super::memo::Memo;
use super::super::{Ignore, Selected};
use super::*;

impl Tree {
    fn list(&self, patterns: &[&str], memo: &Memo) -> Arc<Listing> {
        let context = LocalContext::open(self.0.path(), Ignore::default()).unwrap();
        let selected: Vec<Selected> = patterns.iter().flat_map(|pattern| context.select(pattern).unwrap()).collect();
        context.list(&selected, &Ignore::default(), memo).unwrap()
    }

    /// The bytes of `d/large`, listed now.
    fn large(&self) -> FileBytes {
        self.list(&["d/large"], &Memo::default()).entries(0).next().unwrap().content().unwrap().0
    }
}

fn drain(bytes: &mut FileBytes) -> io::Result<u64> {
    io::copy(bytes, &mut io::sink())
}

#[test]
fn a_listing_gives_the_bytes_of_each_match() {
    let tree = Tree::new();
    let listing = tree.list(&["d/l*", "d/e"], &Memo::default());
    let mut seen = Vec::new();
    for listed in (0..3).flat_map(|number| listing.entries(number)) {
        let mut bytes = Vec::new();
        if let Some((mut reader, content)) = listed.content() {
            reader.read_to_end(&mut bytes).unwrap();
            assert_eq!(listed.entry().kind, Kind::File { size: bytes.len() as u64 });
            assert_eq!(content.0, *blake3::hash(&bytes).as_bytes());
        }
        seen.push((listed.path().to_owned(), bytes.len()));
    }
    let expected = [("", LARGE), ("", 5), ("", 0), ("empty", 0)];
    assert_eq!(seen, expected.map(|(path, length)| (PathBuf::from(path), length)));
}

#[test]
fn nothing_is_opened_before_it_is_read() {
    let tree = Tree::new();
    let mut bytes = tree.large();
    let descriptors = || {
        fs::read_dir("/proc/self/fd")
            .unwrap()
            .filter_map(|entry| {
                fs::read_link(entry.unwrap().path()).ok().filter(|target| target == &tree.path("d/large"))
            })
            .count()
    };
    assert_eq!(descriptors(), 0);
    bytes.read_exact(&mut [0; 10]).unwrap();
    assert_eq!(descriptors(), 1);
}

/// Whoever is told a digest is given these bytes or an error, whatever happens to the file.
#[test]
fn a_file_that_changes_is_an_error_that_names_it() {
    let append = |path: &Path| {
        let mut file = fs::OpenOptions::new().append(true).open(path).unwrap();
        io::Write::write_all(&mut file, b"more").unwrap();
    };
    let exchange = |path: &Path| {
        fs::remove_file(path).unwrap();
        std::os::unix::fs::symlink("file", path).unwrap();
    };
    let shrink = |path: &Path| fs::write(path, "short").unwrap();
    let remove = |path: &Path| fs::remove_file(path).unwrap();
    let changes: [&dyn Fn(&Path); 4] = [&append, &exchange, &shrink, &remove];
    for change in changes {
        let tree = Tree::new();
        let mut bytes = tree.large();
        change(&tree.path("d/large"));
        let error = drain(&mut bytes).unwrap_err().downcast::<ContextError>().unwrap();
        assert_eq!(error.to_string(), "`d/large` in the build context changed while it was read");
    }
    // Between its bytes, too.
    for change in [&append as &dyn Fn(&Path), &shrink] {
        let tree = Tree::new();
        let mut bytes = tree.large();
        bytes.read_exact(&mut [0; 10]).unwrap();
        change(&tree.path("d/large"));
        assert!(matches!(drain(&mut bytes).unwrap_err().downcast(), Ok(ContextError::Changed { .. })));
    }
}

/// A file that was written a moment ago can change without a change of its stat.
#[test]
fn bytes_that_no_stat_vouches_for_are_digested_again() {
    let tree = Tree::new();
    for round in 0..200_u8 {
        let mut bytes = tree.large();
        fs::write(tree.path("d/large"), vec![round; LARGE]).unwrap();
        let read = drain(&mut bytes).map_err(|error| error.downcast::<ContextError>().unwrap());
        assert!(matches!(read, Err(ContextError::Changed { .. })) || round == 7, "round {round}");
        fs::write(tree.path("d/large"), vec![7; LARGE]).unwrap();
    }
}

/// Bytes whose digest is known are not digested again, so the file must not change while they are read.
#[test]
fn a_known_file_that_is_written_meanwhile_is_an_error() {
    let tree = Tree::new();
    let file = fs::File::options().write(true).open(tree.path("d/large")).unwrap();
    let memo = Memo::default();
    // The memo believes a file that has not been written for a while.
    let after_a_while = std::time::SystemTime::now() + std::time::Duration::from_mins(1);
    let identity = beneath::stat_open(file.as_fd()).unwrap().identity;
    let known = Content(*blake3::hash(&fs::read(tree.path("d/large")).unwrap()).as_bytes());
    memo.learn(identity, known, after_a_while);
    let large = || tree.list(&["d/large"], &memo).entries(0).next().unwrap().content().unwrap();
    let (mut bytes, content) = large();
    assert_eq!((drain(&mut bytes).unwrap(), content), (LARGE as u64, known));
    let (mut bytes, _) = large();
    file.file().set_modified(std::time::UNIX_EPOCH).unwrap();
    assert!(matches!(drain(&mut bytes).unwrap_err().downcast(), Ok(ContextError::Changed { .. })));
}
