//! Which paths of a step lead out of its root, and where to.

use rustix::io::Errno;

use super::super::devices;
use super::super::furnish::{MASKED_PROC, MASKED_SYS, READ_ONLY_PROC};
use super::Links;
use super::caller;

/// What a step without mounts finds mounted (proc(5), the format of `/proc/pid/mounts` and of `mountinfo`).
const MOUNTS: &str = "rootfs / rootfs rw 0 0\nproc /proc proc ro 0 0\nsysfs /sys sysfs ro 0 0\n";
const MOUNT_INFO: &str =
    "1 1 0:1 / / rw - rootfs rootfs rw\n2 1 0:2 / /proc ro - proc proc ro\n3 1 0:3 / /sys ro - sysfs sysfs ro\n";

/// A path that leads out of the root, as the step says it.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Seen {
    /// The same path outside: of the kernel, or a terminal.
    Same(String),
    /// A path below the caller's own directory in `/proc`.
    Own(String),
    /// A path below the directory of the calling thread.
    Thread(String),
    /// The link `/proc/self` itself.
    Link,
}

impl Seen {
    /// Tells whether a path leads out, when its last component is treated so. A path with `..` in it is taken for one of
    /// the root's.
    pub(super) fn of(path: &[u8], links: Links) -> Option<Self> {
        let path = std::str::from_utf8(path).ok().filter(|path| path.starts_with('/'))?;
        let parts: Vec<&str> = path.split('/').filter(|part| !part.is_empty() && *part != ".").collect();
        if parts.contains(&"..") {
            return None;
        }
        let same = || Some(Self::Same(format!("/{}", parts.join("/"))));
        let own = |rest: &[&str]| Some(Self::Own(rest.join("/")));
        match *parts.as_slice() {
            ["proc", "self"] if links == Links::Keep && !path.ends_with('/') => Some(Self::Link),
            ["proc", "self", ref rest @ ..] => own(rest),
            ["proc", "thread-self", ref rest @ ..] => Some(Self::Thread(rest.join("/"))),
            ["proc", "mounts" | "net", ..] => own(&parts[1..]),
            ["proc" | "sys", ..] | ["dev", "ptmx" | "pts", ..] => same(),
            ["dev", "fd", ref rest @ ..] if !rest.is_empty() || links == Links::Follow || path.ends_with('/') => {
                own(&[&["fd"], rest].concat())
            }
            ["dev", name @ ("stdin" | "stdout" | "stderr")] if links == Links::Follow => {
                own(&["fd", ["0", "1", "2"][usize::from(name != "stdin") + usize::from(name == "stderr")]])
            }
            _ => None,
        }
    }

    /// The device that a path names, if it names one that every step has.
    pub(super) fn device(path: &[u8]) -> Option<Self> {
        let name = std::str::from_utf8(path).ok()?.strip_prefix("/dev/")?;
        devices::is_known(name).then(|| Self::Same(format!("/dev/{name}")))
    }

    /// Where it leads for the caller with this thread.
    pub(super) fn place(self, thread: i32) -> Result<Place, Errno> {
        Ok(match self {
            Self::Same(path) => Place { path, process: None },
            Self::Own(rest) => {
                let process = caller::process_of(thread)?;
                Place { path: join(format!("/proc/{process}"), &rest), process: None }
            }
            Self::Thread(rest) => {
                let process = caller::process_of(thread)?;
                Place { path: join(format!("/proc/{process}/task/{thread}"), &rest), process: None }
            }
            Self::Link => Place { path: "/proc/self".into(), process: Some(caller::process_of(thread)?) },
        })
    }
}

fn join(directory: String, rest: &str) -> String {
    if rest.is_empty() { directory } else { format!("{directory}/{rest}") }
}

/// A file outside of the root.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Place {
    path: String,
    /// Whose `/proc/self` it is.
    process: Option<i32>,
}

impl Place {
    /// A file that this process has open. A directory is reached through its link also by a call that follows none.
    pub(super) fn held(descriptor: i32, directory: bool) -> Self {
        let itself = if directory { "/." } else { "" };
        Self { path: format!("/proc/self/fd/{descriptor}{itself}"), process: None }
    }

    pub(super) fn path(&self) -> &str {
        &self.path
    }

    /// Whether it is a setting of the kernel, which no step may write.
    pub(super) fn is_protected(&self) -> bool {
        self.is_in("/sys", &[""]) || self.is_in("/proc/", READ_ONLY_PROC)
    }

    /// Whether it is a device that every step has.
    pub(super) fn is_device(&self) -> bool {
        self.path.strip_prefix("/dev/").is_some_and(devices::is_known)
    }

