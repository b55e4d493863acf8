//! The files of a layout: in a directory, or in a tar archive that is read in place.

use std::collections::BTreeMap;
use std::io::{self, Read, Seek, SeekFrom};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use snapshot::layer;

/// Most entries of an archive: an image has one for each layer and a few more.
const ENTRY_LIMIT: usize = 100_000;
/// Most links from one name of an archive to another.
const LINK_LIMIT: usize = 8;

/// Files by name.
#[derive(Debug)]
pub(super) enum Files {
    Directory(PathBuf),
    Archive { file: Arc<std::fs::File>, entries: BTreeMap<String, Member> },
}

/// What an archive has under a name.
#[derive(Debug)]
pub(super) enum Member {
    /// Where its bytes lie.
    File { offset: u64, size: u64 },
    /// Another name.
    Link(String),
}

impl Files {
    /// Reads the table of an archive; one that is compressed is unpacked into an unnamed file first.
    pub(super) fn archive(path: &Path) -> io::Result<Self> {
        let mut file = fs_err::File::open(path)?.into_file();
        let mut magic = [0; 4];
        let read = file.read(&mut magic)?;
        file.seek(SeekFrom::Start(0))?;
        if matches!(&magic[..read], [0x1f, 0x8b, ..] | [0x28, 0xb5, 0x2f, 0xfd]) {
            let mut plain = tempfile::tempfile()?;
            let mut tar = layer::decompress(file, layer::Limits::default().bytes).map_err(io::Error::other)?;
            io::copy(&mut tar, &mut plain)?;
            plain.seek(SeekFrom::Start(0))?;
            file = plain;
        }
        let entries = table(&mut file)?;
        Ok(Self::Archive { file: Arc::new(file), entries })
    }

    /// Opens a file; `name` is relative and has no `..`.
    pub(super) fn open(&self, name: &str) -> io::Result<Box<dyn Read + Send>> {
        let (file, entries) = match self {
            Self::Directory(path) => return Ok(Box::new(fs_err::File::open(path.join(name))?)),
            Self::Archive { file, entries } => (file, entries),
        };
        let mut name = name;
        for _ in 0..=LINK_LIMIT {
            match entries.get(name) {
                Some(Member::Link(target)) => name = target,
                Some(Member::File { offset, size }) => {
                    return Ok(Box::new(Part { file: Arc::clone(file), at: *offset, end: *offset + *size }));
                }
                None => break,
            }
        }
        Err(io::Error::new(io::ErrorKind::NotFound, format!("the archive has no file `{}`", name.escape_default())))
    }

    /// Whether there is a file of this name.
    pub(super) fn has(&self, name: &str) -> bool {
        match self {
            Self::Directory(path) => path.join(name).exists(),
            Self::Archive { entries, .. } => entries.contains_key(name),
        }
    }
}

/// Lists the files of a tar archive and where they lie.
fn table(file: &mut std::fs::File) -> io::Result<BTreeMap<String, Member>> {
    let mut entries = BTreeMap::new();
    let mut archive = tar::Archive::new(file);
    for entry in archive.entries_with_seek()? {
        let entry = entry?;
        if entries.len() >= ENTRY_LIMIT {
            return Err(io::Error::other(format!("the archive has more than {ENTRY_LIMIT} entries")));
        }
        let path = entry.path()?.into_owned();
        let Some(name) = plain_name(Path::new(""), &path) else { continue };
        let link = |from: &Path| {
            let target = entry.link_name().ok().flatten()?;
            plain_name(from, &target)
        };
        let member = match entry.header().entry_type() {
            tar::EntryType::Regular => Some(Member::File { offset: entry.raw_file_position(), size: entry.size() }),
            tar::EntryType::Link => link(Path::new("")).map(Member::Link),
            tar::EntryType::Symlink => link(path.parent().unwrap_or(Path::new(""))).map(Member::Link),
            _ => None,
        };
        if let Some(member) = member {
            entries.insert(name, member);
        }
    }
    Ok(entries)
}

/// A path below `base` as one relative name without `.` and `..`; none if it leaves the archive.
fn plain_name(base: &Path, path: &Path) -> Option<String> {
    let mut parts: Vec<&str> = Vec::new();
    for part in base.components().chain(path.components()) {
        match part {
            std::path::Component::Normal(part) => parts.push(part.to_str()?),
            std::path::Component::ParentDir => drop(parts.pop()?),
            std::path::Component::CurDir => {}
            std::path::Component::RootDir | std::path::Component::Prefix(_) => return None,
        }
    }
    Some(parts.join("/"))
}

/// A part of a file, read without moving the file's own position.
struct Part {
    file: Arc<std::fs::File>,
    at: u64,
    end: u64,
}

impl Read for Part {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let left = usize::try_from(self.end - self.at).unwrap_or(usize::MAX).min(buffer.len());
        let count = self.file.read_at(&mut buffer[..left], self.at)?;
        self.at += count as u64;
        Ok(count)
    }
}
