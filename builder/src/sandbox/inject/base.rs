//! Where a relative path of a step leads: out of its root, when it is seen from a directory of the root; back, when a
//! process has gone out.

use rustix::fs::{CWD, readlinkat};

/// What a path begins with that may lead out of a root, or back into it.
const TURNS: [&str; 10] = ["..", "proc", "sys", "dev", "fd", "stdin", "stdout", "stderr", "pts", "ptmx"];

/// The directory in which a relative path begins.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Base {
    /// Its path for the step, without links.
    path: String,
    /// Whether it is out of the step's root.
    pub(super) outside: bool,
}

impl Base {
    /// Whether it matters for a relative path where it begins.
    pub(super) fn matters(path: &[u8]) -> bool {
        let first = path.split(|&byte| byte == b'/').find(|part| *part != b"." && !part.is_empty());
        first.is_some_and(|first| TURNS.iter().any(|turn| turn.as_bytes() == first))
    }

    /// The working directory of a thread, or what one of its descriptors is open on; nothing when that has no path, or
    /// there is no such descriptor, which the kernel then says.
    pub(super) fn of(thread: i32, descriptor: i32, root: &[u8]) -> Option<Self> {
        let link = match descriptor {
            libc::AT_FDCWD => format!("/proc/{thread}/cwd"),
            descriptor => format!("/proc/{thread}/fd/{descriptor}"),
        };
        Self::at(readlinkat(CWD, link, Vec::new()).ok()?.to_bytes(), root)
    }

    /// A directory whose path outside of all roots is `path`.
    pub(super) fn at(path: &[u8], root: &[u8]) -> Option<Self> {
        let inside = path.strip_prefix(root).filter(|rest| rest.is_empty() || rest.starts_with(b"/"));
        let text = std::str::from_utf8(inside.unwrap_or(path)).ok()?;
        let outside = inside.is_none();
        let known = ["/proc", "/sys", "/dev/pts"]
            .iter()
            .any(|top| text.strip_prefix(top).is_some_and(|rest| rest.is_empty() || rest.starts_with('/')));
        (known || !outside).then(|| Self { path: text.to_owned(), outside })
    }

    /// What `path` means here; nothing when only the kernel can say, because `..` stands behind a name.
    pub(super) fn join(&self, path: &[u8]) -> Option<String> {
        let mut at: Vec<&str> = self.path.split('/').filter(|part| !part.is_empty()).collect();
        let path = std::str::from_utf8(path).ok()?;
        let mut parts = path.split('/').filter(|part| !part.is_empty() && *part != ".").peekable();
        while parts.next_if_eq(&"..").is_some() {
            at.pop();
        }
        let rest: Vec<&str> = parts.collect();
        if rest.contains(&"..") {
            return None;
        }
        let slash = if path.ends_with('/') && !rest.is_empty() { "/" } else { "" };
        Some(format!("/{}{slash}", [at, rest].concat().join("/")))
    }

    /// The path, of a directory that is out of the step's root.
    pub(super) fn path_outside(&self) -> Option<&str> {
        self.outside.then_some(self.path.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_of_other_names_need_not_be_looked_at() {
        for path in ["proc/self", "./proc", "../x", "..", "fd/3", "sys"] {
            assert!(Base::matters(path.as_bytes()), "{path}");
        }
        for path in ["", ".", "process", "usr/sys", "x/../proc"] {
            assert!(!Base::matters(path.as_bytes()), "{path}");
        }
    }

    #[test]
    fn a_path_is_seen_from_where_it_begins() {
        let join = |base: &str, path: &str| Base::at(base.as_bytes(), b"/t/root").unwrap().join(path.as_bytes());
        let joined = |base: &str, path: &str| join(base, path).unwrap();
        assert_eq!(joined("/t/root", "proc/self/exe"), "/proc/self/exe");
        assert_eq!(joined("/t/root/usr/bin", "../../proc"), "/proc");
        assert_eq!(joined("/t/root/usr", "proc/"), "/usr/proc/");
        assert_eq!(joined("/proc/7/fd", "../../.."), "/");
        assert_eq!(joined("/proc", "../etc"), "/etc");
        assert_eq!(joined("/sys/class", "../kernel"), "/sys/kernel");
        assert_eq!(join("/t/root", "proc/../etc"), None);
    }

    #[test]
    fn only_what_a_step_is_shown_is_known_outside_of_its_root() {
        assert_eq!(Base::at(b"/t/root", b"/t/root"), Some(Base { path: String::new(), outside: false }));
        assert_eq!(Base::at(b"/proc/1", b"/t/root"), Some(Base { path: "/proc/1".into(), outside: true }));
        assert_eq!(Base::at(b"/t/rooted", b"/t/root"), None);
        assert_eq!(Base::at(b"/", b"/t/root"), None);
        assert_eq!(Base::at(b"pipe:[7]", b"/t/root"), None);
    }
}
