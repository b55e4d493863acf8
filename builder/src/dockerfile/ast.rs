//! Logical lines to nodes: the keyword, the flags and the arguments, cut as the keyword wants it and not yet judged.

use super::Warning;
use super::directive::CheckOptions;
use super::error::{Errors, ParseError, Problem, quoted};
use super::heredoc;
use super::instruction::{Heredoc, Span};
use super::lines::{Line, Reader};
use super::lint::Rule;
use super::words::{self, Json};

/// A file before its instructions are judged.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tree {
    /// The escape character.
    pub escape: char,
    /// `# syntax=`.
    pub syntax: Option<String>,
    /// `# check=`.
    pub check: CheckOptions,
    /// The instructions in order.
    pub nodes: Vec<Node>,
    /// Remarks about the text.
    pub warnings: Vec<Warning>,
}

/// One instruction, whatever it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Node {
    /// Its lines, heredoc bodies included.
    pub span: Span,
    /// The first word, as written.
    pub keyword: String,
    /// The words before the arguments that begin with `--`, their quotes taken off.
    pub flags: Vec<String>,
    /// What follows.
    pub arguments: Arguments,
    /// The heredocs that the line opens.
    pub heredocs: Vec<Heredoc>,
    /// The text on one line.
    pub original: String,
    /// The comment lines directly above.
    pub comments: Vec<String>,
}

/// The arguments of an instruction.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Arguments {
    /// Words between blanks.
    Words(Vec<String>),
    /// A JSON array.
    Json(Vec<String>),
    /// The text as it is, not empty.
    Text(String),
    /// Names and values.
    Pairs(Vec<(String, String)>, Separator),
    /// `HEALTHCHECK`: the first word and the command.
    Check(String, Box<Arguments>),
    /// `ONBUILD`: an instruction.
    Trigger(Box<Node>),
}

/// What stands between a name and its value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Separator {
    /// `ENV name=value`.
    Equals,
    /// `ENV name value`.
    Space,
}

/// Reads a file as far as `rbuild debug ast` shows it: any keyword and any flag goes.
pub fn parse_tree(text: &[u8]) -> Result<Tree, Errors> {
    let (tree, mut errors) = read(text);
    if tree.nodes.is_empty() && errors.is_empty() {
        errors.push(Problem::NoInstructions.at(Span { start: 1, end: 1 }));
    }
    if errors.is_empty() { Ok(tree) } else { Err(Errors(errors)) }
}

/// Reads all that can be read, and collects the errors.
pub(super) fn read(text: &[u8]) -> (Tree, Vec<ParseError>) {
    let mut reader = Reader::new(text);
    let escape = reader.directives.escape;
    let mut errors = Vec::new();
    let mut nodes = Vec::new();
    let mut warnings = Vec::new();
    loop {
        let unreadable = reader.errors.len();
        let Some(line) = reader.logical() else { break };
        let unreadable = reader.errors.len() > unreadable;
        if line.empty_continuation {
            let message = "an empty line inside a continued instruction".to_owned();
            warnings.push(Warning { span: line.span, rule: Rule::NoEmptyContinuation, message });
        }
        match node(line, escape).and_then(|node| with_heredocs(node, &mut reader)) {
            // A line with an error already has one; what else is wrong with it may come from that.
            _ if unreadable => {}
            Ok(node) => nodes.push(node),
            Err(error) => errors.push(error),
        }
    }
    errors.append(&mut reader.errors);
    errors.sort_by_key(|error| error.span.start);
    let directives = reader.directives;
    (Tree { escape, syntax: directives.syntax, check: directives.check, nodes, warnings }, errors)
}

/// The node of one line.
pub(super) fn node(line: Line, escape: char) -> Result<Node, ParseError> {
    let original = line.text.trim();
    if original.is_empty() {
        return Err(Problem::OnlyContinuation.at(line.span));
    }
    let (keyword, rest) = words::cut_word(original);
    let (flags, text) = words::flags(rest.unwrap_or_default());
    let span = line.span;
    let arguments = arguments(keyword, text.trim(), escape, span).map_err(|problem| problem.at(span))?;
    Ok(Node {
        span,
        keyword: keyword.to_owned(),
        flags,
        arguments,
        heredocs: Vec::new(),
        original: original.to_owned(),
        comments: line.comments,
    })
}

/// Reads the bodies of the heredocs that the node opens.
fn with_heredocs(mut node: Node, reader: &mut Reader<'_>) -> Result<Node, ParseError> {
    if !node.may_open_heredocs() {
        return Ok(node);
    }
    let opened_on = node.span;
    for opener in heredoc::openers(&node.original) {
        let (heredoc, end) = reader.heredoc(opener, opened_on)?;
        node.heredocs.push(heredoc);
        node.span.end = end;
    }
    Ok(node)
}

