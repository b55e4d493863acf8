//! Roots of busybox, and steps in them by the real `rbuild`.

use std::ffi::{OsStr, OsString};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::os::unix::fs::{MetadataExt, symlink};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::OnceLock;

use tempfile::TempDir;

/// The plain user of the tests; has subordinate ids.
const USER: &str = "rbuild-test";
/// The exit code of `rbuild debug` when the sandbox failed, not the step.
pub(crate) const SANDBOX_FAILED: i32 = 125;

/// Who runs a step on which rung.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Rung {
    pub(crate) name: &'static str,
    /// As [`USER`] rather than as root.
    pub(crate) as_user: bool,
    /// Where `/proc` has masked parts, as in a container: there is no pid namespace then.
    pub(crate) masked: bool,
}

const CHROOT: Rung = Rung { name: "chroot", as_user: false, masked: false };

impl Rung {
    /// Whether layers are stacked and things mounted; else a root is one tree, and its changes are found by comparing.
    pub(crate) fn mounts(self) -> bool {
        self != CHROOT
    }

    /// Whether ids are emulated, by a process 1 which nobody may look into.
    pub(crate) fn emulates(self) -> bool {
        self.name == "single"
    }
}

/// A directory with a root of busybox, for one rung.
pub(crate) struct Bench {
    pub(crate) rung: Rung,
    directory: TempDir,
    /// What the command line of each step has in addition.
    pub(crate) options: Vec<String>,
}

/// How a step ended and what it wrote.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Outcome {
    pub(crate) code: i32,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

/// Runs `test` on every rung.
pub(crate) fn on_every_rung(test: impl Fn(&mut Bench)) {
    let rungs: &[Rung] = if is_root() {
        &[
            Rung { name: "root", as_user: false, masked: false },
            Rung { name: "range", as_user: false, masked: false },
            Rung { name: "range", as_user: true, masked: false },
            Rung { name: "range", as_user: false, masked: true },
            Rung { name: "range", as_user: true, masked: true },
            Rung { name: "single", as_user: true, masked: false },
            CHROOT,
        ]
    } else {
        &[Rung { name: "range", as_user: false, masked: false }]
    };
    for &rung in rungs {
        let mut bench = Bench::new(rung);
        test(&mut bench);
        assert!(!mounted(bench.directory.path()), "a mount is left on {rung:?}");
    }
}

/// Runs `test` on every rung that can mount.
pub(crate) fn on_rungs_with_mounts(test: impl Fn(&mut Bench)) {
    on_every_rung(|bench| {
        if bench.rung.mounts() {
            test(bench);
        }
    });
}

pub(crate) fn is_root() -> bool {
    nix::unistd::Uid::effective().is_root()
}

fn mounted(directory: &Path) -> bool {
    let mounts = fs_err::read_to_string("/proc/self/mountinfo").unwrap();
    mounts.contains(directory.to_str().unwrap())
}

impl Bench {
    fn new(rung: Rung) -> Self {
        if rung.as_user {
            make_user();
        }
        let directory = tempfile::Builder::new().prefix("rbuild-sandbox-").tempdir().unwrap();
        let bench = Self { rung, directory, options: Vec::new() };
        fs_err::create_dir_all(bench.path("root/bin")).unwrap();
        fs_err::copy(busybox(), bench.path("root/bin/busybox")).unwrap();
        symlink("busybox", bench.path("root/bin/sh")).unwrap();
        bench.renew();
        bench
    }

    /// A path in the directory of the bench.
    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// An option for every step to come.
    pub(crate) fn option(&mut self, option: impl Into<String>) {
        self.options.push(option.into());
    }

    /// Empties the upper directory, and gives everything to who runs the step.
    pub(crate) fn renew(&self) {
        let upper = self.path("upper");
        if upper.exists() {
            fs_err::remove_dir_all(&upper).unwrap();
        }
        fs_err::create_dir(&upper).unwrap();
        if !self.rung.mounts() {
            self.fill();
        }
        self.give();
    }

    /// Copies what a whole tree still lacks.
    fn fill(&self) {
        run(Command::new("cp").args(["-a", "--no-clobber"]).arg(self.path("root/.")).arg(self.path("upper")));
    }

    /// Gives the whole directory to who runs the step.
    pub(crate) fn give(&self) {
        if self.rung.as_user {
            let owner = format!("{USER}:");
            run(Command::new("chown").args(["-hR", &owner]).arg(self.directory.path()));
        }
    }

    /// Makes the work directory that every step needs for itself.
    fn renew_work(&self) {
        let work = self.path("work");
        if work.exists() {
            fs_err::remove_dir_all(&work).unwrap();
        }
        fs_err::create_dir(&work).unwrap();
        if self.rung.as_user {
            run(Command::new("chown").arg(format!("{USER}:")).arg(&work));
        }
    }

    /// The command line of a step that runs `argv`, once.
    pub(crate) fn command(&self, argv: &[impl AsRef<OsStr>]) -> Command {
        self.renew_work();
        let mut command = self.rbuild();
        command.args(["debug", "run", "--rung", self.rung.name]);
        if self.rung.mounts() {
            command.arg("--lower").arg(self.path("root"));
        } else {
            self.fill();
        }
        command.arg("--upper").arg(self.path("upper")).arg("--work").arg(self.path("work"));
        command.args(&self.options).arg("--").args(argv);
        command
    }

