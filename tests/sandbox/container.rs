//! Containers in which rbuild itself runs: as Docker and Kubernetes make them, here by crun.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

use serde_json::{Value, json};

use crate::common::{Bench, RBUILD};

/// The capabilities that Docker gives by default (moby, `oci/caps/defaults.go`).
pub(crate) const DOCKER: &[&str] = ADMINISTRATOR.split_at(1).1;
/// These, and what `--cap-add=SYS_ADMIN` adds.
pub(crate) const ADMINISTRATOR: &[&str] = &[
    "SYS_ADMIN",
    "MKNOD",
    "AUDIT_WRITE",
    "CHOWN",
    "DAC_OVERRIDE",
    "FOWNER",
    "FSETID",
    "KILL",
    "NET_BIND_SERVICE",
    "NET_RAW",
    "SETFCAP",
    "SETGID",
    "SETPCAP",
    "SETUID",
    "SYS_CHROOT",
];
/// What root of a pod with a user namespace of its own can do as if it were root: what Docker gives but for device nodes.
pub(crate) const WITHOUT_NODES: &[&str] = ADMINISTRATOR.split_at(2).1;
/// What Docker hides of `/proc` and `/sys` (moby, `oci/defaults.go`).
const MASKED: &[&str] = &[
    "/proc/asound",
    "/proc/acpi",
    "/proc/interrupts",
    "/proc/kcore",
    "/proc/keys",
    "/proc/latency_stats",
    "/proc/timer_list",
    "/proc/timer_stats",
    "/proc/sched_debug",
    "/proc/scsi",
    "/sys/firmware",
    "/sys/devices/virtual/powercap",
];
const READ_ONLY: &[&str] = &["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"];
/// The calls that every process may make: those of Linux on x86-64 that the default profiles of container engines have,
/// and, in the last paragraph of names, what only programs of i386 make.
const SYSCALLS: &str = include_str!("../../fixtures/containers/syscalls");
/// What `CAP_SYS_ADMIN` adds to them.
const ADMINISTRATION: &[&str] = &[
    "clone",
    "fsconfig",
    "fsmount",
    "fsopen",
    "fspick",
    "mount",
    "mount_setattr",
    "move_mount",
    "open_tree",
    "setdomainname",
    "sethostname",
    "setns",
    "umount2",
    "unshare",
];
/// `CLONE_NEWNS | CLONE_NEWCGROUP | CLONE_NEWUTS | CLONE_NEWIPC | CLONE_NEWUSER | CLONE_NEWPID | CLONE_NEWNET`.
const NAMESPACES: u64 = 0x7e02_0000;

/// How a container is confined.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Container {
    /// Who rbuild runs as; the bench has to belong to that user.
    pub(crate) user: u32,
    /// What root may do; another user has none of it.
    pub(crate) capabilities: &'static [&'static str],
    pub(crate) no_new_privileges: bool,
    pub(crate) filter: Filter,
}

/// Which system calls the container's processes may make.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Filter {
    /// All: `seccomp=unconfined`.
    Off,
    /// Those of the default profiles of container engines.
    Default,
    /// Those that the same profiles give to a container with `CAP_SYS_ADMIN`: mounts and namespaces, not `pivot_root`.
    Administrator,
}

impl Container {
    /// `rbuild` in a container, with the directory of `bench` where it is outside too. Dropping the bench is the end of
    /// what the container needs.
    pub(crate) fn rbuild(&self, bench: &Bench, arguments: &[&str]) -> Command {
        static NEXT: std::sync::atomic::AtomicU32 = std::sync::atomic::AtomicU32::new(0);
        let number = NEXT.fetch_add(1, std::sync::atomic::Ordering::SeqCst);
        let bundle = bench.path(&format!("bundle-{number}"));
        fs_err::create_dir(&bundle).unwrap();
        let config = self.config(bench, arguments);
        fs_err::write(bundle.join("config.json"), config.to_string()).unwrap();
        // crun refuses a machine that has both versions of cgroups mounted.
        let script =
            "umount /sys/fs/cgroup/unified 2>/dev/null; exec crun --cgroup-manager=disabled run --bundle \"$0\" \"$1\"";
        let mut command = Command::new("unshare");
        command.args(["--mount", "sh", "-c", script]).arg(bundle);
        command.arg(format!("rbuild-test-{}-{number}", std::process::id()));
        command
    }

