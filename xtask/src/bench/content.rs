//! The contents of build contexts: the same on every machine and in every run.

use std::io::{BufWriter, Write};
use std::path::Path;
use std::time::{Duration, SystemTime};

use anyhow::Result;

/// Words of the text: as many as make `gzip -6` take it to about a third.
const WORDS: usize = 2048;

/// The text that files are cut from: longer than any compressor's window, so that cuts do not repeat.
const POOL: usize = 2 << 20;

/// Bytes without and with structure.
#[derive(Debug)]
pub(super) struct Source {
    random: Random,
    text: Vec<u8>,
}

impl Source {
    pub(super) fn new(seed: u64) -> Self {
        let mut random = Random(seed);
        let words: Vec<Vec<u8>> = (0..WORDS)
            .map(|_| (0..3 + random.below(8)).map(|_| b"etaoinshrdlucmfwypvbgkjqxz"[random.low(26)]).collect())
            .collect();
        let mut text = Vec::with_capacity(POOL + 16);
        while text.len() < POOL {
            text.extend(&words[random.low(WORDS)]);
            text.push(if random.below(12) == 0 { b'\n' } else { b' ' });
        }
        Self { random, text }
    }

    /// Text of this length.
    pub(super) fn text(&mut self, length: usize) -> Vec<u8> {
        let mut text = Vec::with_capacity(length);
        while text.len() < length {
            // Sixteen kilobytes at a time: below the window of deflate, far below that of the pool.
            let piece = (length - text.len()).min(16 << 10);
            let start = self.random.below(self.text.len() - piece);
            text.extend(&self.text[start..start + piece]);
        }
        text
    }

    /// Bytes that no compressor makes shorter.
    pub(super) fn noise(&mut self, length: usize) -> Vec<u8> {
        let mut noise = Vec::with_capacity(length + 8);
        while noise.len() < length {
            noise.extend(self.random.next().to_le_bytes());
        }
        noise.truncate(length);
        noise
    }

    /// A number below `limit`.
    pub(super) fn below(&mut self, limit: usize) -> usize {
        self.random.below(limit)
    }
}

/// The generator splitmix64.
#[derive(Debug)]
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    fn below(&mut self, limit: usize) -> usize {
        usize::try_from(self.next() % limit as u64).expect("below a usize")
    }

    /// The lesser of two numbers below `limit`: small ones are the more frequent, as words are in a text.
    fn low(&mut self, limit: usize) -> usize {
        self.below(limit).min(self.below(limit))
    }
}

/// The age of all files that are not changed for a sample.
fn age() -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_secs(1_700_000_000)
}

/// Writes one file of that age.
pub(super) fn file(path: &Path, bytes: &[u8]) -> Result<()> {
    fs_err::write(path, bytes)?;
    fs_err::File::options().write(true).open(path)?.set_modified(age())?;
    Ok(())
}

/// Writes small files of text, 64 to 4,095 bytes, a hundred in a directory.
pub(super) fn small_files(directory: &Path, count: usize) -> Result<()> {
    let mut source = Source::new(0x5eed);
    tree(directory, count, |_| {
        let length = 64 + source.below(4032);
        source.text(length)
    })
}

/// Writes files of a mean of 12 KiB as a distribution has them: three parts text and one part that is compressed already.
pub(super) fn mixed_files(directory: &Path, count: usize, seed: u64) -> Result<()> {
    let mut source = Source::new(seed);
    tree(directory, count, |number| {
        let length = 64 + source.below(23 << 10);
        if number % 4 == 3 { source.noise(length) } else { source.text(length) }
    })
}

fn tree(directory: &Path, count: usize, mut content: impl FnMut(usize) -> Vec<u8>) -> Result<()> {
    for number in 0..count {
        let directory = directory.join(format!("d{:03}", number / 100));
        if number % 100 == 0 {
            fs_err::create_dir_all(&directory)?;
        }
        file(&directory.join(format!("f{number:05}")), &content(number))?;
    }
    Ok(())
}

/// Writes a file of `mebibytes` of text, or of noise.
pub(super) fn large_file(path: &Path, mebibytes: usize, noise: bool) -> Result<()> {
    let mut source = Source::new(if noise { 1 } else { 2 });
    let mut out = BufWriter::with_capacity(1 << 20, fs_err::File::create(path)?);
    for _ in 0..mebibytes {
        out.write_all(&if noise { source.noise(1 << 20) } else { source.text(1 << 20) })?;
    }
    out.flush()?;
    out.get_ref().file().set_modified(age())?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn contents_are_the_same_on_every_run() {
        let directories = [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()];
        let content = directories.map(|directory| {
            small_files(directory.path(), 150).unwrap();
            large_file(&directory.path().join("noise"), 1, true).unwrap();
            (
                fs_err::read(directory.path().join("d001/f00149")).unwrap(),
                fs_err::read(directory.path().join("noise")).unwrap(),
            )
        });
        assert!(content[0] == content[1]);
        assert!((64..4096).contains(&content[0].0.len()) && content[0].1.len() == 1 << 20);
    }
}
