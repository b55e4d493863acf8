//! `RUN --mount=`: the options as written, and what they are once their variables have values.

mod csv;
#[cfg(test)]
mod tests;

pub(crate) use csv::fields as csv_fields;

use super::directive::boolean;
use super::error::quoted;
use super::expand::{self, ExpandError};
use super::instruction::{Mount, MountKind, Sharing};

/// The most options of a mount: ten times what there are.
const MOST_OPTIONS: usize = 200;

/// The options of one `--mount=` as written: every value but `from=` may use variables.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MountOptions {
    text: String,
    options: Vec<(Key, String, Option<String>)>,
}

/// Why a mount is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[expect(missing_docs, reason = "each variant's message says what it means and which text it quotes")]
pub enum MountError {
    #[error("a quoted field does not end where its quote does")]
    Csv,
    #[error("it has more than {MOST_OPTIONS} options")]
    TooMany,
    #[error("unknown option `{key}`")]
    UnknownKey { key: String },
    #[error("the option `{key}` has no value")]
    NoValue { key: String },
    #[error("the option `{key}` is given twice")]
    Twice { key: String },
    #[error("the option `{key}` takes no variables")]
    Variable { key: String },
    #[error("unknown type `{value}`")]
    Kind { value: String },
    #[error("`{key}={value}` is neither `true` nor `false`")]
    Boolean { key: String, value: String },
    #[error("`{key}={value}` is not a number")]
    Number { key: String, value: String },
    #[error("`size={value}` is not a number of bytes such as `64m`")]
    Size { value: String },
    #[error("`sharing={value}` is not one of `shared`, `private`, `locked`")]
    Sharing { value: String },
    #[error("a mount of type {kind} has no option `{key}`")]
    NotFor { kind: MountKind, key: String },
    #[error("a mount of type {kind} needs `target=`")]
    NoTarget { kind: MountKind },
    #[error("a secret needs `id=` or `target=`")]
    NoSecret,
    #[error("a secret has either `id=` or `source=`")]
    SecretTwice,
    #[error("`{key}={value}` cannot be expanded: {error}")]
    Expand { key: String, value: String, error: ExpandError },
}

/// The options that exist.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Key {
    Type,
    From,
    Source,
    Target,
    ReadOnly,
    ReadWrite,
    Id,
    Sharing,
    Required,
    Mode,
    Uid,
    Gid,
    Size,
    Env,
}

/// All names of the options.
const KEYS: [(&str, Key); 19] = [
    ("type", Key::Type),
    ("from", Key::From),
    ("source", Key::Source),
    ("src", Key::Source),
    ("target", Key::Target),
    ("dst", Key::Target),
    ("destination", Key::Target),
    ("ro", Key::ReadOnly),
    ("readonly", Key::ReadOnly),
    ("rw", Key::ReadWrite),
    ("readwrite", Key::ReadWrite),
    ("id", Key::Id),
    ("sharing", Key::Sharing),
    ("required", Key::Required),
    ("mode", Key::Mode),
    ("uid", Key::Uid),
    ("gid", Key::Gid),
    ("size", Key::Size),
    ("env", Key::Env),
];

/// The names of the types.
const KINDS: [(&str, MountKind); 5] = [
    ("bind", MountKind::Bind),
    ("cache", MountKind::Cache),
    ("tmpfs", MountKind::Tmpfs),
    ("secret", MountKind::Secret),
    ("ssh", MountKind::Ssh),
];

impl std::fmt::Display for MountKind {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str(KINDS.iter().find(|(_, kind)| kind == self).map_or("bind", |(name, _)| name))
    }
}

/// The names that a misspelt key or type may stand for.
pub(super) fn known_names(error: &MountError) -> (&str, Vec<&'static str>) {
    match error {
        MountError::UnknownKey { key } => (key, KEYS.iter().map(|(name, _)| *name).collect()),
        MountError::Kind { value } => (value, KINDS.iter().map(|(name, _)| *name).collect()),
        MountError::Sharing { value } => (value, vec!["shared", "private", "locked"]),
        _ => ("", Vec::new()),
    }
}

impl MountOptions {
    /// Reads the value of the flag, and checks all that stands there without variables.
    pub(super) fn parse(text: &str, escape: char) -> Result<Self, MountError> {
        if text.split(',').count() > MOST_OPTIONS {
            return Err(MountError::TooMany);
        }
        let fields = csv_fields(text).ok_or(MountError::Csv)?;
        let options = fields.iter().map(|field| option(field)).collect::<Result<Vec<_>, _>>()?;
        let options = MountOptions { text: text.to_owned(), options };
        let mut draft = Draft::default();
        let mut complete = true;
        for (key, name, value) in &options.options {
            if value.as_deref().is_some_and(expand::has_variable) {
                complete = false;
            } else {
                draft.set(
                    *key,
                    name,
                    expanded(name, value.as_deref(), &|word| expand::expand(word, escape, &|_| None))?,
                )?;
            }
        }
        if complete {
            draft.finish()?;
        }
        Ok(options)
    }

