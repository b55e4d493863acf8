//! What the tests of several modules share: entries, trees as data, and a look at real trees that shares no code with
//! what it checks.

use std::collections::{BTreeMap, HashMap};
use std::io::Read;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

use crate::layer::{Layer, LayerOptions, LayerWriter, decompress};
use crate::{
    BlobStore, ChangeSink, Content, Entry, Error, Flavour, Kind, LayerIndex, Metadata, Mtime, Snapshot, SnapshotId,
    Snapshots, View, Xattrs, survey, unpack,
};

/// One path of a tree with its bytes, or another name of an earlier one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Item {
    Entry(Entry, Vec<u8>),
    Link(PathBuf),
}

/// A tree as data.
pub(crate) type Model = BTreeMap<PathBuf, Item>;

pub(crate) fn metadata(mode: u32) -> Metadata {
    let (uid, gid) = own();
    Metadata { mode, uid, gid, mtime: Mtime { seconds: 1_600_000_000, nanoseconds: 0 }, xattrs: Xattrs::new() }
}

/// The owner that everybody may give to a file.
pub(crate) fn own() -> (u32, u32) {
    (rustix::process::geteuid().as_raw(), rustix::process::getegid().as_raw())
}

/// Says what a test that gives files to the image's root needs.
pub(crate) fn needs_root() {
    let root = rustix::process::geteuid().is_root();
    assert!(root, "this test writes layers: run it as root, or under `unshare --user --map-root-user --mount`");
}

/// Whether files can be given to others: not in a user namespace of a single user.
pub(crate) fn can_give_away() -> bool {
    let probe = tempfile::NamedTempFile::new().unwrap();
    std::os::unix::fs::chown(probe.path(), Some(1), Some(2)).is_ok()
}

pub(crate) fn directory(mode: u32) -> Item {
    Item::Entry(Entry { kind: Kind::Directory, metadata: metadata(mode) }, Vec::new())
}

pub(crate) fn file(content: &str) -> Item {
    let kind = Kind::File { size: content.len() as u64 };
    Item::Entry(Entry { kind, metadata: metadata(0o644) }, content.into())
}

pub(crate) fn symlink(target: &str) -> Item {
    let kind = Kind::Symlink { target: target.into() };
    Item::Entry(Entry { kind, metadata: metadata(0o777) }, Vec::new())
}

pub(crate) fn link(target: &str) -> Item {
    Item::Link(target.into())
}

pub(crate) fn model<const N: usize>(items: [(&str, Item); N]) -> Model {
    items.into_iter().map(|(path, item)| (path.into(), item)).collect()
}

/// Passes a tree to a sink, in order.
pub(crate) fn emit<S: ChangeSink<Error = Error>>(tree: &Model, sink: &mut S) -> Result<(), Error> {
    tree.iter().try_for_each(|(path, item)| match item {
        Item::Entry(entry, content) => sink.entry(path, entry, &mut content.as_slice()),
        Item::Link(target) => sink.hard_link(path, target),
    })
}

/// A store's blobs and snapshots in a directory that goes away.
pub(crate) struct Place {
    pub(crate) directory: tempfile::TempDir,
    pub(crate) blobs: BlobStore,
    pub(crate) snapshots: Snapshots,
}

impl Place {
    pub(crate) fn new() -> Self {
        Self::with_flavour(Flavour::UserXattr)
    }

    pub(crate) fn with_flavour(flavour: Flavour) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let blobs = BlobStore::open_at(directory.path()).unwrap();
        let snapshots = Snapshots::open_at(directory.path(), flavour).unwrap();
        Self { directory, blobs, snapshots }
    }

    /// Makes a layer of what `fill` passes on.
    pub(crate) fn layer(
        &self,
        fill: impl FnOnce(&mut LayerWriter) -> Result<(), Error>,
    ) -> Result<(Layer, LayerIndex), Error> {
        let mut writer = LayerWriter::new(&self.blobs, LayerOptions::default())?;
        fill(&mut writer)?;
        writer.finish()
    }

    /// Returns a layer's tar stream.
    pub(crate) fn tar(&self, layer: &Layer) -> Vec<u8> {
        let blob = self.blobs.open(layer.blob.digest()).unwrap();
        let mut tar = Vec::new();
        decompress(blob, u64::MAX).unwrap().read_to_end(&mut tar).unwrap();
        assert_eq!(crate::digest::sha256(&tar), layer.diff_id);
        tar
    }

    /// Unpacks a tar stream on top of `below`.
    pub(crate) fn unpack(&self, tar: &[u8], below: &mut Stack) -> Result<(), Error> {
        needs_root();
        let id = SnapshotId(crate::digest::sha256(&[tar, format!("{:?}", below.trees).as_bytes()].concat()));
        let unpacked = unpack(&mut &*tar, self.snapshots.prepare()?, self.snapshots.flavour())?;
        let index = unpacked.index().clone();
        assert_eq!(survey(&mut &*tar)?.nodes(), index.nodes(), "a layer is the same with and without its files");
        let dirs: Vec<PathBuf> = below.trees.iter().map(|tree| tree.dir.clone()).collect();
        below.trees.push(unpacked.settle(&below.view, &dirs, &id)?);
        below.view.push(index);
        Ok(())
    }
}

