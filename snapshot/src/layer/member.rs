//! One tar header → what it means for a layer, or why it is refused. Pure: the stream is read in [`mod@super::read`].

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use super::header::{BLOCK, OPAQUE, WHITEOUT};
use super::pax::Extended;
use super::read::TarError;
use super::sparse::{Part, Sparse};
use crate::entry::{Entry, Kind, Metadata, Mtime};
use crate::path::split;
use crate::xattr;

/// The longest path in bytes: Linux's `PATH_MAX`, less its NUL.
const PATH_MAX: usize = 4095;

/// One member of the archive, understood.
pub(super) struct Member {
    pub(super) path: PathBuf,
    pub(super) change: Change,
    /// Bytes that follow in the stream.
    pub(super) size: u64,
}

pub(super) enum Change {
    Entry(Entry),
    /// A regular file of which not everything is stored.
    Sparse(Entry, Sparse),
    HardLink(PathBuf),
    Whiteout(PathBuf),
    Opaque(PathBuf),
    /// Overlay's own mark, which must not become one.
    Dropped,
}

pub(super) type Range = std::ops::Range<usize>;
const NAME: Range = 0..100;
const MODE: Range = 100..108;
const UID: Range = 108..116;
const GID: Range = 116..124;
pub(super) const SIZE: Range = 124..136;
const MTIME: Range = 136..148;
const SUM: Range = 148..156;
const KIND: usize = 156;
const LINK: Range = 157..257;
const MAGIC: Range = 257..265;
const MAJOR: Range = 329..337;
const MINOR: Range = 337..345;
const PREFIX: Range = 345..500;
const REAL_SIZE: Range = 483..495;

/// Where a header of type `S` has the parts of its file.
pub(super) const HEADER_PARTS: Range = 386..482;
/// Where the blocks that follow it have them.
pub(super) const MORE_PARTS: Range = 0..504;
/// The bytes of an offset or a length among them.
const PART_NUMBER: usize = 12;

/// One block that describes an entry.
pub(super) struct Header(pub(super) [u8; BLOCK]);

impl Header {
    pub(super) fn kind(&self) -> u8 {
        self.0[KIND]
    }

    /// Whether the sum of the bytes, as signed or unsigned numbers (both exist), is the one that the header says.
    pub(super) fn has_right_sum(&self) -> bool {
        let Some(said) = self.number(SUM) else { return false };
        let unsigned = |bytes: &[u8]| bytes.iter().map(|byte| i32::from(*byte)).sum::<i32>();
        let signed = |bytes: &[u8]| bytes.iter().map(|byte| i32::from(byte.cast_signed())).sum::<i32>();
        // The sum itself counts as spaces.
        let (field, spaces) = (&self.0[SUM], 8 * i32::from(b' '));
        let is_sum = |sum| i32::try_from(said) == Ok(sum);
        is_sum(unsigned(&self.0) - unsigned(field) + spaces) || is_sum(signed(&self.0) - signed(field) + spaces)
    }

    /// Reads a field as a number that is not negative.
    pub(super) fn number(&self, field: Range) -> Option<u64> {
        u64::try_from(self.signed(field)?).ok()
    }

    /// Reads a field: octal digits between spaces and NULs, or GNU's base-256 (two's complement after the first bit).
    fn signed(&self, field: Range) -> Option<i64> {
        let field = &self.0[field];
        if field[0] & 0x80 != 0 {
            // 0x80 and 0xff are the only first bytes whose numbers fit.
            let (first, rest) = field.split_at(field.len() - 8);
            let value = i64::from_be_bytes(rest.try_into().ok()?);
            let fill = if value < 0 { 0xff } else { 0 };
            return match first {
                [] => Some((value << 1) >> 1),
                [lead, middle @ ..] => {
                    let lead_fits = *lead == if value < 0 { 0xff } else { 0x80 };
                    (lead_fits && middle.iter().all(|byte| *byte == fill)).then_some(value)
                }
            };
        }
        let digits = field.trim_ascii_start();
        let end = digits.iter().position(|byte| matches!(byte, 0 | b' ')).unwrap_or(digits.len());
        let (digits, rest) = digits.split_at(end);
        if !rest.iter().all(|byte| matches!(byte, 0 | b' ')) || !digits.iter().all(|byte| matches!(byte, b'0'..=b'7')) {
            return None;
        }
        Some(digits.iter().fold(0, |value, digit| value * 8 + i64::from(digit - b'0')))
    }

