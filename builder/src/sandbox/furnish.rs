//! What every step finds in its root: `/proc`, `/sys`, `/dev`, `/etc/resolv.conf`, `/etc/hosts`, and the mounts that the
//! step asked for.
//!
//! In three parts: [`Furniture::make`] does what needs no step, before there is one. The host's files are out of reach after
//! the move into the root, and the root is not there before: [`Furniture::gather`] makes detached mounts,
//! [`Gathered::place`] puts them where they belong.

use std::fs::File;
use std::io::Write;
use std::os::fd::OwnedFd;
use std::path::Path;

use rustix::fs::{CWD, FileType, Mode, OFlags, ResolveFlags, fstat, openat};
use rustix::io::Errno;
use rustix::mount::{OpenTreeFlags, open_tree};

use super::describe::Network;
use super::devices;
use super::extra::{self, Extra};
use super::filesystem::{self, NODEV, NOEXEC, NOSUID, READ_ONLY};
use super::network::RESOLVER;
use super::rootfs::clone_flags;
use super::settings::Settings;
use super::spec::{Attempt, Failure, Frame, Processes, Spec};
use super::system;
use super::target::{Kind, Targets, attach, open_beneath};

/// What of `/proc` a step must not see, as Docker has it.
pub(super) const MASKED_PROC: &[&str] = &[
    "acpi",
    "asound",
    "interrupts",
    "kcore",
    "keys",
    "latency_stats",
    "sched_debug",
    "scsi",
    "timer_list",
    "timer_stats",
];
/// What of `/proc` a step must not write, as Docker has it.
pub(super) const READ_ONLY_PROC: &[&str] = &["bus", "fs", "irq", "sys", "sysrq-trigger"];
/// What of `/sys` a step must not see, as Docker has it.
pub(super) const MASKED_SYS: &[&str] = &["firmware", "devices/virtual/powercap"];

/// The size of `/dev/shm` that Docker gives, in bytes.
const SHM_SIZE: u64 = 64 << 20;
/// The room for the step's own files, in bytes, beside those that it asked for.
const SCRATCH: u64 = 1 << 20;

/// A directory of every `/proc` that no process of ours has a use for: `proc_root_init` of Linux makes it.
const HIDDEN: &str = "/proc/driver";

/// What every step has that shares its frame, mounted where nobody sees it.
pub(super) struct Furniture {
    /// A small file system, whose mount goes with the old root.
    scratch: OwnedFd,
    proc: OwnedFd,
    sys: OwnedFd,
    dev: OwnedFd,
}

/// That, and what is the step's alone, ready to be placed.
pub(super) struct Gathered {
    common: Furniture,
    resolv_conf: OwnedFd,
    hosts: OwnedFd,
    extra: Vec<Extra>,
}

impl Furniture {
    /// Makes it, out of everyone's way: what is mounted on [`HIDDEN`] is on the old root. It is mounted there and moved
    /// later, because before Linux 6.15 nothing could be mounted on a detached mount.
    pub(super) fn make(frame: &Frame) -> Result<Self, Failure> {
        let (proc, sys) = (gather_proc(frame.ground.processes)?, gather_sys()?);
        let hidden = || openat(CWD, HIDDEN, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty());
        let scratch = memory(SCRATCH)
            .and_then(|scratch| attach(&scratch, hidden()?).map(|()| scratch))
            .attempt(|| "make a file system for the step's own files".to_owned())?;
        let dev = devices::mount(&scratch, frame.shm_size.unwrap_or(SHM_SIZE))?;
        let proc = devices::mount_in(&scratch, "proc", Ok(proc)).attempt(|| "mount `/proc`".to_owned())?;
        let sys = devices::mount_in(&scratch, "sys", Ok(sys)).attempt(|| "mount `/sys`".to_owned())?;
        for name in READ_ONLY_PROC {
            protect(&proc, name).attempt(|| format!("forbid writes to `/proc/{name}`"))?;
        }
        let covers = Covers::new(&scratch, &dev).attempt(|| "make what masks are made of".to_owned())?;
        for name in MASKED_PROC {
            covers.mask(&proc, name).attempt(|| format!("mask `/proc/{name}`"))?;
        }
        for name in MASKED_SYS {
            covers.mask(&sys, name).attempt(|| format!("mask `/sys/{name}`"))?;
        }
        Ok(Self { scratch, proc, sys, dev })
    }

