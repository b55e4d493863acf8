//! Bytes to logical lines: continuations are joined, comments and blank lines dropped, heredoc bodies read on request.

use std::borrow::Cow;

use super::directive::Directives;
use super::error::{ParseError, Problem, quoted};
use super::heredoc::Opener;
use super::instruction::{Heredoc, Span};

/// One instruction's text on one line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Line {
    pub(super) span: Span,
    pub(super) text: String,
    /// The comment lines directly above, without their `#`.
    pub(super) comments: Vec<String>,
    /// A continuation runs over an empty line.
    pub(super) empty_continuation: bool,
}

/// The place in the file.
pub(super) struct Reader<'t> {
    rest: &'t [u8],
    line: usize,
    pub(super) directives: Directives,
    /// Lines that cannot be read, and directives that cannot be followed.
    pub(super) errors: Vec<ParseError>,
}

impl<'t> Reader<'t> {
    pub(super) fn new(text: &'t [u8]) -> Self {
        let rest = text.strip_prefix(b"\xEF\xBB\xBF").unwrap_or(text);
        let mut reader = Reader { rest, line: 0, directives: Directives::default(), errors: Vec::new() };
        if text.starts_with(b"\xFF\xFE") || text.starts_with(b"\xFE\xFF") {
            reader.rest = &[];
            let error = Problem::NotUtf8.at(Span { start: 1, end: 1 });
            reader.errors.push(error.hinted("the file is UTF-16; save it as UTF-8"));
        }
        if reader.rest.starts_with(b"#!") {
            reader.physical();
        }
        reader.read_directives();
        reader
    }

    /// Directives stand at the head of the file, one a line; the first line that is none ends them.
    fn read_directives(&mut self) {
        loop {
            let (rest, line) = (self.rest, self.line);
            let errors = self.errors.len();
            let Some(text) = self.physical() else { return };
            match self.directives.take(text.trim(), self.line) {
                Ok(true) => {}
                Ok(false) => {
                    self.errors.truncate(errors);
                    (self.rest, self.line) = (rest, line);
                    return;
                }
                Err(error) => self.errors.push(error),
            }
        }
    }

    /// The next line as it is, with its newline.
    fn physical(&mut self) -> Option<Cow<'t, str>> {
        if self.rest.is_empty() {
            return None;
        }
        let length = self.rest.iter().position(|&byte| byte == b'\n').map_or(self.rest.len(), |place| place + 1);
        let (line, rest) = self.rest.split_at(length);
        self.rest = rest;
        self.line += 1;
        let span = Span { start: self.line, end: self.line };
        if line.contains(&0) {
            self.errors.push(Problem::NulByte.at(span));
        }
        let text = String::from_utf8_lossy(line);
        if matches!(text, Cow::Owned(_)) {
            self.errors.push(Problem::NotUtf8.at(span));
        }
        Some(text)
    }

    /// The next instruction.
    pub(super) fn logical(&mut self) -> Option<Line> {
        let mut comments = Vec::new();
        loop {
            let physical = self.physical()?;
            let text = physical.trim_end_matches(['\r', '\n']).trim_start();
            if text.is_empty() {
                comments.clear();
            } else if let Some(comment) = text.strip_prefix('#') {
                match comment.trim() {
                    "" => comments.clear(),
                    comment => comments.push(comment.to_owned()),
                }
            } else {
                return Some(self.continued(text, comments));
            }
        }
    }

    /// The line with those that continue it. Comments in between are dropped, wherever their `#` stands.
    fn continued(&mut self, first: &str, comments: Vec<String>) -> Line {
        let start = self.line;
        let escape = self.directives.escape;
        let (text, mut open) = cut_continuation(first, escape);
        let mut text = text.to_owned();
        let mut empty_continuation = false;
        while open {
            let Some(physical) = self.physical() else { break };
            let next = physical.trim_end_matches(['\r', '\n']);
            let content = next.trim_start();
            if content.is_empty() {
                empty_continuation = true;
            } else if !content.starts_with('#') {
                let (next, more) = cut_continuation(next, escape);
                text.push_str(next);
                open = more;
            }
        }
        Line { span: Span { start, end: self.line }, text, comments, empty_continuation }
    }

    /// The body of a heredoc that the lines of `span` open.
    pub(super) fn heredoc(&mut self, opener: Opener, span: Span) -> Result<(Heredoc, usize), ParseError> {
        let Opener { name, fd, expand, strip_tabs } = opener;
        let mut body = String::new();
        while let Some(physical) = self.physical() {
            let line = if strip_tabs { physical.trim_start_matches('\t') } else { &physical };
            if line.trim_end_matches(['\r', '\n']) == name {
                return Ok((Heredoc { name, fd, expand, strip_tabs, body }, self.line));
            }
            body.push_str(line);
        }
        let hint = format!("end it with a line that is `{}` and nothing else", quoted(&name));
        Err(Problem::UnterminatedHeredoc { name: quoted(&name) }.at(span).hinted(hint))
    }
}

/// The line without the escape character at its end, spaces after it aside, and whether there was one. An escape
/// character before it takes its meaning.
fn cut_continuation(line: &str, escape: char) -> (&str, bool) {
    match line.trim_end_matches([' ', '\t']).strip_suffix(escape) {
        Some(cut) if !cut.ends_with(escape) => (cut, true),
        _ => (line, false),
    }
}
