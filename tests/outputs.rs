//! Where an image goes, and peers that read it there.

use serde_json::{Value, json};

use crate::common::{Bench, Image, Run, peer, registry};

const DOCKERFILE: &str =
    "FROM {busybox}\nRUN mkdir /d && echo x >/d/f && chown 7:8 /d/f\nCOPY c /c\nCMD [\"/bin/cat\", \"/d/f\"]\n";

fn bench() -> Bench {
    let bench = Bench::with(DOCKERFILE);
    bench.file("c", "copied");
    bench
}

#[test]
fn an_oci_layout_is_read_by_skopeo_and_umoci() {
    let bench = bench();
    let layout = bench.path("out");
    bench.build(&["-t", "x/y:1.2", "-o", &format!("type=oci,tar=false,dest={}", layout.display())]);
    let source = format!("oci:{}:1.2", layout.display());
    let inspected: Value = serde_json::from_str(&peer("skopeo", &["inspect", &source])).unwrap();
    assert_eq!(inspected["Layers"].as_array().unwrap().len(), 3);
    peer("skopeo", &["copy", "-q", "--insecure-policy", &source, &format!("dir:{}", bench.path("dir").display())]);
    let bundle = bench.path("bundle");
    peer("umoci", &["unpack", "--image", &format!("{}:1.2", layout.display()), bundle.to_str().unwrap()]);
    let file = bundle.join("rootfs/d/f");
    assert_eq!(fs_err::read_to_string(&file).unwrap(), "x\n");
    let metadata = std::os::unix::fs::MetadataExt::uid(&fs_err::metadata(&file).unwrap());
    assert_eq!(metadata, 7);
}

#[test]
fn archives_are_read_by_skopeo() {
    let bench = bench();
    for (kind, transport) in [("oci", "oci-archive"), ("docker", "docker-archive")] {
        let file = bench.path(kind);
        bench.build(&["-t", "x/y:1", "-o", &format!("type={kind},dest={}", file.display())]);
        let copy = format!("dir:{}", bench.path(&format!("{kind}.dir")).display());
        peer("skopeo", &["copy", "-q", "--insecure-policy", &format!("{transport}:{}", file.display()), &copy]);
    }
}

#[test]
fn archives_go_to_standard_output_and_nothing_else_does() {
    let bench = bench();
    let mut command = bench.rbuild();
    let output = command.args(["-o", "type=oci,dest=-", "."]).output().unwrap();
    let mut archive = tar::Archive::new(output.stdout.as_slice());
    assert!(archive.entries().unwrap().any(|entry| entry.unwrap().path().unwrap().ends_with("index.json")));
}

#[test]
fn the_root_file_system_is_written_as_files_and_as_tar() {
    let bench = bench();
    let directory = bench.path("root");
    bench.build(&["-o", &format!("type=local,dest={}", directory.display())]);
    assert_eq!(fs_err::read_to_string(directory.join("c")).unwrap(), "copied");
    let owner = std::os::unix::fs::MetadataExt::gid(&fs_err::metadata(directory.join("d/f")).unwrap());
    assert_eq!(owner, 8);
    let archive = bench.path("root.tar");
    bench.build(&["-o", &format!("type=tar,dest={}", archive.display())]);
    let listed = peer("tar", &["-tvf", archive.to_str().unwrap(), "d/f", "c", "bin/busybox"]);
    assert!(listed.contains("7/8") && listed.contains("bin/busybox"), "{listed}");
}

#[test]
fn hard_links_stay_hard_links_in_the_root_file_system() {
    use std::os::unix::fs::MetadataExt;
    let bench =
        Bench::with("FROM {busybox}\nRUN mkdir /d && echo x >/d/a && ln /d/a /d/b && ln /d/a /d/c\nRUN rm /d/a\n");
    let directory = bench.path("root");
    // The second time there are files already.
    for _ in 0..2 {
        bench.build(&["-o", &format!("type=local,dest={}", directory.display())]);
        let inode = |name: &str| fs_err::metadata(directory.join(name)).unwrap().ino();
        assert_eq!(inode("d/b"), inode("d/c"));
    }
    let archive = bench.path("root.tar");
    bench.build(&["-o", &format!("type=tar,dest={}", archive.display())]);
    let listed = peer("tar", &["-tvf", archive.to_str().unwrap(), "d"]);
    assert!(listed.contains("d/c link to d/b"), "{listed}");
}

