//! What a copy hands out, and what it does when files change under it.

use std::os::unix::fs::symlink;
use std::path::PathBuf;

use fs_err as fs;

use super::super::memo::Memo;
use super::*;

/// The length of the file `d/large`: more than any buffer on the way.
const LARGE: usize = 400_000;

struct Tree(tempfile::TempDir);

impl Tree {
    fn new() -> Self {
        let tree = Self(tempfile::tempdir().unwrap());
        fs::create_dir_all(tree.path("d/e")).unwrap();
        fs::write(tree.path("d/file"), "bytes").unwrap();
        fs::write(tree.path("d/e/empty"), "").unwrap();
        fs::write(tree.path("d/large"), vec![7; LARGE]).unwrap();
        symlink("file", tree.path("d/link")).unwrap();
        tree
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn context(&self) -> LocalContext {
        LocalContext::open(self.0.path(), Ignore::default()).unwrap()
    }
}

#[test]
fn exclusions_change_the_digest_as_they_change_the_copy() {
    let tree = Tree::new();
    let context = tree.context();
    let selected = context.select("d").unwrap();
    let exclude = Ignore::parse("e\nlarge").unwrap();
    let digest = context.digest(&selected, &exclude, &Memo::default()).unwrap();
    assert_ne!(digest, context.digest(&selected, &Ignore::default(), &Memo::default()).unwrap());
    let mut names = Vec::new();
    let copied: Result<_, ContextError> = context.copy(&selected, &exclude, &Memo::default(), &mut |path, _, _, _| {
        names.push(path.display().to_string());
        Ok(())
    });
    assert_eq!(copied.unwrap(), digest);
    assert_eq!(names, ["", "file", "link"]);
}

#[test]
fn a_copy_hands_out_the_bytes_of_each_match() {
    let tree = Tree::new();
    let context = tree.context();
    let mut selected = context.select("d/l*").unwrap();
    selected.extend(context.select("d/e").unwrap());
    let mut seen = Vec::new();
    let copied: Result<_, ContextError> =
        context.copy(&selected, &Ignore::default(), &Memo::default(), &mut |path, _, entry, content| {
            let mut bytes = Vec::new();
            content.reader.read_to_end(&mut bytes).unwrap();
            if let Kind::File { size } = entry.kind {
                assert_eq!(size, bytes.len() as u64);
            }
            seen.push((path.to_owned(), bytes.len()));
            Ok(())
        });
    copied.unwrap();
    let expected = [("", LARGE), ("", 5), ("", 0), ("empty", 0)];
    assert_eq!(seen, expected.map(|(path, length)| (PathBuf::from(path), length)));
}

#[test]
fn a_visitor_s_error_ends_the_copy() {
    #[derive(Debug)]
    enum Error {
        Context(ContextError),
        Visitor,
    }
    impl From<ContextError> for Error {
        fn from(error: ContextError) -> Self {
            Self::Context(error)
        }
    }
    let tree = Tree::new();
    let context = tree.context();
    let mut selected = context.select("d/file").unwrap();
    let mut fail = |_: &Path, _: Option<&Path>, _: &Entry, _: Bytes<'_>| Err(Error::Visitor);
    let copied = context.copy(&selected, &Ignore::default(), &Memo::default(), &mut fail);
    assert!(matches!(copied, Err(Error::Visitor)));
    selected[0].path = "gone".into();
    let copied = context.copy(&selected, &Ignore::default(), &Memo::default(), &mut fail);
    assert!(matches!(copied, Err(Error::Context(ContextError::Missing { .. }))));
}

#[test]
fn a_file_that_grows_during_the_copy_is_cut_to_its_size() {
    let tree = Tree::new();
    let context = tree.context();
    let selected = context.select("d/large").unwrap();
    let mut read = 0;
    let copied: Result<_, ContextError> =
        context.copy(&selected, &Ignore::default(), &Memo::default(), &mut |_, _, _, content| {
            let mut first = [0; 10];
            content.reader.read_exact(&mut first).unwrap();
            let mut file = fs::OpenOptions::new().append(true).open(tree.path("d/large")).unwrap();
            io::Write::write_all(&mut file, b"more").unwrap();
            read = 10 + io::copy(content.reader, &mut io::sink()).unwrap();
            Ok(())
        });
    copied.unwrap();
    assert_eq!(read, LARGE as u64);
}

#[test]
fn a_file_that_shrinks_during_the_copy_is_an_error_that_names_it() {
    let tree = Tree::new();
    let context = tree.context();
    let selected = context.select("d/large").unwrap();
    let copied: Result<_, ContextError> =
        context.copy(&selected, &Ignore::default(), &Memo::default(), &mut |_, _, _, content| {
            fs::write(tree.path("d/large"), "short").unwrap();
            let error = io::copy(content.reader, &mut io::sink()).unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::UnexpectedEof);
            Ok(())
        });
    assert_eq!(copied.unwrap_err().to_string(), "`d/large` in the build context changed while it was read");
}

/// Bytes whose digest is known are not digested again, so the file must not change while they are handed out.
#[test]
fn a_known_file_that_is_written_during_the_copy_is_an_error() {
    let tree = Tree::new();
    let file = fs::File::options().write(true).open(tree.path("d/large")).unwrap();
    // The memo believes a file that has not been written for a while.
    let context = tree.context();
    let memo = Memo::default();
    let selected = context.select("d/large").unwrap();
    let after_a_while = std::time::SystemTime::now() + std::time::Duration::from_mins(1);
    context.digest(&selected, &Ignore::default(), &memo).unwrap();
    let identity = beneath::stat_open(file.as_fd()).unwrap().identity;
    let known = Content(*blake3::hash(&fs::read(tree.path("d/large")).unwrap()).as_bytes());
    memo.learn(identity, known, after_a_while);
    let copy = |write: bool| -> Result<_, ContextError> {
        context.copy(&selected, &Ignore::default(), &memo, &mut |_, _, _, bytes| {
            if write {
                file.file().set_modified(std::time::UNIX_EPOCH).unwrap();
            }
            io::copy(bytes.reader, &mut io::sink()).unwrap();
            Ok(())
        })
    };
    assert_eq!(copy(false).unwrap(), context.digest(&selected, &Ignore::default(), &memo).unwrap());
    assert!(matches!(copy(true), Err(ContextError::Changed { .. })));
}
