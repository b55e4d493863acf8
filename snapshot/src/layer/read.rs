//! A layer's tar stream → changes.
//!
//! Readers of tar disagree, and attackers live on that (CVE-2025-62518): this one takes an archive as GNU tar does, or
//! refuses it. Paths are made relative and normal by their text; what they lead to is the sink's concern.

use std::ffi::OsStr;
use std::io::{self, BufReader, Read};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use super::header::{BLOCK, OPAQUE, WHITEOUT, padding};
use super::pax::{self, Extended};
use crate::entry::{Entry, Kind, Metadata, Mtime};
use crate::{ChangeSink, Error, xattr};

/// The largest PAX or long-name header in bytes: sixteen attributes of the largest size that the VFS has.
const EXTENDED_MAX: u64 = 1024 * 1024;

/// The longest path in bytes: Linux's `PATH_MAX`, less its NUL.
const PATH_MAX: usize = 4095;

/// How much a layer may hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Bytes of the uncompressed stream.
    pub bytes: u64,
    /// Entries, each of which costs an inode and some 300 bytes of memory.
    pub entries: u64,
}

impl Default for Limits {
    /// 64 GiB and a million entries: several times the largest layers in use.
    fn default() -> Self {
        Self { bytes: 64 << 30, entries: 1_000_000 }
    }
}

/// Why a tar stream is refused.
#[derive(Debug, thiserror::Error)]
pub enum TarError {
    /// The stream could not be read.
    #[error("cannot read the stream")]
    Read(#[from] io::Error),
    /// The stream ends inside an entry.
    #[error("the stream ends inside an entry")]
    Truncated,
    /// A header's sum of bytes is wrong: this is no header.
    #[error("the block at byte {offset} is no tar header")]
    Checksum {
        /// Where the block begins.
        offset: u64,
    },
    /// A single block of zeros is followed by something.
    #[error("the archive goes on after a block of zeros")]
    LoneZeroBlock,
    /// A field of a header does not hold what it should.
    #[error("the header of `{entry}` has a wrong {field}")]
    Field {
        /// The entry, as the archive names it.
        entry: String,
        /// The field.
        field: &'static str,
    },
    /// A PAX or GNU header that extends the next entry is malformed or repeated.
    #[error("an extended header holds {reason}")]
    Extended {
        /// What is wrong with it.
        reason: &'static str,
    },
    /// The entry is of a type that a layer cannot hold.
    #[error("`{entry}` is an entry of type {kind:?}, which a layer cannot hold")]
    Kind {
        /// The entry, as the archive names it.
        entry: String,
        /// The type, as the header has it.
        kind: char,
    },
    /// The path leads out of the root.
    #[error("`{entry}` leads out of the root")]
    Escapes {
        /// The path, as the archive has it.
        entry: String,
    },
    /// The path cannot be a file's name.
    #[error("`{entry}` cannot name a file: {reason}")]
    Name {
        /// The path, as the archive has it.
        entry: String,
        /// Why not.
        reason: &'static str,
    },
    /// The name begins with `.wh.` but is no whiteout.
    #[error("`{entry}` is a malformed whiteout")]
    Whiteout {
        /// The path, as the archive has it.
        entry: String,
    },
}

/// Reads an uncompressed tar stream to its end and passes its changes to `sink`, in the stream's order, with the
/// default [`Limits`].
///
/// Whiteouts, hard links, GNU long names and PAX headers are understood; attributes that belong to the host (see the
/// crate's `xattr` rules) and character devices 0:0, which are overlay's whiteouts, are dropped.
pub fn read<S: ChangeSink>(tar: &mut dyn Read, sink: &mut S) -> Result<(), S::Error>
where
    S::Error: From<Error>,
{
    read_limited(tar, Limits::default(), sink)
}

/// Does [`read`] with other limits.
pub fn read_limited<S: ChangeSink>(tar: &mut dyn Read, limits: Limits, sink: &mut S) -> Result<(), S::Error>
where
    S::Error: From<Error>,
{
    let mut stream = Stream { inner: BufReader::with_capacity(64 * 1024, tar), offset: 0, limits };
    let mut entries = 0;
    while let Some((header, extended)) = stream.next_entry()? {
        entries += 1;
        if entries > limits.entries {
            return Err(Error::Limit { what: "the number of the layer's entries", limit: limits.entries }.into());
        }
        let member = header.member(extended).map_err(Error::Tar)?;
        let size = member.size;
        stream.announce(size)?;
        let mut content = (&mut stream.inner).take(size);
        pass(member, &mut content, sink)?;
        let left = content.limit();
        stream.skip(left)?;
        stream.skip(padding(size) as u64)?;
        stream.offset += size + padding(size) as u64;
    }
    stream.drain()?;
    Ok(())
}

/// One member of the archive, understood.
struct Member {
    path: PathBuf,
    change: Change,
    /// Bytes that follow in the stream.
    size: u64,
}

enum Change {
    Entry(Entry),
    HardLink(PathBuf),
    Whiteout(PathBuf),
    Opaque(PathBuf),
    /// Overlay's own mark, which must not become one.
    Dropped,
}

fn pass<S: ChangeSink>(member: Member, content: &mut dyn Read, sink: &mut S) -> Result<(), S::Error> {
    match member.change {
        Change::Entry(entry) => sink.entry(&member.path, &entry, content),
        Change::HardLink(target) => sink.hard_link(&member.path, &target),
        Change::Whiteout(path) => sink.whiteout(&path),
        Change::Opaque(directory) => sink.opaque(&directory),
        Change::Dropped => Ok(()),
    }
}

struct Stream<'a> {
    inner: BufReader<&'a mut dyn Read>,
    offset: u64,
    limits: Limits,
}

