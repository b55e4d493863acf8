//! rbuild against Debian's buildah: the same inputs on one machine in one run, samples taken in turn. Where images are
//! moved and not built, it is against Debian's skopeo: [`transfer`].
//!
//! Stores, contexts, temporary files and the registry's lie on tmpfs, so that a disk does not decide. A cold row begins each sample with a store
//! that holds the base image alone; a warm row repeats a build that was made before; the row of the pull begins with nothing, and so do those whose steps are in a cache elsewhere ([`shared`]). Where a
//! plain pipe does the same to the same bytes it is a third builder, "by hand". Rows are data: [`workloads`].

pub(crate) mod measure;

mod builders;
mod content;
mod shared;
mod table;
mod transfer;
mod workloads;

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use clap::Args;
use nix::sys::statvfs::statvfs;
use nix::unistd::Uid;

use crate::bases::Base;
use crate::command::{command, quiet};
use crate::rbuild::{self, Profile};
use crate::registry::{Registry, Temporary};
use crate::setup::{self, Part};
use crate::state::State;
use builders::{Builder, Store};
use measure::Sample;
use table::Row;
use workloads::{Start, WORKLOADS, Workload};

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
    #[arg(long, value_name = "ROW", value_delimiter = ',', value_parser = clap::builder::PossibleValuesParser::new(WORKLOADS.iter().map(|row| row.name).chain([transfer::NAME])))]
    only: Vec<String>,
    /// Push the image to the registry in every row that builds one
    #[arg(long)]
    push: bool,
}

/// What all rows share.
struct Bench {
    registry: Registry,
    scratch: tempfile::TempDir,
    rbuild: PathBuf,
    samples: u32,
}

/// Sets up, measures and prints the table.
pub(crate) fn run(state: &State, arguments: &Arguments) -> Result<()> {
    ensure!(Uid::effective().is_root(), "the bench compares builds by root: run it as root");
    let is_wanted = |name: &str| arguments.only.is_empty() || arguments.only.iter().any(|row| row == name);
    let workloads: Vec<Workload> = WORKLOADS
        .iter()
        .filter(|workload| is_wanted(workload.name))
        .map(|workload| Workload {
            push: workload.push || arguments.push && workload.start != Start::Pull,
            ..*workload
        })
        .collect();
    let source = setup::run(state, &[Part::Bench], Profile::Release)?;
    let rbuild = match &arguments.rbuild {
        Some(path) => fs_err::canonicalize(path)?,
        None => rbuild::compile(state, Profile::Release)?.path,
    };
    let transfers = is_wanted(transfer::NAME).then_some(transfer::SCRATCH);
    let most = workloads.iter().map(|workload| workload.scratch).chain(transfers).max().unwrap_or(0);
    let scratch = scratch(&arguments.scratch, most << 20)?;
    let temporary = Temporary::start(&scratch.path().join("registry"))?;
    let registry = temporary.with(source, Base::Debian.image())?;
    let conditions = builders::conditions(scratch.path(), arguments.samples)?;
    let bench = Bench { registry, scratch, rbuild, samples: arguments.samples };
    let mut rows = Vec::new();
    for workload in workloads {
        let name = workload.name;
        rows.push(bench.row(workload).with_context(|| format!("measuring the row {name}"))?);
    }
    if !rows.is_empty() {
        println!("{}", table::markdown(&rows));
    }
    if transfers.is_some() {
        let table = transfer::run(&bench.rbuild, bench.scratch.path(), bench.samples).context("measuring transfers")?;
        println!("{table}");
    }
    println!("{conditions}");
    Ok(())
}

