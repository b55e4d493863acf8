//! What the parser refuses, and where. How an error looks on a terminal is not decided here.

use std::fmt;

use super::directive::CheckOptionError;
use super::expand::ExpandError;
use super::instruction::Span;
use super::mount::MountError;
use super::ports::PortError;

/// Every error of one file, in the order of its lines; at least one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Errors(pub Vec<ParseError>);

impl fmt::Display for Errors {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Some(first) = self.0.first() else { return formatter.write_str("the Dockerfile was refused") };
        write!(formatter, "line {}: {first}", first.span.start)?;
        match self.0.len() - 1 {
            0 => Ok(()),
            1 => formatter.write_str(" (and one more error)"),
            more => write!(formatter, " (and {more} more errors)"),
        }
    }
}

impl std::error::Error for Errors {}

/// One error, with the lines that it is about.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{problem}")]
pub struct ParseError {
    /// The lines.
    pub span: Span,
    /// What is wrong; its `Display` is the message.
    pub problem: Problem,
    /// What to write instead, when that can be guessed.
    pub hint: Option<String>,
}

impl ParseError {
    /// The message on one line.
    pub fn message(&self) -> String {
        self.problem.to_string()
    }
}

/// What the parser refuses.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[expect(missing_docs, reason = "each variant's message says what it means and which text it quotes")]
pub enum Problem {
    #[error("the line is not UTF-8")]
    NotUtf8,
    #[error("the line has a NUL byte")]
    NulByte,
    #[error("the file has no instructions")]
    NoInstructions,
    #[error("the file has no `FROM`")]
    NoStage,
    #[error("`{keyword}` stands before the first `FROM`")]
    BeforeFrom { keyword: String },
    #[error("the directive `{name}` is given twice")]
    DuplicateDirective { name: &'static str },
    #[error("`{value}` cannot be the escape character")]
    InvalidEscape { value: String },
    #[error(transparent)]
    Check(#[from] CheckOptionError),
    #[error("the continued line has no instruction")]
    OnlyContinuation,
    #[error("unknown instruction `{keyword}`")]
    UnknownInstruction { keyword: String },
    #[error("`{instruction}` needs at least one argument")]
    MissingArguments { instruction: &'static str },
    #[error("`FROM` takes an image, or an image, `AS` and a name")]
    FromArguments,
    #[error("`{name}` cannot name a stage")]
    StageName { name: String },
    #[error("the JSON array of `{instruction}` has something other than strings")]
    NotStrings { instruction: String },
    #[error("`{instruction}` has more than {limit} words")]
    TooManyWords { instruction: String, limit: usize },
    #[error("`{instruction}` has more than {limit} flags")]
    TooManyFlags { instruction: &'static str, limit: usize },
    #[error("`{word}` of `{instruction}` has no `=`")]
    NoEquals { instruction: &'static str, word: String },
    #[error("`{instruction} {name}` has no value")]
    NoValue { instruction: &'static str, name: String },
    #[error("a name in `{instruction}` is empty")]
    EmptyName { instruction: &'static str },
    #[error("`{name}` cannot be the name of a build arg")]
    ArgName { name: String },
    #[error("the heredoc `{name}` has no end")]
    UnterminatedHeredoc { name: String },
    #[error("the destination of `{instruction}` cannot be a heredoc")]
    HeredocDestination { instruction: &'static str },
    #[error("`{instruction}` cannot name a file by the heredoc `{name}`")]
    HeredocName { instruction: &'static str, name: String },
    #[error("`{instruction}` has no destination: it takes at least two arguments")]
    NoDestination { instruction: &'static str },
    #[error("a path of `{instruction}` is empty")]
    EmptyPath { instruction: &'static str },
    #[error("`{instruction}` has no flag `--{flag}`")]
    UnknownFlag { instruction: &'static str, flag: String },
    #[error("`--{flag}` is given twice")]
    DuplicateFlag { flag: String },
    #[error("`--{flag}` has no value")]
    FlagWithoutValue { flag: String },
    #[error("`--{flag}={value}` is neither `true` nor `false`")]
    NotBoolean { flag: String, value: String },
    #[error("`--{flag}={value}` is not one of {known}")]
    FlagValue { flag: &'static str, value: String, known: &'static str },
    #[error("`--{flag}` takes no variables")]
    Variable { flag: &'static str },
    #[error("`--mount={text}`: {error}")]
    Mount { text: String, error: Box<MountError> },
    #[error("`--{flag}={value}` is not a duration")]
    Duration { flag: &'static str, value: String },
    #[error("`--{flag}={value}` is shorter than 1ms")]
    ShortDuration { flag: &'static str, value: String },
    #[error("`--retries={value}` is not a number from 0 to 2147483647")]
    Retries { value: String },
    #[error("`HEALTHCHECK` takes `CMD` or `NONE`, not `{kind}`")]
    HealthcheckKind { kind: String },
    #[error("`HEALTHCHECK CMD` has no command")]
    NoHealthcheckCommand,
    #[error("`HEALTHCHECK NONE` takes neither flags nor arguments")]
    HealthcheckNone,
    #[error("`SHELL` takes a JSON array of strings")]
    ShellForm,
    #[error("`{instruction}` has an empty command")]
    EmptyCommand { instruction: &'static str },
    #[error("`{keyword}` cannot be an `ONBUILD` trigger")]
    Trigger { keyword: String },
    #[error("a trigger is one instruction, and this is a second one")]
    SecondTrigger,
    #[error("`{word}` cannot be exposed: {error}")]
    Port { word: String, error: PortError },
    #[error("`{word}` cannot be expanded: {error}")]
    Expansion { word: String, error: Box<ExpandError> },
}

impl Problem {
    /// The error at these lines.
    pub(super) fn at(self, span: Span) -> ParseError {
        ParseError { span, problem: self, hint: None }
    }
}

impl ParseError {
    /// The same error with a hint.
    pub(super) fn hinted(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    /// The same error, suggesting `name` where there is one.
    pub(super) fn suggesting(mut self, name: Option<&str>) -> Self {
        self.hint = name.map(|name| format!("did you mean `{name}`?")).or(self.hint);
        self
    }
}

/// The longest piece of a Dockerfile that a message quotes, in characters: what fits on a line of a terminal.
const QUOTED: usize = 60;

/// The text as a message quotes it: cut where it is too long, its control characters (which a terminal would obey)
/// written as escapes.
pub(crate) fn quoted(text: &str) -> String {
    let mut shown = String::new();
    for (count, character) in text.chars().enumerate() {
        if count == QUOTED {
            shown.push('…');
            break;
        }
        if character.is_control() {
            shown.extend(character.escape_default());
        } else {
            shown.push(character);
        }
    }
    shown
}
