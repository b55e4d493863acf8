//! Build contexts that are not a directory, and contexts with names.

use std::process::Stdio;

use crate::common::{Bench, Image, Run, peer};
use crate::server::{Server, commit, repository};

/// Builds with arguments of its own and nothing else.
fn run(bench: &Bench, arguments: &[&str], stdin: &[u8]) -> Run {
    let file = bench.path("stdin");
    fs_err::write(&file, stdin).unwrap();
    let mut command = bench.rbuild();
    command
        .args(["--progress", "plain"])
        .args(arguments)
        .stdin(Stdio::from(fs_err::File::open(&file).unwrap().into_parts().0));
    Run::of(&mut command)
}

/// The same, for the image.
fn image(bench: &Bench, arguments: &[&str], stdin: &[u8]) -> Image {
    let layout = bench.path("layout");
    if layout.exists() {
        fs_err::remove_dir_all(&layout).unwrap();
    }
    let output = format!("type=oci,tar=false,dest={}", layout.display());
    let run = run(bench, &[&["-o", output.as_str()], arguments].concat(), stdin);
    assert_eq!(run.code, 0, "{}", run.stderr);
    Image::read(&layout)
}

/// Nothing that a build needed for a while is left in the store.
fn left_nothing(bench: &Bench) {
    let tmp = bench.path("home/store-v1/tmp");
    let left: Vec<_> = fs_err::read_dir(tmp).unwrap().map(|entry| entry.unwrap().path()).collect();
    assert!(left.is_empty(), "{left:?}");
}

fn archive(bench: &Bench, flag: &str, name: &str) -> Vec<u8> {
    let (from, archive) = (bench.path("from"), bench.path(name));
    fs_err::create_dir_all(from.join("d")).unwrap();
    fs_err::write(from.join("Dockerfile"), "FROM scratch\nCOPY . /\n").unwrap();
    fs_err::write(from.join("d/Other"), "FROM scratch\nCOPY d/f /other\n").unwrap();
    fs_err::write(from.join("d/f"), "x").unwrap();
    fs_err::write(from.join(".dockerignore"), "Dockerfile\n**/Other\n.dockerignore\n").unwrap();
    peer(
        "tar",
        &["--owner=5", "--mode=go-w", "-C", from.to_str().unwrap(), flag, "-cf", archive.to_str().unwrap(), "."],
    );
    fs_err::read(archive).unwrap()
}

#[test]
fn the_names_that_podman_gives_are_read_where_docker_s_are_not_there() {
    let bench = Bench::new();
    bench.file("Containerfile", "FROM scratch\nCOPY . /\n");
    bench.file(".containerignore", "*\n!kept\n");
    for name in ["kept", "left"] {
        bench.file(name, "x");
    }
    assert_eq!(image(&bench, &["."], b"").top(), "- 0644 0:0 kept\n");
    let archive = bench.path("a.tar");
    peer("tar", &["-C", bench.context().to_str().unwrap(), "-cf", archive.to_str().unwrap(), "."]);
    assert!(image(&bench, &["-"], &fs_err::read(archive).unwrap()).top().ends_with(" kept\n"));
    bench.file("Dockerfile", "FROM scratch\nCOPY kept /from-dockerfile\n");
    assert_eq!(image(&bench, &["."], b"").top(), "- 0644 0:0 from-dockerfile\n");
}

#[test]
fn a_dockerfile_is_looked_for_where_rbuild_runs_then_in_the_context() {
    let bench = Bench::new();
    bench.file("app/ci/Dockerfile", "FROM scratch\nCOPY f /inside\n");
    bench.file("app/f", "x");
    assert_eq!(image(&bench, &["-f", "ci/Dockerfile", "app"], b"").top(), "- 0644 0:0 inside\n");
    bench.file("ci/Dockerfile", "FROM scratch\nCOPY f /outside\n");
    assert_eq!(image(&bench, &["-f", "ci/Dockerfile", "app"], b"").top(), "- 0644 0:0 outside\n");
}

