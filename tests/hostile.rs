//! Images whose layers mean harm, from a registry: refused or unpacked inside, and nothing outside the store changes.

use std::io::Write;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::Stdio;

use serde_json::{Value, json};
use snapshot::digest::sha256;

use crate::common::{Bench, Run, peer, registry};

/// The most memory that a build may take, in KiB: the oracle's 512 MiB.
const MEMORY: u64 = 512 << 10;

/// A layer, put together header by header.
#[derive(Default, Clone)]
struct Layer(Vec<u8>);

impl Layer {
    fn raw(mut self, kind: u8, name: &[u8], target: &str, content: &[u8]) -> Self {
        let mut header = tar::Header::new_ustar();
        header.as_mut_bytes()[..name.len()].copy_from_slice(name);
        header.set_entry_type(tar::EntryType::new(kind));
        header.set_mode(if kind == b'5' { 0o755 } else { 0o4777 });
        header.set_uid(0);
        header.set_gid(0);
        header.set_mtime(0);
        header.set_size(content.len() as u64);
        if !target.is_empty() {
            header.set_link_name_literal(target).unwrap();
        }
        if kind == b'3' {
            header.set_device_major(0).unwrap();
            header.set_device_minor(0).unwrap();
        }
        header.set_cksum();
        self.0.extend(header.as_bytes());
        self.0.extend(content);
        self.0.resize(self.0.len().next_multiple_of(512), 0);
        self
    }

    fn file(self, name: &str, content: &str) -> Self {
        self.raw(b'0', name.as_bytes(), "", content.as_bytes())
    }

    fn directory(self, name: &str) -> Self {
        self.raw(b'5', name.as_bytes(), "", b"")
    }

    fn symlink(self, name: &str, target: &str) -> Self {
        self.raw(b'2', name.as_bytes(), target, b"")
    }

    fn link(self, name: &str, target: &str) -> Self {
        self.raw(b'1', name.as_bytes(), target, b"")
    }

    fn pax(self, key: &str, value: &str) -> Self {
        let rest = key.len() + value.len() + 3;
        let length = (rest + 1..rest + 9).find(|length| length.to_string().len() + rest == *length).unwrap();
        self.raw(b'x', b"PaxHeaders", "", format!("{length} {key}={value}\n").as_bytes())
    }
}

/// Writes a blob of a layout; returns its descriptor.
fn blob(layout: &Path, media_type: &str, bytes: &[u8]) -> Value {
    let digest = sha256(bytes);
    fs_err::write(layout.join("blobs/sha256").join(digest.digest()), bytes).unwrap();
    json!({ "mediaType": media_type, "digest": digest.to_string(), "size": bytes.len() })
}