    /// Whether no step may see it.
    pub(super) fn is_masked(&self) -> bool {
        self.is_in("/proc/", MASKED_PROC) || self.is_in("/sys/", MASKED_SYS)
    }

    /// Whether it is one of `names` in `directory`, or below one.
    fn is_in(&self, directory: &str, names: &[&str]) -> bool {
        let path = self.path.strip_prefix(directory);
        let rest = |name: &&str| path.and_then(|path| path.strip_prefix(*name));
        names.iter().filter_map(rest).any(|rest| rest.is_empty() || rest.starts_with('/'))
    }

    /// The text of a link that shows another process to each.
    pub(super) fn own_link(&self) -> Option<String> {
        self.process.map(|process| process.to_string())
    }

    /// The text of a file that would show the container's mounts, or none, because the root is no mount.
    pub(super) fn own_text(&self) -> Option<&'static str> {
        let mut parts = self.path.strip_prefix("/proc/")?.split('/');
        parts.next()?.parse::<u32>().ok()?;
        match (parts.next_back()?, parts.next()) {
            ("mounts", None | Some("task")) => Some(MOUNTS),
            ("mountinfo", None | Some("task")) => Some(MOUNT_INFO),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_of_the_kernel_and_of_terminals_lead_out() {
        let follow = |path: &str| Seen::of(path.as_bytes(), Links::Follow);
        let same = |path: &str| Some(Seen::Same(path.to_owned()));
        let own = |path: &str| Some(Seen::Own(path.to_owned()));
        assert_eq!(follow("/proc"), same("/proc"));
        assert_eq!(follow("//proc/./cpuinfo"), same("/proc/cpuinfo"));
        assert_eq!(follow("/sys/class/net"), same("/sys/class/net"));
        assert_eq!(follow("/dev/pts/3"), same("/dev/pts/3"));
        assert_eq!(follow("/proc/self"), own(""));
        assert_eq!(follow("/proc/self/exe"), own("exe"));
        assert_eq!(follow("/proc/mounts"), own("mounts"));
        assert_eq!(follow("/dev/fd/63"), own("fd/63"));
        assert_eq!(follow("/dev/stderr"), own("fd/2"));
        assert_eq!(follow("/dev/stdout"), own("fd/1"));
        assert_eq!(follow("/proc/thread-self/comm"), Some(Seen::Thread("comm".into())));
        assert_eq!(Seen::of(b"/proc/self", Links::Keep), Some(Seen::Link));
        assert_eq!(Seen::of(b"/dev/fd/", Links::Keep), own("fd"));
    }

    #[test]
    fn everything_else_stays_in_the_root() {
        for path in
            ["/", "/etc/passwd", "/process", "proc/self", "/proc/../etc/passwd", "/dev/null", "/dev/stdin/x", ""]
        {
            assert_eq!(Seen::of(path.as_bytes(), Links::Follow), None, "{path}");
        }
        for path in ["/dev/fd", "/dev/stdin"] {
            assert_eq!(Seen::of(path.as_bytes(), Links::Keep), None, "the root has a link {path}");
        }
        assert_eq!(Seen::of(b"/proc/\xff", Links::Follow), None);
    }

    #[test]
    fn devices_are_those_that_every_step_has() {
        assert_eq!(Seen::device(b"/dev/null"), Some(Seen::Same("/dev/null".into())));
        for path in ["/dev/sda", "/dev/null/x", "dev/null", "/dev/", "/x/dev/null"] {
            assert_eq!(Seen::device(path.as_bytes()), None, "{path}");
        }
        assert!(Place { path: "/dev/full".to_owned(), process: None }.is_device());
    }

    #[test]
    fn settings_of_the_kernel_are_protected() {
        let protected = |path: &str| Place { path: path.to_owned(), process: None }.is_protected();
        assert!(protected("/proc/sys/kernel/core_pattern") && protected("/proc/sysrq-trigger") && protected("/sys/x"));
        let masked = |path: &str| Place { path: path.to_owned(), process: None }.is_masked();
        assert!(masked("/proc/kcore") && masked("/sys/firmware/efi") && !masked("/proc/keyserver"));
        assert!(!protected("/proc/7/oom_score_adj") && !protected("/proc/sysvipc/msg") && !protected("/dev/pts/0"));
    }

    #[test]
    fn mounts_are_those_of_the_step() {
        let text = |path: &str| Place { path: path.to_owned(), process: None }.own_text();
        assert_eq!(text("/proc/7/mounts"), Some(MOUNTS));
        assert_eq!(text("/proc/7/task/8/mountinfo"), Some(MOUNT_INFO));
        assert_eq!(text("/proc/7/root/mounts"), None);
        assert_eq!(text("/proc/7/status"), None);
    }
}
