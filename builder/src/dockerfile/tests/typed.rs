//! What the typed instructions say of texts whose s-expression does not show it.

use std::time::Duration;

use crate::dockerfile::lint::Rule;
use crate::dockerfile::{
    Command, CommandLine, CopySource, Dockerfile, Healthcheck, Heredoc, Network, Parsed, Run, Span, Word, parse,
    parse_trigger,
};

fn parsed(text: &str) -> Parsed {
    parse(text.as_bytes()).unwrap_or_else(|errors| panic!("{errors}"))
}

/// The only instruction behind a `FROM`.
fn command(text: &str) -> Command {
    let Dockerfile { mut stages, .. } = parsed(&format!("FROM busybox\n{text}")).dockerfile;
    let mut instructions = stages.remove(0).instructions;
    assert_eq!(instructions.len(), 1, "{text}");
    instructions.remove(0).command
}

fn run(text: &str) -> Run {
    let Command::Run(run) = command(text) else { panic!("{text} is no RUN") };
    run
}

fn word(text: &str) -> Word {
    Word(text.to_owned())
}

#[test]
fn stages_have_names_in_lower_case_and_spans() {
    let Dockerfile { stages, global_args, .. } =
        parsed("ARG A\n\nFROM --platform=linux/arm64 img AS Build\nRUN a \\\n  b\nFROM build\n").dockerfile;
    assert_eq!(global_args[0].span, Span { start: 1, end: 1 });
    assert_eq!(stages[0].name.as_deref(), Some("build"));
    assert_eq!(stages[0].platform, Some(word("linux/arm64")));
    assert_eq!(stages[0].original, "FROM --platform=linux/arm64 img AS Build");
    assert_eq!(stages[0].instructions[0].span, Span { start: 4, end: 5 });
    assert_eq!(stages[0].instructions[0].original, "RUN a   b");
    assert_eq!(stages[1].span, Span { start: 6, end: 6 });
}

#[test]
fn heredocs_of_run_have_their_bodies() {
    let text = "RUN 3<<-A cat <<'B C'\n\t\tone $x\n\tA\n\ttwo\nB C\n";
    let run = run(text);
    assert_eq!(run.command, CommandLine::Shell("3<<-A cat <<'B C'".to_owned()));
    let first = Heredoc { name: "A".into(), fd: 3, expand: true, strip_tabs: true, body: "one $x\n".into() };
    let second = Heredoc { name: "B C".into(), fd: 0, expand: false, strip_tabs: false, body: "\ttwo\n".into() };
    assert_eq!(run.heredocs, [first, second]);
    let all = parsed(&format!("FROM a\n{text}USER x\n")).dockerfile;
    assert_eq!(all.stages[0].instructions[0].span, Span { start: 2, end: 6 });
    assert_eq!(all.stages[0].instructions[1].span, Span { start: 7, end: 7 });
}

#[test]
fn heredocs_of_copy_stand_among_its_sources() {
    let Command::Copy(copy) = command("COPY a <<x.txt b /d/\nhello\nx.txt\n") else { panic!("no COPY") };
    let heredoc = Heredoc { name: "x.txt".into(), fd: 0, expand: true, strip_tabs: false, body: "hello\n".into() };
    let path = |text| CopySource::Path(word(text));
    assert_eq!(copy.files.sources, [path("a"), CopySource::Heredoc(heredoc), path("b")]);
    assert_eq!(copy.files.destination, word("/d/"));
}

#[test]
fn a_trigger_keeps_its_heredoc_and_can_be_read_again() {
    let Command::Onbuild(text) = command("ONBUILD RUN <<-EOF\n\techo\n\tEOF\n") else { panic!("no ONBUILD") };
    assert_eq!(text, "RUN <<-EOF\necho\nEOF");
    let Command::Run(run) = parse_trigger(&text).expect("a trigger").command else { panic!("no RUN") };
    assert_eq!(run.heredocs[0].body, "echo\n");
    assert!(parse_trigger("FROM a").is_err());
    assert!(parse_trigger("RUN a\nRUN b").is_err());
    assert!(parse_trigger("").is_err());
}

