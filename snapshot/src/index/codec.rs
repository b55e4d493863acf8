//! The binary form of a [`LayerIndex`], in which it is kept on disk.
//!
//! ```text
//! "rbuild-index" · version (1 byte) · number of nodes · nodes · blake3 of everything before (32 bytes)
//! node: bytes shared with the last path · rest of the path · tag · what the tag says
//! ```
//! Numbers are LEB128, byte strings are preceded by their length.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use super::{LayerIndex, Node};
use crate::entry::{Content, Entry, Kind, Metadata, Mtime, Xattrs};
use crate::path::is_normal;

const MAGIC: &[u8] = b"rbuild-index";
const VERSION: u8 = 1;
const DIGEST: usize = 32;

// The low bits of a node's tag.
const DIRECTORY: u8 = 0;
const FILE: u8 = 1;
const SYMLINK: u8 = 2;
const CHAR_DEVICE: u8 = 3;
const BLOCK_DEVICE: u8 = 4;
const FIFO: u8 = 5;
const HARD_LINK: u8 = 6;
const WHITEOUT: u8 = 7;
const OPAQUE: u8 = 8;
const KINDS: u8 = 0x0f;
// Its high bits.
const HAS_CONTENT: u8 = 0x20;
const HAS_XATTRS: u8 = 0x40;
const IS_OPAQUE: u8 = 0x80;

impl LayerIndex {
    /// Serialises the index.
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(64 + self.nodes.len() * 80);
        out.extend(MAGIC);
        out.push(VERSION);
        number(&mut out, self.nodes.len() as u64);
        let mut last: &[u8] = &[];
        for (path, node) in &self.nodes {
            let path = path.as_os_str().as_bytes();
            let shared = path.iter().zip(last).take_while(|(a, b)| a == b).count();
            number(&mut out, shared as u64);
            string(&mut out, &path[shared..]);
            encode_node(&mut out, node);
            last = path;
        }
        let digest = blake3::hash(&out);
        out.extend(digest.as_bytes());
        out
    }

    /// Reads what [`LayerIndex::encode`] wrote. Anything else is an error that says what is wrong with it.
    pub fn decode(bytes: &[u8]) -> Result<Self, &'static str> {
        let (body, digest) = bytes.split_at_checked(bytes.len().saturating_sub(DIGEST)).ok_or(SHORT)?;
        let body = body.strip_prefix(MAGIC).ok_or("not an index")?;
        let (version, mut rest) = body.split_first().ok_or(SHORT)?;
        if *version != VERSION {
            return Err("an index of another version");
        }
        if blake3::hash(&bytes[..bytes.len() - DIGEST]) != *digest {
            return Err("its digest is wrong");
        }
        let input = &mut rest;
        let mut nodes = Vec::new();
        let mut last: Vec<u8> = Vec::new();
        for _ in 0..take_number(input)? {
            let shared = usize::try_from(take_number(input)?).map_err(|_| SHORT)?;
            if shared > last.len() {
                return Err("a path shares more than there is");
            }
            last.truncate(shared);
            last.extend(take_string(input)?);
            let path = take_path(&last)?;
            if nodes.last().is_some_and(|(before, _)| *before >= path) {
                return Err("its paths are not sorted");
            }
            nodes.push((path, decode_node(input)?));
        }
        if !input.is_empty() {
            return Err("bytes after the last node");
        }
        Ok(nodes.into_iter().collect::<BTreeMap<_, _>>().into())
    }
}

const SHORT: &str = "it ends too early";

