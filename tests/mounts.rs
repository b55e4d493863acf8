//! `RUN --mount`: what a step sees, what the layer has, and what the cache makes of it.

use std::io::{Read, Write};
use std::os::unix::fs::{PermissionsExt, symlink};
use std::os::unix::net::UnixListener;
use std::process::Stdio;

use crate::common::{Bench, Run, base};
use crate::rootless::Rootless;

/// Builds `FROM busybox` with one RUN whose script's outputs go to `/out`, and reads that.
fn seen(bench: &Bench, arguments: &[&str]) -> String {
    bench.image(arguments).text("out")
}

#[test]
fn a_bind_of_the_context_shows_what_the_ignore_rules_leave_and_refuses_writes() {
    let bench = Bench::with(
        "FROM {busybox}\nWORKDIR /w\nRUN --mount=target=c --mount=source=dir/f,target=/one \
         (find c /one; cat /one; touch c/x || echo refused; echo y >/one || echo refused; stat -c '%a %u' c/dir/f) >/out 2>/dev/null\n",
    );
    let file = bench.file("dir/f", "content\n");
    fs_err::set_permissions(file, PermissionsExt::from_mode(0o640)).unwrap();
    bench.file("dir/ignored", "no");
    bench.file(".dockerignore", "dir/ignored\nDockerfile\n");
    let image = bench.image(&[]);
    let mut lines: Vec<String> = image.text("out").lines().map(str::to_owned).collect();
    lines[..5].sort();
    let expected = ["/one", "c", "c/.dockerignore", "c/dir", "c/dir/f", "content", "refused", "refused", "640 0"];
    assert_eq!(lines, expected);
    assert_eq!(image.top(), "- 0644 0:0 out\n");
}

#[test]
fn the_content_of_a_bind_is_in_the_key_and_nothing_else_of_the_context() {
    let bench = Bench::with("FROM {busybox}\nRUN --mount=source=src,target=/src cat /src/a >/out\n");
    let file = bench.file("src/a", "1");
    bench.build(&[]);
    bench.file("other", "x");
    assert!(std::process::Command::new("touch").arg(&file).status().unwrap().success());
    assert_eq!(bench.build(&[]).cached(), 1);
    bench.file("src/a", "2");
    assert_eq!(bench.build(&[]).cached(), 0);
    assert_eq!(seen(&bench, &[]), "2");
}

#[test]
fn what_is_written_to_a_bind_is_thrown_away() {
    let bench = Bench::with(
        "FROM {busybox} AS base\nRUN mkdir /d && echo 1 >/d/a\n\
         FROM {busybox}\nRUN --mount=target=/c,rw --mount=from=base,source=/d,target=/d,rw \
         rm /c/f /d/a && echo new >/c/new && echo new >/d/new && mkdir /d/sub && ls /c /d >/first\n\
         RUN --mount=target=/c --mount=from=base,source=/d,target=/d (cd /c; ls; cat f; ls /d; cat /d/a) >/out\n",
    );
    let file = bench.file("f", "mine\n");
    let image = bench.image(&[]);
    assert_eq!(image.text("first"), "/c:\nDockerfile\nnew\n\n/d:\nnew\nsub\n");
    assert_eq!(image.text("out"), "Dockerfile\nf\nmine\na\n1\n");
    assert_eq!(image.layers[1].keys().collect::<Vec<_>>(), ["first"]);
    assert_eq!(fs_err::read_to_string(file).unwrap(), "mine\n");
    assert!(!bench.context().join("new").exists());
}

#[test]
fn a_bind_of_a_stage_is_the_merged_tree_and_its_key_is_the_stages() {
    let bench = Bench::with(
        "FROM {busybox} AS unused\nRUN false\n\
         FROM {busybox} AS tools\nARG V=1\nRUN mkdir -p /t/sub && echo 1 >/t/gone && echo $V >/t/v && ln -s /t/sub/../v /link\n\
         RUN rm /t/gone && echo 2 >/t/sub/new\n\
         FROM scratch AS none\n\
         FROM {busybox}\nRUN --mount=from=tools,target=/all --mount=from=1,source=t,target=/t --mount=from=tools,source=link,target=/v \
         --mount=from=none,target=/none --mount=from={busybox},source=/bin,target=/image \
         (cd /t; find . | sort; cat /v /all/t/sub/new; ls /all/bin/busybox /image/busybox; ls /none; touch /none/x || echo refused) >/out 2>/dev/null\n",
    );
    let image = bench.image(&[]);
    assert_eq!(image.text("out"), ".\n./sub\n./sub/new\n./v\n1\n2\n/all/bin/busybox\n/image/busybox\nrefused\n");
    assert_eq!(image.top(), "- 0644 0:0 out\n");
    assert_eq!(bench.build(&[]).cached(), 1);
    assert!(bench.image(&["--build-arg", "V=7"]).text("out").contains("\n7\n2\n"));
}

