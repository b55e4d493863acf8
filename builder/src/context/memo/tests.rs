//! What is remembered, for how long, and what a damaged file does.

use super::*;

const NOW: u64 = 1_700_000_000;

fn at(seconds: u64) -> SystemTime {
    UNIX_EPOCH + Duration::from_secs(seconds)
}

fn identity(mtime: u64, ctime: u64) -> Identity {
    let stamp = |seconds: u64| Stamp { seconds: i64::try_from(seconds).unwrap(), nanoseconds: 7 };
    Identity { device: 1, inode: 2, size: 3, mtime: stamp(mtime), ctime: stamp(ctime) }
}

fn content(byte: u8) -> Content {
    Content([byte; 32])
}

fn stored(count: u64) -> Memo {
    let memo = Memo::default();
    for inode in 0..count {
        memo.learn(Identity { inode, ..identity(NOW - 60, NOW - 60) }, content(1), at(NOW));
    }
    memo
}

fn save(memo: &Memo, path: &Path) {
    memo.save(|bytes| fs::write(path, bytes)).unwrap();
}

#[test]
fn a_quiet_file_is_remembered() {
    let memo = Memo::default();
    memo.learn(identity(NOW - 3, NOW - 3), content(9), at(NOW));
    assert_eq!(memo.recall(&identity(NOW - 3, NOW - 3)), Some(content(9)));
}

#[test]
fn what_changed_within_two_seconds_of_its_hashing_is_not_trusted() {
    for (mtime, ctime) in [
        (NOW - 1, NOW - 60),
        (NOW - 60, NOW - 1),
        (NOW - 2, NOW - 60),
        (NOW - 60, NOW),
        (NOW + 100, NOW - 60),
        (NOW - 60, NOW + 100),
    ] {
        let memo = Memo::default();
        memo.learn(identity(mtime, ctime), content(9), at(NOW));
        assert_eq!(memo.recall(&identity(mtime, ctime)), None, "mtime {mtime}, ctime {ctime}");
    }
}

#[test]
fn every_part_of_the_stat_tells_files_apart() {
    let memo = Memo::default();
    let known = identity(NOW - 60, NOW - 60);
    memo.learn(known, content(9), at(NOW));
    let others = [
        Identity { device: 9, ..known },
        Identity { inode: 9, ..known },
        Identity { size: 9, ..known },
        Identity { mtime: Stamp { nanoseconds: 8, ..known.mtime }, ..known },
        Identity { mtime: Stamp { seconds: 8, ..known.mtime }, ..known },
        Identity { ctime: Stamp { nanoseconds: 8, ..known.ctime }, ..known },
        Identity { ctime: Stamp { seconds: 8, ..known.ctime }, ..known },
    ];
    for other in others {
        assert_eq!(memo.recall(&other), None, "{other:?}");
    }
}

#[test]
fn it_survives_a_round_trip() {
    let scratch = tempfile::tempdir().unwrap();
    let path = scratch.path().join("memo");
    let memo = stored(3);
    memo.learn(identity(0, 0), content(4), at(NOW));
    save(&memo, &path);
    let loaded = Memo::at(&path);
    assert_eq!(loaded.recall(&identity(0, 0)), Some(content(4)));
    assert_eq!(loaded.recall(&Identity { inode: 1, ..identity(NOW - 60, NOW - 60) }), Some(content(1)));
    assert_eq!(loaded.recall(&identity(NOW - 60, NOW - 60)), None, "a file has one stat at a time");
    assert_eq!(loaded.state().records().len(), 3);
}

#[test]
fn nothing_learnt_writes_nothing() {
    let scratch = tempfile::tempdir().unwrap();
    let path = scratch.path().join("memo");
    Memo::at(&path).save(|_| Err("written")).unwrap();
}

