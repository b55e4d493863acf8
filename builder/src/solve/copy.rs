//! `COPY` and `ADD`: files of the context, of another tree or of the Dockerfile itself, streamed into a layer.

use std::collections::HashMap;
use std::ffi::OsStr;
use std::io::{self, Read, Seek};
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::sync::Arc;

use snapshot::{Bytes, Entry, Found, Kind, Metadata, Mtime, View};

use crate::accounts::Accounts;
use crate::archive::{self, Archive, Owners};
use crate::context::{Ignore, Listing, LocalContext, Selected};
use crate::graph::{CopyOp, CopySource};
use crate::remote::git::Checkout;
use crate::remote::http::Download;
use crate::remote::location::shown;

use super::destination::{Destination, Placement, join};
use super::error::Cause;
use super::key::looks_up_names;
use super::select::{self, Chosen};
use super::tree::Tree;
use super::{Needs, World, relative};

/// Mode of a file that a heredoc makes.
const INLINE_MODE: u32 = 0o644;

/// Mode of a file that was downloaded.
const DOWNLOAD_MODE: u32 = 0o600;

/// One COPY and the trees around it.
pub(super) struct Job<'a> {
    pub(super) op: &'a CopyOp,
    /// What it copies onto.
    pub(super) base: &'a Tree,
    /// What it copies from; the build context when absent.
    pub(super) from: Option<&'a Tree>,
    /// What it makes.
    pub(super) tree: &'a Tree,
    pub(super) needs: Needs,
}

/// A match of a source, with where it goes.
enum Source<'a> {
    Context(&'a LocalContext, Selected, Files),
    Tree(Selected, Rc<Ignore>),
    Inline { name: &'a str, content: &'a str },
    Download { url: &'a str, download: Download, unpack: bool },
}

/// The files of one match in a context.
struct Files {
    listing: Arc<Listing>,
    /// Which match of the listing it is.
    number: usize,
}

/// Copies.
pub(super) fn copy(world: &World<'_>, job: &Job<'_>) -> Result<(), Cause> {
    let op = job.op;
    let owner = match &op.chown {
        Some(spec) if looks_up_names(op) => Some(job.base.accounts(&job.base.view(world)?, world)?.owner(spec)?),
        Some(spec) => Some(Accounts::default().owner(spec)?),
        None => None,
    };
    let view = if op.link { View::default() } else { job.base.view(world)? };
    let from = job.from.map(|tree| tree.view(world).map(|view| (tree, view))).transpose()?;
    let repositories = repositories(world, op)?;
    let sources = sources(world, op, from.as_ref().map(|(_, view)| view), &repositories)?;
    let destination = Destination::resolve(&view, &op.destination, sources.len() > 1 || op.parents)?;
    let placement = Placement::new(world, &view, job.needs, job.base)?.with(owner, op.chmod.clone());
    let mut copying = Copying { world, op, destination, placement, from: from.as_ref(), winners: HashMap::new() };
    if sources.len() > 1 {
        copying.find_winners(&sources)?;
    }
    for (number, source) in sources.iter().enumerate() {
        copying.source(number, source)?;
    }
    copying.placement.finish(world, job.tree)
}

/// A git source on disk.
struct Repository {
    files: LocalContext,
    _checkout: Checkout,
}

/// Fetches the git sources, in order.
fn repositories(world: &World<'_>, op: &CopyOp) -> Result<Vec<Repository>, Cause> {
    let mut repositories = Vec::new();
    for source in &op.sources {
        if let CopySource::Git(source) = source {
            let checkout = world.remotes.checkout(world.store, source)?;
            let files = LocalContext::open(checkout.path(), Ignore::default())?;
            repositories.push(Repository { files, _checkout: checkout });
        }
    }
    Ok(repositories)
}

/// What the sources select, in order.
fn sources<'a>(
    world: &World<'a>,
    op: &'a CopyOp,
    from: Option<&View>,
    repositories: &'a [Repository],
) -> Result<Vec<Source<'a>>, Cause> {
    let mut sources = Vec::new();
    let mut repositories = repositories.iter();
    for source in &op.sources {
        match (source, from) {
            (CopySource::Inline { name, content }, _) => sources.push(Source::Inline { name, content }),
            (CopySource::Http { url, checksum, unpack }, _) => {
                let download = world.remotes.download(world.store, url, checksum.as_deref())?;
                sources.push(Source::Download { url, download, unpack: *unpack });
            }
            (CopySource::Git(_), _) => {
                let context = &repositories.next().expect("each git source was fetched").files;
                in_context(world, context, (op, ""), &mut sources)?;
            }
            (CopySource::Path(pattern), Some(view)) => {
                let Chosen { matches, rules } = select::in_tree(view, op, pattern)?;
                let rules = Rc::new(rules);
                sources.extend(matches.into_iter().map(|selected| Source::Tree(selected, Rc::clone(&rules))));
            }
            (CopySource::Path(pattern), None) => {
                in_context(world, world.context_of(op), (op, pattern), &mut sources)?;
            }
        }
    }
    // A pattern may match nothing, as under BuildKit, which makes files optional.
    if sources.is_empty() {
        let patterns: Vec<&str> = op.sources.iter().map(CopySource::shown).collect();
        world.reporter.warn(&format!(
            "nothing is copied to `{}`: `{}` matches nothing",
            op.destination,
            patterns.join("`, `")
        ));
    }
    Ok(sources)
}