/// CVE-2024-1753, CVE-2024-9675, CVE-2024-23651, CVE-2024-23652.
#[test]
fn no_link_and_no_dots_of_a_source_lead_out_of_its_tree() {
    let bench = Bench::new();
    let canary = bench.path("canary");
    fs_err::create_dir(&canary).unwrap();
    fs_err::write(canary.join("secret"), "of the host").unwrap();
    let up = format!("../../../../../../../../..{}", canary.display());
    for link in [canary.to_str().unwrap(), &up] {
        for (source, kind) in
            [("link", "bind"), ("link/secret", "bind"), ("/../../x/../link", "bind"), ("link", "cache")]
        {
            bench.dockerfile(&format!(
                "FROM {{busybox}} AS evil\nRUN ln -s {link} /link\n\
                 FROM {{busybox}}\nRUN --mount=type={kind},from=evil,source={source},target=/m ls -R /m; cat /m/* /m; echo ran\n"
            ));
            let run = bench.try_build(&[]);
            assert!(run.code == 1 && run.stderr.contains("matches nothing in the tree"), "{}", run.stderr);
        }
        let there = bench.context().join("link");
        symlink(link, &there).unwrap();
        for source in ["link", "link/secret"] {
            bench.dockerfile(&format!("FROM {{busybox}}\nRUN --mount=source={source},target=/m cat /m /m/*\n"));
            let run = bench.try_build(&[]);
            assert!(
                run.code == 1 && run.stderr.contains("no such file or directory in the build context"),
                "{}",
                run.stderr
            );
        }
        // A link inside a tree is shown as a link: it leads nowhere in the step.
        bench.dockerfile("FROM {busybox}\nRUN --mount=target=/m ! cat /m/link/secret && test -L /m/link\n");
        bench.build(&[]);
        fs_err::remove_file(there).unwrap();
    }
    // The target's links stay beneath the step's root, also where a mount or the image brings them.
    bench.dockerfile(&format!(
        "FROM {{busybox}}\nRUN ln -s {0} /t\nRUN --mount=type=tmpfs,target=/t/x --mount=type=cache,target=/t/y touch /t/x/1 /t/y/1 && test -d {0}/x\n",
        canary.display()
    ));
    assert_eq!(bench.image(&[]).top(), "");
    assert_eq!(fs_err::read_dir(&canary).unwrap().count(), 1);
}

#[test]
fn a_cache_outlives_builds_and_is_in_no_layer_and_no_key() {
    let bench = Bench::with(
        "FROM {busybox}\nARG V\nWORKDIR /w\nRUN --mount=type=cache,target=c echo $V >>c/log && cp c/log /out\n",
    );
    let first = bench.image(&["--build-arg", "V=1"]);
    assert_eq!((first.text("out").as_str(), first.top().as_str()), ("1\n", "- 0644 0:0 out\n"));
    assert_eq!(seen(&bench, &["--build-arg", "V=2"]), "1\n2\n");
    assert_eq!(bench.build(&["--build-arg", "V=1"]).cached(), 2, "the content of the cache is not in the key");
    // Another target with that id is the same directory; another id is another one.
    let probe = |options: &str| {
        bench.dockerfile(&format!(
            "FROM {{busybox}}\nRUN --mount=type=cache,{options},target=/x cat /x/log >/out 2>/dev/null || true\n"
        ));
        seen(&bench, &[])
    };
    assert_eq!(probe("id=/w/c"), "1\n2\n");
    assert_eq!(probe("id=other"), "");
    let pruned = Run::of(bench.rbuild().arg("prune"));
    assert_eq!(pruned.code, 0, "{}", pruned.stderr);
    assert_eq!(probe("id=/w/c"), "1\n2\n");
    let pruned = Run::of(bench.rbuild().args(["prune", "--all"]));
    assert_eq!(pruned.code, 0, "{}", pruned.stderr);
    assert_eq!(probe("id=/w/c"), "");
}