impl Stream<'_> {
    /// Returns the next header that describes a file, with what the headers before it say about it.
    fn next_entry(&mut self) -> Result<Option<(Header, Extended)>, Error> {
        let mut extended: Option<Extended> = None;
        let mut long_name = None;
        let mut long_link = None;
        while let Some(header) = self.header()? {
            match header.kind() {
                b'x' if extended.is_none() => {
                    let records = self.extended(&header)?;
                    extended = Some(pax::parse(&records).map_err(|reason| TarError::Extended { reason })?);
                }
                b'g' => {
                    let records = self.extended(&header)?;
                    pax::check_global(&records).map_err(|reason| TarError::Extended { reason })?;
                }
                b'L' if long_name.is_none() => long_name = Some(self.long(&header)?),
                b'K' if long_link.is_none() => long_link = Some(self.long(&header)?),
                b'x' | b'L' | b'K' => return Err(TarError::Extended { reason: "what another one already said" }.into()),
                _ => {
                    let mut extended = extended.unwrap_or_default();
                    let twice = (extended.path.is_some() && long_name.is_some())
                        || (extended.linkpath.is_some() && long_link.is_some());
                    if twice {
                        return Err(TarError::Extended { reason: "a second path for one entry" }.into());
                    }
                    extended.path = extended.path.or(long_name);
                    extended.linkpath = extended.linkpath.or(long_link);
                    return Ok(Some((header, extended)));
                }
            }
        }
        if extended.is_some() || long_name.is_some() || long_link.is_some() {
            return Err(TarError::Truncated.into());
        }
        Ok(None)
    }

    /// Returns the next header; `None` at the end of the archive.
    fn header(&mut self) -> Result<Option<Header>, Error> {
        let Some(block) = self.block()? else { return Ok(None) };
        if block == [0; BLOCK] {
            return match self.block()? {
                Some(block) if block != [0; BLOCK] => Err(TarError::LoneZeroBlock.into()),
                _ => Ok(None),
            };
        }
        let header = Header(block);
        let offset = self.offset - BLOCK as u64;
        if header.has_right_sum() { Ok(Some(header)) } else { Err(TarError::Checksum { offset }.into()) }
    }

    /// Reads a block; `None` when the stream ends before it.
    fn block(&mut self) -> Result<Option<[u8; BLOCK]>, Error> {
        self.announce(BLOCK as u64)?;
        let mut block = [0; BLOCK];
        let mut filled = 0;
        while filled < BLOCK {
            match self.inner.read(&mut block[filled..]) {
                Ok(0) if filled == 0 => return Ok(None),
                Ok(0) => return Err(TarError::Truncated.into()),
                Ok(read) => filled += read,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(TarError::Read(error).into()),
            }
        }
        self.offset += BLOCK as u64;
        Ok(Some(block))
    }

    /// Reads the data of a header that extends the next one.
    fn extended(&mut self, header: &Header) -> Result<Vec<u8>, Error> {
        let size = header.number(SIZE).ok_or(TarError::Extended { reason: "a wrong size" })?;
        if size > EXTENDED_MAX {
            return Err(Error::Limit { what: "the size in bytes of an extended tar header", limit: EXTENDED_MAX });
        }
        let mut data = Vec::new();
        (&mut self.inner).take(size).read_to_end(&mut data).map_err(TarError::Read)?;
        if data.len() as u64 != size {
            return Err(TarError::Truncated.into());
        }
        self.skip(padding(size) as u64)?;
        self.offset += size + padding(size) as u64;
        Ok(data)
    }

    /// Reads a GNU long name: it ends at its first NUL.
    fn long(&mut self, header: &Header) -> Result<Vec<u8>, Error> {
        let mut name = self.extended(header)?;
        name.truncate(name.iter().position(|byte| *byte == 0).unwrap_or(name.len()));
        if name.is_empty() {
            return Err(TarError::Extended { reason: "an empty name" }.into());
        }
        Ok(name)
    }

    /// Refuses what would exceed the limit before it is read.
    fn announce(&self, bytes: u64) -> Result<(), Error> {
        if self.offset.saturating_add(bytes) > self.limits.bytes {
            return Err(Error::Limit { what: "the size in bytes of the uncompressed layer", limit: self.limits.bytes });
        }
        Ok(())
    }

    fn skip(&mut self, bytes: u64) -> Result<(), Error> {
        let skipped = io::copy(&mut (&mut self.inner).take(bytes), &mut io::sink()).map_err(TarError::Read)?;
        if skipped == bytes { Ok(()) } else { Err(TarError::Truncated.into()) }
    }

    /// Reads what follows the archive, which belongs to the layer's digest.
    fn drain(&mut self) -> Result<(), Error> {
        let left = self.limits.bytes.saturating_sub(self.offset);
        let rest = io::copy(&mut (&mut self.inner).take(left.saturating_add(1)), &mut io::sink());
        self.announce(rest.map_err(TarError::Read)?)
    }
}

