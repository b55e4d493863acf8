//! Nodes to typed instructions, and instructions to stages.

mod command;
mod copy;
mod duration;
mod flags;
mod from;
mod healthcheck;
mod pairs;
mod plain;
mod run;

pub(super) use flags::INSTRUCTIONS;

use super::ast::{Arguments, Node, Tree, read};
use super::error::{Errors, ParseError, Problem, quoted};
use super::instruction::{Command, Dockerfile, Heredoc, Instruction, Span, Stage};
use super::lint::Rule;
use super::{Parsed, Warning, suggest};

/// Puts the nodes into stages, adding to the errors that the reading found.
pub(super) fn assemble(tree: Tree, mut errors: Vec<ParseError>) -> Result<Parsed, Errors> {
    let Tree { escape, syntax, check, nodes, mut warnings } = tree;
    let mut global_args = Vec::new();
    let mut stages: Vec<Stage> = Vec::new();
    let mut from_seen = false;
    let has_from = nodes.iter().any(|node| node.is("FROM"));
    // What cannot be read may have been the `FROM`.
    let mut unread = !errors.is_empty();
    for node in &nodes {
        warnings.extend(describe(node));
        if node.is("FROM") {
            from_seen = true;
            match from::stage(node) {
                Ok(stage) => stages.push(stage),
                Err(error) => errors.push(error),
            }
            continue;
        }
        match instruction(node, escape) {
            Err(error) => {
                unread |= matches!(error.problem, Problem::UnknownInstruction { .. });
                errors.push(error);
            }
            Ok(instruction) => match stages.last_mut() {
                Some(stage) => stage.instructions.push(instruction),
                None if from_seen => {}
                None if matches!(instruction.command, Command::Arg(_)) => global_args.push(instruction),
                None if unread || !has_from => {}
                None => errors.push(before_from(node)),
            },
        }
    }
    if !has_from && !unread {
        errors.push(no_from(&nodes));
    }
    if !errors.is_empty() {
        errors.sort_by_key(|error| error.span.start);
        return Err(Errors(errors));
    }
    warnings.sort_by_key(|warning| warning.span.start);
    Ok(Parsed { dockerfile: Dockerfile { escape, syntax, global_args, stages }, check, warnings })
}

/// No `FROM` anywhere: one error, on the first line that needs it.
fn no_from(nodes: &[Node]) -> ParseError {
    let problem = if nodes.is_empty() { Problem::NoInstructions } else { Problem::NoStage };
    let first = nodes.iter().find(|node| !node.is("ARG")).or(nodes.last());
    let span = first.map_or(Span { start: 1, end: 1 }, |node| node.span);
    problem.at(span).hinted("begin with `FROM image`, or with `FROM scratch` for an image of your files alone")
}

fn before_from(node: &Node) -> ParseError {
    let problem = Problem::BeforeFrom { keyword: node.keyword.to_uppercase() };
    problem.at(node.span).hinted("only `ARG` may stand before the first `FROM`")
}

/// Reads the text of an `ONBUILD` trigger, as an image's config holds it.
pub fn parse_trigger(text: &str) -> Result<Instruction, Errors> {
    let (tree, mut errors) = read(text.as_bytes());
    let whole = Span { start: 1, end: text.lines().count().max(1) };
    match tree.nodes.as_slice() {
        _ if !errors.is_empty() => {}
        [node] => match trigger_keyword(node).and_then(|()| instruction(node, tree.escape)) {
            Ok(instruction) => return Ok(instruction),
            Err(error) => errors.push(error),
        },
        [] => errors.push(Problem::NoInstructions.at(whole)),
        [_, second, ..] => errors.push(Problem::SecondTrigger.at(second.span)),
    }
    Err(Errors(errors))
}