#[test]
fn a_layout_collects_images() {
    let bench = bench();
    let output = format!("type=oci,tar=false,dest={}", bench.path("all").display());
    for tag in ["a:1", "a:2", "a:1"] {
        bench.build(&["-t", tag, "-o", &output]);
    }
    let index: Value = serde_json::from_slice(&fs_err::read(bench.path("all/index.json")).unwrap()).unwrap();
    assert_eq!(index["manifests"].as_array().unwrap().len(), 2);
}

#[test]
fn a_pushed_image_is_the_registry_s() {
    let bench = bench();
    let tag = format!("{}/outputs/pushed:1", registry());
    bench.build(&[
        "-t",
        &tag,
        "--push",
        "--metadata-file",
        bench.path("meta").to_str().unwrap(),
        "--iidfile",
        bench.path("id").to_str().unwrap(),
    ]);
    let metadata: Value = serde_json::from_slice(&fs_err::read(bench.path("meta")).unwrap()).unwrap();
    let inspect = ["inspect", "--tls-verify=false", &format!("docker://{tag}")];
    let inspected: Value = serde_json::from_str(&peer("skopeo", &inspect)).unwrap();
    assert_eq!(inspected["Digest"], metadata["containerimage.digest"]);
    assert_eq!(metadata["image.name"], json!(tag));
    assert_eq!(json!(fs_err::read_to_string(bench.path("id")).unwrap()), metadata["containerimage.config.digest"]);
    // And it is a base for the next build, by tag and by digest.
    let digest = inspected["Digest"].as_str().unwrap();
    for from in [tag.clone(), format!("{tag}@{digest}")] {
        let next = Bench::with(&format!("FROM {from}\nRUN cat /c /d/f >/both\n"));
        assert_eq!(next.image(&[]).text("both"), "copiedx\n");
    }
}

#[test]
fn a_pushed_image_runs() {
    let bench = bench();
    let tag = format!("{}/outputs/runs:1", registry());
    bench.build(&["-t", &tag, "--push"]);
    assert_eq!(crate::real::run_image(&bench, &tag), "x\n");
}

/// The media types of the layers of the image in a layout, and the digest of its manifest.
fn media_types(layout: &std::path::Path) -> (Vec<String>, String) {
    let json = |path: &str| -> Value { serde_json::from_slice(&fs_err::read(layout.join(path)).unwrap()).unwrap() };
    let digest = json("index.json")["manifests"][0]["digest"].as_str().unwrap().to_owned();
    let manifest = json(&format!("blobs/{}", digest.replace(':', "/")));
    let layers = manifest["layers"].as_array().unwrap();
    let types = layers.iter().map(|layer| {
        let name = layer["mediaType"].as_str().unwrap();
        name.strip_prefix("application/vnd.oci.image.layer.v1.").unwrap().to_owned()
    });
    (types.collect(), digest)
}

#[test]
fn layers_are_compressed_as_asked_whatever_the_cache_has() {
    let bench = bench();
    let build = |name: &str, options: &str, cached: usize| {
        let layout = bench.path(name);
        let run =
            bench.build(&["-t", "x/y:1", "-o", &format!("type=oci,tar=false,dest={}{options}", layout.display())]);
        assert_eq!(run.cached(), cached, "{name}: {}", run.stderr);
        media_types(&layout)
    };
    let gzip = build("gzip", "", 0);
    assert_eq!(gzip.0, ["tar+gzip"; 3]);
    // The base keeps its bytes; no step runs again.
    let zstd = build("zstd", ",compression=zstd", 2);
    assert_eq!(zstd.0, ["tar+gzip", "tar+zstd", "tar+zstd"]);
    assert_eq!(build("plain", ",compression=uncompressed", 2).0, ["tar+gzip", "tar", "tar"]);
    let nine = build("nine", ",compression=gzip,compression-level=1", 2);
    assert!(nine.0 == gzip.0 && nine.1 != gzip.1);
    assert_eq!(build("again", "", 2), gzip);
    assert_eq!(build("zstd-again", ",compression=zstd", 2), zstd);
    // The base too, where that is asked for, and only what is compressed otherwise.
    let forced = build("forced", ",compression=zstd,force-compression=true", 2);
    assert_eq!(forced.0, ["tar+zstd"; 3]);
    assert_eq!(build("forced-again", ",compression=zstd,force-compression=true", 2), forced);
    assert_eq!(build("forced-gzip", ",force-compression=true", 2), gzip);
    let layout = bench.path("by-flag");
    let output = format!("type=oci,tar=false,dest={}", layout.display());
    bench.build(&["-t", "x/y:1", "-o", &output, "--compression", "zstd", "--compression-level", "1"]);
    assert_eq!(media_types(&layout), zstd);
}

