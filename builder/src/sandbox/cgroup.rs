//! Limits of memory and processors: a cgroup of each step's own, where rbuild may make one.
//!
//! Only version 2 knows of subtrees that are given to somebody (cgroups(7), "Delegation"). rbuild makes the groups of steps
//! below the one that it was started in. That may hold groups or processes, not both, so rbuild moves into a leaf of its
//! own first, unless it is in the root; which is enough unless others are in its group.
//!
//! ```text
//! <own>/rbuild-<pid>       rbuild, if it had to move
//! <own>/rbuild-<pid>-<n>   one step
//! ```

use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};

use rustix::io::Errno;

use super::settings::Settings;
use super::spec::{Attempt, Failure};

/// The period that quotas of processor time are parts of, in microseconds: that of the kernel unless it is changed.
const PERIOD: u64 = 100_000;
/// How the names of groups begin.
const PREFIX: &str = "rbuild-";

/// The group in which those of the steps are made.
#[derive(Debug)]
pub(super) struct Groups {
    own: PathBuf,
    /// Where rbuild is as long as this lives, and what it is to take back from `own` before it returns there.
    leaf: Option<(PathBuf, String)>,
    next: AtomicU32,
}

/// The group of one step. Dropping it removes it; nothing may be in it any more.
#[derive(Debug)]
pub(super) struct Group {
    path: PathBuf,
}

/// The controllers that the settings need.
fn controllers(settings: &Settings) -> Vec<&'static str> {
    let memory = settings.memory.map(|_| "memory");
    memory.into_iter().chain(settings.cpus.map(|_| "cpu")).collect()
}

impl Groups {
    /// Finds out whether groups with these settings can be made; fails with what is in the way.
    pub(super) fn open(settings: &Settings) -> Result<Self, Failure> {
        let read = |path: &str| fs_err::read_to_string(path).attempt(|| format!("read `{path}`"));
        let (cgroup, mounts) = (read("/proc/self/cgroup")?, read("/proc/self/mountinfo")?);
        let own = own_group(&cgroup, &mounts).ok_or_else(|| {
            let missing = io::Error::new(io::ErrorKind::NotFound, "there is no cgroup of version 2 here");
            Failure::new("find rbuild's own cgroup", missing)
        })?;
        sweep(&own);
        Self::below(own, &controllers(settings))
    }

    /// Has `own` hand the controllers down to the groups in it.
    fn below(own: PathBuf, controllers: &[&str]) -> Result<Self, Failure> {
        let list = |file: &str| {
            let text = fs_err::read_to_string(own.join(file)).attempt(|| format!("look at `{}`", own.display()))?;
            Ok(text.split_whitespace().map(str::to_owned).collect::<Vec<_>>())
        };
        let given = list("cgroup.controllers")?;
        if let Some(missing) = controllers.iter().find(|name| !given.iter().any(|given| given == *name)) {
            let reason = io::Error::new(io::ErrorKind::NotFound, "it was not given to this one");
            return Err(Failure::new(format!("use the controller `{missing}` in `{}`", own.display()), reason));
        }
        let handed = list("cgroup.subtree_control")?;
        let wanted: Vec<&str> =
            controllers.iter().copied().filter(|name| !handed.iter().any(|handed| handed == name)).collect();
        let signed = |sign: &str| wanted.iter().flat_map(|name| [sign, name, " "]).collect::<String>();
        let action = |own: &Path| format!("hand limits down from `{}`", own.display());
        let mut groups = Self { own, leaf: None, next: AtomicU32::new(0) };
        groups.make_room(signed("-")).attempt(|| action(&groups.own))?;
        if !wanted.is_empty() {
            let handed = write(&groups.own.join("cgroup.subtree_control"), &signed("+"));
            handed.attempt(|| action(&groups.own))?;
        }
        Ok(groups)
    }

    /// Moves rbuild into a leaf, unless this is the root, the only group that may hold both. The kernel itself does not
    /// see to that where only processors are limited: then it lets groups be made that take no process.
    fn make_room(&mut self, undo: String) -> io::Result<()> {
        if !self.own.join("cgroup.type").exists() {
            return Ok(());
        }
        let pid = std::process::id();
        let leaf = self.own.join(format!("{PREFIX}{pid}"));
        fs_err::create_dir(&leaf)?;
        let moved = write(&leaf.join("cgroup.procs"), &pid.to_string());
        self.leaf = Some((leaf, undo)); // also undoes what was half done
        moved?;
        if fs_err::read_to_string(self.own.join("cgroup.procs"))?.is_empty() { Ok(()) } else { Err(Errno::BUSY.into()) }
    }

