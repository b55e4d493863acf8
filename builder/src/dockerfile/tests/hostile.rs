//! Input that is meant to hurt: an error or a result, soon, without a panic or an endless stack.

use std::fmt::Write as _;

use super::Random;
use crate::dockerfile::expand::{self, ExpandError};
use crate::dockerfile::lint::{self, Known};
use crate::dockerfile::{Problem, parse, parse_tree, parse_trigger};

/// Runs the work and checks that it took less than two seconds of this thread's own time: machines may be busy.
fn soon<T>(work: impl FnOnce() -> T) -> T {
    let start = ticks();
    let result = work();
    let spent = ticks() - start;
    assert!(spent < 200, "{spent} hundredths of a second");
    result
}

/// The processor time of this thread in ticks, of which Linux shows a hundred a second (proc(5), `stat`).
fn ticks() -> u64 {
    let stat = fs_err::read_to_string("/proc/thread-self/stat").expect("a thread has a stat file");
    let (_, fields) = stat.rsplit_once(')').expect("the name stands in parentheses");
    fields.split_whitespace().skip(11).take(2).map(|ticks| ticks.parse::<u64>().expect("a number")).sum()
}

#[test]
fn a_line_of_ten_megabytes_is_read() {
    let long = "x".repeat(10 << 20);
    for line in ["RUN ", "ENV A=", "COPY a ", "RUN [\"", "CMD "] {
        let text = format!("FROM a\n{line}{long}\n");
        assert!(soon(|| parse(text.as_bytes())).is_ok(), "{line}");
    }
    let text = format!("FROM a\n{long}\n");
    let errors = soon(|| parse(text.as_bytes())).expect_err("not an instruction");
    assert!(errors.0[0].message().len() < 300);
}

#[test]
fn ten_megabytes_of_small_things_are_read() {
    let lines = [
        ("RUN ", "\\\n"),
        ("ENV ", "A=1 "),
        ("COPY ", "a "),
        ("RUN [", "["),
        ("RUN ", "<<A "),
        ("ONBUILD ", "ONBUILD "),
        ("RUN ", "--mount=a "),
        ("RUN --mount=", ","),
        ("RUN --mount=", "ro,"),
        ("ENV A=", "\""),
        ("EXPOSE ", "80 "),
        ("FROM a AS ", "b"),
        ("# ", "=\n# "),
        ("HEALTHCHECK --interval=", "1h"),
    ];
    for (start, piece) in lines {
        let text = format!("FROM a\n{start}{}\n", piece.repeat((1 << 20) / piece.len()));
        let _either = soon(|| parse(text.as_bytes()));
    }
}

#[test]
fn a_line_of_millions_of_words_is_refused() {
    for (start, piece, end) in [
        ("COPY ", "a ", "/"),
        ("ENV ", "A=1 ", ""),
        ("ARG ", "a ", ""),
        ("EXPOSE ", "1 ", ""),
        ("ONBUILD ADD ", "a ", "/"),
        ("RUN [", "\"a\",", "\"b\"]"),
    ] {
        let text = format!("FROM a\n{start}{}{end}\n", piece.repeat((10 << 20) / piece.len()));
        let errors = soon(|| parse(text.as_bytes())).expect_err("too many");
        assert!(errors.0[0].message().contains("has more than 262144 words"), "{}", errors.0[0].message());
    }
}

#[test]
fn flags_are_counted() {
    for flag in ["--mount=type=tmpfs,target=/t ", "--nonsense "] {
        let text = format!("FROM a\nRUN {}true\n", flag.repeat(100_000));
        let errors = parse(text.as_bytes()).unwrap_err();
        assert_eq!(errors.0[0].message(), "`RUN` has more than 1000 flags");
    }
}

#[test]
fn a_hundred_thousand_instructions_are_read() {
    let text = format!("FROM a\n{}", "RUN echo one && echo two\n".repeat(100_000));
    let parsed = soon(|| parse(text.as_bytes())).expect("valid");
    assert_eq!(parsed.dockerfile.stages[0].instructions.len(), 100_000);
}

#[test]
fn a_hundred_thousand_errors_are_found() {
    let text = format!("FROM a\n{}", "RUM x\n".repeat(100_000));
    let errors = soon(|| parse(text.as_bytes())).expect_err("no instruction is RUM");
    assert_eq!(errors.0.len(), 100_000);
}

#[test]
fn nested_braces_are_refused_beyond_a_depth() {
    for piece in ["${", "${a:-", "${a#", "${a/", "\"${a:-", "${a:-'"] {
        let word = piece.repeat(100_000);
        assert!(soon(|| expand::expand(&word, '\\', &|_| None)).is_err(), "{piece}");
    }
    let deep = format!("{}x{}", "${a:-".repeat(60), "}".repeat(60));
    assert_eq!(expand::expand(&deep, '\\', &|_| None), Ok("x".to_owned()));
    let deeper = format!("{}x{}", "${a:-".repeat(65), "}".repeat(65));
    assert_eq!(expand::expand(&deeper, '\\', &|_| None), Err(ExpandError::TooDeep));
}

#[test]
fn values_cannot_grow_without_end() {
    let mut value = "x".repeat(1024);
    let grown = soon(|| {
        for _ in 0..40 {
            let before = value.clone();
            value = expand::expand("$a$a", '\\', &|_| Some(before.clone()))?;
        }
        Ok(value)
    });
    assert_eq!(grown, Err(ExpandError::TooLarge));
    let many = "$a".repeat(1 << 20);
    assert_eq!(soon(|| expand::expand(&many, '\\', &|_| Some("x".repeat(1024)))), Err(ExpandError::TooLarge));
    let replaced = soon(|| expand::expand("${a//x/$a}", '\\', &|_| Some("x".repeat(1 << 16))));
    assert_eq!(replaced, Err(ExpandError::TooLarge));
}