#[test]
fn a_new_cache_has_the_owner_mode_and_content_that_were_asked_for() {
    let bench = Bench::with(
        "FROM {busybox} AS seed\nRUN mkdir -p /s/sub && echo seed >/s/sub/f && chown -R 3:4 /s && chmod 711 /s\n\
         FROM {busybox}\nRUN --mount=type=cache,target=/a --mount=type=cache,target=/b,mode=0750,uid=1000,gid=50 \
         --mount=type=cache,target=/c,from=seed,source=/s --mount=type=cache,target=/d,from=seed,source=/s,uid=9 \
         --mount=type=cache,target=/e,ro \
         (stat -c '%a %u:%g' /a /b /c /c/sub/f /d; cat /c/sub/f; touch /e/x || echo refused; echo more >>/c/sub/f) >/out 2>/dev/null\n\
         RUN --mount=type=cache,target=/c,from=seed,source=/s cat /c/sub/f >/again\n",
    );
    let image = bench.image(&[]);
    assert_eq!(image.text("out"), "755 0:0\n750 1000:50\n711 3:4\n644 3:4\n711 9:4\nseed\nrefused\n");
    assert_eq!(image.text("again"), "seed\nmore\n");
    bench.dockerfile("FROM {busybox}\nUSER 1000\nRUN --mount=type=cache,target=/b,uid=1000 touch /b/mine\n");
    bench.build(&[]);
}

/// Two stages that run at the same time, each with `step`; `{me}` and `{other}` are `a` and `b`.
fn at_once(options: &str, step: &str) -> String {
    let stage = |me: &str, other: &str| {
        let step = step.replace("{me}", me).replace("{other}", other);
        format!(
            "FROM {{busybox}} AS {me}\nRUN --mount=type=cache,id=x,target=/c,{options} {step} && touch /done-{me}\n"
        )
    };
    format!("{}{}FROM scratch\nCOPY --from=a /done-a /\nCOPY --from=b /done-b /\n", stage("a", "b"), stage("b", "a"))
}

/// Waits for the other stage to be there; fails after ten seconds.
const MEET: &str =
    "touch /c/{me} && for i in $(seq 100); do test -e /c/{other} && break; sleep 0.1; done; test -e /c/{other}";
/// Fails when the other stage is there.
const ALONE: &str = "mkdir /c/busy && sleep 0.5 && rmdir /c/busy";

#[test]
fn a_shared_cache_is_for_several_steps_at_once() {
    Bench::with(&at_once("sharing=shared", MEET)).build(&["--jobs", "2"]);
}

#[test]
fn a_locked_cache_is_for_one_step_at_a_time() {
    Bench::with(&at_once("sharing=locked", ALONE)).build(&["--jobs", "2"]);
}

#[test]
fn a_private_cache_is_another_directory_for_each_step_at_a_time() {
    let bench = Bench::with(&at_once("sharing=private", "touch /c/{me} && sleep 1 && test ! -e /c/{other}"));
    bench.build(&["--jobs", "2"]);
}

#[test]
fn a_locked_cache_is_for_one_process_at_a_time_and_ends_with_it() {
    let bench =
        Bench::with(&format!("FROM {{busybox}}\nARG V\nRUN --mount=type=cache,target=/c,sharing=locked {ALONE}\n"));
    let builds: Vec<_> = ["1", "2", "3"]
        .into_iter()
        .map(|value| {
            let mut command = bench.rbuild();
            command.args(["--progress", "plain", "--build-arg", &format!("V={value}"), "."]);
            command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap()
        })
        .collect();
    for build in builds {
        let output = build.wait_with_output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    }
    // A step that fails, and a build that is killed, keep no lock.
    bench.dockerfile("FROM {busybox}\nRUN --mount=type=cache,target=/c,sharing=locked false\n");
    assert_eq!(bench.try_build(&[]).code, 1);
    bench.dockerfile("FROM {busybox}\nRUN --mount=type=cache,target=/c,sharing=locked touch /c/begun && sleep 300\n");
    let mut killed = bench.rbuild().arg(".").stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    let mounts = bench.path("home/store-v1/mounts");
    let begun = || {
        let mut places = fs_err::read_dir(&mounts).unwrap().map(|place| place.unwrap().path());
        places.any(|place| place.join("0/fs/begun").exists())
    };
    while !begun() {
        assert!(killed.try_wait().unwrap().is_none(), "it ended before its step began");
        std::thread::sleep(std::time::Duration::from_millis(20));
    }
    killed.kill().unwrap();
    killed.wait().unwrap();
    bench.dockerfile("FROM {busybox}\nRUN --mount=type=cache,target=/c,sharing=locked ls /c\n");
    bench.build(&[]);
}