#[test]
fn flags_of_copy_and_add_are_typed() {
    let Command::Copy(copy) =
        command("COPY --from=x --link=TRUE --parents --chown=1:2 --chmod=644 --exclude=a --exclude=b s d")
    else {
        panic!("no COPY")
    };
    assert!(copy.files.link && copy.parents);
    assert_eq!(
        (copy.from, copy.files.chown, copy.files.chmod),
        (Some(word("x")), Some(word("1:2")), Some(word("644")))
    );
    assert_eq!(copy.files.exclude, [word("a"), word("b")]);
    let Command::Add(add) = command("ADD --unpack=False --keep-git-dir --checksum=sha256:0 s d") else {
        panic!("no ADD")
    };
    assert_eq!((add.unpack, add.keep_git_dir, add.checksum), (Some(false), true, Some(word("sha256:0"))));
    assert!(!add.files.link);
}

#[test]
fn flags_of_run_are_typed() {
    let plain = run("RUN x");
    assert_eq!((plain.network, plain.insecure, plain.devices.len()), (Network::Default, false, 0));
    let all = run("RUN --network=none --security=insecure --device=vendor/x --device=y,required x");
    assert_eq!((all.network, all.insecure), (Network::None, true));
    assert_eq!(all.devices, ["vendor/x", "y,required"]);
}

#[test]
fn health_checks_have_durations() {
    let Command::Healthcheck(Healthcheck::Check { command: line, interval, timeout, retries, start_period, .. }) =
        command("HEALTHCHECK --interval=1m30s --timeout=0 --retries=3 CMD [\"a\"]")
    else {
        panic!("no check")
    };
    assert_eq!(line, CommandLine::Exec(vec!["a".to_owned()]));
    assert_eq!((interval, timeout), (Some(Duration::from_secs(90)), Some(Duration::ZERO)));
    assert_eq!((retries, start_period), (Some(3), None));
    assert_eq!(command("HEALTHCHECK NONE"), Command::Healthcheck(Healthcheck::None));
}

#[test]
fn directives_are_read_and_the_last_word_on_the_escape_character() {
    let parsed = parsed("# syntax = docker/dockerfile:1 \n# escape=`\n# check=skip=A, B;error=true\nFROM a\n");
    assert_eq!(parsed.dockerfile.syntax.as_deref(), Some("docker/dockerfile:1"));
    assert_eq!(parsed.dockerfile.escape, '`');
    assert!(parsed.check.error && parsed.check.skip.has("B") && !parsed.check.skip.has("C"));
}

#[test]
fn what_the_tree_does_not_show_is_a_warning() {
    let parsed = parsed("# about b\nARG a\nFROM x AS y\nRUN a \\\n\n  b\n# a is here\nARG a\n");
    let found: Vec<_> = parsed.warnings.iter().map(|warning| (warning.span.start, warning.rule)).collect();
    assert_eq!(found, [(2, Rule::InvalidDefinitionDescription), (4, Rule::NoEmptyContinuation)]);
}

#[test]
fn the_names_of_build_args_lose_their_quotes() {
    let Command::Arg(args) = command("ARG \"A\"=\"x y\" B= C") else { panic!("no ARG") };
    let shown: Vec<_> = args.iter().map(|arg| (arg.name.as_str(), arg.default.clone())).collect();
    assert_eq!(shown, [("A", Some(word("\"x y\""))), ("B", Some(word(""))), ("C", None)]);
}

#[test]
fn errors_say_their_line_and_how_many_more_there_are() {
    let errors = parse(b"FROM a\nRUM x\nRUM y\nRUM z\n").expect_err("three errors");
    assert_eq!(errors.to_string(), "line 2: unknown instruction `RUM` (and 2 more errors)");
}