type Range = std::ops::Range<usize>;
const NAME: Range = 0..100;
const MODE: Range = 100..108;
const UID: Range = 108..116;
const GID: Range = 116..124;
const SIZE: Range = 124..136;
const MTIME: Range = 136..148;
const SUM: Range = 148..156;
const KIND: usize = 156;
const LINK: Range = 157..257;
const MAGIC: Range = 257..265;
const MAJOR: Range = 329..337;
const MINOR: Range = 337..345;
const PREFIX: Range = 345..500;

struct Header([u8; BLOCK]);

impl Header {
    fn kind(&self) -> u8 {
        self.0[KIND]
    }

    /// Whether the sum of the bytes, as signed or unsigned numbers (both exist), is the one that the header says.
    fn has_right_sum(&self) -> bool {
        let Some(said) = self.number(SUM) else { return false };
        let bytes = self.0.iter().enumerate().map(|(at, byte)| if SUM.contains(&at) { b' ' } else { *byte });
        let (unsigned, signed) = bytes.fold((0, 0), |(unsigned, signed), byte| {
            (unsigned + i64::from(byte), signed + i64::from(byte.cast_signed()))
        });
        i64::try_from(said).is_ok_and(|said| said == unsigned || said == signed)
    }

    /// Reads a field as a number that is not negative.
    fn number(&self, field: Range) -> Option<u64> {
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
    fn member(&self, extended: Extended) -> Result<Member, TarError> {
        let name = extended.path.clone().unwrap_or_else(|| self.name());
        let link = extended.linkpath.clone().unwrap_or_else(|| self.text(LINK).to_vec());
        let wrong = |field| TarError::Field { entry: lossy(&name), field };
        let is_file = matches!(self.kind(), b'0' | b'7' | 0) && !name.ends_with(b"/");
        let size = match extended.size {
            Some(size) => size,
            None => self.number(SIZE).ok_or_else(|| wrong("size"))?,
        };
        // Only regular files have data, whatever the field says (GNU tar, Go and Python agree).
        let size = if is_file { size } else { 0 };
        let path = clean(&name)?;
        if let Some(change) = whiteout(&path, &name)? {
            return Ok(Member { path, change, size });
        }
        let device = || {
            let part = |field| self.number(field).and_then(|number| u32::try_from(number).ok());
            part(MAJOR).zip(part(MINOR)).ok_or_else(|| wrong("device number"))
        };
        let kind = match self.kind() {
            _ if is_file => Kind::File { size },
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
        Ok(Member { path, change: Change::Entry(Entry { kind, metadata }), size })
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
    let mut path = PathBuf::new();
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
    let directory = path.parent().unwrap_or(Path::new(""));
    if directory.iter().any(|part| part.as_bytes().starts_with(WHITEOUT.as_bytes())) {
        return Err(refused());
    }
    let last = path.file_name().unwrap_or_default().as_bytes();
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
