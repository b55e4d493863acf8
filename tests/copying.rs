//! COPY and ADD: which files land where, and how.

use std::os::unix::fs::{FileExt, PermissionsExt, symlink};

use crate::common::{Bench, peer, show};
use crate::server::{Page, Server, commit, repository};

#[test]
fn destinations_follow_the_rules() {
    for (instruction, listing) in [
        ("COPY a /x", "- 0644 0:0 x\n"),
        ("COPY a /x/", "d 0755 0:0 x\n- 0644 0:0 x/a\n"),
        ("COPY a b /x/", "d 0755 0:0 x\n- 0644 0:0 x/a\n- 0644 0:0 x/b\n"),
        ("COPY dir /x", "d 0750 0:0 x\n- 0644 0:0 x/c\nd 0755 0:0 x/sub\n- 0644 0:0 x/sub/d\n"),
        ("COPY dir /x/", "d 0755 0:0 x\n- 0644 0:0 x/c\nd 0755 0:0 x/sub\n- 0644 0:0 x/sub/d\n"),
        ("COPY a* /x/", "d 0755 0:0 x\n- 0644 0:0 x/a\n- 0644 0:0 x/ab\n"),
        ("COPY [\"a\", \"/with space/\"]", "d 0755 0:0 with space\n- 0644 0:0 with space/a\n"),
        ("WORKDIR /w\nCOPY a .", "d 0755 0:0 w\n- 0644 0:0 w/a\n"),
        ("COPY /dir/../a /x", "- 0644 0:0 x\n"),
        ("COPY link /x", "- 0644 0:0 x\n"),
        ("COPY links /x", "d 0755 0:0 x\nl 0777 0:0 x/inner -> ../a\n"),
        ("COPY --chown=1:2 --chmod=0600 a /x/y", "d 0755 1:2 x\n- 0600 1:2 x/y\n"),
        ("COPY --chown=7 dir/c /x", "- 0644 7:7 x\n"),
        ("COPY --link a /x", "- 0644 0:0 x\n"),
        ("COPY --chmod=u=rwX,go=rX dir/sub /x", "d 0755 0:0 x\n- 0644 0:0 x/d\n"),
        ("COPY --chmod=+x,o= a /x", "- 0750 0:0 x\n"),
        ("COPY --exclude=c dir /x", "d 0750 0:0 x\nd 0755 0:0 x/sub\n- 0644 0:0 x/sub/d\n"),
        ("COPY --exclude=sub dir /x", "d 0750 0:0 x\n- 0644 0:0 x/c\n"),
        (
            "COPY --exclude=sub --exclude=!sub/d dir /x/",
            "d 0755 0:0 x\n- 0644 0:0 x/c\nd 0755 0:0 x/sub\n- 0644 0:0 x/sub/d\n",
        ),
        ("COPY --exclude=*b a* /x/", "d 0755 0:0 x\n- 0644 0:0 x/a\n"),
        ("ADD --exclude=**/d dir /x/", "d 0755 0:0 x\n- 0644 0:0 x/c\nd 0755 0:0 x/sub\n"),
        (
            "COPY --parents dir/sub/d /x",
            "d 0755 0:0 x\nd 0750 0:0 x/dir\nd 0755 0:0 x/dir/sub\n- 0644 0:0 x/dir/sub/d\n",
        ),
        ("COPY --parents a dir/./sub/d /x/", "d 0755 0:0 x\n- 0644 0:0 x/a\nd 0755 0:0 x/sub\n- 0644 0:0 x/sub/d\n"),
        ("COPY --parents ./**/d /", "d 0750 0:0 dir\nd 0755 0:0 dir/sub\n- 0644 0:0 dir/sub/d\n"),
        (
            "COPY --parents --exclude=**/d dir /x/",
            "d 0755 0:0 x\nd 0750 0:0 x/dir\n- 0644 0:0 x/dir/c\nd 0755 0:0 x/dir/sub\n",
        ),
        ("COPY --parents --chmod=0700 --chown=1:2 dir/c /x/", "d 0755 1:2 x\nd 0700 1:2 x/dir\n- 0700 1:2 x/dir/c\n"),
        ("ADD a /x", "- 0644 0:0 x\n"),
    ] {
        let bench = Bench::with(&format!("FROM scratch\n{instruction}\n"));
        for file in ["a", "ab", "b", "dir/c", "dir/sub/d"] {
            fs_err::set_permissions(bench.file(file, file), PermissionsExt::from_mode(0o644)).unwrap();
        }
        for (directory, mode) in [("dir", 0o750), ("dir/sub", 0o755), ("links", 0o755)] {
            fs_err::create_dir_all(bench.context().join(directory)).unwrap();
            fs_err::set_permissions(bench.context().join(directory), PermissionsExt::from_mode(mode)).unwrap();
        }
        symlink("a", bench.context().join("link")).unwrap();
        symlink("../a", bench.context().join("links/inner")).unwrap();
        assert_eq!(bench.image(&[]).top(), listing, "{instruction}");
    }
}

