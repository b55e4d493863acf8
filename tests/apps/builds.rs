//! Builds of whole apps.

use super::{App, shown};
use crate::common::{Image, Run, peer, registry};

/// Two services of one build, one of another, and an image.
const SHOP: &str = "services:\n  web:\n    build: ./web\n    manifest: Dockerfile.production\n  worker: {build: {path: web, manifest: Dockerfile.production}}\n  api: {build: api}\n  cache: {image: '{busybox}'}\n";

fn shop() -> App {
    let app = App::with(SHOP);
    app.file("web/Dockerfile.production", "FROM {busybox}\nCOPY page /\n");
    app.file("web/page", "hello");
    app.file("api/Dockerfile", "FROM {busybox}\nRUN echo api >/api\nENTRYPOINT [\"cat\", \"/api\"]\n");
    app
}

#[test]
fn every_service_is_built_pushed_and_recorded() {
    let app = shop();
    let place = app.push_to("shop");
    let run = app.try_run(&["build", "-a", "myapp", "-d", "first", "--jobs", "1"]);
    assert_eq!(run.code, 0, "{}{}", run.stdout, run.stderr);
    let text = shown(&run.stdout).replace(place.split_once('/').unwrap().1, "apps");
    // The bytes of layers are told by several threads, and how many they are depends on the times in them.
    let lines = text.lines().filter(|line| !line.contains(" bytes) "));
    let lines: Vec<&str> = lines.map(|line| line.split_once(" down, ").map_or(line, |(line, _)| line)).collect();
    expect_test::expect![[r"
        Packaging source... OK
        Uploading source... OK
        Starting build... OK
        #1 web+worker resolve REGISTRY/library/busybox:latest
        #1 DONE 0.0
        #2 web+worker [stage-0 1/2] FROM REGISTRY/library/busybox:latest
        #2 DONE 0.0
        #3 web+worker [stage-0 2/2] COPY page /
        #3 DONE 0.0
        #4 web+worker push REGISTRY/apps/myapp:web.BXXXXXXXXXX
        #4 0.0 REGISTRY/apps/myapp:web.BXXXXXXXXXX sha256:…
        #4 DONE 0.0
        #5 web+worker push REGISTRY/apps/myapp:worker.BXXXXXXXXXX
        #5 0.0 REGISTRY/apps/myapp:worker.BXXXXXXXXXX sha256:…
        #5 DONE 0.0
        #6 api resolve REGISTRY/library/busybox:latest
        #6 DONE 0.0
        #7 api [stage-0 1/2] FROM REGISTRY/library/busybox:latest
        #7 DONE 0.0
        #8 api [stage-0 2/2] RUN echo api >/api
        #8 DONE 0.0
        #9 api push REGISTRY/apps/myapp:api.BXXXXXXXXXX
        #9 0.0 REGISTRY/apps/myapp:api.BXXXXXXXXXX sha256:…
        #9 DONE 0.0
        #10 cache copy REGISTRY/library/busybox:latest
        #10 0.0 REGISTRY/apps/myapp:cache.BXXXXXXXXXX sha256:…
        #10 DONE 0.0
        2 steps run, 0 cached, 0.0 MB
        Build:   BXXXXXXXXXX
        Release: RXXXXXXXXXX"]]
    .assert_eq(&lines.join("\n"));

    let build = app.newest();
    let digests = app.digests("myapp", &build);
    let inspect = |tag: &str| {
        let name = format!("docker://{tag}");
        peer("skopeo", &["inspect", "--tls-verify=false", "--format", "{{.Digest}}", &name]).trim().to_owned()
    };
    for (service, digest) in &digests {
        assert_eq!(inspect(&format!("{place}/myapp:{service}.{build}")), *digest);
    }
    assert_eq!(digests[0].1, digests[1].1);
    // Not built anew: the very bytes.
    assert_eq!(digests[3].1, inspect(&format!("{}/library/busybox:latest", registry())));
    assert_eq!(app.run(&["run", "-a", "myapp", "api"]), "api\n");
    let log = app.run(&["builds", "logs", "-a", "myapp", &build]);
    assert!(log.starts_with("#1 web+worker resolve") && log.contains("RUN echo api"), "{log}");
}

#[test]
fn an_app_without_a_registry_stays_in_the_store() {
    let app = shop();
    app.build(&[]);
    let build = app.newest();
    let images = app.run(&["images"]);
    assert!(images.contains(&format!("localhost/local/myapp:api.{build}")), "{images}");
    assert_eq!(app.run(&["run", "-a", "myapp", "web", "cat", "/page"]), "hello");
    // What records name is not pruned.
    app.run(&["prune"]);
    assert_eq!(app.run(&["run", "-a", "myapp", "cache", "echo", "still there"]), "still there\n");
}

#[test]
fn managed_arguments_are_there_for_those_who_declare_them() {
    let app = App::with("services:\n  web:\n    build: {path: ., args: [FORM=form, BOTH=form]}\n");
    let names = "APP DEVELOPMENT GENERATION ID MANIFEST RACK GIT_SHA";
    let declared: String = names.split(' ').flat_map(|name| ["ARG BUILD_", name, "\n"]).collect();
    app.file(
        "Dockerfile",
        &format!("FROM {{busybox}}\n{declared}ARG FORM\nARG BOTH\nARG CUSTOM\nARG FROM_ENV\nRUN env | grep -E '^(BUILD_|FORM|BOTH|CUSTOM|FROM_ENV)' | sort >/out\n"),
    );
    app.run(&["env", "set", "-a", "myapp", "FROM_ENV=env", "BOTH=env", "UNDECLARED=env"]);
    let mut arguments = vec!["--build-args", "BOTH=line", "--build-args", "CUSTOM=a  b", "--build-args", "NOBODY=1"];
    let managed: Vec<String> = names.split(' ').map(|name| format!("--build-args=BUILD_{name}")).collect();
    arguments.extend(managed.iter().map(String::as_str));
    let mut all = vec!["build", "-a", "myapp", "--id"];
    all.extend(&arguments);
    let run = app.try_run(&all);
    assert_eq!(run.code, 0, "{}", run.stderr);
    assert!(
        run.stderr.contains("warning: --build-args NOBODY: no Dockerfile of the app declares it"),
        "{}",
        run.stderr
    );
    let seen = app.run(&["run", "-a", "myapp", "web", "cat", "/out"]).replace(&app.newest(), "THE-BUILD");
    expect_test::expect![[r"
        BOTH=line
        BUILD_APP=myapp
        BUILD_DEVELOPMENT=false
        BUILD_GENERATION=2
        BUILD_GIT_SHA=
        BUILD_ID=THE-BUILD
        BUILD_MANIFEST=convox.yml
        BUILD_RACK=local
        CUSTOM=a  b
        FORM=form
        FROM_ENV=env
    "]]
    .assert_eq(&seen);
}

#[test]
fn development_builds_the_stage_of_that_name() {
    let app = App::with("services:\n  web: {}\n");
    app.file("Dockerfile", "FROM {busybox} AS development\nRUN echo dev >/x\nFROM {busybox}\nRUN echo prod >/x\n");
    app.build(&[]);
    assert_eq!(app.run(&["run", "-a", "myapp", "web", "cat", "/x"]), "prod\n");
    app.build(&["--development"]);
    assert_eq!(app.run(&["run", "-a", "myapp", "web", "cat", "/x"]), "dev\n");
}

#[test]
fn the_commit_is_known_and_describes_a_clean_tree() {
    let app = App::with("services:\n  web: {}\n");
    app.file("Dockerfile", "FROM scratch\nCOPY convox.yml /\n");
    let context = app.bench.context();
    let git = |arguments: &[&str]| {
        let mut all = vec!["-C", context.to_str().unwrap(), "-c", "user.name=a", "-c", "user.email=a@example.com"];
        all.extend(arguments);
        peer("git", &all)
    };
    git(&["init", "-q"]);
    git(&["add", "."]);
    git(&["commit", "-qm", "the first"]);
    let commit = git(&["rev-parse", "HEAD"]).trim().to_owned();
    app.build(&[]);
    let info = app.json(&["builds", "info", "-a", "myapp", &app.newest(), "--json"]);
    assert_eq!(info["git-sha"], commit.as_str());
    assert_eq!(info["description"], format!("build {} the first", &commit[..10]));
    app.file("convox.yml", "services:\n  web: {port: 1}\n");
    app.build(&[]);
    assert_eq!(app.json(&["builds", "info", "-a", "myapp", &app.newest(), "--json"])["description"], "");
}

#[test]
fn a_failure_is_told_with_its_lines_and_recorded() {
    let app = shop();
    app.file("api/Dockerfile", "FROM {busybox}\nRUN echo before; exit 3\n");
    let run = app.try_run(&["build", "-a", "myapp"]);
    assert_eq!((run.code, run.stderr.as_str()), (1, "ERROR: build failed\n"), "{}", run.stdout);
    assert!(run.stdout.contains("`RUN echo before; exit 3` exited with status 3"), "{}", run.stdout);
    assert!(run.stdout.contains(">>> 2 | RUN echo before; exit 3"), "{}", run.stdout);
    let table = shown(&app.run(&["builds", "-a", "myapp"]));
    let expected = "ID           STATUS  RELEASE  STARTED  ELAPSED  DESCRIPTION\nBXXXXXXXXXX  failed           now      0s       \n";
    assert_eq!(table, expected);
    let build = app.json(&["builds", "-a", "myapp", "--json"])[0]["id"].as_str().unwrap().to_owned();
    assert!(app.run(&["builds", "logs", "-a", "myapp", &build]).contains("exited with status 3"));
    assert_eq!(app.run(&["releases", "-a", "myapp"]), "ID  STATUS  BUILD  CREATED  DESCRIPTION\n");
}

#[test]
fn the_rules_of_registries_hold_for_apps_too() {
    let app = App::with("services:\n  web: {}\n  other: {image: registry.invalid/library/busybox}\n");
    app.file("Dockerfile", "FROM registry.invalid/library/busybox\nCOPY convox.yml /\n");
    let rules = format!("[[registry]]\nprefix = \"registry.invalid\"\nlocation = \"{}\"\n", registry());
    let rules = app.bench.file("registries.conf", &rules);
    let mut build = app.command(&["build", "-a", "myapp"]);
    let run = Run::of(build.env("CONTAINERS_REGISTRIES_CONF", &rules));
    assert_eq!(run.code, 0, "{}{}", run.stdout, run.stderr);
    let refused = app.try_run(&["build", "-a", "myapp", "--registry-ca", "none.pem"]);
    assert!(refused.code == 1 && refused.stdout.contains("none.pem"), "{}{}", refused.stdout, refused.stderr);
}

#[test]
fn what_is_missing_begins_no_build_or_is_named() {
    let app = shop();
    let run = app.try_run(&["build", "-a", "myapp", "--secret", "id=x,src=/none"]);
    assert!(run.code == 1 && run.stderr.contains("cannot read the secret `x`"), "{}", run.stderr);
    assert_eq!(app.run(&["builds", "-a", "myapp", "--json"]).trim(), "[]");
    fs_err::remove_file(app.bench.context().join("api/Dockerfile")).unwrap();
    let run = app.try_run(&["build", "-a", "myapp"]);
    let told = "cannot read the Dockerfile `./api/Dockerfile` of the service `api`; `manifest` in its `build`";
    assert!(run.code == 1 && run.stdout.contains(told), "{}", run.stdout);
}

#[test]
fn links_lead_neither_out_of_the_app_nor_past_its_dockerignore() {
    let app = App::with("services:\n  web: {build: link}\n");
    app.file("web/Dockerfile", "FROM scratch\nCOPY . /\n");
    app.file("web/private", "key");
    app.file(".dockerignore", "web/private\n");
    let link = |name: &str, target: &str| {
        let at = app.bench.context().join(name);
        std::os::unix::fs::symlink(target, at).unwrap();
    };
    link("link", "web");
    let layout = app.bench.path("layout");
    app.build(&[]);
    let image = format!("store:localhost/local/myapp:web.{}", app.newest());
    app.run(&["copy", "--progress", "quiet", &image, &format!("oci:{}:web", layout.display())]);
    assert_eq!(Image::read(&layout).contents().keys().collect::<Vec<_>>(), ["Dockerfile"]);
    fs_err::write(app.bench.path("Dockerfile"), "FROM scratch\n").unwrap();
    link("out", "../");
    link("web/Other", "../../Dockerfile");
    for form in ["out", "{path: web, manifest: Other}"] {
        app.file("convox.yml", &format!("services:\n  web: {{build: {form}}}\n"));
        let run = app.try_run(&["build", "-a", "myapp"]);
        let told = "which is not below the directory of the app";
        assert!(run.code == 1 && run.stdout.contains(told), "{form}: {}", run.stdout);
    }
}

#[test]
fn mistakes_in_the_manifest_have_lines() {
    for (manifest, told) in [
        ("services:\n  web:\n    build: [x]\n", "convox.yml`: line 3: `build` is a path or a map"),
        ("services:\n  web:\n\tx: 1\n", "convox.yml`: line 3: this is no YAML"),
        ("services:\n  web: {build: ../x}\n", "not below the directory of the app"),
        ("services:\n  web: {image: '${NONE}'}\n", "the service `web` has no image"),
    ] {
        let run = App::with(manifest).try_run(&["build", "-a", "myapp"]);
        assert_eq!(run.code, 1, "{}", run.stdout);
        assert!(format!("{}{}", run.stdout, run.stderr).contains(told), "{}{}", run.stdout, run.stderr);
    }
    let app = App::with("services:\n  web: {biuld: x}\n");
    app.file("Dockerfile", "FROM scratch\nCOPY convox.yml /\n");
    let run = app.try_run(&["build", "-a", "myapp"]);
    assert_eq!(run.stdout.matches("warning: line 2: nothing knows the key `services.web.biuld`").count(), 1);
}

#[test]
fn one_image_and_an_app_are_not_mixed_up() {
    let app = shop();
    app.file("Dockerfile", "FROM scratch\nCOPY convox.yml /\n");
    // A flag of one image makes it one, though there is a convox.yml.
    app.run(&["build", "-f", "Dockerfile", "."]);
    app.run(&["build", "-t", "one", "."]);
    let Run { code, stderr, .. } = app.try_run(&["build", "-a", "myapp", "-t", "one", "."]);
    assert!(code == 1 && stderr.starts_with("ERROR: `-t` is for the build of one Dockerfile"), "{stderr}");
    // Without any, the file decides.
    let run = app.try_run(&["."]);
    assert_eq!(run.stdout.lines().next(), Some("Packaging source... OK"), "{}", run.stderr);
}

#[test]
fn an_app_shares_caches_and_its_log_says_why_a_step_ran() {
    let app = shop();
    let kept = tempfile::tempdir().unwrap();
    let place = kept.path().display();
    app.build(&["--explain", "--cache-to", &format!("type=local,dest={place},mode=max")]);
    let log = app.run(&["builds", "logs", "-a", "myapp", &app.newest()]);
    assert_eq!(log.matches("runs because: no step like it has run here before").count(), 2, "{log}");

    let elsewhere = shop();
    elsewhere.file("web/page", "changed");
    elsewhere.build(&["--cache-from", &format!("type=local,src={place}")]);
    let build = elsewhere.newest();
    let log = elsewhere.run(&["builds", "logs", "-a", "myapp", &build]);
    assert_eq!((log.matches("CACHED (remote").count(), log.matches("runs because: ").count()), (1, 0), "{log}");
    // The record has the reason, whether it was shown or not.
    let info = elsewhere.json(&["builds", "info", "-a", "myapp", &build, "--json"]);
    let step = |name: &str| {
        let steps = info["steps"].as_array().unwrap().iter();
        let mut named = steps.filter(|step| step["name"].as_str().unwrap().contains(name));
        named.next().unwrap_or_else(|| panic!("{name}: {info:#}")).clone()
    };
    assert_eq!(step("COPY page")["missed"], "no step like it has run here before");
    assert_eq!((&step("RUN echo api")["cached"], &step("RUN echo api")["missed"]), (&true.into(), &().into()));
}

#[test]
fn an_app_keeps_its_steps_beside_its_images() {
    let app = shop();
    let place = app.push_to("steps");
    app.build(&[]);
    let first = app.digests("myapp", &app.newest());
    let elsewhere = || {
        let app = shop();
        assert_eq!(app.push_to("steps"), place);
        app
    };
    let app = elsewhere();
    let run = app.try_run(&["build", "-a", "myapp"]);
    assert_eq!(run.code, 0, "{}{}", run.stdout, run.stderr);
    assert!(run.stdout.contains("\n0 steps run, 2 cached, "), "{}", run.stdout);
    assert_eq!(app.digests("myapp", &app.newest()), first);

    // Another repository has nothing so far, and a rack can do without.
    for setting in [format!("cache={place}/elsewhere"), "disable_image_manifest_cache=true".to_owned()] {
        let app = elsewhere();
        app.run(&["rack", "params", "set", &setting]);
        let run = app.try_run(&["build", "-a", "myapp"]);
        assert!(run.stdout.contains("\n2 steps run, 0 cached, "), "{}{}", run.stdout, run.stderr);
    }
    let tags = peer("skopeo", &["list-tags", "--tls-verify=false", &format!("docker://{place}/elsewhere")]);
    assert!(tags.contains("\"k-"), "{tags}");
}

#[test]
fn settings_of_an_app_limit_its_steps_as_flags_do() {
    let app = App::with("services:\n  web: {}\n");
    app.file("Dockerfile", "FROM {busybox}\nRUN true\n");
    // Where steps cannot be limited, whoever asks for it is told why.
    let warned = |flags: &[&str]| {
        let run = app.try_run(&[&["build", "-a", "myapp"], flags].concat());
        assert_eq!(run.code, 0, "{}{}", run.stdout, run.stderr);
        run.stdout.contains("warning: the memory and processors of steps are not limited: cannot ")
    };
    let (plain, flags) = (warned(&["--no-cache"]), warned(&["--no-cache", "--memory=64m", "--cpus=1.5"]));
    app.run(&["apps", "params", "set", "-a", "myapp", "BuildMem=64", "BuildCpu=1500"]);
    assert_eq!((plain, warned(&["--no-cache"])), (false, flags));
    let run = app.try_run(&["apps", "params", "set", "-a", "myapp", "BuildMem=much"]);
    assert_eq!((run.code, run.stderr.as_str()), (1, "ERROR: `BuildMem=much`: write a number\n"));
}

#[test]
fn what_the_app_ignores_is_in_no_context_below() {
    let app = App::with("services:\n  web: {build: ./web/}\n");
    app.file(".dockerignore", "web/private\n**/*.key\n");
    app.file("web/.dockerignore", "ignored\n!private\n");
    app.file("web/Dockerfile", "FROM {busybox}\nCOPY . /all/\n");
    for path in ["private", "a.key", "deep/b.key", "deep/kept", "ignored", "kept"] {
        app.file(&format!("web/{path}"), path);
    }
    app.build(&[]);
    let found = app.run(&["run", "-a", "myapp", "web", "find", "/all", "-type", "f"]);
    let found: std::collections::BTreeSet<&str> = found.lines().collect();
    let kept = ["/all/.dockerignore", "/all/Dockerfile", "/all/deep/kept", "/all/kept"];
    assert_eq!(found, std::collections::BTreeSet::from(kept));
}