/// The files of the base are the same, however they are compressed.
#[test]
fn a_base_that_was_compressed_anew_is_pushed_and_read_by_podman() {
    let bench = bench();
    let tag = format!("{}/outputs/forced:1", registry());
    bench.build(&["-t", &tag, "-o", "type=registry,compression=uncompressed,force-compression=true"]);
    assert_eq!(crate::real::run_image(&bench, &tag), "x\n");
}

/// The umoci of Debian 12 (0.4.7) refuses the media type, whoever made the layer.
#[test]
fn zstd_layers_are_read_by_skopeo_and_podman() {
    let bench = bench();
    let layout = bench.path("out");
    bench.build(&["-t", "x/y:1", "-o", &format!("type=oci,tar=false,dest={},compression=zstd", layout.display())]);
    let source = format!("oci:{}:1", layout.display());
    peer("skopeo", &["copy", "-q", "--insecure-policy", &source, &format!("dir:{}", bench.path("dir").display())]);
    let archive = bench.path("docker.tar");
    bench.build(&["-t", "x/y:1", "-o", &format!("type=docker,dest={},compression=zstd", archive.display())]);
    let copy = format!("dir:{}", bench.path("docker.dir").display());
    peer("skopeo", &["copy", "-q", "--insecure-policy", &format!("docker-archive:{}", archive.display()), &copy]);
    let tag = format!("{}/outputs/zstd:1", registry());
    bench.build(&["-t", &tag, "-o", "type=registry,compression=zstd"]);
    let (storage, state) = (bench.path("storage"), bench.path("state"));
    let podman = |arguments: &[&str]| {
        let own =
            ["--root", storage.to_str().unwrap(), "--runroot", state.to_str().unwrap(), "--storage-driver", "vfs"];
        peer("podman", &[&own, arguments].concat())
    };
    podman(&["pull", "-q", "--tls-verify=false", &tag]);
    let root = std::path::PathBuf::from(podman(&["image", "mount", &tag]).trim());
    assert_eq!(fs_err::read_to_string(root.join("d/f")).unwrap(), "x\n");
    podman(&["image", "umount", &tag]);
    // A base with zstd layers.
    let next = Bench::with(&format!("FROM {tag}\nRUN cat /c /d/f >/both\n"));
    let root = next.path("root");
    next.build(&["-o", root.to_str().unwrap()]);
    assert_eq!(fs_err::read_to_string(root.join("both")).unwrap(), "copiedx\n");
}

#[test]
fn quiet_prints_the_digest_alone() {
    let bench = bench();
    let run = Run::of(bench.rbuild().args(["-q", "-t", "q:1", "."]));
    assert_eq!((run.code, run.stderr.as_str()), (0, ""));
    assert!(run.stdout.starts_with("sha256:") && run.stdout.lines().count() == 1, "{}", run.stdout);
    let images = Run::of(bench.rbuild().args(["images", "--json"]));
    let images: Value = serde_json::from_str(&images.stdout).unwrap();
    assert_eq!(images[0]["manifest"]["digest"], json!(run.stdout.trim()));
}

#[test]
fn events_are_json_objects_one_a_line() {
    let bench = bench();
    let run = Run::of(bench.rbuild().args(["--progress", "json", "."]));
    let events: Vec<Value> = run.stderr.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert!(events.iter().any(|event| event["event"] == "started"));
    assert!(events.iter().any(|event| event["event"] == "finished"));
}

#[test]
fn a_target_without_layers_is_an_image_too() {
    let image: Image = Bench::with("FROM scratch\nLABEL a=b\n").image(&[]);
    assert_eq!(image.layers.len(), 0);
}

#[test]
fn what_cannot_be_written_is_said_before_the_steps() {
    let bench = Bench::with("FROM {busybox}\nRUN true\n");
    for (arguments, told) in [
        (&["-o", "type=oci,dest=none/x.tar"][..], "cannot write `none/x.tar`"),
        (&["-o", "type=tar,dest=."], "cannot write `.`"),
        (&["--iidfile", "none/id"], "cannot write the --iidfile"),
        (&["--metadata-file", "none/meta.json"], "cannot write the --metadata-file"),
    ] {
        let run = bench.try_build(arguments);
        assert!(run.code == 1 && run.stderr.contains(told), "{arguments:?}: {}", run.stderr);
        assert!(!run.stderr.contains("RUN true"), "{}", run.stderr);
    }
}
