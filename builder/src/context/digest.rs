//! The content digest of what was selected. `copy` computes the same one from what it hands out.
//!
//! | in the digest | not in it |
//! |---|---|
//! | the order and names of the matches | the path of a match |
//! | path relative to the match, type, mode | mtime, ctime |
//! | size and bytes, link target, device number | owner and group on the host |
//! | extended attributes that a layer can hold | labels, access lists |
//! | which names of a match are links to one file | links from elsewhere |
//!
//! Every field is framed: a number of fixed width, or bytes after their length. A file's bytes enter as their own
//! blake3, which is what [`Memo`] remembers.

use std::ffi::OsStr;
use std::fs::File;
use std::io::{self, Read};
use std::num::NonZero;
use std::os::fd::AsFd;
use std::os::unix::ffi::OsStrExt;
use std::panic::resume_unwind;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::SystemTime;

use snapshot::{Content, Entry, Kind};

use super::beneath::{self, Opener};
use super::error::ContextError;
use super::ignore::Ignore;
use super::links::Links;
use super::local::{LocalContext, Selected};
use super::memo::{Identity, Memo};
use super::walk;

#[cfg(test)]
mod tests;

/// Changes when the framing does, so that no old digest is mistaken for a new one.
const DOMAIN: &[u8] = b"rbuild context digest 1";

/// How many entries are held before their files are hashed: bounds the memory to a few MiB.
const BATCH: usize = 8192;

/// How many bytes are read at once. From 64 KiB on, blake3 runs at its full width.
const BUFFER: usize = 128 * 1024;

/// How many files a thread takes at once.
const RUN: usize = 16;

/// How often a file that shrinks while it is read is read again.
const ATTEMPTS: usize = 3;

/// What a digest is made of, entry by entry.
pub(super) struct Digester {
    hasher: blake3::Hasher,
    frame: Vec<u8>,
}

impl Digester {
    pub(super) fn new() -> Self {
        let mut hasher = blake3::Hasher::new();
        hasher.update(DOMAIN);
        Self { hasher, frame: Vec::new() }
    }

    /// Begins one match.
    pub(super) fn selected(&mut self, selected: &Selected) {
        self.frame.push(b'S');
        self.bytes(selected.name.as_bytes());
        self.flush();
    }

    pub(super) fn entry(&mut self, relative: &Path, entry: &Entry, content: Option<Content>) {
        let tag = match entry.kind {
            Kind::Directory => b'd',
            Kind::File { .. } => b'f',
            Kind::Symlink { .. } => b'l',
            Kind::CharDevice { .. } => b'c',
            Kind::BlockDevice { .. } => b'b',
            Kind::Fifo => b'p',
        };
        self.frame.push(tag);
        self.bytes(relative.as_os_str().as_bytes());
        self.number(entry.metadata.mode.into());
        self.number(entry.metadata.xattrs.len() as u64);
        for (name, value) in &entry.metadata.xattrs {
            self.bytes(name);
            self.bytes(value);
        }
        match &entry.kind {
            Kind::Directory | Kind::Fifo => {}
            Kind::File { size } => self.number(*size),
            Kind::Symlink { target } => self.bytes(target),
            Kind::CharDevice { major, minor } | Kind::BlockDevice { major, minor } => {
                self.number((*major).into());
                self.number((*minor).into());
            }
        }
        if let Some(content) = content {
            self.frame.extend_from_slice(&content.0);
        }
        self.flush();
    }

    /// Another name of the file that came as `first`.
    pub(super) fn link(&mut self, relative: &Path, first: &Path) {
        self.frame.push(b'h');
        self.bytes(relative.as_os_str().as_bytes());
        self.bytes(first.as_os_str().as_bytes());
        self.flush();
    }

    fn number(&mut self, number: u64) {
        self.frame.extend_from_slice(&number.to_le_bytes());
    }

    fn bytes(&mut self, bytes: &[u8]) {
        self.number(bytes.len() as u64);
        self.frame.extend_from_slice(bytes);
    }

    /// Gives the hasher larger pieces than single fields, which it is faster with.
    fn flush(&mut self) {
        if self.frame.len() >= 16 * 1024 {
            self.hasher.update(&self.frame);
            self.frame.clear();
        }
    }

    pub(super) fn finish(mut self) -> blake3::Hash {
        self.hasher.update(&self.frame);
        self.hasher.finalize()
    }
}

/// What the digester gets, in order.
enum Item {
    /// The match with this index begins.
    Selected(usize),
    Known {
        relative: PathBuf,
        entry: Entry,
        content: Option<Content>,
    },
    /// The file with this index in the batch.
    File(usize),
    Link {
        relative: PathBuf,
        first: PathBuf,
    },
}

/// A file that must be read.
struct Pending {
    /// Relative to the context.
    path: PathBuf,
    /// The length of what precedes the path relative to the match.
    prefix: usize,
    entry: Entry,
    identity: Identity,
}

impl Pending {
    fn relative(&self) -> &Path {
        Path::new(OsStr::from_bytes(&self.path.as_os_str().as_bytes()[self.prefix..]))
    }
}

/// A file as it was when it was read; none when it was removed before.
type ReadFile = Option<(Entry, Content)>;

#[derive(Default)]
struct Batch {
    items: Vec<Item>,
    files: Vec<Pending>,
}

