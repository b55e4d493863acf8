//! The root of a step where nothing can be mounted: a whole tree, with the step's `/dev` and its mounts moved into it and
//! back. What is in their way is out of the tree meanwhile.
//!
//! rbuild does this itself, before it spawns the init and after everything of the step is dead. Places are held by
//! descriptors, and what is moved back is compared with what was put there, so that a step can exchange neither.

use std::collections::HashSet;
use std::ffi::OsString;
use std::fs::File;
use std::io::Write;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};

use rustix::fs::{
    AtFlags, CWD, FileType, Gid, Mode, OFlags, ResolveFlags, StatxFlags, Uid, fchmod, fchown, fstat, mkdirat, openat,
    openat2, renameat, statx,
};
use rustix::io::Errno;
use rustix::thread::CapabilitySet;

use super::describe::{Mount, Network, Process, Root};
use super::emulate::{Emulation, RootEmulation};
use super::error::SandboxError;
use super::inject::{Devices, Injector};
use super::rootfs::open_directory;
use super::seccomp::{self, Listener, assemble, install, install_with_listener};
use super::settings::Settings;
use super::spec::{Attempt, Failure, Made, Spec};
use super::supervise::{self, Started};
use super::target::{Kind, Targets};
use super::{capabilities, devices, furnish, inject, process_one, seeming, step, stubs, system};

/// What is moved into a tree for one step.
pub(super) struct Placed {
    /// The directory that takes what is in the way, and what is thrown away.
    work: OwnedFd,
    swaps: Vec<Swap>,
    made: Made,
}

/// One thing in the place of another.
struct Swap {
    /// Where it is in the tree.
    at: PathBuf,
    parent: OwnedFd,
    name: OsString,
    /// What was put there. While it is open, nothing else gets its inode.
    placed: OwnedFd,
    /// What was there before is in the work directory under this name.
    aside: String,
    /// Where it came from, and goes back to.
    origin: Option<PathBuf>,
}

/// Refuses what needs a mount or a namespace.
pub(super) fn check(root: &Root, process: &Process, mounts: &[Mount]) -> Result<(), SandboxError> {
    let layers = mounts.iter().any(|mount| matches!(mount, Mount::Layers { .. }));
    if !root.lowers.is_empty() || layers {
        return Err(SandboxError::Lacking { what: "stack layers" });
    }
    let sources = mounts.iter().filter_map(|mount| match mount {
        Mount::Bind { source, .. } => Some(source),
        Mount::Tmpfs { .. } | Mount::Layers { .. } | Mount::File { .. } => None,
    });
    let mut seen = HashSet::new();
    if !sources.into_iter().all(|source| seen.insert(source)) {
        return Err(SandboxError::Lacking { what: "show a step one directory in two places" });
    }
    if process.settings.shm_size.is_some() {
        return Err(SandboxError::Lacking { what: "limit `/dev/shm` (`--shm-size`)" });
    }
    match process.network {
        Network::Host => Ok(()),
        Network::None => Err(SandboxError::Lacking { what: "take the network from a step (`--network=none`)" }),
        Network::Private => Err(SandboxError::Lacking { what: "give a step a network of its own" }),
    }
}

impl Placed {
    /// Furnishes the tree. When it fails half-way, everything is moved back.
    pub(super) fn new(root: &Root, settings: &Settings, mounts: &[Mount]) -> Result<Self, SandboxError> {
        let (tree, work) = (open_directory(root.upper.as_os_str())?, open_directory(root.work.as_os_str())?);
        let mut targets = Targets::new(tree, None);
        let mut placed = Self { work, swaps: Vec::new(), made: Made::default() };
        let put = placed.put_all(&mut targets, settings, mounts);
        placed.made = targets.finish()?;
        // What was made inside of what will be gone is not the tree's.
        let inside = |path: &Path| placed.swaps.iter().any(|swap| path.starts_with(&swap.at));
        let on = |path: &Path| placed.swaps.iter().any(|swap| path == swap.at);
        placed.made.stubs.retain(|stub| !inside(&stub.path()) || on(&stub.path()));
        placed.made.directories.retain(|directory| !inside(&directory.path()));
        match put {
            Ok(()) => Ok(placed),
            Err(failure) => {
                placed.restore(root)?;
                Err(failure.into())
            }
        }
    }

    fn put_all(&mut self, targets: &mut Targets, settings: &Settings, mounts: &[Mount]) -> Result<(), Failure> {
        let dev = self.directory("dev", 0o755).attempt(|| "make the directory of `/dev`".to_owned())?;
        devices::make(&dev)?;
        self.put(targets, Path::new("/dev"), (Kind::Directory, "dev".into(), None))?;
        for path in ["/proc", "/sys"] {
            targets.find(Path::new(path), Kind::Directory).attempt(|| format!("make the directory `{path}`"))?;
        }
        let host = nix::unistd::gethostname().attempt(|| "read the host name".to_owned())?;
        let hosts = furnish::hosts(&host.to_string_lossy(), settings);
        let resolv = match fs_err::read("/etc/resolv.conf") {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Vec::new(),
            result => result.attempt(|| "read `/etc/resolv.conf`".to_owned())?,
        };
        for (path, content) in [("/etc/resolv.conf", resolv.as_slice()), ("/etc/hosts", hosts.as_bytes())] {
            let file = self.file(content, 0o644, (0, 0)).attempt(|| format!("make the file `{path}`"))?;
            self.put(targets, Path::new(path), (Kind::File, file.into(), None))?;
        }
        mounts.iter().try_for_each(|mount| self.put_mount(targets, mount))
    }

