//! Paths of a process whose root is not that of this one: no link in them leads out of it, and none is followed here.

use std::ffi::CString;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use rustix::fs::{CWD, Mode, OFlags, ResolveFlags, openat, openat2, readlinkat};
use rustix::io::Errno;

const PATH: OFlags = OFlags::PATH.union(OFlags::CLOEXEC);
/// The most links in one path (`MAXSYMLINKS` of linux/namei.h).
const MOST_LINKS: usize = 40;
/// How often the kernel is asked whether `..` leads out: it cannot say while somebody renames a directory (openat2(2)).
const TRIES: usize = 16;

/// Where a process sees files from.
pub(super) struct View {
    root: OwnedFd,
    /// Where a relative path begins.
    base: Option<OwnedFd>,
}

impl View {
    /// The view of a thread. `directory`, a descriptor or `AT_FDCWD`, counts if it is to name a relative path.
    pub(super) fn of(thread: i32, directory: Option<i32>) -> Result<Self, Errno> {
        let open = |name: &str| openat(CWD, format!("/proc/{thread}/{name}"), PATH, Mode::empty());
        let base = match directory {
            None => None,
            Some(libc::AT_FDCWD) => Some(open("cwd")?),
            Some(descriptor @ 0..) => match open(&format!("fd/{descriptor}")) {
                Err(Errno::NOENT) => return Err(Errno::BADF),
                opened => Some(opened?),
            },
            Some(_) => return Err(Errno::BADF),
        };
        Ok(Self { root: open("root")?, base })
    }

    /// Opens what `path` names, as a path.
    pub(super) fn open(&self, path: &[u8], follow: bool) -> Result<OwnedFd, Errno> {
        let flags = if follow { PATH } else { PATH | OFlags::NOFOLLOW };
        let in_root = |path: &[u8]| ask(&self.root, path, flags, ResolveFlags::IN_ROOT);
        let Some(base) = self.base.as_ref().filter(|_| !path.starts_with(b"/")) else { return in_root(path) };
        match ask(base, path, flags, ResolveFlags::BENEATH) {
            // It leaves the directory; the root it must not leave.
            Err(Errno::XDEV) => in_root(&self.seen_from_root(base.as_fd(), path)?),
            opened => opened,
        }
    }

    /// Opens the directory in which `path` makes something, and says how that is called there. A link that leads to where
    /// nothing is yet is followed if `follow` says so.
    pub(super) fn open_parent(mut self, path: &[u8], follow: bool) -> Result<(OwnedFd, CString), Errno> {
        let mut path = path.to_owned();
        for _ in 0..MOST_LINKS {
            let (parent, name) = split(&path);
            let name = CString::new(name).map_err(|_| Errno::INVAL)?;
            let parent = self.open(parent, true)?;
            match readlinkat(&parent, &*name, Vec::new()) {
                Ok(target) if follow => (path, self.base) = (target.into_bytes(), Some(parent)),
                _ => return Ok((parent, name)),
            }
        }
        Err(Errno::LOOP)
    }

    /// A path that begins in the root for one that begins in `base`.
    fn seen_from_root(&self, base: BorrowedFd<'_>, path: &[u8]) -> Result<Vec<u8>, Errno> {
        let place = |of: BorrowedFd<'_>| readlinkat(CWD, format!("/proc/self/fd/{}", of.as_raw_fd()), Vec::new());
        let (root, base) = (place(self.root.as_fd())?, place(base)?);
        let root = root.to_bytes().strip_suffix(b"/").unwrap_or(root.to_bytes());
        let inside = base.to_bytes().strip_prefix(root).filter(|rest| rest.is_empty() || rest.starts_with(b"/"));
        Ok([inside.ok_or(Errno::XDEV)?, b"/", path].concat())
    }
}

fn ask(from: &OwnedFd, path: &[u8], flags: OFlags, resolve: ResolveFlags) -> Result<OwnedFd, Errno> {
    let open = || openat2(from, path, flags, Mode::empty(), resolve);
    (1..TRIES).fold(open(), |opened, _| if opened.as_ref().err() == Some(&Errno::AGAIN) { open() } else { opened })
}

/// The directory and the name, which keeps its slashes at the end.
fn split(path: &[u8]) -> (&[u8], &[u8]) {
    let end = path.iter().rposition(|&byte| byte != b'/').map_or(0, |last| last + 1);
    match path[..end].iter().rposition(|&byte| byte == b'/') {
        Some(slash) => path.split_at(slash + 1),
        None if end == 0 && !path.is_empty() => (b"/", b"."),
        None => (b".", path),
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn a_path_is_a_directory_and_a_name() {
        let pair = |path: &'static [u8]| split(path);
        assert_eq!(pair(b"a"), (&b"."[..], &b"a"[..]));
        assert_eq!(pair(b"/a"), (&b"/"[..], &b"a"[..]));
        assert_eq!(pair(b"a/b//"), (&b"a/"[..], &b"b//"[..]));
        assert_eq!(pair(b"//"), (&b"/"[..], &b"."[..]));
    }

    /// A root with links, and the view of somebody who is in its directory `a/b`.
    fn view(root: &std::path::Path) -> View {
        fs_err::create_dir_all(root.join("a/b")).unwrap();
        fs_err::create_dir_all(root.join("etc")).unwrap();
        symlink("/etc", root.join("a/b/absolute")).unwrap();
        symlink("../../../../etc", root.join("a/b/up")).unwrap();
        symlink("/etc/new", root.join("a/b/dangling")).unwrap();
        symlink("round", root.join("a/b/round")).unwrap();
        let open = |path: &str| openat(CWD, root.join(path), PATH, Mode::empty()).unwrap();
        View { root: open(""), base: Some(open("a/b")) }
    }

    fn inode(file: &OwnedFd) -> u64 {
        rustix::fs::fstat(file).unwrap().st_ino
    }

    #[test]
    fn no_link_and_no_way_up_leads_out_of_the_root() {
        let root = tempfile::tempdir().unwrap();
        let view = view(root.path());
        let etc = std::os::unix::fs::MetadataExt::ino(&fs_err::metadata(root.path().join("etc")).unwrap());
        for path in ["absolute", "up", "../../etc", "../../../../../etc", "/etc", "/a/b/absolute", "/../etc"] {
            assert_eq!(inode(&view.open(path.as_bytes(), true).unwrap()), etc, "{path}");
        }
        assert_eq!(view.open(b"/proc/self", true).map(drop), Err(Errno::NOENT));
        assert_ne!(inode(&view.open(b"absolute", false).unwrap()), etc);
    }

    #[test]
    fn what_a_link_leads_to_is_made_in_the_root() {
        let root = tempfile::tempdir().unwrap();
        let (parent, name) = view(root.path()).open_parent(b"dangling", true).unwrap();
        let etc = std::os::unix::fs::MetadataExt::ino(&fs_err::metadata(root.path().join("etc")).unwrap());
        assert_eq!((inode(&parent), &*name), (etc, c"new"));
        let other = tempfile::tempdir().unwrap();
        let (_, name) = view(other.path()).open_parent(b"dangling", false).unwrap();
        assert_eq!(&*name, c"dangling");
        let third = tempfile::tempdir().unwrap();
        assert_eq!(view(third.path()).open_parent(b"round", true).map(drop), Err(Errno::LOOP));
    }
}