#[test]
fn one_step_may_have_several_caches_and_one_of_them_twice() {
    let lock = |one: &str, two: &str| {
        format!(
            "RUN --mount=type=cache,id={one},target=/1,sharing=locked --mount=type=cache,id={two},target=/2,sharing=locked \
             --mount=type=cache,id={one},target=/3,sharing=locked echo x >/1/f && cat /3/f && touch /done\n"
        )
    };
    let dockerfile = format!(
        "FROM {{busybox}} AS a\n{}FROM {{busybox}} AS b\n{}FROM scratch\nCOPY --from=a /done /a\nCOPY --from=b /done /b\n",
        lock("one", "two"),
        lock("two", "one")
    );
    Bench::with(&dockerfile).build(&["--jobs", "2"]);
}

#[test]
fn a_tmpfs_is_empty_and_has_its_limit() {
    let bench = Bench::with(
        "FROM {busybox}\nRUN mkdir /t && touch /t/of-the-image\n\
         RUN --mount=type=tmpfs,target=/t,size=64k --mount=type=tmpfs,target=/r,ro \
         (ls /t; head -c 60000 /dev/zero >/t/small && echo fits; head -c 70000 /dev/zero >/t/big || echo full; touch /r/x || echo refused) >/out 2>/dev/null\n",
    );
    let image = bench.image(&[]);
    assert_eq!((image.text("out").as_str(), image.top().as_str()), ("fits\nfull\nrefused\n", "- 0644 0:0 out\n"));
}

#[test]
fn secrets_are_files_and_variables_of_one_step_alone() {
    let bench = Bench::with(
        "FROM {busybox}\nENV TOKEN=public\n\
         RUN --mount=type=secret,id=a --mount=type=secret,id=a,target=/etc/own,mode=0440,uid=7,gid=8 --mount=type=secret,id=b,env=TOKEN \
         --mount=type=secret,id=missing --mount=type=secret,target=/x/c --mount=type=secret,source=a,target=rel \
         (stat -c '%n %a %u:%g' /run/secrets/* /etc/own /x/c /rel; sha256sum </etc/own; cmp /run/secrets/a /etc/own; \
         printf %s $TOKEN | sha256sum; touch /run/secrets/a || echo refused; echo y >/etc/own || echo refused) >/out 2>/dev/null\n\
         RUN echo $TOKEN; ls /run /etc/own /x || touch /gone\n",
    );
    let value = "correct-horse-battery";
    let file = bench.path("value");
    fs_err::write(&file, value).unwrap();
    let given = format!("id=a,src={}", file.display());
    let layout = bench.path("layout");
    let output = format!("type=oci,tar=false,dest={}", layout.display());
    let build = |b: &str| {
        let mut command = bench.rbuild();
        command.args([
            "--progress",
            "plain",
            "-o",
            &output,
            "--secret",
            &given,
            "--secret",
            "id=b,env=B",
            "--secret",
            "id=c",
        ]);
        Run::of(command.env("B", b).env("c", "three").arg("."))
    };
    let run = build(value);
    assert_eq!(run.code, 0, "{}", run.stderr);
    let image = crate::common::Image::read(&layout);
    let out = image.text("out");
    let lines: Vec<&str> = out.lines().collect();
    assert_eq!(lines[..4], ["/run/secrets/a 400 0:0", "/etc/own 440 7:8", "/x/c 400 0:0", "/rel 400 0:0"], "{out}");
    assert!(lines[4] == lines[5] && lines[4].len() > 64, "{out}");
    assert_eq!(lines[6..], ["refused", "refused"]);
    assert_eq!(image.top(), "- 0644 0:0 gone\n");
    assert_eq!(image.layers[1].keys().collect::<Vec<_>>(), ["out"]);
    // Nowhere: not in the log, the image's documents, the records or the files of the store.
    assert!(!run.stderr.contains(value) && !image.config.to_string().contains(value));
    let found = std::process::Command::new("grep").args(["-rl", value]).arg(bench.path("home")).arg(&layout).output();
    assert_eq!(String::from_utf8_lossy(&found.unwrap().stdout), "");
    // Another value is no other step.
    assert_eq!(build("other").cached(), 2);
}