    fn put_mount(&mut self, targets: &mut Targets, mount: &Mount) -> Result<(), Failure> {
        let target = mount.target();
        let (kind, source, origin) = match mount {
            Mount::Bind { source, .. } => {
                let kind = kind_of(source).attempt(|| format!("bind `{}`", source.display()))?;
                (kind, source.clone(), Some(source.clone()))
            }
            Mount::Tmpfs { .. } => {
                let name = format!("empty-{}", self.swaps.len());
                self.directory(&name, 0o1777).attempt(|| format!("make `{}`", target.display()))?;
                (Kind::Directory, name.into(), None)
            }
            Mount::File { content, mode, uid, gid, .. } => {
                let file = self.file(&content.0, *mode, (*uid, *gid));
                (Kind::File, file.attempt(|| format!("make the file `{}`", target.display()))?.into(), None)
            }
            Mount::Layers { .. } => return Err(Failure::new("mount layers", Errno::NOSYS)),
        };
        self.put(targets, target, (kind, source, origin))
    }

    /// Moves `source`, a path of the host or of the work directory, to `target`.
    fn put(
        &mut self,
        targets: &mut Targets,
        target: &Path,
        (kind, source, origin): (Kind, PathBuf, Option<PathBuf>),
    ) -> Result<(), Failure> {
        let (at, parent) =
            targets.find(target, kind).attempt(|| format!("make the mount point `{}`", target.display()))?;
        if at.starts_with("proc") || at.starts_with("sys") {
            return Err(Failure::new(format!("mount in `/proc` or `/sys`, on `{}`,", target.display()), Errno::PERM));
        }
        let name = at.file_name().unwrap_or_default().to_owned();
        let aside = format!("aside-{}", self.swaps.len());
        let put = || -> Result<OwnedFd, Errno> {
            let from = if origin.is_some() { CWD } else { self.work.as_fd() };
            let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            let placed = openat(from, &source, flags, Mode::empty())?;
            renameat(&parent, &name, &self.work, &aside)?;
            let moved = renameat(from, &source, &parent, &name);
            if let Err(error) = moved {
                renameat(&self.work, &aside, &parent, &name)?;
                return Err(error);
            }
            Ok(placed)
        };
        let placed = put().attempt(|| format!("move what is mounted on `{}` there", target.display()))?;
        self.swaps.push(Swap { at, parent, name, placed, aside, origin });
        Ok(())
    }

    fn directory(&self, name: &str, mode: u32) -> Result<OwnedFd, Errno> {
        mkdirat(&self.work, name, Mode::RWXU)?;
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let directory = openat(&self.work, name, flags, Mode::empty())?;
        fchmod(&directory, Mode::from_raw_mode(mode))?;
        Ok(directory)
    }

    /// Makes a file in the work directory, returns its name.
    fn file(&self, content: &[u8], mode: u32, owner: (u32, u32)) -> std::io::Result<String> {
        let name = format!("file-{}", self.swaps.len());
        let flags = OFlags::CREATE | OFlags::EXCL | OFlags::WRONLY | OFlags::CLOEXEC;
        let mut file = File::from(openat(&self.work, &name, flags, Mode::RUSR | Mode::WUSR)?);
        file.write_all(content)?;
        fchown(&file, Some(Uid::from_raw(owner.0)), Some(Gid::from_raw(owner.1)))?;
        fchmod(&file, Mode::from_raw_mode(mode))?;
        Ok(name)
    }

    /// Moves everything back to where it was, and takes the mount points away.
    pub(super) fn restore(self, root: &Root) -> Result<(), SandboxError> {
        let ended = stubs::look(&root.upper, &self.made)?;
        for swap in self.swaps.iter().rev() {
            swap.restore(&self.work)
                .map_err(|source| SandboxError::Stub { path: PathBuf::from(&swap.name), source: source.into() })?;
        }
        stubs::remove(&root.upper, &self.made, &ended)
    }
}

impl Swap {
    /// What the step has put there instead is thrown away, and a place that is gone takes nothing back.
    fn restore(&self, work: &OwnedFd) -> Result<(), Errno> {
        let trash = format!("gone-{}", self.aside);
        let ours = identity(&self.placed, Path::new(""))?;
        match (identity(&self.parent, Path::new(&self.name)), &self.origin) {
            (Ok(found), Some(origin)) if found == ours => renameat(&self.parent, &self.name, CWD, origin)?,
            (Ok(_), _) => renameat(&self.parent, &self.name, work, &trash)?,
            (Err(Errno::NOENT), _) => {}
            (Err(error), _) => return Err(error),
        }
        match renameat(work, &self.aside, &self.parent, &self.name) {
            Err(Errno::NOENT) => Ok(()),
            result => result,
        }
    }
}

