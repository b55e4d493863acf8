//! Export and import: Convox's archive both ways, those of its second version, damaged ones.

use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::process::Stdio;

use flate2::Compression;
use flate2::read::MultiGzDecoder;
use flate2::write::GzEncoder;
use serde_json::json;

use super::{App, shown};
use crate::common::{peer, with_bases};

fn app() -> App {
    let app = App::with("services:\n  web: {}\n  cache: {image: '{busybox}'}\n");
    app.file("Dockerfile", "FROM {busybox}\nCOPY convox.yml /etc/\nENTRYPOINT [\"cat\"]\n");
    app.build(&["-d", "the <first>"]);
    app
}

fn exported(app: &App) -> PathBuf {
    let file = app.bench.path("build.tgz");
    let said = app.run(&["builds", "export", "-a", "myapp", &app.newest(), "-f", file.to_str().unwrap()]);
    assert_eq!(said, "Exporting build... OK\n");
    file
}

type Members = Vec<(String, Vec<u8>)>;

fn members(bytes: impl Read) -> Members {
    let mut archive = tar::Archive::new(bytes);
    let mut members = Members::new();
    for entry in archive.entries().unwrap() {
        let mut entry = entry.unwrap();
        let name = entry.path().unwrap().display().to_string();
        let mut bytes = Vec::new();
        entry.read_to_end(&mut bytes).unwrap();
        members.push((name, bytes));
    }
    members
}

fn tar_of(members: &Members) -> Vec<u8> {
    let mut archive = tar::Builder::new(Vec::new());
    for (name, bytes) in members.iter().filter(|(name, _)| !name.ends_with('/')) {
        let mut header = tar::Header::new_ustar();
        header.set_size(bytes.len() as u64);
        header.set_mode(0o600);
        archive.append_data(&mut header, name, bytes.as_slice()).unwrap();
    }
    archive.into_inner().unwrap()
}

fn write_archive(path: &Path, members: &Members) {
    let mut gzip = GzEncoder::new(fs_err::File::create(path).unwrap(), Compression::fast());
    gzip.write_all(&tar_of(members)).unwrap();
    gzip.finish().unwrap();
}

fn read_archive(path: &Path) -> Members {
    members(MultiGzDecoder::new(fs_err::File::open(path).unwrap()))
}

#[test]
fn an_export_goes_into_a_pipe_that_is_there() {
    let app = app();
    let pipe = app.bench.path("pipe");
    nix::unistd::mkfifo(&pipe, nix::sys::stat::Mode::S_IRWXU).unwrap();
    let reader = std::thread::spawn({
        let pipe = pipe.clone();
        move || members(MultiGzDecoder::new(fs_err::File::open(pipe).unwrap())).len()
    });
    app.run(&["builds", "export", "-a", "myapp", &app.newest(), "-f", pipe.to_str().unwrap()]);
    assert_eq!(reader.join().unwrap(), 5);
    assert!(!fs_err::metadata(&pipe).unwrap().is_file());
}

