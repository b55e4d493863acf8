//! Secrets: not in logs, not in layers, not in keys, not in the arguments of any process.

use std::process::Stdio;
use std::sync::atomic::{AtomicBool, Ordering};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;

use super::{App, files_with, has};
use registry::testing::{Access, Registry};

use crate::common::{Run, peer};

const PASSWORD: &str = "correct/horse+battery";

fn app(dockerfile: &str) -> App {
    let app = App::with("services:\n  web: {}\n");
    app.file("Dockerfile", dockerfile);
    app.file("../token", "tok-en:with\"quotes\n");
    // On standard input: arguments can be seen, and a test looks at all of them.
    let password = app.bench.path("password");
    fs_err::write(&password, PASSWORD).unwrap();
    let mut add = app.command(&["registries", "add", "private.example", "robot", "--password-stdin"]);
    let run = Run::of(add.stdin(fs_err::File::open(&password).unwrap().into_parts().0));
    assert_eq!((run.code, run.stdout.as_str()), (0, "Adding registry... OK\n"), "{}", run.stderr);
    fs_err::remove_file(password).unwrap();
    app
}

/// What must be nowhere.
fn forms() -> Vec<Vec<u8>> {
    let texts = [PASSWORD, "correct%2Fhorse%2Bbattery", "tok-en:with\"quotes", r#"tok-en:with\"quotes"#];
    let mut forms: Vec<Vec<u8>> = texts.iter().map(|text| text.as_bytes().to_vec()).collect();
    for text in [PASSWORD, "tok-en:with\"quotes"] {
        for before in 0..3 {
            let encoded = STANDARD.encode([&[b'x'; 2][..before], text.as_bytes()].concat());
            forms.push(encoded.as_bytes()[4..encoded.len() - 4].to_vec());
        }
    }
    forms
}

const ASKED: [&str; 4] = ["--build-args", "BUILD_AUTH", "--secret", "id=token,src=../token"];

#[test]
fn what_a_step_says_of_a_secret_is_in_no_log_no_record_no_image() {
    let app = app(
        "FROM {busybox}\nARG BUILD_AUTH\nRUN --mount=type=secret,id=token --mount=type=secret,id=BUILD_AUTH \
        echo plain: $BUILD_AUTH; env; env | base64; cat /run/secrets/token /run/secrets/BUILD_AUTH; \
        base64 /run/secrets/token; printf %s correct; sleep 0.3; printf %s /horse+battery; echo; sleep 1; echo end >/out\n",
    );
    let place = app.push_to("hunt");
    let (forms, ended) = (forms(), AtomicBool::new(false));
    let texts: Vec<&[u8]> = forms.iter().map(Vec::as_slice).collect();
    std::thread::scope(|scope| {
        let watch = scope.spawn(|| {
            let mut seen = Vec::new();
            while !ended.load(Ordering::SeqCst) {
                for process in fs_err::read_dir("/proc").unwrap() {
                    let arguments = fs_err::read(process.unwrap().path().join("cmdline")).unwrap_or_default();
                    seen.extend(has(&arguments, &texts).then(|| String::from_utf8_lossy(&arguments).into_owned()));
                }
                std::thread::sleep(std::time::Duration::from_millis(50));
            }
            seen
        });
        let mut all = vec!["build", "-a", "myapp", "--publish-record"];
        all.extend(ASKED);
        let run = app.command(&all).stdout(Stdio::piped()).stderr(Stdio::piped()).output().unwrap();
        ended.store(true, Ordering::SeqCst);
        let (stdout, stderr) = (String::from_utf8_lossy(&run.stdout), String::from_utf8_lossy(&run.stderr));
        assert!(run.status.success(), "{stdout}{stderr}");
        assert!(!has(&run.stdout, &texts) && !has(&run.stderr, &texts), "{stdout}{stderr}");
        assert!(stdout.contains("plain: <secret BUILD_AUTH>") && stdout.contains("<secret token>"), "{stdout}");
        assert_eq!(watch.join().unwrap(), [] as [String; 0]);
    });
    let build = app.newest();
    app.run(&["builds", "export", "-a", "myapp", &build, "-f", app.bench.path("export.tgz").to_str().unwrap()]);
    // All that the registry has: the image, the steps of the cache, the record.
    let repository = format!("docker://{place}/myapp");
    let tags = peer("skopeo", &["list-tags", "--tls-verify=false", &repository]);
    let tags: serde_json::Value = serde_json::from_str(&tags).unwrap();
    let tags: Vec<&str> = tags["Tags"].as_array().unwrap().iter().map(|tag| tag.as_str().unwrap()).collect();
    assert!(tags.contains(&build.as_str()) && tags.iter().any(|tag| tag.starts_with("k-")), "{tags:?}");
    for tag in &tags {
        let pulled = format!("dir:{}", app.bench.path(&format!("pulled-{tag}")).display());
        let name = format!("{repository}:{tag}");
        peer("skopeo", &["copy", "-q", "--insecure-policy", "--src-tls-verify=false", &name, &pulled]);
    }
    let name = format!("{repository}:web.{build}");
    // The credentials themselves are kept here, and the token is the test's.
    fs_err::remove_file(app.home().join("racks/local/auth.json")).unwrap();
    fs_err::remove_file(app.bench.path("token")).unwrap();
    assert_eq!(files_with(app.bench.path("").as_path(), &texts), [] as [String; 0]);
    let config = peer("skopeo", &["inspect", "--config", "--tls-verify=false", &name]);
    assert!(
        config.contains("|1 BUILD_AUTH=\\u003csecret\\u003e") || config.contains("|1 BUILD_AUTH=<secret>"),
        "{config}"
    );
}

#[test]
fn a_secret_that_would_get_into_the_image_ends_the_build() {
    let arg = "FROM {busybox}\nARG BUILD_AUTH\n";
    let mount = "RUN --mount=type=secret,id=token";
    for (step, line, told) in [
        ("ENV A=x$BUILD_AUTH", 3, "`BUILD_AUTH` is a secret"),
        ("LABEL a=${BUILD_AUTH}", 3, "`BUILD_AUTH` is a secret"),
        ("LABEL a=${BUILD_AUTH:+set}", 3, "`BUILD_AUTH` is a secret"),
        ("ARG OTHER=$BUILD_AUTH", 3, "`BUILD_AUTH` is a secret"),
        ("WORKDIR /$BUILD_AUTH", 3, "`BUILD_AUTH` is a secret"),
        ("USER $BUILD_AUTH", 3, "`BUILD_AUTH` is a secret"),
        ("EXPOSE $BUILD_AUTH", 3, "`BUILD_AUTH` is a secret"),
        ("COPY $BUILD_AUTH /", 3, "`BUILD_AUTH` is a secret"),
        ("ADD a /$BUILD_AUTH", 3, "`BUILD_AUTH` is a secret"),
        ("COPY <<x /y\n$BUILD_AUTH\nx", 3, "`BUILD_AUTH` is a secret"),
        ("CMD echo $BUILD_AUTH", 3, "CMD names the secret `BUILD_AUTH`"),
        ("ENTRYPOINT [\"echo\", \"${BUILD_AUTH}\"]", 3, "ENTRYPOINT names the secret"),
        ("HEALTHCHECK CMD x $BUILD_AUTH", 3, "HEALTHCHECK names the secret"),
        ("ONBUILD RUN x $BUILD_AUTH", 3, "ONBUILD names the secret"),
        ("RUN echo $BUILD_AUTH >/etc/auth", 3, "`/etc/auth` would put the secret `BUILD_AUTH` into the image"),
        ("RUN echo $BUILD_AUTH | base64 >/auth", 3, "`/auth` would put the secret `BUILD_AUTH`"),
        ("RUN --mount=type=secret,id=BUILD_AUTH cp /run/secrets/BUILD_AUTH /a", 3, "`/a` would put the secret"),
        (&format!("{mount} cp /run/secrets/token /t"), 3, "`/t` would put the secret `token` into the image"),
        (&format!("{mount} ln -s \"$(cat /run/secrets/token)\" /l"), 3, "`/l` would put the secret `token`"),
        (&format!("{mount} true\nCOPY token /t"), 4, "`/t` would put the secret `token` into the image"),
    ] {
        let app = app(&format!("{arg}{step}\n"));
        app.file("token", "tok-en:with\"quotes\n");
        let mut all = vec!["build", "-a", "myapp"];
        all.extend(ASKED);
        let run = app.try_run(&all);
        assert_eq!((run.code, run.stderr.as_str()), (1, "ERROR: build failed\n"), "{step}: {}", run.stdout);
        assert!(run.stdout.contains(told), "{step}: {}", run.stdout);
        assert!(run.stdout.contains(&format!("Dockerfile:{line}\n")), "{step}: {}", run.stdout);
        if line == 3 && !step.starts_with("RUN") {
            assert!(!run.stdout.contains("[stage-0"), "a step ran before: {}", run.stdout);
        }
        let forms = forms();
        let texts: Vec<&[u8]> = forms.iter().map(Vec::as_slice).collect();
        assert_eq!(files_with(&app.home().join("store-v1/blobs"), &texts), [] as [String; 0], "{step}");
        assert_eq!(files_with(&app.home().join("store-v1/cache"), &texts), [] as [String; 0], "{step}");
    }
    let from = app("ARG BUILD_AUTH\nFROM busybox:$BUILD_AUTH\n");
    let run = from.try_run(&["build", "-a", "myapp", "--build-args", "BUILD_AUTH"]);
    assert!(run.code == 1 && run.stdout.contains("`BUILD_AUTH` is a secret"), "{}", run.stdout);
}

#[test]
fn who_insists_gets_it_and_nobody_else_does() {
    let app = app("FROM {busybox}\nRUN --mount=type=secret,id=token cp /run/secrets/token /t\n");
    let given = ["--secret", "id=token,src=../token"];
    app.build(&[&given[..], &["--allow-secret-in-layer"]].concat());
    assert_eq!(app.run(&["run", "-a", "myapp", "web", "cat", "/t"]), "tok-en:with\"quotes\n");
    // Not even from the cache.
    let run = app.try_run(&[&["build", "-a", "myapp"], &given[..]].concat());
    assert!(run.code == 1 && run.stdout.contains("would put the secret `token`"), "{}", run.stdout);
    // The same guard stands before the build of one image.
    let run = app.try_run(&[&["build", "-f", "Dockerfile"], &given[..], &["."]].concat());
    assert!(run.code == 1 && run.stderr.contains("would put the secret `token`"), "{}", run.stderr);
    assert!(run.stderr.contains("--allow-secret-in-layer"), "{}", run.stderr);
}

#[test]
fn another_token_finds_the_same_steps_in_the_cache() {
    let app = app("FROM {busybox}\nARG BUILD_AUTH\nRUN test -n \"$BUILD_AUTH\" && echo x >/x\nRUN echo y >/y\n");
    app.build(&["--build-args", "BUILD_AUTH"]);
    let first = app.digests("myapp", &app.newest());
    app.run(&["registries", "add", "private.example", "robot", "another-token-entirely"]);
    let run = app.try_run(&["build", "-a", "myapp", "--build-args", "BUILD_AUTH"]);
    assert_eq!(run.stdout.matches(" CACHED\n").count(), 2, "{}", run.stdout);
    assert_eq!(app.digests("myapp", &app.newest()), first);
}

#[test]
fn credentials_of_the_rack_are_used_for_pulling_and_pushing() {
    let access = Access::Basic { username: "robot".into(), password: PASSWORD.into() };
    let server = Registry::with_access(access).unwrap();
    // An index of two platforms, one of which this machine cannot run: it is copied whole.
    let config = |architecture: &str| {
        format!(r#"{{"os":"linux","architecture":"{architecture}","rootfs":{{"type":"layers","diff_ids":[]}}}}"#)
    };
    let images = ["amd64", "s390x"].map(|name| server.put_image("base", name, config(name).as_bytes(), &[]));
    let index = server.put_index("base", "1", &images);
    let app = App::with(&format!("services:\n  web: {{image: '{}'}}\n", server.reference("base:1").whole()));
    let run = app.try_run(&["build", "-a", "myapp"]);
    assert!(run.code == 1 && run.stdout.contains("cannot read"), "{}", run.stdout);
    let password = app.bench.path("password");
    fs_err::write(&password, PASSWORD).unwrap();
    let mut add = app.command(&["registries", "add", &server.host(), "robot", "--password-stdin"]);
    Run::of(add.stdin(fs_err::File::open(&password).unwrap().into_parts().0));
    app.run(&["rack", "params", "set", &format!("registry={}", server.host())]);
    app.build(&[]);
    let build = app.newest();
    assert_eq!(app.digests("myapp", &build), [("web".to_owned(), index.digest().to_string())]);
    let pushed = server.manifest("myapp", &format!("web.{build}")).unwrap();
    assert_eq!(pushed.1, server.manifest("base", "1").unwrap().1);
    assert!(server.manifest("myapp", images[1].digest().as_ref()).is_some());
    let archive = app.bench.path("build.tgz");
    app.run(&["builds", "export", "-a", "myapp", &build, "-f", archive.to_str().unwrap()]);
    app.run(&["builds", "import", "-a", "other", "-f", archive.to_str().unwrap()]);
    let other = app.json(&["builds", "-a", "other", "--json"])[0]["id"].as_str().unwrap().to_owned();
    assert_eq!(app.digests("other", &other), app.digests("myapp", &build));
}
