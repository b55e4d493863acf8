//! The variables that are known at one point of a Dockerfile, and expansion with them.

use crate::dockerfile::Word;
use crate::dockerfile::expand::{self, ExpandError};
use crate::graph::Problem;
use crate::graph::platform::Platform;

/// Predefined proxy arguments: a RUN sees them without an ARG; they are in no history and no cache key
/// (Dockerfile reference, "Predefined ARGs").
pub const PROXY_ARGS: [&str; 10] = [
    "HTTP_PROXY",
    "http_proxy",
    "HTTPS_PROXY",
    "https_proxy",
    "FTP_PROXY",
    "ftp_proxy",
    "NO_PROXY",
    "no_proxy",
    "ALL_PROXY",
    "all_proxy",
];

/// Variables in the order of their first declaration; a later declaration replaces the value in place.
#[derive(Debug, Clone)]
pub struct Scope {
    variables: Vec<(String, String)>,
    escape: char,
}

impl Scope {
    /// An empty scope; `escape` is the file's `# escape=`.
    pub fn new(escape: char) -> Self {
        Self { variables: Vec::new(), escape }
    }

    /// The value of a variable.
    pub fn get(&self, name: &str) -> Option<&str> {
        self.variables.iter().find(|(n, _)| n == name).map(|(_, value)| value.as_str())
    }

    /// Declares or replaces a variable.
    pub fn set(&mut self, name: &str, value: &str) {
        match self.variables.iter_mut().find(|(n, _)| n == name) {
            Some((_, place)) => value.clone_into(place),
            None => self.variables.push((name.to_owned(), value.to_owned())),
        }
    }

    /// The variables, in order.
    pub fn variables(&self) -> &[(String, String)] {
        &self.variables
    }

    /// Expands a word to one string.
    pub fn expand(&self, word: &Word) -> Result<String, Problem> {
        let lookup = |name: &str| self.get(name).map(str::to_owned);
        expand::expand(&word.0, self.escape, &lookup).map_err(|source| Problem::Expand { word: word.0.clone(), source })
    }

    /// Expands a part of an instruction that is no word of its own.
    pub fn expand_text(&self, text: &str) -> Result<String, ExpandError> {
        expand::expand(text, self.escape, &|name: &str| self.get(name).map(str::to_owned))
    }

    /// Expands the body of a heredoc that becomes a file.
    pub fn expand_heredoc(&self, body: &str) -> Result<String, Problem> {
        let lookup = |name: &str| self.get(name).map(str::to_owned);
        let expanded = expand::expand_body(body, &lookup);
        expanded.map(|expanded| expanded.text).map_err(|source| Problem::Expand { word: "the heredoc".into(), source })
    }

    /// Expands a word that may become several (`EXPOSE $PORTS`).
    pub fn expand_words(&self, word: &Word) -> Result<Vec<String>, Problem> {
        let lookup = |name: &str| self.get(name).map(str::to_owned);
        expand::expand_words(&word.0, self.escape, &lookup)
            .map_err(|source| Problem::Expand { word: word.0.clone(), source })
    }
}

/// The platform arguments (Dockerfile reference, "Automatic platform ARGs in the global scope").
pub fn platform_args(target: &Platform, build: &Platform) -> Vec<(String, String)> {
    [("TARGET", target), ("BUILD", build)]
        .into_iter()
        .flat_map(|(prefix, platform)| {
            [
                (format!("{prefix}PLATFORM"), platform.to_string()),
                (format!("{prefix}OS"), platform.os.clone()),
                (format!("{prefix}ARCH"), platform.architecture.clone()),
                (format!("{prefix}VARIANT"), platform.variant.clone().unwrap_or_default()),
            ]
        })
        .collect()
}
