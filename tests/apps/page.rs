//! The examples of Convox's page about builds, in its order, with a fixed clock: what is typed, what is said, how it ends.

use std::process::Stdio;

use super::{App, shown};
use crate::common::{Run, peer};

/// What the page defines, word for word.
const DEFINITION: &str =
    "services:\n  api:\n    build: ./api\n  web:\n    build: ./web\n    manifest: Dockerfile.production\n";

/// When the page looks at the build that the tests' clock began.
const LATER: &str = "2026-01-02T03:05:30Z";

fn page() -> App {
    let app = App::with(DEFINITION);
    app.file("api/Dockerfile", "FROM {busybox}\nRUN echo api >/api\n");
    app.file("web/Dockerfile.production", "FROM {busybox}\nCOPY page /\n");
    app.file("web/page", "hello");
    app
}

/// A command with what it says, on which side, and its code where that is not 0.
fn typed(app: &App, clock: Option<&str>, arguments: &[&str]) -> String {
    let mut command = app.command(arguments);
    command.env("HOST_VALUE", "of the caller");
    if let Some(clock) = clock {
        command.env("RBUILD_CLOCK", clock);
    }
    let Run { code, stdout, stderr } = Run::of(&mut command);
    let stderr: Vec<String> = stderr.split_inclusive('\n').map(|line| format!("stderr: {line}")).collect();
    let code = if code == 0 { String::new() } else { format!("exit {code}\n") };
    let place = app.bench.path("");
    // The bytes of layers are told by several threads.
    let said =
        [&stdout, &stderr.concat(), &code].map(String::as_str).concat().replace(place.to_str().unwrap(), "/tmp/");
    let lines = said.split_inclusive('\n').filter(|line| !line.contains(" bytes) "));
    let line = arguments.join(" ").replace(place.to_str().unwrap(), "/tmp/");
    shown(&format!("$ rbuild {line}\n{}", lines.collect::<String>()))
}