/// The device and inode of a file, which is not followed; of `directory` itself when the path is empty.
fn identity(directory: impl AsFd, path: &Path) -> Result<(u64, u64), Errno> {
    let found = statx(directory, path, AtFlags::SYMLINK_NOFOLLOW | AtFlags::EMPTY_PATH, StatxFlags::INO)?;
    Ok((rustix::fs::makedev(found.stx_dev_major, found.stx_dev_minor), found.stx_ino))
}

/// What is at a path that has no link in it.
fn kind_of(path: &Path) -> Result<Kind, Errno> {
    let resolve = ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
    let opened = openat2(CWD, path, OFlags::PATH | OFlags::CLOEXEC, Mode::empty(), resolve)?;
    let directory = FileType::from_raw_mode(fstat(opened)?.st_mode) == FileType::Directory;
    Ok(if directory { Kind::Directory } else { Kind::File })
}

/// Starts the step, and a thread that shows it what is outside of its root.
pub(super) fn start(mut spec: Spec, stdin: Option<&File>, channel: &mut UnixStream) -> Result<Started, Failure> {
    let tree = open_directory(&spec.upper)?;
    let emulated = seeming::is_wanted(&spec, &tree)?;
    spec.ground.emulation = emulated.then_some(RootEmulation::Full);
    let devices = match process_one::own_null(&tree, "dev/null") {
        // No node could be made: the container's own stay, and are shown.
        Err(error) if error.raw_os_error() == Some(Errno::NODEV.raw_os_error()) => Devices::OfContainer,
        result => result.map(|()| Devices::OfRoot).attempt(|| "open `/dev/null`".to_owned())?,
    };
    let injector = Injector::new(Path::new(&spec.upper), devices).attempt(|| "find the root".to_owned())?;
    let (ours, theirs) = UnixStream::pair().attempt(|| "make a socket pair".to_owned())?;
    system::leave_keyring();
    capabilities::bound()?;
    capabilities::confine(CapabilitySet::empty())?;
    let step = process_one::fork(channel, || {
        enter(&tree)?;
        // The filter needs this: nobody here is the administrator of its namespace.
        rustix::thread::set_no_new_privs(true).attempt(|| "give up new privileges".to_owned())?;
        let program = if emulated { seeming::begin()? } else { assemble(inject::rules) };
        install(seccomp::default()).attempt(|| "filter system calls".to_owned())?;
        let listener = install_with_listener(&program).attempt(|| "filter system calls".to_owned())?;
        Listener::send(&listener, &theirs).attempt(|| "hand over the filter".to_owned())?;
        drop(listener);
        step::execute(&spec, step::enter(&spec)?, stdin)
    })?;
    drop(theirs);
    let emulation = move || emulated.then(Emulation::with_real_owners);
    supervise::answer(move || Listener::receive(&ours), step, move || (injector, emulation()))
}

/// Goes into the tree for good.
fn enter(tree: &OwnedFd) -> Result<(), Failure> {
    rustix::process::fchdir(tree)
        .and_then(|()| rustix::process::chroot("."))
        .attempt(|| "change the root".to_owned())?;
    rustix::process::chdir("/").attempt(|| "enter the root".to_owned())
}

/// Shows in a new directory of `parent` that a step can run: it takes another root, with devices, and other ids.
pub(super) fn rehearse(parent: &Path) -> Result<(), Failure> {
    let path = parent.join(format!("rehearsal-{}", std::process::id()));
    fs_err::create_dir(&path).attempt(|| format!("make a directory in `{}`", parent.display()))?;
    let attempt = || {
        let directory = open_directory(path.as_os_str())?;
        devices::make(&directory)?;
        rustix::fs::chown(&path, Some(Uid::from_raw(1)), Some(Gid::from_raw(1)))
            .attempt(|| "give a directory away".to_owned())?;
        rustix::process::chroot(&path).attempt(|| "change the root".to_owned())?;
        let flags = OFlags::RDWR | OFlags::CLOEXEC;
        openat(&directory, "null", flags, Mode::empty()).attempt(|| "open a device that was made".to_owned())?;
        let (uid, gid) = (nix::unistd::Uid::from_raw(1), nix::unistd::Gid::from_raw(1));
        nix::unistd::setgroups(&[]).attempt(|| "leave all groups".to_owned())?;
        nix::unistd::setresgid(gid, gid, gid).attempt(|| "take another group id".to_owned())?;
        nix::unistd::setresuid(uid, uid, uid).attempt(|| "take another user id".to_owned())
    };
    let result = super::probe::in_child(attempt);
    let removed = fs_err::remove_dir_all(&path).attempt(|| format!("remove `{}`", path.display()));
    result.and(removed)
}
