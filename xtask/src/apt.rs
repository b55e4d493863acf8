//! Debian packages: which ones a chore needs, and installing those that are missing.

use std::path::Path;

use anyhow::{Context, Result, bail};
use nix::unistd::Uid;

use crate::command::{command, line, logged, quiet, stdout};
use crate::setup::Part;
use crate::state::State;

/// A package and the reason for it.
#[derive(Debug)]
pub(crate) struct Package {
    name: &'static str,
    why: &'static str,
    parts: &'static [Part],
}

use Part::{Bench, Demo, Test};

/// Everything that a chore asks of the machine beyond cargo and a C compiler.
const PACKAGES: &[Package] = &[
    Package { name: "debootstrap", why: "makes the Debian base image", parts: &Part::ALL },
    Package { name: "umoci", why: "packs and unpacks images independently of rbuild", parts: &Part::ALL },
    Package { name: "skopeo", why: "copies and inspects images independently of rbuild", parts: &Part::ALL },
    Package { name: "docker-registry", why: "the registry on loopback", parts: &Part::ALL },
    Package {
        name: "busybox-static",
        why: "content of the busybox base image and of the test roots",
        parts: &[Demo, Test],
    },
    Package { name: "podman", why: "runs the images that were built", parts: &[Demo, Test] },
    Package { name: "crun", why: "the runtime below podman and buildah", parts: &Part::ALL },
    Package { name: "bzip2", why: "archives that ADD unpacks", parts: &[Test] },
    Package { name: "xz-utils", why: "archives that ADD unpacks", parts: &[Test] },
    Package { name: "zstd", why: "archives that ADD unpacks", parts: &[Test] },
    Package { name: "git", why: "build contexts and ADD sources that are repositories", parts: &[Test] },
    Package { name: "openssh-client", why: "ssh-agent, ssh-add and ssh-keygen: keys for --ssh", parts: &[Test] },
    Package { name: "openssh-server", why: "sshd: repositories behind ssh", parts: &[Test] },
    Package { name: "openssl", why: "certificates of the registries that the tests start", parts: &[Test] },
    Package { name: "libcap2-bin", why: "setcap and getcap: file capabilities in layers", parts: &[Test] },
    Package { name: "python3", why: "reads layers independently of rbuild", parts: &[Test] },
    Package { name: "e2fsprogs", why: "mkfs.ext4: a disk below the store that fails", parts: &[Test] },
    Package { name: "xfsprogs", why: "mkfs.xfs: another", parts: &[Test] },
    Package { name: "mount", why: "mounts what the tests need", parts: &[Test] },
    Package { name: "slirp4netns", why: "slirp4netns: steps with a network of their own", parts: &[Test] },
    Package { name: "uidmap", why: "newuidmap and newgidmap: builds by a plain user", parts: &[Test] },
    Package {
        name: "buildah",
        why: "builds what the bench compares rbuild with, and exchanges images with it",
        parts: &[Test, Bench],
    },
];

/// Packages and their services, which listen for the whole network once they are enabled; what xtask and the tests start
/// themselves does not.
const SERVICES: &[(&str, &str)] = &[("docker-registry", "docker-registry"), ("openssh-server", "ssh")];

/// Installs the packages that the parts need and the machine lacks.
pub(crate) fn install(state: &State, parts: &[Part]) -> Result<()> {
    let mut missing = Vec::new();
    for package in PACKAGES.iter().filter(|package| package.parts.iter().any(|part| parts.contains(part))) {
        if !installed(package.name)? {
            missing.push(package);
        }
    }
    if missing.is_empty() {
        return Ok(());
    }
    println!("installing {} Debian packages:", missing.len());
    for package in &missing {
        println!("  {:16} {}", package.name, package.why);
    }
    let mut install = apt_get("install");
    install.arg("--no-install-recommends").args(missing.iter().map(|package| package.name));
    if !Uid::effective().is_root() {
        bail!("packages are missing and only root can install them: run `{}` as root first", line(&install));
    }
    let log = state.log("apt")?;
    let _guard = ServiceGuard::set(Path::new("/usr/sbin/policy-rc.d"))?;
    logged(&mut apt_get("update"), &log).context("refreshing the package lists")?;
    logged(&mut install, &log).context("installing packages")?;
    for (_, service) in SERVICES.iter().filter(|(name, _)| missing.iter().any(|package| package.name == *name)) {
        disable(service)?;
    }
    Ok(())
}

fn installed(name: &str) -> Result<bool> {
    let mut query = command("dpkg-query", ["--show", "--showformat", "${db:Status-Status}", name]);
    let output = query.output().with_context(|| format!("starting `{}`: set-up knows Debian alone", line(&query)))?;
    Ok(output.status.success() && output.stdout == b"installed")
}

/// Keeps an installed service from starting with the machine; update-rc.d(8) knows every init system of Debian.
fn disable(service: &str) -> Result<()> {
    quiet(&mut command("update-rc.d", [service, "disable"]))
        .with_context(|| format!("keeping {service} from starting at boot"))
}

