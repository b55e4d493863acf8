//! The root of a step: overlayfs over the layers, or the upper directory alone; and the move into it.

use std::ffi::{OsStr, OsString};
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::Path;

use rustix::fs::{Access, AtFlags, CWD, Mode, OFlags, accessat, fstatfs, openat};
use rustix::io::Errno;
use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, MountFlags, MountPropagationFlags, OpenTreeFlags, UnmountFlags,
    fsconfig_create, fsconfig_set_flag, fsconfig_set_string, fsmount, fsopen, mount, mount_change, mount_move,
    open_tree, unmount,
};

use super::spec::{Attempt, Failure};
use super::system;
use super::target::attach;

/// What the kernel takes in the data of mount(2): a page, less its terminator.
const MOUNT_DATA: usize = 4095;

/// The directories of a root, opened.
pub(super) struct Layers {
    upper: OwnedFd,
    kind: Kind,
}

enum Kind {
    /// A detached mount of the upper directory, which is the whole root.
    Upper(OwnedFd),
    Overlay(Overlay),
}

struct Overlay {
    lowers: Vec<OwnedFd>,
    /// Goes with an upper directory.
    work: Option<OwnedFd>,
    user_xattr: bool,
}

/// Mounts a stack of layers, top first, on the empty directory `place` and opens its root. `writes` are the upper and
/// the work directory; without them nobody can write. Overlayfs wants two directories then, so `lowers` has them.
pub(super) fn mount_layers(
    lowers: Vec<OwnedFd>,
    writes: Option<&[OsString; 2]>,
    user_xattr: bool,
    place: &Path,
) -> Result<OwnedFd, Failure> {
    let (upper, work) = match writes {
        Some([upper, work]) => (Some(open_directory(upper)?), Some(open_directory(work)?)),
        None => (None, None),
    };
    let overlay = Overlay { lowers, work, user_xattr };
    let open = || openat(CWD, place, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty());
    let mounted = match overlay.mount(upper.as_ref()) {
        Ok(root) => open().and_then(|place| attach(&root, place)).map(|()| root),
        Err(Errno::INVAL | Errno::NOSYS | Errno::NOTSUP) => {
            overlay.mount_by_options(upper.as_ref(), place).and_then(|()| open())
        }
        Err(error) => Err(error),
    };
    mounted.attempt(|| "mount overlayfs over the layers of a mount".to_owned())
}

impl Layers {
    /// Opens every directory. Overlayfs is given descriptors, or the working directory, rather than paths: those are short,
    /// which counts in the options of a mount, and nothing in them must be escaped.
    pub(super) fn open(lowers: &[OsString], upper: &OsStr, work: &OsStr, user_xattr: bool) -> Result<Self, Failure> {
        let opened = open_directory(upper)?;
        let kind = if lowers.is_empty() {
            Kind::Upper(bind(&opened).attempt(|| format!("bind the root `{}`", Path::new(upper).display()))?)
        } else {
            let lowers = lowers.iter().map(|lower| open_directory(lower)).collect::<Result<_, _>>()?;
            Kind::Overlay(Overlay { lowers, work: Some(open_directory(work)?), user_xattr })
        };
        Ok(Self { upper: opened, kind })
    }

    /// Mounts the root on its upper directory, whose path is `upper`, and goes there.
    pub(super) fn mount(&self, upper: &OsStr) -> Result<(), Failure> {
        let path = Path::new(upper);
        let overlay = match &self.kind {
            Kind::Upper(root) => return self.enter(root),
            Kind::Overlay(overlay) => overlay,
        };
        let action =
            || format!("mount overlayfs with the upper directory `{}`{}", path.display(), overlay.why_not(&self.upper));
        match overlay.mount(Some(&self.upper)) {
            Ok(root) => self.enter(&root),
            // Linux before 6.8 has no `lowerdir+`, before 5.2 no fsopen.
            Err(Errno::INVAL | Errno::NOSYS | Errno::NOTSUP) => {
                overlay.mount_by_options(Some(&self.upper), path).attempt(action)?;
                rustix::process::chdir(path).attempt(|| "enter the root".to_owned())
            }
            Err(error) => Err(Failure::new(action(), error)),
        }
    }

    fn enter(&self, root: &OwnedFd) -> Result<(), Failure> {
        attach(root, &self.upper).attempt(|| "mount the root".to_owned())?;
        rustix::process::fchdir(root).attempt(|| "enter the root".to_owned())
    }

    /// The upper directory, where overlayfs lies over it.
    pub(super) fn into_upper(self) -> Option<OwnedFd> {
        matches!(self.kind, Kind::Overlay(_)).then_some(self.upper)
    }
}