    /// The runtime's configuration (OCI runtime spec, config.md).
    fn config(&self, bench: &Bench, arguments: &[&str]) -> Value {
        let capabilities: Vec<String> = self.capabilities.iter().map(|name| format!("CAP_{name}")).collect();
        let held = if self.user == 0 { capabilities.as_slice() } else { &[] };
        let own = bench.path("");
        let bind = |source: &Path, destination: &Path, options: &[&str]| {
            let options = [&["rbind"], options].concat();
            json!({ "type": "bind", "source": source, "destination": destination, "options": options })
        };
        let mut mounts = file_systems();
        mounts.push(bind(&own, &own, &["rw"]));
        mounts.push(bind(Path::new(RBUILD), Path::new("/usr/local/bin/rbuild"), &["ro"]));
        mounts.push(bind(Path::new("/etc/resolv.conf"), Path::new("/etc/resolv.conf"), &["ro"]));
        let namespaces: Vec<Value> = ["pid", "ipc", "uts", "mount"].map(|kind| json!({ "type": kind })).to_vec();
        let mut linux = json!({ "namespaces": namespaces, "maskedPaths": MASKED, "readonlyPaths": READ_ONLY });
        if self.filter != Filter::Off {
            linux["seccomp"] = self.filter.profile();
        }
        let command = [&["/usr/local/bin/rbuild"], arguments].concat();
        json!({
            "ociVersion": "1.0.2",
            "root": { "path": root(), "readonly": true },
            "hostname": "container",
            "mounts": mounts,
            "linux": linux,
            "process": {
                "user": { "uid": self.user, "gid": self.user },
                "cwd": bench.context(),
                "args": command,
                "env": [
                    "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
                    format!("RBUILD_HOME={}", bench.path("home").display()),
                ],
                "noNewPrivileges": self.no_new_privileges,
                "capabilities": { "bounding": capabilities, "effective": held, "permitted": held },
            },
        })
    }
}

fn file_systems() -> Vec<Value> {
    [
        ("proc", "/proc", &["nosuid", "noexec", "nodev"][..]),
        ("tmpfs", "/dev", &["nosuid", "strictatime", "mode=755", "size=65536k"]),
        ("devpts", "/dev/pts", &["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"]),
        ("tmpfs", "/dev/shm", &["nosuid", "noexec", "nodev", "mode=1777", "size=65536k"]),
        ("mqueue", "/dev/mqueue", &["nosuid", "noexec", "nodev"]),
        ("sysfs", "/sys", &["nosuid", "noexec", "nodev", "ro"]),
        ("tmpfs", "/tmp", &["nosuid", "nodev", "mode=1777"]),
    ]
    .map(|(kind, destination, options)| {
        json!({ "type": kind, "source": kind, "destination": destination, "options": options })
    })
    .to_vec()
}

impl Filter {
    /// What is not listed is not permitted, new namespaces are not, and clone3, whose flags no filter can see, is said not
    /// to exist.
    fn profile(self) -> Value {
        let argument = |value: u64, mask: Option<u64>| match mask {
            Some(mask) => json!([{ "index": 0, "value": mask, "valueTwo": value, "op": "SCMP_CMP_MASKED_EQ" }]),
            None => json!([{ "index": 0, "value": value, "op": "SCMP_CMP_EQ" }]),
        };
        let allow = |names: &[&str]| json!({ "names": names, "action": "SCMP_ACT_ALLOW" });
        let mut rules = vec![
            allow(&SYSCALLS.split_whitespace().collect::<Vec<_>>()),
            json!({ "names": ["clone3"], "action": "SCMP_ACT_ERRNO", "errnoRet": 38 }),
        ];
        if self == Self::Administrator {
            rules.push(allow(ADMINISTRATION));
        } else {
            let plain = argument(0, Some(NAMESPACES));
            rules.push(json!({ "names": ["clone"], "action": "SCMP_ACT_ALLOW", "args": plain }));
        }
        for persona in [0, 8, 0x2_0000, 0x2_0008, 0xffff_ffff] {
            let args = argument(persona, None);
            rules.push(json!({ "names": ["personality"], "action": "SCMP_ACT_ALLOW", "args": args }));
        }
        json!({
            "defaultAction": "SCMP_ACT_ERRNO",
            "defaultErrnoRet": 1,
            "architectures": ["SCMP_ARCH_X86_64", "SCMP_ARCH_X86", "SCMP_ARCH_X32"],
            "syscalls": rules,
        })
    }
}

/// The root file system of all containers, Debian's base image: made once, kept with what cargo builds for tests.
fn root() -> PathBuf {
    static ROOT: OnceLock<PathBuf> = OnceLock::new();
    ROOT.get_or_init(|| {
        let root = Path::new(env!("CARGO_TARGET_TMPDIR")).join("container-root");
        if !root.exists() {
            let bench = Bench::with("FROM {debian}\n");
            let new = root.with_extension(std::process::id().to_string());
            bench.build(&["-o", &format!("type=local,dest={}", new.display())]);
            fs_err::create_dir_all(new.join("etc")).unwrap();
            fs_err::rename(new, &root).unwrap();
        }
        root
    })
    .clone()
}
