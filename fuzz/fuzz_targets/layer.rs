//! Any bytes as a layer, compressed or not: what is read of it and written again is read as the same.

#![no_main]

use libfuzzer_sys::fuzz_target;
use snapshot::layer::{Limits, decompress, read_limited};
use snapshot::{TarWriter, survey};

const LIMITS: Limits = Limits { bytes: 16 << 20, entries: 10_000 };

fuzz_target!(|bytes: &[u8]| {
    let Ok(mut tar) = decompress(bytes, LIMITS.bytes) else { return };
    let mut writer = TarWriter::new(Vec::new());
    if read_limited(&mut tar, LIMITS, &mut writer).is_err() {
        return;
    }
    let Ok(mut tar) = decompress(bytes, LIMITS.bytes) else { return };
    // An index refuses what a stream alone does not show: a link to nothing.
    let Ok(first) = survey(&mut tar) else { return };
    let again = writer.finish().expect("memory takes everything");
    let second = survey(&mut again.as_slice()).expect("what is written can be read");
    // Times are written in whole seconds.
    assert_eq!(first.content(), second.content());
});