    /// Makes the group of a step.
    pub(super) fn make(&self, settings: &Settings) -> Result<Group, Failure> {
        let name = format!("{PREFIX}{}-{}", std::process::id(), self.next.fetch_add(1, Ordering::Relaxed));
        let path = self.own.join(name);
        let action = || format!("make the cgroup `{}`", path.display());
        fs_err::create_dir(&path).attempt(action)?;
        let group = Group { path: path.clone() };
        let limit = || -> io::Result<()> {
            if let Some(bytes) = settings.memory {
                write(&path.join("memory.max"), &bytes.to_string())?;
                // As much swap as memory, as Docker has it; a kernel without swap has no such file.
                match write(&path.join("memory.swap.max"), &bytes.to_string()) {
                    Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                    result => result?,
                }
            }
            if let Some(thousandths) = settings.cpus {
                write(&path.join("cpu.max"), &format!("{} {PERIOD}", u64::from(thousandths) * PERIOD / 1000))?;
            }
            Ok(())
        };
        limit().attempt(action)?;
        Ok(group)
    }
}

impl Drop for Groups {
    /// Goes back to where rbuild was started. What cannot be undone now is swept by the next build here.
    fn drop(&mut self) {
        if let Some((leaf, controllers)) = self.leaf.take() {
            write(&self.own.join("cgroup.subtree_control"), &controllers)
                .and_then(|()| write(&self.own.join("cgroup.procs"), &std::process::id().to_string()))
                .and_then(|()| fs_err::remove_dir(leaf))
                .ok();
        }
    }
}

impl Group {
    /// Where it is.
    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// How many of its processes the kernel has killed for want of memory; none where memory has no limit.
    pub(super) fn memory_kills(&self) -> Option<u64> {
        let text = fs_err::read_to_string(self.path.join("memory.events")).ok()?;
        text.lines().find_map(|line| line.strip_prefix("oom_kill ")?.parse().ok())
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        fs_err::remove_dir(&self.path).ok();
    }
}

/// Moves this process into a group.
pub(super) fn enter(group: &Path) -> Result<(), Failure> {
    write(&group.join("cgroup.procs"), "0").attempt(|| format!("enter the cgroup `{}`", group.display()))
}

/// Writes to a file of the kernel, which is there or not.
fn write(path: &Path, text: &str) -> io::Result<()> {
    io::Write::write_all(&mut fs_err::OpenOptions::new().write(true).open(path)?, text.as_bytes())
}

/// Removes the groups of processes that are no more. One that is in use cannot be removed.
fn sweep(own: &Path) {
    for entry in fs_err::read_dir(own).into_iter().flatten().flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        let pid = name.strip_prefix(PREFIX).and_then(|rest| rest.split('-').next()?.parse::<u32>().ok());
        if pid.is_some_and(|pid| !Path::new(&format!("/proc/{pid}")).exists()) {
            fs_err::remove_dir(entry.path()).ok();
        }
    }
}

/// The directory of the group of version 2 that `cgroup` (`/proc/self/cgroup`) names, in the mounts that `mountinfo` lists
/// (`proc_pid_mountinfo(5)`).
fn own_group(cgroup: &str, mountinfo: &str) -> Option<PathBuf> {
    let group = Path::new(cgroup.lines().find_map(|line| line.strip_prefix("0::"))?);
    mountinfo.lines().find_map(|line| {
        let (mount, file_system) = line.split_once(" - ")?;
        let mut fields = mount.split(' ').skip(3);
        let (root, point) = (fields.next()?, fields.next()?);
        let below = file_system.starts_with("cgroup2 ").then(|| group.strip_prefix(root).ok()).flatten()?;
        Some(Path::new(point).join(below))
    })
}

#[cfg(test)]
mod tests {
    use super::super::probe::in_child;
    use super::*;

    const MOUNTS: &str = "24 1 0:22 / /sys rw - sysfs sysfs rw\n\
        30 24 0:26 / /sys/fs/cgroup/unified rw,nosuid shared:4 - cgroup2 cgroup2 rw\n";

