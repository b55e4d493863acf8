//! What was selected, entry by entry, as it was when it was looked at: one walk, from which come both the digest that
//! a key is made of and the files that are copied. So a layer holds what its key says, whatever happens meanwhile: a
//! file that is not what was listed any more is an error when its bytes are asked for.

use std::collections::HashMap;
use std::ffi::OsStr;
use std::fs::File;
use std::io::{self, Read};
use std::ops::Range;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::SystemTime;

use snapshot::{Content, Entry, Kind, on_cores};

use super::beneath::{self, Opener};
use super::bytes::FileBytes;
use super::digest::Digester;
use super::error::ContextError;
use super::ignore::Ignore;
use super::local::{LocalContext, Selected};
use super::memo::{self, Identity, Memo};
use super::walk;

#[cfg(test)]
pub(super) mod tests;

/// How many files are read before what was found is put in its place: bounds what is held twice to a few MiB.
const BATCH: usize = 8192;

/// How many bytes are read at once. From 64 KiB on, blake3 runs at its full width.
const BUFFER: usize = 128 * 1024;

/// How many files a thread takes at once.
const RUN: usize = 16;

/// How often a file that shrinks while it is read is read again.
const ATTEMPTS: usize = 3;

/// The entries of what was selected, and their digest.
#[derive(Debug)]
pub struct Listing {
    /// One part for each match, in their order.
    matches: Vec<Range<usize>>,
    items: Vec<Item>,
    digest: blake3::Hash,
    pub(super) opener: Mutex<Opener<Arc<OwnedFd>>>,
}

/// One entry.
#[derive(Debug)]
pub(super) struct Item {
    /// Relative to the context.
    pub(super) path: PathBuf,
    /// The length of what precedes the path relative to the match.
    prefix: usize,
    pub(super) entry: Entry,
    /// What is known of a regular file.
    pub(super) file: Option<FileState>,
    /// Of a file with several names in its match: the item of the first.
    first: Option<usize>,
}

/// A regular file as it was when its bytes were read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct FileState {
    pub(super) identity: Identity,
    pub(super) content: Content,
    /// Whether a file with this identity has this content beyond doubt; see [`Memo`].
    pub(super) is_proof: bool,
}

impl Item {
    fn relative(&self) -> &Path {
        Path::new(OsStr::from_bytes(&self.path.as_os_str().as_bytes()[self.prefix..]))
    }

    fn is_file(&self) -> bool {
        matches!(self.entry.kind, Kind::File { .. })
    }

    /// A file that was removed between the walk and the reading is in no digest and no copy.
    fn is_there(&self) -> bool {
        self.file.is_some() || !self.is_file()
    }
}

/// One entry of a listing.
#[derive(Debug, Clone, Copy)]
pub struct Listed<'a> {
    listing: &'a Arc<Listing>,
    index: usize,
}

impl<'a> Listed<'a> {
    fn item(&self) -> &'a Item {
        &self.listing.items[self.index]
    }

    /// The path relative to the match; empty for the match itself.
    pub fn path(&self) -> &'a Path {
        self.item().relative()
    }

    /// The path, relative to the match, under which the same file came first where it has several names in it: its
    /// own, then.
    pub fn first(&self) -> Option<&'a Path> {
        self.item().first.map(|first| self.listing.items[first].relative())
    }

    /// What it is.
    pub fn entry(&self) -> &'a Entry {
        &self.item().entry
    }

    /// The bytes of a regular file, which were not read to find this out, and their digest.
    pub fn content(&self) -> Option<(FileBytes, Content)> {
        let content = self.item().file?.content;
        Some((FileBytes::new(Arc::clone(self.listing), self.index), content))
    }
}

impl Listing {
    /// The content digest: names relative to each match, types, modes, sizes, link targets, bytes, extended attributes,
    /// which names are links to one file; neither times nor owners.
    pub fn digest(&self) -> blake3::Hash {
        self.digest
    }

    /// The entries of the match `number`: depth-first, parents first, names sorted bytewise.
    pub fn entries(self: &Arc<Self>, number: usize) -> impl Iterator<Item = Listed<'_>> {
        let range = self.matches.get(number).cloned().unwrap_or_default();
        range.map(|index| Listed { listing: self, index }).filter(|listed| listed.item().is_there())
    }

    pub(super) fn item(&self, index: usize) -> &Item {
        &self.items[index]
    }

    /// How many entries it holds in memory.
    pub(super) fn len(&self) -> usize {
        self.items.len()
    }
}

/// Lists `selected`; see [`LocalContext::list`].
pub(super) fn list(
    context: &LocalContext,
    selected: &[Selected],
    exclude: &Ignore,
    memo: &Memo,
) -> Result<Listing, ContextError> {
    let (mut items, mut matches, mut unread) = (Vec::new(), Vec::new(), Vec::new());
    for at in selected {
        let start = items.len();
        let mut links: HashMap<(u64, u64), usize> = HashMap::new();
        walk::walk(context, at, exclude, Some(memo), &mut |found| {
            let index = items.len();
            let has_links = context.keeps_links() && found.stat.has_links();
            let first = has_links.then(|| *links.entry(found.stat.inode()).or_insert(index));
            let identity = found.stat.identity;
            let file = found.content.map(|content| FileState { identity, content, is_proof: true });
            let prefix = found.path.as_os_str().len() - found.relative.as_os_str().len();
            let item = Item { path: found.path.to_owned(), prefix, entry: found.entry, file, first };
            if item.is_file() && file.is_none() && first.is_none_or(|first| first == index) {
                unread.push((index, identity));
            }
            items.push(item);
            Ok::<_, ContextError>(())
        })?;
        matches.push(start..items.len());
    }
    for batch in unread.chunks(BATCH) {
        for (index, read) in read_all(context, memo, &items, batch)? {
            if let Some((entry, file)) = read {
                items[index].file = Some(file);
                items[index].entry = entry;
            } else if items[index].first.is_some() {
                return Err(ContextError::Changed { path: items[index].path.clone() });
            }
        }
    }
    for index in 0..items.len() {
        if let Some(first) = items[index].first.filter(|first| *first != index) {
            items[index].file = items[first].file;
            items[index].entry = items[first].entry.clone();
        }
    }
    let digest = digest(selected, &matches, &items);
    let opener = Mutex::new(Opener::new(Arc::clone(context.root_handle())));
    Ok(Listing { matches, items, digest, opener })
}