fn bind(directory: &OwnedFd) -> std::io::Result<OwnedFd> {
    let copy = open_tree(directory, "", clone_flags() | OpenTreeFlags::AT_RECURSIVE)?;
    system::restrict_mounts(&copy, MountAttrFlags::MOUNT_ATTR_NODEV.bits().into())?;
    Ok(copy)
}

impl Overlay {
    /// What the kernel, which says "invalid argument" to both, may have meant.
    fn why_not(&self, upper: &OwnedFd) -> &'static str {
        const OVERLAYFS: u32 = 0x794c_7630;
        let on_overlayfs = |found: rustix::fs::StatFs| u32::try_from(found.f_type) == Ok(OVERLAYFS);
        if fstatfs(upper).is_ok_and(on_overlayfs) {
            ", which is itself on overlayfs,"
        } else if self
            .work
            .as_ref()
            .is_some_and(|work| accessat(work, "work/incompat/volatile", Access::EXISTS, AtFlags::empty()).is_ok())
        {
            " and a work directory that was used before"
        } else {
            ""
        }
    }

    /// The new mount API: 500 layers at most. Changes the working directory.
    fn mount(&self, upper: Option<&OwnedFd>) -> Result<OwnedFd, Errno> {
        let overlay = fsopen("overlay", FsOpenFlags::FSOPEN_CLOEXEC)?;
        fsconfig_set_string(&overlay, "source", "overlay")?;
        for lower in &self.lowers {
            set_directory(&overlay, "lowerdir+", lower)?;
        }
        for (key, directory) in self.written(upper) {
            set_directory(&overlay, key, directory)?;
        }
        for option in self.options() {
            match option.split_once('=') {
                Some((key, value)) => fsconfig_set_string(&overlay, key, value)?,
                None => fsconfig_set_flag(&overlay, option)?,
            }
        }
        fsconfig_create(&overlay)?;
        fsmount(&overlay, FsMountFlags::FSMOUNT_CLOEXEC, MountAttrFlags::MOUNT_ATTR_NODEV)
    }

    /// mount(2): one string for everything, some 200 layers at most.
    fn mount_by_options(&self, upper: Option<&OwnedFd>, target: &Path) -> Result<(), Errno> {
        let lowers: Vec<String> = self.lowers.iter().map(by_descriptor).collect();
        let mut data = format!("lowerdir={}", lowers.join(":"));
        for (key, directory) in self.written(upper) {
            data.extend([",", key, "=", &by_descriptor(directory)]);
        }
        for option in self.options() {
            data.push(',');
            data.push_str(option);
        }
        if data.len() > MOUNT_DATA {
            return Err(Errno::TOOBIG);
        }
        let data = std::ffi::CString::new(data).map_err(|_| Errno::INVAL)?;
        mount("overlay", target, "overlay", MountFlags::NODEV, Some(data.as_c_str()))
    }
}

impl Overlay {
    /// The options that name the directories to write to.
    fn written<'a>(&'a self, upper: Option<&'a OwnedFd>) -> impl Iterator<Item = (&'static str, &'a OwnedFd)> {
        upper.map(|upper| ("upperdir", upper)).into_iter().chain(self.work.as_ref().map(|work| ("workdir", work)))
    }

    fn options(&self) -> impl Iterator<Item = &'static str> {
        // Nothing is written without an upper directory, so nothing is volatile.
        let volatile = self.work.as_ref().map(|_| "volatile");
        features(self.user_xattr).iter().copied().chain(volatile)
    }
}

/// The options of overlayfs beside its directories. `volatile` saves every fsync of the upper directory, which is thrown away after a crash.
/// In the initial user namespace the features that make an upper directory unfit for a layer are turned off by name; in
/// others they are off, and naming them is refused.
fn features(user_xattr: bool) -> &'static [&'static str] {
    if user_xattr { &["userxattr"] } else { &["redirect_dir=off", "metacopy=off", "index=off"] }
}

/// Names a directory to a new overlay, which looks at once: as the working directory, because that is the shortest way
/// there, and because the name is shown to the step (`/proc/self/mountinfo`), for which a descriptor would be its path.
fn set_directory(overlay: &OwnedFd, key: &str, directory: &OwnedFd) -> Result<(), Errno> {
    rustix::process::fchdir(directory)?;
    fsconfig_set_string(overlay, key, ".")
}

fn by_descriptor(directory: &OwnedFd) -> String {
    format!("/proc/self/fd/{}", directory.as_raw_fd())
}