    /// `rbuild` as who runs the steps.
    pub(crate) fn rbuild(&self) -> Command {
        let mut argv: Vec<OsString> = Vec::new();
        if self.rung.masked {
            let script = "mount --bind /dev/null /proc/version && exec \"$@\"";
            argv.extend(["unshare", "--mount", "sh", "-c", script, "sh"].map(OsString::from));
        }
        if self.rung.as_user {
            argv.extend(["setpriv", "--reuid", USER, "--regid", USER, "--clear-groups"].map(OsString::from));
            argv.push(reachable_rbuild().into());
        } else {
            argv.push(env!("CARGO_BIN_EXE_rbuild").into());
        }
        let mut command = Command::new(&argv[0]);
        command.args(&argv[1..]).current_dir("/").stdin(Stdio::null());
        command
    }

    /// Runs `argv` in the root.
    pub(crate) fn run(&self, argv: &[impl AsRef<OsStr>]) -> Outcome {
        outcome(&mut self.command(argv))
    }

    /// Runs a shell script in the root.
    pub(crate) fn sh(&self, script: &str) -> Outcome {
        self.run(&["/bin/sh", "-c", script])
    }

    /// Runs a shell script that must succeed without a word on standard error; returns its output.
    pub(crate) fn text(&self, script: &str) -> String {
        let outcome = self.sh(script);
        assert_eq!((outcome.code, outcome.stderr.as_str()), (0, ""), "{script} on {:?}", self.rung);
        outcome.stdout
    }

    /// What is in the upper directory, sorted; of a whole tree, what the image does not have.
    pub(crate) fn upper(&self) -> Vec<String> {
        let mut found = Vec::new();
        list(&self.path("upper"), "", &mut found);
        found.retain(|path| self.rung.mounts() || fs_err::symlink_metadata(self.path("root").join(path)).is_err());
        found.sort();
        found
    }

    /// The modification time of the upper directory itself.
    pub(crate) fn upper_time(&self) -> (i64, i64) {
        let metadata = fs_err::metadata(self.path("upper")).unwrap();
        (metadata.mtime(), metadata.mtime_nsec())
    }
}

fn list(directory: &Path, prefix: &str, found: &mut Vec<String>) {
    for entry in fs_err::read_dir(directory).unwrap() {
        let entry = entry.unwrap();
        let name = format!("{prefix}{}", entry.file_name().to_str().unwrap());
        if entry.file_type().unwrap().is_dir() {
            list(&entry.path(), &format!("{name}/"), found);
        }
        found.push(name);
    }
}

/// Runs a command to its end.
pub(crate) fn outcome(command: &mut Command) -> Outcome {
    let output = command.output().unwrap();
    Outcome {
        code: output.status.code().unwrap_or(-1),
        stdout: String::from_utf8(output.stdout).unwrap(),
        stderr: String::from_utf8(output.stderr).unwrap(),
    }
}

/// The processes of the machine whose command line has `mark` in it.
pub(crate) fn processes(mark: &str) -> Vec<u32> {
    let pids = fs_err::read_dir("/proc").unwrap().filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok());
    pids.filter(|pid: &u32| {
        let line = fs_err::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        String::from_utf8_lossy(&line).replace('\0', " ").contains(mark)
    })
    .collect()
}

fn busybox() -> &'static str {
    let found = ["/bin/busybox", "/usr/bin/busybox"].into_iter().find(|path| Path::new(path).exists());
    found.expect("busybox is missing: apt-get install busybox-static")
}

fn run(command: &mut Command) {
    let outcome = outcome(command);
    assert_eq!(outcome.code, 0, "{command:?}: {}", outcome.stderr);
}

/// A copy of rbuild where a plain user can read it, whoever built it and wherever; the next run replaces it.
fn reachable_rbuild() -> PathBuf {
    static COPY: OnceLock<PathBuf> = OnceLock::new();
    let copy = COPY.get_or_init(|| {
        let program = Path::new(env!("CARGO_BIN_EXE_rbuild"));
        let mut hasher = DefaultHasher::new();
        program.hash(&mut hasher);
        let directory = std::env::temp_dir().join(format!("rbuild-program-{:x}", hasher.finish()));
        let new = directory.join(std::process::id().to_string());
        // Written by another process: a descriptor that a fork of ours has for a moment would keep it from being run.
        run(Command::new("install").args(["-D", "-m", "0755"]).args([program, &new]));
        fs_err::rename(new, directory.join("rbuild")).unwrap();
        directory.join("rbuild")
    });
    copy.clone()
}

/// Makes [`USER`] with subordinate ids, once.
fn make_user() {
    static MADE: OnceLock<()> = OnceLock::new();
    MADE.get_or_init(|| {
        assert!(Path::new("/usr/bin/newuidmap").exists(), "newuidmap is missing: apt-get install uidmap");
        assert!(Path::new("/usr/sbin/useradd").exists(), "useradd is missing: apt-get install passwd");
        if nix::unistd::User::from_name(USER).unwrap().is_none() {
            run(Command::new("useradd").args(["--create-home", USER]));
        }
        let has = |file: &str| fs_err::read_to_string(file).unwrap_or_default().contains(&format!("{USER}:"));
        if !has("/etc/subuid") || !has("/etc/subgid") {
            let ranges = ["--add-subuids", "100000-165535", "--add-subgids", "100000-165535"];
            run(Command::new("usermod").args(ranges).arg(USER));
        }
    });
}
