//! What a failed probe means, and what to do about it. Data only: nothing is entered and nothing is left behind.

use std::path::Path;

use super::ladder::Rung;
use super::probe::Place;
use super::spec::{Failure, Ground, Processes};
use super::userns::Refusal;

/// One rung that was tried.
#[derive(Debug, Clone)]
pub struct Probe {
    /// The rung's name.
    pub rung: &'static str,
    /// What was tried, as words that follow "to".
    pub tried: &'static str,
    /// `Err` says why it failed.
    pub outcome: Result<(), Obstacle>,
}

/// Why a probe failed and what helps.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Obstacle {
    /// The number of the system's error, where it gave one.
    pub errno: Option<i32>,
    /// What happened, as a sentence without a full stop.
    pub sentence: String,
    /// Commands, settings and lines of a pod specification that take it away; each stands alone.
    pub remedies: Vec<String>,
}

/// What this machine gives.
#[derive(Debug, Clone)]
pub struct Diagnosis {
    /// Every rung, in the order of the ladder.
    pub probes: Vec<Probe>,
    /// The rung that [`enter`](super::enter) would choose.
    pub rung: Option<Rung>,
    /// What the chosen rung guarantees, one sentence each.
    pub guarantees: Vec<&'static str>,
    /// What stands in the way of more, the nearest first, each with the name of the rung that it would take: one above, or
    /// the same one with processes of its own.
    pub obstacles: Vec<(&'static str, Obstacle)>,
}

/// Tries every rung, with overlayfs in new directories of `work_dir`, in children that end before it returns.
///
/// Call it while the process has one thread, before [`enter`](super::enter).
pub fn doctor(work_dir: &Path) -> Diagnosis {
    let place = Place::Directory(work_dir.to_owned());
    let mut chosen = None;
    let mut probes = Vec::new();
    for tried in Rung::ALL {
        let outcome = tried.attempt(&place, work_dir).map(|(_, ground)| chosen = chosen.or(Some((tried, ground))));
        let outcome = outcome.map_err(|refusal| explain(tried.name(), &refusal));
        probes.push(Probe { rung: tried.name(), tried: words(tried), outcome });
    }
    let rung = chosen.map(|(rung, _)| rung);
    let mut obstacles = obstacles(&probes, rung);
    let masked = |ground: &Ground| ground.mounts && ground.processes == Processes::Shared;
    if let Some((rung, _)) = chosen.filter(|(_, ground)| masked(ground)) {
        let sentence =
            "parts of `/proc` are masked in this container, so a step cannot have a pid namespace".to_owned();
        obstacles.insert(0, (rung.name(), Obstacle { errno: None, sentence, remedies: unmask_proc() }));
    }
    Diagnosis {
        obstacles,
        guarantees: chosen.map_or_else(Vec::new, |(rung, ground)| rung.guarantees(ground)),
        probes,
        rung,
    }
}

fn words(rung: Rung) -> &'static str {
    match rung {
        Rung::Root => "make the namespaces and the root of a step with the privileges at hand",
        Rung::Range => "make a user namespace with a range of ids, and in it the namespaces and the root of a step",
        Rung::Chroot => "change the root, make devices and take other ids",
        Rung::Single => "make a user namespace with one id, and in it the namespaces, the root and a filter of a step",
    }
}