/// `apt-get` that asks nothing and waits for another apt or dpkg to finish.
fn apt_get(verb: &str) -> std::process::Command {
    let mut command = command("apt-get", ["-o", "DPkg::Lock::Timeout=300", "-o", "Acquire::Retries=3"]);
    command.args([
        "-o",
        "Dpkg::Use-Pty=0",
        "-o",
        "Dpkg::Options::=--force-confdef",
        "-o",
        "Dpkg::Options::=--force-confold",
    ]);
    command.args(["--yes", verb]).env("DEBIAN_FRONTEND", "noninteractive").env("LC_ALL", "C.UTF-8");
    command
}

/// The script that invoke-rc.d(8) asks before it starts a service; 101 forbids it.
const POLICY: &str = "#!/bin/sh\n# made by rbuild's `cargo xtask setup` while it installs packages\nexit 101\n";

/// Forbids the packages being installed to start services. A policy of the machine's own is left as it is.
struct ServiceGuard<'a> {
    made: Option<&'a Path>,
}

impl<'a> ServiceGuard<'a> {
    fn set(path: &'a Path) -> Result<Self> {
        // A policy with our text was left behind by an xtask that was killed: take it over.
        let left = path.exists() && fs_err::read(path)? == POLICY.as_bytes();
        if path.exists() && !left {
            return Ok(Self { made: None });
        }
        let guard = Self { made: Some(path) };
        fs_err::write(path, POLICY)?;
        fs_err::set_permissions(path, std::os::unix::fs::PermissionsExt::from_mode(0o755))?;
        Ok(guard)
    }
}

impl Drop for ServiceGuard<'_> {
    fn drop(&mut self) {
        if let Some(error) = self.made.and_then(|path| fs_err::remove_file(path).err()) {
            eprintln!("warning: services stay forbidden by a policy that set-up made: {error}");
        }
    }
}

/// The Debian mirror that the machine's own apt uses, and the proxy that it goes through.
#[derive(Debug)]
pub(crate) struct Mirror {
    pub(crate) url: String,
    pub(crate) proxy: Option<String>,
}

/// Asks apt for its mirror of `codename`.
pub(crate) fn mirror(state: &State, codename: &str) -> Result<Mirror> {
    let configured = || -> Result<Option<String>> {
        let format = "$(ORIGIN)|$(CODENAME)|$(REPO_URI)";
        Ok(mirror_in(&stdout(&mut command("apt-get", ["indextargets", "--format", format]))?, codename))
    };
    let mut url = configured()?;
    if url.is_none() {
        // apt shows nothing of a source whose lists were never fetched.
        logged(&mut apt_get("update"), &state.log("apt")?).context("refreshing the package lists")?;
        url = configured()?;
    }
    let url = url.with_context(|| format!("apt has no http(s) mirror of Debian {codename} in its sources"))?;
    let proxy = stdout(&mut command("apt-config", ["shell", "proxy", "Acquire::http::Proxy"]))?;
    let proxy = proxy.trim().strip_prefix("proxy=").map(|value| value.trim_matches('\'').to_owned());
    Ok(Mirror { url, proxy: proxy.filter(|value| !value.is_empty() && value != "DIRECT") })
}

/// The mirror of the release itself, else that of another release: an archive holds them all.
fn mirror_in(targets: &str, codename: &str) -> Option<String> {
    let main = targets.lines().filter_map(|target| {
        let mut fields = target.splitn(3, '|');
        let (origin, release, url) = (fields.next()?, fields.next()?, fields.next()?);
        let fetchable = url.starts_with("http://") || url.starts_with("https://");
        (origin == "Debian" && fetchable && !release.ends_with("-security")).then_some((release != codename, url))
    });
    main.min_by_key(|(other, _)| *other).map(|(_, url)| url.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_mirror_is_the_main_archive_of_the_release() {
        let targets = "Node Source|nodistro|https://deb.example/node/\n\
                       Debian|bookworm-security|http://deb.example/debian-security/\n\
                       Debian|bookworm|cdrom://[disc]/\n\
                       Debian|trixie|http://other.example/debian/\n\
                       Debian|bookworm|http://deb.example/debian/\n";
        assert_eq!(mirror_in(targets, "bookworm").as_deref(), Some("http://deb.example/debian/"));
        assert_eq!(mirror_in(targets, "sid").as_deref(), Some("http://other.example/debian/"));
        assert_eq!(mirror_in("Debian|bookworm-security|http://deb.example/s/\n", "bookworm"), None);
    }

    #[test]
    fn a_service_policy_is_removed_again() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("policy-rc.d");
        drop(ServiceGuard::set(&path).unwrap());
        assert!(!path.exists());
    }

    #[test]
    fn a_service_policy_of_the_machine_is_left_alone() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("policy-rc.d");
        fs_err::write(&path, "#!/bin/sh\nexit 0\n").unwrap();
        drop(ServiceGuard::set(&path).unwrap());
        assert_eq!(fs_err::read_to_string(&path).unwrap(), "#!/bin/sh\nexit 0\n");
    }

    #[test]
    fn a_service_policy_left_by_a_killed_set_up_is_taken_over() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("policy-rc.d");
        fs_err::write(&path, POLICY).unwrap();
        drop(ServiceGuard::set(&path).unwrap());
        assert!(!path.exists());
    }
}
