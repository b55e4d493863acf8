//! Apps: `rbuild build -a`, its records and its archives.

mod archives;
mod builds;
mod listings;
mod page;
mod records;
mod secrets;

use std::io::{Read, Seek};
use std::path::Path;
use std::process::{Command, Stdio};

use serde_json::Value;

use crate::common::{Bench, Run, registry, with_bases};

/// The clock of most tests.
const CLOCK: &str = "2026-01-02T03:04:05Z";

/// A bench whose context is the directory of an app called `myapp`.
struct App {
    bench: Bench,
}

impl App {
    /// One with a convox.yml; bases are written as `{busybox}`.
    fn with(manifest: &str) -> Self {
        let app = Self { bench: Bench::new() };
        app.file("convox.yml", manifest);
        app
    }

    fn file(&self, path: &str, text: &str) {
        self.bench.file(path, &with_bases(text));
    }

    /// rbuild with the fixed clock.
    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = self.bench.rbuild();
        command.env("RBUILD_CLOCK", CLOCK).args(arguments).stdin(Stdio::null());
        command
    }

    fn try_run(&self, arguments: &[&str]) -> Run {
        Run::of(&mut self.command(arguments))
    }

    /// Runs a command that has to succeed; returns what it prints.
    #[track_caller]
    fn run(&self, arguments: &[&str]) -> String {
        let run = self.try_run(arguments);
        assert_eq!(run.code, 0, "{arguments:?}: {}{}", run.stdout, run.stderr);
        run.stdout
    }

    /// Builds and returns the release.
    #[track_caller]
    fn build(&self, arguments: &[&str]) -> String {
        let mut all = vec!["build", "-a", "myapp", "--id"];
        all.extend(arguments);
        let release = self.run(&all);
        assert!(release.starts_with('R') && release.len() == 11, "{release}");
        release
    }

    fn json(&self, arguments: &[&str]) -> Value {
        serde_json::from_str(&self.run(arguments)).unwrap()
    }

    /// The newest build.
    fn newest(&self) -> String {
        let release = self.json(&["releases", "-a", "myapp", "-l", "1", "--json"]);
        release[0]["build"].as_str().unwrap().to_owned()
    }

    /// Digests by service.
    fn digests(&self, app: &str, build: &str) -> Vec<(String, String)> {
        let info = self.json(&["builds", "info", "-a", app, build, "--json"]);
        let images = info["images"].as_array().unwrap().iter();
        let text = |value: &Value| value.as_str().unwrap().to_owned();
        images.map(|image| (text(&image["service"]), text(&image["descriptor"]["digest"]))).collect()
    }

    /// Lets images be pushed below a name of the test's own.
    fn push_to(&self, name: &str) -> String {
        let registry = format!("{}/apps-{name}-{}", registry(), std::process::id());
        self.run(&["rack", "params", "set", &format!("registry={registry}")]);
        registry
    }

    fn home(&self) -> std::path::PathBuf {
        self.bench.path("home")
    }
}

/// Replaces what differs every time: ids, digests, times of steps, the registry, the test's directory.
fn shown(text: &str) -> String {
    let mut shown = String::new();
    for line in text.replace(&registry(), "REGISTRY").split_inclusive('\n') {
        let (body, end) = line.strip_suffix('\n').map_or((line, ""), |body| (body, "\n"));
        let words: Vec<String> = body.split(' ').map(word).collect();
        shown.push_str(&words.join(" "));
        shown.push_str(end);
    }
    shown
}

fn word(text: &str) -> String {
    let word = text.trim_end_matches("...");
    let end = &text[word.len()..];
    let is_id = |text: &str| {
        text.len() == 11 && text.starts_with(['B', 'R']) && text.bytes().all(|byte| byte.is_ascii_uppercase())
    };
    let seconds = word.strip_suffix('s').unwrap_or(word);
    // `R…,` in a description.
    if let Some(word) = text.strip_suffix(',').filter(|word| is_id(word)) {
        return format!("{}XXXXXXXXXX,", &word[..1]);
    }
    if is_id(word) {
        return format!("{}XXXXXXXXXX{end}", &word[..1]);
    }
    if let Some((before, id)) = word.rsplit_once('.').filter(|(_, id)| is_id(id)) {
        return format!("{before}.{}XXXXXXXXXX", &id[..1]);
    }
    if word.starts_with("sha256:") {
        return "sha256:…".to_owned();
    }
    if seconds.contains('.') && seconds.bytes().all(|byte| byte.is_ascii_digit() || byte == b'.') {
        return "0.0".to_owned();
    }
    text.to_owned()
}

/// Everything below a directory that has one of the texts in it, decompressed where it is gzip.
fn files_with(directory: &Path, texts: &[&[u8]]) -> Vec<String> {
    let plain = tempfile::tempdir().unwrap();
    let mut open = vec![directory.to_owned()];
    let mut count = 0;
    while let Some(path) = open.pop() {
        let kind = fs_err::symlink_metadata(&path).unwrap();
        if kind.is_dir() {
            open.extend(fs_err::read_dir(&path).unwrap().map(|entry| entry.unwrap().path()));
        } else if kind.is_file() {
            let mut head = [0; 2];
            let mut file = fs_err::File::open(&path).unwrap();
            if file.read(&mut head).unwrap() == 2 && head == [0x1f, 0x8b] {
                count += 1;
                file.rewind().unwrap();
                let name = format!("{count}-{}", path.file_name().unwrap().display());
                let mut to = fs_err::File::create(plain.path().join(name)).unwrap();
                std::io::copy(&mut flate2::read::MultiGzDecoder::new(file), &mut to).unwrap();
            }
        }
    }
    // The patterns are no arguments: a test looks at those of all processes.
    let aside = tempfile::tempdir().unwrap();
    let patterns = aside.path().join("patterns");
    fs_err::write(&patterns, texts.join(&b'\n')).unwrap();
    let mut grep = Command::new("grep");
    grep.args(["-rlaF", "--devices=skip", "-f"]).arg(&patterns);
    let output = grep.arg(directory).arg(plain.path()).output().unwrap();
    assert!(output.stderr.is_empty(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap().lines().map(str::to_owned).collect()
}

fn has(bytes: &[u8], texts: &[&[u8]]) -> bool {
    texts.iter().any(|text| bytes.windows(text.len()).any(|window| window == *text))
}
