//! `--check`: what each check says of text that it is about. What findings do to a build is in `calls`.

#![expect(clippy::needless_raw_string_hashes, reason = "`UPDATE_EXPECT=1` writes them")]

use expect_test::{Expect, expect};

use crate::common::{Bench, Run, registry};

/// What `rbuild build --check` prints.
pub(crate) fn checked(bench: &Bench, arguments: &[&str]) -> Run {
    let mut command = bench.rbuild();
    command.args(["build", "--check"]).args(arguments).arg(".");
    let Run { code, stdout, stderr } = Run::of(&mut command);
    let shown = |text: String| text.replace(&registry(), "REGISTRY");
    Run { code, stdout: shown(stdout), stderr: shown(stderr) }
}

/// Checks a Dockerfile whose findings stop nothing.
#[expect(clippy::needless_pass_by_value, reason = "`expect!` makes the value where the test calls")]
fn says(dockerfile: &str, expected: Expect) {
    let run = checked(&Bench::with(dockerfile), &[]);
    let clean = run.stdout.ends_with("the checks found nothing\n");
    assert_eq!((run.code, run.stderr.as_str()), (i32::from(!clean), ""), "{}", run.stdout);
    expected.assert_eq(&run.stdout);
}

#[test]
fn a_file_without_findings() {
    says(
        "FROM {busybox}\nRUN true\nCMD [\"sh\"]\n",
        expect![[r#"
        ./Dockerfile: the checks found nothing
    "#]],
    );
}

#[test]
fn stage_name_casing() {
    says(
        "FROM scratch AS One\n",
        expect![[r#"
        warning: StageNameCasing: the name of the stage `One` is not in lower case
          ./Dockerfile:1
          >>> 1 | FROM scratch AS One
          instead: write the name of the stage in lower case
        ./Dockerfile: the checks found 1 thing
    "#]],
    );
}

#[test]
fn from_as_casing() {
    says(
        "FROM scratch as one\n",
        expect![[r#"
        warning: FromAsCasing: `as` and `FROM` are not in the same case
          ./Dockerfile:1
          >>> 1 | FROM scratch as one
          instead: write `FROM` and `AS` in the same case
        ./Dockerfile: the checks found 1 thing
    "#]],
    );
}

#[test]
fn no_empty_continuation() {
    says(
        "FROM scratch\nENV A=1 \\\n\n    B=2\n",
        expect![[r#"
        warning: NoEmptyContinuation: an empty line inside a continued instruction
          ./Dockerfile:2
              1 | FROM scratch
          >>> 2 | ENV A=1 \
          >>> 3 |
          >>> 4 |     B=2
          instead: remove the empty line; later versions of Dockerfiles refuse it
        ./Dockerfile: the checks found 1 thing
    "#]],
    );
}

#[test]
fn consistent_instruction_casing() {
    says(
        "FROM scratch\nenv A=1\nLABEL b=2\n",
        expect![[r#"
        warning: ConsistentInstructionCasing: `env` is not in upper case, as most instructions of the file are
          ./Dockerfile:2
              1 | FROM scratch
          >>> 2 | env A=1
              3 | LABEL b=2
          instead: write all instructions in the same case
        ./Dockerfile: the checks found 1 thing
    "#]],
    );
}

#[test]
fn duplicate_stage_name() {
    says(
        "FROM scratch AS one\nFROM scratch AS ONE\n",
        expect![[r#"
        warning: StageNameCasing: the name of the stage `ONE` is not in lower case
          ./Dockerfile:2
              1 | FROM scratch AS one
          >>> 2 | FROM scratch AS ONE
          instead: write the name of the stage in lower case
        warning: DuplicateStageName: there is an earlier stage `one`
          ./Dockerfile:2
              1 | FROM scratch AS one
          >>> 2 | FROM scratch AS ONE
          instead: rename the stage: only the last of that name can be referred to
        ./Dockerfile: the checks found 2 things
    "#]],
    );
}

#[test]
fn reserved_stage_name() {
    says(
        "FROM scratch AS context\n",
        expect![[r#"
        warning: ReservedStageName: `context` has a meaning of its own and cannot be referred to as a stage
          ./Dockerfile:1
          >>> 1 | FROM scratch AS context
          instead: rename the stage
        ./Dockerfile: the checks found 1 thing
    "#]],
    );
}

#[test]
fn json_args_recommended() {
    says(
        "FROM scratch\nENTRYPOINT run me\n",
        expect![[r#"
        warning: JSONArgsRecommended: `ENTRYPOINT` is run by a shell
          ./Dockerfile:2
              1 | FROM scratch
          >>> 2 | ENTRYPOINT run me
          instead: use the JSON form: a shell does not pass signals on to the command
        ./Dockerfile: the checks found 1 thing
    "#]],
    );
}

#[test]
fn maintainer_deprecated() {
    says(
        "FROM scratch\nMAINTAINER someone\n",
        expect![[r#"
        warning: MaintainerDeprecated: `MAINTAINER` is deprecated
          ./Dockerfile:2
              1 | FROM scratch
          >>> 2 | MAINTAINER someone
          instead: write `LABEL org.opencontainers.image.authors=`
        ./Dockerfile: the checks found 1 thing
    "#]],
    );
}

#[test]
fn undefined_arg_in_from() {
    says(
        "ARG VERSION=latest\nFROM {busybox}$VERSON\n",
        expect![[r#"
            warning: UndefinedArgInFrom: `VERSON` is no global build arg; did you mean `VERSION`?
              ./Dockerfile:2
                  1 | ARG VERSION=latest
              >>> 2 | FROM REGISTRY/library/busybox:latest$VERSON
              instead: declare it with `ARG` before the first `FROM`
            ./Dockerfile: the checks found 1 thing
        "#]],
    );
}

#[test]
fn workdir_relative_path() {
    says(
        "FROM scratch\nWORKDIR app\n",
        expect![[r#"
        warning: WorkdirRelativePath: `app` is relative to the working directory of the base image
          ./Dockerfile:2
              1 | FROM scratch
          >>> 2 | WORKDIR app
          instead: begin with an absolute path: the base image's may change
        ./Dockerfile: the checks found 1 thing
    "#]],
    );
}

#[test]
fn undefined_var() {
    says(
        "FROM {busybox}\nENV PATH=$PAHT:/opt/bin\n",
        expect![[r#"
        warning: UndefinedVar: `$PAHT` is not defined; did you mean `$PATH`?
          ./Dockerfile:2
              1 | FROM REGISTRY/library/busybox:latest
          >>> 2 | ENV PATH=$PAHT:/opt/bin
          instead: declare it with `ARG` or `ENV` in this stage
        ./Dockerfile: the checks found 1 thing
    "#]],
    );
}

#[test]
fn multiple_instructions_disallowed() {
    says(
        "FROM scratch\nCMD [\"one\"]\nCMD [\"two\"]\n",
        expect![[r#"
        warning: MultipleInstructionsDisallowed: a later `CMD` of the stage replaces this one
          ./Dockerfile:2
              1 | FROM scratch
          >>> 2 | CMD ["one"]
              3 | CMD ["two"]
          instead: remove it: only the last one of a stage counts
        ./Dockerfile: the checks found 1 thing
    "#]],
    );
}

#[test]
fn legacy_key_value_format() {
    says(
        "FROM scratch\nENV A b\nLABEL c d\n",
        expect![[r#"
        warning: LegacyKeyValueFormat: `ENV name value` is the old form
          ./Dockerfile:2
              1 | FROM scratch
          >>> 2 | ENV A b
              3 | LABEL c d
          instead: write `NAME=value`
        warning: LegacyKeyValueFormat: `LABEL name value` is the old form
          ./Dockerfile:3
              1 | FROM scratch
              2 | ENV A b
          >>> 3 | LABEL c d
          instead: write `NAME=value`
        ./Dockerfile: the checks found 2 things
    "#]],
    );
}

#[test]
fn redundant_target_platform() {
    says(
        "FROM --platform=$TARGETPLATFORM scratch\n",
        expect![[r#"
        warning: RedundantTargetPlatform: `--platform=$TARGETPLATFORM` is what is taken without it
          ./Dockerfile:1
          >>> 1 | FROM --platform=$TARGETPLATFORM scratch
          instead: remove the flag: it is the default
        ./Dockerfile: the checks found 1 thing
    "#]],
    );
}

#[test]
fn secrets_used_in_arg_or_env() {
    says(
        "FROM scratch\nARG API_TOKEN\nENV PASSWORD=x\n",
        expect![[r#"
        warning: SecretsUsedInArgOrEnv: `API_TOKEN` looks like the name of a secret
          ./Dockerfile:2
              1 | FROM scratch
          >>> 2 | ARG API_TOKEN
              3 | ENV PASSWORD=x
          instead: use `RUN --mount=type=secret`: build args and variables stay in the image
        warning: SecretsUsedInArgOrEnv: `PASSWORD` looks like the name of a secret
          ./Dockerfile:3
              1 | FROM scratch
              2 | ARG API_TOKEN
          >>> 3 | ENV PASSWORD=x
          instead: use `RUN --mount=type=secret`: build args and variables stay in the image
        ./Dockerfile: the checks found 2 things
    "#]],
    );
}

#[test]
fn invalid_default_arg_in_from() {
    says(
        "ARG TAG\nFROM {busybox}$TAG AS one\nFROM image:$TAG AS two\nFROM one\n",
        expect![[r#"
        warning: InvalidDefaultArgInFrom: `image:$TAG` names no image when the build args have their defaults
          ./Dockerfile:3
              1 | ARG TAG
              2 | FROM REGISTRY/library/busybox:latest$TAG AS one
          >>> 3 | FROM image:$TAG AS two
              4 | FROM one
          instead: give the `ARG` a default with which the image's name is valid
        ./Dockerfile: the checks found 1 thing
    "#]],
    );
}

#[test]
fn from_platform_flag_const_disallowed() {
    says(
        "FROM --platform=linux/amd64 scratch\n",
        expect![[r#"
        warning: FromPlatformFlagConstDisallowed: `--platform=linux/amd64` is always the same
          ./Dockerfile:1
          >>> 1 | FROM --platform=linux/amd64 scratch
          instead: use `--platform` on the command line, or name the platform in the name of the stage
        ./Dockerfile: the checks found 1 thing
    "#]],
    );
}

#[test]
fn invalid_definition_description() {
    says(
        "# check=experimental=all\n# other words\nARG VERSION\nFROM scratch\n",
        expect![[r#"
        warning: InvalidDefinitionDescription: the comment above `VERSION` does not begin with its name
          ./Dockerfile:3
              1 | # check=experimental=all
              2 | # other words
          >>> 3 | ARG VERSION
              4 | FROM scratch
          instead: begin the comment with the name that it describes, or put an empty line below it
        ./Dockerfile: the checks found 1 thing
    "#]],
    );
}

#[test]
fn expose_proto_casing() {
    says(
        "FROM scratch\nEXPOSE 80/TCP\n",
        expect![[r#"
        warning: ExposeProtoCasing: the protocol `TCP` is not in lower case
          ./Dockerfile:2
              1 | FROM scratch
          >>> 2 | EXPOSE 80/TCP
          instead: write the protocol in lower case
        ./Dockerfile: the checks found 1 thing
    "#]],
    );
}

#[test]
fn expose_invalid_format() {
    says(
        "FROM scratch\nEXPOSE 127.0.0.1:8080:80\n",
        expect![[r#"
        warning: ExposeInvalidFormat: `127.0.0.1:8080:80` names an address or a port of the host
          ./Dockerfile:2
              1 | FROM scratch
          >>> 2 | EXPOSE 127.0.0.1:8080:80
          instead: write the port of the container alone
        ./Dockerfile: the checks found 1 thing
    "#]],
    );
}

#[test]
fn chown_duplicates_layer() {
    says(
        "FROM {busybox}\nCOPY app /app\nRUN chown -R 1000 /app\n",
        expect![[r#"
        warning: ChownDuplicatesLayer: `chown -R` puts the files of `/app` into a second layer
          ./Dockerfile:3
              1 | FROM REGISTRY/library/busybox:latest
              2 | COPY app /app
          >>> 3 | RUN chown -R 1000 /app
          instead: use `--chown=` or `--chmod=` of the `COPY`: the files are now in two layers
        ./Dockerfile: the checks found 1 thing
    "#]],
    );
}

#[test]
fn invalid_base_image_platform() {
    // A manifest that no index leads to is taken as it is; only its config says what it is for.
    let bench = Bench::with("FROM {busybox}\n");
    let foreign = if cfg!(target_arch = "aarch64") { "linux/amd64" } else { "linux/arm64" };
    let run = checked(&bench, &["--platform", foreign]);
    assert_eq!(run.code, 1, "{}", run.stderr);
    let (own, rest) = run.stdout.split_once("` is for `").unwrap_or_else(|| panic!("{}", run.stdout));
    assert_eq!(own, "warning: InvalidBaseImagePlatform: the base image `REGISTRY/library/busybox:latest");
    assert!(rest.contains(&format!("and `{foreign}` is built\n  ./Dockerfile:1\n")), "{}", run.stdout);
}

#[test]
fn copy_ignored_file() {
    let bench = Bench::with(
        "# check=experimental=CopyIgnoredFile\nFROM scratch\nCOPY secret kept /\nCOPY --from={busybox} secret /\n",
    );
    bench.file("secret", "x");
    bench.file(".dockerignore", "secret\n");
    let run = checked(&bench, &[]);
    expect![[r#"
        warning: CopyIgnoredFile: the ignore file excludes `secret`
          ./Dockerfile:3
              1 | # check=experimental=CopyIgnoredFile
              2 | FROM scratch
          >>> 3 | COPY secret kept /
              4 | COPY --from=REGISTRY/library/busybox:latest secret /
          instead: remove the path from the ignore file, or the instruction
        ./Dockerfile: the checks found 1 thing
    "#]]
    .assert_eq(&run.stdout);
}