#[test]
fn a_copy_onto_a_base_leaves_what_is_there_alone() {
    let bench = Bench::with("FROM {busybox}\nCOPY f /tmp/\nCOPY f /root/new/f\n");
    bench.file("f", "x");
    let image = bench.image(&[]);
    assert_eq!(show(&image.layers[1]), "d 1777 0:0 tmp\n- 0644 0:0 tmp/f\n");
    assert_eq!(image.top(), "d 0700 0:0 root\nd 0755 0:0 root/new\n- 0644 0:0 root/new/f\n");
}

#[test]
fn a_destination_that_is_a_link_is_followed_inside_the_image() {
    let bench = Bench::with(
        "FROM {busybox}\nRUN mkdir /real && ln -s /real /link && ln -s /etc /out\nCOPY f /link/\nCOPY f /out/sub/f\n",
    );
    bench.file("f", "x");
    let image = bench.image(&[]);
    assert_eq!(show(&image.layers[2]), "d 0755 0:0 real\n- 0644 0:0 real/f\n");
    assert_eq!(image.top(), "d 0755 0:0 etc\nd 0755 0:0 etc/sub\n- 0644 0:0 etc/sub/f\n");
}

#[test]
fn copying_from_a_stage_keeps_owners_links_and_attributes() {
    let bench = Bench::with(
        "FROM {busybox} AS a\nRUN mkdir /o && echo x >/o/f && chown 3:4 /o/f && chmod 4755 /o/f && ln -s f /o/l\n\
         FROM scratch\nCOPY --from=a /o /copy\nCOPY --from=0 /o/f /o/optional* /one/\n",
    );
    let image = bench.image(&[]);
    assert_eq!(show(&image.layers[0]), "d 0755 0:0 copy\n- 4755 3:4 copy/f\nl 0777 0:0 copy/l -> f\n");
    assert_eq!(image.top(), "d 0755 0:0 one\n- 4755 3:4 one/f\n");
}

#[test]
fn parents_and_exclusions_work_on_stages() {
    let bench = Bench::with(
        "FROM {busybox} AS a\nRUN mkdir -p /o/p/q && chmod 700 /o/p && echo x >/o/p/q/f && echo x >/o/p/g && ln -s p /o/l\n\
         FROM scratch\nCOPY --from=a --parents /o/./p/q/f /one/\nCOPY --from=a --exclude=p/q --exclude=l /o /two\n\
         COPY --from=a --parents /o/**/f /\n",
    );
    let image = bench.image(&[]);
    let shown: Vec<String> = image.layers.iter().map(show).collect();
    assert_eq!(shown[0], "d 0755 0:0 one\nd 0700 0:0 one/p\nd 0755 0:0 one/p/q\n- 0644 0:0 one/p/q/f\n");
    assert_eq!(shown[1], "d 0755 0:0 two\nd 0700 0:0 two/p\n- 0644 0:0 two/p/g\n");
    assert_eq!(shown[2], "d 0755 0:0 o\nd 0700 0:0 o/p\nd 0755 0:0 o/p/q\n- 0644 0:0 o/p/q/f\n");
}

