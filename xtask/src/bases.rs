//! The base images: what they are, and making those that are missing.
//!
//! Debian and busybox are packed without rbuild; python and node are built by rbuild on that Debian.

use std::path::Path;

use anyhow::{Context, Result};
use nix::unistd::Uid;

use crate::command::{command, quiet, stdout};
use crate::debian;
use crate::rbuild::{self, Profile};
use crate::registry::{self, Registry};
use crate::state::State;

/// PATH of the bases that have no Dockerfile.
const PATH: &str = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// A base image.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Base {
    Debian,
    Busybox,
    Python,
    Node,
}

impl Base {
    /// In the order in which they can be made.
    pub(crate) const ALL: [Self; 4] = [Self::Debian, Self::Busybox, Self::Python, Self::Node];

    /// Name and tag inside the registry. The tags are the versions that Debian 12 has.
    pub(crate) fn image(self) -> &'static str {
        match self {
            Self::Debian => "library/debian:bookworm",
            Self::Busybox => "library/busybox:latest",
            Self::Python => "library/python:3.11",
            Self::Node => "library/node:18",
        }
    }

    fn name(self) -> &'static str {
        match self {
            Self::Debian => "debian",
            Self::Busybox => "busybox",
            Self::Python => "python",
            Self::Node => "node",
        }
    }

    /// Everything that the image is made from: when it changes, the image is made again.
    fn recipe(self, state: &State, registry: Registry) -> Result<String> {
        match self {
            Self::Debian => debian::recipe(),
            Self::Busybox => stdout(&mut command("dpkg-query", ["--show", "busybox-static"])),
            Self::Python | Self::Node => {
                let parent = registry.digest(Self::Debian.image())?.context("the registry lost the Debian base")?;
                let dockerfile = self.context(state).join("Dockerfile");
                Ok(format!("{parent}\n{}", fs_err::read_to_string(dockerfile)?))
            }
        }
    }

    fn context(self, state: &State) -> std::path::PathBuf {
        state.source("fixtures/bases").join(self.name())
    }
}

/// Makes a base image unless the registry holds it as it was made from the same recipe.
pub(crate) fn ensure(state: &State, registry: Registry, base: Base, profile: Profile) -> Result<()> {
    let directory = state.subdirectory("bases")?;
    let stamp = directory.join(format!("{}.stamp", base.name()));
    let recipe = base.recipe(state, registry)?;
    let finished = |digest: &str| format!("{digest}\n{recipe}");
    if let Some(digest) = registry.digest(base.image())?
        && stamp.exists()
        && fs_err::read_to_string(&stamp)? == finished(&digest)
    {
        return Ok(());
    }
    println!("making the base image {}", registry.reference(base.image()));
    match base {
        Base::Debian => packed(&directory, registry, base, "bash", |root| debian::make(state, root))?,
        Base::Busybox => packed(&directory, registry, base, "sh", busybox)?,
        Base::Python | Base::Node => built(state, registry, base, profile)?,
    }
    let digest = registry.digest(base.image())?.context("the registry does not have the image that was pushed")?;
    fs_err::write(&stamp, finished(&digest))?;
    Ok(())
}

/// Makes a root file system, packs it as an image of one layer and pushes it.
fn packed(
    directory: &Path,
    registry: Registry,
    base: Base,
    shell: &str,
    make: impl FnOnce(&Path) -> Result<()>,
) -> Result<()> {
    anyhow::ensure!(
        Uid::effective().is_root(),
        "only root can make its root file system: run `cargo xtask setup` as root"
    );
    let (root, layout) = (directory.join(format!("{}.rootfs", base.name())), format!("{}.oci", base.name()));
    clear(&root)?;
    clear(&directory.join(&layout))?;
    fs_err::create_dir(&root)?;
    make(&root)?;
    // Relative paths: umoci and skopeo cut `PATH:TAG` at the first colon.
    let image = format!("{layout}:base");
    let umoci = |arguments: &[&str]| quiet(command("umoci", arguments).current_dir(directory));
    umoci(&["init", "--layout", &layout])?;
    umoci(&["new", "--image", &image])?;
    let rootfs = format!("{}.rootfs", base.name());
    umoci(&["insert", "--image", &image, &rootfs, "/"])?;
    umoci(&["config", "--image", &image, "--config.env", PATH, "--config.cmd", shell])?;
    registry::push(registry, directory, &format!("oci:{image}"), base.image())?;
    clear(&root)?;
    clear(&directory.join(&layout))
}

/// Builds a base from its Dockerfile with rbuild.
fn built(state: &State, registry: Registry, base: Base, profile: Profile) -> Result<()> {
    let rbuild = rbuild::compile(state, profile)?;
    let parent = format!("BASE={}", registry.reference(Base::Debian.image()));
    let tag = registry.reference(base.image());
    let mut build = rbuild.command(state)?;
    build.args(["--progress", "plain", "--build-arg", &parent, "-t", &tag, "--push"]).arg(base.context(state));
    crate::command::logged(&mut build, &state.log(base.name())?)
}

/// Debian's static busybox with a hard link for each of its applets.
fn busybox(root: &Path) -> Result<()> {
    for name in ["bin", "dev", "etc", "proc", "root", "sys", "tmp", "usr", "var"] {
        fs_err::create_dir(root.join(name))?;
    }
    let mode = |mode| std::os::unix::fs::PermissionsExt::from_mode(mode);
    fs_err::set_permissions(root.join("tmp"), mode(0o1777))?;
    fs_err::set_permissions(root.join("root"), mode(0o700))?;
    let program = root.join("bin/busybox");
    fs_err::copy("/bin/busybox", &program)?;
    fs_err::set_permissions(&program, mode(0o755))?;
    for applet in stdout(&mut command("/bin/busybox", ["--list"]))?.lines().filter(|applet| *applet != "busybox") {
        fs_err::hard_link(&program, root.join("bin").join(applet))?;
    }
    let passwd = "root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534:nobody:/nonexistent:/bin/false\n";
    fs_err::write(root.join("etc/passwd"), passwd)?;
    fs_err::write(root.join("etc/group"), "root:x:0:\nnogroup:x:65534:\n")?;
    Ok(())
}

/// Removes what an interrupted set-up left.
fn clear(path: &Path) -> Result<()> {
    match fs_err::remove_dir_all(path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(error.into()),
        _ => Ok(()),
    }
}