#[test]
fn a_secret_or_agent_that_is_required_and_not_given_is_named() {
    for (mount, told) in [("type=secret,id=npm,required", "--secret id=npm"), ("type=ssh,id=git,required", "--ssh git")]
    {
        let bench = Bench::with(&format!("FROM {{busybox}}\nRUN --mount={mount} true\n"));
        let run = bench.try_build(&[]);
        assert!(run.code == 1 && run.stderr.contains(told) && run.stderr.contains(">>> 2 |"), "{}", run.stderr);
    }
    Bench::with("FROM {busybox}\nRUN --mount=type=secret,id=npm --mount=type=ssh test ! -e /run/secrets/npm\n")
        .build(&[]);
    let bench = Bench::with("FROM {busybox}\nRUN true\n");
    bench.file("key", "not a socket");
    for (argument, code, told) in [
        ("--secret=id=a,src=/no/such/file", 1, "cannot read the secret `a`"),
        ("--secret=src=x", 2, "has no `id=`"),
        ("--ssh=default", 2, "SSH_AUTH_SOCK is not set"),
        ("--ssh=git=key", 1, "cannot load the ssh key"),
    ] {
        let run = bench.try_build(&[argument]);
        assert!(run.code == code && run.stderr.contains(told), "{argument}: {}", run.stderr);
    }
}

#[test]
fn a_secret_whose_variable_is_not_set_is_said_to_be_empty() {
    let bench = Bench::with("FROM {busybox}\nRUN --mount=type=secret,id=a,env=A test -z \"$A\"\n");
    let run = bench.build(&["--secret=id=a,env=NOWHERE", "--secret=id=b,env=NOWHERE_EITHER"]);
    let told: Vec<&str> = run.stderr.lines().filter(|line| line.starts_with("warning: ")).collect();
    assert_eq!(told, ["warning: the secret `a` is empty: the variable `NOWHERE` is not set"]);
}

/// An agent that says everything twice.
fn agent(path: &std::path::Path) {
    let listener = UnixListener::bind(path).unwrap();
    std::thread::spawn(move || {
        for connection in listener.incoming() {
            let mut connection = connection.unwrap();
            let mut asked = [0; 5];
            while connection.read_exact(&mut asked).is_ok() {
                connection.write_all(&[asked, asked].concat()).unwrap();
            }
        }
    });
}

#[test]
fn an_agent_is_reached_through_a_socket_of_the_steps_user() {
    let script = "import os, socket\n\
        for path in os.environ['SSH_AUTH_SOCK'], '/tmp/git':\n    \
            s = socket.socket(socket.AF_UNIX)\n    s.connect(path)\n    \
            for i in range(2):\n        s.sendall(b'hello')\n        print(s.recv(10, socket.MSG_WAITALL))\n\
        status = os.stat('/run/buildkit/ssh_agent.0')\n\
        print(os.environ['SSH_AUTH_SOCK'], oct(status.st_mode), status.st_uid)\n";
    let dockerfile = format!(
        "FROM {{python}}\nUSER 1000\n\
         RUN --mount=type=ssh,uid=1000,required --mount=type=ssh,id=git,target=/tmp/git,mode=0666 <<END\n\
         python3 >/tmp/out <<'PY'\n{script}PY\nEND\n"
    );
    let expected = "b'hellohello'\n".repeat(4) + "/run/buildkit/ssh_agent.0 0o140600 1000\n";

    let bench = Bench::with(&dockerfile);
    agent(&bench.path("agent"));
    let git = format!("git={}", bench.path("agent").display());
    let default = format!("default={}", bench.path("agent").display());
    let image = bench.image(&["--ssh", &default, "--ssh", &git]);
    assert_eq!(image.text("tmp/out"), expected);
    assert_eq!(image.top(), "d 1777 0:0 tmp\n- 0644 1000:0 tmp/out\n");

    let rootless = Rootless::with(&dockerfile);
    agent(&rootless.bench.path("agent"));
    rootless.own();
    let socket = format!("={}", rootless.bench.path("agent").display());
    let output = format!("type=oci,tar=false,dest={}", rootless.bench.path("layout").display());
    let run =
        rootless.try_build(&["--ssh", &format!("default{socket}"), "--ssh", &format!("git{socket}"), "-o", &output]);
    assert_eq!(run.code, 0, "{}", run.stderr);
    assert_eq!(crate::common::Image::read(&rootless.bench.path("layout")).text("tmp/out"), expected);
}

