//! Word expansion: quotes, escapes and `$variable`, with the rules of BuildKit's shell lexer (which are not quite sh's).
//!
//! `$v ${v} ${v:-w} ${v-w} ${v:+w} ${v+w} ${v:?e} ${v?e} ${v#p} ${v##p} ${v%p} ${v%%p} ${v/p/r} ${v//p/r}`, nested.
//! A command's own `$v` in `RUN` is none of this: the shell of the step expands it.

mod lexer;
mod pattern;
#[cfg(test)]
mod tests;

use lexer::Lexer;

/// How deep `${a:-${b:-…}}` may nest: each level is a call, and a stack is not endless.
const DEEPEST: usize = 64;

/// The most that the values of variables may add to one word, in bytes. `execve` takes 128 KiB a string; this is for
/// heredocs that become files, and ends `ENV a=$a$a` repeated before the machine does.
const LARGEST: usize = 16 << 20;

/// The most comparisons that one pattern may cost: the length of the pattern times the length of the value.
const COSTLIEST: usize = 64 << 20;

/// A word that was expanded.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Expanded {
    /// The result.
    pub text: String,
    /// The variables that were used and had no value, without repetition; not those that say themselves what is to
    /// happen then (`${v:-w}`, `${v:+w}`, `${v:?e}`).
    pub unset: Vec<String>,
}

/// Why a word cannot be expanded.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ExpandError {
    /// A quote is opened and not closed.
    #[error("the quote {0} is not closed")]
    Unclosed(char),
    /// `${` without its `}`.
    #[error("`${{` has no matching `}}`")]
    NoBrace,
    /// `${v/p` without the second `/`.
    #[error("`${{{name}/` has no second `/`")]
    NoReplacement {
        /// The variable.
        name: String,
    },
    /// `${}`, `${:` and the like.
    #[error("`${{` is followed by no variable's name")]
    NoName,
    /// `${v^^}` and the like.
    #[error("`{modifier}` after the name `{name}` is not understood")]
    Modifier {
        /// The variable.
        name: String,
        /// What follows it.
        modifier: String,
    },
    /// `${v:?e}` and `${v?e}` of a variable without value.
    #[error("`{name}`: {message}")]
    Required {
        /// The variable.
        name: String,
        /// What the author says about it, or that it has no value.
        message: String,
    },
    /// A variable whose value is a secret.
    #[error(
        "`{name}` is a secret: only RUN may use it, as a variable of its shell or with `--mount=type=secret,id={name}`"
    )]
    Secret {
        /// The variable.
        name: String,
    },
    /// A pattern that ends in its escape character or escapes an ordinary character.
    #[error("the pattern `{pattern}` escapes what needs no escape")]
    Pattern {
        /// The pattern.
        pattern: String,
    },
    /// A pattern that would take too long.
    #[error("the pattern of `{name}` is too long for its value")]
    Costly {
        /// The variable.
        name: String,
    },
    /// Too many levels of `${`.
    #[error("`${{` is nested more than {DEEPEST} levels deep")]
    TooDeep,
    /// Too large a result.
    #[error("the values of its variables add more than {} MiB", LARGEST >> 20)]
    TooLarge,
}

/// The value of a variable, where it has one.
pub type Lookup<'l> = &'l dyn Fn(&str) -> Option<String>;

/// Expands one word: the result is one word again, its quotes and escapes gone.
pub fn expand(word: &str, escape: char, lookup: Lookup<'_>) -> Result<String, ExpandError> {
    expand_noting_unset(word, escape, lookup).map(|expanded| expanded.text)
}

/// Expands one word and says which variables had no value.
pub fn expand_noting_unset(word: &str, escape: char, lookup: Lookup<'_>) -> Result<Expanded, ExpandError> {
    let mut lexer = Lexer::new(word, escape, lookup);
    let text = lexer.text()?;
    Ok(Expanded { text, unset: lexer.unset() })
}

/// Expands text and splits it at the spaces that are not quoted, those in the values of unquoted variables included.
pub fn expand_words(text: &str, escape: char, lookup: Lookup<'_>) -> Result<Vec<String>, ExpandError> {
    Lexer::new(text, escape, lookup).words()
}

/// Expands the body of a heredoc that becomes a file: quotes are text, `\` still escapes.
pub fn expand_body(body: &str, lookup: Lookup<'_>) -> Result<Expanded, ExpandError> {
    let mut lexer = Lexer::new(body, '\\', lookup).with_literal_quotes();
    let text = lexer.text()?;
    Ok(Expanded { text, unset: lexer.unset() })
}

/// Whether the text has a `$` that could start a variable.
pub fn has_variable(text: &str) -> bool {
    text.contains('$')
}