#[test]
fn an_archive_brings_the_same_images_to_another_app() {
    let app = app();
    let build = app.newest();
    let file = exported(&app);
    let members = read_archive(&file);
    let names: Vec<&str> = members.iter().map(|(name, _)| name.as_str()).collect();
    let (cache, web) = (format!("cache.{build}.tar"), format!("web.{build}.tar"));
    assert_eq!(names, ["build.json", &cache, &web, "rbuild.json", "log.txt"]);
    let text = String::from_utf8(members[0].1.clone()).unwrap();
    assert!(text.contains("\"description\": \"the \\u003cfirst\\u003e\""), "{text}");
    let said = app.run(&["builds", "import", "-a", "other", "-f", file.to_str().unwrap()]);
    assert_eq!(shown(&said), "Importing build... OK, RXXXXXXXXXX\n");
    let other = app.json(&["builds", "-a", "other", "--json"])[0]["id"].as_str().unwrap().to_owned();
    assert_ne!(other, build);
    assert_eq!(app.digests("other", &other), app.digests("myapp", &build));
    assert_eq!(
        app.run(&["builds", "logs", "-a", "other", &other]),
        app.run(&["builds", "logs", "-a", "myapp", &build])
    );
    // What Convox's own import does with each of them.
    for (name, bytes) in &members[1..3] {
        let path = app.bench.path(name);
        fs_err::write(&path, bytes).unwrap();
        let digest =
            peer("skopeo", &["inspect", "--format", "{{.Digest}}", &format!("oci-archive:{}", path.display())]);
        let service = name.split('.').next().unwrap();
        let digests = app.digests("myapp", &build);
        let ours = digests.iter().find(|(name, _)| name == service).unwrap();
        assert_eq!(digest.trim(), ours.1);
        let layout = app.bench.path("converted").display().to_string();
        peer(
            "skopeo",
            &[
                "copy",
                "-q",
                "--insecure-policy",
                &format!("oci-archive:{}", path.display()),
                &format!("oci:{layout}:{service}"),
            ],
        );
    }
}

#[test]
fn export_is_piped_into_import() {
    let app = app();
    let build = app.newest();
    let mut export = app.command(&["builds", "export", "-a", "myapp", &build]);
    let mut export = export.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let mut import = app.command(&["builds", "import", "-a", "piped", "--id"]);
    let imported = import.stdin(export.stdout.take().unwrap()).output().unwrap();
    assert!(export.wait().unwrap().success() && imported.status.success(), "{imported:?}");
    let release = String::from_utf8(imported.stdout).unwrap();
    assert!(release.len() == 11 && release.starts_with('R'), "{release}");
    let piped = app.json(&["builds", "-a", "piped", "--json"])[0]["id"].as_str().unwrap().to_owned();
    assert_eq!(app.digests("piped", &piped), app.digests("myapp", &build));
}

#[test]
fn an_incomplete_or_damaged_archive_is_refused() {
    let app = app();
    let file = exported(&app);
    let members = read_archive(&file);
    let at = members.iter().position(|(name, _)| name.starts_with("web.")).unwrap();
    let inner = self::members(members[at].1.as_slice());
    let blob = inner.iter().position(|(name, _)| name.starts_with("blobs/sha256/") && name.len() > 20).unwrap();
    let without = |inner: Members| {
        let mut members = members.clone();
        members[at].1 = tar_of(&inner);
        members
    };
    let cut =
        |name: &str| -> Members { members.iter().filter(|(known, _)| !known.starts_with(name)).cloned().collect() };
    let mut missing = inner.clone();
    missing.remove(blob);
    let mut damaged = inner.clone();
    damaged[blob].1[0] ^= 1;
    let mut empty = inner;
    empty.retain(|(name, _)| name != "index.json");
    let bad = app.bench.path("bad.tgz");
    for (what, members, told) in [
        ("a blob is missing", without(missing), "the archive is incomplete"),
        ("a blob is damaged", without(damaged), "the archive is damaged"),
        ("an index is missing", without(empty), "neither an OCI layout"),
        ("a service is missing", cut("web."), "the archive has no image for the service `web`"),
        ("no build.json", cut("build.json"), "the archive has no build.json"),
    ] {
        write_archive(&bad, &members);
        let run = app.try_run(&["builds", "import", "-a", "bad", "-f", bad.to_str().unwrap()]);
        assert!(
            run.code == 1 && run.stderr.starts_with("ERROR: ") && run.stderr.contains(told),
            "{what}: {}",
            run.stderr
        );
    }
    let whole = fs_err::read(&file).unwrap();
    for length in [0, 100, whole.len() / 2, whole.len() - 9] {
        fs_err::write(&bad, &whole[..length]).unwrap();
        let run = app.try_run(&["builds", "import", "-a", "bad", "-f", bad.to_str().unwrap()]);
        assert_eq!(run.code, 1, "cut at {length} of {}: {}", whole.len(), run.stdout);
    }
    assert_eq!(app.run(&["releases", "-a", "bad"]).lines().count(), 1);
}

