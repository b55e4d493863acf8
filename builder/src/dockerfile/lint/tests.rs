//! Each check on text that it is about, and on text that it is not about.

use super::{Finding, Known, Rule, check};
use crate::dockerfile::parse;

fn findings(text: &str) -> Vec<Finding> {
    let parsed = parse(text.as_bytes()).unwrap_or_else(|errors| panic!("{errors}\n{text}"));
    let known = Known {
        environment: &|_| Some(vec!["LANG".to_owned()]),
        is_reference: &|text| !text.is_empty() && !text.ends_with(':'),
    };
    check(&parsed, &known)
}

/// Checks which lines a rule is found on.
fn found(rule: Rule, text: &str, lines: &[usize]) {
    let all = findings(text);
    let starts: Vec<usize> =
        all.iter().filter(|finding| finding.rule == rule).map(|finding| finding.span.start).collect();
    assert_eq!(starts, lines, "{rule} in:\n{text}\n{all:?}");
}

#[test]
fn letter_case() {
    found(Rule::StageNameCasing, "FROM a AS One\nFROM a AS two\n", &[1]);
    found(Rule::FromAsCasing, "FROM a as x\nfrom b AS y\nFROM c AS z\nfrom d as w\n", &[1, 2]);
    found(Rule::ConsistentInstructionCasing, "FROM a\nrun x\nCOPY a b\nRun y\n", &[2, 4]);
    found(Rule::ConsistentInstructionCasing, "from a\nrun x\nCOPY a b\n", &[3]);
    found(Rule::ConsistentInstructionCasing, "FROM a\nRUN x\n", &[]);
}

#[test]
fn names_of_stages() {
    found(Rule::DuplicateStageName, "FROM a AS x\nFROM b AS X\nFROM c AS y\n", &[2]);
    found(Rule::ReservedStageName, "FROM a AS scratch\nFROM b AS context\nFROM scratch AS c\n", &[1, 2]);
}

#[test]
fn platforms() {
    found(Rule::RedundantTargetPlatform, "FROM --platform=$TARGETPLATFORM a\nFROM --platform=$BUILDPLATFORM b\n", &[1]);
    let text = "FROM --platform=linux/amd64 a\nFROM --platform=linux/arm64 b AS arm64\nFROM --platform=$P b\n";
    found(Rule::FromPlatformFlagConstDisallowed, text, &[1]);
}

#[test]
fn build_args_of_from() {
    found(Rule::UndefinedArgInFrom, "ARG TAG=1\nFROM a:$TGA\nFROM a:${TAG}-$TARGETARCH\nFROM a:${X:-y}\n", &[2]);
    let message = &findings("ARG TAG=1\nFROM a:$TGA\n")[0].message;
    assert_eq!(message, "`TGA` is no global build arg; did you mean `TAG`?");
    let text = "ARG TAG\nARG V=1\nFROM a:$TAG\nFROM a:${TAG:-1}\nFROM a:$V AS x\nFROM $V$TAG\nFROM plain:\n";
    found(Rule::InvalidDefaultArgInFrom, text, &[3]);
}

#[test]
fn forms_of_instructions() {
    found(Rule::JSONArgsRecommended, "FROM a\nCMD x\nENTRYPOINT [\"y\"]\nFROM b\nSHELL [\"s\"]\nCMD x\n", &[2]);
    found(Rule::JSONArgsRecommended, "FROM a AS a\nSHELL [\"s\"]\nFROM a\nENTRYPOINT x\n", &[]);
    found(Rule::MaintainerDeprecated, "FROM a\nMAINTAINER x\n", &[2]);
    found(Rule::LegacyKeyValueFormat, "FROM a\nENV A b\nENV A=b C=d\nLABEL a b\nLABEL a=b\n", &[2, 4]);
    found(Rule::WorkdirRelativePath, "FROM a\nWORKDIR x\nWORKDIR /y\nWORKDIR z\nFROM b\nWORKDIR $X\n", &[2]);
    found(Rule::WorkdirRelativePath, "FROM a AS a\nWORKDIR /x\nFROM a\nWORKDIR y\n", &[]);
    found(Rule::WorkdirRelativePath, "FROM a AS a\nWORKDIR x\nWORKDIR y\nFROM a\nWORKDIR z\n", &[2]);
    found(
        Rule::MultipleInstructionsDisallowed,
        "FROM a\nCMD [\"1\"]\nCMD [\"2\"]\ncmd [\"3\"]\nFROM b\nCMD []\n",
        &[2, 3],
    );
    found(Rule::ExposeProtoCasing, "FROM a\nEXPOSE 80/TCP 81/udp 82\n", &[2]);
    found(Rule::ExposeInvalidFormat, "FROM a\nEXPOSE 80:80\nEXPOSE 127.0.0.1:80:80 81\nEXPOSE 80-90\n", &[2, 3]);
}