#[test]
fn parents_of_what_is_not_there_are_an_error() {
    for (instruction, from) in
        [("COPY --parents dir/missing /", "build context"), ("COPY --parents l/f /", "build context")]
    {
        let bench = Bench::with(&format!("FROM scratch\n{instruction}\n"));
        bench.file("dir/f", "x");
        symlink("dir", bench.context().join("l")).unwrap();
        let run = bench.try_build(&[]);
        assert!(run.code == 1 && run.stderr.contains(from), "{instruction}: {}", run.stderr);
    }
}

#[test]
fn a_linked_copy_is_the_same_layer_on_every_base() {
    let bench = Bench::with("FROM {busybox}\nCOPY --link f /etc/new/f\n");
    bench.file("f", "x");
    let first = bench.image(&[]);
    assert_eq!(first.top(), "d 0755 0:0 etc\nd 0755 0:0 etc/new\n- 0644 0:0 etc/new/f\n");
    bench.dockerfile("FROM {busybox}\nRUN chmod 700 /etc\nCOPY --link f /etc/new/f\n");
    let run = bench.build(&[]);
    assert_eq!(run.cached(), 1, "{}", run.stderr);
    // A name is looked up below: there the base matters.
    for id in [77, 78] {
        bench.dockerfile(&format!(
            "FROM {{busybox}}\nRUN echo app:x:{id}:{id}::/: >>/etc/passwd\nCOPY --link --chown=app f /f\n"
        ));
        assert_eq!(bench.image(&[]).top(), format!("- 0644 {id}:{id} f\n"));
    }
}

#[test]
fn a_linked_copy_stays_on_its_own_base() {
    let bench = Bench::with(
        "FROM {busybox} AS one\nCOPY --link f /\nFROM scratch AS two\nCOPY <<X /x\nx\nX\nCOPY --link f /\n\
         FROM scratch\nCOPY --from=one /bin/busybox /f /one/\nCOPY --from=two / /two/\n",
    );
    bench.file("f", "x");
    let image = bench.image(&[]);
    assert_eq!(image.layers[0].keys().collect::<Vec<_>>(), ["one", "one/busybox", "one/f"]);
    assert_eq!(image.layers[1].keys().collect::<Vec<_>>(), ["two", "two/f", "two/x"]);
    let two = bench.image(&["--target", "two"]);
    assert_eq!((show(&two.layers[0]).as_str(), two.top().as_str()), ("- 0644 0:0 x\n", "- 0644 0:0 f\n"));
}

#[test]
fn copying_from_an_image_needs_no_stage() {
    let image = Bench::with("FROM scratch\nCOPY --from={busybox} /etc/passwd /p\n").image(&[]);
    assert!(image.text("p").starts_with("root:x:0:0"));
}

#[test]
fn ownership_by_name_comes_from_the_image() {
    let bench = Bench::with(
        "FROM {busybox}\nRUN echo app:x:1234:1234::/:/bin/sh >>/etc/passwd\nCOPY --chown=app f /f\nCOPY --chown=app:nogroup f /g\n",
    );
    bench.file("f", "x");
    let image = bench.image(&[]);
    assert_eq!(
        (show(&image.layers[2]).as_str(), image.top().as_str()),
        ("- 0644 1234:1234 f\n", "- 0644 1234:65534 g\n")
    );
}

#[test]
fn ignored_files_are_not_there() {
    let bench = Bench::with("FROM scratch\nCOPY . /\n");
    for file in ["keep", "drop.log", "deep/drop.log", "deep/keep", "node_modules/x/y", "node_modules/keep/z"] {
        bench.file(file, file);
    }
    bench.file(".dockerignore", "# comment\n**/*.log\nnode_modules\n!node_modules/keep\nDockerfile\n.dockerignore\n");
    let top = bench.image(&[]).layers.remove(0);
    let paths: Vec<&str> = top.keys().map(String::as_str).collect();
    assert_eq!(paths, ["deep", "deep/keep", "keep", "node_modules", "node_modules/keep", "node_modules/keep/z"]);
}