/// Layers on top of each other, as trees and as a view.
#[derive(Debug, Default)]
pub(crate) struct Stack {
    pub(crate) trees: Vec<Snapshot>,
    pub(crate) view: View,
}

impl Stack {
    /// The tree on top.
    pub(crate) fn top(&self) -> &Path {
        &self.trees.last().unwrap().dir
    }

    /// What the view shows: hard links as the files that they are.
    pub(crate) fn shown(&self) -> BTreeMap<PathBuf, (Entry, Option<Content>)> {
        shown(&self.view)
    }
}

pub(crate) fn shown(view: &View) -> BTreeMap<PathBuf, (Entry, Option<Content>)> {
    view.walk(Path::new(".")).map(|(path, found)| (path, (found.entry.into_owned(), found.content))).collect()
}

/// What a view of exactly this tree shows.
pub(crate) fn resolved(tree: &Model) -> BTreeMap<PathBuf, (Entry, Option<Content>)> {
    let resolve = |item: &Item| match item {
        Item::Link(target) => tree[target].clone(),
        Item::Entry(..) => item.clone(),
    };
    tree.iter()
        .filter(|(path, _)| *path != Path::new("."))
        .map(|(path, item)| match resolve(item) {
            Item::Entry(entry, content) => {
                let is_file = matches!(entry.kind, Kind::File { .. });
                let digest = is_file.then(|| Content(*blake3::hash(&content).as_bytes()));
                (path.clone(), (entry, digest))
            }
            Item::Link(_) => panic!("a link to a link"),
        })
        .collect()
}

/// Reads a real tree. Overlay's marks show as the attributes and devices that they are; the root is left out.
pub(crate) fn scan(root: &Path) -> Model {
    let mut tree = Model::new();
    let mut links = HashMap::new();
    scan_into(root, Path::new(""), &mut tree, &mut links);
    tree
}

fn scan_into(root: &Path, directory: &Path, tree: &mut Model, links: &mut HashMap<(u64, u64), PathBuf>) {
    let mut names: Vec<_> =
        fs_err::read_dir(root.join(directory)).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    names.sort();
    for name in names {
        let path = directory.join(name);
        let real = root.join(&path);
        let status = fs_err::symlink_metadata(&real).unwrap();
        if !status.is_dir() && status.nlink() > 1 {
            if let Some(first) = links.get(&(status.dev(), status.ino())) {
                tree.insert(path, Item::Link(first.clone()));
                continue;
            }
            links.insert((status.dev(), status.ino()), path.clone());
        }
        let (major, minor) = (rustix::fs::major(status.rdev()), rustix::fs::minor(status.rdev()));
        let (kind, content) = match status.file_type() {
            kind if kind.is_dir() => (Kind::Directory, Vec::new()),
            kind if kind.is_file() => (Kind::File { size: status.len() }, fs_err::read(&real).unwrap()),
            kind if kind.is_symlink() => {
                (Kind::Symlink { target: fs_err::read_link(&real).unwrap().into_os_string().into_vec() }, Vec::new())
            }
            kind if kind.is_char_device() => (Kind::CharDevice { major, minor }, Vec::new()),
            kind if kind.is_block_device() => (Kind::BlockDevice { major, minor }, Vec::new()),
            kind if kind.is_fifo() => (Kind::Fifo, Vec::new()),
            kind => panic!("{}: {kind:?}", real.display()),
        };
        let metadata = Metadata {
            mode: status.mode() & 0o7777,
            uid: status.uid(),
            gid: status.gid(),
            mtime: Mtime { seconds: status.mtime(), nanoseconds: u32::try_from(status.mtime_nsec()).unwrap() },
            xattrs: xattrs(&real),
        };
        let is_directory = kind == Kind::Directory;
        tree.insert(path.clone(), Item::Entry(Entry { kind, metadata }, content));
        if is_directory {
            scan_into(root, &path, tree, links);
        }
    }
}

pub(crate) fn xattrs(path: &Path) -> Xattrs {
    let mut names = vec![0; 4096];
    let length = rustix::fs::llistxattr(path, &mut names[..]).unwrap();
    names.truncate(length);
    let names =
        names.split(|byte| *byte == 0).filter(|name| !name.is_empty() && !name.starts_with(b"security.selinux"));
    let value = |name: &[u8]| {
        let mut value = vec![0; 65536];
        let length = rustix::fs::lgetxattr(path, name, &mut value[..]).unwrap();
        value.truncate(length);
        (name.to_vec(), value)
    };
    names.map(value).collect()
}

