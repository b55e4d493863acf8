//! rbuild beside Debian's buildah on cases of `fixtures/builds`: the same root file system, the same config?
//!
//! A difference is not a failure: the Dockerfile reference decides who is right, and the two read it differently in
//! places. The chore prints what differs, for a person to judge.

mod cases;
mod listing;

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use clap::Args;
use nix::unistd::Uid;
use serde_json::Value;

use crate::bases::Base;
use crate::command::{command, quiet, stdout};
use crate::peers;
use crate::rbuild::{self, Profile};
use crate::setup::{self, Part};
use crate::state::State;
use cases::CASES;
use listing::{LEFT_OUT, config, differences, tree, without_stubs};

/// Arguments of `cargo xtask compare`.
#[derive(Debug, Args)]
pub(crate) struct Arguments {
    /// Take the busybox image from this registry and set nothing up
    #[arg(long, value_name = "HOST:PORT")]
    registry: Option<String>,
    /// Compare this rbuild instead of a debug build of the workspace
    #[arg(long, value_name = "FILE")]
    rbuild: Option<PathBuf>,
    /// Cases, `group/name`; those that buildah 1.28 understands unless named
    #[arg(value_name = "CASE")]
    cases: Vec<String>,
}

/// What all cases share.
struct Comparison {
    rbuild: PathBuf,
    busybox: String,
    scratch: tempfile::TempDir,
}

/// One case below the scratch directory.
struct Case<'c> {
    source: &'c Path,
    directory: PathBuf,
}

/// What a builder made of a case.
struct Built {
    tree: listing::Listing,
    config: listing::Listing,
}

/// Builds every case twice and prints what differs.
pub(crate) fn run(state: &State, arguments: &Arguments) -> Result<()> {
    ensure!(Uid::effective().is_root(), "the comparison mounts root file systems: run it as root");
    let busybox = match &arguments.registry {
        Some(registry) => format!("{registry}/{}", Base::Busybox.image()),
        None => setup::run(state, &[Part::Test, Part::Bench], Profile::Dev)?.reference(Base::Busybox.image()),
    };
    let rbuild = match &arguments.rbuild {
        Some(path) => fs_err::canonicalize(path)?,
        None => rbuild::compile(state, Profile::Dev)?.path,
    };
    peers::enter_mount_namespace()?;
    let scratch = tempfile::Builder::new().prefix("rbuild-compare-").tempdir()?;
    let comparison = Comparison { rbuild, busybox, scratch };
    let named: Vec<&str> = arguments.cases.iter().map(String::as_str).collect();
    let wanted = if named.is_empty() { CASES } else { &named };
    let mut same = 0;
    for name in wanted {
        let lines = comparison.case(state, name).with_context(|| format!("comparing {name}"))?;
        same += usize::from(lines.is_empty());
        println!("{:8} {name}", if lines.is_empty() { "same" } else { "differs" });
        for line in lines {
            println!("         {line}");
        }
    }
    println!("{same} of {} cases are the same. {LEFT_OUT}", wanted.len());
    Ok(())
}

impl Comparison {
    /// The differences of one case.
    fn case(&self, state: &State, name: &str) -> Result<Vec<String>> {
        let source = state.source("fixtures/builds").join(name);
        ensure!(source.join("Dockerfile").exists(), "there is no such case");
        let case = Case { source: &source, directory: self.scratch.path().join(name) };
        case.prepare(&self.busybox)?;
        let (ours, theirs) = (self.rbuild(&case), self.buildah(&case));
        Ok(match (ours, theirs) {
            (Ok(ours), Ok(theirs)) => {
                let mut lines = differences(&ours.tree, &without_stubs(theirs.tree, &ours.tree));
                lines.append(&mut differences(&ours.config, &theirs.config));
                lines
            }
            (Err(_), Err(_)) => Vec::new(),
            (Err(error), Ok(_)) => vec![format!("only rbuild refuses: {}", last_line(&error))],
            (Ok(_), Err(error)) => vec![format!("only buildah refuses: {}", last_line(&error))],
        })
    }

