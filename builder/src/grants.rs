//! What the caller of a build lets its steps have: secrets and ssh agents. Reads the texts of `--secret` and `--ssh`;
//! which files and variables they name is looked up by the caller.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::path::PathBuf;

use crate::dockerfile::csv_fields;
use crate::secrets::Needles;

/// The longest secret in bytes, as under BuildKit.
pub const SECRET_LIMIT: u64 = 500 * 1024;

/// What the steps of one build may have.
#[derive(Debug, Clone, Default)]
pub struct Grants {
    /// Secrets by their ids.
    pub secrets: BTreeMap<String, Secret>,
    /// Secrets that are empty for want of a variable, by their ids, with its name.
    pub unset: BTreeMap<String, String>,
    /// Parts of secrets that must not be seen either, by the secrets' ids.
    pub parts: Vec<(String, Secret)>,
    /// Layers may hold secrets.
    pub secrets_in_layers: bool,
    /// The sockets of ssh agents by their ids.
    pub agents: BTreeMap<String, PathBuf>,
}

impl Grants {
    /// What to say of the secrets that `used` names and that are empty because nobody set their variable.
    pub fn unset(&self, used: &BTreeSet<&str>) -> impl Iterator<Item = String> {
        let unset = self.unset.iter().filter(|(name, _)| used.contains(name.as_str()));
        unset.map(|(name, variable)| format!("the secret `{name}` is empty: the variable `{variable}` is not set"))
    }

    /// What must not be seen of the secrets that `used` names.
    pub fn needles(&self, used: &BTreeSet<&str>) -> Needles {
        let parts = self.parts.iter().map(|(name, secret)| (name, secret));
        let used = self.secrets.iter().chain(parts).filter(|(name, _)| used.contains(name.as_str()));
        Needles::new(used.map(|(name, secret)| (name.as_str(), secret.0.as_slice())))
    }
}

/// The value of a secret: never shown, never part of a key.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(pub Vec<u8>);

impl fmt::Debug for Secret {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("Secret")
    }
}

/// Why a `--secret` or `--ssh` is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum GrantError {
    /// Not a record of comma-separated values.
    #[error("`--secret {text}`: a quoted field does not end where its quote does")]
    Csv {
        /// The text.
        text: String,
    },
    /// A field that is no `key=value`, or a key that no secret has.
    #[error("`--secret {text}`: `{field}` is none of `id=NAME`, `src=PATH`, `env=VARIABLE`, `type=file|env`")]
    Field {
        /// The text.
        text: String,
        /// The field.
        field: String,
    },
    /// No name.
    #[error("`--secret {text}` has no `id=`")]
    NoId {
        /// The text.
        text: String,
    },
    /// Two places to take the value from.
    #[error("`--secret {text}` names both a file and a variable")]
    Twice {
        /// The text.
        text: String,
    },
    /// An agent without a name.
    #[error("`--ssh {text}` has no name: write `--ssh default` or `--ssh NAME=SOCKET`")]
    NoName {
        /// The text.
        text: String,
    },
}

/// `--secret`: a name, and where its value comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SecretSpec {
    /// The name.
    pub id: String,
    /// Where the value comes from.
    pub source: SecretSource,
}

/// Where the value of a secret comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SecretSource {
    /// A file.
    File(PathBuf),
    /// A variable; it counts as empty when it is not set.
    Variable(String),
    /// The variable that is called as the secret is, else such a file.
    SameName,
}

impl SecretSpec {
    /// Reads `id=NAME[,src=PATH|,env=VARIABLE][,type=file|env]` as buildx does.
    pub fn parse(text: &str) -> Result<Self, GrantError> {
        let fields = csv_fields(text).ok_or_else(|| GrantError::Csv { text: text.to_owned() })?;
        let (mut id, mut file, mut variable, mut is_variable) = (None, None, None, false);
        for field in &fields {
            let refused = || GrantError::Field { text: text.to_owned(), field: field.clone() };
            let (key, value) = field.split_once('=').ok_or_else(refused)?;
            match (key.to_ascii_lowercase().as_str(), value) {
                ("id", _) => id = Some(value.to_owned()),
                ("source" | "src", _) => file = Some(value.to_owned()),
                ("env", _) => variable = Some(value.to_owned()),
                ("type", "file") => {}
                ("type", "env") => is_variable = true,
                _ => return Err(refused()),
            }
        }
        if is_variable && variable.is_none() {
            variable = file.take();
        }
        let set = |value: Option<String>| value.filter(|value| !value.is_empty());
        let source = match (set(file), set(variable)) {
            (Some(_), Some(_)) => return Err(GrantError::Twice { text: text.to_owned() }),
            (Some(file), None) => SecretSource::File(file.into()),
            (None, Some(variable)) => SecretSource::Variable(variable),
            (None, None) => SecretSource::SameName,
        };
        let id = set(id).ok_or_else(|| GrantError::NoId { text: text.to_owned() })?;
        Ok(Self { id, source })
    }
}

/// `--ssh`: a name, and the paths behind it, which are one socket or several keys.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AgentSpec {
    /// The name.
    pub id: String,
    /// The paths; none is the agent of the caller.
    pub paths: Vec<PathBuf>,
}

impl AgentSpec {
    /// Reads `NAME[=PATH[,PATH]]` as buildx does.
    pub fn parse(text: &str) -> Result<Self, GrantError> {
        let (id, paths) = text.split_once('=').unwrap_or((text, ""));
        if id.is_empty() {
            return Err(GrantError::NoName { text: text.to_owned() });
        }
        let paths = paths.split(',').filter(|path| !path.is_empty()).map(PathBuf::from).collect();
        Ok(Self { id: id.to_owned(), paths })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secrets_come_from_files_and_variables() {
        let file = |path: &str| SecretSource::File(path.into());
        let variable = |name: &str| SecretSource::Variable(name.into());
        for (text, source) in [
            ("id=a", SecretSource::SameName),
            ("id=a,src=f", file("f")),
            ("ID=a,Source=f,type=file", file("f")),
            ("type=env,id=a,src=V", variable("V")),
            ("id=a,env=V", variable("V")),
            ("id=a,type=env", SecretSource::SameName),
            ("id=a,\"src=x,y\"", file("x,y")),
        ] {
            assert_eq!(SecretSpec::parse(text), Ok(SecretSpec { id: "a".into(), source }), "{text}");
        }
        for text in
            ["", "a", "src=f", "id=,src=f", "id=a,mode=1", "id=a,type=tmpfs", "id=a,src=f,env=V", "id=a,\"src=f"]
        {
            assert!(SecretSpec::parse(text).is_err(), "{text}");
        }
    }

    #[test]
    fn agents_have_a_name_and_perhaps_paths() {
        let agent =
            |id: &str, paths: &[&str]| AgentSpec { id: id.into(), paths: paths.iter().map(PathBuf::from).collect() };
        assert_eq!(AgentSpec::parse("default"), Ok(agent("default", &[])));
        assert_eq!(AgentSpec::parse("git=/run/s"), Ok(agent("git", &["/run/s"])));
        assert_eq!(AgentSpec::parse("git=a,b"), Ok(agent("git", &["a", "b"])));
        assert!(AgentSpec::parse("=a").is_err() && AgentSpec::parse("").is_err());
    }

    #[test]
    fn values_are_not_shown() {
        let secrets = BTreeMap::from([("id".to_owned(), Secret(b"hunter2".to_vec()))]);
        assert!(!format!("{:?}", Grants { secrets, ..Grants::default() }).contains("hunter2"));
    }
}