/// Adds what a pattern selects in a context.
fn in_context<'a>(
    world: &World<'_>,
    context: &'a LocalContext,
    (op, pattern): (&CopyOp, &str),
    sources: &mut Vec<Source<'a>>,
) -> Result<(), Cause> {
    let Chosen { matches, rules } = select::in_context(context, op, pattern)?;
    let listing = context.list(&matches, &rules, world.memo)?;
    let files = |number| Files { listing: Arc::clone(&listing), number };
    sources
        .extend(matches.into_iter().enumerate().map(|(number, found)| Source::Context(context, found, files(number))));
    Ok(())
}

/// The files of one source that have several names: the first that is placed has the bytes, the others are links to it.
struct Links {
    /// Which source it is.
    number: usize,
    /// By the place of the bytes, under which name they were placed.
    firsts: HashMap<(usize, PathBuf), Option<PathBuf>>,
}

impl Links {
    fn of(number: usize) -> Self {
        Self { number, firsts: HashMap::new() }
    }

    /// Notes what stands at `path` of its tree.
    fn note(&mut self, path: &Path, found: &Found<'_>) {
        if matches!(found.entry.kind, Kind::File { .. }) && found.file != path {
            self.firsts.insert((found.layer, found.file.to_path_buf()), None);
        }
    }

    fn first(&mut self, found: &Found<'_>) -> Option<&mut Option<PathBuf>> {
        if self.firsts.is_empty() { None } else { self.firsts.get_mut(&(found.layer, found.file.to_path_buf())) }
    }
}

struct Copying<'a> {
    world: &'a World<'a>,
    op: &'a CopyOp,
    destination: Destination,
    placement: Placement<'a>,
    from: Option<&'a (&'a Tree, View)>,
    /// With several sources: which one a path comes from in the end. A layer names no path twice.
    winners: HashMap<PathBuf, usize>,
}

