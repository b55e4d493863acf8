//! Snapshots: one directory a layer, active while it is written and committed by a rename.
//!
//! ```text
//! <root>/snapshots-<flavour>/
//!   <id>/fs        the layer's tree: a `lowerdir`
//!   <id>/sealed    made when the tree was complete: what is younger was changed by somebody else
//!   <id>/unsynced  the boot id, until the tree is known to be on the disk
//!   tmp/<random>/{fs,work}  active: an `upperdir` and its `workdir`, locked by the process that writes it
//! ```
//! Nothing in a tree is synced one by one. After a crash of the machine a snapshot that still says `unsynced` is
//! worth nothing, so it is thrown away: see [`Snapshots::sync`].

use std::collections::HashSet;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use oci_spec::image::{Digest, DigestAlgorithm};
use rustix::fs::{AtFlags, CWD, FileType, Mode};
use rustix::io::Errno;
use serde::{Deserialize, Serialize};

use crate::Error;
use crate::digest::sha256;
use crate::owner::{self, Owner};
use crate::path::remove_tree;
use crate::store::{seal, uses::Uses};
use crate::temp::{TempDirectory, create_directory, ensure_directory, random_path};
use crate::tree::Flavour;
use crate::xattr::Source;

const TREE: &str = "fs";
const WORK: &str = "work";
const TMP: &str = "tmp";
const UNSYNCED: &str = "unsynced";

/// Names a snapshot: the `chain_id` for a pulled layer, the cache key for a built vertex.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct SnapshotId(pub Digest);

/// Returns the `chain_id` of the layer `diff_id` on top of `parent` (OCI image spec, config.md, "Layer `ChainID`").
pub fn chain_id(parent: Option<&SnapshotId>, diff_id: &Digest) -> SnapshotId {
    SnapshotId(match parent {
        None => diff_id.clone(),
        Some(SnapshotId(parent)) => sha256(format!("{parent} {diff_id}").as_bytes()),
    })
}

/// A committed snapshot.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Snapshot {
    /// Its name.
    pub id: SnapshotId,
    /// The layer's tree.
    pub dir: PathBuf,
}

/// All snapshots of one [`Flavour`]: a tree made for one overlay mode is wrong in another.
#[derive(Debug, Clone)]
pub struct Snapshots {
    directory: PathBuf,
    flavour: Flavour,
    boot: Arc<str>,
    uses: Uses,
    /// Those that this process has found intact.
    intact: Arc<Mutex<HashSet<Digest>>>,
    grown: Arc<AtomicBool>,
}

impl Snapshots {
    /// Opens the snapshots of `root`, an existing directory, and creates the folders that it lacks.
    pub fn open_at(root: &Path, flavour: Flavour) -> Result<Self, Error> {
        let directory = root.join(match flavour {
            Flavour::Trusted => "snapshots-trusted",
            Flavour::UserXattr => "snapshots-userxattr",
            Flavour::Single => "snapshots-single",
            Flavour::Plain => "snapshots-plain",
        });
        let tmp = directory.join(TMP);
        for directory in [&directory, &tmp] {
            ensure_directory(directory)?;
        }
        // Without procfs every boot looks the same: then a crash is survived as far as the file system does.
        let boot = fs_err::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
        let uses = Uses::open_at(root)?;
        Ok(Self { directory, flavour, boot: boot.trim().into(), uses, intact: Arc::default(), grown: Arc::default() })
    }

    /// Returns how the trees write down whiteouts.
    pub fn flavour(&self) -> Flavour {
        self.flavour
    }

    /// Returns a committed snapshot, which counts as a use of it. One that is damaged, or that a crash of the machine may
    /// have damaged, is removed and not returned.
    pub fn get(&self, id: &SnapshotId) -> Option<Snapshot> {
        let place = self.place(id).ok()?;
        if !self.uses.mark(&place) {
            return None;
        }
        let known = self.intact.lock().unwrap_or_else(PoisonError::into_inner).contains(&id.0);
        let dir = place.join(TREE);
        if !known && !self.is_intact(&place) {
            self.discard(&place).ok();
            return None;
        }
        self.intact.lock().unwrap_or_else(PoisonError::into_inner).insert(id.0.clone());
        Some(Snapshot { id: id.clone(), dir })
    }

