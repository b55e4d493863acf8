//! The s-expression of a file, one line an instruction: what `rbuild debug ast` prints, in the form of the suite of
//! BuildKit's parser. Heredoc bodies are not in it.

use std::fmt::Write as _;

use super::ast::{Arguments, Node, Separator, Tree};

impl Tree {
    /// One line for each instruction, each with its newline.
    pub fn to_sexpr(&self) -> String {
        let mut text = String::new();
        for node in &self.nodes {
            write_node(&mut text, node);
            text.push('\n');
        }
        text
    }
}

fn write_node(text: &mut String, node: &Node) {
    text.push('(');
    text.push_str(&node.keyword.to_lowercase());
    if !node.flags.is_empty() {
        let flags: Vec<String> = node.flags.iter().map(|flag| go_quoted(flag)).collect();
        text.push_str(" [");
        text.push_str(&flags.join(" "));
        text.push(']');
    }
    write_arguments(text, &node.arguments);
    text.push(')');
}

fn write_arguments(text: &mut String, arguments: &Arguments) {
    match arguments {
        Arguments::Words(words) | Arguments::Json(words) => words.iter().for_each(|word| write_word(text, word)),
        Arguments::Text(word) => write_word(text, word),
        Arguments::Pairs(pairs, separator) => {
            for (name, value) in pairs {
                write_word(text, name);
                write_word(text, value);
                write_word(text, if *separator == Separator::Equals { "=" } else { "" });
            }
        }
        Arguments::Check(kind, command) => {
            if !kind.is_empty() {
                write_word(text, kind);
            }
            write_arguments(text, command);
        }
        Arguments::Trigger(node) => {
            text.push(' ');
            write_node(text, node);
        }
    }
}

fn write_word(text: &mut String, word: &str) {
    text.push(' ');
    text.push_str(&go_quoted(word));
}

/// The text as Go's `strconv.Quote` writes it, near enough: which characters are printable is Unicode's matter.
fn go_quoted(word: &str) -> String {
    let mut quoted = String::with_capacity(word.len() + 2);
    quoted.push('"');
    for character in word.chars() {
        match character {
            '"' => quoted.push_str("\\\""),
            '\\' => quoted.push_str("\\\\"),
            '\u{7}' => quoted.push_str("\\a"),
            '\u{8}' => quoted.push_str("\\b"),
            '\u{c}' => quoted.push_str("\\f"),
            '\n' => quoted.push_str("\\n"),
            '\r' => quoted.push_str("\\r"),
            '\t' => quoted.push_str("\\t"),
            '\u{b}' => quoted.push_str("\\v"),
            ' ' => quoted.push(' '),
            _ if character.is_ascii_control() => push_code(&mut quoted, 'x', 2, character),
            _ if character.is_control() || character.is_whitespace() => push_code(&mut quoted, 'u', 4, character),
            _ => quoted.push(character),
        }
    }
    quoted.push('"');
    quoted
}

fn push_code(text: &mut String, kind: char, digits: usize, character: char) {
    write!(text, "\\{kind}{:0digits$x}", u32::from(character)).expect("a String takes all that is written to it");
}
