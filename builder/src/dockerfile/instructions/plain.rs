//! Instructions that are one text or a list of words.

use super::flags::Flags;
use crate::dockerfile::ast::{Arguments, Node};
use crate::dockerfile::error::{ParseError, Problem, quoted};
use crate::dockerfile::instruction::Word;
use crate::dockerfile::ports::Ports;

/// `USER`, `WORKDIR`, `STOPSIGNAL`, `MAINTAINER`: all of the text is the argument.
pub(super) fn text(node: &Node, instruction: &'static str) -> Result<Word, ParseError> {
    Flags::parse(node, instruction)?;
    match &node.arguments {
        Arguments::Text(text) => Ok(Word(text.clone())),
        _ => Err(Problem::MissingArguments { instruction }.at(node.span)),
    }
}

/// The words of an `EXPOSE`; those without variables are ports.
pub(super) fn expose(node: &Node) -> Result<Vec<Word>, ParseError> {
    Flags::parse(node, "EXPOSE")?;
    let words = list(node, "EXPOSE")?;
    for word in words.iter().filter(|word| word.bytes().all(|byte| !matches!(byte, b'$' | b'"' | b'\'' | b'\\' | b'`')))
    {
        Ports::parse(word).map_err(|error| Problem::Port { word: quoted(word), error }.at(node.span))?;
    }
    Ok(words.iter().cloned().map(Word).collect())
}

/// The paths of a `VOLUME`.
pub(super) fn volume(node: &Node) -> Result<Vec<Word>, ParseError> {
    Flags::parse(node, "VOLUME")?;
    let words = list(node, "VOLUME")?;
    if words.iter().any(|word| word.trim().is_empty()) {
        return Err(Problem::EmptyPath { instruction: "VOLUME" }.at(node.span));
    }
    Ok(words.iter().map(|word| Word(word.trim().to_owned())).collect())
}

fn list<'n>(node: &'n Node, instruction: &'static str) -> Result<&'n [String], ParseError> {
    match &node.arguments {
        Arguments::Words(words) | Arguments::Json(words) if !words.is_empty() => Ok(words),
        _ => Err(Problem::MissingArguments { instruction }.at(node.span)),
    }
}
