//! What goes wrong for users: one clear error with its line, the right exit code, and a store that is clean.

use std::os::unix::fs::PermissionsExt;

use crate::common::{Bench, Run, base, registry};

/// The error as printed: from `error:` on, with what changes between machines replaced.
fn error(run: &Run) -> String {
    let at = run.stderr.find("error: ").unwrap_or_else(|| panic!("no error: {}", run.stderr));
    run.stderr[at..].replace(&registry(), "REGISTRY")
}

/// After a failure nothing half-done is in the store, and the next build works.
fn recovers(bench: &Bench) {
    bench.assert_clean();
    bench.dockerfile("FROM {busybox}\nRUN echo fine >/fine\n");
    bench.build(&[]);
}

#[test]
fn all_errors_of_a_dockerfile_are_reported_at_once() {
    let bench = Bench::with("FROM {busybox}\nRUM make\nCOPY one\nRUN true\n");
    let run = bench.try_build(&[]);
    assert_eq!(run.code, 1);
    let error = error(&run);
    assert!(
        error.contains("`RUM`") && error.contains(">>> 2 | RUM make") && error.contains(">>> 3 | COPY one"),
        "{error}"
    );
    assert!(error.contains("RUN"), "{error}");
    recovers(&bench);
}

#[test]
fn what_is_no_build_context_is_said() {
    let bench = Bench::with("FROM scratch\n");
    let run = Run::of(bench.rbuild().arg("images2"));
    assert_eq!(run.code, 1);
    assert!(run.stderr.contains("there is no directory `images2` to build"), "{}", run.stderr);
    let run = Run::of(bench.rbuild().args(["-f", "Dockerfile", "Dockerfile"]));
    assert!(run.stderr.contains("there is no directory `Dockerfile` to build"), "{}", run.stderr);
    let run = Run::of(bench.rbuild().args(["bulid", "."]));
    assert_eq!((run.code, run.stderr.contains("`.` is one argument too many")), (2, true), "{}", run.stderr);
}

#[test]
fn an_answer_that_cannot_be_printed_is_a_failure() {
    let bench = Bench::with("FROM scratch\n");
    for arguments in [&["-q", "."][..], &["images"], &["builds", "-a", "app"]] {
        let full = fs_err::OpenOptions::new().write(true).open("/dev/full").unwrap();
        let mut command = bench.rbuild();
        let output = command.args(arguments).stdout(full.into_file()).output().unwrap();
        let told = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.code() == Some(1) && told.contains("cannot write to standard output"), "{told}");
    }
}

#[test]
fn a_missing_file_is_named_with_its_line() {
    let bench = Bench::with("FROM scratch\n\nCOPY missing.txt /\n");
    let run = bench.try_build(&[]);
    let expected = "error: `missing.txt`: no such file or directory in the build context\n  ./Dockerfile:3\n      \
                    1 | FROM scratch\n      2 |\n  >>> 3 | COPY missing.txt /\n  \
                    hint: paths are relative to the build context, not to the Dockerfile\n";
    assert_eq!((run.code, error(&run).as_str()), (1, expected));
    recovers(&bench);
}

#[test]
fn an_ignored_file_is_said_to_be_ignored() {
    let bench = Bench::with("FROM scratch\nCOPY secret /\n");
    bench.file("secret", "x");
    bench.file(".dockerignore", "secret\n");
    assert!(error(&bench.try_build(&[])).contains("excluded by .dockerignore"));
    recovers(&bench);
}

#[test]
fn the_code_of_a_failing_command_is_shown() {
    let bench = Bench::with("FROM {busybox}\nRUN echo before && exit 7\n");
    let run = bench.try_build(&[]);
    assert_eq!(run.code, 1);
    assert!(run.stderr.contains(" before\n"), "{}", run.stderr);
    let error = error(&run);
    assert!(
        error.starts_with("error: `RUN echo before && exit 7` exited with status 7\n")
            && error.contains(">>> 2 | RUN echo before && exit 7"),
        "{error}"
    );
    // What was shown need not be asked for.
    assert!(!error.contains("--progress=plain"), "{error}");
    let quiet = Run::of(bench.rbuild().args(["build", "--quiet", "."])).stderr;
    assert!(quiet.contains("hint: re-run with `--progress=plain`"), "{quiet}");
    recovers(&bench);
}