    fn rbuild(&self, case: &Case<'_>) -> Result<Built> {
        let (layout, root) = (case.directory.join("layout"), case.directory.join("root"));
        let mut build = command(&self.rbuild, ["build", "--progress", "plain", "-f", "Dockerfile"]);
        build.env("RBUILD_HOME", self.scratch.path().join("home")).current_dir(&case.directory);
        build.arg("-o").arg(format!("type=oci,tar=false,dest={}", layout.display()));
        build.arg("-o").arg(format!("type=local,dest={}", root.display()));
        quiet(build.args(case.arguments()?).arg("context"))?;
        let json = |path: PathBuf| -> Result<Value> { Ok(serde_json::from_slice(&fs_err::read(path)?)?) };
        let blob = |digest: &Value| -> Result<PathBuf> {
            let digest = digest.as_str().context("a descriptor without a digest")?;
            Ok(layout.join("blobs").join(digest.replace(':', "/")))
        };
        let index = json(layout.join("index.json"))?;
        let manifest = json(blob(&index["manifests"][0]["digest"])?)?;
        let document = json(blob(&manifest["config"]["digest"])?)?;
        Ok(Built { tree: tree(&root)?, config: config(&document) })
    }

    fn buildah(&self, case: &Case<'_>) -> Result<Built> {
        let buildah = |arguments: &[&str]| {
            let mut buildah = command("buildah", ["--root"]);
            buildah.arg(self.scratch.path().join("storage")).arg("--runroot").arg(self.scratch.path().join("run"));
            buildah.args(arguments).current_dir(&case.directory);
            buildah
        };
        let mut build = buildah(&["build", "--quiet", "--format", "docker", "--tls-verify=false", "-t", "case"]);
        if case.source.join("Dockerfile.dockerignore").exists() {
            build.args(["--ignorefile", "Dockerfile.dockerignore"]);
        }
        quiet(build.args(["-f", "Dockerfile"]).args(case.arguments()?).arg("context"))?;
        let inspected = stdout(&mut buildah(&["inspect", "--type", "image", "case"]))?;
        let document: Value = serde_json::from_str(&inspected)?;
        let container = stdout(&mut buildah(&["from", "--pull-never", "case"]))?;
        let root = stdout(&mut buildah(&["mount", container.trim()]))?;
        let tree = tree(Path::new(root.trim()))?;
        quiet(&mut buildah(&["rm", container.trim()]))?;
        Ok(Built { tree, config: config(&document["Docker"]) })
    }
}

impl Case<'_> {
    /// Writes the Dockerfile and the context, as the test of the cases does.
    fn prepare(&self, busybox: &str) -> Result<()> {
        fs_err::create_dir_all(self.directory.join("context"))?;
        let text = fs_err::read_to_string(self.source.join("Dockerfile"))?.replace("{busybox}", busybox);
        fs_err::write(self.directory.join("Dockerfile"), text)?;
        let ignore = self.source.join("Dockerfile.dockerignore");
        if ignore.exists() {
            fs_err::copy(ignore, self.directory.join("Dockerfile.dockerignore"))?;
        }
        let group = self.source.parent().context("a case lies in a group")?;
        for from in [group, self.source] {
            let script = "set -eu; umask 022; cd context; if [ -d \"$1/context\" ]; then cp -a \"$1/context/.\" .; fi
                chmod -R u=rwX,go=rX .; if [ -f \"$1/setup\" ]; then . \"$1/setup\"; fi";
            let mut shell = command("sh", ["-c", script, "sh"]);
            quiet(shell.arg(from).current_dir(&self.directory))?;
        }
        Ok(())
    }

    fn arguments(&self) -> Result<Vec<String>> {
        let path = self.source.join("arguments");
        if !path.exists() {
            return Ok(Vec::new());
        }
        Ok(fs_err::read_to_string(path)?.lines().map(str::to_owned).collect())
    }
}

fn last_line(error: &anyhow::Error) -> String {
    let text = format!("{error:#}");
    text.lines().rev().find(|line| line.to_lowercase().contains("error")).unwrap_or(&text).trim().to_owned()
}
