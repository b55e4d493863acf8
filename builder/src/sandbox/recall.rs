//! What the last choice of a rung found, so that the next process need not try everything again.
//!
//! One small file in the state directory. It counts only for the same program, user, boot and circumstances: what is known
//! to decide about user namespaces and mounts is part of its key. Nothing depends on it: a rung that was recalled and does
//! not work any more is chosen anew, at the latest by the next process, and the doctor tries everything always.

use std::fmt::Write as _;
use std::io::Read;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::spec::Ground;

const FILE: &str = "isolation";
/// More bytes than the circumstances usually are.
const TEXT: usize = 8 * 1024;

/// What decides on what a process may isolate: the boot, the limits of namespaces (`user_namespaces(7)`, and those of
/// Debian and Ubuntu), the mounts (those over `/proc` too), who else's ids there are.
const CIRCUMSTANCES: &[&str] = &[
    "/proc/sys/kernel/random/boot_id",
    "/proc/sys/user/max_user_namespaces",
    "/proc/sys/kernel/unprivileged_userns_clone",
    "/proc/sys/kernel/apparmor_restrict_unprivileged_userns",
    "/proc/self/mountinfo",
    "/proc/self/uid_map",
    "/etc/subuid",
    "/etc/subgid",
];
/// The lines of `/proc/self/status` that decide.
const STATUS: &[&str] = &["Uid:", "Gid:", "CapPrm:", "CapBnd:", "NoNewPrivs:", "Seccomp:", "Seccomp_filters:"];

/// Where the choice is kept.
#[derive(Debug)]
pub(super) struct Memory {
    path: PathBuf,
    key: String,
}

#[derive(Serialize, Deserialize)]
struct Record {
    key: String,
    rung: String,
    ground: Ground,
}

impl Memory {
    /// In the state directory `home`.
    pub(super) fn new(home: &Path) -> Self {
        Self { path: home.join(FILE), key: key() }
    }

    /// The rung, by its name, that was chosen in the same circumstances.
    pub(super) fn recall(&self) -> Option<(String, Ground)> {
        let record: Record = serde_json::from_slice(&fs_err::read(&self.path).ok()?).ok()?;
        (record.key == self.key).then_some((record.rung, record.ground))
    }

    /// Forgets the choice, which may be why a step could not be set up: the next process chooses again.
    pub(super) fn forget(&self) {
        fs_err::remove_file(&self.path).ok();
    }

    /// Remembers a choice. Where nothing can be written the next process chooses again.
    pub(super) fn keep(&self, rung: &str, ground: Ground) {
        let record = Record { key: self.key.clone(), rung: rung.to_owned(), ground };
        let new = self.path.with_extension(std::process::id().to_string());
        let bytes = serde_json::to_vec(&record).unwrap_or_default();
        let kept = fs_err::write(&new, bytes).and_then(|()| fs_err::rename(&new, &self.path));
        if kept.is_err() {
            fs_err::remove_file(&new).ok();
        }
    }
}

/// Appends a file, if it can be read: at once, for the kernel says of none of these how long it is.
fn append(path: &str, text: &mut String) {
    if let Ok(file) = fs_err::File::open(path) {
        // What cannot be read any further is a circumstance too.
        file.take(u64::MAX).read_to_string(text).ok();
    }
}

/// A digest of everything that the choice may depend on.
fn key() -> String {
    let mut text = String::with_capacity(TEXT);
    text.push_str(env!("CARGO_PKG_VERSION"));
    if let Ok(program) = fs_err::metadata("/proc/self/exe") {
        _ = write!(text, "\0{}\0{:?}", program.len(), program.modified().ok());
    }
    for path in CIRCUMSTANCES {
        text.push('\0');
        append(path, &mut text);
    }
    let mut status = String::with_capacity(TEXT);
    append("/proc/self/status", &mut status);
    for line in status.lines().filter(|line| STATUS.iter().any(|name| line.starts_with(name))) {
        text.push('\0');
        text.push_str(line);
    }
    blake3::hash(text.as_bytes()).to_string()
}

#[cfg(test)]
mod tests {
    use super::super::spec::Processes;
    use super::*;

    #[test]
    fn a_choice_counts_in_the_same_circumstances_alone() {
        let home = tempfile::tempdir().unwrap();
        let ground = Ground { user_xattr: true, processes: Processes::Shared, mounts: true, emulation: None };
        let memory = Memory::new(home.path());
        assert!(memory.recall().is_none());
        memory.keep("range", ground);
        assert_eq!(Memory::new(home.path()).recall(), Some(("range".to_owned(), ground)));
        let other = Memory { key: "other".into(), ..Memory::new(home.path()) };
        assert_eq!(other.recall(), None);
        memory.forget();
        assert_eq!(memory.recall(), None);
        fs_err::write(home.path().join(FILE), "{").unwrap();
        assert_eq!(memory.recall(), None);
        assert_eq!(fs_err::read_dir(home.path()).unwrap().count(), 1);
    }

    #[test]
    fn a_place_that_cannot_be_written_is_no_error() {
        Memory::new(Path::new("/proc/nowhere"))
            .keep("root", Ground { user_xattr: false, processes: Processes::Own, mounts: true, emulation: None });
    }
}