    /// The options as they stand in the file.
    pub fn text(&self) -> &str {
        &self.text
    }

    /// The type and the options that are given, by the first of their names.
    #[cfg(test)]
    pub(super) fn given(&self) -> Vec<(MountKind, &'static str)> {
        let value = |wanted: Key| self.options.iter().find(|(key, ..)| *key == wanted)?.2.as_deref();
        let kind = value(Key::Type).map_or(MountKind::Bind, |value| kind(value).expect("a type that was parsed"));
        let first = |key: &Key| KEYS.iter().find(|(_, known)| known == key).expect("every key has a name").0;
        self.options.iter().map(|(key, ..)| (kind, first(key))).collect()
    }

    /// The value of `from=`, which has no variables.
    pub fn from(&self) -> Option<&str> {
        self.options.iter().find(|(key, ..)| *key == Key::From).and_then(|(.., value)| value.as_deref())
    }

    /// The mount, with each value put through `expand`.
    pub fn resolve(&self, expand: &dyn Fn(&str) -> Result<String, ExpandError>) -> Result<Mount, MountError> {
        let mut draft = Draft::default();
        for (key, name, value) in &self.options {
            draft.set(*key, name, expanded(name, value.as_deref(), expand)?)?;
        }
        draft.finish()
    }
}

/// One `key=value` or `key`.
fn option(field: &str) -> Result<(Key, String, Option<String>), MountError> {
    let (name, value) = field.split_once('=').map_or((field, None), |(name, value)| (name, Some(value)));
    let name = name.to_ascii_lowercase();
    let key = KEYS.iter().find(|(known, _)| *known == name).map(|(_, key)| *key);
    let Some(key) = key else { return Err(MountError::UnknownKey { key: quoted(&name) }) };
    if value.is_none() && !matches!(key, Key::ReadOnly | Key::ReadWrite | Key::Required) {
        return Err(MountError::NoValue { key: name });
    }
    if key == Key::From && value.is_some_and(expand::has_variable) {
        return Err(MountError::Variable { key: name });
    }
    Ok((key, name, value.map(str::to_owned)))
}

fn expanded(
    key: &str,
    value: Option<&str>,
    expand: &dyn Fn(&str) -> Result<String, ExpandError>,
) -> Result<Option<String>, MountError> {
    let Some(value) = value else { return Ok(None) };
    let wrap = |error| MountError::Expand { key: key.to_owned(), value: quoted(value), error };
    expand(value).map(Some).map_err(wrap)
}

/// A mount whose options are being set.
#[derive(Default)]
struct Draft {
    kind: MountKind,
    seen: Vec<(Key, String)>,
    id: Option<String>,
    target: Option<String>,
    source: Option<String>,
    from: Option<String>,
    readonly: Option<bool>,
    required: bool,
    sharing: Sharing,
    mode: Option<u32>,
    uid: Option<u32>,
    gid: Option<u32>,
    size: Option<u64>,
    env: Option<String>,
}

impl Draft {
    /// Takes one option. Whether the type may have it is judged at the end, for `type=` may come last.
    fn set(&mut self, key: Key, name: &str, value: Option<String>) -> Result<(), MountError> {
        let conflicts = |other: Key| {
            other == key || matches!((other, key), (Key::ReadOnly, Key::ReadWrite) | (Key::ReadWrite, Key::ReadOnly))
        };
        if self.seen.iter().any(|(other, _)| conflicts(*other)) {
            return Err(MountError::Twice { key: name.to_owned() });
        }
        self.seen.push((key, name.to_owned()));
        let text = value.as_deref();
        match key {
            Key::Type => self.kind = kind(text.unwrap_or_default())?,
            Key::From => self.from = value,
            Key::Source => self.source = value,
            Key::Target => self.target = value,
            Key::ReadOnly => self.readonly = Some(truth(name, text)?),
            Key::ReadWrite => self.readonly = Some(!truth(name, text)?),
            Key::Id => self.id = value,
            Key::Sharing => self.sharing = sharing(text.unwrap_or_default())?,
            Key::Required => self.required = truth(name, text)?,
            Key::Mode => self.mode = Some(number(name, text.unwrap_or_default(), 8)?),
            Key::Uid => self.uid = Some(number(name, text.unwrap_or_default(), 10)?),
            Key::Gid => self.gid = Some(number(name, text.unwrap_or_default(), 10)?),
            Key::Size => self.size = Some(read_size(text.unwrap_or_default())?),
            Key::Env => self.env = value,
        }
        Ok(())
    }

