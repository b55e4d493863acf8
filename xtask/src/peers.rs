//! What Debian's podman, buildah and crun need of a machine before they run there at all.

use std::path::Path;

use anyhow::{Context, Result};
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sched::{CloneFlags, unshare};
use nix::sys::resource::{Resource, getrlimit};

/// Where systemd mounts version 2 beside version 1. crun refuses such a hybrid hierarchy if v2 has any controller.
const HYBRID: &str = "/sys/fs/cgroup/unified";

/// Whether the machine has a hybrid cgroup hierarchy that crun refuses.
fn hybrid() -> bool {
    let controllers = fs_err::read_to_string(Path::new(HYBRID).join("cgroup.controllers"));
    controllers.is_ok_and(|controllers| !controllers.trim().is_empty())
}

/// Gives this process of root's a mount namespace in which the peers run; what they leave mounted goes when the last of them ends.
pub(crate) fn enter_mount_namespace() -> Result<()> {
    unshare(CloneFlags::CLONE_NEWNS).context("making a mount namespace")?;
    let none: Option<&str> = None;
    mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_PRIVATE, none).context("making the mounts private")?;
    if hybrid() {
        umount2(HYBRID, MntFlags::MNT_DETACH).with_context(|| format!("unmounting {HYBRID} for crun"))?;
    }
    Ok(())
}

/// The words before a `podman run` that make it work here; on most machines none.
pub(crate) fn prefix() -> Vec<String> {
    if !hybrid() {
        return Vec::new();
    }
    let script = format!("umount {HYBRID} && exec \"$@\"");
    ["unshare", "--mount", "sh", "-c", &script, "sh"].map(str::to_owned).to_vec()
}

/// Options of `podman run` for a machine whose hard limits lie below podman's defaults and may not be raised.
pub(crate) fn limits() -> Result<Vec<String>> {
    /// What podman 4 asks for.
    const DEFAULT: u64 = 1 << 20;
    /// Enough for one small program, and less than what podman leaves itself of a low limit.
    const LOW: u64 = 1 << 10;
    let mut options = Vec::new();
    for (name, resource) in [("nofile", Resource::RLIMIT_NOFILE), ("nproc", Resource::RLIMIT_NPROC)] {
        let (_, hard) = getrlimit(resource).with_context(|| format!("reading the limit {name}"))?;
        if hard < DEFAULT {
            options.push(format!("--ulimit={name}={low}:{low}", low = hard.min(LOW)));
        }
    }
    Ok(options)
}