impl Copying<'_> {
    fn source(&mut self, number: usize, source: &Source<'_>) -> Result<(), Cause> {
        match source {
            Source::Inline { name, content } => self.inline(number, name, content),
            Source::Context(context, selected, files) => self.context(number, context, selected, files),
            Source::Tree(selected, rules) => self.tree(number, selected, rules),
            Source::Download { url, download, unpack } => self.download(number, url, download, *unpack),
        }
    }

    fn inline(&mut self, number: usize, name: &str, content: &str) -> Result<(), Cause> {
        let target = self.destination.of_file(OsStr::new(name));
        let metadata = Metadata {
            mode: INLINE_MODE,
            uid: 0,
            gid: 0,
            mtime: self.placement.now(),
            xattrs: snapshot::Xattrs::new(),
        };
        let entry = Entry { kind: Kind::File { size: content.len() as u64 }, metadata };
        self.place(number, &target, entry, plain(&mut content.as_bytes()))
    }

    /// A file behind http(s): mode 0600, as old as the server says.
    fn download(&mut self, number: usize, url: &str, download: &Download, unpack: bool) -> Result<(), Cause> {
        let mut file = self.world.store.blobs().open_verified(&download.digest)?;
        if unpack && let Some(archive) = archive::open(file.file().try_clone()?)? {
            return self.archive(number, Path::new(&shown(url)), &archive);
        }
        file.rewind()?;
        let target = self.download_target(url, download)?;
        let mtime = Mtime { seconds: download.modified.unwrap_or(0), nanoseconds: 0 };
        let metadata = Metadata { mode: DOWNLOAD_MODE, uid: 0, gid: 0, mtime, xattrs: snapshot::Xattrs::new() };
        let entry = Entry { kind: Kind::File { size: download.size }, metadata };
        self.place(number, &target, entry, plain(&mut file))
    }

    fn download_target(&self, url: &str, download: &Download) -> Result<PathBuf, Cause> {
        if !self.destination.is_directory() {
            return Ok(self.destination.path.clone());
        }
        let name = download.file_name(url).ok_or_else(|| Cause::NoName { url: shown(url) })?;
        Ok(self.destination.of_file(OsStr::new(&name)))
    }

    fn context(
        &mut self,
        number: usize,
        context: &LocalContext,
        selected: &Selected,
        files: &Files,
    ) -> Result<(), Cause> {
        if self.op.unpack
            && !selected.directory
            && let Some(archive) = archive::open(context.open_file(&selected.path)?)?
        {
            return self.archive(number, &selected.path, &archive);
        }
        // Where the bytes of a file with several names were placed, by its first name.
        let mut placed: HashMap<&Path, PathBuf> = HashMap::new();
        for file in files.listing.entries(files.number) {
            let Some(target) = target(&self.destination, selected, file.path()) else {
                self.placement.directory(&self.destination.path)?;
                continue;
            };
            if !self.wins(number, &target, &file.entry().kind) {
                continue;
            }
            if let Some(first) = file.first() {
                if let Some(bytes) = placed.get(first) {
                    self.placement.link(&target, bytes)?;
                    continue;
                }
                placed.insert(first, target.clone());
            }
            let entry = file.entry().clone();
            let nothing = &mut io::empty();
            let bytes = file.content().map_or(plain(nothing), |(bytes, digest)| Bytes::Later(Box::new(bytes), digest));
            self.placement.place(&target, entry, bytes)?;
        }
        Ok(())
    }

    fn tree(&mut self, number: usize, selected: &Selected, rules: &Ignore) -> Result<(), Cause> {
        let (tree, view) = self.from.expect("a tree source is selected from a tree");
        let mut links = Links::of(number);
        select::walk(view, selected, rules, &mut |path, found| {
            links.note(relative(&join(&selected.path, path)), found);
            Ok(())
        })?;
        select::walk(view, selected, rules, &mut |path, found| {
            let Some(target) = target(&self.destination, selected, path) else {
                let directory = self.destination.path.clone();
                return self.placement.directory(&directory);
            };
            self.put(&mut links, &target, found, || tree.open(found, self.world))
        })
    }

    fn archive(&mut self, number: usize, path: &Path, archive: &Archive) -> Result<(), Cause> {
        let cancel = self.world.cancel;
        let failed = |source| {
            if cancel.is_cancelled() {
                Cause::Cancelled
            } else {
                Cause::Archive { source_path: path.display().to_string(), source }
            }
        };
        let scratch = self.world.store.scratch()?;
        let tree = archive.unpack(scratch.path(), Owners::Archive, cancel).map_err(failed)?;
        self.placement.directory(&self.destination.path)?;
        let mut links = Links::of(number);
        tree.view.walk(Path::new(".")).for_each(|(path, found)| links.note(&path, &found));
        for (path, found) in tree.view.walk(Path::new(".")) {
            let target = join(&self.destination.path, &path);
            self.put(&mut links, &target, &found, || Ok(tree.root.open_file(&found.file)?))?;
        }
        Ok(())
    }

    /// Places what stands in a tree; `open` gives a file's bytes.
    fn put<R: Read>(
        &mut self,
        links: &mut Links,
        target: &Path,
        found: &Found<'_>,
        open: impl FnOnce() -> Result<R, Cause>,
    ) -> Result<(), Cause> {
        let entry = found.entry.clone().into_owned();
        if !self.wins(links.number, target, &entry.kind) {
            return Ok(());
        }
        if !matches!(entry.kind, Kind::File { .. }) {
            return self.placement.place(target, entry, plain(&mut io::empty()));
        }
        match links.first(found) {
            Some(Some(first)) => self.placement.link(target, first),
            first => {
                if let Some(first) = first {
                    *first = Some(target.to_owned());
                }
                self.placement.place(target, entry, plain(&mut open()?))
            }
        }
    }

    fn place(&mut self, number: usize, target: &Path, entry: Entry, content: Bytes<'_>) -> Result<(), Cause> {
        if self.wins(number, target, &entry.kind) { self.placement.place(target, entry, content) } else { Ok(()) }
    }

    /// Whether it is this source that gives what is at `target` in the end; directories are of all.
    fn wins(&self, number: usize, target: &Path, kind: &Kind) -> bool {
        matches!(kind, Kind::Directory) || self.winners.get(target).is_none_or(|winner| *winner == number)
    }

    /// Notes for every file which source gives it in the end. Archives are left out: theirs are known when unpacked.
    fn find_winners(&mut self, sources: &[Source<'_>]) -> Result<(), Cause> {
        for (number, source) in sources.iter().enumerate() {
            match source {
                Source::Inline { name, .. } => {
                    self.winners.insert(self.destination.of_file(OsStr::new(name)), number);
                }
                Source::Download { unpack: true, .. } => {}
                Source::Download { url, download, .. } => {
                    self.winners.insert(self.download_target(url, download)?, number);
                }
                Source::Context(_, selected, files) => {
                    let entries = files.listing.entries(files.number);
                    let targets = entries.filter_map(|file| target(&self.destination, selected, file.path()));
                    self.winners.extend(targets.map(|target| (target, number)));
                }
                Source::Tree(selected, rules) => {
                    let (_, view) = self.from.expect("a tree source is selected from a tree");
                    let (winners, destination) = (&mut self.winners, &self.destination);
                    select::walk(view, selected, rules, &mut |path, _| {
                        winners.extend(target(destination, selected, path).map(|target| (target, number)));
                        Ok(())
                    })?;
                }
            }
        }
        Ok(())
    }
}

/// Bytes of which nobody knows the digest.
fn plain(reader: &mut dyn Read) -> Bytes<'_> {
    reader.into()
}

/// Where `path` below a selected source goes; none for a source directory itself that only brings its contents.
fn target(destination: &Destination, selected: &Selected, path: &Path) -> Option<PathBuf> {
    if !selected.directory {
        return Some(destination.of_file(&selected.name));
    }
    let own = path.as_os_str().is_empty();
    (!own || destination.takes_directory()).then(|| join(&destination.path, path))
}
