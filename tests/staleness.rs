//! What may be taken from the cache and what may not: every kind of change that could fool a cache, and whether it must be
//! seen. A hit that should be a miss is a wrong image; a miss that should be a hit is lost time.

use std::fs::FileTimes;
use std::os::unix::fs::{PermissionsExt, chown, symlink};

use crate::common::{Bench, peer, registry};

/// One change.
struct Case {
    name: &'static str,
    dockerfile: &'static str,
    /// What is done between the two builds.
    change: fn(&Bench),
    /// The arguments of the first build and of the second.
    arguments: [&'static [&'static str]; 2],
    /// How many steps the second build has from the cache, and how many it runs.
    expected: (usize, usize),
}

/// Steps that were shown as done, other than those about images and outputs.
fn ran(log: &str) -> usize {
    let number = |line: &str| line.split(' ').next().unwrap_or_default().to_owned();
    let steps: Vec<String> =
        log.lines().filter(|line| line.contains(" [") && !line.contains("] FROM ")).map(number).collect();
    log.lines().filter(|line| line.contains(" DONE ") && steps.contains(&number(line))).count()
}

fn file(bench: &Bench, path: &str, text: &str) {
    bench.file(path, text);
}

const COPIED: &str = "FROM scratch\nCOPY src /src\n";

const NONE: [&[&str]; 2] = [&[], &[]];

