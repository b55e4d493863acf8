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