#[test]
fn an_archive_on_standard_input_is_a_context() {
    for flag in ["-v", "-z", "-j", "-J", "--zstd"] {
        let bench = Bench::new();
        let bytes = archive(&bench, flag, "a.tar");
        let image = image(&bench, &["-"], &bytes);
        assert_eq!(image.top(), "d 0755 0:0 d\n- 0644 0:0 d/f\n", "{flag}");
        left_nothing(&bench);
    }
}

#[test]
fn a_dockerfile_inside_an_archive_can_be_named() {
    let bench = Bench::new();
    let bytes = archive(&bench, "-v", "a.tar");
    assert_eq!(image(&bench, &["-f", "d/Other", "-"], &bytes).top(), "- 0644 0:0 other\n");
    let missing = run(&bench, &["-f", "none", "-"], &bytes);
    assert!(missing.code == 1 && missing.stderr.contains("`none`"), "{}", missing.stderr);
}

#[test]
fn a_dockerfile_on_standard_input_needs_no_context() {
    let bench = Bench::new();
    let text = b"FROM scratch\nCOPY <<X /x\nhello\nX\n";
    assert_eq!(image(&bench, &["-"], text).text("x"), "hello\n");
    bench.file("f", "x");
    assert_eq!(image(&bench, &["-f", "-", "."], b"FROM scratch\nCOPY f /\n").top(), "- 0644 0:0 f\n");
    let empty = run(&bench, &["-"], b"FROM scratch\nCOPY f /\n");
    assert!(
        empty.code == 1 && empty.stderr.contains("no such file or directory in the build context"),
        "{}",
        empty.stderr
    );
    let twice = run(&bench, &["-f", "-", "-"], text);
    assert!(twice.code == 1 && twice.stderr.contains("both"), "{}", twice.stderr);
}

#[test]
fn an_archive_cannot_leave_its_directory() {
    let bench = Bench::new();
    let mut builder = tar::Builder::new(Vec::new());
    let mut header = tar::Header::new_gnu();
    header.set_size(1);
    header.set_mode(0o644);
    header.as_old_mut().name[..9].copy_from_slice(b"../../esc");
    header.set_cksum();
    builder.append(&header, &b"x"[..]).unwrap();
    let run = run(&bench, &["-"], &builder.into_inner().unwrap());
    assert!(
        run.code == 1 && run.stderr.contains("cannot unpack the build context from standard input"),
        "{}",
        run.stderr
    );
    assert!(!bench.path("home/esc").exists() && !bench.path("home/store-v1/esc").exists());
    left_nothing(&bench);
}

#[test]
fn a_git_repository_is_a_context() {
    let bench = Bench::new();
    let server = Server::start(&repository(&bench.path("")));
    let first = commit(&bench.path(""), "v1");
    for (suffix, listing, text) in [
        ("", "- 0644 0:0 f\n- 0644 0:0 g\n", "two"),
        ("#v1", "- 0644 0:0 f\n- 0644 0:0 g\n", "one"),
        ("?ref=refs/tags/v1", "- 0644 0:0 f\n- 0644 0:0 g\n", "one"),
        (&format!("#{first}"), "- 0644 0:0 f\n- 0644 0:0 g\n", "one"),
        ("?branch=main", "- 0644 0:0 f\n- 0644 0:0 g\n", "two"),
    ] {
        let image = image(&bench, &[&(server.url("/git/x.git") + suffix)], b"");
        assert_eq!((image.top().as_str(), image.text("f").as_str()), (listing, text), "{suffix}");
    }
    assert_eq!(image(&bench, &[&server.url("/git/x.git#main:sub")], b"").top(), "- 0644 0:0 g\n");
    left_nothing(&bench);
}