impl Node {
    /// What the comments above say of a name: the rest of the first that begins with it.
    pub(super) fn description(&self, name: &str) -> Option<String> {
        let described =
            |comment: &String| comment.strip_prefix(name)?.strip_prefix(' ').map(|text| text.trim().to_owned());
        self.comments.iter().find_map(described).filter(|text| !text.is_empty())
    }

    /// Whether the keyword is this one.
    pub fn is(&self, keyword: &str) -> bool {
        self.keyword.eq_ignore_ascii_case(keyword)
    }

    /// `RUN`, `COPY` and `ADD` open heredocs, also as triggers, and not in JSON form.
    fn may_open_heredocs(&self) -> bool {
        match &self.arguments {
            Arguments::Trigger(trigger) => trigger.may_open_heredocs(),
            Arguments::Json(_) => false,
            _ => ["RUN", "COPY", "ADD"].iter().any(|keyword| self.is(keyword)),
        }
    }
}

/// The most words that an instruction is cut into. Each costs some hundred bytes until it is a source or a variable: this
/// many fit into the memory that a hostile file may take, and no honest one has a hundredth of them.
const WORDS: usize = 1 << 18;

/// Cuts the text as the keyword wants it.
fn arguments(keyword: &str, text: &str, escape: char, span: Span) -> Result<Arguments, Problem> {
    let upper = keyword.to_ascii_uppercase();
    let is_cut = matches!(upper.as_str(), "ADD" | "ARG" | "COPY" | "ENV" | "EXPOSE" | "FROM" | "LABEL" | "VOLUME");
    if is_cut && text.split_whitespace().nth(WORDS).is_some() {
        return Err(Problem::TooManyWords { instruction: upper, limit: WORDS });
    }
    match upper.as_str() {
        "RUN" | "CMD" | "ENTRYPOINT" | "SHELL" => json_or(&upper, text, text_arguments),
        "ADD" | "COPY" | "VOLUME" => json_or(&upper, text, |text| Arguments::Words(words::list(text))),
        "ARG" => Ok(Arguments::Words(words::quoted_words(text, escape))),
        "ENV" => pairs("ENV", text, escape),
        "LABEL" => pairs("LABEL", text, escape),
        "EXPOSE" | "FROM" => Ok(Arguments::Words(words::list(text))),
        "HEALTHCHECK" => {
            let (kind, command) = text.split_once(char::is_whitespace).unwrap_or((text, ""));
            let command = json_or(&upper, command.trim_start(), text_arguments)?;
            Ok(Arguments::Check(kind.to_owned(), Box::new(command)))
        }
        "ONBUILD" => trigger(text, escape, span),
        _ => Ok(text_arguments(text)),
    }
}

fn text_arguments(text: &str) -> Arguments {
    if text.is_empty() { Arguments::Words(Vec::new()) } else { Arguments::Text(text.to_owned()) }
}

fn json_or(keyword: &str, text: &str, otherwise: impl Fn(&str) -> Arguments) -> Result<Arguments, Problem> {
    match words::json(text) {
        Json::Strings(strings) if strings.len() > WORDS => {
            Err(Problem::TooManyWords { instruction: keyword.to_owned(), limit: WORDS })
        }
        Json::Strings(strings) => Ok(Arguments::Json(strings)),
        Json::Mixed => Err(Problem::NotStrings { instruction: keyword.to_owned() }),
        Json::None => Ok(otherwise(text)),
    }
}

/// `name=value …` or `name value`: the first word decides.
fn pairs(instruction: &'static str, text: &str, escape: char) -> Result<Arguments, Problem> {
    let words = words::quoted_words(text, escape);
    let Some(first) = words.first() else { return Ok(Arguments::Words(Vec::new())) };
    if !first.contains('=') {
        let (name, value) = words::cut_word(text);
        let value = value.ok_or_else(|| Problem::NoValue { instruction, name: quoted(name) })?;
        return Ok(Arguments::Pairs(vec![(name.to_owned(), value.to_owned())], Separator::Space));
    }
    let pairs = words.iter().map(|word| {
        let (name, value) =
            word.split_once('=').ok_or_else(|| Problem::NoEquals { instruction, word: quoted(word) })?;
        Ok((name.to_owned(), value.to_owned()))
    });
    Ok(Arguments::Pairs(pairs.collect::<Result<_, Problem>>()?, Separator::Equals))
}

/// The instruction behind `ONBUILD`; not another `ONBUILD`, so that this is as deep as it gets.
fn trigger(text: &str, escape: char, span: Span) -> Result<Arguments, Problem> {
    let (keyword, _) = words::cut_word(text);
    if keyword.is_empty() {
        return Ok(Arguments::Words(Vec::new()));
    }
    if keyword.eq_ignore_ascii_case("ONBUILD") {
        return Err(Problem::Trigger { keyword: keyword.to_owned() });
    }
    let line = Line { span, text: text.to_owned(), comments: Vec::new(), empty_continuation: false };
    let node = node(line, escape).map_err(|error| error.problem)?;
    Ok(Arguments::Trigger(Box::new(node)))
}