/// Every type, nested in each other, at places that the image has not, has, and that the step itself fills.
const EVERYWHERE: &str = "FROM {busybox} AS other\nRUN mkdir -p /o/in\n\
    FROM {busybox}\nRUN mkdir -p /has/dir /has/file-dir && touch -d @1000000000 /has/dir /has\n\
    RUN --mount=target=/new/a/bind --mount=from=other,source=/o,target=/new/a/tree,rw --mount=type=cache,target=/new/a/tree/in/cache \
    --mount=type=tmpfs,target=/new/tmpfs --mount=type=secret,id=s,target=/new/tmpfs/deep/secret --mount=type=secret,id=s,target=/has/dir/secret \
    --mount=type=cache,target=/has/dir/cache --mount=type=tmpfs,target=/has/dir/cache/tmpfs --mount=type=secret,id=s \
    --mount=type=cache,target=/mine/cache ";

#[test]
fn mount_points_are_in_no_layer() {
    let bench = Bench::with(&format!(
        "{EVERYWHERE} test -s /new/tmpfs/deep/secret && test -s /has/dir/secret && touch /new/a/tree/in/cache/x /has/dir/cache/x /has/dir/cache/tmpfs/x\n\
         {} echo 1 >/mine/own && chmod 700 /new && rm -f /nothing\n",
        EVERYWHERE.lines().last().unwrap()
    ));
    let arguments = ["--secret", "id=s,src=Dockerfile"];
    let image = bench.image(&arguments);
    assert_eq!(image.layers[2].len(), 0, "{:?}", image.layers[2]);
    assert_eq!(image.top(), "d 0755 0:0 mine\n- 0644 0:0 mine/own\nd 0700 0:0 new\n");
    assert_eq!(bench.build(&arguments).cached(), 3);
}

#[test]
fn a_cache_may_be_inside_a_read_only_bind_of_the_context() {
    let bench = Bench::with(
        "FROM {busybox}\nWORKDIR /w\nRUN --mount=target=. --mount=type=cache,target=node_modules --mount=type=secret,id=s,target=a/b/npmrc \
         echo 1 >node_modules/x && test -s a/b/npmrc && ! touch a/y 2>/dev/null && find . -type f | sort >/out\n",
    );
    bench.file("a/f", "x");
    let image = bench.image(&["--secret", "id=s,src=Dockerfile"]);
    assert_eq!(image.text("out"), "./Dockerfile\n./a/b/npmrc\n./a/f\n./node_modules/x\n");
    assert_eq!(image.top(), "- 0644 0:0 out\n");
    assert!(!bench.context().join("node_modules").exists() && !bench.context().join("a/b").exists());
}

#[test]
fn options_take_variables_and_relative_targets_are_below_the_working_directory() {
    let bench = Bench::with(
        "FROM {busybox}\nARG DIR=sub\nENV ID=name\nWORKDIR /w\n\
         RUN --mount=source=$DIR/f,target=./x/../${DIR}-f --mount=type=cache,id=$ID,target=c echo 1 >c/f && cat sub-f >/out\n\
         RUN --mount=type=cache,id=name,target=/other cat /other/f >/second\n",
    );
    bench.file("sub/f", "found");
    let image = bench.image(&[]);
    assert_eq!((image.text("out").as_str(), image.text("second").as_str()), ("found", "1\n"));
    for (mount, told) in [
        ("target=/", "a mount over the root"),
        ("type=cache,target=..", "a mount over the root"),
        ("type=tmpfs,target=/t,size=$DIR", "`size=sub`"),
        ("source=none,target=/x", "`none`: no such file or directory in the build context"),
        ("from=3,target=/x", "cannot"),
        ("type=tmpfs,target=/proc/x", "/proc/x"),
        ("type=tmpfs,target=/sys", "/sys"),
    ] {
        bench.dockerfile(&format!("FROM {{busybox}}\nARG DIR=sub\nRUN --mount={mount} true\n"));
        let run = bench.try_build(&[]);
        assert!(run.code != 0 && run.code != 70 && run.stderr.contains(told), "{mount}: {}", run.stderr);
    }
}