#[test]
fn a_git_repository_cannot_reach_this_machine() {
    let bench = Bench::new();
    let server = Server::start(&repository(&bench.path("")));
    for (arguments, code, message) in [
        (vec![server.url("/git/x.git#:out")], 1, "cannot use the directory `out`"),
        (vec![server.url("/git/x.git#:../x")], 2, "leads out of the repository"),
        (vec![server.url("/git/x.git#--upload-pack=true")], 2, "is not a ref"),
        (vec![server.url("/git/x.git#none")], 1, "has no ref `none`"),
        (vec!["-f".into(), "Evil".into(), server.url("/git/x.git")], 1, "no such file"),
        (vec!["file:///etc".into()], 2, "`file://`"),
    ] {
        let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
        let run = run(&bench, &arguments, b"");
        assert!(run.code == code && run.stderr.contains(message), "{arguments:?}: {} {}", run.code, run.stderr);
    }
    left_nothing(&bench);
}

#[test]
fn a_url_is_a_context() {
    let bench = Bench::new();
    let server = Server::start(&bench.path(""));
    server.page("/c.tgz", archive(&bench, "-z", "a.tgz"));
    server.page("/Dockerfile", "FROM scratch\nCOPY <<X /x\nhello\nX\n");
    assert_eq!(image(&bench, &[&server.url("/c.tgz")], b"").top(), "d 0755 0:0 d\n- 0644 0:0 d/f\n");
    assert_eq!(image(&bench, &["-f", "d/Other", &server.url("/c.tgz")], b"").top(), "- 0644 0:0 other\n");
    assert_eq!(image(&bench, &[&server.url("/Dockerfile")], b"").text("x"), "hello\n");
    assert_eq!(server.log(), ["GET /c.tgz 200", "GET /c.tgz 304", "GET /Dockerfile 200"]);
    let missing = run(&bench, &[&server.url("/none")], b"");
    assert!(missing.code == 1 && missing.stderr.contains("404"), "{}", missing.stderr);
}

#[test]
fn a_named_context_is_copied_from() {
    let bench = Bench::with("FROM scratch\nCOPY --from=other --exclude=drop /d/ /\n");
    for file in ["d/f", "d/drop", "d/ignored"] {
        let path = bench.path("other").join(file);
        fs_err::create_dir_all(path.parent().unwrap()).unwrap();
        fs_err::write(path, file).unwrap();
    }
    fs_err::write(bench.path("other/.dockerignore"), "d/ignored\n").unwrap();
    let value = format!("Other={}", bench.path("other").display());
    assert_eq!(bench.image(&["--build-context", &value]).top(), "- 0644 0:0 f\n");
    assert_eq!(bench.build(&["--build-context", &value]).cached(), 1);
    fs_err::write(bench.path("other/d/f"), "changed").unwrap();
    assert_eq!(bench.build(&["--build-context", &value]).cached(), 0);
}

#[test]
fn a_named_context_stands_in_for_an_image_and_a_stage() {
    let bench =
        Bench::with("FROM no.such.host/base AS a\nFROM a AS stage\nCOPY --from=stage2 f /f2\nFROM scratch AS stage2\n");
    fs_err::create_dir(bench.path("files")).unwrap();
    fs_err::write(bench.path("files/f"), "x").unwrap();
    let files = bench.path("files").display().to_string();
    let (base, stage) = (format!("no.such.host/base:latest={files}"), format!("stage2={files}"));
    let image = bench.image(&["--target", "stage", "--build-context", &base, "--build-context", &stage]);
    assert_eq!((image.layers.len(), image.top().as_str()), (2, "- 0644 0:0 f2\n"));
    assert_eq!(image.layers[0].keys().collect::<Vec<_>>(), ["f"]);
    let busybox = format!("no.such.host/base=docker-image://{}", crate::common::base("busybox:latest"));
    let image = bench.image(&["--target", "a", "--build-context", &busybox]);
    assert!(image.layers[0].contains_key("bin"), "{:?}", image.layers);
}

