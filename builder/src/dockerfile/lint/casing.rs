//! Upper and lower case: of keywords, of the names of stages.

use super::{Finding, Rule, all_instructions, keyword};
use crate::dockerfile::error::quoted;
use crate::dockerfile::instruction::{Dockerfile, Span, Stage};
use crate::dockerfile::words;

pub(super) fn check(dockerfile: &Dockerfile, findings: &mut Vec<Finding>) {
    keywords(dockerfile, findings);
    dockerfile.stages.iter().for_each(|stage| stage_name(stage, findings));
}

/// All keywords in the case that most of them have.
fn keywords(dockerfile: &Dockerfile, findings: &mut Vec<Finding>) {
    let froms = dockerfile.stages.iter().map(|stage| (stage.span, keyword(&stage.original)));
    let others = all_instructions(dockerfile).map(|other| (other.span, keyword(&other.original)));
    let mut all: Vec<(Span, &str)> = froms.chain(others).collect();
    all.sort_by_key(|(span, _)| span.start);
    let lower = all.iter().filter(|(_, word)| is_lower(word)).count();
    let upper = all.iter().filter(|(_, word)| is_upper(word)).count();
    let (wanted, fits): (_, fn(&str) -> bool) = if lower > upper { ("lower", is_lower) } else { ("upper", is_upper) };
    for (span, word) in all.into_iter().filter(|(_, word)| !fits(word)) {
        let message = format!("`{word}` is not in {wanted} case, as most instructions of the file are");
        findings.push(Finding::new(Rule::ConsistentInstructionCasing, span, message));
    }
}

/// The name in lower case, and `AS` in the case of `FROM`.
fn stage_name(stage: &Stage, findings: &mut Vec<Finding>) {
    if stage.name.is_none() {
        return;
    }
    let words = words::list(&stage.original);
    let [.., as_keyword, name] = words.as_slice() else { return };
    if name.chars().any(char::is_uppercase) {
        let message = format!("the name of the stage `{}` is not in lower case", quoted(name));
        findings.push(Finding::new(Rule::StageNameCasing, stage.span, message));
    }
    let from = keyword(&stage.original);
    if (is_lower(from) && !is_lower(as_keyword)) || (is_upper(from) && !is_upper(as_keyword)) {
        let message = format!("`{as_keyword}` and `{from}` are not in the same case");
        findings.push(Finding::new(Rule::FromAsCasing, stage.span, message));
    }
}

fn is_lower(word: &str) -> bool {
    !word.chars().any(char::is_uppercase)
}

fn is_upper(word: &str) -> bool {
    !word.chars().any(char::is_lowercase)
}