/// Runs a program that must be installed; returns what it printed.
pub(crate) fn run(package: &str, program: &str, arguments: &[&std::ffi::OsStr]) -> String {
    let output = std::process::Command::new(program)
        .args(arguments)
        .env("LC_ALL", "C.UTF-8")
        .output()
        .unwrap_or_else(|error| panic!("cannot run {program} ({error}): apt-get install {package}"));
    assert!(output.status.success(), "{program}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// A tar stream put together by hand, hostile or not.
#[derive(Default)]
pub(crate) struct RawTar(pub(crate) Vec<u8>);

impl RawTar {
    /// Adds a header with this type and content; `edit` may spoil it before it is summed.
    pub(crate) fn raw(mut self, kind: u8, name: &[u8], content: &[u8], edit: impl FnOnce(&mut tar::Header)) -> Self {
        let mut header = tar::Header::new_ustar();
        header.as_mut_bytes()[..name.len()].copy_from_slice(name);
        header.set_entry_type(tar::EntryType::new(kind));
        header.set_mode(if kind == b'5' { 0o755 } else { 0o644 });
        let (uid, gid) = own();
        header.set_uid(uid.into());
        header.set_gid(gid.into());
        header.set_mtime(1_600_000_000);
        header.set_size(content.len() as u64);
        edit(&mut header);
        header.set_cksum();
        self.0.extend(header.as_bytes());
        self.0.extend(content);
        self.0.resize(self.0.len().next_multiple_of(512), 0);
        self
    }

    pub(crate) fn file(self, name: &str, content: &str) -> Self {
        self.raw(b'0', name.as_bytes(), content.as_bytes(), |_| {})
    }

    pub(crate) fn directory(self, name: &str) -> Self {
        self.raw(b'5', name.as_bytes(), b"", |_| {})
    }

    pub(crate) fn symlink(self, name: &str, target: &str) -> Self {
        self.raw(b'2', name.as_bytes(), b"", |header| header.set_link_name_literal(target).unwrap())
    }

    pub(crate) fn link(self, name: &str, target: &str) -> Self {
        self.raw(b'1', name.as_bytes(), b"", |header| header.set_link_name_literal(target).unwrap())
    }

    /// Adds a PAX header with these records.
    pub(crate) fn pax(self, records: &[(&str, &[u8])]) -> Self {
        let mut body = Vec::new();
        for (key, value) in records {
            let rest = key.len() + value.len() + 3;
            let length = (rest + 1..rest + 9).find(|length| length.to_string().len() + rest == *length).unwrap();
            body.extend(format!("{length} {key}=").as_bytes());
            body.extend(*value);
            body.push(b'\n');
        }
        self.raw(b'x', b"PaxHeaders", &body, |_| {})
    }

    /// Ends the archive.
    pub(crate) fn end(mut self) -> Vec<u8> {
        self.0.extend([0; 1024]);
        self.0
    }
}

pub(crate) fn bytes_of(path: &Path) -> &[u8] {
    path.as_os_str().as_bytes()
}

/// An overlay mount that no namespace sees: it ends with this value.
pub(crate) struct Mounted {
    fd: std::os::fd::OwnedFd,
    /// The lowest layer: overlayfs cannot list what is gone.
    _empty: tempfile::TempDir,
}

impl Mounted {
    pub(crate) fn path(&self) -> PathBuf {
        use std::os::fd::AsRawFd;
        PathBuf::from(format!("/proc/self/fd/{}/.", self.fd.as_raw_fd()))
    }
}

/// Mounts the trees of a stack, read-only.
pub(crate) fn overlay(stack: &Stack) -> Mounted {
    let lowers: Vec<PathBuf> = stack.trees.iter().map(|tree| tree.dir.clone()).collect();
    mount_overlay(&lowers, None, Flavour::UserXattr)
}

/// Mounts `lowers`, bottom first, below an upper and a work directory.
pub(crate) fn mount_overlay(lowers: &[PathBuf], upper: Option<(&Path, &Path)>, flavour: Flavour) -> Mounted {
    use rustix::mount::{
        FsMountFlags, FsOpenFlags, MountAttrFlags, fsconfig_create, fsconfig_set_flag, fsconfig_set_string, fsmount,
        fsopen,
    };
    let needs = "this test mounts overlayfs: run it as root, or under `unshare --user --map-root-user --mount`";
    let context = fsopen("overlay", FsOpenFlags::FSOPEN_CLOEXEC).expect(needs);
    let empty = tempfile::tempdir().unwrap();
    let mut lowers: Vec<&Path> = lowers.iter().rev().map(PathBuf::as_path).collect();
    // Without an upper directory overlayfs wants two lower ones.
    lowers.push(empty.path());
    for lower in lowers {
        fsconfig_set_string(&context, "lowerdir+", lower).unwrap();
    }
    if let Some((upper, work)) = upper {
        fsconfig_set_string(&context, "upperdir", upper).unwrap();
        fsconfig_set_string(&context, "workdir", work).unwrap();
    }
    if flavour == Flavour::UserXattr {
        fsconfig_set_flag(&context, "userxattr").unwrap();
    }
    fsconfig_create(&context).expect(needs);
    let fd = fsmount(&context, FsMountFlags::FSMOUNT_CLOEXEC, MountAttrFlags::empty()).expect(needs);
    Mounted { fd, _empty: empty }
}
