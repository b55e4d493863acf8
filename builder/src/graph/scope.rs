//! The variables that are known at one point of a Dockerfile, and expansion with them.

use std::cell::RefCell;
use std::collections::BTreeSet;

use indexmap::IndexMap;

use crate::dockerfile::Word;
use crate::dockerfile::expand::{self, ExpandError};
use crate::graph::Problem;
use crate::graph::budget::Budget;
use crate::graph::platform::Platform;

/// Predefined proxy arguments, each by its two names: a RUN sees them without an ARG; they are in no history and no
/// cache key (Dockerfile reference, "Predefined ARGs").
pub const PROXY_ARGS: [[&str; 2]; 5] = [
    ["HTTP_PROXY", "http_proxy"],
    ["HTTPS_PROXY", "https_proxy"],
    ["FTP_PROXY", "ftp_proxy"],
    ["NO_PROXY", "no_proxy"],
    ["ALL_PROXY", "all_proxy"],
];

/// Variables in the order of their first declaration; a later declaration replaces the value in place.
#[derive(Debug, Clone)]
pub struct Scope {
    variables: IndexMap<String, String>,
    /// Variables whose values are not known here and must get nowhere: they are no [`Scope::variables`].
    secrets: BTreeSet<String>,
    escape: char,
    budget: Budget,
}

impl Scope {
    /// An empty scope of a file; `escape` is its `# escape=`.
    pub(super) fn new(escape: char, budget: Budget) -> Self {
        Self { variables: IndexMap::new(), secrets: BTreeSet::new(), escape, budget }
    }

    /// Counts all variables: they are copied.
    pub(super) fn spend(&self) -> Result<(), Problem> {
        let bytes = |(name, value): (&String, &String)| name.len() + value.len() + size_of::<[String; 2]>();
        self.budget.spend(self.variables.iter().map(bytes).sum())
    }

    /// What counts the texts of the file.
    pub(super) fn budget(&self) -> &Budget {
        &self.budget
    }

    /// The value of a variable.
    pub fn get(&self, name: &str) -> Option<&str> {
        self.variables.get(name).map(String::as_str)
    }

    /// Declares or replaces a variable.
    pub fn set(&mut self, name: &str, value: &str) {
        self.secrets.remove(name);
        match self.variables.get_mut(name) {
            Some(place) => value.clone_into(place),
            None => _ = self.variables.insert(name.to_owned(), value.to_owned()),
        }
    }

    /// Declares a variable whose value is a secret.
    pub fn hide(&mut self, name: &str) {
        self.variables.shift_remove(name);
        self.secrets.insert(name.to_owned());
    }

    /// The variables whose values are secrets, sorted.
    pub fn secrets(&self) -> &BTreeSet<String> {
        &self.secrets
    }

    /// The first secret variable that a text names with `$NAME` or `${NAME`, for texts that are not expanded.
    pub fn secret_in(&self, text: &str) -> Option<&str> {
        let is_inner = |c: char| c.is_ascii_alphanumeric() || c == '_';
        let named = |name: &str| {
            ["$", "${"].into_iter().any(|mark| {
                let mention = format!("{mark}{name}");
                text.match_indices(&mention).any(|(at, _)| !text[at + mention.len()..].starts_with(is_inner))
            })
        };
        self.secrets.iter().map(String::as_str).find(|name| named(name))
    }

    /// Expands with the variables of the scope; a secret in what is expanded is an error.
    fn expanding<T>(
        &self,
        expand: impl FnOnce(&dyn Fn(&str) -> Option<String>) -> Result<T, ExpandError>,
    ) -> Result<T, ExpandError> {
        let secret = RefCell::new(None);
        let expanded = expand(&|name: &str| {
            if self.secrets.contains(name) {
                secret.replace(Some(name.to_owned()));
            }
            self.get(name).map(str::to_owned)
        });
        secret.into_inner().map_or(expanded, |name| Err(ExpandError::Secret { name }))
    }

    /// The variables, in order.
    pub fn variables(&self) -> impl Iterator<Item = (&str, &str)> {
        self.variables.iter().map(|(name, value)| (name.as_str(), value.as_str()))
    }

    /// Expands a word to one string.
    pub fn expand(&self, word: &Word) -> Result<String, Problem> {
        let expanded = self.expanding(|lookup| expand::expand(&word.0, self.escape, lookup));
        let expanded = expanded.map_err(|source| Problem::Expand { word: word.0.clone(), source })?;
        self.budget.spend(expanded.len())?;
        Ok(expanded)
    }

    /// Expands a part of an instruction that is no word of its own.
    pub fn expand_text(&self, text: &str) -> Result<String, ExpandError> {
        self.expanding(|lookup| expand::expand(text, self.escape, lookup))
    }

    /// Expands the body of a heredoc that becomes a file.
    pub fn expand_heredoc(&self, body: &str) -> Result<String, Problem> {
        let expanded = self.expanding(|lookup| expand::expand_body(body, lookup));
        let expanded = expanded.map_err(|source| Problem::Expand { word: "the heredoc".into(), source })?;
        self.budget.spend(expanded.text.len())?;
        Ok(expanded.text)
    }

    /// Expands a word that may become several (`EXPOSE $PORTS`).
    pub fn expand_words(&self, word: &Word) -> Result<Vec<String>, Problem> {
        let expanded = self.expanding(|lookup| expand::expand_words(&word.0, self.escape, lookup));
        let expanded = expanded.map_err(|source| Problem::Expand { word: word.0.clone(), source })?;
        self.budget.spend(expanded.iter().map(String::len).sum())?;
        Ok(expanded)
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
                (format!("{prefix}OSVERSION"), String::new()),
                (format!("{prefix}ARCH"), platform.architecture.clone()),
                (format!("{prefix}VARIANT"), platform.variant.clone().unwrap_or_default()),
            ]
        })
        .collect()
}
