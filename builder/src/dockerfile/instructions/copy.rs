//! `COPY` and `ADD`.

use super::flags::Flags;
use crate::dockerfile::ast::{Arguments, Node};
use crate::dockerfile::error::{ParseError, Problem, quoted};
use crate::dockerfile::expand::has_variable;
use crate::dockerfile::heredoc;
use crate::dockerfile::instruction::{Add, Copy, CopyFiles, CopySource, Word};

/// `COPY`.
pub(super) fn copy(node: &Node) -> Result<Copy, ParseError> {
    let flags = Flags::parse(node, "COPY")?;
    if flags.value("from").is_some_and(has_variable) {
        let hint = "name the image as a stage: `FROM $image AS name`, then `COPY --from=name`";
        return Err(Problem::Variable { flag: "from" }.at(node.span).hinted(hint));
    }
    let files = files(node, "COPY", &flags)?;
    Ok(Copy { files, from: flags.word("from"), parents: flags.switch("parents").unwrap_or(false) })
}

/// `ADD`.
pub(super) fn add(node: &Node) -> Result<Add, ParseError> {
    let flags = Flags::parse(node, "ADD")?;
    let files = files(node, "ADD", &flags)?;
    Ok(Add {
        files,
        checksum: flags.word("checksum"),
        keep_git_dir: flags.switch("keep-git-dir").unwrap_or(false),
        unpack: flags.switch("unpack"),
    })
}

/// The sources, the destination and the flags that both instructions have.
fn files(node: &Node, instruction: &'static str, flags: &Flags<'_>) -> Result<CopyFiles, ParseError> {
    let (Arguments::Words(words) | Arguments::Json(words)) = &node.arguments else {
        return Err(Problem::NoDestination { instruction }.at(node.span));
    };
    let (destination, sources) = match words.as_slice() {
        [sources @ .., destination] if !sources.is_empty() => (destination, sources),
        _ => return Err(Problem::NoDestination { instruction }.at(node.span)),
    };
    let literal = matches!(node.arguments, Arguments::Json(_));
    if !literal && heredoc::opener(destination).is_some() {
        return Err(Problem::HeredocDestination { instruction }.at(node.span));
    }
    let sources = match_heredocs(node, instruction, sources)?;
    Ok(CopyFiles {
        sources,
        destination: Word(destination.clone()),
        chown: flags.word("chown"),
        chmod: flags.word("chmod"),
        link: flags.switch("link").unwrap_or(false),
        exclude: flags.values("exclude").map(|pattern| Word(pattern.to_owned())).collect(),
    })
}

/// Puts the heredocs of the line in the place of the words that open them.
fn match_heredocs(node: &Node, instruction: &'static str, words: &[String]) -> Result<Vec<CopySource>, ParseError> {
    let mut heredocs = node.heredocs.iter().peekable();
    let mut sources = Vec::with_capacity(words.len());
    for word in words {
        let opener = if heredocs.peek().is_some() { heredoc::opener(word) } else { None };
        let heredoc = opener.and_then(|opener| heredocs.next_if(|heredoc| heredoc.name == opener.name));
        sources.push(match heredoc {
            Some(heredoc) => CopySource::Heredoc(heredoc.clone()),
            None => CopySource::Path(Word(word.clone())),
        });
    }
    match heredocs.next() {
        None => Ok(sources),
        Some(heredoc) => {
            let problem = Problem::HeredocName { instruction, name: quoted(&heredoc.name) };
            Err(problem.at(node.span).hinted("write the delimiter without spaces, directly behind `<<`"))
        }
    }
}
