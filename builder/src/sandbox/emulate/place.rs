//! What a call of a step names, as a path that this process can use.
//!
//! A directory, descriptor or root of another process is reached through its `/proc` directory, so that nothing has to
//! be opened for most calls.

use std::ffi::{CStr, CString};
use std::os::fd::{AsRawFd, OwnedFd};

use rustix::io::Errno;

use super::beneath::View;

/// A file of the step.
#[derive(Debug)]
pub(super) struct Place {
    /// How this process reaches it.
    pub(super) path: CString,
    /// Whether a symbolic link at its end is followed.
    pub(super) follow: bool,
    /// Keeps what `path` leads through.
    _held: Option<OwnedFd>,
}

/// Who names a file.
#[derive(Debug, Clone, Copy)]
pub(super) struct Namer {
    /// Its thread.
    pub(super) thread: i32,
    /// Whether its root is not that of this process.
    pub(super) other_root: bool,
}

impl Place {
    /// What a descriptor is open on.
    pub(super) fn of_descriptor(thread: i32, descriptor: i32) -> Result<Self, Errno> {
        if descriptor < 0 {
            return Err(Errno::BADF);
        }
        Self::at(format!("/proc/{thread}/fd/{descriptor}").into_bytes(), true)
    }

    /// The working directory.
    pub(super) fn of_cwd(thread: i32) -> Result<Self, Errno> {
        Self::at(format!("/proc/{thread}/cwd").into_bytes(), true)
    }

    /// What `path` names, seen from `directory` (a descriptor, or `AT_FDCWD`).
    pub(super) fn of_path(namer: Namer, directory: i32, path: &CStr, follow: bool) -> Result<Self, Errno> {
        let Namer { thread, other_root } = namer;
        let path = path.to_bytes();
        if path.is_empty() {
            return Err(Errno::NOENT);
        }
        if other_root {
            let file = view(thread, directory, path)?.open(path, follow)?;
            let place = Self::of_own(&file)?;
            return Ok(Self { _held: Some(file), ..place });
        }
        if path[0] == b'/' {
            return Self::at(absolute(thread, path), follow);
        }
        let base = match directory {
            libc::AT_FDCWD => format!("/proc/{thread}/cwd/"),
            0.. => format!("/proc/{thread}/fd/{directory}/"),
            _ => return Err(Errno::BADF),
        };
        Self::at([base.as_bytes(), path].concat(), follow)
    }

    /// Where what `path` names is made. Links that lead to where nothing is yet are followed if `follow` says so; by the
    /// kernel, where both have one root.
    pub(super) fn of_new(namer: Namer, directory: i32, path: &CStr, follow: bool) -> Result<Self, Errno> {
        if !namer.other_root || path.is_empty() {
            return Self::of_path(namer, directory, path, false);
        }
        let (parent, name) = view(namer.thread, directory, path.to_bytes())?.open_parent(path.to_bytes(), follow)?;
        let base = format!("/proc/self/fd/{}/", parent.as_raw_fd());
        Ok(Self { _held: Some(parent), ..Self::at([base.as_bytes(), name.to_bytes()].concat(), false)? })
    }

    /// The directory that `path` is in, or would be.
    pub(super) fn of_parent(namer: Namer, directory: i32, path: &CStr) -> Result<Self, Errno> {
        let bytes = path.to_bytes();
        let end = bytes.iter().rposition(|&byte| byte != b'/').map_or(0, |last| last + 1);
        let parent = match bytes[..end].iter().rposition(|&byte| byte == b'/') {
            None if bytes.first() == Some(&b'/') => b"/".as_slice(),
            None => b".",
            Some(slash) => &bytes[..=slash],
        };
        let parent = CString::new(parent).map_err(|_| Errno::INVAL)?;
        Self::of_path(namer, directory, &parent, true)
    }

    /// An open file of this process.
    pub(super) fn of_own(file: &OwnedFd) -> Result<Self, Errno> {
        Self::at(format!("/proc/self/fd/{}", file.as_raw_fd()).into_bytes(), true)
    }

    fn at(path: Vec<u8>, follow: bool) -> Result<Self, Errno> {
        Ok(Self { path: CString::new(path).map_err(|_| Errno::INVAL)?, follow, _held: None })
    }
}

fn view(thread: i32, directory: i32, path: &[u8]) -> Result<View, Errno> {
    View::of(thread, Some(directory).filter(|_| !path.starts_with(b"/")))
}

/// Puts the caller in the place of `self`, which to this process is another.
fn absolute(thread: i32, path: &[u8]) -> Vec<u8> {
    let descriptors = format!("/proc/{thread}/fd");
    let process = format!("/proc/{thread}");
    for (prefix, meant) in [
        (&b"/proc/self"[..], process.clone()),
        (b"/proc/thread-self", process),
        (b"/dev/fd", descriptors.clone()),
        (b"/dev/stdin", format!("{descriptors}/0")),
        (b"/dev/stdout", format!("{descriptors}/1")),
        (b"/dev/stderr", format!("{descriptors}/2")),
    ] {
        match path.strip_prefix(prefix) {
            Some([]) if prefix.starts_with(b"/dev/std") => return meant.into_bytes(),
            Some(rest @ [b'/', ..]) => return [meant.as_bytes(), rest].concat(),
            _ => {}
        }
    }
    path.to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_self_means_is_the_caller() {
        for (path, meant) in [
            ("/etc/passwd", "/etc/passwd"),
            ("/proc/self/exe", "/proc/7/exe"),
            ("/proc/self", "/proc/self"),
            ("/proc/selfish/x", "/proc/selfish/x"),
            ("/proc/thread-self/fd/3", "/proc/7/fd/3"),
            ("/dev/fd/63", "/proc/7/fd/63"),
            ("/dev/stdout", "/proc/7/fd/1"),
            ("/dev/stdoutx", "/dev/stdoutx"),
        ] {
            assert_eq!(absolute(7, path.as_bytes()), meant.as_bytes(), "{path}");
        }
    }

    #[test]
    fn a_path_is_seen_from_where_its_caller_is() {
        let namer = Namer { thread: 7, other_root: false };
        let place = |directory, path: &CStr| Place::of_path(namer, directory, path, true).map(|place| place.path);
        assert_eq!(place(libc::AT_FDCWD, c"a/b"), Ok(c"/proc/7/cwd/a/b".to_owned()));
        assert_eq!(place(5, c"../a"), Ok(c"/proc/7/fd/5/../a".to_owned()));
        assert_eq!(place(-1, c"a"), Err(Errno::BADF));
        assert_eq!(place(5, c""), Err(Errno::NOENT));
        let parent = |path: &CStr| Place::of_parent(namer, 5, path).map(|place| place.path).unwrap();
        assert_eq!(parent(c"a"), c"/proc/7/fd/5/.".to_owned());
        assert_eq!(parent(c"a/b//"), c"/proc/7/fd/5/a/".to_owned());
        assert_eq!(parent(c"/a"), c"/".to_owned());
        assert_eq!(parent(c"/"), c"/".to_owned());
    }
}