fn encode_node(out: &mut Vec<u8>, node: &Node) {
    let (entry, content, opaque) = match node {
        Node::Entry { entry, content, opaque } => (entry, content, *opaque),
        Node::HardLink { target } => {
            out.push(HARD_LINK);
            return string(out, target.as_os_str().as_bytes());
        }
        Node::Whiteout => return out.push(WHITEOUT),
        Node::Opaque => return out.push(OPAQUE),
    };
    let kind = match entry.kind {
        Kind::Directory => DIRECTORY,
        Kind::File { .. } => FILE,
        Kind::Symlink { .. } => SYMLINK,
        Kind::CharDevice { .. } => CHAR_DEVICE,
        Kind::BlockDevice { .. } => BLOCK_DEVICE,
        Kind::Fifo => FIFO,
    };
    let flag = |set: bool, bit: u8| if set { bit } else { 0 };
    let metadata = &entry.metadata;
    out.push(
        kind | flag(content.is_some(), HAS_CONTENT)
            | flag(!metadata.xattrs.is_empty(), HAS_XATTRS)
            | flag(opaque, IS_OPAQUE),
    );
    match &entry.kind {
        Kind::Directory | Kind::Fifo => {}
        Kind::File { size } => number(out, *size),
        Kind::Symlink { target } => string(out, target),
        Kind::CharDevice { major, minor } | Kind::BlockDevice { major, minor } => {
            number(out, u64::from(*major));
            number(out, u64::from(*minor));
        }
    }
    for value in [metadata.mode, metadata.uid, metadata.gid, metadata.mtime.nanoseconds] {
        number(out, u64::from(value));
    }
    out.extend(metadata.mtime.seconds.to_le_bytes());
    if !metadata.xattrs.is_empty() {
        number(out, metadata.xattrs.len() as u64);
        for (name, value) in &metadata.xattrs {
            string(out, name);
            string(out, value);
        }
    }
    if let Some(Content(digest)) = content {
        out.extend(digest);
    }
}

fn decode_node(input: &mut &[u8]) -> Result<Node, &'static str> {
    let tag = take(input, 1)?[0];
    let kind = match tag & KINDS {
        DIRECTORY => Kind::Directory,
        FILE => Kind::File { size: take_number(input)? },
        SYMLINK => Kind::Symlink { target: take_string(input)?.to_vec() },
        CHAR_DEVICE => Kind::CharDevice { major: take_u32(input)?, minor: take_u32(input)? },
        BLOCK_DEVICE => Kind::BlockDevice { major: take_u32(input)?, minor: take_u32(input)? },
        FIFO => Kind::Fifo,
        HARD_LINK => return Ok(Node::HardLink { target: take_path(take_string(input)?)? }),
        WHITEOUT => return Ok(Node::Whiteout),
        OPAQUE => return Ok(Node::Opaque),
        _ => return Err("a node of unknown type"),
    };
    let (mode, uid, gid) = (take_u32(input)?, take_u32(input)?, take_u32(input)?);
    let nanoseconds = take_u32(input)?;
    let seconds = i64::from_le_bytes(take_array(input)?);
    let mut xattrs = Xattrs::new();
    if tag & HAS_XATTRS != 0 {
        for _ in 0..take_number(input)? {
            let name = take_string(input)?.to_vec();
            xattrs.insert(name, take_string(input)?.to_vec());
        }
    }
    let content = if tag & HAS_CONTENT == 0 { None } else { Some(Content(take_array(input)?)) };
    let metadata = Metadata { mode, uid, gid, mtime: Mtime { seconds, nanoseconds }, xattrs };
    Ok(Node::Entry { entry: Entry { kind, metadata }, content, opaque: tag & IS_OPAQUE != 0 })
}

fn number(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push(value.to_le_bytes()[0] | 0x80);
        value >>= 7;
    }
    out.push(value.to_le_bytes()[0]);
}

fn string(out: &mut Vec<u8>, bytes: &[u8]) {
    number(out, bytes.len() as u64);
    out.extend(bytes);
}

fn take<'a>(input: &mut &'a [u8], count: usize) -> Result<&'a [u8], &'static str> {
    let (taken, rest) = input.split_at_checked(count).ok_or(SHORT)?;
    *input = rest;
    Ok(taken)
}

fn take_array<const N: usize>(input: &mut &[u8]) -> Result<[u8; N], &'static str> {
    take(input, N)?.try_into().map_err(|_| SHORT)
}

fn take_number(input: &mut &[u8]) -> Result<u64, &'static str> {
    let mut value = 0;
    for shift in (0..64).step_by(7) {
        let byte = take(input, 1)?[0];
        value |= u64::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            return Ok(value);
        }
    }
    Err("a number is too long")
}

fn take_u32(input: &mut &[u8]) -> Result<u32, &'static str> {
    take_number(input)?.try_into().map_err(|_| "a number is too large")
}

fn take_string<'a>(input: &mut &'a [u8]) -> Result<&'a [u8], &'static str> {
    let length = usize::try_from(take_number(input)?).map_err(|_| SHORT)?;
    take(input, length)
}

fn take_path(bytes: &[u8]) -> Result<PathBuf, &'static str> {
    let path = Path::new(OsStr::from_bytes(bytes));
    if is_normal(path) || bytes == b"." { Ok(path.to_owned()) } else { Err("a path is not normal") }
}
