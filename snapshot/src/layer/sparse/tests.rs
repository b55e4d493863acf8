use std::ffi::OsStr;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;

use super::super::read::{Limits, read_limited};
use crate::testing::{RawTar, run};
use crate::{ChangeSink, Entry, Error, Kind};

use super::*;

/// Keeps the files of a stream.
#[derive(Default)]
struct Files(Vec<(PathBuf, Vec<u8>)>);

impl ChangeSink for Files {
    type Error = Error;

    fn entry(&mut self, path: &Path, entry: &Entry, content: &mut dyn BufRead) -> Result<(), Error> {
        let mut bytes = Vec::new();
        content.read_to_end(&mut bytes)?;
        assert_eq!(entry.kind, Kind::File { size: bytes.len() as u64 }, "{}", path.display());
        self.0.push((path.to_owned(), bytes));
        Ok(())
    }

    fn hard_link(&mut self, _path: &Path, _target: &Path) -> Result<(), Error> {
        unreachable!("no test has one")
    }

    fn whiteout(&mut self, _path: &Path) -> Result<(), Error> {
        Ok(())
    }

    fn opaque(&mut self, _directory: &Path) -> Result<(), Error> {
        unreachable!("no test has one")
    }
}

fn files(tar: &[u8]) -> Result<Vec<(PathBuf, Vec<u8>)>, Error> {
    let mut files = Files::default();
    read_limited(&mut &*tar, Limits { bytes: 64 << 20, entries: 10 }, &mut files)?;
    Ok(files.0)
}

/// The form of PAX 1.0: `map` is what stands before the content.
fn tar_1_0(size: &str, map: &str, content: &str) -> RawTar {
    let mut stored = map.as_bytes().to_vec();
    stored.resize(stored.len().next_multiple_of(BLOCK), 0);
    stored.extend(content.as_bytes());
    let records: [(&str, &[u8]); 4] = [
        ("GNU.sparse.major", b"1"),
        ("GNU.sparse.minor", b"0"),
        ("GNU.sparse.name", b"a"),
        ("GNU.sparse.realsize", size.as_bytes()),
    ];
    RawTar::default().pax(&records).raw(b'0', b"GNUSparseFile.1/a", &stored, |_| {})
}

/// The form of PAX 0.1.
fn tar_0_1(size: &str, count: &str, map: &str, content: &str) -> RawTar {
    let records: [(&str, &[u8]); 3] = [
        ("GNU.sparse.size", size.as_bytes()),
        ("GNU.sparse.numblocks", count.as_bytes()),
        ("GNU.sparse.map", map.as_bytes()),
    ];
    RawTar::default().pax(&records).file("a", content)
}

/// GNU's old form; `fields` are the numbers of the parts.
fn tar_old(size: &[u8], fields: &[&[u8]], goes_on: bool, content: &str) -> RawTar {
    RawTar::default().raw(b'S', b"a", content.as_bytes(), |header| {
        let block = header.as_mut_bytes();
        block[257..265].copy_from_slice(b"ustar  \0");
        for (at, field) in fields.iter().enumerate() {
            block[386 + 12 * at..][..field.len()].copy_from_slice(field);
        }
        block[482] = u8::from(goes_on);
        block[483..483 + size.len()].copy_from_slice(size);
    })
}

#[test]
fn every_form_of_gnu_tar_is_read() {
    let directory = tempfile::tempdir().unwrap();
    let long = "directory/".repeat(15) + "long";
    let parts = |count: u64| (0..count).map(|at| (at * (128 << 10), "part")).collect::<Vec<_>>();
    let sparse = [
        ("head", 1 << 20, vec![(0, "head")]),
        ("tail", (1 << 20) + 5, vec![((1 << 20), "tails")]),
        ("hole", 100_000, parts(0)),
        ("many", 10 << 20, parts(80)),
        ("plain", 5, vec![(0, "plain")]),
        (&long, 1 << 20, vec![(300_000, "middle")]),
    ];
    fs_err::create_dir_all(directory.path().join(&long).parent().unwrap()).unwrap();
    let mut expected = Vec::new();
    for (name, size, parts) in &sparse {
        let file = fs_err::File::create(directory.path().join(name)).unwrap();
        file.set_len(*size).unwrap();
        for (offset, bytes) in parts {
            file.file().write_all_at(bytes.as_bytes(), *offset).unwrap();
        }
        expected.push((PathBuf::from(name), fs_err::read(directory.path().join(name)).unwrap()));
    }
    for form in [
        &["--format=gnu"][..],
        &["--format=pax", "--sparse-version=0.0"],
        &["--format=pax", "--sparse-version=0.1"],
        &["--format=pax", "--sparse-version=1.0"],
    ] {
        let archive = directory.path().join("archive.tar");
        let names = sparse.iter().map(|(name, ..)| *name);
        let arguments: Vec<&OsStr> = ["--sparse", "-cf", archive.to_str().unwrap()]
            .into_iter()
            .chain(form.iter().copied())
            .chain(["-C", directory.path().to_str().unwrap()])
            .chain(names)
            .map(OsStr::new)
            .collect();
        run("tar", "tar", &arguments);
        let tar = fs_err::read(&archive).unwrap();
        assert!(tar.len() < 1 << 20, "{form:?} did not look for holes");
        assert!(files(&tar).unwrap_or_else(|error| panic!("{form:?}: {error:?}")) == expected, "{form:?}");
    }
}

