//! `ENV`, `LABEL` and `ARG`: names and values.

use super::flags::Flags;
use crate::dockerfile::ast::{Arguments, Node};
use crate::dockerfile::error::{ParseError, Problem, quoted};
use crate::dockerfile::expand::{expand, has_variable};
use crate::dockerfile::instruction::{ArgDeclaration, Word};

/// The pairs of an `ENV` or a `LABEL`.
pub(super) fn pairs(node: &Node, instruction: &'static str) -> Result<Vec<(Word, Word)>, ParseError> {
    Flags::parse(node, instruction)?;
    let Arguments::Pairs(pairs, _) = &node.arguments else {
        return Err(Problem::MissingArguments { instruction }.at(node.span));
    };
    if pairs.iter().any(|(name, _)| name.is_empty()) {
        return Err(Problem::EmptyName { instruction }.at(node.span));
    }
    Ok(pairs.iter().map(|(name, value)| (Word(name.clone()), Word(value.clone()))).collect())
}

/// The names of an `ARG` with their defaults.
pub(super) fn arg(node: &Node, escape: char) -> Result<Vec<ArgDeclaration>, ParseError> {
    Flags::parse(node, "ARG")?;
    let words: &[String] = if let Arguments::Words(words) = &node.arguments { words } else { &[] };
    if words.is_empty() {
        return Err(Problem::MissingArguments { instruction: "ARG" }.at(node.span));
    }
    words.iter().map(|word| declaration(node, word, escape).map_err(|problem| problem.at(node.span))).collect()
}

fn declaration(node: &Node, word: &str, escape: char) -> Result<ArgDeclaration, Problem> {
    let (written, default) = word.split_once('=').map_or((word, None), |(name, default)| (name, Some(default)));
    if written.is_empty() {
        return Err(Problem::EmptyName { instruction: "ARG" });
    }
    if has_variable(written) {
        return Err(Problem::ArgName { name: quoted(written) });
    }
    let name = expand(written, escape, &|_| None)
        .map_err(|error| Problem::Expansion { word: quoted(written), error: Box::new(error) })?;
    if name.is_empty() {
        return Err(Problem::EmptyName { instruction: "ARG" });
    }
    let description = node.description(&name);
    Ok(ArgDeclaration { name, default: default.map(|default| Word(default.to_owned())), description })
}