#[test]
fn a_damaged_file_is_an_empty_memo() {
    let scratch = tempfile::tempdir().unwrap();
    let path = scratch.path().join("memo");
    save(&stored(2), &path);
    let whole = fs::read(&path).unwrap();
    for length in 0..whole.len() {
        fs::write(&path, &whole[..length]).unwrap();
        assert!(Memo::at(&path).state().records().is_empty(), "cut to {length} bytes");
    }
    for at in 0..whole.len() {
        let mut bytes = whole.clone();
        bytes[at] ^= 1;
        fs::write(&path, &bytes).unwrap();
        assert!(Memo::at(&path).state().records().is_empty(), "byte {at} flipped");
    }
    fs::remove_file(&path).unwrap();
    fs::create_dir(&path).unwrap();
    assert!(Memo::at(&path).state().records().is_empty(), "a directory");
}

#[test]
fn a_sealed_file_of_another_layout_is_an_empty_memo() {
    let mut bytes = b"rbuild digests 9\0\0\0\0".to_vec();
    let seal = blake3::hash(&bytes);
    bytes.extend_from_slice(seal.as_bytes());
    assert!(decode(bytes).is_none());
    let mut bytes = MAGIC.to_vec();
    bytes.extend_from_slice(&[0; 4 + RECORD - 1]);
    let seal = blake3::hash(&bytes);
    bytes.extend_from_slice(seal.as_bytes());
    assert!(decode(bytes).is_none(), "half a record");
}

/// A memo that was loaded from what another saved.
fn reloaded(state: &State) -> State {
    let mut state = decode(encode(state)).unwrap();
    state.run += 1;
    state
}

fn learn(state: &mut State, identity: Identity) {
    state.learnt.insert(identity.file(), (identity, content(1)));
}

#[test]
fn it_is_bounded_and_the_oldest_go_first() {
    let mut state = State::default();
    let limit = u64::try_from(LIMIT).unwrap();
    let of = |inode| Identity { inode, ..identity(0, 0) };
    (0..limit).for_each(|inode| learn(&mut state, of(inode)));
    let mut state = reloaded(&state);
    for inode in (0..limit).filter(|inode| *inode != 77) {
        assert_eq!(state.recall(&of(inode)), Some(content(1)));
    }
    learn(&mut state, of(limit));
    let mut state = reloaded(&state);
    assert_eq!(state.records().len(), LIMIT);
    assert_eq!(state.recall(&of(77)), None);
    assert_eq!(state.recall(&of(limit)), Some(content(1)));
}

#[test]
fn files_are_found_in_any_order() {
    let mut state = State::default();
    let of = |number: u64| Identity { device: number % 3, inode: number * 7 % 101, ..identity(0, 0) };
    (0..100).for_each(|number| learn(&mut state, of(number)));
    let mut state = reloaded(&state);
    for number in (0..100).chain((0..100).rev()).chain([5, 99, 5, 6]) {
        assert_eq!(state.recall(&of(number)), Some(content(1)), "{number}");
    }
    assert_eq!(state.recall(&Identity { inode: 1000, ..identity(0, 0) }), None);
}

#[test]
fn what_is_learnt_takes_the_place_of_what_was_stored() {
    let mut state = State::default();
    learn(&mut state, identity(0, 0));
    let mut state = reloaded(&state);
    learn(&mut state, identity(1, 1));
    let mut state = reloaded(&state);
    assert_eq!((state.records().len(), state.recall(&identity(0, 0))), (1, None));
    assert_eq!(state.recall(&identity(1, 1)), Some(content(1)));
}

#[test]
fn what_was_not_kept_is_still_to_be_saved() {
    let memo = stored(1);
    assert_eq!(memo.save(|_| Err("full")), Err("full"));
    let mut kept = 0;
    for _ in 0..2 {
        let saved: Result<(), ()> = memo.save(|_| {
            kept += 1;
            Ok(())
        });
        saved.unwrap();
    }
    assert_eq!(kept, 1);
}

/// What is asked nothing does not pay for the file, and keeps it as it is.
#[test]
fn an_unasked_memo_neither_reads_nor_writes() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("memo");
    let memo = Memo::at(&path);
    memo.save(|_| Err("written")).unwrap();
    save(&stored(3), &path);
    assert_eq!(memo.state().records().len(), 3, "read when it is asked, not before");
}
