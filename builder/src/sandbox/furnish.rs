//! What every step finds in its root: `/proc`, `/sys`, `/dev`, `/etc/resolv.conf`, `/etc/hosts`, and the mounts that the
//! step asked for.
//!
//! In two parts, because the host's files are out of reach after the move into the root, and the root is not there
//! before: [`Furniture::gather`] makes detached mounts, [`Furniture::place`] puts them where they belong.

use std::fs::File;
use std::io::Write;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use rustix::fs::{CWD, FileType, Mode, OFlags, ResolveFlags, fstat, openat};
use rustix::io::Errno;
use rustix::mount::{OpenTreeFlags, open_tree};

use super::describe::Network;
use super::devices::{self, Device};
use super::extra::{self, Extra};
use super::filesystem::{self, NODEV, NOEXEC, NOSUID, READ_ONLY};
use super::network::RESOLVER;
use super::rootfs::clone_flags;
use super::settings::Settings;
use super::spec::{Attempt, Failure, Processes, Spec};
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

/// Detached mounts, ready to be placed.
pub(super) struct Furniture {
    proc: OwnedFd,
    sys: OwnedFd,
    devices: Vec<Device>,
    shm_size: u64,
    resolv_conf: OwnedFd,
    hosts: OwnedFd,
    extra: Vec<Extra>,
}

impl Furniture {
    /// Makes everything that needs the host's files. `hidden` is a directory that the root will be mounted over: what
    /// is mounted there now is out of everyone's way, and goes with the old root.
    pub(super) fn gather(spec: &Spec, hidden: impl AsFd) -> Result<Self, Failure> {
        let size = (SCRATCH + extra::size_in_memory(&spec.mounts)).to_string();
        let scratch = filesystem::new("tmpfs", &[("mode", "0700"), ("size", &size)], NOSUID)
            .and_then(|scratch| attach(&scratch, hidden).map(|()| scratch))
            .attempt(|| "make a file system for the step's own files".to_owned())?;
        let extra = extra::gather(spec, &scratch)?;
        Ok(Self {
            proc: gather_proc(spec.ground.processes)?,
            sys: gather_sys()?,
            devices: devices::gather(&scratch)?,
            shm_size: spec.settings.shm_size.unwrap_or(SHM_SIZE),
            resolv_conf: gather_resolv_conf(spec.network, &scratch)?,
            hosts: gather_file(&scratch, "hosts", hosts(&spec.hostname, &spec.settings).as_bytes())?,
            extra,
        })
    }

    /// Puts everything into the root.
    pub(super) fn place(self, targets: &mut Targets) -> Result<(), Failure> {
        let null = devices::place(self.devices, self.shm_size, targets)?;
        targets.place(&self.proc, Path::new("/proc"), Kind::Directory)?;
        for name in READ_ONLY_PROC {
            protect(&self.proc, name).attempt(|| format!("forbid writes to `/proc/{name}`"))?;
        }
        for name in MASKED_PROC {
            mask(&self.proc, name, &null).attempt(|| format!("mask `/proc/{name}`"))?;
        }
        targets.place(&self.sys, Path::new("/sys"), Kind::Directory)?;
        for name in MASKED_SYS {
            mask(&self.sys, name, &null).attempt(|| format!("mask `/sys/{name}`"))?;
        }
        targets.place(&self.resolv_conf, Path::new("/etc/resolv.conf"), Kind::File)?;
        targets.place(&self.hosts, Path::new("/etc/hosts"), Kind::File)?;
        for Extra { mount, target, kind } in self.extra {
            targets.place_extra(mount, &target, kind)?;
        }
        Ok(())
    }
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

/// Mounts an empty directory or `null` over `name`, where it exists.
fn mask(parent: &OwnedFd, name: &str, null: &OwnedFd) -> std::io::Result<()> {
    let target = match open_beneath(parent, Path::new(name), ResolveFlags::empty()) {
        Err(Errno::NOENT) => return Ok(()),
        result => result?,
    };
    let directory = FileType::from_raw_mode(fstat(&target)?.st_mode) == FileType::Directory;
    let cover = if directory { filesystem::void()? } else { open_tree(null, "", clone_flags())? };
    Ok(attach(cover, target)?)
}
