//! YAML text → a tree whose nodes know their lines. Knows nothing of what a convox.yml means.

use std::borrow::Cow;
use std::collections::HashMap;

use saphyr_parser::{Event, Parser, ScalarStyle, ScanError, Span};

/// Most nodes of a document, aliases counted with all that they stand for: what a few lines of anchors may become.
const NODE_LIMIT: usize = 100_000;
/// Deepest nesting: each level is a call.
const DEPTH_LIMIT: usize = 64;

/// Why a text is no YAML that rbuild reads.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("line {line}: {problem}")]
pub struct YamlError {
    /// The line, from 1.
    pub line: usize,
    /// What is wrong there.
    pub problem: String,
}

/// One node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Node {
    /// The line that it begins on, from 1.
    pub line: usize,
    /// What it is.
    pub value: Value,
}

/// What a node is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Value {
    /// Nothing: an empty plain scalar, `~` or `null`.
    Null,
    /// A scalar, as text: what type it means is the reader's business.
    Text(String),
    /// A list.
    Sequence(Vec<Node>),
    /// A map in the order of the file.
    Mapping(Vec<(Key, Node)>),
}

/// A key of a map.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Key {
    /// The line that it is on.
    pub line: usize,
    /// Its text.
    pub text: String,
}

impl Value {
    /// What the node is, in a word.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Null => "nothing",
            Self::Text(_) => "a text",
            Self::Sequence(_) => "a list",
            Self::Mapping(_) => "a map",
        }
    }
}

/// Reads a text: one document, an empty one is nothing.
pub fn parse(text: &str) -> Result<Node, YamlError> {
    let mut reader = Reader { parser: Parser::new_from_str(text), anchors: HashMap::new(), nodes: 0 };
    loop {
        match reader.next()? {
            (Event::Nothing | Event::StreamStart | Event::DocumentStart(_), _) => {}
            (Event::StreamEnd, span) => return Ok(Node { line: line(&span), value: Value::Null }),
            (event, span) => {
                let node = reader.node(event, &span, 0)?;
                return reader.end().map(|()| node);
            }
        }
    }
}

struct Reader<'t> {
    parser: Parser<'t, saphyr_parser::StrInput<'t>>,
    anchors: HashMap<usize, (Node, usize)>,
    nodes: usize,
}

impl<'t> Reader<'t> {
    fn next(&mut self) -> Result<(Event<'t>, Span), YamlError> {
        let next = self.parser.next_event();
        let next = next.unwrap_or_else(|| Ok((Event::StreamEnd, Span::default())));
        next.map_err(|error: ScanError| YamlError {
            line: error.marker().line(),
            problem: format!("this is no YAML: {}", error.info()),
        })
    }

    fn end(&mut self) -> Result<(), YamlError> {
        loop {
            match self.next()? {
                (Event::StreamEnd, _) => return Ok(()),
                (Event::Nothing | Event::DocumentEnd, _) => {}
                (_, span) => return Err(at(&span, "a second document begins, and one is all there can be")),
            }
        }
    }

    fn count(&mut self, nodes: usize, span: &Span) -> Result<(), YamlError> {
        self.nodes += nodes;
        if self.nodes > NODE_LIMIT {
            return Err(at(span, format!("with its aliases the file has more than {NODE_LIMIT} nodes")));
        }
        Ok(())
    }

    fn node(&mut self, event: Event<'t>, span: &Span, depth: usize) -> Result<Node, YamlError> {
        if depth > DEPTH_LIMIT {
            return Err(at(span, format!("it is nested more than {DEPTH_LIMIT} levels deep")));
        }
        let before = self.nodes;
        self.count(1, span)?;
        let (value, anchor) = match event {
            Event::Alias(id) => {
                let (node, size) = self
                    .anchors
                    .get(&id)
                    .cloned()
                    .ok_or_else(|| at(span, "this alias stands inside its own anchor"))?;
                self.count(size, span)?;
                return Ok(Node { line: line(span), ..node });
            }
            Event::Scalar(text, style, anchor, _) => (scalar(text, style), anchor),
            Event::SequenceStart(anchor, _) => (self.sequence(depth)?, anchor),
            Event::MappingStart(anchor, _) => (self.mapping(depth)?, anchor),
            _ => return Err(at(span, "something is missing here")),
        };
        let node = Node { line: line(span), value };
        if anchor != 0 {
            self.anchors.insert(anchor, (node.clone(), self.nodes - before));
        }
        Ok(node)
    }

    fn sequence(&mut self, depth: usize) -> Result<Value, YamlError> {
        let mut items = Vec::new();
        loop {
            match self.next()? {
                (Event::SequenceEnd, _) => return Ok(Value::Sequence(items)),
                (event, span) => items.push(self.node(event, &span, depth + 1)?),
            }
        }
    }