const CASES: &[Case] = &[
    Case { name: "nothing", dockerfile: COPIED, change: |_| (), arguments: NONE, expected: (1, 0) },
    Case {
        name: "a touched file",
        dockerfile: COPIED,
        change: |b| file(b, "src/a", "aaaa"),
        arguments: NONE,
        expected: (1, 0),
    },
    Case {
        name: "a link in the place of an equal file",
        dockerfile: COPIED,
        change: |b| {
            let (one, two) = (b.context().join("src/a"), b.context().join("src/z"));
            fs_err::copy(&one, &two).unwrap();
            assert_eq!(ran(&b.try_build(&[]).stderr), 1);
            fs_err::remove_file(&two).unwrap();
            fs_err::hard_link(one, two).unwrap();
        },
        arguments: NONE,
        expected: (0, 1),
    },
    Case {
        name: "a mode",
        dockerfile: COPIED,
        change: |b| fs_err::set_permissions(b.context().join("src/a"), PermissionsExt::from_mode(0o600)).unwrap(),
        arguments: NONE,
        expected: (0, 1),
    },
    Case {
        name: "an owner on the host",
        dockerfile: COPIED,
        change: |b| chown(b.context().join("src/a"), Some(1234), Some(1234)).unwrap(),
        arguments: NONE,
        expected: (1, 0),
    },
    Case {
        name: "an attribute",
        dockerfile: COPIED,
        change: |b| {
            let path = b.context().join("src/a");
            rustix::fs::setxattr(&path, "user.note", b"x", rustix::fs::XattrFlags::empty()).unwrap();
        },
        arguments: NONE,
        expected: (0, 1),
    },
    Case {
        name: "a capability",
        dockerfile: COPIED,
        change: |b| {
            // struct vfs_cap_data, version 2: CAP_NET_BIND_SERVICE permitted and effective, capabilities(7).
            let capability = [1, 0, 0, 2, 0, 4, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
            let path = b.context().join("src/a");
            rustix::fs::setxattr(&path, "security.capability", &capability, rustix::fs::XattrFlags::empty()).unwrap();
        },
        arguments: NONE,
        expected: (0, 1),
    },
    Case {
        name: "bytes behind an old size and time",
        dockerfile: COPIED,
        change: |b| {
            let path = b.context().join("src/a");
            let before = fs_err::metadata(&path).unwrap().modified().unwrap();
            fs_err::write(&path, "bbbb").unwrap();
            let open = fs_err::File::options().write(true).open(&path).unwrap();
            open.file().set_times(FileTimes::new().set_modified(before)).unwrap();
        },
        arguments: NONE,
        expected: (0, 1),
    },
    Case {
        name: "a name in a directory",
        dockerfile: COPIED,
        change: |b| fs_err::rename(b.context().join("src/a"), b.context().join("src/z")).unwrap(),
        arguments: NONE,
        expected: (0, 1),
    },
    Case {
        name: "an empty directory more",
        dockerfile: COPIED,
        change: |b| fs_err::create_dir(b.context().join("src/new")).unwrap(),
        arguments: NONE,
        expected: (0, 1),
    },
    Case {
        name: "a directory in the place of a file",
        dockerfile: COPIED,
        change: |b| {
            fs_err::remove_file(b.context().join("src/a")).unwrap();
            fs_err::create_dir(b.context().join("src/a")).unwrap();
        },
        arguments: NONE,
        expected: (0, 1),
    },
    Case {
        name: "the target of a link",
        dockerfile: COPIED,
        change: |b| {
            fs_err::remove_file(b.context().join("src/link")).unwrap();
            symlink("b", b.context().join("src/link")).unwrap();
        },
        arguments: NONE,
        expected: (0, 1),
    },
    Case {
        name: "a file beside",
        dockerfile: COPIED,
        change: |b| file(b, "other", "x"),
        arguments: NONE,
        expected: (1, 0),
    },
    Case {
        name: "a file that is ignored from now on",
        dockerfile: COPIED,
        change: |b| file(b, ".dockerignore", "src/b\n"),
        arguments: NONE,
        expected: (0, 1),
    },
    Case {
        name: "ignore rules for what nobody copies",
        dockerfile: COPIED,
        change: |b| file(b, ".dockerignore", "other\n"),
        arguments: NONE,
        expected: (1, 0),
    },
    Case {
        name: "the time that the image is to have",
        dockerfile: COPIED,
        change: |_| (),
        arguments: [&["--build-arg", "SOURCE_DATE_EPOCH=1"], &["--build-arg", "SOURCE_DATE_EPOCH=2"]],
        expected: (0, 1),
    },
    Case {
        name: "an ARG in a destination alone",
        dockerfile: "FROM scratch\nARG D=one\nCOPY src /$D\n",
        change: |_| (),
        arguments: [&[], &["--build-arg", "D=two"]],
        expected: (0, 1),
    },
    Case {
        name: "the body of a heredoc",
        dockerfile: "FROM scratch\nCOPY <<E /f\none\nE\n",
        change: |b| b.dockerfile("FROM scratch\nCOPY <<E /f\ntwo\nE\n"),
        arguments: NONE,
        expected: (0, 1),
    },
    Case {
        name: "a variable of ENV",
        dockerfile: "FROM {busybox}\nENV V=1\nRUN true\n",
        change: |b| b.dockerfile("FROM {busybox}\nENV V=2\nRUN true\n"),
        arguments: NONE,
        expected: (0, 1),
    },
    Case {
        name: "what no command sees",
        dockerfile: "FROM {busybox}\nLABEL l=1\nEXPOSE 80\nRUN true\nCMD [\"a\"]\n",
        change: |b| {
            b.dockerfile("# Other words.\nFROM {busybox}\nLABEL l=2\nEXPOSE 81\nRUN \\\n  true\nCMD [\"b\"]\n");
        },
        arguments: NONE,
        expected: (1, 0),
    },
    Case {
        name: "the user",
        dockerfile: "FROM {busybox}\nUSER 1\nRUN true\n",
        change: |b| b.dockerfile("FROM {busybox}\nUSER 2\nRUN true\n"),
        arguments: NONE,
        expected: (0, 1),
    },
    Case {
        name: "an ARG that comes later",
        dockerfile: "FROM {busybox}\nRUN true\nARG V=1\nRUN echo $V >/v\n",
        change: |_| (),
        arguments: [&[], &["--build-arg", "V=2"]],
        expected: (1, 1),
    },
    Case {
        name: "an argument that nobody declares",
        dockerfile: "FROM {busybox}\nRUN true\n",
        change: |_| (),
        arguments: [&[], &["--build-arg", "UNUSED=2"]],
        expected: (1, 0),
    },
    Case {
        name: "a proxy",
        dockerfile: "FROM {busybox}\nRUN true\n",
        change: |_| (),
        arguments: [&[], &["--build-arg", "HTTP_PROXY=http://proxy.invalid"]],
        expected: (1, 0),
    },
    Case {
        name: "another tag for the same base",
        dockerfile: "FROM {busybox}\nRUN true\n",
        change: |b| {
            let from = format!("docker://{}/library/busybox:latest", registry());
            let to = format!("{}/solver/retagged:1", registry());
            let tls = ["--src-tls-verify=false", "--dest-tls-verify=false"];
            peer("skopeo", &["copy", "-q", tls[0], tls[1], &from, &format!("docker://{to}")]);
            b.dockerfile(&format!("FROM {to}\nRUN true\n"));
        },
        arguments: NONE,
        expected: (1, 0),
    },
    Case {
        name: "the value of a secret",
        dockerfile: "FROM {busybox}\nRUN --mount=type=secret,id=s cat /run/secrets/s >/dev/null\n",
        change: |b| file(b, "secret", "two"),
        arguments: [&["--secret", "id=s,src=secret"], &["--secret", "id=s,src=secret"]],
        expected: (1, 0),
    },
    Case {
        name: "the id of a secret",
        dockerfile: "FROM {busybox}\nRUN --mount=type=secret,id=s true\n",
        change: |b| b.dockerfile("FROM {busybox}\nRUN --mount=type=secret,id=t true\n"),
        arguments: NONE,
        expected: (0, 1),
    },
    Case {
        name: "the id of a cache mount",
        dockerfile: "FROM {busybox}\nRUN --mount=type=cache,id=s,target=/c true\n",
        change: |b| b.dockerfile("FROM {busybox}\nRUN --mount=type=cache,id=t,target=/c true\n"),
        arguments: NONE,
        expected: (0, 1),
    },
    Case {
        name: "what a cache mount has",
        dockerfile: "FROM {busybox}\nRUN --mount=type=cache,target=/c ls /c\n",
        change: |b| {
            b.dockerfile("FROM {busybox}\nRUN --mount=type=cache,target=/c touch /c/new\n");
            b.build(&[]);
            b.dockerfile("FROM {busybox}\nRUN --mount=type=cache,target=/c ls /c\n");
        },
        arguments: NONE,
        expected: (1, 0),
    },
    Case {
        name: "the id of the name of a --chown with --link",
        dockerfile: "FROM {busybox}\nRUN echo app:x:1:1::/: >>/etc/passwd\nCOPY --link --chown=app src /src\n",
        change: |b| {
            b.dockerfile("FROM {busybox}\nRUN echo app:x:2:1::/: >>/etc/passwd\nCOPY --link --chown=app src /src\n");
        },
        arguments: NONE,
        expected: (0, 2),
    },
    Case {
        name: "a step below --link",
        dockerfile: "FROM {busybox}\nRUN echo one >/x\nCOPY --link src /src\n",
        change: |b| b.dockerfile("FROM {busybox}\nRUN echo two >/x\nCOPY --link src /src\n"),
        arguments: NONE,
        expected: (1, 1),
    },
    Case {
        name: "a step below that makes the same",
        dockerfile: "FROM {busybox}\nRUN echo 1 >/x\nRUN cat /x >/y\nCOPY src /src\nRUN cat /y /src/a >/z\n",
        change: |b| {
            b.dockerfile(
                "FROM {busybox}\nRUN echo $((2-1)) >/x\nRUN cat /x >/y\nCOPY src /src\nRUN cat /y /src/a >/z\n",
            );
        },
        arguments: NONE,
        expected: (3, 1),
    },
    Case {
        name: "a stage that gives the same files in other surroundings",
        dockerfile: "FROM {busybox} AS a\nRUN echo 1 >/x; echo 1 >/other\nFROM {busybox}\nCOPY --from=a /x /x\nRUN cat /x\n",
        change: |b| {
            b.dockerfile("FROM {busybox} AS a\nRUN echo 1 >/x; echo 2 >/other\nFROM {busybox}\nCOPY --from=a /x /x\nRUN cat /x\n");
        },
        arguments: NONE,
        expected: (2, 1),
    },
    Case {
        name: "a stage that gives other files",
        dockerfile: "FROM {busybox} AS a\nRUN echo 1 >/x\nFROM {busybox}\nCOPY --from=a /x /x\nRUN cat /x\n",
        change: |b| {
            b.dockerfile("FROM {busybox} AS a\nRUN echo 2 >/x\nFROM {busybox}\nCOPY --from=a /x /x\nRUN cat /x\n");
        },
        arguments: NONE,
        expected: (0, 3),
    },
    Case {
        name: "a mount of a stage that shows the same",
        dockerfile: "FROM {busybox} AS a\nRUN mkdir /d; echo 1 >/d/x\nFROM {busybox}\nRUN --mount=from=a,source=/d,target=/d cat /d/x\n",
        change: |b| {
            b.dockerfile("FROM {busybox} AS a\nRUN mkdir /d; echo 1 >/d/x; echo 1 >/z\nFROM {busybox}\nRUN --mount=from=a,source=/d,target=/d cat /d/x\n");
        },
        arguments: NONE,
        expected: (1, 1),
    },
    Case {
        name: "no cache for a stage that makes the same again",
        dockerfile: "FROM {busybox} AS a\nRUN echo 1 >/x\nFROM {busybox}\nCOPY --from=a /x /x\nRUN cat /x\n",
        change: |_| (),
        arguments: [&[], &["--no-cache-filter", "a"]],
        expected: (2, 1),
    },
    Case {
        name: "no cache for a stage that makes something else",
        dockerfile: "FROM {busybox} AS a\nRUN cat /proc/sys/kernel/random/uuid >/x\nFROM {busybox}\nCOPY --from=a /x /x\nRUN cat /x\n",
        change: |_| (),
        arguments: [&[], &["--no-cache-filter", "A"]],
        expected: (0, 3),
    },
];

#[test]
fn every_change_is_seen_where_it_matters_and_nowhere_else() {
    let mut wrong = Vec::new();
    for case in CASES {
        let bench = Bench::with(case.dockerfile);
        file(&bench, "src/a", "aaaa");
        file(&bench, "src/b", "bbbb");
        file(&bench, "secret", "one");
        symlink("a", bench.context().join("src/link")).unwrap();
        bench.build(case.arguments[0]);
        (case.change)(&bench);
        let run = bench.build(case.arguments[1]);
        let found = (run.cached(), ran(&run.stderr));
        if found != case.expected {
            wrong.push(format!("{}: {found:?}, not {:?}\n{}", case.name, case.expected, run.stderr));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// A step that runs again for whatever reason is not mixed with what was made of its earlier result.
#[test]
fn nothing_that_was_made_of_another_result_is_taken() {
    let dockerfile = "FROM {busybox}\nRUN cat /proc/sys/kernel/random/uuid >/x\nRUN cp /x /y\n";
    let bench = Bench::with(dockerfile);
    bench.build(&[]);
    // The first step alone is forgotten.
    let steps = bench.path("home").join("store-v1/cache/steps");
    for entry in fs_err::read_dir(steps).unwrap() {
        let path = entry.unwrap().path();
        if String::from_utf8_lossy(&fs_err::read(&path).unwrap()).contains("RUN cat") {
            fs_err::remove_file(path).unwrap();
        }
    }
    let image = bench.image(&[]);
    assert_eq!(image.text("x"), image.text("y"));
}

#[test]
fn without_the_cache_a_step_makes_something_new() {
    let bench = Bench::with("FROM {busybox}\nRUN cat /proc/sys/kernel/random/uuid >/x\nRUN cp /x /y\n");
    let first = bench.image(&[]);
    let second = bench.image(&["--no-cache"]);
    assert_ne!(first.text("x"), second.text("x"));
    assert_eq!(second.text("x"), second.text("y"));
    assert_eq!(bench.image(&[]).text("x"), second.text("x"));
}

#[test]
fn a_tag_that_moves_to_other_layers_is_seen() {
    let tag = format!("{}/solver/moved-{}:1", registry(), std::process::id());
    let base = Bench::with("FROM {busybox}\nCOPY f /f\n");
    let bench = Bench::with(&format!("FROM {tag}\nRUN cp /f /g\n"));
    for text in ["one", "two"] {
        base.file("f", text);
        base.build(&["-t", &tag, "--push"]);
        assert_eq!(bench.image(&[]).text("g"), text);
    }
}