    /// What will be `/dev`.
    pub(super) fn dev(&self) -> &OwnedFd {
        &self.dev
    }

    /// Makes everything that needs the host's files.
    pub(super) fn gather(self, spec: &Spec) -> Result<Gathered, Failure> {
        let hosts = hosts(&spec.hostname, &spec.settings);
        Ok(Gathered {
            resolv_conf: gather_resolv_conf(spec.network, &self.scratch)?,
            hosts: gather_file(&self.scratch, "hosts", hosts.as_bytes())?,
            extra: self.gather_extra(spec)?,
            common: self,
        })
    }

    /// Makes the mounts that the step asks for.
    fn gather_extra(&self, spec: &Spec) -> Result<Vec<Extra>, Failure> {
        if spec.mounts.is_empty() {
            return Ok(Vec::new());
        }
        let new = memory(SCRATCH + extra::size_in_memory(&spec.mounts));
        let scratch = devices::mount_in(&self.scratch, "extra", new)
            .attempt(|| "make a file system for the files of the step's mounts".to_owned())?;
        extra::gather(spec, &scratch)
    }
}

impl Gathered {
    /// Puts everything into the root.
    pub(super) fn place(self, targets: &mut Targets) -> Result<(), Failure> {
        let Furniture { proc, sys, dev, .. } = &self.common;
        for (mount, path) in [(dev, "/dev"), (proc, "/proc"), (sys, "/sys")] {
            targets.place(mount, Path::new(path), Kind::Directory)?;
        }
        targets.place(&self.resolv_conf, Path::new("/etc/resolv.conf"), Kind::File)?;
        targets.place(&self.hosts, Path::new("/etc/hosts"), Kind::File)?;
        for Extra { mount, target, kind } in self.extra {
            targets.place_extra(mount, &target, kind)?;
        }
        Ok(())
    }
}

/// A file system in memory for root alone, of so many bytes.
fn memory(size: u64) -> Result<OwnedFd, Errno> {
    filesystem::new("tmpfs", &[("mode", "0700"), ("size", &size.to_string())], NOSUID)
}

/// The processes of the step's pid namespace, or else what rbuild sees.
pub(super) fn gather_proc(processes: Processes) -> Result<OwnedFd, Failure> {
    if processes == Processes::Own {
        return filesystem::proc().attempt(|| "mount a new `/proc`".to_owned());
    }
    let bind = || -> std::io::Result<OwnedFd> {
        // What is mounted below it masks parts of it: the kernel refuses a copy without.
        let copy = open_tree(CWD, "/proc", clone_flags() | OpenTreeFlags::AT_RECURSIVE)?;
        system::restrict_mounts(&copy, (NOSUID | NODEV | NOEXEC).bits().into())?;
        Ok(copy)
    };
    bind().attempt(|| "bind `/proc`".to_owned())
}

/// A new sysfs where the kernel gives one: it shows the network namespace of the step and none of the host's mounts
/// below `/sys`. A user namespace gets one only together with a network namespace of its own.
fn gather_sys() -> Result<OwnedFd, Failure> {
    let attributes = READ_ONLY | NOSUID | NODEV | NOEXEC;
    match filesystem::new("sysfs", &[], attributes) {
        Err(Errno::PERM) => {}
        result => return result.attempt(|| "mount a new `/sys`".to_owned()),
    }
    let copy =
        open_tree(CWD, "/sys", clone_flags() | OpenTreeFlags::AT_RECURSIVE).attempt(|| "bind `/sys`".to_owned())?;
    system::restrict_mounts(&copy, attributes.bits().into()).attempt(|| "forbid writes to `/sys`".to_owned())?;
    Ok(copy)
}