fn digest(selected: &[Selected], matches: &[Range<usize>], items: &[Item]) -> blake3::Hash {
    let mut digester = Digester::new();
    for (at, range) in selected.iter().zip(matches) {
        digester.selected(at);
        for index in range.clone() {
            let item = &items[index];
            match item.first {
                Some(first) if first != index => digester.link(item.relative(), items[first].relative()),
                _ if item.is_there() => {
                    digester.entry(item.relative(), &item.entry, item.file.map(|file| file.content));
                }
                _ => {}
            }
        }
    }
    digester.finish()
}

/// A file as it was when it was read; none when it was removed before.
type ReadFile = Option<(Entry, FileState)>;

/// Reads the files with these indices, which were seen with these identities, on all cores.
fn read_all(
    context: &LocalContext,
    memo: &Memo,
    items: &[Item],
    unread: &[(usize, Identity)],
) -> Result<Vec<(usize, ReadFile)>, ContextError> {
    let next = AtomicUsize::new(0);
    // Each thread takes runs of files, most of them in one directory, until none is left.
    let work = || -> Result<Vec<(usize, ReadFile)>, ContextError> {
        let mut opener = Opener::new(context.root());
        let mut buffer = Vec::new();
        let mut read = Vec::new();
        loop {
            let start = next.fetch_add(RUN, Ordering::Relaxed);
            if start >= unread.len() {
                return Ok(read);
            }
            buffer.resize(BUFFER, 0);
            for (index, identity) in unread.iter().skip(start).take(RUN) {
                let seen = (&items[*index], *identity);
                read.push((*index, read_one(context, (&mut opener, &mut buffer), memo, seen)?));
            }
        }
    };
    let mut all = Vec::with_capacity(unread.len());
    for part in on_cores(unread.len().div_ceil(RUN), work) {
        all.extend(part?);
    }
    Ok(all)
}

/// Reads one file, and remembers its digest if it held still.
fn read_one(
    of: &LocalContext,
    (opener, buffer): (&mut Opener<impl AsFd>, &mut [u8]),
    memo: &Memo,
    (item, seen): (&Item, Identity),
) -> Result<ReadFile, ContextError> {
    for _ in 0..ATTEMPTS {
        let hashed = SystemTime::now();
        let file = opener.open(&item.path);
        let Some((mut file, stat)) = gone_or(file, &item.path)? else { return Ok(None) };
        let failed = |source| ContextError::Read { path: item.path.clone(), source };
        let identity = stat.identity;
        let mut entry =
            if identity == seen { item.entry.clone() } else { beneath::entry_of_open(&file, &stat).map_err(failed)? };
        of.set_mode(&mut entry);
        let Some(content) = hash(&mut file, identity.size, buffer).map_err(failed)? else { continue };
        let after = beneath::stat_open(file.as_fd()).map_err(failed)?;
        let is_proof = after.identity == identity && !memo::is_racy(&identity, hashed);
        if is_proof && entry.metadata.xattrs.is_empty() {
            memo.learn(identity, content, hashed);
        }
        return Ok(Some((entry, FileState { identity, content, is_proof })));
    }
    Err(ContextError::Changed { path: item.path.clone() })
}

/// The result of opening a file that was there a moment ago: none if it is gone, an error if it is something else.
pub(super) fn gone_or<T>(opened: io::Result<T>, path: &Path) -> Result<Option<T>, ContextError> {
    let path = || path.to_owned();
    match opened {
        Ok(opened) => Ok(Some(opened)),
        Err(source) => match source.kind() {
            io::ErrorKind::NotFound => Ok(None),
            io::ErrorKind::InvalidInput | io::ErrorKind::NotADirectory => Err(ContextError::Changed { path: path() }),
            _ if beneath::is_link(&source) => Err(ContextError::Changed { path: path() }),
            _ => Err(ContextError::Read { path: path(), source }),
        },
    }
}

/// The blake3 of the first `size` bytes; none when there are fewer.
fn hash(file: &mut File, size: u64, buffer: &mut [u8]) -> io::Result<Option<Content>> {
    let mut hasher = blake3::Hasher::new();
    let mut left = size;
    while left > 0 {
        let wanted = usize::try_from(left).unwrap_or(usize::MAX).min(buffer.len());
        match file.read(&mut buffer[..wanted]) {
            Ok(0) => return Ok(None),
            Ok(read) => {
                hasher.update(&buffer[..read]);
                left -= read as u64;
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(Some(Content(*hasher.finalize().as_bytes())))
}
