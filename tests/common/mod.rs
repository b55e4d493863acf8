//! What every end-to-end test needs: a directory of its own, rbuild as a command, and an image's contents as text.

use std::collections::BTreeMap;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use registry::testing::Registry;
use serde_json::Value;
use tempfile::TempDir;

/// The program under test.
pub(crate) const RBUILD: &str = env!("CARGO_BIN_EXE_rbuild");

/// The registry that the set-up started, `host:port`.
#[expect(clippy::disallowed_methods, reason = "the set-up speaks to the tests through the environment")]
pub(crate) fn registry() -> String {
    std::env::var("RBUILD_TEST_REGISTRY").expect("no RBUILD_TEST_REGISTRY: run the tests with `cargo xtask test`")
}

/// The plain user with subordinate ids that the set-up made.
#[expect(clippy::disallowed_methods, reason = "the set-up speaks to the tests through the environment")]
pub(crate) fn plain_user() -> String {
    std::env::var("RBUILD_TEST_USER").expect("no RBUILD_TEST_USER: run the tests with `cargo xtask test`")
}

/// The reference of a base image that the set-up pushed.
pub(crate) fn base(name: &str) -> String {
    format!("{}/library/{name}", registry())
}

/// A registry in memory that has the small base image, `library/busybox:latest`, and was asked nothing yet.
pub(crate) fn registry_with_base() -> Registry {
    let registry = Registry::start().unwrap();
    let from = format!("docker://{}", base("busybox:latest"));
    let to = format!("docker://{}/library/busybox:latest", registry.host());
    peer("skopeo", &["copy", "-q", "--src-tls-verify=false", "--dest-tls-verify=false", &from, &to]);
    registry.take_log();
    registry
}

/// A Dockerfile with the references of the base images in the places of their names.
pub(crate) fn with_bases(dockerfile: &str) -> String {
    dockerfile
        .replace("{busybox}", &base("busybox:latest"))
        .replace("{debian}", &base("debian:bookworm"))
        .replace("{python}", &base("python:3.11"))
        .replace("{node}", &base("node:18"))
}

/// A directory with a build context, a state directory and room for results.
pub(crate) struct Bench {
    directory: TempDir,
}

impl Bench {
    /// An empty one.
    pub(crate) fn new() -> Self {
        let directory = tempfile::Builder::new().prefix("rbuild-test-").tempdir().unwrap();
        let bench = Self { directory };
        fs_err::create_dir(bench.context()).unwrap();
        bench
    }

    /// One with a Dockerfile; `{busybox}`, `{debian}` and the like stand for the bases in the registry.
    pub(crate) fn with(dockerfile: &str) -> Self {
        let bench = Self::new();
        bench.dockerfile(dockerfile);
        bench
    }

    /// Writes the Dockerfile.
    pub(crate) fn dockerfile(&self, text: &str) {
        self.file("Dockerfile", &with_bases(text));
    }

    /// Writes a file of the context.
    pub(crate) fn file(&self, path: &str, text: &str) -> PathBuf {
        let path = self.context().join(path);
        fs_err::create_dir_all(path.parent().unwrap()).unwrap();
        fs_err::write(&path, text).unwrap();
        path
    }

    /// The build context.
    pub(crate) fn context(&self) -> PathBuf {
        self.path("context")
    }

    /// A path in the directory.
    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// rbuild with the state directory of this bench and nothing of the caller's environment but PATH.
    pub(crate) fn rbuild(&self) -> Command {
        let mut command = Command::new(RBUILD);
        command.env_clear().env("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin");
        command.env("RBUILD_HOME", self.path("home")).current_dir(self.context());
        command
    }

    /// Runs a build with the plain log.
    pub(crate) fn try_build(&self, arguments: &[&str]) -> Run {
        let mut command = self.rbuild();
        command.args(["--progress", "plain"]).args(arguments).arg(".");
        Run::of(&mut command)
    }

    /// Runs a build that has to succeed.
    pub(crate) fn build(&self, arguments: &[&str]) -> Run {
        let run = self.try_build(arguments);
        assert_eq!(run.code, 0, "{}", run.stderr);
        run
    }

    /// Nothing in the store is half-done.
    pub(crate) fn assert_clean(&self) {
        assert_clean(self.path("home"));
    }

    /// Builds, and reads the root file system and the config of the image.
    pub(crate) fn image(&self, arguments: &[&str]) -> Image {
        let layout = self.path("layout");
        // A layout collects images: this one shall hold the last alone.
        if layout.exists() {
            fs_err::remove_dir_all(&layout).unwrap();
        }
        let output = format!("type=oci,tar=false,dest={}", layout.display());
        let mut all = vec!["-o", output.as_str()];
        all.extend(arguments);
        self.build(&all);
        Image::read(&layout)
    }
}

/// Nothing in the store of a state directory is half-done: no temporary file or directory is left.
pub(crate) fn assert_clean(home: PathBuf) {
    let mut open = vec![home];
    while let Some(directory) = open.pop().filter(|directory| directory.exists()) {
        for entry in fs_err::read_dir(&directory).unwrap().map(Result::unwrap) {
            assert!(!directory.ends_with("tmp"), "left over: {}", entry.path().display());
            // What is in a snapshot is the image's.
            let inside = directory.file_name().is_some_and(|name| name.to_string_lossy().starts_with("snapshots"));
            if entry.file_type().unwrap().is_dir() && (!inside || entry.file_name() == "tmp") {
                open.push(entry.path());
            }
        }
    }
}

