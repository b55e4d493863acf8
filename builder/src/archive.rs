//! The archives that ADD unpacks and contexts come in: tar, plain or compressed with gzip, bzip2, xz or zstd, known by content.

use std::ffi::OsString;
use std::io::{self, BufRead, Read, Seek, SeekFrom};
use std::path::Path;

use snapshot::{ChangeSink, Entry, Flavour, IndexWriter, Kind, TreeWriter, View, layer, path};

use crate::sandbox::{Cancel, UntilCancelled};

/// The size of a tar header (POSIX.1-2017, pax, "ustar Interchange Format").
const BLOCK: usize = 512;

/// A file that is an archive.
#[derive(Debug)]
pub struct Archive {
    file: std::fs::File,
}

/// An unpacked archive.
#[derive(Debug)]
pub struct Unpacked {
    /// What it holds.
    pub view: View,
    /// Where its files are.
    pub root: path::Root,
}

impl Unpacked {
    /// When the newest of its entries changed, in seconds since 1970.
    pub fn newest(&self) -> Option<i64> {
        self.view.walk(Path::new("")).map(|(_, found)| found.entry.metadata.mtime.seconds).max()
    }
}

/// Whom unpacked files belong to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Owners {
    /// Those whom the archive names, by the view; on disk this process.
    Archive,
    /// This process.
    Ours,
}

/// Says whether a file is an archive: whether its (decompressed) bytes begin with a tar header.
pub fn open(mut file: std::fs::File) -> io::Result<Option<Archive>> {
    let mut block = [0; BLOCK];
    file.seek(SeekFrom::Start(0))?;
    let is_tar = decompress(&mut file).and_then(|mut tar| tar.read_exact(&mut block)).is_ok() && is_header(&block);
    if !is_tar {
        return Ok(None);
    }
    file.seek(SeekFrom::Start(0))?;
    Ok(Some(Archive { file }))
}

impl Archive {
    /// Unpacks it into an empty directory; fails when the build is cancelled.
    pub fn unpack(&self, directory: &Path, owners: Owners, cancel: &Cancel) -> Result<Unpacked, snapshot::Error> {
        let mut file = &self.file;
        let tree = TreeWriter::new(directory, Flavour::Plain)?;
        let mut sink = Indexed { tree, index: IndexWriter::default(), owners, cancel };
        layer::read(&mut UntilCancelled(decompress(&mut file)?, cancel), &mut sink)?;
        sink.tree.finish()?;
        let view = View::new(vec![sink.index.finish().into()]);
        Ok(Unpacked { view, root: path::Root::open(directory)? })
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
struct Indexed<'a> {
    tree: TreeWriter,
    index: IndexWriter,
    owners: Owners,
    cancel: &'a Cancel,
}

impl ChangeSink for Indexed<'_> {
    type Error = snapshot::Error;

    fn entry(&mut self, path: &Path, entry: &Entry, content: &mut dyn BufRead) -> Result<(), snapshot::Error> {
        self.index.put(path, entry, None)?;
        let mut ours = entry.clone();
        // The index says what an archive's owner or device is: not every sandbox can give or make one.
        if self.owners == Owners::Archive && matches!(entry.kind, Kind::CharDevice { .. } | Kind::BlockDevice { .. }) {
            ours.kind = Kind::File { size: 0 };
        }
        (ours.metadata.uid, ours.metadata.gid) =
            (rustix::process::geteuid().as_raw(), rustix::process::getegid().as_raw());
        // For the holes of a sparse file nothing is read of the archive.
        self.tree.entry(path, &ours, &mut UntilCancelled(content, self.cancel))
    }

    fn hard_link(&mut self, path: &Path, target: &Path) -> Result<(), snapshot::Error> {
        self.index.hard_link(path, target)?;
        self.tree.hard_link(path, target)
    }

    // An archive removes nothing: to whoever made it these were names of files.

    fn whiteout(&mut self, path: &Path) -> Result<(), snapshot::Error> {
        let mut name = OsString::from(".wh.");
        name.push(path.file_name().unwrap_or_default());
        Err(snapshot::Error::ReservedName { path: path.with_file_name(name) })
    }

    fn opaque(&mut self, directory: &Path) -> Result<(), snapshot::Error> {
        Err(snapshot::Error::ReservedName { path: directory.join(".wh..wh..opq") })
    }
}