/// Opens a directory of the host as a place.
pub(super) fn open_directory(path: &OsStr) -> Result<OwnedFd, Failure> {
    openat(CWD, path, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())
        .attempt(|| format!("open the directory `{}`", Path::new(path).display()))
}

/// The flags that make a detached copy of a mount.
pub(super) fn clone_flags() -> OpenTreeFlags {
    OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC | OpenTreeFlags::AT_EMPTY_PATH
}

/// Cuts the mount namespace off from the one that it is a copy of.
pub(super) fn make_private() -> Result<(), Failure> {
    mount_change("/", MountPropagationFlags::PRIVATE | MountPropagationFlags::REC)
        .attempt(|| "cut the mounts off from the host's".to_owned())
}

/// Where the root is that a process had before [`pivot`]. What is mounted there can be moved away until it is left.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[must_use = "one that lies over the new root is within reach until it is left"]
pub(super) enum OldRoot {
    /// Over the new one, to be [left](leave_old_root).
    Over,
    /// Under the new one.
    Under,
}

/// Makes the working directory, which is the root of a mount, the root of the process, and of every other one in the mount
/// namespace where the old root comes to lie over it.
pub(super) fn pivot() -> Result<OldRoot, Failure> {
    match rustix::process::pivot_root(".", ".") {
        Ok(()) => Ok(OldRoot::Over),
        // Docker's seccomp profile forbids pivot_root; a root in an initramfs cannot be pivoted. Moved over `/`, the
        // new root hides the old one: `..` above it is itself.
        Err(Errno::PERM | Errno::INVAL) => {
            mount_move(".", "/").attempt(|| "move the root over the old one".to_owned())?;
            rustix::process::chroot(".").attempt(|| "change the root".to_owned())?;
            Ok(OldRoot::Under)
        }
        Err(error) => Err(Failure::new("pivot into the root", error)),
    }
}

/// Makes the old root, which lies over the new one, unreachable for everybody in the mount namespace.
pub(super) fn leave_old_root() -> Result<(), Failure> {
    rustix::process::chdir("/").attempt(|| "enter the root".to_owned())?;
    unmount(".", UnmountFlags::DETACH).attempt(|| "leave the old root".to_owned())
}

#[cfg(test)]
mod tests {
    use super::super::probe::in_child;
    use super::super::spec::{Ground, Processes};
    use super::super::userns::{Ids, Namespace};
    use super::super::{describe::Network, init};
    use super::*;

    /// Stacks `count` layers by mount(2) as root of a user namespace; the top one has a `file` that says so.
    fn stack(count: usize) -> Result<(), Failure> {
        let directory = tempfile::tempdir().unwrap();
        let path = |name: String| directory.path().join(name).into_os_string();
        let lowers: Vec<OsString> = (0..count).map(|number| path(format!("lower,with:{number}"))).collect();
        for lower in lowers.iter().rev() {
            fs_err::create_dir(lower).unwrap();
            fs_err::write(Path::new(lower).join("file"), lower.to_str().unwrap()).unwrap();
        }
        let (upper, work) = (path("upper\\,:".into()), path("work\\,:".into()));
        fs_err::create_dir(&upper).unwrap();
        fs_err::create_dir(&work).unwrap();
        let mount = || {
            init::isolate(Network::Host, Processes::Shared).attempt(|| "make namespaces".to_owned())?;
            make_private()?;
            let layers = Layers::open(&lowers, &upper, &work, true)?;
            let Kind::Overlay(overlay) = &layers.kind else { unreachable!("there are layers") };
            overlay.mount_by_options(Some(&layers.upper), Path::new(&upper)).attempt(|| "mount".to_owned())?;
            let seen = fs_err::read(Path::new(&upper).join("file")).attempt(|| "read".to_owned())?;
            assert_eq!(seen, lowers[0].as_encoded_bytes());
            Ok(())
        };
        let ground = Ground { user_xattr: true, processes: Processes::Shared, mounts: true, emulation: None };
        let namespace = Namespace::make(Ids::Single, || in_child(mount).map(|()| ground));
        namespace.map(drop).map_err(|refusal| match refusal {
            super::super::userns::Refusal::Rehearsal(failure) => failure,
            other => panic!("{other:?}"),
        })
    }

    #[test]
    fn old_kernels_stack_layers_with_any_names_by_their_descriptors() {
        stack(1).unwrap();
        stack(150).unwrap();
    }

    #[test]
    fn more_layers_than_mount_takes_are_an_error() {
        assert_eq!(stack(300).unwrap_err().errno, Some(libc::E2BIG));
    }
}