/// Pushes an image of these layers; returns its name.
fn push(bench: &Bench, name: &str, layers: &[Layer]) -> String {
    let layout = bench.path("hostile");
    if layout.exists() {
        fs_err::remove_dir_all(&layout).unwrap();
    }
    fs_err::create_dir_all(layout.join("blobs/sha256")).unwrap();
    let (mut blobs, mut diff_ids) = (Vec::new(), Vec::new());
    for layer in layers {
        let tar = [layer.0.as_slice(), &[0; 1024]].concat();
        diff_ids.push(blob(&layout, "", &tar)["digest"].clone());
        let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        gzip.write_all(&tar).unwrap();
        blobs.push(blob(&layout, "application/vnd.oci.image.layer.v1.tar+gzip", &gzip.finish().unwrap()));
    }
    let config = json!({ "architecture": "amd64", "os": "linux", "config": {},
        "rootfs": { "type": "layers", "diff_ids": diff_ids } });
    let config = blob(&layout, "application/vnd.oci.image.config.v1+json", config.to_string().as_bytes());
    let media_type = "application/vnd.oci.image.manifest.v1+json";
    let manifest = json!({ "schemaVersion": 2, "mediaType": media_type, "config": config, "layers": blobs });
    let manifest = blob(&layout, media_type, manifest.to_string().as_bytes());
    let index = json!({ "schemaVersion": 2, "manifests": [manifest] });
    fs_err::write(layout.join("index.json"), index.to_string()).unwrap();
    fs_err::write(layout.join("oci-layout"), r#"{"imageLayoutVersion":"1.0.0"}"#).unwrap();
    let reference = format!("{}/hostile-{}/{name}:1", registry(), std::process::id());
    let (from, to) = (format!("oci:{}", layout.display()), format!("docker://{reference}"));
    peer("skopeo", &["copy", "-q", "--dest-tls-verify=false", &from, &to]);
    reference
}

/// Everything about the files that nobody may touch.
fn look(outside: &Path) -> Vec<(PathBuf, u64, u32, u64, i64, Vec<u8>)> {
    let mut seen = Vec::new();
    for path in [outside.to_owned(), outside.join("secret"), outside.join("d"), crate::common::RBUILD.into()] {
        let metadata = fs_err::symlink_metadata(&path).unwrap();
        let content = if path.ends_with("secret") { fs_err::read(&path).unwrap() } else { Vec::new() };
        seen.push((path, metadata.nlink(), metadata.mode(), metadata.len(), metadata.ctime(), content));
    }
    seen
}

/// Builds, and watches how much memory that takes.
fn build(bench: &Bench) -> (Run, u64) {
    let (log, out) = (bench.path("log"), bench.path("out"));
    if out.exists() {
        fs_err::remove_dir_all(&out).unwrap();
    }
    let mut command = bench.rbuild();
    command.args(["--progress", "plain", "-o"]).arg(format!("type=local,dest={}", out.display())).arg(".");
    let stderr = fs_err::File::create(&log).unwrap().into_parts().0;
    let mut child = command.stdout(Stdio::null()).stderr(stderr).spawn().unwrap();
    let mut most = 0;
    let status = loop {
        let status = fs_err::read_to_string(format!("/proc/{}/status", child.id())).unwrap_or_default();
        let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
        let peak = peak.and_then(|peak| peak.trim().trim_end_matches(" kB").parse::<u64>().ok());
        most = most.max(peak.unwrap_or(0));
        if let Some(status) = child.try_wait().unwrap() {
            break status;
        }
        std::thread::sleep(std::time::Duration::from_millis(2));
    };
    let stderr = String::from_utf8_lossy(&fs_err::read(&log).unwrap()).into_owned();
    (Run { code: status.code().unwrap_or(-1), stdout: String::new(), stderr }, most)
}

/// Files and what they hold, as the image shows them.
type Shown = &'static [(&'static str, &'static str)];

/// What comes of each image: nothing where it is refused.
fn cases() -> Vec<(&'static str, Vec<Layer>, Option<Shown>)> {
    let layer = Layer::default;
    let base = || layer().directory("d").file("d/base", "base");
    vec![
        ("dots", vec![layer().file("../outside/secret", "x")], None),
        ("dots-below", vec![base(), layer().file("d/../../../outside/secret", "x")], None),
        ("absolute", vec![layer().file("/outside/secret", "x")], Some(&[("outside/secret", "x")])),
        ("link-then-file", vec![layer().symlink("l", "/").file("l/outside", "x")], Some(&[("outside", "x")])),
        ("link-below", vec![layer().symlink("l", "../../../.."), layer().file("l/f", "x")], Some(&[("f", "x")])),
        ("chain", vec![layer().symlink("a", "b/..").symlink("b", "/").file("a/f", "x")], Some(&[("f", "x")])),
        ("loop", vec![layer().symlink("a", "b").symlink("b", "a").file("a/f", "x")], None),
        ("hard-link-out", vec![layer().link("l", "../outside/secret")], None),
        ("hard-link-absolute", vec![base(), layer().link("l", "/d/base")], Some(&[("l", "base"), ("d/base", "base")])),
        (
            "hard-link-to-link",
            vec![layer().symlink("s", "/etc/passwd").link("l", "s").file("l", "x")],
            Some(&[("l", "x")]),
        ),
        ("hard-link-below", vec![base(), layer().symlink("d2", "/d").link("l", "d2/base")], Some(&[("l", "base")])),
        ("whiteout-dots", vec![base(), layer().file("d/.wh...", "")], None),
        ("whiteout-up", vec![base(), layer().file("d/../../.wh.outside", "")], None),
        ("whiteout-link", vec![base(), layer().symlink("o", "/d").file("o/.wh.base", "")], Some(&[])),
        ("opaque-link", vec![base(), layer().symlink("o", "/d").file("o/.wh..wh..opq", "")], None),
        // The size of the PAX header counts (CVE-2025-62518): what follows is content.
        ("smuggled-size", vec![layer().pax("size", "512").file("outer", "").file("smuggled", "")], Some(&[])),
        ("smuggled-path", vec![layer().pax("path", "../outside/secret").file("a", "x")], None),
        ("malformed-pax", vec![layer().raw(b'x', b"p", "", b"99 path=a\n").file("a", "x")], None),
        ("long-name-out", vec![layer().raw(b'L', b"././@LongLink", "", b"../outside/secret\0").file("a", "x")], None),
        (
            "overlay-marks",
            vec![base(), marks(layer()).directory("d").file("d/new", "new")],
            Some(&[("d/base", "base"), ("d/new", "new")]),
        ),
        ("owner-mark", vec![layer().pax("SCHILY.xattr.user.rbuild.owner", "1:1").file("f", "f")], Some(&[("f", "f")])),
        ("device-zero", vec![base(), layer().raw(b'3', b"d/base", "", b"")], Some(&[("d/base", "base")])),
        ("dots-inside", vec![layer().directory("a").file("a/../b", "x")], Some(&[("b", "x")])),
        ("many-dots", vec![layer().file("./././a/./b", "x")], Some(&[("a/b", "x")])),
    ]
}

fn marks(layer: Layer) -> Layer {
    let marked = layer.pax("SCHILY.xattr.trusted.overlay.opaque", "y").directory("d");
    marked.pax("SCHILY.xattr.user.overlay.opaque", "y")
}

#[test]
fn hostile_layers_change_nothing_outside() {
    let bench = Bench::new();
    // What `..` leads to from wherever a layer is unpacked, by name.
    let outside = bench.path("outside");
    fs_err::create_dir_all(outside.join("d")).unwrap();
    fs_err::write(outside.join("secret"), "canary").unwrap();
    bench.file("f", "copied");
    let before = look(&outside);
    for (name, layers, expected) in cases() {
        let image = push(&bench, name, &layers);
        bench.dockerfile(&format!("FROM {image}\nCOPY f /copied\n"));
        let (run, memory) = build(&bench);
        assert!(memory < MEMORY, "{name}: {memory} KiB");
        assert_eq!(look(&outside), before, "{name}");
        let out = bench.path("out");
        if let Some(shown) = expected {
            assert_eq!(run.code, 0, "{name}: {}", run.stderr);
            assert!(!out.join("smuggled").exists(), "{name}");
            for (path, content) in shown.iter().chain(&[("copied", "copied")]) {
                assert_eq!(fs_err::read_to_string(out.join(path)).unwrap(), *content, "{name}: {path}");
            }
        } else {
            assert_eq!(run.code, 1, "{name}: {}", run.stderr);
            assert!(run.stderr.contains("error: ") && !run.stderr.contains("panicked"), "{name}: {}", run.stderr);
        }
        let verified = Run::of(bench.rbuild().args(["cache", "verify"]));
        assert_eq!(verified.code, 0, "{name}: {}", verified.stdout);
        bench.assert_clean();
    }
}