    /// Reads the size of a sparse file, which only a header of GNU's has.
    pub(super) fn real_size(&self) -> Option<u64> {
        self.number(REAL_SIZE).filter(|_| &self.0[MAGIC] == b"ustar  \0")
    }

    /// Appends the parts of a sparse file that this block names, and says whether there is a block of more; none
    /// where readers differ about them.
    pub(super) fn parts(&self, fields: Range, parts: &mut Vec<Part>) -> Option<bool> {
        let goes_on = self.0[fields.end] != 0;
        for at in fields.step_by(2 * PART_NUMBER) {
            let (offset, length) = (at..at + PART_NUMBER, at + PART_NUMBER..at + 2 * PART_NUMBER);
            match (self.0[offset.start], self.0[length.start]) {
                (0, 0) => return (!goes_on).then_some(false),
                (0, _) | (_, 0) => return None,
                _ => parts.push(Part { offset: self.number(offset)?, length: self.number(length)? }),
            }
        }
        Some(goes_on)
    }

    /// Returns a text field up to its first NUL.
    fn text(&self, field: Range) -> &[u8] {
        let field = &self.0[field];
        &field[..field.iter().position(|byte| *byte == 0).unwrap_or(field.len())]
    }

    /// Returns the name: only POSIX's ustar has a prefix (GNU and star keep other things there).
    fn name(&self) -> Vec<u8> {
        let prefix = if &self.0[MAGIC] == b"ustar\x0000" { self.text(PREFIX) } else { &[] };
        let name = self.text(NAME);
        if prefix.is_empty() { name.to_vec() } else { [prefix, b"/", name].concat() }
    }

    /// Understands the header together with what extended it.
    pub(super) fn member(&self, mut extended: Extended) -> Result<Member, TarError> {
        let name = extended.path.clone().unwrap_or_else(|| self.name());
        let link = extended.linkpath.clone().unwrap_or_else(|| self.text(LINK).to_vec());
        let wrong = |field| TarError::Field { entry: lossy(&name), field };
        let is_file = matches!(self.kind(), b'0' | b'7' | b'S' | 0) && !name.ends_with(b"/");
        let size = match extended.size {
            Some(size) => size,
            None => self.number(SIZE).ok_or_else(|| wrong("size"))?,
        };
        // Only regular files have data, whatever the field says (GNU tar, Go and Python agree).
        let size = if is_file { size } else { 0 };
        let sparse = extended.sparse.take();
        if sparse.is_some() && !is_file {
            return Err(wrong("type for a sparse file"));
        }
        let path = clean(&name)?;
        if let Some(change) = whiteout(&path, &name)? {
            return Ok(Member { path, change, size });
        }
        let device = || {
            let part = |field| self.number(field).and_then(|number| u32::try_from(number).ok());
            part(MAJOR).zip(part(MINOR)).ok_or_else(|| wrong("device number"))
        };
        let kind = match self.kind() {
            _ if is_file => Kind::File { size: sparse.as_ref().map_or(size, |sparse| sparse.size) },
            b'0' | b'7' | 0 | b'5' => Kind::Directory,
            b'1' => {
                let change = Change::HardLink(clean(&link)?);
                return Ok(Member { path, change, size });
            }
            b'2' if link.is_empty() || link.len() > PATH_MAX => return Err(wrong("link target")),
            b'2' => Kind::Symlink { target: link },
            b'3' if device()? == (0, 0) => return Ok(Member { path, change: Change::Dropped, size }),
            b'3' => device().map(|(major, minor)| Kind::CharDevice { major, minor })?,
            b'4' => device().map(|(major, minor)| Kind::BlockDevice { major, minor })?,
            b'6' => Kind::Fifo,
            other => return Err(TarError::Kind { entry: lossy(&name), kind: char::from(other) }),
        };
        if path == Path::new(".") && kind != Kind::Directory {
            return Err(TarError::Name { entry: lossy(&name), reason: "the root is a directory" });
        }
        let metadata = self.metadata(extended, &kind).map_err(wrong)?;
        let entry = Entry { kind, metadata };
        let change = match sparse {
            Some(sparse) => Change::Sparse(entry, sparse),
            None => Change::Entry(entry),
        };
        Ok(Member { path, change, size })
    }

