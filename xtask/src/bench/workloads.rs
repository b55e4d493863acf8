//! The rows of the bench. A row is added by adding it to [`WORKLOADS`]; its inputs are made here and the same on every run.

use std::fmt::Write as _;
use std::path::Path;

use anyhow::Result;

use super::content::{Source, file, large_file, mixed_files, small_files};

/// What a builder's store holds when a sample begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Start {
    /// The base image alone.
    Cold,
    /// The result of the same build, or, in a row with a change, of the one before.
    Warm,
    /// Nothing; the result of the same build is in a cache in the registry.
    Shared,
    /// Nothing: the sample is the pull of the image that the Dockerfile describes, unpacked.
    Pull,
}

/// The same by the plainest tools there are, in a shell: `$CONTEXT` is the build context, and the image's compressed layers lie
/// in `$LAYERS`; the current directory is empty.
pub(crate) type ByHand = &'static str;

/// What the row should show: a number of rbuild's as a part of a peer's.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Target {
    pub(crate) number: Number,
    pub(crate) peer: Peer,
    pub(crate) most: f64,
}

/// What of a sample is compared.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Number {
    Wall,
    Cpu,
}

/// Whom it is compared with.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Peer {
    Buildah,
    ByHand,
}

const fn wall_of_buildah(most: f64) -> Target {
    Target { number: Number::Wall, peer: Peer::Buildah, most }
}

const fn cpu_by_hand(most: f64) -> Target {
    Target { number: Number::Cpu, peer: Peer::ByHand, most }
}

/// One row.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Workload {
    /// The name on the command line and in repositories.
    pub(crate) name: &'static str,
    /// The name in the table.
    pub(crate) title: &'static str,
    pub(crate) start: Start,
    /// Whether the image is pushed to the registry as a part of the sample.
    pub(crate) push: bool,
    /// Writes the Dockerfile, which begins with the base that is given, and the build context.
    pub(crate) write: fn(context: &Path, base: &str) -> Result<()>,
    /// Changes the context before the samples of a round.
    pub(crate) change: Option<fn(context: &Path, round: u32) -> Result<()>>,
    pub(crate) by_hand: Option<ByHand>,
    pub(crate) targets: &'static [Target],
    /// MiB that the row takes in the scratch directory.
    pub(crate) scratch: u64,
}

/// What most rows are.
const PLAIN: Workload = Workload {
    name: "",
    title: "",
    start: Start::Cold,
    push: false,
    write: |_, _| Ok(()),
    change: None,
    by_hand: None,
    targets: &[],
    scratch: 1024,
};

const TAR_GZIP: ByHand = "tar -C \"$CONTEXT/files\" -c . | gzip -6 > layer.tar.gz";

/// All rows.
pub(crate) const WORKLOADS: &[Workload] = &[
    Workload {
        name: "noop",
        title: "no-op image on Debian (ENV, CMD), pushed",
        push: true,
        write: |context, base| dockerfile(context, base, "ENV GREETING=hello\nCMD [\"true\"]\n"),
        targets: &[wall_of_buildah(1.0 / 10.0)],
        ..PLAIN
    },
    Workload {
        name: "run30",
        title: "30 tiny RUN steps",
        write: run30,
        targets: &[wall_of_buildah(1.0 / 25.0)],
        ..PLAIN
    },
    Workload {
        name: "cached10",
        title: "cached rebuild, 10 steps, context of 2,000 files",
        start: Start::Warm,
        write: ten_steps,
        targets: &[wall_of_buildah(1.0 / 30.0)],
        ..PLAIN
    },
    Workload {
        name: "changed10",
        title: "the same, one file of a late COPY changed",
        start: Start::Warm,
        write: ten_steps,
        change: Some(|context, round| Ok(fs_err::write(context.join("late"), format!("round {round}\n"))?)),
        targets: &[wall_of_buildah(1.0 / 20.0)],
        ..PLAIN
    },
    Workload {
        name: "coldstart",
        title: "the ten steps on a new machine, all in a cache in the registry, pushed",
        start: Start::Shared,
        push: true,
        write: ten_steps,
        targets: &[wall_of_buildah(1.0 / 40.0)],
        ..PLAIN
    },
    Workload {
        name: "copy20000",
        title: "COPY of 20,000 small files, cold",
        write: copy20000,
        by_hand: Some(TAR_GZIP),
        targets: &[cpu_by_hand(1.0), Target { number: Number::Wall, peer: Peer::ByHand, most: 1.0 }],
        ..PLAIN
    },
    Workload {
        name: "changed20000",
        title: "the same, one file changed",
        start: Start::Warm,
        write: copy20000,
        change: Some(|context, round| {
            Ok(fs_err::write(context.join("files/d100/f10000"), format!("round {round}\n"))?)
        }),
        by_hand: Some(TAR_GZIP),
        targets: &[cpu_by_hand(1.0 / 8.0)],
        ..PLAIN
    },
    Workload {
        name: "copy2g",
        title: "COPY of 1 GiB of noise and 1 GiB of text",
        write: |context, base| {
            fs_err::create_dir(context.join("files"))?;
            large_file(&context.join("files/noise"), 1024, true)?;
            large_file(&context.join("files/text"), 1024, false)?;
            dockerfile(context, base, "COPY files /srv/files\n")
        },
        by_hand: Some(TAR_GZIP),
        targets: &[wall_of_buildah(1.0 / 3.0)],
        scratch: 9 * 1024,
        ..PLAIN
    },
    Workload {
        name: "pull",
        title: "pull and unpack an image of three layers, 40,000 files, ~275 MB of gzip",
        start: Start::Pull,
        write: |context, base| {
            mixed_files(&context.join("one"), 16_500, 3)?;
            mixed_files(&context.join("two"), 16_500, 4)?;
            dockerfile(context, base, "COPY one /srv/one\nCOPY two /srv/two\n")
        },
        by_hand: Some(
            "for layer in \"$LAYERS\"/*; do mkdir ${layer##*/} && tar -C ${layer##*/} -xzf $layer || exit; done",
        ),
        targets: &[Target { number: Number::Cpu, peer: Peer::Buildah, most: 1.0 / 6.0 }, cpu_by_hand(0.6)],
        scratch: 4 * 1024,
        ..PLAIN
    },
    Workload {
        name: "copy60",
        title: "60 COPY of 1 MiB, pushed",
        push: true,
        write: copy60,
        targets: &[wall_of_buildah(1.0 / 10.0)],
        ..PLAIN
    },
];