/// Makes the directory in which everything that is measured lies; its name holds our process id, see [`sweep`].
fn scratch(directory: &Path, needed: u64) -> Result<tempfile::TempDir> {
    sweep(directory)?;
    let space =
        statvfs(directory).with_context(|| format!("looking at the scratch directory {}", directory.display()))?;
    let free = space.blocks_available() * space.fragment_size();
    ensure!(
        free >= needed,
        "the bench needs {} MiB in {}, which has {}: name another directory with --scratch",
        needed >> 20,
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
    fn row(&self, workload: Workload) -> Result<Row> {
        let directory = self.scratch.path().join(workload.name);
        let context = directory.join("context");
        fs_err::create_dir_all(&context)?;
        (workload.write)(&context, &self.registry.reference(Base::Debian.image()))?;
        let mut builders = vec![Builder::Rbuild(self.rbuild.clone()), Builder::Buildah];
        builders.extend(workload.by_hand.map(|_| Builder::Hand));
        if workload.start == Start::Pull {
            self.publish(&workload, &directory)?;
        }
        let mut columns: Vec<(Builder, Store, Vec<Sample>)> = Vec::new();
        for builder in builders {
            let store = Store::new(&directory, &builder);
            match workload.start {
                Start::Warm => {
                    self.fill(&builder, &store)?;
                    self.sample(&workload, &builder, &store, 0)?;
                }
                Start::Shared => self.share(&workload, &builder, &store)?,
                Start::Cold | Start::Pull => {}
            }
            columns.push((builder, store, Vec::new()));
        }
        for round in 1..=self.samples {
            eprintln!("{}: {round} of {}", workload.name, self.samples);
            if let Some(change) = workload.change {
                change(&context, round)?;
            }
            for (builder, store, samples) in &mut columns {
                match (workload.start, &*builder) {
                    (Start::Warm, Builder::Rbuild(_) | Builder::Buildah) => {}
                    (Start::Cold, _) => self.fill(builder, store)?,
                    (Start::Pull | Start::Shared, _) | (_, Builder::Hand) => store.clear()?,
                }
                samples.push(self.sample(&workload, builder, store, round)?);
                if workload.start != Start::Warm {
                    // The scratch directory is memory.
                    store.clear()?;
                }
            }
        }
        fs_err::remove_dir_all(&directory)?;
        let mut medians = columns.iter().map(|(_, _, samples)| Sample::median(samples));
        let (rbuild, buildah) = (medians.next().context("no samples")?, medians.next().context("no samples")?);
        Ok(Row { rbuild, buildah, by_hand: medians.next(), workload })
    }

    /// Gives a builder a new store that holds the base image.
    fn fill(&self, builder: &Builder, store: &Store) -> Result<()> {
        store.clear()?;
        let commands = builder.pull(store, &self.registry.reference(Base::Debian.image()))?;
        measure::sample(&commands, store.environment(), &store.log()).context("pulling the base image")?;
        Ok(())
    }

    /// Builds the row's image and puts it into the registry, and its layers where the row by hand finds them.
    fn publish(&self, workload: &Workload, row: &Path) -> Result<()> {
        let home = row.join("publish");
        let layout = row.join("layout");
        let mut build = command(&self.rbuild, ["--progress", "plain", "--push", "-t"]);
        build.arg(self.published(workload)).arg("-o").arg(format!("type=oci,tar=false,dest={}", layout.display()));
        quiet(build.arg(row.join("context")).env("RBUILD_HOME", &home)).context("making the image to pull")?;
        fs_err::create_dir(builders::layers(row))?;
        for blob in fs_err::read_dir(layout.join("blobs/sha256"))? {
            let blob = blob?;
            // The documents of the image are small.
            if blob.metadata()?.len() > 1 << 20 {
                fs_err::rename(blob.path(), builders::layers(row).join(blob.file_name()))?;
            }
        }
        for done in [home, layout, row.join("context")] {
            fs_err::remove_dir_all(done)?;
        }
        Ok(())
    }

    /// Builds once and keeps the steps in the builder's cache in the registry.
    fn share(&self, workload: &Workload, builder: &Builder, store: &Store) -> Result<()> {
        store.clear()?;
        let image = self.registry.reference(&format!("bench/{}-{}:1", workload.name, builder.name()));
        let commands = shared::writing(builder, builder.build(store, workload, &image), &self.cache(builder));
        measure::sample(&commands, store.environment(), &store.log()).context("filling the cache")?;
        store.clear()
    }

    fn cache(&self, builder: &Builder) -> String {
        self.registry.reference(&format!("bench/cache-{}", builder.name()))
    }

    fn published(&self, workload: &Workload) -> String {
        self.registry.reference(&format!("bench/{}:1", workload.name))
    }

    fn sample(&self, workload: &Workload, builder: &Builder, store: &Store, round: u32) -> Result<Sample> {
        // A repository of its own for each sample: no push finds the blobs of the one before.
        let run = std::process::id();
        let image = self.registry.reference(&format!("bench/{}-{}-{run}-{round}:1", workload.name, builder.name()));
        let commands = match (workload.start, builder) {
            (_, Builder::Hand) => builders::by_hand(workload),
            (Start::Pull, _) => builder.pull(store, &self.published(workload))?,
            (Start::Shared, _) => {
                shared::reading(builder, builder.build(store, workload, &image), &self.cache(builder))
            }
            _ => builder.build(store, workload, &image),
        };
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
