//! Which parts of a bundle are worth compressing: what is compressed or encrypted already costs a compressor more time
//! than text does and gets no shorter.

use std::ops::Range;

use flate2::{Compress, Compression, FlushCompress, Status};

/// Bytes that are judged together.
const PART: usize = 256 * 1024;

/// How many of them are tried: the window of deflate, in which a repetition would show.
const PROBE: usize = 32 * 1024;

/// Splits `bundle` into runs that are noise and runs that are not.
pub(super) fn runs(bundle: &[u8]) -> Vec<(bool, Range<usize>)> {
    let mut runs: Vec<(bool, Range<usize>)> = Vec::new();
    for start in (0..bundle.len()).step_by(PART) {
        let end = bundle.len().min(start + PART);
        let part = &bundle[start..end];
        match runs.last_mut() {
            // What is left at the end is like what precedes it.
            Some((_, last)) if part.len() < PROBE => last.end = end,
            Some((kind, last)) if *kind == is_noise(part) => last.end = end,
            Some((kind, _)) => {
                let other = !*kind;
                runs.push((other, start..end));
            }
            None => runs.push((is_noise(part), start..end)),
        }
    }
    runs
}

/// Whether all byte values are about as frequent in `part` and its beginning does not get shorter.
pub(super) fn is_noise(part: &[u8]) -> bool {
    if part.len() < PROBE {
        return false;
    }
    // Four tables: one alone would wait for itself where a byte repeats.
    let mut counts = [[0_u32; 256]; 4];
    for four in part.chunks(4) {
        for (table, byte) in counts.iter_mut().zip(four) {
            table[usize::from(*byte)] += 1;
        }
    }
    let squares: u128 =
        (0..256).map(|value| counts.iter().map(|table| u128::from(table[value])).sum::<u128>().pow(2)).sum();
    let length = part.len() as u128;
    // The sum is length²/256 where all values are equally frequent: at most a fiftieth more, which is 7.97 bits a byte.
    if squares * 256 * 50 > length * length * 51 {
        return false;
    }
    let mut shorter = vec![0; PROBE - PROBE / 256];
    let mut state = Compress::new(Compression::fast(), false);
    !matches!(state.compress(&part[..PROBE], &mut shorter, FlushCompress::Finish), Ok(Status::StreamEnd))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn noise(length: usize) -> Vec<u8> {
        let mut bytes = vec![0; length];
        blake3::Hasher::new().finalize_xof().fill(&mut bytes);
        bytes
    }

    #[test]
    fn noise_is_told_from_what_gets_shorter() {
        assert!(is_noise(&noise(PART)) && is_noise(&noise(PROBE)));
        assert!(!is_noise(&noise(PROBE - 1)));
        let letters: Vec<u8> = noise(PART).iter().map(|byte| byte % 128).collect();
        // Every value as frequent as the others, and noise, but twice the same within the window.
        let counting: Vec<u8> = (0..=255).cycle().take(PART).collect();
        let repeated = noise(10_000).repeat(20);
        for shorter in [letters, counting, repeated, vec![0; PART], b"etaoin shrdlu ".repeat(5000)] {
            assert!(!is_noise(&shorter));
        }
    }

    #[test]
    fn runs_cover_the_bundle() {
        let text = b"etaoin shrdlu ".repeat(40_000);
        let bundle = [&noise(2 * PART), &text[..PART], &text[..PART], &noise(PART + 100)].concat();
        let expected = [(true, 0..2 * PART), (false, 2 * PART..4 * PART), (true, 4 * PART..5 * PART + 100)];
        assert_eq!(runs(&bundle), expected);
        assert_eq!(runs(&bundle[..1000]), [(false, 0..1000)]);
        assert_eq!(runs(&[]), []);
    }
}