#[test]
fn a_named_context_stands_in_for_the_target_itself() {
    let bench = Bench::with("FROM no.such.host/base AS a\nRUN no-such-program\n");
    fs_err::create_dir(bench.path("files")).unwrap();
    fs_err::write(bench.path("files/f"), "x").unwrap();
    let files = format!("a={}", bench.path("files").display());
    assert_eq!(bench.image(&["--build-context", &files]).top(), "- 0644 0:0 f\n");
    let busybox = format!("A=docker-image://{}", crate::common::base("busybox:latest"));
    let image = bench.image(&["--target", "a", "--build-context", &busybox]);
    assert_eq!(image.layers.len(), 1);
    assert!(image.layers[0].contains_key("bin"), "{:?}", image.layers);
}

#[test]
fn git_and_archives_can_be_named_contexts() {
    let bench = Bench::with("FROM scratch\nCOPY --from=git f /\nCOPY --from=web d/f /web\n");
    let server = Server::start(&repository(&bench.path("")));
    server.page("/c.tgz", archive(&bench, "-z", "a.tgz"));
    let (git, web) = (format!("git={}", server.url("/git/x.git#v1")), format!("web={}", server.url("/c.tgz")));
    let image = bench.image(&["--build-context", &git, "--build-context", &web]);
    assert_eq!((image.text("f").as_str(), image.text("web").as_str()), ("one", "x"));
    left_nothing(&bench);
}

#[test]
fn an_oci_layout_is_an_image() {
    let bench = Bench::with("FROM {busybox}\nCOPY <<X /first\nx\nX\n");
    let layout = bench.path("in");
    bench.build(&["-t", "one.example/x:v1", "-o", &format!("type=oci,tar=false,dest={}", layout.display())]);
    bench.dockerfile(
        "FROM base\nRUN cat /first >/second\nFROM scratch\nCOPY --from=base /first /\nCOPY --from=0 /second /\n",
    );
    let index: serde_json::Value = serde_json::from_slice(&fs_err::read(layout.join("index.json")).unwrap()).unwrap();
    let digest = index["manifests"][0]["digest"].as_str().unwrap().to_owned();
    // Another store: the layers come from the layout.
    fs_err::remove_dir_all(bench.path("home")).unwrap();
    for suffix in [String::new(), format!("@{digest}")] {
        let value = format!("base=oci-layout://{}{suffix}", layout.display());
        let image = bench.image(&["--build-context", &value]);
        assert_eq!((image.text("first").as_str(), image.text("second").as_str()), ("x\n", "x\n"), "{suffix}");
    }
    let value = format!("base=oci-layout://{}:none", layout.display());
    let run = bench.try_build(&["--build-context", &value]);
    assert!(run.code == 4 && run.stderr.contains("no image `none`"), "{} {}", run.code, run.stderr);
    let arm = format!("base=oci-layout://{}", layout.display());
    let run = bench.try_build(&["--platform", "linux/arm64", "--build-context", &arm]);
    assert!(run.code != 0 && run.stderr.contains("no image for `linux/arm64`"), "{}", run.stderr);
}

#[test]
fn a_layout_whose_bytes_were_changed_is_refused() {
    let bench = Bench::with("FROM {busybox}\n");
    let layout = bench.path("in");
    bench.build(&["-o", &format!("type=oci,tar=false,dest={}", layout.display())]);
    let json =
        |path: &std::path::Path| -> serde_json::Value { serde_json::from_slice(&fs_err::read(path).unwrap()).unwrap() };
    let blob = |digest: &serde_json::Value| layout.join("blobs").join(digest.as_str().unwrap().replace(':', "/"));
    let manifest_path = blob(&json(&layout.join("index.json"))["manifests"][0]["digest"]);
    let layer = blob(&json(&manifest_path)["layers"][0]["digest"]);
    fs_err::remove_dir_all(bench.path("home")).unwrap();
    bench.dockerfile("FROM base\nRUN true\n");
    for path in [layer, manifest_path] {
        let mut bytes = fs_err::read(&path).unwrap();
        let last = bytes.len() - 5;
        bytes[last] ^= 1;
        fs_err::write(&path, bytes).unwrap();
        let run = bench.try_build(&["--build-context", &format!("base=oci-layout://{}", layout.display())]);
        assert_ne!(run.code, 0, "{}", run.stderr);
        assert!(run.stderr.contains("sha256:") || run.stderr.contains("malformed"), "{}", run.stderr);
    }
}

