//! Memory that is used again: what is new costs a page fault for each 4 KiB.

use std::sync::{Mutex, MutexGuard};

use super::header::BLOCK;
use super::segment::MOST;

/// For the bytes of bundles.
pub(super) static BUNDLES: Spare = Spare(Mutex::new(Vec::new()));

/// For segments that are copied: apart, for most are a fraction of a bundle.
pub(super) static SEGMENTS: Spare = Spare(Mutex::new(Vec::new()));

/// How many pieces of either are kept.
const MOST_KEPT: usize = 8;

/// The room in each, for any bundle: one may have a file's padding and the archive's end beyond its limit, and what is
/// read behind it. What nobody writes to takes up no memory.
#[expect(clippy::cast_possible_truncation, reason = "4 MiB")]
pub(super) const ROOM: usize = MOST as usize + 4 * BLOCK;

/// Pieces of memory that nobody needs at the moment.
pub(super) struct Spare(Mutex<Vec<Vec<u8>>>);

impl Spare {
    /// Returns a piece, empty.
    pub(super) fn take(&self) -> Vec<u8> {
        self.lock().pop().unwrap_or_else(|| Vec::with_capacity(ROOM))
    }

    /// Keeps a piece, if it came from here.
    pub(super) fn give(&self, mut bytes: Vec<u8>) {
        let mut kept = self.lock();
        if kept.len() < MOST_KEPT && bytes.capacity() == ROOM {
            bytes.clear();
            kept.push(bytes);
        }
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Vec<u8>>> {
        self.0.lock().expect("nothing panics while it holds this lock")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_comes_back_empty() {
        let spare = Spare(Mutex::default());
        let mut piece = spare.take();
        piece.extend_from_slice(b"used");
        let at = piece.as_ptr();
        spare.give(piece);
        let again = spare.take();
        assert!(again.is_empty() && again.as_ptr() == at);
    }

    #[test]
    fn what_is_not_its_own_and_what_is_too_much_is_let_go() {
        let spare = Spare(Mutex::default());
        spare.give(Vec::new());
        spare.give(vec![0; ROOM + 1]);
        assert!(spare.lock().is_empty());
        let pieces: Vec<_> = (0..MOST_KEPT + 3).map(|_| spare.take()).collect();
        for piece in pieces {
            spare.give(piece);
        }
        assert_eq!(spare.lock().len(), MOST_KEPT);
    }
}
