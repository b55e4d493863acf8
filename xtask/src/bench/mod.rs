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

fn scratch(directory: &Path) -> Result<tempfile::TempDir> {
    let space =
        statvfs(directory).with_context(|| format!("looking at the scratch directory {}", directory.display()))?;
    let free = space.blocks_available() * space.fragment_size();
    let (want, have) = (SCRATCH_BYTES >> 20, free >> 20);
    let directory = directory.display();
    ensure!(
        free >= SCRATCH_BYTES,
        "the bench needs {want} MiB in {directory}, which has {have}: name another with --scratch"
    );
    Ok(tempfile::Builder::new().prefix("rbuild-bench-").tempdir_in(directory.to_string())?)
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
