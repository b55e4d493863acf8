//! `--call`: checks and what their findings do to a build, targets and outlines.

#![expect(clippy::needless_raw_string_hashes, reason = "`UPDATE_EXPECT=1` writes them")]

use expect_test::expect;
use serde_json::{Value, json};

use crate::checks::checked;
use crate::common::{Bench, Run};

#[test]
fn the_directive_and_the_build_arg_choose_the_checks() {
    let text = "FROM scratch\nMAINTAINER x\nCMD y\n";
    let rules = |run: &Run| -> Vec<String> {
        let lines = run.stdout.lines().chain(run.stderr.lines());
        let names =
            lines.filter_map(|line| line.split_once(": ")).filter(|(kind, _)| matches!(*kind, "warning" | "error"));
        names.map(|(_, rest)| rest.split(':').next().unwrap().to_owned()).collect()
    };
    for (directive, argument, code, found) in [
        ("", "", 1, &["MaintainerDeprecated", "JSONArgsRecommended"][..]),
        ("skip=MaintainerDeprecated", "", 1, &["JSONArgsRecommended"]),
        ("skip=all", "", 0, &[]),
        ("skip=all;error=true", "", 0, &[]),
        ("skip=all", "skip=JSONArgsRecommended", 1, &["MaintainerDeprecated"]),
        ("", "skip=all", 0, &[]),
    ] {
        let head = if directive.is_empty() { String::new() } else { format!("# check={directive}\n") };
        let bench = Bench::with(&format!("{head}{text}"));
        let given = format!("BUILDKIT_DOCKERFILE_CHECK={argument}");
        let arguments = if argument.is_empty() { vec![] } else { vec!["--build-arg", given.as_str()] };
        let run = checked(&bench, &arguments);
        assert_eq!(
            (run.code, rules(&run)),
            (code, found.iter().map(ToString::to_string).collect()),
            "{directive} {argument}"
        );
    }
    let run = checked(&Bench::with(text), &["--build-arg", "BUILDKIT_DOCKERFILE_CHECK=skipp=all"]);
    assert!(run.code == 1 && run.stderr.contains("unknown check option `skipp`"), "{}", run.stderr);
}