    /// Whether a snapshot survived the last crash of the machine and is as it was committed.
    pub(crate) fn is_intact(&self, place: &Path) -> bool {
        let tree = place.join(TREE);
        let survived = match fs_err::read_to_string(place.join(UNSYNCED)) {
            Ok(boot) => *boot == *self.boot,
            Err(error) => error.kind() == io::ErrorKind::NotFound,
        };
        survived && fs_err::symlink_metadata(&tree).is_ok_and(|tree| tree.is_dir()) && seal::is_intact(place, &tree)
    }

    pub(crate) fn has_grown(&self) -> bool {
        self.grown.load(Ordering::Relaxed)
    }

    /// Whether a snapshot's folder is one of this flavour.
    pub(crate) fn is_ours(&self, place: &Path) -> bool {
        place.parent() == Some(&self.directory)
    }

    /// Starts a snapshot.
    pub fn prepare(&self) -> Result<Active, Error> {
        let temporary = TempDirectory::create(&self.directory.join(TMP))?;
        let (upper, work) = (temporary.path().join(TREE), temporary.path().join(WORK));
        create_directory(&upper)?;
        create_directory(&work)?;
        // The root of an image can be entered by everybody, unless adopt_root_of or a layer says otherwise.
        rustix::fs::chmod(&upper, Mode::from_raw_mode(0o755)).map_err(Error::io("set the mode of", &upper))?;
        Ok(Active { snapshots: self.clone(), temporary, upper, work })
    }

    /// Gives a file of the store to an owner of the image, the way in which this flavour keeps owners; what is `None`
    /// stays as it is. A symbolic link is not followed.
    pub fn give(&self, path: &Path, uid: Option<u32>, gid: Option<u32>) -> Result<(), Errno> {
        if self.flavour != Flavour::Single {
            let (uid, gid) = (uid.map(rustix::fs::Uid::from_raw), gid.map(rustix::fs::Gid::from_raw));
            return rustix::fs::chownat(CWD, path, uid, gid, AtFlags::SYMLINK_NOFOLLOW);
        }
        let kind = FileType::from_raw_mode(rustix::fs::lstat(path)?.st_mode);
        let known = owner::read(Source::Path(path), kind)?;
        let owner = Owner { uid: uid.unwrap_or(known.uid), gid: gid.unwrap_or(known.gid), ..known };
        owner::write(Source::Path(path), kind, owner)
    }

    /// Lists the committed snapshots.
    pub fn list(&self) -> Result<Vec<SnapshotId>, Error> {
        let mut ids = Vec::new();
        for entry in fs_err::read_dir(&self.directory)? {
            let name = entry?.file_name();
            if let Some(digest) = name.to_str().and_then(|hex| format!("sha256:{hex}").parse().ok()) {
                ids.push(SnapshotId(digest));
            }
        }
        Ok(ids)
    }

    /// Removes a snapshot; one that is not there is no error. Nobody may be using it.
    pub fn remove(&self, id: &SnapshotId) -> Result<(), Error> {
        let place = self.place(id)?;
        self.intact.lock().unwrap_or_else(PoisonError::into_inner).remove(&id.0);
        if place.exists() { self.discard(&place) } else { Ok(()) }
    }

    /// Makes all committed snapshots durable, with one `syncfs`, so that they outlive a crash of the machine. Worth
    /// calling at the end of a build; without it the snapshots last until the next boot.
    pub fn sync(&self) -> Result<(), Error> {
        let marks: Vec<PathBuf> =
            self.list()?.iter().filter_map(|id| Some(self.place(id).ok()?.join(UNSYNCED))).collect();
        let marks: Vec<PathBuf> = marks.into_iter().filter(|mark| mark.exists()).collect();
        if marks.is_empty() {
            return Ok(());
        }
        let directory = fs_err::File::open(&self.directory)?;
        rustix::fs::syncfs(&directory).map_err(Error::io("sync", &self.directory))?;
        for mark in marks {
            match fs_err::remove_file(mark) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error.into()),
                _ => {}
            }
        }
        Ok(())
    }

    fn place(&self, id: &SnapshotId) -> Result<PathBuf, Error> {
        match id.0.algorithm() {
            DigestAlgorithm::Sha256 => Ok(self.directory.join(id.0.digest())),
            _ => Err(Error::Algorithm { digest: id.0.clone() }),
        }
    }

    /// Takes a snapshot out of sight at once, then removes it.
    fn discard(&self, place: &Path) -> Result<(), Error> {
        let out_of_sight = random_path(&self.directory.join(TMP))?;
        fs_err::rename(place, &out_of_sight)?;
        remove_tree(&out_of_sight)
    }
}

