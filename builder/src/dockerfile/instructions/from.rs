//! `FROM`.

use super::flags::Flags;
use crate::dockerfile::ast::{Arguments, Node};
use crate::dockerfile::error::{ParseError, Problem, quoted};
use crate::dockerfile::instruction::{Stage, Word};

/// The stage that a `FROM` opens.
pub(super) fn stage(node: &Node) -> Result<Stage, ParseError> {
    let flags = Flags::parse(node, "FROM")?;
    let words: &[String] = if let Arguments::Words(words) = &node.arguments { words } else { &[] };
    let (base, name) = match words {
        [] => return Err(Problem::MissingArguments { instruction: "FROM" }.at(node.span)),
        [base] => (base, None),
        [base, keyword, name] if keyword.eq_ignore_ascii_case("AS") => {
            (base, Some(stage_name(name).map_err(|problem| problem.at(node.span))?))
        }
        _ => return Err(Problem::FromArguments.at(node.span)),
    };
    Ok(Stage {
        span: node.span,
        original: node.original.clone(),
        base: Word(base.clone()),
        platform: flags.word("platform"),
        description: words.get(2).and_then(|name| node.description(name)),
        name,
        instructions: Vec::new(),
    })
}

/// The name in lower case: a letter, then letters, digits, `-`, `_` and `.`.
fn stage_name(written: &str) -> Result<String, Problem> {
    let name = written.to_lowercase();
    let valid = name.starts_with(|first: char| first.is_ascii_lowercase())
        && name.chars().all(|character| character.is_ascii_alphanumeric() || matches!(character, '-' | '_' | '.'));
    if valid { Ok(name) } else { Err(Problem::StageName { name: quoted(written) }) }
}