    #[test]
    fn the_own_group_is_found_among_the_mounts() {
        let found = |cgroup: &str| own_group(cgroup, MOUNTS).map(|path| path.display().to_string());
        let unified = "/sys/fs/cgroup/unified";
        assert_eq!(found("4:memory:/a\n0::/user.slice/b\n"), Some(format!("{unified}/user.slice/b")));
        assert_eq!(found("0::/\n"), Some(format!("{unified}/")));
        assert_eq!(found("4:memory:/a\n"), None);
        // The root of the mount in a container is its own group.
        let inside = MOUNTS.replace("0:26 / ", "0:26 /docker/1 ");
        assert_eq!(own_group("0::/docker/1\n", &inside), Some(PathBuf::from(format!("{unified}/"))));
        assert_eq!(own_group("0::/elsewhere\n", &inside), None);
    }

    /// A directory with the files of a group.
    fn group(controllers: &str, handed: &str) -> tempfile::TempDir {
        let directory = tempfile::tempdir().unwrap();
        for (file, text) in [("cgroup.controllers", controllers), ("cgroup.subtree_control", handed)] {
            fs_err::write(directory.path().join(file), text).unwrap();
        }
        directory
    }

    #[test]
    fn controllers_are_handed_down_or_missed_by_name() {
        let directory = group("cpuset cpu memory\n", "cpu\n");
        let groups = Groups::below(directory.path().to_owned(), &["memory", "cpu"]).unwrap();
        assert_eq!(fs_err::read_to_string(directory.path().join("cgroup.subtree_control")).unwrap(), "+memory ");
        assert!(groups.leaf.is_none());
        let failure = Groups::below(group("pids\n", "").path().to_owned(), &["memory"]).unwrap_err();
        assert!(failure.action.starts_with("use the controller `memory` in "), "{failure:?}");
    }

    /// Makes a group of the kernel, in which `test` runs in a process of its own.
    fn in_group(test: impl FnOnce(&Path) -> Result<(), Failure>) {
        let read = |path: &str| fs_err::read_to_string(path).unwrap();
        let own = own_group(&read("/proc/self/cgroup"), &read("/proc/self/mountinfo"));
        let Some(own) = own.filter(|_| nix::unistd::Uid::effective().is_root()) else {
            return; // a plain user makes no group, and a machine without version 2 has none
        };
        let group = own.join(format!("test-of-rbuild-{:?}", std::thread::current().id()));
        fs_err::create_dir(&group).unwrap();
        let result = in_child(|| enter(&group).and_then(|()| test(&group)));
        fs_err::remove_dir(&group).unwrap();
        result.unwrap();
    }

    fn members(group: &Path) -> String {
        fs_err::read_to_string(group.join("cgroup.procs")).unwrap()
    }

    #[test]
    fn rbuild_makes_room_for_groups_and_returns() {
        in_group(|group| {
            let groups = Groups::below(group.to_owned(), &[])?;
            assert_eq!(members(group), "");
            let step = groups.make(&Settings::default())?;
            write(&step.path().join("cgroup.procs"), "0").attempt(|| "enter the group of a step".to_owned())?;
            enter(group)?;
            drop((step, groups));
            assert_eq!(members(group), format!("{}\n", std::process::id()));
            Ok(())
        });
    }

    #[test]
    fn others_in_the_group_are_in_the_way() {
        in_group(|group| {
            let other = std::process::Command::new("sleep").arg("60").spawn();
            let mut other = other.attempt(|| "start another".to_owned())?;
            let errno = Groups::below(group.to_owned(), &[]).err().and_then(|failure| failure.errno);
            other.kill().and_then(|()| other.wait()).attempt(|| "end the other".to_owned())?;
            assert_eq!(errno, Some(Errno::BUSY.raw_os_error()));
            enter(group.parent().expect("a group is in another"))
        });
    }

    #[test]
    fn what_is_left_of_dead_processes_alone_is_swept() {
        let directory = group("", "");
        // Beyond the largest process id that Linux gives, proc(5).
        let names = [format!("{PREFIX}4194305-0"), format!("{PREFIX}{}-0", std::process::id()), "other".to_owned()];
        for name in &names {
            fs_err::create_dir(directory.path().join(name)).unwrap();
        }
        sweep(directory.path());
        assert_eq!(names.map(|name| directory.path().join(name).exists()), [false, true, true]);
    }
}
