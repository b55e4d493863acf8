//! The rows of `rbuild copy` against `skopeo copy`: an image from an OCI layout to a registry and back.
//!
//! The registry is one of our own beside the layouts, so that neither a disk nor other images decide. It is emptied
//! before each push, and skopeo's memory of where blobs are with it: nothing can be mounted.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use super::content::{Source, large_file};
use super::measure::{self, Sample, Words};
use super::table::{seconds, verdict};
use crate::command::{command, quiet};
use crate::registry::Temporary;

/// The name on the command line.
pub(super) const NAME: &str = "transfer";
/// MiB that the rows take in the scratch directory.
pub(super) const SCRATCH: u64 = 9 * 1024;
/// The tag of the image in its layout and in the registry.
const TAG: &str = "1";

/// An image to transfer: so many layers of so many MiB of noise.
struct Image {
    title: &'static str,
    layers: usize,
    mebibytes: usize,
}

const IMAGES: [Image; 2] = [
    Image { title: "60 layers of 1 MiB", layers: 60, mebibytes: 1 },
    Image { title: "2 layers of 1 GiB", layers: 2, mebibytes: 1024 },
];

#[derive(Clone, Copy, PartialEq, Eq)]
enum Way {
    Push,
    Pull,
}

/// What the samples of one image share.
struct Transfer<'a> {
    rbuild: &'a Path,
    registry: Temporary,
    directory: PathBuf,
}

/// Takes the samples of all rows; the answer is a table.
pub(super) fn run(rbuild: &Path, scratch: &Path, samples: u32) -> Result<String> {
    let mut table = String::from("| rbuild : skopeo | wall, s | ratio | CPU, s | ratio | peak, MiB | targets |\n");
    table.push_str("|---|--:|--:|--:|--:|--:|---|\n");
    for image in &IMAGES {
        let directory = scratch.join(NAME);
        write(rbuild, image, &directory)?;
        let registry = Temporary::start(&directory.join("registry"))?;
        let transfer = Transfer { rbuild, registry, directory };
        for way in [Way::Push, Way::Pull] {
            let title = match way {
                Way::Push => format!("push {}", image.title),
                Way::Pull => format!("pull {}", image.title),
            };
            let [rbuild, skopeo] = transfer.samples(&title, way, samples)?;
            let (wall, cpu) = (seconds([rbuild.wall, skopeo.wall]), seconds([rbuild.cpu, skopeo.cpu]));
            let targets = [verdict("wall", rbuild.wall, skopeo.wall), verdict("CPU", rbuild.cpu, skopeo.cpu)];
            let (own, peer) = (rbuild.peak_kib >> 10, skopeo.peak_kib >> 10);
            // Writing into a String cannot fail.
            let _ = writeln!(table, "| {title} | {wall} | {cpu} | {own} : {peer} | {} |", targets.join("; "));
        }
        fs_err::remove_dir_all(&transfer.directory)?;
    }
    Ok(table)
}

/// Builds an image into a layout.
fn write(rbuild: &Path, image: &Image, directory: &Path) -> Result<()> {
    let context = directory.join("context");
    fs_err::create_dir_all(&context)?;
    let mut steps = String::from("FROM scratch\n");
    let mut source = Source::new(7);
    for layer in 0..image.layers {
        let name = format!("part{layer}");
        if image.mebibytes == 1 {
            fs_err::write(context.join(&name), source.noise(1 << 20))?;
        } else {
            large_file(&context.join(&name), image.mebibytes, true)?;
            // Another first byte is another layer.
            let file = fs_err::OpenOptions::new().write(true).open(context.join(&name))?;
            std::io::Write::write_all(&mut file.into_file(), &[u8::try_from(layer)?])?;
        }
        writeln!(steps, "COPY {name} /")?;
    }
    fs_err::write(context.join("Dockerfile"), steps)?;
    let mut build = command(rbuild, ["--progress", "plain", "-t"]);
    build.arg(format!("bench:{TAG}")).arg("-o");
    build.arg(format!("type=oci,tar=false,dest={}", directory.join("layout").display())).arg(&context);
    quiet(build.env("RBUILD_HOME", directory.join("home"))).context("making the image to transfer")?;
    for done in [context, directory.join("home")] {
        fs_err::remove_dir_all(done)?;
    }
    Ok(())
}

impl Transfer<'_> {
    /// Takes the samples of one row in turn; the answers are the medians of rbuild and of skopeo.
    fn samples(&self, title: &str, way: Way, count: u32) -> Result<[Sample; 2]> {
        let mut samples = [Vec::new(), Vec::new()];
        if way == Way::Pull {
            self.registry.clear()?;
            self.sample(&self.rbuild(Way::Push))?;
        }
        for round in 1..=count {
            eprintln!("{title}: {round} of {count}");
            for (commands, samples) in [self.rbuild(way), self.skopeo(way)].iter().zip(&mut samples) {
                match way {
                    Way::Push => self.registry.clear()?,
                    Way::Pull if self.out().exists() => fs_err::remove_dir_all(self.out())?,
                    Way::Pull => {}
                }
                samples.push(self.sample(commands)?);
            }
        }
        Ok(samples.map(|samples| Sample::median(&samples)))
    }

    fn sample(&self, words: &Words) -> Result<Sample> {
        let environment = BTreeMap::from([("RBUILD_HOME", self.directory.join("home"))]);
        measure::sample(std::slice::from_ref(words), &environment, &self.directory.join("log"))
    }

    fn out(&self) -> PathBuf {
        self.directory.join("out")
    }

    /// Source and destination as both programs write them.
    fn places(&self, way: Way) -> [String; 2] {
        let remote = format!("docker://{}/bench:{TAG}", self.registry.address());
        match way {
            Way::Push => [format!("oci:{}:{TAG}", self.directory.join("layout").display()), remote],
            Way::Pull => [remote, format!("oci:{}:{TAG}", self.out().display())],
        }
    }

    fn rbuild(&self, way: Way) -> Words {
        let mut words: Words = vec![self.rbuild.into(), "copy".into()];
        words.extend(self.places(way).map(OsString::from));
        words
    }

    fn skopeo(&self, way: Way) -> Words {
        // Its memory of blobs lies there; the mount goes with the measuring process's namespace.
        let script =
            "mkdir -p /var/lib/containers/cache && mount -t tmpfs none /var/lib/containers/cache && exec \"$@\"";
        let copy =
            ["skopeo", "copy", "--quiet", "--insecure-policy", "--src-tls-verify=false", "--dest-tls-verify=false"];
        let mut words: Words = ["sh", "-c", script, "sh"].iter().chain(&copy).map(OsString::from).collect();
        words.extend(self.places(way).map(OsString::from));
        words
    }
}
