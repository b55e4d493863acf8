//! A second opinion: the `dockerfile-parser` crate, on the part of the language that it reads right. It knows no
//! heredocs, no directives, no escapes in unquoted values, no flags without a value and no JSON form of `COPY`.

use std::fmt::Write as _;

use dockerfile_parser::{Dockerfile as Theirs, Instruction as Their, ShellOrExecExpr};

use super::Random;
use crate::dockerfile::{Command, CommandLine, CopySource, Instruction, Stage, Word, expand, parse};

/// One instruction in a form that both can be put into.
#[derive(Debug, PartialEq, Eq)]
struct Common(String, Vec<String>);

fn common(keyword: &str, words: impl IntoIterator<Item = String>) -> Common {
    Common(keyword.to_owned(), words.into_iter().collect())
}

fn literal(word: &Word) -> String {
    expand::expand(&word.0, '\\', &|name| Some(format!("${name}"))).expect("a word")
}

fn pairs(keyword: &str, pairs: &[(Word, Word)]) -> Common {
    common(keyword, pairs.iter().flat_map(|(name, value)| [literal(name), literal(value)]))
}

fn command(keyword: &str, line: &CommandLine) -> Common {
    match line {
        CommandLine::Shell(text) => common(keyword, [text.clone()]),
        CommandLine::Exec(words) => common(keyword, words.iter().cloned().chain(["exec".to_owned()])),
    }
}

fn our_stage(stage: &Stage) -> Vec<Common> {
    let from = common("FROM", [stage.base.0.clone(), stage.name.clone().unwrap_or_default()]);
    std::iter::once(from).chain(stage.instructions.iter().map(ours)).collect()
}

fn ours(instruction: &Instruction) -> Common {
    match &instruction.command {
        Command::Arg(declared) => common(
            "ARG",
            declared.iter().flat_map(|arg| [arg.name.clone(), arg.default.as_ref().map(literal).unwrap_or_default()]),
        ),
        Command::Run(run) => command("RUN", &run.command),
        Command::Cmd(line) => command("CMD", line),
        Command::Entrypoint(line) => command("ENTRYPOINT", line),
        Command::Env(list) => pairs("ENV", list),
        Command::Label(list) => pairs("LABEL", list),
        Command::Copy(copy) => {
            let from = copy.from.iter().map(|from| from.0.clone());
            let sources = copy.files.sources.iter().map(|source| match source {
                CopySource::Path(path) => path.0.clone(),
                CopySource::Heredoc(heredoc) => heredoc.name.clone(),
            });
            common("COPY", from.chain(sources).chain([copy.files.destination.0.clone()]))
        }
        Command::Workdir(word) => common("WORKDIR", [word.0.clone()]),
        Command::User(word) => common("USER", [word.0.clone()]),
        Command::Volume(words) => common("VOLUME", [join(words)]),
        Command::Expose(words) => common("EXPOSE", [join(words)]),
        other => panic!("the generator makes no {other:?}"),
    }
}

fn join(words: &[Word]) -> String {
    words.iter().map(|word| word.0.as_str()).collect::<Vec<_>>().join(" ")
}

fn their_command(keyword: &str, line: &ShellOrExecExpr) -> Common {
    match line {
        ShellOrExecExpr::Shell(text) => common(keyword, [text.to_string().trim().to_owned()]),
        ShellOrExecExpr::Exec(words) => {
            common(keyword, words.as_str_vec().into_iter().map(str::to_owned).chain(["exec".to_owned()]))
        }
    }
}