#[test]
fn archives_are_unpacked_by_add_alone() {
    for (name, flag) in [("a.tar", "-cf"), ("a.tgz", "-czf"), ("a.tbz", "-cjf"), ("a.txz", "-cJf")] {
        let bench = Bench::with(&format!("FROM scratch\nADD {name} /in/\nCOPY {name} /raw\nADD plain.gz /plain\n"));
        let inner = bench.path("inner");
        fs_err::create_dir_all(inner.join("d")).unwrap();
        fs_err::write(inner.join("d/f"), "x").unwrap();
        fs_err::hard_link(inner.join("d/f"), inner.join("d/h")).unwrap();
        let archive = bench.context().join(name);
        let tar = [
            "--owner=5",
            "--group=6",
            "--mode=go-w",
            "-C",
            inner.to_str().unwrap(),
            flag,
            archive.to_str().unwrap(),
            "d",
        ];
        peer("tar", &tar);
        bench.file("plain.gz", "not an archive");
        let image = bench.image(&[]);
        let first = show(&image.layers[0]);
        assert_eq!(first, "d 0755 0:0 in\nd 0755 5:6 in/d\n- 0644 5:6 in/d/f\nh 0644 5:6 in/d/h -> in/d/f\n", "{name}");
        assert_eq!(show(&image.layers[1]), "- 0644 0:0 raw\n");
        assert_eq!(image.text("plain"), "not an archive");
    }
}

#[test]
fn sparse_and_padded_archives_are_unpacked() {
    let bench = Bench::with("FROM scratch\nADD sparse.tar /add/\nADD padded.tgz /add/\n");
    let inner = bench.path("inner");
    fs_err::create_dir_all(&inner).unwrap();
    let mut file = vec![0; 1 << 20];
    file[700_000..700_004].copy_from_slice(b"data");
    let sparse = fs_err::File::create(inner.join("sparse")).unwrap();
    sparse.set_len(1 << 20).unwrap();
    sparse.file().write_all_at(b"data", 700_000).unwrap();
    fs_err::write(inner.join("padded"), "padded").unwrap();
    let (from, context) = (inner.display().to_string(), bench.context());
    let (archive, padded) = (context.join("sparse.tar"), context.join("padded.tgz"));
    for form in ["--format=gnu", "--format=pax"] {
        peer("tar", &["-C", &from, "--sparse", form, "-cf", archive.to_str().unwrap(), "sparse"]);
        assert!(fs_err::metadata(&archive).unwrap().len() < 100_000);
        peer("tar", &["-C", &from, "-czf", padded.to_str().unwrap(), "padded"]);
        let length = fs_err::metadata(&padded).unwrap().len();
        fs_err::File::options().write(true).open(&padded).unwrap().set_len(length.next_multiple_of(10_240)).unwrap();
        let image = bench.image(&["--no-cache"]);
        assert!(image.bytes("add/sparse") == file && image.bytes("add/padded") == b"padded", "{form}");
    }
}

#[test]
fn many_sources_that_overlap_are_written_once() {
    let bench = Bench::with("FROM scratch\nCOPY one two /d/\n");
    for file in ["one/x", "one/both", "two/both", "two/y"] {
        bench.file(file, file);
    }
    let image = bench.image(&[]);
    assert_eq!(image.layers[0].keys().collect::<Vec<_>>(), ["d", "d/both", "d/x", "d/y"]);
    assert_eq!(image.text("d/both"), "two/both");
}

#[test]
fn the_context_cannot_be_left() {
    let bench = Bench::with("FROM scratch\nCOPY escape/passwd /x\n");
    symlink("/etc", bench.context().join("escape")).unwrap();
    let run = bench.try_build(&[]);
    assert_eq!(run.code, 1, "{}", run.stderr);
    assert!(run.stderr.contains("no such file or directory in the build context"), "{}", run.stderr);
}

#[test]
fn capabilities_survive_the_layer() {
    let bench = Bench::with("FROM scratch AS a\nCOPY t /t\nFROM scratch\nCOPY --from=a /t /t\n");
    let file = bench.file("t", "x");
    peer("setcap", &["cap_net_raw+ep", file.to_str().unwrap()]);
    let out = bench.path("out");
    bench.build(&["-o", &format!("type=local,dest={}", out.display())]);
    assert!(peer("getcap", &[out.join("t").to_str().unwrap()]).contains("cap_net_raw"));
}

