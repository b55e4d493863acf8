//! The demo: a real multi-stage build, pushed to the registry and run.

use std::time::Instant;

use anyhow::{Context, Result, ensure};

use crate::bases::Base;
use crate::command::{command, line, quiet, shown, stdout};
use crate::peers;
use crate::rbuild::{self, Profile};
use crate::registry::Registry;
use crate::setup::{self, Part};
use crate::state::State;

/// Name and tag of the image in the registry.
const IMAGE: &str = "rbuild/hello:demo";

/// Sets up, builds, pushes and runs.
pub(crate) fn run(state: &State) -> Result<()> {
    let registry = setup::run(state, &[Part::Demo], Profile::Release)?;
    println!("compiling rbuild");
    let rbuild = rbuild::compile(state, Profile::Release)?;
    let image = registry.reference(IMAGE);
    let digest = state.directory()?.join("demo.digest");
    let argument = |name: &str, base: Base| format!("{name}={}", registry.reference(base.image()));
    let mut build = rbuild.command(state)?;
    build.current_dir(state.source("fixtures/hello")).args(["-f", "Dockerfile", "-t", &image, "--push"]);
    build.args(["--build-arg", &argument("BASE", Base::Debian), "--build-arg", &argument("SLIM", Base::Busybox)]);
    build.args(["--build-arg", "VERSION=1.0"]).arg("--iidfile").arg(&digest).arg(".");
    println!("$ {}", line(&build));
    let begin = Instant::now();
    shown(&mut build)?;
    let took = begin.elapsed();
    let pushed = registry.digest(IMAGE)?.context("the registry does not have the image that rbuild pushed")?;
    println!("\nbuilt and pushed in {:.1} s", took.as_secs_f64());
    println!("image   {image}\ndigest  {pushed}");
    start(state, registry)
}

/// Runs the image that was pushed, and says how to do it by hand.
fn start(state: &State, registry: Registry) -> Result<()> {
    let image = registry.reference(IMAGE);
    let storage = state.subdirectory("podman")?;
    let run = prefixed(&storage, &image)?;
    println!("\nrun it:\n  {}", line(&run));
    println!("or, with no podman, as root:");
    println!("  skopeo copy --src-tls-verify=false docker://{image} oci:hello:demo");
    println!("  umoci unpack --image hello:demo bundle && crun run --bundle bundle hello\n");
    let said = stdout(&mut { run }).context("running the image")?;
    print!("{said}");
    ensure!(said.starts_with("Hello from hello 1.0 (uid 65534 in /srv/hello): "), "the image said something else");
    Ok(())
}

/// `podman run` with storage of its own below the state directory.
fn prefixed(storage: &std::path::Path, image: &str) -> Result<std::process::Command> {
    let root = storage.join("storage").to_string_lossy().into_owned();
    let run_root = storage.join("run").to_string_lossy().into_owned();
    // The storage may hold an image of an earlier demo under the same tag.
    quiet(&mut command("podman", ["--root", &root, "--runroot", &run_root, "rmi", "--ignore", "--force", image]))?;
    let mut words = peers::prefix();
    words.extend(
        ["podman", "--root", &root, "--runroot", &run_root, "run", "--rm", "--tls-verify=false"].map(str::to_owned),
    );
    words.extend(["--network=host".to_owned()]);
    words.extend(peers::limits()?);
    words.push(image.to_owned());
    let (program, arguments) = words.split_first().context("an empty command")?;
    Ok(command(program, arguments))
}