#[test]
fn findings_are_errors_where_the_file_says_so() {
    let bench = Bench::with("# check=error=true\nFROM scratch\nMAINTAINER x\n");
    let run = checked(&bench, &[]);
    assert_eq!((run.code, run.stdout.as_str()), (1, ""));
    expect![[r#"
        error: MaintainerDeprecated: `MAINTAINER` is deprecated
          ./Dockerfile:3
              1 | # check=error=true
              2 | FROM scratch
          >>> 3 | MAINTAINER x
          instead: write `LABEL org.opencontainers.image.authors=`
        error: the checks found something, and `error=true` makes that an error
    "#]]
    .assert_eq(&run.stderr);
    let built = bench.try_build(&[]);
    assert!(built.code == 1 && built.stderr.contains("error: MaintainerDeprecated"), "{}", built.stderr);
    let fixed = bench.try_build(&["--build-arg", "BUILDKIT_DOCKERFILE_CHECK=skip=MaintainerDeprecated"]);
    assert_eq!(fixed.code, 0, "{}", fixed.stderr);
}

#[test]
fn a_build_warns_and_goes_on() {
    let bench = Bench::with("FROM scratch\nMAINTAINER x\n");
    let run = bench.build(&[]);
    let warnings: Vec<&str> = run.stderr.lines().filter(|line| line.starts_with("warning: ")).collect();
    assert_eq!(warnings, ["warning: MaintainerDeprecated: `MAINTAINER` is deprecated (./Dockerfile:2)"]);
    assert!(!bench.build(&["--quiet"]).stderr.contains("warning"));
}

#[test]
fn a_check_builds_nothing() {
    let bench = Bench::with("FROM {busybox}\nRUN false\nCOPY missing /\n");
    assert_eq!(checked(&bench, &[]).code, 0);
    assert!(!bench.path("home").exists());
    let run = checked(&Bench::with("FROM scratch\nRUM x\n"), &[]);
    assert!(run.code == 1 && run.stderr.contains("`RUM`"), "{}", run.stderr);
    assert_eq!(checked(&bench, &["--push", "-t", "x"]).code, 2);
}

const OFFER: &str = "# VERSION of the compiler\nARG VERSION=12\n\
    # build compiles\nFROM {busybox} AS build\nARG VERSION\nRUN --mount=type=secret,id=token,required --mount=type=ssh false\n\
    RUN --mount=type=cache,target=/root/.cache false\n\
    FROM --platform=$BUILDPLATFORM scratch\nCOPY --from=build /missing /\n";

fn called(bench: &Bench, arguments: &[&str]) -> String {
    let run = Run::of(bench.rbuild().arg("build").args(arguments).arg("."));
    assert_eq!((run.code, run.stderr.as_str()), (0, ""), "{}", run.stdout);
    assert!(!bench.path("home").exists());
    run.stdout
}

#[test]
fn targets_are_listed() {
    let bench = Bench::with(OFFER);
    expect![[r#"
        TARGET     DESCRIPTION
        build      compiles
        (default)
    "#]]
    .assert_eq(&called(&bench, &["--call=targets"]));
    let json: Value = serde_json::from_str(&called(&bench, &["--call", "targets,format=json"])).unwrap();
    let range = |line: u64| json!({ "ranges": [{ "start": { "line": line }, "end": { "line": line } }] });
    let base = crate::common::base("busybox:latest");
    let first = json!({ "name": "build", "description": "compiles", "base": base, "location": range(4) });
    let last = json!({ "default": true, "base": "scratch", "platform": "$BUILDPLATFORM", "location": range(8) });
    assert_eq!(json["targets"], json!([first, last]));
    assert_eq!(json["sources"][0]["data"], crate::common::with_bases(OFFER));
}

#[test]
fn a_target_is_outlined() {
    let bench = Bench::with(OFFER);
    let arguments = ["--target", "build", "--build-arg", "VERSION=13"];
    expect![[r#"
        TARGET: build
        DESCRIPTION: compiles

        BUILD ARG  VALUE  DESCRIPTION
        VERSION    13     of the compiler

        SECRET  REQUIRED
        token   true

        SSH      REQUIRED
        default

        CACHE
        /root/.cache
    "#]]
    .assert_eq(&called(&bench, &[&["--call=outline"], &arguments[..]].concat()));
    let text = called(&bench, &[&["--call=outline,format=json"], &arguments[..]].concat());
    let json: Value = serde_json::from_str(&text).unwrap();
    let range = |line: u64| json!({ "ranges": [{ "start": { "line": line }, "end": { "line": line } }] });
    let version = json!({ "name": "VERSION", "value": "13", "description": "of the compiler", "location": range(2) });
    assert_eq!((&json["name"], &json["args"]), (&json!("build"), &json!([version])));
    assert_eq!(json["secrets"], json!([{ "name": "token", "required": true, "location": range(6) }]));
    assert_eq!(json["ssh"], json!([{ "name": "default", "location": range(6) }]));
    assert_eq!(json["cache"], json!([{ "ID": "/root/.cache" }]));
    let plain = called(&Bench::with("FROM scratch\n"), &["--call=outline"]);
    assert_eq!(plain, "the target needs nothing\n");
}

#[test]
fn findings_can_be_read_by_programs() {
    let bench = Bench::with("FROM scratch\nMAINTAINER x\n");
    let run = Run::of(bench.rbuild().args(["build", "--call=check,format=json", "."]));
    let json: Value = serde_json::from_str(&run.stdout).unwrap();
    let found = &json["warnings"][0];
    assert_eq!(
        (run.code, &found["ruleName"], &found["detail"]),
        (1, &json!("MaintainerDeprecated"), &json!("`MAINTAINER` is deprecated"))
    );
    assert_eq!(found["location"]["ranges"][0]["start"]["line"], 2);
    let run = Run::of(bench.rbuild().args(["build", "--call=run", "."]));
    assert!(run.code == 2 && run.stderr.contains("`run` is none of"), "{}", run.stderr);
}