#[test]
fn patterns_cannot_take_for_ever() {
    let value = "a".repeat(1 << 18);
    let costly = format!("${{v##{}b}}", "*a".repeat(1000));
    let refused = soon(|| expand::expand(&costly, '\\', &|_| Some(value.clone())));
    assert!(matches!(refused, Err(ExpandError::Costly { .. })), "{refused:?}");
    for word in ["${v##*a*a*a*b}", "${v%%b*a*a*a*}", "${v//a*b/x}", "${v//a/b}", "${v//?/b}", "${v%*b}"] {
        let text = soon(|| expand::expand(word, '\\', &|_| Some(value.clone())));
        assert_eq!(text.map(|text| text.len()), Ok(value.len()), "{word}");
    }
}

/// What the checks are told of the world.
const NOTHING_MISSING: Known<'_> = Known { environment: &|_| Some(Vec::new()), is_reference: &|_| true };

#[test]
fn a_hundred_thousand_instructions_are_checked() {
    let files = [
        format!("FROM a\n{}", "COPY a b\nRUN chown -R 1 /c\n".repeat(50_000)),
        format!("FROM a\n{}", "ENV a$b=$c\nLABEL d $e\n".repeat(50_000)),
        (0..100_000).fold(String::new(), format_stage),
    ];
    let least = [0, 100_000, 100_000];
    for (text, least) in files.into_iter().zip(least) {
        let parsed = soon(|| parse(text.as_bytes())).expect("valid");
        let findings = soon(|| lint::check(&parsed, &NOTHING_MISSING));
        assert!(findings.len() >= least, "{}", findings.len());
    }
}

fn format_stage(mut text: String, stage: usize) -> String {
    let before = stage.saturating_sub(1);
    writeln!(text, "FROM s{before} As s{stage}").expect("a String");
    text
}

#[test]
fn bytes_that_are_no_text_are_errors_of_their_lines() {
    let errors = parse(b"FROM a\nRUN \xff\nRUN \0\n").expect_err("neither is text");
    let found: Vec<_> = errors.0.iter().map(|error| (error.span.start, error.problem.clone())).collect();
    assert_eq!(found, [(2, Problem::NotUtf8), (3, Problem::NulByte)]);
}

#[test]
fn messages_quote_no_control_characters() {
    let errors = parse(b"FROM a\n\x1b[2J\x07 x\nCOPY --\x1b[0m=1 a b\nEXPOSE \x1b\n").expect_err("all are wrong");
    assert_eq!(errors.0.len(), 3);
    for error in errors.0 {
        assert!(!error.message().chars().any(char::is_control), "{:?}", error.message());
    }
}

/// What Dockerfiles are made of.
const PIECES: [&str; 64] = [
    "FROM",
    "RUN",
    "COPY",
    "ADD",
    "ENV",
    "ARG",
    "LABEL",
    "ONBUILD",
    "HEALTHCHECK",
    "CMD",
    "SHELL",
    "EXPOSE",
    "VOLUME",
    "USER",
    "WORKDIR",
    "STOPSIGNAL",
    "MAINTAINER",
    "ENTRYPOINT",
    " ",
    " ",
    " ",
    "\t",
    "\n",
    "\n",
    "\n",
    "\r\n",
    "\\",
    "\\\n",
    "`",
    "#",
    "# escape=`\n",
    "# check=",
    "skip=all",
    "<<EOF",
    "<<-EOF",
    "<<'E'",
    "EOF\n",
    "<<",
    "=",
    "A=b",
    "\"",
    "'",
    "[",
    "]",
    "\"a\"",
    ",",
    "--",
    "--mount=",
    "type=cache",
    "target=/x",
    "--from=a",
    "--link",
    "$",
    "${",
    "}",
    ":-",
    "#*",
    "%%?",
    "//",
    "AS",
    "NONE",
    "80",
    "é",
    "\u{feff}",
];

#[test]
fn whatever_is_put_together_is_read_or_refused() {
    let mut random = Random(0x2545_f491_4f6c_dd1d);
    let mut accepted = 0;
    for _ in 0..4000 {
        let mut text = String::from(random.pick(&["", "FROM a\n", "# escape=`\nFROM a\n"]));
        for _ in 0..random.below(40) {
            text.push_str(random.pick(&PIECES));
        }
        if let Ok(parsed) = parse(text.as_bytes()) {
            accepted += 1;
            lint::check(&parsed, &NOTHING_MISSING);
        }
        let _either = parse_tree(text.as_bytes()).map(|tree| tree.to_sexpr());
        let _either = parse_trigger(&text);
        let escape = if random.below(2) == 0 { '\\' } else { '`' };
        let value = |name: &str| (name.len() < 2).then(|| "a*b/c d".to_owned());
        let _either = expand::expand(&text, escape, &value);
        let _either = expand::expand_words(&text, escape, &value);
        let _either = expand::expand_body(&text, &value);
    }
    assert!(accepted > 20, "{accepted} were accepted: the pieces no longer make files");
}

#[test]
fn whatever_bytes_come_are_read_or_refused() {
    let mut random = Random(88_172_645_463_325_252);
    for _ in 0..2000 {
        let bytes: Vec<u8> = (0..random.below(200)).map(|_| u8::try_from(random.below(256)).expect("a byte")).collect();
        let mut shown = String::new();
        if let Err(errors) = parse(&bytes) {
            errors.0.iter().for_each(|error| writeln!(shown, "{error}").expect("a String"));
        }
    }
}