#[test]
fn a_command_that_is_not_there_is_127() {
    let run = Bench::with("FROM {busybox}\nRUN [\"/no/such/program\"]\n").try_build(&[]);
    assert!(error(&run).contains("exited with status 127"), "{}", run.stderr);
}

#[test]
fn a_pair_without_a_name_is_refused_by_every_option() {
    let bench = Bench::with("FROM scratch\nCOPY Dockerfile /\n");
    for option in ["--build-arg", "--build-args", "--label", "--build-context"] {
        for pair in ["=x", "", "="] {
            let run = bench.try_build(&[option, pair]);
            let said = format!("`{pair}` has no name: write `NAME=VALUE`");
            assert!(run.code == 2 && run.stderr.contains(&said), "{option} {pair}: {}", run.stderr);
        }
    }
    for option in ["--secret", "--ssh"] {
        for spec in ["=x", ""] {
            assert_eq!(bench.try_build(&[option, spec]).code, 2, "{option} {spec}");
        }
    }
    recovers(&bench);
}

#[test]
fn a_command_that_no_program_can_be_given_says_so() {
    let long = format!(": {}\n", "x".repeat(100)).repeat(1300);
    let bench = Bench::with(&format!("FROM {{busybox}}\nRUN <<EOF\n{long}EOF\n"));
    let run = bench.try_build(&[]);
    let (text, said) = (error(&run), "cannot run the command: its argument 2 has 133900 bytes, and the kernel");
    assert!(run.code == 1 && text.contains(said) && text.contains("hint: a heredoc that begins with"), "{text}");
    bench.dockerfile(&format!("FROM {{busybox}}\nENV LONG={}\nRUN true\n", "x".repeat(131_068)));
    let text = bench.try_build(&[]).stderr;
    assert!(text.contains("cannot run the command: its variable `LONG` has 131073 bytes"), "{text}");
    // The hint helps.
    bench.dockerfile(&format!("FROM {{busybox}}\nRUN <<EOF\n#!/bin/sh\n{long}echo x >/made\nEOF\n"));
    assert_eq!(bench.image(&[]).text("made"), "x\n");
}

#[test]
fn a_user_that_the_image_does_not_have_is_the_dockerfile_s_fault() {
    let bench = Bench::with("FROM {busybox}\nUSER nobody2\nRUN true\n");
    let run = bench.try_build(&[]);
    assert_eq!(run.code, 1, "{}", run.stderr);
    let error = error(&run);
    assert!(error.contains("the image has no user `nobody2`") && error.contains(">>> 3 | RUN true"), "{error}");
    recovers(&bench);
}

#[test]
fn a_registry_that_does_not_answer_is_code_4() {
    let bench = Bench::with("FROM 127.0.0.1:1/none/such:1\n");
    let run = bench.try_build(&[]);
    recovers(&bench);
    assert_eq!(run.code, 4, "{}", run.stderr);
    let error = error(&run);
    assert!(
        error.contains("cannot resolve the base image `127.0.0.1:1/none/such:1`") && error.contains(">>> 1 |"),
        "{error}"
    );
}

#[test]
fn an_image_that_is_not_there_is_code_4() {
    let run = Bench::with(&format!("FROM {}/no/such:tag\n", registry())).try_build(&[]);
    assert_eq!(run.code, 4, "{}", run.stderr);
    assert!(error(&run).contains("check the name and the tag"), "{}", run.stderr);
}

#[test]
fn a_digest_that_no_image_has_is_refused() {
    let digest = format!("sha256:{}", "0".repeat(64));
    let bench = Bench::with(&format!("FROM {}@{digest}\n", base("busybox")));
    let run = bench.try_build(&[]);
    recovers(&bench);
    assert_eq!(run.code, 4, "{}", run.stderr);
}

#[test]
fn what_is_not_implemented_is_refused_by_name_and_line() {
    for (instruction, name) in [
        ("RUN --security=insecure true", "`RUN --security=insecure`"),
        ("COPY --parents --exclude=!x a /", "`--exclude=!…` together with `--parents`"),
        ("ADD https://example.com/x.git?signature-policy=x /", "`signature-policy`"),
    ] {
        let bench = Bench::with(&format!("FROM scratch\n{instruction}\n"));
        bench.file("a", "x");
        let run = bench.try_build(&[]);
        let error = error(&run);
        assert!(run.code == 1 && error.contains(name) && error.contains("not implemented"), "{instruction}: {error}");
        assert!(error.contains(">>> 2 |"), "{error}");
    }
}

