//! What the commands about apps print, word for word.

use super::{App, CLOCK, shown};

/// Records as a rack that has been used for a while has them.
fn used() -> App {
    let app = App::with("services:\n  web: {}\n");
    let builds = app.home().join("racks/local/apps/myapp/builds");
    for (id, status, release, started, ended, description) in [
        ("BBUILDA", "complete", "RRELEASEA", "2025-12-31T03:04:05Z", "2025-12-31T03:06:05Z", "desc"),
        ("BBUILDB", "running", "", "2025-12-31T03:04:04Z", "0001-01-01T00:00:00Z", ""),
        ("BBUILDC", "failed", "", "2025-12-31T03:04:03Z", "0001-01-01T00:00:00Z", ""),
    ] {
        fs_err::create_dir_all(builds.join(id)).unwrap();
        let record = serde_json::json!({ "id": id, "app": "myapp", "status": status, "release": release,
            "started": started, "ended": ended, "description": description });
        fs_err::write(builds.join(id).join("build.json"), record.to_string()).unwrap();
        fs_err::write(builds.join(id).join("log"), "line1\nline2\n").unwrap();
    }
    app
}

#[test]
fn builds_are_a_table() {
    let app = used();
    expect_test::expect![[r"
        ID       STATUS    RELEASE    STARTED     ELAPSED  DESCRIPTION
        BBUILDA  complete  RRELEASEA  2 days ago  2m0s     desc
        BBUILDB  running              2 days ago           
        BBUILDC  failed               2 days ago           
    "]]
    .assert_eq(&app.run(&["builds", "-a", "myapp"]));
    assert_eq!(app.run(&["builds", "-a", "myapp", "-l", "1"]).lines().count(), 2);
    assert_eq!(app.json(&["builds", "-a", "myapp", "--json"])[1]["status"], "running");
    expect_test::expect![[r"
        Id           BBUILDA
        Status       complete
        Release      RRELEASEA
        Description  desc
        Started      2 days ago
        Elapsed      2m0s
    "]]
    .assert_eq(&app.run(&["builds", "info", "-a", "myapp", "BBUILDA"]));
    assert_eq!(app.run(&["builds", "logs", "-a", "myapp", "BBUILDA"]), "line1\nline2\n");
}

#[test]
fn errors_are_said_as_convox_says_them() {
    let app = used();
    for (arguments, told) in [
        (&["builds", "info", "BNONE"][..], "ERROR: no such build: BNONE\n"),
        (&["builds", "info", "../../x"], "ERROR: no such build: ../../x\n"),
        (&["builds", "export", "BBUILDC"], "ERROR: the build BBUILDC is failed: it has no images\n"),
        (&["releases", "info", "RNONE"], "ERROR: no such release: RNONE\n"),
        (&["releases", "promote"], "ERROR: no releases to promote\n"),
        (&["env", "get", "NONE"], "ERROR: env not found: NONE\n"),
        (&["registries", "remove", "none.example"], "ERROR: no such registry: none.example\n"),
        (&["rack", "params", "set", "colour=1"], "ERROR: no such parameter: colour"),
        (&["builds", "-a", "../x"], "ERROR: `../x` is no name of an app"),
        (&["builds", "-r", "A"], "ERROR: `A` is no name of a rack"),
        (&["run", "web"], "ERROR: the app myapp has no build"),
    ] {
        let mut all = arguments.to_vec();
        if !arguments.contains(&"-a") && !["registries", "rack"].contains(&arguments[0]) {
            all.extend(["-a", "myapp"]);
        }
        if arguments[0] == "run" {
            all = vec!["run", "-a", "myapp", "web"];
        }
        let run = app.try_run(&all);
        assert!(run.code == 1 && run.stderr.starts_with(told), "{arguments:?}: {}{}", run.stdout, run.stderr);
    }
}

#[test]
fn the_app_and_the_rack_are_found_where_convox_looks() {
    let app = App::with("services:\n  web: {}\n");
    app.file(".convox/app", "fromfile\n");
    app.file(".convox/rack", "fromrack\n");
    app.run(&["env", "set", "A=1"]);
    assert_eq!(app.run(&["env", "-a", "fromfile", "-r", "fromrack"]), "A=1\n");
    let mut command = app.command(&["env", "set", "B=1"]);
    crate::common::Run::of(command.env("CONVOX_RACK", "theirs").env("RBUILD_RACK", "ours"));
    assert_eq!(app.run(&["env", "-r", "ours"]), "B=1\n");
    fs_err::remove_dir_all(app.bench.context().join(".convox")).unwrap();
    app.run(&["env", "set", "C=1"]);
    assert_eq!(app.run(&["env", "-a", "context"]), "C=1\n");
}

#[test]
fn the_environment_makes_releases() {
    let app = App::with("services:\n  web: {}\n");
    let said = shown(&app.run(&["env", "set", "-a", "myapp", "B=2", "A=one two"]));
    assert_eq!(said, "Setting B, A... OK\nRelease: RXXXXXXXXXX\n");
    assert_eq!(app.run(&["env", "-a", "myapp"]), "A=one two\nB=2\n");
    assert_eq!(app.run(&["env", "get", "-a", "myapp", "A"]), "one two\n");
    app.run(&["env", "unset", "-a", "myapp", "B"]);
    expect_test::expect![[r"
        ID           STATUS  BUILD  CREATED  DESCRIPTION
        RXXXXXXXXXX                 now      env remove:B
        RXXXXXXXXXX                 now      env add:A add:B
    "]]
    .assert_eq(&shown(&app.run(&["releases", "-a", "myapp"])));
    assert_eq!(app.json(&["releases", "-a", "myapp", "--json"])[0]["env"], "A=****");
}

#[test]
fn passwords_are_not_shown() {
    let app = App::with("services:\n  web: {}\n");
    app.run(&["rack", "params", "set", "docker_hub_username=me", "docker_hub_password=hunter22"]);
    let shown = "docker_hub_password  **********\ndocker_hub_username  me\n";
    assert_eq!(app.run(&["rack", "params"]), shown);
    assert!(app.run(&["rack", "params", "--reveal"]).contains("hunter22"));
    let said = app.run(&["registries", "add", "quay.io", "me", "pw"]);
    assert_eq!(said, "Adding registry... OK\n");
    assert_eq!(app.run(&["registries"]), "SERVER   USERNAME\nquay.io  me\n");
    assert_eq!(app.run(&["registries", "remove", "quay.io"]), "Removing registry... OK\n");
    let run = app.try_run(&["rack", "params", "set", "build_node_enabled=true"]);
    assert!(run.code == 0 && run.stderr.contains("`build_node_enabled` is kept and has no effect"), "{}", run.stderr);
    app.run(&["apps", "params", "set", "-a", "myapp", "BuildArch=arm64"]);
    assert_eq!(app.run(&["apps", "params", "-a", "myapp"]), "BuildArch  arm64\n");
}

#[test]
fn releases_are_promoted_rolled_back_and_put_together() {
    let app = App::with("environment:\n  - NEEDED\nservices:\n  web: {}\n");
    app.file("Dockerfile", "FROM scratch\nCOPY convox.yml /\n");
    let first = app.build(&["-d", "first"]);
    let run = app.try_run(&["releases", "promote", "-a", "myapp", &first]);
    assert_eq!((run.code, run.stderr.as_str()), (1, "ERROR: required env: NEEDED\n"));
    app.run(&["env", "set", "-a", "myapp", "NEEDED=1"]);
    assert_eq!(shown(&app.run(&["releases", "promote", "-a", "myapp"])), "Promoting RXXXXXXXXXX... OK\n");
    let second = app.build(&["-d", "second"]);
    app.run(&["releases", "promote", "-a", "myapp", &second]);
    let said = app.run(&["releases", "create-from", "-a", "myapp", "--build-from", &first, "--use-active-release-env"]);
    assert_eq!(
        said.lines().take(2).collect::<Vec<_>>(),
        [format!("Using build from release: {first}"), format!("Using env from release: {second}")]
    );
    let back = app.run(&["releases", "rollback", "-a", "myapp", "--id", &second]);
    assert_eq!(app.run(&["releases", "info", "-a", "myapp", &back]).lines().next_back(), Some("Env          NEEDED=1"));
    expect_test::expect![[r"
        ID           STATUS  BUILD        CREATED  DESCRIPTION
        RXXXXXXXXXX  active  BXXXXXXXXXX  now      rollback to RXXXXXXXXXX
        RXXXXXXXXXX          BXXXXXXXXXX  now      build from RXXXXXXXXXX, env from RXXXXXXXXXX
        RXXXXXXXXXX          BXXXXXXXXXX  now      second
        RXXXXXXXXXX          BXXXXXXXXXX  now      env add:NEEDED
        RXXXXXXXXXX          BXXXXXXXXXX  now      first
    "]]
    .assert_eq(&shown(&app.run(&["releases", "-a", "myapp"])));
    let info = shown(&app.run(&["releases", "info", "-a", "myapp", &second]));
    assert_eq!(
        info,
        format!(
            "Id           RXXXXXXXXXX\nBuild        BXXXXXXXXXX\nCreated      {CLOCK}\nDescription  second\nEnv          NEEDED=1\n"
        )
    );
    let text = app.run(&["releases", "manifest", "-a", "myapp", &second]);
    assert_eq!(text, "environment:\n  - NEEDED\nservices:\n  web: {}\n");
    // Retention: what is older than the active release and more than one goes, with builds of its own.
    app.run(&["rack", "params", "set", "releases_to_retain_after_active=1"]);
    app.run(&["deploy", "-a", "myapp", "-d", "third"]);
    assert_eq!(app.json(&["releases", "-a", "myapp", "--json"]).as_array().unwrap().len(), 2);
    assert_eq!(app.json(&["builds", "-a", "myapp", "--json"]).as_array().unwrap().len(), 2);
}
