//! The demo: a real multi-stage build, pushed to the registry and run.

use std::path::Path;
use std::process::Command;
use std::time::Instant;

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use crate::bases::Base;
use crate::command::{command, line, quiet, shown, stdout};
use crate::peers;
use crate::rbuild::{self, Profile, Rbuild};
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
    let begin = Instant::now();
    let digest = build(state, registry, &rbuild)?;
    println!("\nbuilt and pushed in {:.1} s", begin.elapsed().as_secs_f64());
    println!("image   {}\ndigest  {digest}", registry.reference(IMAGE));
    start(state, registry)
}

/// Builds and pushes; gives the digest that rbuild names and the registry holds.
fn build(state: &State, registry: Registry, rbuild: &Rbuild) -> Result<String> {
    let image = registry.reference(IMAGE);
    let metadata = state.directory()?.join("demo.json");
    let argument = |name: &str, base: Base| format!("{name}={}", registry.reference(base.image()));
    let mut build = rbuild.command(state)?;
    build.current_dir(state.source("fixtures/hello")).args(["-f", "Dockerfile", "-t", &image, "--push"]);
    build.args(["--build-arg", &argument("BASE", Base::Debian), "--build-arg", &argument("SLIM", Base::Busybox)]);
    build.args(["--build-arg", "VERSION=1.0"]).arg("--metadata-file").arg(&metadata).arg(".");
    println!("$ {}", line(&build));
    shown(&mut build)?;
    let said: Value =
        serde_json::from_slice(&fs_err::read(&metadata)?).context("reading what rbuild says of the image")?;
    let pushed = registry.digest(IMAGE)?.context("the registry does not have the image that rbuild pushed")?;
    ensure!(
        said["containerimage.digest"] == pushed,
        "the registry holds {pushed}, not what rbuild says it pushed: {said}"
    );
    Ok(pushed)
}

/// Runs the image that was pushed, and says how to do it by hand.
fn start(state: &State, registry: Registry) -> Result<()> {
    let image = registry.reference(IMAGE);
    let mut podman = podman(&state.subdirectory("podman")?, &image)?;
    let crun = ["crun", "run", "--bundle", "bundle", "hello"].map(str::to_owned);
    println!("\nrun it:\n  {}", line(&podman));
    println!("or, with no podman:");
    println!("  skopeo copy --src-tls-verify=false docker://{image} oci:hello:demo");
    println!("  umoci unpack --image hello:demo bundle");
    println!("  {}\n", line(&words(peers::prefix().into_iter().chain(crun))?));
    let said = stdout(&mut podman).context("running the image")?;
    print!("{said}");
    ensure!(said.starts_with("Hello from hello 1.0 (uid 65534 in /srv/hello): "), "the image said something else");
    Ok(())
}

/// `podman run` with storage of its own.
fn podman(storage: &Path, image: &str) -> Result<Command> {
    let root = storage.join("storage").to_string_lossy().into_owned();
    let run_root = storage.join("run").to_string_lossy().into_owned();
    let podman = ["podman", "--root", &root, "--runroot", &run_root];
    // The storage may hold an image of an earlier demo under the same tag.
    quiet(words(podman.map(str::to_owned))?.args(["rmi", "--ignore", "--force", image]))?;
    let mut run = words(peers::prefix().into_iter().chain(podman.map(str::to_owned)))?;
    run.args(["run", "--rm", "--tls-verify=false", "--network=host"]).args(peers::limits()?).arg(image);
    Ok(run)
}

/// A command out of its words.
fn words(words: impl IntoIterator<Item = String>) -> Result<Command> {
    let mut words = words.into_iter();
    Ok(command(words.next().context("a command without words")?, words))
}