fn theirs(instruction: &Their) -> Common {
    match instruction {
        Their::From(from) => {
            let alias = from.alias.as_ref().map(|alias| alias.content.to_lowercase());
            common("FROM", [from.image.content.clone(), alias.unwrap_or_default()])
        }
        Their::Arg(arg) => {
            let value = arg.value.as_ref().map(|value| value.content.clone());
            common("ARG", [arg.name.content.clone(), value.unwrap_or_default()])
        }
        Their::Run(run) => their_command("RUN", &run.expr),
        Their::Cmd(cmd) => their_command("CMD", &cmd.expr),
        Their::Entrypoint(entrypoint) => their_command("ENTRYPOINT", &entrypoint.expr),
        Their::Env(env) => {
            common("ENV", env.vars.iter().flat_map(|pair| [pair.key.content.clone(), pair.value.to_string()]))
        }
        Their::Label(label) => {
            let words = label.labels.iter().flat_map(|pair| [pair.name.content.clone(), pair.value.content.clone()]);
            common("LABEL", words)
        }
        Their::Copy(copy) => {
            let flags = copy.flags.iter().map(|flag| flag.value.content.clone());
            let sources = copy.sources.iter().map(|source| source.content.clone());
            common("COPY", flags.chain(sources).chain([copy.destination.content.clone()]))
        }
        Their::Misc(misc) => {
            let arguments = misc.arguments.to_string();
            let words: Vec<&str> = arguments.split_whitespace().collect();
            common(&misc.instruction.content.to_uppercase(), [words.join(" ")])
        }
    }
}

fn assert_same(text: &str) {
    let parsed = parse(text.as_bytes()).unwrap_or_else(|errors| panic!("{errors}\n{text}"));
    let other = Theirs::parse(text).unwrap_or_else(|error| panic!("{error}\n{text}"));
    let mut found: Vec<Common> = parsed.dockerfile.global_args.iter().map(ours).collect();
    found.extend(parsed.dockerfile.stages.iter().flat_map(our_stage));
    let expected: Vec<Common> = other.instructions.iter().map(theirs).collect();
    assert_eq!(found, expected, "{text}");
}

const NAMES: [&str; 5] = ["A", "PATH_2", "name", "b", "X9"];
const VALUES: [&str; 6] = ["1", "\"two words\"", "x/y:z", "\"\"", "a-b.c", "\"it's\""];
const PATHS: [&str; 5] = [".", "/usr/bin/", "src/*.rs", "a", "./b/c"];
const COMMANDS: [&str; 5] = [
    "make install",
    "set -e; \\\n    echo one && \\\n    # the second\n    echo \"two\"",
    "[\"a\", \"b c\", \"-d\"]",
    "apt-get update \\\n && apt-get install -y gcc",
    "[\"sh\"]",
];

/// One instruction; `ARG` alone may stand before the first `FROM`.
fn instruction(random: &mut Random) -> String {
    let mut name = || NAMES[random.below(NAMES.len())];
    let (first, second) = (name(), name());
    let mut value = || VALUES[random.below(VALUES.len())];
    let (one, two) = (value(), value());
    let command = random.pick(&COMMANDS);
    let (from, to) = (random.pick(&PATHS), random.pick(&PATHS));
    match random.below(12) {
        0 => format!("RUN {command}"),
        1 => format!("CMD {command}"),
        2 => format!("entrypoint {command}"),
        3 => format!("ENV {first}={one} {second}x={two}"),
        4 => format!("ENV {first} plain"),
        5 => format!("LABEL {first}={one} \\\n  \"{second}.y\"={two}"),
        6 => format!("COPY --from=build {from} {to}"),
        7 => format!("COPY {from} {to} \\\n  /d/"),
        8 => format!("WORKDIR {to}"),
        9 => format!("EXPOSE 80 443/tcp\nVOLUME {from}"),
        10 => format!("User {first}"),
        _ => format!("ARG {first}"),
    }
}

#[test]
fn both_parsers_read_the_same_in_what_both_can_read() {
    let mut random = Random(0x9e37_79b9_7f4a_7c15);
    for _ in 0..400 {
        let mut text = String::new();
        if random.below(2) == 0 {
            writeln!(text, "# a comment\nARG {}", NAMES[random.below(NAMES.len())]).expect("a String");
        }
        for stage in 0..=random.below(3) {
            let name = random.pick(&["", " AS build", " as Other-1"]);
            writeln!(text, "FROM image:{stage}{name}\n").expect("a String");
            for _ in 0..random.below(8) {
                writeln!(text, "{}", instruction(&mut random)).expect("a String");
            }
        }
        assert_same(&text);
    }
}