#[test]
fn names_of_secrets() {
    let text = "FROM a\nARG AWS_SECRET_ACCESS_KEY\nENV DB_PASSWORD=x\nENV PUBLIC_KEY=x MONKEY=y\nARG TOKENS\n";
    found(Rule::SecretsUsedInArgOrEnv, text, &[2, 3]);
}

#[test]
fn undefined_variables() {
    let text =
        "FROM a\nENV PATH=$PATH:/x\nCOPY $foo .\nARG foo\nCOPY $foo $LANG /\nRUN echo $bar\nWORKDIR ${baz:-/x}\n";
    found(Rule::UndefinedVar, text, &[3]);
    found(Rule::UndefinedVar, "ARG g\nFROM a\nUSER $g\n", &[3]);
    found(Rule::UndefinedVar, "FROM a\nARG A=1 B=${A}2 C=$B\nENV D=1 E=$A$C\n", &[]);
    found(Rule::UndefinedVar, "FROM a\nARG A=$B B=1\n", &[2]);
    found(Rule::UndefinedVar, "FROM a\nARG A=$X B=$X\n", &[2]);
    found(Rule::UndefinedVar, "FROM a AS one\nENV A=1\nFROM one\nENV B=$A C=$B\n", &[4]);
    found(Rule::UndefinedVar, "FROM scratch\nCOPY <<a <<'b' /\n$X\na\n$Y\nb\n", &[2]);
    found(Rule::UndefinedVar, "FROM a\nRUN --mount=type=cache,target=/x,uid=$U true\n", &[2]);
    let message = &findings("FROM a\nENV PATH=$PAHT:/x\n")[0].message;
    assert_eq!(message, "`$PAHT` is not defined; did you mean `$PATH`?");
    assert_eq!(findings("FROM a\nARG ONE=$ONE\n")[0].message, "`$ONE` is not defined");
}

#[test]
fn what_the_base_image_sets_may_be_unknown() {
    let parsed = parse(b"FROM a\nUSER $x\nFROM scratch\nUSER $y\n").expect("valid");
    let known = Known { environment: &|_| None, is_reference: &|_| true };
    let lines: Vec<usize> = check(&parsed, &known).iter().map(|finding| finding.span.start).collect();
    assert_eq!(lines, [4]);
}

#[test]
fn changes_of_owner_that_double_a_layer() {
    let text = "FROM a\nWORKDIR /app\nCOPY . .\nRUN x && chown -R 1:1 /app\nRUN chmod 755 /app\nRUN chown -Rf 1 .\n";
    found(Rule::ChownDuplicatesLayer, text, &[4, 6]);
    found(
        Rule::ChownDuplicatesLayer,
        "FROM a\nRUN mkdir /x && chown -R 1 /x\nCOPY a /app/\nRUN chown -R 1 /apple\n",
        &[],
    );
    found(Rule::ChownDuplicatesLayer, "FROM a\nADD a /app/x\nRUN chmod --recursive u+x /app\n", &[3]);
}

#[test]
fn the_directive_decides_which_checks_are_made() {
    let text = "FROM a\nMAINTAINER x\nRUN a \\\n\n b\n# no name\nARG y\n";
    let rules = |text: &str| findings(text).iter().map(|finding| finding.rule).collect::<Vec<_>>();
    assert_eq!(rules(text), [Rule::MaintainerDeprecated, Rule::NoEmptyContinuation]);
    assert_eq!(rules(&format!("# check=skip=MaintainerDeprecated\n{text}")), [Rule::NoEmptyContinuation]);
    assert_eq!(rules(&format!("# check=skip=all\n{text}")), []);
    let all = rules(&format!("# check=experimental=all\n{text}"));
    assert_eq!(all, [Rule::MaintainerDeprecated, Rule::NoEmptyContinuation, Rule::InvalidDefinitionDescription]);
}