impl Batch {
    /// Takes an entry: to the digester where nothing before it has to be read first.
    fn add(&mut self, found: walk::Found<'_>, digester: &mut Digester) {
        let walk::Found { entry, content, .. } = found;
        if content.is_some() || !matches!(entry.kind, Kind::File { .. }) {
            if self.files.is_empty() {
                return digester.entry(found.relative, &entry, content);
            }
            self.items.push(Item::Known { relative: found.relative.to_owned(), entry, content });
            return;
        }
        self.items.push(Item::File(self.files.len()));
        let prefix = found.path.as_os_str().len() - found.relative.as_os_str().len();
        let identity = found.stat.identity;
        self.files.push(Pending { path: found.path.to_owned(), prefix, entry, identity });
    }

    /// Takes another name of a file.
    fn link(&mut self, relative: &Path, first: &Path, digester: &mut Digester) {
        if self.files.is_empty() {
            digester.link(relative, first);
        } else {
            self.items.push(Item::Link { relative: relative.to_owned(), first: first.to_owned() });
        }
    }

    /// Reads the files and digests the items in their order; leaves the batch empty.
    fn settle(
        &mut self,
        context: &LocalContext,
        selected: &[Selected],
        memo: &Memo,
        digester: &mut Digester,
    ) -> Result<(), ContextError> {
        let contents = read_all(context, memo, &self.files)?;
        for item in self.items.drain(..) {
            match item {
                Item::Selected(index) => digester.selected(&selected[index]),
                Item::Known { relative, entry, content } => digester.entry(&relative, &entry, content),
                Item::Link { relative, first } => digester.link(&relative, &first),
                Item::File(index) => {
                    if let Some((entry, content)) = &contents[index] {
                        digester.entry(self.files[index].relative(), entry, Some(*content));
                    }
                }
            }
        }
        self.files.clear();
        Ok(())
    }
}

/// Digests `selected`; see [`LocalContext::digest`].
pub(super) fn digest(
    context: &LocalContext,
    selected: &[Selected],
    exclude: &Ignore,
    memo: &Memo,
) -> Result<blake3::Hash, ContextError> {
    let mut digester = Digester::new();
    let mut batch = Batch::default();
    for (index, at) in selected.iter().enumerate() {
        if batch.files.is_empty() {
            digester.selected(at);
        } else {
            batch.items.push(Item::Selected(index));
        }
        let mut links = Links::default();
        walk::walk(context, at, exclude, Some(memo), &mut |found| {
            if let Some((first, ())) = links.first(&found.stat).filter(|_| context.keeps_links()) {
                batch.link(found.relative, first, &mut digester);
            } else {
                links.note(&found.stat, found.relative, ());
                batch.add(found, &mut digester);
            }
            if batch.items.len() < BATCH { Ok(()) } else { batch.settle(context, selected, memo, &mut digester) }
        })?;
    }
    batch.settle(context, selected, memo, &mut digester)?;
    Ok(digester.finish())
}

/// Reads `files` on all cores; the results are in the order of the files.
fn read_all(context: &LocalContext, memo: &Memo, files: &[Pending]) -> Result<Vec<ReadFile>, ContextError> {
    let threads = thread::available_parallelism().map_or(1, NonZero::get).min(files.len().div_ceil(RUN));
    let next = AtomicUsize::new(0);
    // Each thread takes runs of files, most of them in one directory, until none is left.
    let work = || -> Result<Vec<(usize, ReadFile)>, ContextError> {
        let mut opener = Opener::new(context.root());
        let mut buffer = vec![0; BUFFER];
        let mut read = Vec::new();
        loop {
            let start = next.fetch_add(RUN, Ordering::Relaxed);
            if start >= files.len() {
                return Ok(read);
            }
            for (index, file) in files.iter().enumerate().skip(start).take(RUN) {
                read.push((index, read_one(context, &mut opener, (memo, file), &mut buffer)?));
            }
        }
    };
    let mut contents = vec![None; files.len()];
    let parts = thread::scope(|scope| {
        let others: Vec<_> = (1..threads).map(|_| scope.spawn(work)).collect();
        let mut parts = vec![work()];
        parts.extend(others.into_iter().map(|other| other.join().unwrap_or_else(|panic| resume_unwind(panic))));
        parts
    });
    for part in parts {
        for (index, content) in part? {
            contents[index] = content;
        }
    }
    Ok(contents)
}

/// Reads one file, and remembers its digest if it held still.
fn read_one(
    of: &LocalContext,
    opener: &mut Opener<'_>,
    (memo, pending): (&Memo, &Pending),
    buffer: &mut [u8],
) -> Result<ReadFile, ContextError> {
    for _ in 0..ATTEMPTS {
        let hashed = SystemTime::now();
        let file = opener.open(&pending.path);
        let Some((mut file, stat)) = gone_or(file, &pending.path)? else { return Ok(None) };
        let failed = |source| ContextError::Read { path: pending.path.clone(), source };
        let mut entry = if stat.identity == pending.identity {
            pending.entry.clone()
        } else {
            beneath::entry_of_open(&file, &stat).map_err(failed)?
        };
        of.set_mode(&mut entry);
        let Some(content) = hash(&mut file, stat.identity.size, buffer).map_err(failed)? else { continue };
        let after = beneath::stat_open(file.as_fd()).map_err(failed)?;
        if after.identity == stat.identity && entry.metadata.xattrs.is_empty() {
            memo.learn(stat.identity, content, hashed);
        }
        return Ok(Some((entry, content)));
    }
    Err(ContextError::Changed { path: pending.path.clone() })
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
