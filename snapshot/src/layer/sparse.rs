//! Sparse files of tar archives: a map says where in the file its stored parts belong, and the rest is zeros.
//!
//! All four forms of GNU tar are read (its manual, "Storing Sparse Files"): the old one of type `S`, and 0.0, 0.1 and
//! 1.0 of PAX headers. A map that GNU tar would read as another file is refused.

use std::collections::VecDeque;
use std::io::{self, BufRead, Read};
use std::path::Path;

use super::header::{BLOCK, padding};
use super::pax::decimal;
use super::read::TarError;

/// The most bytes of a map in its archive: as many as of any other extended header.
pub(super) const MAP_MAX: u64 = 1024 * 1024;

/// What holes are read as.
static ZEROS: [u8; 64 * 1024] = [0; 64 * 1024];

/// A sparse file as its headers describe it.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Sparse {
    /// The size of the whole file in bytes.
    pub(super) size: u64,
    /// The parts that are stored; none when the map of them comes before their bytes (PAX 1.0).
    pub(super) parts: Option<Vec<Part>>,
}

/// A part of a sparse file that is stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Part {
    /// Where in the file it belongs.
    pub(super) offset: u64,
    /// Its bytes.
    pub(super) length: u64,
}

impl Sparse {
    /// Returns the bytes of the whole file, given those that are stored of it.
    pub(super) fn expand<'a, R: BufRead>(
        self,
        entry: &Path,
        stored: &'a mut io::Take<R>,
    ) -> Result<Expanded<'a, R>, TarError> {
        let refused = |reason| TarError::Sparse { entry: entry.display().to_string(), reason };
        let mut parts = match self.parts {
            Some(parts) => parts,
            None => map_before(stored)?.map_err(refused)?,
        };
        check(&parts, self.size, stored.limit()).map_err(refused)?;
        parts.retain(|part| part.length > 0);
        Ok(Expanded { size: self.size, at: 0, parts: parts.into(), stored })
    }
}

/// Reads the map of PAX 1.0: the number of parts, then the offset and the length of each, in decimal and each on a
/// line, up to the end of a block.
fn map_before<R: BufRead>(stored: &mut io::Take<R>) -> io::Result<Result<Vec<Part>, &'static str>> {
    let mut lines = stored.by_ref().take(MAP_MAX);
    let mut line = Vec::new();
    let mut number = || {
        line.clear();
        lines.read_until(b'\n', &mut line)?;
        io::Result::Ok(line.strip_suffix(b"\n").and_then(|digits| decimal(digits).ok()))
    };
    let mut map = || {
        let Some(count) = number()? else { return Ok(None) };
        let mut parts = Vec::new();
        for _ in 0..count {
            let (Some(offset), Some(length)) = (number()?, number()?) else { return Ok(None) };
            parts.push(Part { offset, length });
        }
        io::Result::Ok(Some(parts))
    };
    let parts = map()?;
    let rest = padding(MAP_MAX - lines.limit()) as u64;
    let skipped = io::copy(&mut stored.take(rest), &mut io::sink())?;
    let cut = "is malformed, cut off or longer than 1 MiB";
    Ok(parts.filter(|_| skipped == rest).ok_or(cut))
}

/// Checks the map of a file of `size` bytes of which `stored` are there.
fn check(parts: &[Part], size: u64, stored: u64) -> Result<(), &'static str> {
    let (mut end, mut sum) = (0, 0);
    for part in parts {
        if part.offset < end {
            return Err("has parts that overlap or are out of order");
        }
        // GNU tar begins each part with a block, others where the one before ends.
        if part.length > 0 && sum % BLOCK as u64 != 0 {
            return Err("has a part that does not end with a block");
        }
        end = part.offset.checked_add(part.length).filter(|end| *end <= size).ok_or("goes beyond the file's size")?;
        sum += part.length;
    }
    if sum == stored { Ok(()) } else { Err("is of another number of bytes than are stored") }
}

/// The bytes of a sparse file, its holes filled with zeros.
pub(super) struct Expanded<'a, R> {
    size: u64,
    at: u64,
    /// The parts from here on, of which the first may be read in part. None is empty.
    parts: VecDeque<Part>,
    stored: &'a mut io::Take<R>,
}

impl<R: BufRead> BufRead for Expanded<'_, R> {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        let next = match self.parts.front() {
            Some(part) if part.offset == self.at => {
                let bytes = self.stored.fill_buf()?;
                return Ok(&bytes[..capped(part.length, bytes.len())]);
            }
            Some(part) => part.offset,
            None => self.size,
        };
        Ok(&ZEROS[..capped(next - self.at, ZEROS.len())])
    }

    fn consume(&mut self, count: usize) {
        let at = self.at;
        self.at += count as u64;
        let Some(part) = self.parts.front_mut().filter(|part| part.offset == at) else { return };
        self.stored.consume(count);
        *part = Part { offset: self.at, length: part.length - count as u64 };
        if part.length == 0 {
            self.parts.pop_front();
        }
    }
}

impl<R: BufRead> Read for Expanded<'_, R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.fill_buf()?.read(buffer)?;
        self.consume(read);
        Ok(read)
    }
}

fn capped(wanted: u64, most: usize) -> usize {
    usize::try_from(wanted).map_or(most, |wanted| wanted.min(most))
}

#[cfg(test)]
mod tests;