/// The host's own file: a change of the host's network shows while the step runs. A host without one gives an empty one.
/// In a private network, where the host's resolver may be out of reach, the one that answers for it.
fn gather_resolv_conf(network: Network, scratch: &OwnedFd) -> Result<OwnedFd, Failure> {
    if network == Network::Private {
        return gather_file(scratch, "resolv.conf", format!("nameserver {RESOLVER}\n").as_bytes());
    }
    let attributes = READ_ONLY | NOSUID | NODEV | NOEXEC;
    match open_tree(CWD, "/etc/resolv.conf", clone_flags()) {
        Err(Errno::NOENT) => gather_file(scratch, "resolv.conf", b""),
        Err(error) => Err(Failure::new("bind `/etc/resolv.conf`", error)),
        Ok(copy) => {
            system::restrict_mounts(&copy, attributes.bits().into())
                .attempt(|| "forbid writes to `/etc/resolv.conf`".to_owned())?;
            Ok(copy)
        }
    }
}

fn gather_file(scratch: &OwnedFd, name: &str, content: &[u8]) -> Result<OwnedFd, Failure> {
    let flags = OFlags::CREATE | OFlags::EXCL | OFlags::WRONLY | OFlags::CLOEXEC;
    let make = || -> std::io::Result<OwnedFd> {
        File::from(openat(scratch, name, flags, Mode::from_raw_mode(0o644))?).write_all(content)?;
        let copy = open_tree(scratch, name, clone_flags())?;
        system::restrict_mounts(&copy, (READ_ONLY | NOSUID | NODEV | NOEXEC).bits().into())?;
        Ok(copy)
    };
    make().attempt(|| format!("make the file `/etc/{name}`"))
}

/// The text of `/etc/hosts` for a machine with this name.
pub(super) fn hosts(hostname: &str, settings: &Settings) -> String {
    let own = Some(hostname).filter(|name| !name.is_empty() && *name != "localhost");
    let usual = "127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\n".to_owned();
    let own = own.map(|name| format!("127.0.1.1\t{name}\n"));
    let others = settings.hosts.iter().map(|(address, name)| format!("{address}\t{name}\n"));
    std::iter::once(usual).chain(own).chain(others).collect()
}

/// Mounts a read-only copy of `name` over itself, where it exists.
fn protect(parent: &OwnedFd, name: &str) -> std::io::Result<()> {
    let target = match open_beneath(parent, Path::new(name), ResolveFlags::empty()) {
        Err(Errno::NOENT) => return Ok(()),
        result => result?,
    };
    let copy = open_tree(&target, "", clone_flags() | OpenTreeFlags::AT_RECURSIVE)?;
    system::restrict_mounts(&copy, (READ_ONLY | NOSUID | NODEV | NOEXEC).bits().into())?;
    Ok(attach(copy, target)?)
}

/// What lies over what a step must not see.
struct Covers {
    /// An empty directory.
    void: OwnedFd,
    null: OwnedFd,
}

impl Covers {
    fn new(scratch: &OwnedFd, dev: &OwnedFd) -> Result<Self, Errno> {
        Ok(Self {
            void: devices::mount_in(scratch, "void", filesystem::void())?,
            null: openat(dev, "null", OFlags::PATH | OFlags::CLOEXEC, Mode::empty())?,
        })
    }

    /// Mounts an empty directory or `/dev/null` over `name`, where it exists.
    fn mask(&self, parent: &OwnedFd, name: &str) -> std::io::Result<()> {
        let target = match open_beneath(parent, Path::new(name), ResolveFlags::empty()) {
            Err(Errno::NOENT) => return Ok(()),
            result => result?,
        };
        let directory = FileType::from_raw_mode(fstat(&target)?.st_mode) == FileType::Directory;
        let cover = open_tree(if directory { &self.void } else { &self.null }, "", clone_flags())?;
        Ok(attach(cover, target)?)
    }
}