fn run30(context: &Path, base: &str) -> Result<()> {
    let mut steps = String::new();
    for step in 1..=30 {
        writeln!(steps, "RUN echo {step} > /step-{step}")?;
    }
    dockerfile(context, base, &steps)
}

fn copy20000(context: &Path, base: &str) -> Result<()> {
    small_files(&context.join("files"), 20_000)?;
    dockerfile(context, base, "COPY files /srv/files\n")
}

fn copy60(context: &Path, base: &str) -> Result<()> {
    let mut source = Source::new(60);
    let mut steps = String::new();
    for number in 0..60 {
        file(&context.join(format!("part{number}")), &source.text(1 << 20))?;
        writeln!(steps, "COPY part{number} /srv/")?;
    }
    dockerfile(context, base, &steps)
}

/// Ten steps that make layers, the last but one of which copies `late`.
fn ten_steps(context: &Path, base: &str) -> Result<()> {
    small_files(&context.join("src"), 2_000)?;
    file(&context.join("settings"), b"mode=production\n")?;
    file(&context.join("late"), b"round 0\n")?;
    let steps = "ENV MODE=production\nWORKDIR /srv\nRUN echo one > one\nCOPY settings .\nRUN cat settings > two\n\
                 COPY src src\nRUN find src -type f | wc -l > three\nRUN mkdir -p data && echo four > data/four\n\
                 RUN cp data/four data/five\nCOPY late .\nRUN cat one two three late > all\nCMD [\"cat\", \"all\"]\n";
    dockerfile(context, base, steps)
}

fn dockerfile(context: &Path, base: &str, steps: &str) -> Result<()> {
    fs_err::write(context.join("Dockerfile"), format!("FROM {base}\n{steps}"))?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_row_writes_a_dockerfile_from_the_base() {
        let mut names = std::collections::BTreeSet::new();
        for workload in WORKLOADS {
            assert!(names.insert(workload.name), "{} twice", workload.name);
            if workload.scratch > PLAIN.scratch || workload.name.ends_with("20000") {
                continue;
            }
            let directory = tempfile::tempdir().unwrap();
            (workload.write)(directory.path(), "base:1").unwrap();
            let text = fs_err::read_to_string(directory.path().join("Dockerfile")).unwrap();
            assert!(text.starts_with("FROM base:1\n"), "{}: {text}", workload.name);
        }
    }

    /// A change that changes nothing would measure a rebuild that hits.
    #[test]
    fn a_change_changes_a_file_that_is_copied() {
        let directory = tempfile::tempdir().unwrap();
        ten_steps(directory.path(), "base:1").unwrap();
        fs_err::create_dir_all(directory.path().join("files/d100")).unwrap();
        fs_err::write(directory.path().join("files/d100/f10000"), "before").unwrap();
        for (change, changed) in WORKLOADS.iter().filter_map(|row| row.change).zip(["late", "files/d100/f10000"]) {
            let read = || fs_err::read(directory.path().join(changed)).unwrap();
            let before = read();
            change(directory.path(), 1).unwrap();
            let first = read();
            change(directory.path(), 2).unwrap();
            assert!(before != first && first != read());
        }
    }
}
