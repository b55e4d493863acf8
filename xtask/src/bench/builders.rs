//! The builders: their stores, and the commands that pull a base and build an image.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::path::{Path, PathBuf};

use anyhow::{Result, ensure};

use super::measure::Words;
use super::workloads::Workload;
use crate::command::{command, stdout};

/// A builder under measurement.
#[derive(Debug)]
pub(crate) enum Builder {
    /// This executable of rbuild.
    Rbuild(PathBuf),
    /// Debian's buildah with Debian's defaults for root.
    Buildah,
    /// The row's [`ByHand`](super::workloads::ByHand).
    Hand,
}

/// The store of one builder in one row.
#[derive(Debug)]
pub(crate) struct Store {
    directory: PathBuf,
    context: PathBuf,
    environment: BTreeMap<&'static str, PathBuf>,
}

impl Store {
    pub(crate) fn new(row: &Path, builder: &Builder) -> Self {
        let directory = row.join(builder.name());
        let environment = BTreeMap::from([
            ("RBUILD_HOME", directory.join("home")),
            ("TMPDIR", directory.join("tmp")),
            ("CONTEXT", row.join("context")),
            ("LAYERS", layers(row)),
        ]);
        Self { context: row.join("context"), directory, environment }
    }

    /// Makes the store empty.
    pub(crate) fn clear(&self) -> Result<()> {
        if self.directory.exists() {
            fs_err::remove_dir_all(&self.directory)?;
        }
        fs_err::create_dir_all(self.directory.join("tmp"))?;
        Ok(())
    }

    /// The variables that the builders' commands get.
    pub(crate) fn environment(&self) -> &BTreeMap<&'static str, PathBuf> {
        &self.environment
    }

    /// Where the commands write.
    pub(crate) fn log(&self) -> PathBuf {
        self.directory.join("log")
    }

    fn buildah(&self, arguments: &[&str]) -> Words {
        let mut words = words(&["buildah", "--root"]);
        words.push(self.directory.join("storage").into());
        words.push("--runroot".into());
        words.push(self.directory.join("run").into());
        words.extend(arguments.iter().map(OsString::from));
        words
    }
}

/// Where the compressed layers of a row's image lie, for the row by hand.
pub(crate) fn layers(row: &Path) -> PathBuf {
    row.join("layers")
}

fn words(words: &[&str]) -> Words {
    words.iter().map(OsString::from).collect()
}

impl Builder {
    pub(crate) fn name(&self) -> &'static str {
        match self {
            Self::Rbuild(_) => "rbuild",
            Self::Buildah => "buildah",
            Self::Hand => "by-hand",
        }
    }

    /// Commands that put an image into an empty store, unpacked.
    pub(crate) fn pull(&self, store: &Store, base: &str) -> Result<Vec<Words>> {
        match self {
            Self::Rbuild(program) => {
                // rbuild pulls what a build needs: a RUN needs the whole root file system.
                let context = store.directory.join("pull");
                fs_err::create_dir_all(&context)?;
                fs_err::write(context.join("Dockerfile"), format!("FROM {base}\nRUN [\"true\"]\n"))?;
                let mut build: Words = vec![program.into()];
                build.extend(words(&["--progress", "plain", "-t", "bench:base"]));
                build.push(context.into());
                Ok(vec![build])
            }
            Self::Buildah => Ok(vec![store.buildah(&["pull", "--quiet", "--tls-verify=false", base])]),
            Self::Hand => Ok(Vec::new()),
        }
    }

    /// Commands that build a workload's image and, where the row says so, push it.
    pub(crate) fn build(&self, store: &Store, workload: &Workload, image: &str) -> Vec<Words> {
        match self {
            Self::Rbuild(program) => {
                let mut build: Words = vec![program.into()];
                build.extend(words(&["--progress", "plain", "-t", image]));
                build.extend(workload.push.then(|| OsString::from("--push")));
                build.push(store.context.clone().into());
                vec![build]
            }
            Self::Buildah => {
                let options = ["bud", "--layers", "--network", "host", "--tls-verify=false", "-t", image];
                let mut build = store.buildah(&options);
                build.push(store.context.clone().into());
                let push = workload.push.then(|| store.buildah(&["push", "--quiet", "--tls-verify=false", image]));
                [build].into_iter().chain(push).collect()
            }
            Self::Hand => by_hand(workload),
        }
    }
}

/// The row by hand, in an empty directory.
pub(crate) fn by_hand(workload: &Workload) -> Vec<Words> {
    let script = workload.by_hand.map(|script| format!("cd \"$TMPDIR\" && {script}"));
    script.map(|script| words(&["sh", "-c", &script])).into_iter().collect()
}

/// What a reader of the table has to know. Fails where buildah would fall back to a driver that copies whole file systems.
pub(crate) fn conditions(scratch: &Path, samples: u32) -> Result<String> {
    let (root, run_root) = (scratch.join("info/storage"), scratch.join("info/run"));
    let mut info = command("buildah", ["--root"]);
    info.arg(root).arg("--runroot").arg(run_root).args(["info", "--format", "{{.store.GraphDriverName}}"]);
    let driver = stdout(&mut info)?.trim().to_owned();
    ensure!(
        driver != "vfs",
        "buildah falls back to the storage driver vfs in {}: the comparison would not be fair",
        scratch.display()
    );
    let version = stdout(&mut command("buildah", ["--version"]))?;
    let kernel = stdout(&mut command("uname", ["-sr"]))?;
    let cpus = std::thread::available_parallelism()?;
    Ok(format!(
        "Medians of {samples}, samples in turn; {cpus} CPUs, {}; stores and contexts in {}.\n{}; storage driver {driver}, \
         isolation of Debian's defaults.\nCPU: user and system time of all processes. Peak: largest resident set of one process.",
        kernel.trim(),
        scratch.parent().unwrap_or(scratch).display(),
        version.trim(),
    ))
}
