//! The rows of the bench. A row is added by adding it to [`WORKLOADS`]; its inputs are made here and the same on every run.

use std::fmt::Write as _;
use std::path::Path;
use std::time::{Duration, SystemTime};

use anyhow::Result;

/// What a builder's store holds when a sample begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Start {
    /// The base image alone.
    Cold,
    /// The result of the same build.
    Warm,
}

/// One row.
#[derive(Debug)]
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
}

/// All rows.
pub(crate) const WORKLOADS: &[Workload] = &[
    Workload {
        name: "noop",
        title: "no-op image on Debian (ENV, CMD), pushed",
        start: Start::Cold,
        push: true,
        write: |context, base| dockerfile(context, base, "ENV GREETING=hello\nCMD [\"true\"]\n"),
    },
    Workload { name: "run30", title: "30 tiny RUN steps", start: Start::Cold, push: false, write: run30 },
    Workload {
        name: "copy20000",
        title: "COPY of 20,000 small files",
        start: Start::Cold,
        push: false,
        write: copy20000,
    },
    Workload {
        name: "cached10",
        title: "cached rebuild, 10 steps, context of 2,000 files",
        start: Start::Warm,
        push: false,
        write: cached10,
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
    files(&context.join("files"), 20_000)?;
    dockerfile(context, base, "COPY files /srv/files\n")
}

fn cached10(context: &Path, base: &str) -> Result<()> {
    files(&context.join("src"), 2_000)?;
    fs_err::write(context.join("settings"), "mode=production\n")?;
    let steps = "ENV MODE=production\nWORKDIR /srv\nRUN echo one > one\nCOPY settings .\nRUN cat settings > two\n\
                 COPY src src\nRUN find src -type f | wc -l > three\nRUN mkdir -p data && echo four > data/four\n\
                 RUN cp data/four data/five\nRUN cat one two three > all\nCMD [\"cat\", \"all\"]\n";
    dockerfile(context, base, steps)
}

fn dockerfile(context: &Path, base: &str, steps: &str) -> Result<()> {
    fs_err::write(context.join("Dockerfile"), format!("FROM {base}\n{steps}"))?;
    Ok(())
}

/// Writes files of 64 to 4,095 bytes, a hundred in a directory, all of one age.
fn files(directory: &Path, count: usize) -> Result<()> {
    let mut random = Random(0x5eed);
    let age = SystemTime::UNIX_EPOCH + Duration::from_secs(1_700_000_000);
    for number in 0..count {
        let directory = directory.join(format!("d{:03}", number / 100));
        if number % 100 == 0 {
            fs_err::create_dir_all(&directory)?;
        }
        let length = 64 + random.next() % 4032;
        let line = format!("{number}: {:016x}\n", random.next());
        let text: Vec<u8> = line.bytes().cycle().take(usize::try_from(length)?).collect();
        let path = directory.join(format!("f{number:05}"));
        fs_err::write(&path, text)?;
        fs_err::File::options().write(true).open(path)?.set_modified(age)?;
    }
    Ok(())
}

/// The generator splitmix64: the same numbers on every machine.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_are_the_same_on_every_run() {
        let directories = [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()];
        for directory in &directories {
            files(directory.path(), 150).unwrap();
        }
        let content = |directory: &tempfile::TempDir| fs_err::read(directory.path().join("d001/f00149")).unwrap();
        assert_eq!(content(&directories[0]), content(&directories[1]));
        assert!((64..4096).contains(&content(&directories[0]).len()));
    }

    #[test]
    fn every_row_writes_a_dockerfile_from_the_base() {
        let (mut names, mut count) = (std::collections::BTreeSet::new(), 0);
        for workload in WORKLOADS.iter().filter(|workload| workload.name != "copy20000") {
            let directory = tempfile::tempdir().unwrap();
            (workload.write)(directory.path(), "base:1").unwrap();
            let text = fs_err::read_to_string(directory.path().join("Dockerfile")).unwrap();
            assert!(text.starts_with("FROM base:1\n"), "{}: {text}", workload.name);
            names.insert(workload.name);
            count += 1;
        }
        assert_eq!(names.len(), count);
    }
}