#[test]
fn a_file_full_of_errors_is_reported_soon() {
    let bench = Bench::with(&format!("FROM scratch\n{}", "RUM x\n".repeat(100_000)));
    let mut command = std::process::Command::new("prlimit");
    // Seconds of processor time, not of a clock.
    command.args(["--cpu=20", crate::common::RBUILD, "build", "."]).current_dir(bench.context());
    let run = Run::of(&mut command);
    assert_eq!(run.code, 1, "{}", run.stderr.len());
    assert_eq!(run.stderr.matches("error: unknown instruction `RUM`").count(), 100_000);
    assert!(run.stderr.contains("  ./Dockerfile:100001\n"));
}

#[test]
fn a_setting_without_effect_is_said_to_have_none() {
    let bench = Bench::with("FROM scratch\nLABEL a=b\n");
    let run = bench.build(&["--build-arg", "BUILDKIT_MULTI_PLATFORM=1", "--build-arg", "OTHER=1"]);
    let warnings: Vec<&str> = run.stderr.lines().filter(|line| line.starts_with("warning: ")).collect();
    assert_eq!(
        warnings,
        [
            "warning: the build arg `OTHER` is used by nothing: no ARG declares it",
            "warning: the build arg `BUILDKIT_MULTI_PLATFORM` has no effect in this version of rbuild: \
             the form of an output does not depend on it"
        ]
    );
}

#[test]
fn an_unreadable_file_is_named() {
    // The plain user may not read what only root may: in a user namespace, too.
    let bench = crate::rootless::Rootless::with("FROM scratch\nCOPY secret /\n");
    let file = bench.bench.file("secret", "x");
    fs_err::set_permissions(file, PermissionsExt::from_mode(0o000)).unwrap();
    let run = bench.try_build(&[]);
    assert_eq!(run.code, 1, "{}", run.stderr);
    assert!(error(&run).contains("`secret`") && error(&run).contains("Permission denied"), "{}", run.stderr);
}

/// What is hidden is searched for what may come back from it, and need not be readable; what a rule brings back by its name
/// has to be.
#[test]
fn a_hidden_directory_that_cannot_be_read_is_named_when_something_in_it_is_asked_for() {
    let bench = crate::rootless::Rootless::with("FROM scratch\nCOPY . /c\n");
    let file = bench.bench.file("sec/sub", "x");
    fs_err::set_permissions(file.parent().unwrap(), PermissionsExt::from_mode(0o000)).unwrap();
    bench.bench.file(".dockerignore", "sec\n!**/kept\n");
    let run = bench.try_build(&[]);
    assert_eq!(run.code, 0, "{}", run.stderr);
    bench.bench.file(".dockerignore", "sec\n!sec/sub\n");
    let run = bench.try_build(&[]);
    assert_eq!(run.code, 1, "{}", run.stderr);
    assert!(error(&run).contains("`sec`") && error(&run).contains("Permission denied"), "{}", run.stderr);
}

#[test]
fn unknown_arguments_are_a_usage_error() {
    let bench = Bench::with("FROM scratch\n");
    for arguments in [&["--no-such-flag"][..], &["--push"], &["-t", "UPPER"], &["-o", "type=nydus,dest=x"]] {
        let run = bench.try_build(arguments);
        assert_eq!(run.code, 2, "{arguments:?}: {}", run.stderr);
    }
    assert_eq!(bench.try_build(&["--target", "none"]).code, 1);
}

#[test]
fn compressions_that_are_not_implemented_are_refused_by_name() {
    let bench = Bench::with("FROM scratch\n");
    for (arguments, name) in [
        (&["--compression", "estargz"][..], "`estargz`"),
        (&["--compression", "zstd", "--compression-level", "19"], "level `19` of zstd"),
        (&["-o", "type=oci,dest=x,compression=zstd,compression-level=3"], "level `3` of zstd"),
        (&["-o", "type=oci,dest=x,compression=zstd", "-o", "type=docker,dest=y"], "several compressions"),
    ] {
        let run = bench.try_build(arguments);
        let error = &run.stderr;
        assert!(run.code == 2 && error.contains(name) && error.contains("not implemented"), "{arguments:?}: {error}");
    }
}

#[test]
fn a_dockerfile_that_is_not_there_is_named() {
    let bench = Bench::new();
    let run = bench.try_build(&[]);
    assert!(run.code == 1 && error(&run).contains("Dockerfile") && error(&run).contains("-f PATH"), "{}", run.stderr);
}