#[test]
fn what_follows_a_sparse_file_is_found() {
    let content = "x".repeat(512) + "tail";
    let expected = ["\0".repeat(512), "x".repeat(512), "\0".repeat(512), "tail\0\0".into()].concat().into_bytes();
    for tar in [
        tar_1_0("1542", "2\n512\n512\n1536\n4\n", &content),
        tar_0_1("1542", "2", "512,512,1536,4", &content),
        tar_0_1("1542", "4", "0,0,512,512,1536,4,1542,0", &content),
        tar_old(b"3006", &[b"1000", b"1000", b"3000", b"4"], false, &content),
    ] {
        let found = files(&tar.file("after", "x").end()).unwrap();
        assert!(found[0] == (PathBuf::from("a"), expected.clone()));
        assert_eq!(found[1..], [(PathBuf::from("after"), b"x".to_vec())]);
    }
    // A whiteout has no content, sparse or not.
    let whiteout = tar_old(b"1000", &[b"0", b"4"], false, "tail").0;
    let whiteout = RawTar(whiteout).raw(b'0', b".wh.b", b"x", |_| {}).file("after", "x");
    assert_eq!(files(&whiteout.end()).unwrap().len(), 2);
}

#[test]
fn hostile_maps_are_refused() {
    let full = "x".repeat(1024);
    let lines = "1\n".repeat(600_000);
    let zero = |records: &[(&str, &[u8])]| RawTar::default().pax(records).file("a", "");
    let cases: Vec<(&str, RawTar, &str)> = vec![
        ("overlap", tar_0_1("4096", "2", "0,512,511,512", &full), "overlap"),
        ("disorder", tar_1_0("4096", "2\n1024\n512\n0\n512\n", &full), "out of order"),
        ("beyond the size", tar_0_1("1023", "1", "0,1024", &full), "beyond"),
        ("beyond every size", tar_1_0("4096", "1\n18446744073709551615\n1024\n", &full), "beyond"),
        ("more than is stored", tar_0_1("4096", "1", "0,1025", &full), "number of bytes"),
        ("less than is stored", tar_old(b"10000", &[b"0", b"1000"], false, &full), "number of bytes"),
        ("a part within a block", tar_0_1("4096", "2", "0,500,512,524", &full), "block"),
        ("fewer parts than said", tar_1_0("4096", "2\n0\n1024\n", &full), "malformed"),
        ("no number", tar_1_0("4096", "1\n0\n+1024\n", &full), "malformed"),
        ("no map", tar_1_0("4096", "", ""), "malformed"),
        ("endless lines", tar_1_0("4096", &format!("600000\n{lines}"), &full), "1 MiB"),
        ("an endless line", tar_1_0("4096", &"1".repeat(2 << 20), &full), "1 MiB"),
        ("another count", tar_0_1("4096", "2", "0,1024", &full), "whole map"),
        ("half a pair", tar_0_1("4096", "1", "0,1024,5", &full), "whole map"),
        ("a wrong number", tar_0_1("4096", "1", "0,-1", &full), "a number"),
        ("two lengths", zero(&[("GNU.sparse.numbytes", b"0")]), "unknown form"),
        ("no size", zero(&[("GNU.sparse.numblocks", b"0")]), "without its size"),
        ("no count", zero(&[("GNU.sparse.size", b"5")]), "whole map"),
        ("version 2", zero(&[("GNU.sparse.major", b"2"), ("GNU.sparse.minor", b"0")]), "unknown form"),
        ("an unknown record", zero(&[("GNU.sparse.other", b"2")]), "unknown form"),
        ("star's", zero(&[("SCHILY.realsize", b"2")]), "unknown form"),
        ("an old length alone", tar_old(b"10", &[b"", b"4"], false, "tail"), "malformed"),
        ("an old map that ends and goes on", tar_old(b"10", &[b"0", b"4"], true, "tail"), "malformed"),
        ("an old size that is none", tar_old(b"9", &[b"0", b"4"], false, "tail"), "malformed"),
        ("a bomb", tar_0_1("99999999999", "0", "", ""), "limit"),
        (
            "a bomb of many",
            (0..9).fold(RawTar::default(), |tar, _| RawTar([tar.0, tar_0_1("10000000", "0", "", "").0].concat())),
            "limit",
        ),
        (
            "a directory",
            RawTar::default().pax(&[("GNU.sparse.size", b"0"), ("GNU.sparse.numblocks", b"0")]).directory("d"),
            "type",
        ),
        (
            "two maps",
            {
                let pax = RawTar::default().pax(&[("GNU.sparse.size", b"0"), ("GNU.sparse.numblocks", b"0")]);
                RawTar([pax.0, tar_old(b"10", &[b"0", b"4"], false, "tail").0].concat())
            },
            "second map",
        ),
        (
            "blocks without an end",
            {
                let field: &[u8] = b"00000000000";
                let head = tar_old(b"10", &[field; 8], true, "").0;
                let more = [[field, b"\0"].concat().repeat(42), vec![1; 8]].concat();
                RawTar([head, more.repeat(3000)].concat())
            },
            "limit",
        ),
    ];
    for (name, tar, said) in cases {
        let error = files(&tar.end()).expect_err(name);
        let text = std::error::Error::source(&error).map_or_else(|| error.to_string(), ToString::to_string);
        assert!(text.contains(said), "{name}: {text}");
    }
    let cut = tar_old(b"10", &[b"0" as &[u8]; 8], true, "").0;
    assert!(matches!(files(&cut), Err(Error::Tar(TarError::Truncated))));
}