/// What a command said.
#[derive(Debug)]
pub(crate) struct Run {
    pub(crate) code: i32,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

impl Run {
    pub(crate) fn of(command: &mut Command) -> Self {
        command.output().unwrap_or_else(|error| panic!("{command:?}: {error}")).into()
    }

    /// How many steps the cache had.
    pub(crate) fn cached(&self) -> usize {
        self.stderr.lines().filter(|line| line.ends_with(" CACHED")).count()
    }

    /// How often a step ran, by the logs of all builds.
    pub(crate) fn executions(runs: &[Self], instruction: &str) -> usize {
        let number = |line: &str| line.split_whitespace().next().unwrap_or_default().to_owned();
        let ran = |run: &Self| {
            let named: Vec<String> = run.stderr.lines().filter(|line| line.contains(instruction)).map(number).collect();
            run.stderr.lines().filter(|line| line.contains(" DONE ") && named.contains(&number(line))).count()
        };
        runs.iter().map(ran).sum()
    }
}

impl From<Output> for Run {
    fn from(Output { status, stdout, stderr }: Output) -> Self {
        Self {
            code: status.code().unwrap_or(-1),
            stdout: String::from_utf8_lossy(&stdout).into_owned(),
            stderr: String::from_utf8_lossy(&stderr).into_owned(),
        }
    }
}

/// Runs a peer that has to succeed; fails with the package to install when it is not there.
pub(crate) fn peer(program: &str, arguments: &[&str]) -> String {
    let mut command = Command::new(program);
    let output = command.args(arguments).output().unwrap_or_else(|error| {
        panic!("cannot run {program} ({error}): `cargo xtask test` installs it, or `apt-get install {program}`")
    });
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{program} {arguments:?}: {stderr}");
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// Path → type, mode, owner, path and what it points at.
pub(crate) type Listing = BTreeMap<String, String>;

/// An image read from an OCI layout with nothing of rbuild's own.
pub(crate) struct Image {
    pub(crate) config: Value,
    pub(crate) manifest: Value,
    pub(crate) layers: Vec<Listing>,
    contents: BTreeMap<String, Vec<u8>>,
}

impl Image {
    pub(crate) fn read(layout: &Path) -> Self {
        let json = |path: &Path| -> Value { serde_json::from_slice(&fs_err::read(path).unwrap()).unwrap() };
        let blob = |digest: &Value| layout.join("blobs").join(digest.as_str().unwrap().replace(':', "/"));
        let index = json(&layout.join("index.json"));
        let manifest = json(&blob(&index["manifests"][0]["digest"]));
        let config = json(&blob(&manifest["config"]["digest"]));
        let (mut layers, mut contents) = (Vec::new(), BTreeMap::new());
        for layer in manifest["layers"].as_array().unwrap() {
            layers.push(list(&blob(&layer["digest"]), &mut contents));
        }
        Self { config, manifest, layers, contents }
    }

    /// The listing of the layer on top.
    pub(crate) fn top(&self) -> String {
        show(self.layers.last().unwrap())
    }

    /// The text of a file in the topmost layer that has it.
    pub(crate) fn text(&self, path: &str) -> String {
        String::from_utf8_lossy(self.bytes(path)).into_owned()
    }

    /// The bytes of a file in the topmost layer that has it.
    pub(crate) fn bytes(&self, path: &str) -> &[u8] {
        self.contents.get(path).unwrap_or_else(|| panic!("no layer has {path}"))
    }

    /// The bytes of every file, by path; those of the topmost layer that has it.
    pub(crate) fn contents(&self) -> &BTreeMap<String, Vec<u8>> {
        &self.contents
    }

    /// The `config` member of the config.
    pub(crate) fn run(&self) -> &Value {
        &self.config["config"]
    }
}

/// Lists a gzip layer with the `tar` crate and flate2.
fn list(layer: &Path, contents: &mut BTreeMap<String, Vec<u8>>) -> Listing {
    let file = fs_err::File::open(layer).unwrap();
    let mut archive = tar::Archive::new(flate2::read::MultiGzDecoder::new(file));
    let mut listing = Listing::new();
    for entry in archive.entries().unwrap() {
        let mut entry = entry.unwrap();
        let path = entry.path().unwrap().display().to_string().trim_end_matches('/').to_owned();
        let header = entry.header();
        let link = entry.link_name().unwrap().map(|link| format!(" -> {}", link.display())).unwrap_or_default();
        let kind = match header.entry_type() {
            tar::EntryType::Directory => 'd',
            tar::EntryType::Regular => '-',
            tar::EntryType::Symlink => 'l',
            tar::EntryType::Link => 'h',
            tar::EntryType::Char => 'c',
            tar::EntryType::Block => 'b',
            tar::EntryType::Fifo => 'p',
            other => panic!("{path}: {other:?}"),
        };
        let (mode, uid, gid) = (header.mode().unwrap() & 0o7777, header.uid().unwrap(), header.gid().unwrap());
        let mut bytes = Vec::new();
        entry.read_to_end(&mut bytes).unwrap();
        if kind == '-' {
            contents.insert(path.clone(), bytes);
        }
        let earlier = listing.insert(path.clone(), format!("{kind} {mode:04o} {uid}:{gid} {path}{link}"));
        assert_eq!(earlier, None, "the layer has {path} twice");
    }
    listing
}

/// A listing as lines.
pub(crate) fn show(listing: &Listing) -> String {
    listing.values().flat_map(|line| [line, "\n"]).collect()
}