    fn mapping(&mut self, depth: usize) -> Result<Value, YamlError> {
        let mut entries: Vec<(Key, Node)> = Vec::new();
        let mut merged: Vec<(Key, Node)> = Vec::new();
        loop {
            let (event, span) = self.next()?;
            if event == Event::MappingEnd {
                for (key, value) in merged {
                    if entries.iter().all(|(known, _)| known.text != key.text) {
                        entries.push((key, value));
                    }
                }
                return Ok(Value::Mapping(entries));
            }
            let key = self.node(event, &span, depth + 1)?;
            let (event, span) = self.next()?;
            let value = self.node(event, &span, depth + 1)?;
            match key.value {
                Value::Text(text) if text == "<<" => merged.extend(inherited(value)?),
                Value::Text(text) if entries.iter().any(|(known, _)| known.text == text) => {
                    return Err(YamlError { line: key.line, problem: format!("the key `{text}` is there twice") });
                }
                Value::Text(text) => entries.push((Key { line: key.line, text }, value)),
                other => {
                    let problem = format!("a key has to be a text, and this is {}", other.kind());
                    return Err(YamlError { line: key.line, problem });
                }
            }
        }
    }
}

/// The keys that `<<: *anchor` or `<<: [*one, *other]` brings.
fn inherited(from: Node) -> Result<Vec<(Key, Node)>, YamlError> {
    match from.value {
        Value::Mapping(entries) => Ok(entries),
        Value::Sequence(items) => Ok(items.into_iter().map(inherited).collect::<Result<Vec<_>, _>>()?.concat()),
        Value::Null | Value::Text(_) => {
            Err(YamlError { line: from.line, problem: "`<<` merges a map, and this is none".into() })
        }
    }
}

fn scalar(text: Cow<'_, str>, style: ScalarStyle) -> Value {
    match (style, text.as_ref()) {
        (ScalarStyle::Plain, "" | "~" | "null" | "Null" | "NULL") => Value::Null,
        _ => Value::Text(text.into_owned()),
    }
}

fn line(span: &Span) -> usize {
    span.start.line().max(1)
}

fn at(span: &Span, problem: impl Into<String>) -> YamlError {
    YamlError { line: line(span), problem: problem.into() }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(node: &Node) -> String {
        match &node.value {
            Value::Null => "null".into(),
            Value::Text(text) => format!("{text:?}"),
            Value::Sequence(items) => format!("[{}]", items.iter().map(text_of).collect::<Vec<_>>().join(" ")),
            Value::Mapping(entries) => {
                let entries: Vec<_> =
                    entries.iter().map(|(k, v)| format!("{}@{}:{}", k.text, k.line, text(v))).collect();
                format!("{{{}}}", entries.join(" "))
            }
        }
    }

    fn text_of(node: &Node) -> String {
        text(node)
    }

    #[test]
    fn nodes_know_their_lines() {
        let node = parse("# x\na: 1\nb:\n  - x\n  - 'null'\n  -\nc: {d: ~}\n").unwrap();
        assert_eq!(text(&node), r#"{a@2:"1" b@3:["x" "null" null] c@7:{d@7:null}}"#);
        assert_eq!(text(&parse("").unwrap()), "null");
        assert_eq!(text(&parse("a: &x [1]\nb: *x\n").unwrap()), r#"{a@1:["1"] b@2:["1"]}"#);
    }

    #[test]
    fn maps_are_merged_behind_their_own_keys() {
        let node = parse("x: &x {a: 1, b: 2}\ny:\n  <<: *x\n  a: 3\n").unwrap();
        assert_eq!(text(&node), r#"{x@1:{a@1:"1" b@1:"2"} y@2:{a@4:"3" b@1:"2"}}"#);
    }

    #[test]
    fn mistakes_are_told_with_their_line() {
        for (given, line) in [
            ("a: 1\na: 2\n", 2),
            ("a:\n\t- x\n", 2),
            ("a: [1\nb: 2\n", 2),
            ("a: 1\n---\nb: 1\n", 2),
            ("[a]: 1\n", 1),
            ("a: *none\n", 1),
            ("y:\n  <<: x\n", 2),
        ] {
            let error = parse(given).expect_err(given);
            assert_eq!(error.line, line, "{given}: {error}");
        }
    }

    #[test]
    fn a_small_text_does_not_become_a_large_tree() {
        let mut bomb = String::from("a0: &a0 [x,x,x,x,x,x,x,x,x,x]\n");
        for level in 1..12 {
            let below = format!("*a{}", level - 1);
            let line = format!("a{level}: &a{level} [{}]\n", vec![below; 10].join(","));
            bomb.push_str(&line);
        }
        assert!(parse(&bomb).unwrap_err().problem.contains("nodes"));
        assert!(parse(&"[".repeat(100_000)).is_err());
    }
}