#[test]
fn the_time_of_a_context_fixes_that_of_the_image() {
    let bench = Bench::new();
    let server = Server::start(&repository(&bench.path("")));
    let given = ["--no-cache", "--build-arg", "SOURCE_DATE_EPOCH=context"];
    let created = |context: &str, stdin: &[u8]| {
        let image = image(&bench, &[&given[..], &[context]].concat(), stdin);
        image.config["created"].as_str().unwrap().to_owned()
    };
    let work = bench.path("work").display().to_string();
    let made = peer("git", &["-C", &work, "log", "-1", "--format=%ct", "v1"]);
    let made = peer("date", &["-u", &format!("--date=@{}", made.trim()), "+%FT%TZ"]);
    assert_eq!(created(&format!("{}#v1:sub", server.url("/git/x.git")), b""), made.trim());

    let from = bench.path("from");
    fs_err::create_dir(&from).unwrap();
    for (name, time) in [("Dockerfile", "@1000"), ("new", "@2000"), (".", "@500")] {
        if name != "." {
            fs_err::write(from.join(name), "FROM scratch\nCOPY new /\n").unwrap();
        }
        peer("touch", &["-d", time, from.join(name).to_str().unwrap()]);
    }
    let tar = bench.path("context.tar");
    peer("tar", &["-C", from.to_str().unwrap(), "-cf", tar.to_str().unwrap(), "."]);
    assert_eq!(created("-", &fs_err::read(tar).unwrap()), "1970-01-01T00:33:20Z");
    // A directory has no time: the image is as old as its build.
    assert!(created(from.to_str().unwrap(), b"").as_str() > "2020");
}

/// The log of a build, written into its context.
#[test]
fn a_file_that_grows_during_the_build_is_named() {
    let bench = Bench::with("FROM {busybox}\nRUN echo a line\nCOPY . /app\n");
    let log = fs_err::File::create(bench.context().join("build.log")).unwrap();
    let mut command = bench.rbuild();
    command.args(["--progress", "plain", "."]).stderr(log.into_parts().0);
    assert_eq!(command.status().unwrap().code(), Some(1));
    let told = fs_err::read_to_string(bench.context().join("build.log")).unwrap();
    assert!(told.contains("error: `build.log` in the build context changed while it was read"), "{told}");
    assert!(told.contains("belongs into .dockerignore"), "{told}");
}

#[test]
fn a_dockerfile_may_be_written_small() {
    let bench = Bench::with("FROM scratch\nCOPY f /capital\n");
    bench.file("f", "");
    bench.file("dockerfile", "FROM scratch\nCOPY f /small\n");
    let context = bench.context();
    let files = |image: Image| image.contents().keys().cloned().collect::<Vec<_>>();
    assert_eq!(files(image(&bench, &[context.to_str().unwrap()], b"")), ["capital"]);
    fs_err::remove_file(context.join("Dockerfile")).unwrap();
    assert_eq!(files(image(&bench, &[context.to_str().unwrap()], b"")), ["small"]);
    let archive = bench.path("small.tar");
    peer("tar", &["-C", context.to_str().unwrap(), "-cf", archive.to_str().unwrap(), "."]);
    assert_eq!(files(image(&bench, &["-"], &fs_err::read(archive).unwrap())), ["small"]);
}