#[test]
fn an_archive_of_the_second_version_is_read() {
    let app = app();
    let build = app.newest();
    let saved = app.bench.path("saved.tar");
    // One archive with the images of both services, by their tags, as `docker save` writes it.
    let layout = app.bench.path("layout");
    for (service, text) in [("web", "one"), ("cache", "two")] {
        app.file("x/Dockerfile", &format!("FROM {{busybox}}\nRUN echo {text} >/{service}\n"));
        let output = format!("type=oci,tar=false,dest={}", layout.display());
        app.run(&["build", "-f", "x/Dockerfile", "-t", &format!("repo/myapp:{service}.BOLD"), "-o", &output, "."]);
    }
    let mut merged = Members::new();
    let mut manifest = Vec::new();
    for service in ["web", "cache"] {
        fs_err::remove_file(&saved).ok();
        let (from, to) = (
            format!("oci:{}:{service}.BOLD", layout.display()),
            format!("docker-archive:{}:repo/myapp:{service}.BOLD", saved.display()),
        );
        peer("skopeo", &["copy", "-q", "--insecure-policy", &from, &to]);
        let archive =
            std::process::Command::new("tar").args(["xOf", saved.to_str().unwrap(), "manifest.json"]).output().unwrap();
        let entries: Vec<serde_json::Value> = serde_json::from_slice(&archive.stdout).unwrap();
        manifest.extend(entries);
        let members = members(fs_err::File::open(&saved).unwrap());
        merged.extend(
            members
                .into_iter()
                .filter(|(name, bytes)| !bytes.is_empty() && name != "manifest.json" && name != "repositories"),
        );
    }
    merged.push(("manifest.json".into(), serde_json::to_vec(&manifest).unwrap()));
    let record = json!({ "id": "BOLD", "app": "myapp", "manifest": with_bases("services:\n  web: {}\n  cache: {image: '{busybox}'}\n"), "started": "2019-01-01T00:00:00Z" });
    let file = app.bench.path("old.tgz");
    write_archive(
        &file,
        &vec![("build.json".into(), record.to_string().into_bytes()), ("myapp.BOLD.tar".into(), tar_of(&merged))],
    );
    app.run(&["builds", "import", "-a", "old", "-f", file.to_str().unwrap()]);
    assert_eq!(app.run(&["run", "-a", "old", "web", "cat", "/web"]), "one\n");
    assert_eq!(app.run(&["run", "-a", "old", "cache", "cat", "/cache"]), "two\n");
    assert_ne!(build, "BOLD");
}

#[test]
fn an_image_becomes_a_build() {
    let app = App::with("services:\n  web: {}\n  worker: {}\n");
    let place = app.push_to("image");
    let image = with_bases("{busybox}");
    let said = app.run(&["builds", "import-image", "-a", "myapp", &image]);
    expect_test::expect![[r"
        Creating build... OK, BXXXXXXXXXX
        Relaying image REGISTRY/library/busybox:latest... OK
        Waiting for import to complete... OK
        Creating release... OK, RXXXXXXXXXX
        Build:   BXXXXXXXXXX
        Release: RXXXXXXXXXX
    "]]
    .assert_eq(&shown(&said));
    let build = app.newest();
    let digest = |name: &str| {
        peer("skopeo", &["inspect", "--tls-verify=false", "--format", "{{.Digest}}", &format!("docker://{name}")])
    };
    assert_eq!(digest(&format!("{place}/myapp:worker.{build}")), digest(&image));
    let run = app.try_run(&["builds", "import-image", "-a", "myapp", "NO::image"]);
    assert!(run.code == 1 && run.stderr.starts_with("ERROR: "), "{}", run.stderr);
}