    /// Reads mode, owner, time and attributes; the error is the field that is wrong.
    fn metadata(&self, extended: Extended, kind: &Kind) -> Result<Metadata, &'static str> {
        let id = |said: Option<u32>, field: Range, name| {
            // The largest number means "leave it" to chown(2): nobody's id.
            let id = said.or_else(|| u32::try_from(self.number(field)?).ok());
            id.filter(|id| *id != u32::MAX).ok_or(name)
        };
        let mut xattrs = extended.xattrs;
        xattrs.retain(|name, _| xattr::belongs(name, kind));
        if let Some(capability) = xattrs.get_mut(xattr::CAPABILITY) {
            *capability = xattr::without_rootid(std::mem::take(capability));
        }
        if xattrs.values().any(|value| value.len() > xattr::VALUE_MAX) {
            return Err("extended attribute");
        }
        let mtime = match extended.mtime {
            Some(mtime) => mtime,
            None => Mtime { seconds: self.signed(MTIME).ok_or("mtime")?, nanoseconds: 0 },
        };
        let mode = self.number(MODE).ok_or("mode")?;
        Ok(Metadata {
            mode: u32::try_from(mode & 0o7777).map_err(|_| "mode")?,
            uid: id(extended.uid, UID, "uid")?,
            gid: id(extended.gid, GID, "gid")?,
            mtime,
            xattrs,
        })
    }
}

fn lossy(name: &[u8]) -> String {
    String::from_utf8_lossy(name).into_owned()
}

/// Makes a path of the archive relative and normal by its text, as containerd's `filepath.Clean` does: a leading `/`
/// is dropped, `..` takes back the name before it, and one that would leave the root is refused.
fn clean(name: &[u8]) -> Result<PathBuf, TarError> {
    let refused = |reason| TarError::Name { entry: lossy(name), reason };
    if name.is_empty() {
        return Err(refused("it is empty"));
    }
    if name.contains(&0) || name.len() > PATH_MAX {
        return Err(refused("it is longer than 4095 bytes or holds a NUL"));
    }
    let mut path = PathBuf::with_capacity(name.len());
    for part in name.split(|byte| *byte == b'/') {
        match part {
            b"" | b"." => {}
            b".." if path.pop() => {}
            b".." => return Err(TarError::Escapes { entry: lossy(name) }),
            _ if part.len() > 255 => return Err(refused("a component is longer than 255 bytes")),
            _ => path.push(OsStr::from_bytes(part)),
        }
    }
    Ok(if path.as_os_str().is_empty() { PathBuf::from(".") } else { path })
}

/// Recognises whiteouts (OCI image spec, layer.md). Names below one, or that would remove `.` or `..`, are refused.
fn whiteout(path: &Path, name: &[u8]) -> Result<Option<Change>, TarError> {
    let refused = || TarError::Whiteout { entry: lossy(name) };
    let Some((directory, last)) = split(path) else { return Ok(None) };
    let mut above = directory.as_os_str().as_bytes().split(|byte| *byte == b'/');
    if above.any(|part| part.starts_with(WHITEOUT.as_bytes())) {
        return Err(refused());
    }
    let last = last.as_bytes();
    let Some(hidden) = last.strip_prefix(WHITEOUT.as_bytes()) else { return Ok(None) };
    if last == OPAQUE.as_bytes() {
        let root = directory.as_os_str().is_empty();
        return Ok(Some(Change::Opaque(if root { PathBuf::from(".") } else { directory.to_owned() })));
    }
    if matches!(hidden, b"" | b"." | b"..") || hidden.starts_with(WHITEOUT.as_bytes()) {
        return Err(refused());
    }
    Ok(Some(Change::Whiteout(directory.join(OsStr::from_bytes(hidden)))))
}