/// The typed form of a node that is not `FROM`.
fn instruction(node: &Node, escape: char) -> Result<Instruction, ParseError> {
    let command = match node.keyword.to_ascii_uppercase().as_str() {
        "ADD" => copy::add(node).map(Command::Add),
        "ARG" => pairs::arg(node, escape).map(Command::Arg),
        "CMD" => command::command(node, "CMD").map(Command::Cmd),
        "COPY" => copy::copy(node).map(Command::Copy),
        "ENTRYPOINT" => command::command(node, "ENTRYPOINT").map(Command::Entrypoint),
        "ENV" => pairs::pairs(node, "ENV").map(Command::Env),
        "EXPOSE" => plain::expose(node).map(Command::Expose),
        "HEALTHCHECK" => healthcheck::healthcheck(node).map(Command::Healthcheck),
        "LABEL" => pairs::pairs(node, "LABEL").map(Command::Label),
        "MAINTAINER" => plain::text(node, "MAINTAINER").map(|name| Command::Maintainer(name.0)),
        "ONBUILD" => onbuild(node, escape).map(Command::Onbuild),
        "RUN" => run::run(node, escape).map(Command::Run),
        "SHELL" => command::shell(node).map(Command::Shell),
        "STOPSIGNAL" => plain::text(node, "STOPSIGNAL").map(Command::Stopsignal),
        "USER" => plain::text(node, "USER").map(Command::User),
        "VOLUME" => plain::volume(node).map(Command::Volume),
        "WORKDIR" => plain::text(node, "WORKDIR").map(Command::Workdir),
        _ => Err(unknown(node)),
    }?;
    Ok(Instruction { span: node.span, original: node.original.clone(), command })
}

fn unknown(node: &Node) -> ParseError {
    let error = Problem::UnknownInstruction { keyword: quoted(&node.keyword) }.at(node.span);
    if node.keyword.chars().any(|character| character.is_whitespace() || character.is_control()) {
        return error.hinted("the keyword is followed by a space that is not an ordinary one");
    }
    if node.keyword.starts_with("//") {
        return error.hinted("comments begin with `#`");
    }
    if node.keyword.starts_with(['&', '|', ';', '-']) {
        return error.hinted("does the line above lack the escape character at its end?");
    }
    let keywords = INSTRUCTIONS.map(|(keyword, _)| keyword);
    error.suggesting(suggest::nearest(&node.keyword, &keywords))
}

/// The trigger's text, checked as the instruction that it will be.
fn onbuild(node: &Node, escape: char) -> Result<String, ParseError> {
    flags::Flags::parse(node, "ONBUILD")?;
    let Arguments::Trigger(trigger) = &node.arguments else {
        return Err(Problem::MissingArguments { instruction: "ONBUILD" }.at(node.span));
    };
    let mut checked = trigger.as_ref().clone();
    checked.heredocs.clone_from(&node.heredocs);
    checked.span = node.span;
    trigger_keyword(&checked)?;
    instruction(&checked, escape)?;
    let mut text = trigger.original.clone();
    for Heredoc { name, body, .. } in &node.heredocs {
        text.extend(["\n", body, name]);
    }
    Ok(text)
}

fn trigger_keyword(node: &Node) -> Result<(), ParseError> {
    let refused = ["ONBUILD", "FROM", "MAINTAINER"].into_iter().find(|keyword| node.is(keyword));
    match refused {
        Some(keyword) => Err(Problem::Trigger { keyword: keyword.to_owned() }.at(node.span)),
        None => Ok(()),
    }
}

/// A comment above a stage or a build arg that does not begin with its name is no description.
fn describe(node: &Node) -> Option<Warning> {
    let comment = node.comments.last()?;
    let names: Vec<&str> = match &node.arguments {
        Arguments::Words(words) if node.is("FROM") => words.get(2).map(String::as_str).into_iter().collect(),
        Arguments::Words(words) if node.is("ARG") => {
            words.iter().map(|word| word.split_once('=').map_or(word.as_str(), |(name, _)| name)).collect()
        }
        _ => Vec::new(),
    };
    let first = comment.split(' ').next()?;
    let name = names.first()?;
    if names.contains(&first) {
        return None;
    }
    let message = format!("the comment above `{name}` does not begin with its name");
    Some(Warning { span: node.span, rule: Rule::InvalidDefinitionDescription, message })
}