    fn finish(self) -> Result<Mount, MountError> {
        let kind = self.kind;
        let writable_secret = kind == MountKind::Secret && self.readonly == Some(false);
        for (key, name) in &self.seen {
            let written = matches!(key, Key::ReadOnly | Key::ReadWrite) && writable_secret;
            if !allows(kind, *key) || written {
                return Err(MountError::NotFor { kind, key: name.clone() });
            }
        }
        let target = self.target.filter(|target| !target.is_empty());
        let needs_target = matches!(kind, MountKind::Bind | MountKind::Cache | MountKind::Tmpfs);
        if needs_target && target.is_none() {
            return Err(MountError::NoTarget { kind });
        }
        if kind == MountKind::Secret {
            match (&self.id, &self.source, &target) {
                (None, None, None) => return Err(MountError::NoSecret),
                (Some(_), Some(_), _) => return Err(MountError::SecretTwice),
                _ => {}
            }
        }
        Ok(Mount {
            kind,
            id: self.id,
            target,
            source: self.source,
            from: self.from,
            readonly: self.readonly,
            required: self.required,
            sharing: self.sharing,
            mode: self.mode,
            uid: self.uid,
            gid: self.gid,
            size: self.size,
            env: self.env,
        })
    }
}

/// Every type with each option that it may have, by the first of its names.
#[cfg(test)]
pub(super) fn known() -> Vec<(MountKind, &'static str)> {
    let mut names = KEYS.to_vec();
    names.dedup_by_key(|(_, key)| *key);
    let of =
        |kind| names.clone().into_iter().filter(move |(_, key)| allows(kind, *key)).map(move |(name, _)| (kind, name));
    KINDS.into_iter().flat_map(|(_, kind)| of(kind)).collect()
}

/// Which options a type may have, by Docker's Dockerfile reference; what BuildKit takes there and ignores is refused.
fn allows(kind: MountKind, key: Key) -> bool {
    let own: &[Key] = match kind {
        MountKind::Bind => &[Key::From, Key::Source, Key::ReadOnly, Key::ReadWrite],
        MountKind::Cache => &[
            Key::From,
            Key::Source,
            Key::ReadOnly,
            Key::ReadWrite,
            Key::Id,
            Key::Sharing,
            Key::Mode,
            Key::Uid,
            Key::Gid,
        ],
        MountKind::Tmpfs => &[Key::Size, Key::ReadOnly, Key::ReadWrite],
        MountKind::Secret => &[
            Key::Id,
            Key::Source,
            Key::Required,
            Key::Mode,
            Key::Uid,
            Key::Gid,
            Key::Env,
            Key::ReadOnly,
            Key::ReadWrite,
        ],
        MountKind::Ssh => &[Key::Id, Key::Required, Key::Mode, Key::Uid, Key::Gid],
    };
    matches!(key, Key::Type | Key::Target) || own.contains(&key)
}

fn kind(value: &str) -> Result<MountKind, MountError> {
    let found = KINDS.iter().find(|(name, _)| name.eq_ignore_ascii_case(value));
    found.map(|(_, kind)| *kind).ok_or_else(|| MountError::Kind { value: quoted(value) })
}

fn sharing(value: &str) -> Result<Sharing, MountError> {
    match value.to_ascii_lowercase().as_str() {
        "shared" => Ok(Sharing::Shared),
        "private" => Ok(Sharing::Private),
        "locked" => Ok(Sharing::Locked),
        _ => Err(MountError::Sharing { value: quoted(value) }),
    }
}

fn truth(key: &str, value: Option<&str>) -> Result<bool, MountError> {
    let Some(value) = value else { return Ok(true) };
    boolean(value).ok_or_else(|| MountError::Boolean { key: key.to_owned(), value: quoted(value) })
}

fn number(key: &str, value: &str, radix: u32) -> Result<u32, MountError> {
    let digits = !value.is_empty() && value.chars().all(|character| character.is_digit(radix));
    let number = digits.then(|| u32::from_str_radix(value, radix).ok()).flatten();
    number.ok_or_else(|| MountError::Number { key: key.to_owned(), value: quoted(value) })
}

/// A number of bytes with a binary unit, as docker's `--memory` takes it: `512`, `64m`, `1.5GiB`.
pub fn read_size(value: &str) -> Result<u64, MountError> {
    let invalid = || MountError::Size { value: quoted(value) };
    let digits = value.find(|character: char| !character.is_ascii_digit() && character != '.').unwrap_or(value.len());
    let (number, unit) = value.split_at(digits);
    let shift = match unit.trim_start().to_ascii_lowercase().as_str() {
        "" | "b" => 0,
        "k" | "kb" | "kib" => 10,
        "m" | "mb" | "mib" => 20,
        "g" | "gb" | "gib" => 30,
        "t" | "tb" | "tib" => 40,
        "p" | "pb" | "pib" => 50,
        _ => return Err(invalid()),
    };
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    let unit = 1_u128 << shift;
    let fraction = fraction.get(..fraction.len().min(12)).unwrap_or_default();
    let thousandths: u128 = if fraction.is_empty() { 0 } else { fraction.parse().map_err(|_| invalid())? };
    let scale = 10_u128.pow(u32::try_from(fraction.len()).map_err(|_| invalid())?);
    let whole: u64 = whole.parse().map_err(|_| invalid())?;
    u64::try_from(u128::from(whole) * unit + thousandths * unit / scale).map_err(|_| invalid())
}
