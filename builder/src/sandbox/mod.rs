//! Runs one process in one root file system. Knows no Dockerfile, no cache and no registry.
//!
//! ```text
//! main ── init_if_child ──▶ (this process was spawned as a step's init: be it, and end)
//!   └──── enter ──▶ Sandbox ── run ──▶ has an init that waits take the step              run.rs, inits.rs
//!                                        ├─ zygote: the same program, started once as
//!                                        │   `rbuild-init`; becomes one more for every step  zygote.rs, program.rs
//!                                        └─ stub: new namespaces, forks process 1       init.rs
//!                                             ├─ /proc, /dev, …; waits for the step     process_one.rs, furnish.rs
//!                                             └─ root; forks the step                   rootfs.rs
//!                                                  └─ filters, ids, execve              supervise.rs, step.rs
//! ```
//!
//! What a machine allows is found by trying it, in a child, never by looking at versions: `ladder.rs` holds the rungs
//! in order, `probe.rs` what each of them needs, `recall.rs` what was chosen last, `doctor.rs` what a failed probe means
//! and what to do about it.
//!
//! Where nothing can be mounted (`bare.rs`, the rung `chroot`) a root is a whole tree. What other rungs mount is moved
//! into it and back, and `/proc`, `/sys` and terminals are opened for the step by a process outside (`inject.rs`). The
//! processes of some steps are all root's there and seem to be others' (`seeming.rs`, `emulate/`). Of what follows, only
//! what is said of descriptors, programs and the end of processes holds there.
//!
//! What holds on every rung that this version has:
//! - nothing of a step outlives [`Executor::run`], nor rbuild itself, however it ends. The kernel sees to that in a pid
//!   namespace; in a container with a masked `/proc`, where there can be none, subreapers do, which root of a step could
//!   kill first;
//! - every mount lives in the step's own mount namespace, which ends while the step is committed;
//! - no path of the image is followed on the host: mounts are placed through descriptors opened beneath the new root;
//! - a step inherits descriptors 0 to 2 and nothing else, and cannot reach the program file of rbuild;
//! - a step makes none of the calls that Docker's default seccomp profile keeps from containers: see `seccomp`;
//! - device nodes that a step makes cannot be opened: the root and every mount but `/dev`'s own devices are `nodev`;
//! - a step that changes nothing leaves an empty upper directory.
//!
//! Memory and processors are limited where rbuild may make cgroups (`cgroup.rs`), and the number of processes never. On the rung `root` a step that shares the host's network
//! holds `CAP_NET_RAW` and `CAP_NET_BIND_SERVICE` over it.
#![expect(
    unsafe_code,
    reason = "fork, mount_setattr, prctl and ioctl have no safe wrapper; every block says why it is sound"
)]

mod bare;
mod cancel;
mod capabilities;
mod cgroup;
mod describe;
mod devices;
mod doctor;
mod emulate;
mod error;
mod extra;
mod filesystem;
mod furnish;
mod init;
mod inits;
mod inject;
mod ladder;
mod network;
mod probe;
mod process_one;
mod program;
mod reap;
mod recall;
mod rootfs;
mod run;
mod seccomp;
mod seeming;
mod settings;
mod spec;
mod step;
mod stubs;
mod supervise;
mod system;
mod target;
mod userns;
mod zygote;

pub use cancel::{Cancel, UntilCancelled};
pub use describe::{Content, Executor, ExitStatus, Mount, Network, Process, Root, Stream, Writes};
pub use doctor::{Diagnosis, Obstacle, Probe, doctor};
pub use emulate::RootEmulation;
pub use error::SandboxError;
pub use init::init_if_child;
pub use ladder::{Rung, Sandbox, enter};
pub use settings::{LimitError, ResourceLimit, Settings};