#[test]
fn a_plain_user_has_the_same_mounts() {
    let rootless = Rootless::with(
        "FROM {busybox} AS other\nRUN mkdir -p /o/d && echo 1 >/o/gone && echo 2 >/o/f && chown 1000:50 /o/f\nRUN rm /o/gone\n\
         FROM {busybox}\nRUN --mount=target=/c --mount=target=/w,rw --mount=from=other,source=o,target=/o --mount=from=other,source=o,target=/p,rw \
         --mount=type=cache,target=/k,uid=1000,mode=700 --mount=type=tmpfs,target=/t,size=64k --mount=type=secret,id=s,uid=1000 \
         (cat /c/f /run/secrets/s; rm /w/f /p/f; touch /p/n /t/x /k/x; ls /w /o /p; stat -c '%a %u:%g' /o/f /k /run/secrets/s /c/f; touch /c/x || echo refused; touch /o/x || echo refused) >/out 2>/dev/null\n",
    );
    rootless.bench.file("f", "file\n");
    rootless.bench.file(".dockerignore", "Dockerfile\n.dockerignore\n");
    rootless.own();
    let output = format!("type=oci,tar=false,dest={}", rootless.bench.path("layout").display());
    let run = rootless.try_build(&["--secret", "id=s,src=.dockerignore", "--allow-secret-in-layer", "-o", &output]);
    assert_eq!(run.code, 0, "{}", run.stderr);
    let image = crate::common::Image::read(&rootless.bench.path("layout"));
    assert_eq!(
        image.text("out"),
        "file\nDockerfile\n.dockerignore\n/o:\nd\nf\n\n/p:\nd\nn\n\n/w:\n644 1000:50\n700 1000:0\n400 1000:0\n644 0:0\nrefused\nrefused\n"
    );
    assert_eq!(image.top(), "- 0644 0:0 out\n");
    let pruned = rootless.run(&["prune", "--all"]);
    assert_eq!(pruned.code, 0, "{}", pruned.stderr);
}

#[test]
fn an_image_that_only_a_trigger_mounts_is_fetched() {
    let bench = Bench::with(&format!(
        "FROM scratch AS base\nONBUILD COPY --from={} /bin/busybox /x\nFROM base\n",
        base("busybox:latest")
    ));
    assert_eq!(bench.image(&[]).layers.len(), 1);
    // The trigger of an image, which is known when the image is.
    let layout = bench.path("in");
    bench.dockerfile("FROM scratch\nONBUILD COPY --from=more /f /g\n");
    bench.build(&["-o", &format!("type=oci,tar=false,dest={}", layout.display())]);
    fs_err::create_dir(bench.path("more")).unwrap();
    fs_err::write(bench.path("more/f"), "x").unwrap();
    bench.dockerfile("FROM base\n");
    let contexts =
        [format!("base=oci-layout://{}", layout.display()), format!("more={}", bench.path("more").display())];
    let image = bench.image(&["--build-context", &contexts[0], "--build-context", &contexts[1]]);
    assert_eq!(image.text("g"), "x");
}

#[test]
fn a_cache_that_another_rung_has_made_keeps_nobody_out() {
    let bench = Bench::with(
        "FROM {busybox}\nRUN --mount=type=cache,target=/c,uid=7,mode=0700 stat -c '%u %a' /c >/out; date >>/c/f\n",
    );
    // Whoever runs the tests: one who is not root has the first of them from ids that are subordinate.
    let first = if crate::sandbox::bench::is_root() { "root" } else { "range" };
    for rung in [first, "single", first] {
        assert_eq!(seen(&bench, &["--no-cache", "--isolation", rung]), "7 700\n", "{rung}");
    }
}
