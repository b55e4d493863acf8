//! A layer's tar stream → changes.
//!
//! Readers of tar disagree, and attackers live on that (CVE-2025-62518): this one takes an archive as GNU tar does, or
//! refuses it. Paths are made relative and normal by their text; what they lead to is the sink's concern.

use std::io::{self, BufRead, BufReader, Read};

use super::header::{BLOCK, padding};
use super::member::{Change, HEADER_PARTS, Header, MORE_PARTS, Member, SIZE};
use super::pax::{self, Extended};
use super::sparse::{MAP_MAX, Sparse};
use crate::{ChangeSink, Error};

/// The largest PAX or long-name header in bytes: sixteen attributes of the largest size that the VFS has.
const EXTENDED_MAX: u64 = 1024 * 1024;

/// Bytes decompressed at once. An inflater carries its window from one call to the next: in pieces of 64 KiB that
/// makes it a tenth slower. It is still small enough for a core's own cache, where it is digested and written from.
const BUFFER: usize = 256 * 1024;

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
    NoHeader {
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
    /// The map of a sparse file is malformed or hostile.
    #[error("the map of the sparse file `{entry}` {reason}")]
    Sparse {
        /// The entry.
        entry: String,
        /// What is wrong with it.
        reason: &'static str,
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
/// Whiteouts, hard links, GNU long names, PAX headers and sparse files, whose holes become zeros, are understood;
/// attributes that belong to the host (see the crate's `xattr` rules) and character devices 0:0, which are overlay's
/// whiteouts, are dropped.
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
    let mut stream = Stream { inner: BufReader::with_capacity(BUFFER, tar), offset: 0, filled: 0, limits };
    let mut entries = 0;
    while let Some((header, extended)) = stream.next_entry()? {
        entries += 1;
        if entries > limits.entries {
            return Err(Error::Limit { what: "the number of the layer's entries", limit: limits.entries }.into());
        }
        let member = header.member(extended).map_err(Error::Tar)?;
        let size = member.size;
        if let Change::Sparse(_, sparse) = &member.change {
            stream.filled = stream.filled.saturating_add(sparse.size);
        }
        stream.announce(size)?;
        let mut content = (&mut stream.inner).take(size);
        pass(member, &mut content, sink)?;
        let left = content.limit();
        stream.skip(left + padding(size) as u64)?;
        stream.offset += size + padding(size) as u64;
    }
    stream.drain()?;
    Ok(())
}

fn pass<S: ChangeSink>(member: Member, content: &mut io::Take<impl BufRead>, sink: &mut S) -> Result<(), S::Error>
where
    S::Error: From<Error>,
{
    match member.change {
        Change::Sparse(entry, sparse) => {
            let mut whole = sparse.expand(&member.path, content).map_err(Error::Tar)?;
            sink.entry(&member.path, &entry, &mut whole)
        }
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
    /// The sizes of the sparse files so far, of which few bytes may be stored.
    filled: u64,
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
                    if header.kind() == b'S' && extended.sparse.replace(self.gnu_sparse(&header)?).is_some() {
                        return Err(TarError::Extended { reason: "a second map of a sparse file" }.into());
                    }
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
        if header.has_right_sum() { Ok(Some(header)) } else { Err(TarError::NoHeader { offset }.into()) }
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

    /// Reads the map of a sparse file of GNU's old form: the header holds its beginning, further blocks the rest.
    fn gnu_sparse(&mut self, header: &Header) -> Result<Sparse, Error> {
        let malformed = || TarError::Extended { reason: "a malformed map of a sparse file" };
        let size = header.real_size().ok_or_else(malformed)?;
        let mut parts = Vec::new();
        let mut goes_on = header.parts(HEADER_PARTS, &mut parts).ok_or_else(malformed)?;
        let mut left = MAP_MAX;
        while goes_on {
            left = left
                .checked_sub(BLOCK as u64)
                .ok_or(Error::Limit { what: "the size in bytes of a sparse map", limit: MAP_MAX })?;
            let block = self.block()?.ok_or(TarError::Truncated)?;
            goes_on = Header(block).parts(MORE_PARTS, &mut parts).ok_or_else(malformed)?;
        }
        Ok(Sparse { size, parts: Some(parts) })
    }

    /// Refuses what would exceed the limit before it is read.
    fn announce(&self, bytes: u64) -> Result<(), Error> {
        if self.offset.saturating_add(self.filled).saturating_add(bytes) > self.limits.bytes {
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