/// The refusals of the rungs above `chosen`. One and the same thing that stands in the way of several is said once, and
/// nobody is told how to get the lowest rung.
fn obstacles(probes: &[Probe], chosen: Option<Rung>) -> Vec<(&'static str, Obstacle)> {
    let last = chosen.unwrap_or(Rung::Chroot).name();
    let above = probes.iter().take_while(|probe| probe.rung != last);
    let mut found: Vec<(&'static str, Obstacle)> = Vec::new();
    for (rung, obstacle) in above.filter_map(|probe| Some((probe.rung, probe.outcome.as_ref().err()?))) {
        found.retain(|(_, known)| known != obstacle);
        found.push((rung, obstacle.clone()));
    }
    found.reverse();
    found
}

/// Puts a refusal into words, with what takes it away here.
pub(super) fn explain(rung: &str, refusal: &Refusal) -> Obstacle {
    let (failure, remedies) = match refusal {
        Refusal::Namespace(failure) => (failure, allow_namespaces()),
        Refusal::Map(failure) => (failure, allow_range(failure)),
        Refusal::Rehearsal(failure) if rung == Rung::Root.name() => (failure, become_root()),
        Refusal::Rehearsal(failure) => (failure, allow_mounts(failure)),
    };
    Obstacle { errno: failure.errno, sentence: format!("cannot {}: {}", failure.action, failure.source()), remedies }
}

/// A kernel setting, as it is now.
fn setting(name: &str) -> Option<i64> {
    let path = format!("/proc/sys/{}", name.replace('.', "/"));
    fs_err::read_to_string(path).ok()?.trim().parse().ok()
}

/// A field of /proc/self/status.
fn status(field: &str) -> Option<u64> {
    let text = fs_err::read_to_string("/proc/self/status").ok()?;
    text.lines().find_map(|line| line.strip_prefix(field)?.strip_prefix(':')?.trim().parse().ok())
}

fn allow_namespaces() -> Vec<String> {
    let mut remedies = Vec::new();
    for (name, forbids, value) in [
        ("user.max_user_namespaces", 0, "28633"),
        ("kernel.unprivileged_userns_clone", 0, "1"),
        ("kernel.apparmor_restrict_unprivileged_userns", 1, "0"),
    ] {
        if setting(name) == Some(forbids) {
            remedies.push(format!("run `sysctl -w {name}={value}` as root"));
        }
    }
    if status("Seccomp") == Some(2) {
        remedies.push("in Docker or Podman, run with `--security-opt seccomp=unconfined`".to_owned());
        remedies.push(
            "in Kubernetes, set `securityContext: { seccompProfile: { type: Unconfined } }`, or `hostUsers: false` with it"
                .to_owned(),
        );
    }
    or(remedies, "use a kernel with CONFIG_USER_NS and without a security module that forbids user namespaces")
}

fn allow_range(failure: &Failure) -> Vec<String> {
    if failure.action.starts_with("find ids") {
        let user = nix::unistd::User::from_uid(nix::unistd::Uid::effective()).ok().flatten();
        let name = user.map_or_else(|| "$(id -un)".to_owned(), |user| user.name);
        return vec![format!("run `usermod --add-subuids 100000-165535 --add-subgids 100000-165535 {name}` as root")];
    }
    if failure.action.starts_with("find `new") {
        return vec!["run `apt-get install uidmap` as root (`dnf install shadow-utils` on Fedora)".to_owned()];
    }
    if status("NoNewPrivs") == Some(1) {
        return vec![
            "run without `--security-opt no-new-privileges`".to_owned(),
            "in Kubernetes, set `securityContext: { allowPrivilegeEscalation: true }`, or `hostUsers: false` and run as root"
                .to_owned(),
        ];
    }
    vec![
        "run `setcap cap_setuid+ep /usr/bin/newuidmap; setcap cap_setgid+ep /usr/bin/newgidmap` as root".to_owned(),
        "compare /etc/subuid and /etc/subgid with the ids that /proc/self/uid_map has".to_owned(),
        "run as root of a pod with `hostUsers: false`".to_owned(),
    ]
}

fn become_root() -> Vec<String> {
    vec!["run as root of the machine, or in a container with `--privileged`".to_owned()]
}

fn unmask_proc() -> Vec<String> {
    vec![
        "in Docker or Podman, run with `--security-opt systempaths=unconfined`".to_owned(),
        "in Kubernetes, set `securityContext: { procMount: Unmasked }` with `hostUsers: false`".to_owned(),
    ]
}

fn allow_mounts(failure: &Failure) -> Vec<String> {
    let mut remedies = Vec::new();
    if failure.action.contains("/proc") {
        remedies.extend(unmask_proc());
    }
    if failure.action.contains("overlayfs") {
        remedies.push("set RBUILD_HOME to a directory on ext4, xfs, btrfs or tmpfs".to_owned());
        remedies.push("use Linux 5.11 or later, which mounts overlayfs in a user namespace".to_owned());
    }
    or(
        remedies,
        "allow mounts in user namespaces (`--security-opt seccomp=unconfined --security-opt apparmor=unconfined`)",
    )
}

fn or(remedies: Vec<String>, last: &str) -> Vec<String> {
    if remedies.is_empty() { vec![last.to_owned()] } else { remedies }
}
