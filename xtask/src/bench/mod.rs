//! rbuild against Debian's buildah: the same inputs on one machine in one run, samples taken in turn.
//!
//! Stores, contexts and temporary files lie on tmpfs, so that a disk does not decide. A cold row begins each sample with a store
//! that holds the base image alone; a warm row repeats a build that was made before. Rows are data: [`workloads`].

pub(crate) mod measure;

mod builders;
mod table;
mod workloads;

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use clap::Args;
use nix::sys::statvfs::statvfs;
use nix::unistd::Uid;

use crate::rbuild::{self, Profile};
use crate::registry::Registry;
use crate::setup::{self, Part};
use crate::state::State;
use builders::{Builder, Store};
use measure::Sample;
use table::Row;
use workloads::{Start, WORKLOADS, Workload};

/// What the largest row takes for both builders, with room to spare.
const SCRATCH_BYTES: u64 = 4 << 30;

/// How the names of scratch directories begin.
const PREFIX: &str = "rbuild-bench-";

/// Arguments of `cargo xtask bench`.
#[derive(Debug, Args)]
pub(crate) struct Arguments {
    /// Samples of each builder in each row; the table shows their medians
    #[arg(short = 'n', long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..))]
    samples: u32,
    /// Directory for stores and contexts; should be a tmpfs
    #[arg(long, default_value = "/dev/shm")]
    scratch: PathBuf,
    /// Measure this rbuild instead of a release build of the workspace
    #[arg(long, value_name = "FILE")]
    rbuild: Option<PathBuf>,
    /// Rows to run; all of them unless named
    #[arg(value_name = "ROW", value_parser = clap::builder::PossibleValuesParser::new(WORKLOADS.iter().map(|row| row.name)))]
    rows: Vec<String>,
}

/// What all rows share.
struct Bench {
    registry: Registry,
    scratch: tempfile::TempDir,
    builders: [Builder; 2],
    samples: u32,
}

/// Sets up, measures and prints the table.
pub(crate) fn run(state: &State, arguments: &Arguments) -> Result<()> {
    ensure!(Uid::effective().is_root(), "the bench compares builds by root: run it as root");
    let registry = setup::run(state, &[Part::Bench], Profile::Release)?;
    let rbuild = match &arguments.rbuild {
        Some(path) => fs_err::canonicalize(path)?,
        None => rbuild::compile(state, Profile::Release)?.path,
    };
    let scratch = scratch(&arguments.scratch)?;
    let conditions = builders::conditions(scratch.path(), arguments.samples)?;
    let builders = [Builder::Rbuild(rbuild), Builder::Buildah];
    let bench = Bench { registry, scratch, builders, samples: arguments.samples };
    let wanted =
        |workload: &&Workload| arguments.rows.is_empty() || arguments.rows.iter().any(|row| row == workload.name);
    let mut rows = Vec::new();
    for workload in WORKLOADS.iter().filter(wanted) {
        rows.push(bench.row(workload).with_context(|| format!("measuring the row {}", workload.name))?);
    }
    println!("{}", table::markdown(&rows));
    println!("{conditions}");
    Ok(())
}

/// Makes the directory in which everything that is measured lies; its name holds our process id, see [`sweep`].
fn scratch(directory: &Path) -> Result<tempfile::TempDir> {
    sweep(directory)?;
    let space =
        statvfs(directory).with_context(|| format!("looking at the scratch directory {}", directory.display()))?;
    let free = space.blocks_available() * space.fragment_size();
    ensure!(
        free >= SCRATCH_BYTES,
        "the bench needs {} MiB in {}, which has {}: name another directory with --scratch",
        SCRATCH_BYTES >> 20,
        directory.display(),
        free >> 20
    );
    let prefix = format!("{PREFIX}{}-", std::process::id());
    Ok(tempfile::Builder::new().prefix(&prefix).tempdir_in(directory)?)
}

/// Removes what benches that were killed have left: on a tmpfs it takes memory.
fn sweep(directory: &Path) -> Result<()> {
    for entry in fs_err::read_dir(directory)? {
        let path = entry?.path();
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let process = name.strip_prefix(PREFIX).and_then(|rest| rest.split('-').next()?.parse::<u32>().ok());
        if process.is_some_and(|process| !Path::new(&format!("/proc/{process}")).exists()) {
            fs_err::remove_dir_all(path)?;
        }
    }
    Ok(())
}

impl Bench {
    /// Takes the samples of one row, the builders in turn.
    fn row(&self, workload: &'static Workload) -> Result<Row> {
        let directory = self.scratch.path().join(workload.name);
        let context = directory.join("context");
        fs_err::create_dir_all(&context)?;
        (workload.write)(&context, &self.registry.reference(crate::bases::Base::Debian.image()))?;
        let stores = self.builders.each_ref().map(|builder| Store::new(&directory, builder));
        if workload.start == Start::Warm {
            for (builder, store) in self.builders.iter().zip(&stores) {
                self.fill(builder, store)?;
                self.sample(workload, builder, store, 0)?;
            }
        }
        let mut samples: [Vec<Sample>; 2] = Default::default();
        for round in 1..=self.samples {
            eprintln!("{}: {round} of {}", workload.name, self.samples);
            for ((builder, store), samples) in self.builders.iter().zip(&stores).zip(&mut samples) {
                if workload.start == Start::Cold {
                    self.fill(builder, store)?;
                }
                samples.push(self.sample(workload, builder, store, round)?);
            }
        }
        fs_err::remove_dir_all(&directory)?;
        let [rbuild, buildah] = samples;
        Ok(Row { workload, rbuild: Sample::median(&rbuild), buildah: Sample::median(&buildah) })
    }

    /// Gives a builder a new store that holds the base image.
    fn fill(&self, builder: &Builder, store: &Store) -> Result<()> {
        store.clear()?;
        let commands = builder.pull(store, self.registry)?;
        measure::sample(&commands, store.environment(), &store.log()).context("pulling the base image")?;
        Ok(())
    }

    fn sample(&self, workload: &Workload, builder: &Builder, store: &Store, round: u32) -> Result<Sample> {
        // A repository of its own for each sample: no push finds the blobs of the one before.
        let run = std::process::id();
        let image = self.registry.reference(&format!("bench/{}-{}-{run}-{round}:1", workload.name, builder.name()));
        let commands = builder.build(store, workload, &image);
        measure::sample(&commands, store.environment(), &store.log())
            .with_context(|| format!("building with {}", builder.name()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_killed_benches_left_is_removed_and_nothing_else() {
        let directory = tempfile::tempdir().unwrap();
        // Beyond the largest process id that Linux gives, proc(5).
        let left = format!("{PREFIX}4194305-x");
        let names = [format!("{PREFIX}{}-x", std::process::id()), "other".to_owned(), left];
        for name in &names {
            fs_err::create_dir(directory.path().join(name)).unwrap();
        }
        sweep(directory.path()).unwrap();
        assert_eq!(names.map(|name| directory.path().join(name).exists()), [true, true, false]);
    }
}