/// A snapshot being written. Dropped before [`Active::commit`], it is deleted.
#[derive(Debug)]
pub struct Active {
    snapshots: Snapshots,
    temporary: TempDirectory,
    upper: PathBuf,
    work: PathBuf,
}

impl Active {
    /// Returns the tree: an overlay's `upperdir`.
    pub fn upper(&self) -> &Path {
        &self.upper
    }

    /// Returns the overlay's `workdir`.
    pub fn work(&self) -> &Path {
        &self.work
    }

    /// Returns how the tree writes down whiteouts.
    pub fn flavour(&self) -> Flavour {
        self.snapshots.flavour
    }

    /// Does [`Snapshots::give`].
    pub fn give(&self, path: &Path, uid: Option<u32>, gid: Option<u32>) -> Result<(), Errno> {
        self.snapshots.give(path, uid, gid)
    }

    /// Gives the tree's root the metadata of `lower`, the directory of the topmost layer below, which shows what the whole
    /// stack's root is. An overlay shows those of the upper directory: call this before mounting, or `/` changes its mode.
    pub fn adopt_root_of(&self, lower: &Path) -> Result<(), Error> {
        let found = rustix::fs::stat(lower).map_err(Error::io("read the metadata of", lower))?;
        let written = Error::io("set the metadata of", &self.upper);
        let upper = &self.upper;
        let (uid, gid) = match self.flavour() {
            Flavour::Single => {
                let owner = owner::read(Source::Path(lower), FileType::Directory);
                let owner = owner.map_err(Error::io("read the owner of", lower))?;
                (owner.uid, owner.gid)
            }
            Flavour::Trusted | Flavour::UserXattr | Flavour::Plain => (found.st_uid, found.st_gid),
        };
        self.snapshots
            .give(upper, Some(uid), Some(gid))
            .and_then(|()| rustix::fs::chmod(upper, Mode::from_raw_mode(found.st_mode & 0o7777)))
            .and_then(|()| {
                let modified =
                    rustix::fs::Timespec { tv_sec: found.st_mtime, tv_nsec: found.st_mtime_nsec.cast_signed() };
                let times = rustix::fs::Timestamps { last_access: modified, last_modification: modified };
                rustix::fs::utimensat(CWD, upper, &times, AtFlags::empty())
            })
            .map_err(written)
    }

    /// Commits the tree under `id`. When another process was first, its snapshot is returned and this one deleted.
    pub fn commit(self, id: &SnapshotId) -> Result<Snapshot, Error> {
        let target = self.snapshots.place(id)?;
        remove_work(&self.work)?;
        // A damaged one is not to stay in the way.
        if let Some(earlier) = self.snapshots.get(id) {
            return Ok(earlier);
        }
        fs_err::write(self.temporary.path().join(UNSYNCED), self.snapshots.boot.as_bytes())?;
        seal::seal(self.temporary.path())?;
        self.temporary.persist(&target)?;
        self.snapshots.grown.store(true, Ordering::Relaxed);
        self.snapshots.intact.lock().unwrap_or_else(PoisonError::into_inner).insert(id.0.clone());
        Ok(Snapshot { id: id.clone(), dir: target.join(TREE) })
    }
}

/// Removes what overlayfs leaves in its work directory, in a few calls; where there is more (a step can be ended in the middle
/// of a change), as any tree.
fn remove_work(work: &Path) -> Result<(), Error> {
    const DIRECTORY: AtFlags = AtFlags::REMOVEDIR;
    const LEFT: [(&str, AtFlags); 5] = [
        ("work/incompat/volatile/dirty", AtFlags::empty()),
        ("work/incompat/volatile", DIRECTORY),
        ("work/incompat", DIRECTORY),
        ("work", DIRECTORY),
        ("index", DIRECTORY),
    ];
    let remove = |path: &Path, flags| match rustix::fs::unlinkat(CWD, path, flags) {
        Err(Errno::NOENT) => Ok(()),
        result => result,
    };
    let removed = LEFT.iter().try_for_each(|(name, flags)| remove(&work.join(name), *flags));
    removed.and_then(|()| remove(work, DIRECTORY)).or_else(|_| remove_tree(work))
}