#[test]
fn adding_from_http_keeps_time_and_asks_again() {
    let bench = Bench::new();
    let server = Server::start(&bench.path(""));
    let add = |flags: &str, path: &str, destination: &str| {
        bench.dockerfile(&format!("FROM scratch\nADD {flags} {} {destination}\n", server.url(path)));
    };
    server.page("/a/file.txt", "one");
    add("", "/a/file.txt?x=1", "/d/");
    let image = bench.image(&[]);
    assert_eq!(
        (image.top().as_str(), image.text("d/file.txt").as_str()),
        ("d 0755 0:0 d\n- 0600 0:0 d/file.txt\n", "one")
    );
    assert_eq!(
        image.config["history"][0]["created_by"].as_str().unwrap(),
        format!("ADD {} /d/ # buildkit", server.url("/a/file.txt?x=1"))
    );
    let out = bench.path("out");
    bench.build(&["-o", &format!("type=local,dest={}", out.display())]);
    let modified = fs_err::metadata(out.join("d/file.txt")).unwrap().modified().unwrap();
    assert_eq!(modified.duration_since(std::time::UNIX_EPOCH).unwrap().as_secs(), 784_111_777);
    server.log();
    assert_eq!(bench.build(&[]).cached(), 1);
    assert_eq!(server.log(), ["GET /a/file.txt 304"]);
    server.page("/a/file.txt", "two");
    assert_eq!(bench.image(&[]).text("d/file.txt"), "two");

    add("--chown=3:4 --chmod=u=rwx,go=rX", "/a/file.txt", "/renamed");
    assert_eq!(bench.image(&[]).top(), "- 0744 3:4 renamed\n");
}

#[test]
fn adding_from_http_can_be_held_against_a_checksum() {
    let bench = Bench::new();
    let server = Server::start(&bench.path(""));
    server.page("/f", "hello\n");
    let right = "sha256:5891b5b522d5df086d0ff0b110fbd9d21bb4fc7163af34d08286a2e846f6be03";
    bench.dockerfile(&format!("FROM scratch\nADD --checksum={right} {} /f\n", server.url("/f")));
    assert_eq!(bench.image(&[]).text("f"), "hello\n");
    // What is known by its digest need not be asked for.
    server.log();
    bench.build(&[]);
    assert_eq!(server.log(), Vec::<String>::new());
    bench.dockerfile(&format!("FROM scratch\nADD --checksum={} {} /f\n", right.replace("58", "59"), server.url("/f")));
    let run = bench.try_build(&[]);
    assert!(run.code == 1 && run.stderr.contains("has the digest sha256:5891"), "{}", run.stderr);
    for flag in ["--checksum=sha256:12", "--checksum=md5:12", "--keep-git-dir"] {
        bench.dockerfile(&format!("FROM scratch\nADD {flag} {} /f\n", server.url("/f")));
        let run = bench.try_build(&[]);
        assert!(run.code == 1 && run.stderr.contains(">>> 2"), "{flag}: {}", run.stderr);
    }
}

#[test]
fn adding_from_http_names_and_unpacks_files() {
    let bench = Bench::new();
    let server = Server::start(&bench.path(""));
    let page = |path: &str, status: u16, headers: Vec<(&'static str, String)>| {
        server.put(path, Page { body: b"x".to_vec(), headers, status });
    };
    page("/", 200, vec![("Content-Disposition", "attachment; filename=\"../named\"".into())]);
    page("/moved", 302, vec![("Location", server.url("/"))]);
    page("/loop", 302, vec![("Location", server.url("/loop"))]);
    page("/plain/", 200, Vec::new());
    page("/gone", 404, Vec::new());
    for (path, listing) in
        [("/", "d 0755 0:0 d\n- 0600 0:0 d/named\n"), ("/moved", "d 0755 0:0 d\n- 0600 0:0 d/moved\n")]
    {
        bench.dockerfile(&format!("FROM scratch\nADD {} /d/\n", server.url(path)));
        assert_eq!(bench.image(&[]).top(), listing, "{path}");
    }
    for (path, message) in [("/plain/", "no name"), ("/gone", "404"), ("/loop", "too many redirects")] {
        bench.dockerfile(&format!("FROM scratch\nADD {} /d/\n", server.url(path)));
        let run = bench.try_build(&[]);
        assert!(run.code == 1 && run.stderr.contains(message), "{path}: {}", run.stderr);
    }
    let mut archive = tar::Builder::new(Vec::new());
    let mut header = tar::Header::new_gnu();
    header.set_size(1);
    header.set_mode(0o640);
    header.set_uid(5);
    header.set_gid(6);
    archive.append_data(&mut header, "in", &b"x"[..]).unwrap();
    server.page("/a.tar", archive.into_inner().unwrap());
    bench.file("local.tar", "");
    for (flag, listing) in [
        ("", "d 0755 0:0 d\n- 0600 0:0 d/a.tar\n"),
        ("--unpack=false", "d 0755 0:0 d\n- 0600 0:0 d/a.tar\n"),
        ("--unpack", "d 0755 0:0 d\n- 0640 5:6 d/in\n"),
    ] {
        bench.dockerfile(&format!("FROM scratch\nADD {flag} {} /d/\n", server.url("/a.tar")));
        assert_eq!(bench.image(&[]).top(), listing, "{flag}");
    }
}