#[test]
fn a_build_is_created_listed_shown_exported_and_imported() {
    let app = page();
    expect_test::expect![[r"
        $ rbuild build -a myapp --jobs 1
        Packaging source... OK
        Uploading source... OK
        Starting build... OK
        #1 api resolve REGISTRY/library/busybox:latest
        #1 DONE 0.0
        #2 api [stage-0 1/2] FROM REGISTRY/library/busybox:latest
        #2 DONE 0.0
        #3 api [stage-0 2/2] RUN echo api >/api
        #3 DONE 0.0
        #4 web resolve REGISTRY/library/busybox:latest
        #4 DONE 0.0
        #5 web [stage-0 2/2] COPY page /
        #5 DONE 0.0
        2 steps run, 0 cached, 0.0 MB down, 0 B up, 0.0 saved
        Build:   BXXXXXXXXXX
        Release: RXXXXXXXXXX
    "]]
    .assert_eq(&typed(&app, None, &["build", "-a", "myapp", "--jobs", "1"]));
    let build = app.newest();
    // A fixed clock does not move while the build runs: the page's took 25 seconds.
    let record = app.home().join("racks/local/apps/myapp/builds").join(&build).join("build.json");
    let text = fs_err::read_to_string(&record).unwrap();
    fs_err::write(&record, text.replace("\"ended\": \"2026-01-02T03:04:05Z\"", "\"ended\": \"2026-01-02T03:04:30Z\""))
        .unwrap();
    let later = |arguments: &[&str]| typed(&app, Some(LATER), arguments);
    expect_test::expect![[r"
        $ rbuild builds -a myapp
        ID           STATUS    RELEASE      STARTED       ELAPSED  DESCRIPTION
        BXXXXXXXXXX  complete  RXXXXXXXXXX  1 minute ago  25s      
    "]]
    .assert_eq(&later(&["builds", "-a", "myapp"]));
    expect_test::expect![[r"
        $ rbuild builds info BXXXXXXXXXX -a myapp
        Id           BXXXXXXXXXX
        Status       complete
        Release      RXXXXXXXXXX
        Description  
        Started      1 minute ago
        Elapsed      25s
    "]]
    .assert_eq(&later(&["builds", "info", &build, "-a", "myapp"]));
    expect_test::expect![[r"
        $ rbuild builds logs BXXXXXXXXXX -a myapp
        #1 api resolve REGISTRY/library/busybox:latest
        #1 DONE 0.0
        #2 api [stage-0 1/2] FROM REGISTRY/library/busybox:latest
        #2 DONE 0.0
        #3 api [stage-0 2/2] RUN echo api >/api
        #3 DONE 0.0
        #4 web resolve REGISTRY/library/busybox:latest
        #4 DONE 0.0
        #5 web [stage-0 2/2] COPY page /
        #5 DONE 0.0
        2 steps run, 0 cached, 0.0 MB down, 0 B up, 0.0 saved
    "]]
    .assert_eq(&later(&["builds", "logs", &build, "-a", "myapp"]));
    let file = app.bench.path("build.tgz");
    let file = file.to_str().unwrap();
    expect_test::expect![[r"
        $ rbuild builds export BXXXXXXXXXX -a myapp -f /tmp/build.tgz
        Exporting build... OK
    "]]
    .assert_eq(&later(&["builds", "export", &build, "-a", "myapp", "-f", file]));
    expect_test::expect![[r"
        $ rbuild builds import -a myapp2 -f /tmp/build.tgz
        Importing build... OK, RXXXXXXXXXX
    "]]
    .assert_eq(&later(&["builds", "import", "-a", "myapp2", "-f", file]));
    expect_test::expect![[r"
        $ rbuild builds -a myapp2
        ID           STATUS    RELEASE      STARTED  ELAPSED  DESCRIPTION
        BXXXXXXXXXX  complete  RXXXXXXXXXX  now      0s       
    "]]
    .assert_eq(&later(&["builds", "-a", "myapp2"]));
    expect_test::expect![[r"
        $ rbuild releases -a myapp2
        ID           STATUS  BUILD        CREATED  DESCRIPTION
        RXXXXXXXXXX          BXXXXXXXXXX  now      
    "]]
    .assert_eq(&later(&["releases", "-a", "myapp2"]));
}

#[test]
fn what_the_page_does_not_show_fails_as_convox_does() {
    let app = page();
    app.file("web/Dockerfile.production", "FROM {busybox}\nRUN false\n");
    let mut said = String::new();
    for arguments in [
        &["builds", "info", "BABCDEFGHI", "-a", "myapp"][..],
        &["builds", "logs", "BABCDEFGHI", "-a", "myapp"],
        &["builds", "export", "BABCDEFGHI", "-a", "myapp", "-f", "/dev/null"],
        &["builds", "import", "-a", "myapp", "-f", "/dev/null"],
        &["builds", "info"],
        &["builds", "info", "BA", "BB"],
        &["builds", "--colour"],
        &["releases", "promote", "RA", "RB"],
        &["registries", "add", "quay.io", "robot"],
        &["registries", "remove"],
        &["deploy", "a", "b"],
        &["rack", "params", "set"],
        &["builds", "-l", "many"],
        &["build", "-a", "myapp", "--id"],
    ] {
        let text = typed(&app, None, arguments);
        // Of the build that fails its last line alone: the rest is another test's.
        let lines: Vec<&str> = text.lines().collect();
        let from = if arguments[0] == "build" { lines.len() - 2 } else { 1 };
        said.push_str(&[&lines[..1], &lines[from..]].concat().join("\n"));
        said.push('\n');
    }
    expect_test::expect![[r"
        $ rbuild builds info BABCDEFGHI -a myapp
        stderr: ERROR: no such build: BABCDEFGHI
        exit 1
        $ rbuild builds logs BABCDEFGHI -a myapp
        stderr: ERROR: no such build: BABCDEFGHI
        exit 1
        $ rbuild builds export BABCDEFGHI -a myapp -f /dev/null
        stderr: ERROR: no such build: BABCDEFGHI
        exit 1
        $ rbuild builds import -a myapp -f /dev/null
        Importing build... stderr: ERROR: cannot read the archive: unexpected end of file
        exit 1
        $ rbuild builds info
        stderr: ERROR: 1 arg required
        exit 1
        $ rbuild builds info BA BB
        stderr: ERROR: 1 arg required
        exit 1
        $ rbuild builds --colour
        stderr: ERROR: unknown flag: --colour
        exit 1
        $ rbuild releases promote RA RB
        stderr: ERROR: no more than 1 arg expected
        exit 1
        $ rbuild registries add quay.io robot
        stderr: ERROR: 3 args required
        exit 1
        $ rbuild registries remove
        stderr: ERROR: 1 arg required
        exit 1
        $ rbuild deploy a b
        stderr: ERROR: no more than 1 arg expected
        exit 1
        $ rbuild rack params set
        stderr: ERROR: 1 arg required
        exit 1
        $ rbuild builds -l many
        stderr: ERROR: invalid value 'many' for '--limit <N>': invalid digit found in string
        exit 1
        $ rbuild build -a myapp --id
        stderr: ERROR: build failed
        exit 1
    "]]
    .assert_eq(&said);
}

#[test]
fn a_piped_archive_leaves_standard_output_to_the_bytes() {
    let app = page();
    app.build(&[]);
    let build = app.newest();
    let mut export = app.command(&["builds", "export", &build, "-a", "myapp"]);
    let exported = export.output().unwrap();
    assert_eq!(String::from_utf8_lossy(&exported.stderr), "Exporting build... OK\n");
    let file = app.bench.path("piped.tgz");
    fs_err::write(&file, exported.stdout).unwrap();
    let mut import = app.command(&["builds", "import", "-a", "myapp2"]);
    import.stdin(Stdio::from(fs_err::File::open(&file).unwrap().into_parts().0));
    let run = Run::of(&mut import);
    assert_eq!((shown(&run.stdout).as_str(), run.stderr.as_str()), ("Importing build... OK, RXXXXXXXXXX\n", ""));
}

#[test]
fn build_arguments_are_managed_or_custom() {
    let app = App::with("services:\n  web: {}\n");
    app.file(
        "Dockerfile",
        "FROM {busybox}\nARG BUILD_APP\nARG BUILD_GENERATION\nARG FOO\nARG VERSION\nARG HOST_VALUE\nARG BUILD_ID\n\
        RUN echo \"$BUILD_APP $BUILD_GENERATION $FOO $VERSION $HOST_VALUE [$BUILD_ID]\"\n",
    );
    let mut arguments = vec!["build", "-a", "myapp", "--jobs", "1"];
    for given in ["BUILD_APP", "BUILD_GENERATION", "FOO=BAR", "VERSION=v1 beta", "HOST_VALUE", "NOBODY", "UNUSED=1"] {
        arguments.extend(["--build-args", given]);
    }
    expect_test::expect![[r#"
        $ rbuild build -a myapp --jobs 1 --build-args BUILD_APP --build-args BUILD_GENERATION --build-args FOO=BAR --build-args VERSION=v1 beta --build-args HOST_VALUE --build-args NOBODY --build-args UNUSED=1
        Packaging source... OK
        Uploading source... OK
        Starting build... OK
        warning: --build-args NOBODY: nobody gives it a value, so it has none
        warning: --build-args UNUSED: no Dockerfile of the app declares it with ARG
        #1 web resolve REGISTRY/library/busybox:latest
        #1 DONE 0.0
        #2 web [stage-0 1/2] FROM REGISTRY/library/busybox:latest
        #2 DONE 0.0
        #3 web [stage-0 2/2] RUN echo "$BUILD_APP $BUILD_GENERATION $FOO $VERSION $HOST_VALUE [$BUILD_ID]"
        #3 0.0 myapp 2 BAR v1 beta of the caller []
        #3 DONE 0.0
        1 step run, 0 cached, 0.0 MB down, 0 B up, 0.0 saved
        Build:   BXXXXXXXXXX
        Release: RXXXXXXXXXX
    "#]].assert_eq(&typed(&app, None, &arguments));
}

#[test]
fn credentials_are_given_listed_and_taken_away() {
    let app = App::with("services:\n  web: {}\n");
    let mut said = String::new();
    for arguments in [
        &["registries", "add", "quay.io", "robot", "secret-1"][..],
        &["registries", "add", "registry.example.com:5000", "me", "secret-2"],
        &["registries"],
        &["registries", "--json"],
        &["rack", "params", "set", "docker_hub_username=me", "docker_hub_password=secret-3"],
        &["rack", "params"],
        &["rack", "params", "--json"],
        &["registries", "remove", "quay.io"],
        &["registries", "remove", "quay.io"],
        &["registries"],
    ] {
        said.push_str(&typed(&app, None, arguments));
    }
    expect_test::expect![[r#"
        $ rbuild registries add quay.io robot secret-1
        Adding registry... OK
        $ rbuild registries add registry.example.com:5000 me secret-2
        Adding registry... OK
        $ rbuild registries
        SERVER                     USERNAME
        quay.io                    robot
        registry.example.com:5000  me
        $ rbuild registries --json
        [
          {
            "server": "quay.io",
            "username": "robot"
          },
          {
            "server": "registry.example.com:5000",
            "username": "me"
          }
        ]
        $ rbuild rack params set docker_hub_username=me docker_hub_password=secret-3
        Setting parameters... OK
        $ rbuild rack params
        docker_hub_password  **********
        docker_hub_username  me
        $ rbuild rack params --json
        {
          "docker_hub_password": "**********",
          "docker_hub_username": "me"
        }
        $ rbuild registries remove quay.io
        Removing registry... OK
        $ rbuild registries remove quay.io
        Removing registry... stderr: ERROR: no such registry: quay.io
        exit 1
        $ rbuild registries
        SERVER                     USERNAME
        registry.example.com:5000  me
    "#]]
    .assert_eq(&said);
    let shows = peer("grep", &["-rl", "secret-", app.home().to_str().unwrap()]);
    // In plain text where parameters are, which is for the user alone; encoded where credentials are.
    assert_eq!(shows.trim_end(), app.home().join("racks/local/params.json").to_str().unwrap());
}
