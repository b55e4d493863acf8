//! The archives that ADD unpacks: tar, plain or compressed with gzip, bzip2, xz or zstd, known by content.

use std::io::{self, Read, Seek, SeekFrom};

use snapshot::{Active, ChangeSink, Entry, Flavour, IndexWriter, TreeWriter, View, layer, path};

use super::World;
use super::error::Cause;

/// The size of a tar header (POSIX.1-2017, pax, "ustar Interchange Format").
const BLOCK: usize = 512;

/// A file that is an archive.
pub(super) struct Archive {
    file: std::fs::File,
    /// Locked: no other process takes it for a dead one's.
    room: Active,
}

/// An unpacked archive.
pub(super) struct Unpacked {
    /// What it holds.
    pub(super) view: View,
    /// Where its files are.
    pub(super) root: path::Root,
}

/// Says whether a file is an archive: whether its (decompressed) bytes begin with a tar header.
pub(super) fn open(world: &World<'_>, mut file: std::fs::File) -> Result<Option<Archive>, Cause> {
    let mut block = [0; BLOCK];
    let is_tar = decompress(&mut file).and_then(|mut tar| tar.read_exact(&mut block)).is_ok() && is_header(&block);
    if !is_tar {
        return Ok(None);
    }
    file.seek(SeekFrom::Start(0))?;
    Ok(Some(Archive { file, room: world.store.snapshots().prepare()? }))
}

impl Archive {
    /// Unpacks it into a directory that goes with it.
    pub(super) fn unpack(&self) -> Result<Unpacked, snapshot::Error> {
        let mut file = &self.file;
        let mut sink =
            Indexed { tree: TreeWriter::new(self.room.upper(), Flavour::Plain)?, index: IndexWriter::default() };
        layer::read(&mut decompress(&mut file)?, &mut sink)?;
        sink.tree.finish()?;
        let view = View::new(vec![sink.index.finish().into()]);
        Ok(Unpacked { view, root: path::Root::open(self.room.upper())? })
    }
}

fn is_header(block: &[u8; BLOCK]) -> bool {
    let header = tar::Header::from_byte_slice(block);
    let sum: u32 =
        block.iter().enumerate().map(|(at, byte)| u32::from(if (148..156).contains(&at) { b' ' } else { *byte })).sum();
    header.cksum().is_ok_and(|expected| expected == sum) && block[0] != 0
}

/// The file's bytes, decompressed by what they begin with.
fn decompress<'a>(file: &'a mut (impl Read + Seek + Send + 'a)) -> io::Result<Box<dyn Read + Send + 'a>> {
    let mut magic = [0; 6];
    let read = file.read(&mut magic)?;
    file.seek(SeekFrom::Start(0))?;
    Ok(match &magic[..read] {
        [b'B', b'Z', b'h', ..] => Box::new(bzip2::read::MultiBzDecoder::new(file)),
        [0xfd, b'7', b'z', b'X', b'Z', 0] => Box::new(lzma_rust2::XzReader::new(file, true)),
        _ => layer::decompress(file, layer::Limits::default().bytes).map_err(io::Error::other)?,
    })
}

/// Keeps the index of what goes into a tree.
struct Indexed {
    tree: TreeWriter,
    index: IndexWriter,
}

impl ChangeSink for Indexed {
    type Error = snapshot::Error;

    fn entry(&mut self, path: &std::path::Path, entry: &Entry, content: &mut dyn Read) -> Result<(), snapshot::Error> {
        self.index.put(path, entry, None)?;
        self.tree.entry(path, entry, content)
    }

    fn hard_link(&mut self, path: &std::path::Path, target: &std::path::Path) -> Result<(), snapshot::Error> {
        self.index.hard_link(path, target)?;
        self.tree.hard_link(path, target)
    }

    fn whiteout(&mut self, path: &std::path::Path) -> Result<(), snapshot::Error> {
        self.tree.whiteout(path)
    }

    fn opaque(&mut self, directory: &std::path::Path) -> Result<(), snapshot::Error> {
        self.tree.opaque(directory)
    }
}