#[test]
fn local_archives_are_kept_if_asked() {
    let bench = Bench::with("FROM scratch\nADD --unpack=false --chmod=644 a.tar /d/\n");
    peer(
        "tar",
        &[
            "-C",
            bench.context().to_str().unwrap(),
            "-cf",
            bench.context().join("a.tar").to_str().unwrap(),
            "Dockerfile",
        ],
    );
    assert_eq!(bench.image(&[]).top(), "d 0755 0:0 d\n- 0644 0:0 d/a.tar\n");
}

#[test]
fn adding_from_git_gives_the_files_of_a_commit() {
    let bench = Bench::new();
    let server = Server::start(&repository(&bench.path("")));
    let add = |flags: &str, suffix: &str| {
        bench.dockerfile(&format!("FROM scratch\nADD {flags} {}{suffix} /d\n", server.url("/git/x.git")));
    };
    add("--exclude=Evil --exclude=out", "#v1");
    let image = bench.image(&[]);
    let listing = "d 0755 0:0 d\n- 0644 0:0 d/.dockerignore\n- 0644 0:0 d/Dockerfile\n- 0644 0:0 d/f\n\
                   d 0755 0:0 d/sub\n- 0644 0:0 d/sub/Dockerfile\n- 0644 0:0 d/sub/g\n";
    assert_eq!((image.top().as_str(), image.text("d/f").as_str()), (listing, "one"));
    // The same commit by another name.
    let first = commit(&bench.path(""), "v1");
    add("--exclude=Evil --exclude=out", &format!("?tag=v1&checksum={}", &first[..10]));
    assert_eq!(bench.build(&[]).cached(), 1);
    add("", "#main:sub");
    assert_eq!(bench.image(&[]).top(), "d 0755 0:0 d\n- 0644 0:0 d/Dockerfile\n- 0644 0:0 d/g\n");
    add("--keep-git-dir=true", "#main");
    assert!(bench.image(&[]).layers[0].contains_key("d/.git/HEAD"));
    add(&format!("--checksum={first}"), "#main");
    let run = bench.try_build(&[]);
    assert!(run.code == 1 && run.stderr.contains(&first), "{}", run.stderr);
}

/// A wildcard that left it out would make an image without it, and nobody would know.
#[test]
fn a_match_of_another_stage_that_leads_to_nothing_is_an_error() {
    let stage =
        "FROM {busybox} AS a\nRUN mkdir -p /q/d && ln -s nope /q/libx.so && echo 1 >/q/libx.so.1 && echo 2 >/q/d/f\n";
    for (source, path) in [("/q/*.so*", "/q/libx.so"), ("/q/libx.so", "/q/libx.so"), ("/q/libx.so/f", "/q/libx.so")] {
        let bench = Bench::with(&format!("{stage}FROM scratch\nCOPY --from=a {source} /y/\n"));
        let run = bench.try_build(&[]);
        let said = format!("`{source}` matches `{path}`, a link to what is not there");
        assert!(run.code == 1 && run.stderr.contains(&said), "{}", run.stderr);
    }
    // On the way to something else it is no match.
    let bench = Bench::with(&format!("{stage}FROM scratch\nCOPY --from=a /q/*/f /y/\n"));
    assert_eq!(bench.image(&[]).text("y/f"), "2\n");
}
