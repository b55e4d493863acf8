//! One file in the form of docker's `config.json`; podman's `auth.json` is a subset with namespaces in its keys.

use std::collections::BTreeMap;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use base64::Engine;
use base64::alphabet;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use serde::Deserialize;

use super::helper::{self, Helper};
use super::{Credential, normal_key};
use crate::Error;

/// Largest credential file, in bytes; real ones have a few thousand.
const FILE_LIMIT: u64 = 1024 * 1024;

/// Standard alphabet; docker pads, other writers do not.
const BASE64: GeneralPurpose = GeneralPurpose::new(
    &alphabet::STANDARD,
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent),
);

/// A parsed credential file.
#[derive(Clone)]
pub(super) struct CredentialFile {
    pub(super) path: PathBuf,
    /// `host[:port][/namespace]` → credential.
    auths: BTreeMap<String, Credential>,
    /// `host[:port]` → helper for that registry.
    helpers: BTreeMap<String, Helper>,
    /// Helper for every other registry.
    store: Option<Helper>,
}

/// The keys of `config.json` that this crate understands; the others belong to the docker CLI.
#[derive(Deserialize)]
struct Config {
    #[serde(default)]
    auths: Option<BTreeMap<String, AuthEntry>>,
    #[serde(default, rename = "credHelpers")]
    cred_helpers: Option<BTreeMap<String, String>>,
    #[serde(default, rename = "credsStore")]
    creds_store: Option<String>,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct AuthEntry {
    auth: Option<String>,
    username: Option<String>,
    password: Option<String>,
    identitytoken: Option<String>,
    registrytoken: Option<String>,
}

impl CredentialFile {
    /// Reads a file; none if it does not exist.
    pub(super) fn load(path: PathBuf) -> Result<Option<Self>, Error> {
        let file = match fs_err::File::open(&path) {
            Ok(file) => file,
            Err(source) if source.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(source) => return Err(Error::CredentialFile { source }),
        };
        let mut text = Vec::new();
        file.take(FILE_LIMIT + 1).read_to_end(&mut text).map_err(|source| Error::CredentialFile { source })?;
        if text.len() as u64 > FILE_LIMIT {
            return Err(Error::CredentialSyntax { path, problem: format!("it is larger than {FILE_LIMIT} bytes") });
        }
        // An empty file says as much as none; `/dev/null` is how many write "no credentials".
        if text.trim_ascii().is_empty() {
            return Ok(None);
        }
        match Self::parse(&path, &text) {
            Ok(file) => Ok(Some(file)),
            Err(problem) => Err(Error::CredentialSyntax { path, problem }),
        }
    }

    /// The helper that keeps a registry's credential, if one does.
    pub(super) fn helper(&self, registry: &str) -> Option<&Helper> {
        self.helpers.get(registry).or(self.store.as_ref())
    }

    pub(super) fn parse(path: &Path, text: &[u8]) -> Result<Self, String> {
        // serde reads a struct from an array too; docker does not write one.
        if text.trim_ascii_start().first() != Some(&b'{') {
            return Err("it is not a JSON object".to_owned());
        }
        // serde_json's text can quote a value, and a value here can be a secret: the position is enough.
        let config: Config = serde_json::from_slice(text)
            .map_err(|error| format!("line {}, column {} does not parse", error.line(), error.column()))?;
        let mut auths = BTreeMap::new();
        for (key, entry) in config.auths.unwrap_or_default() {
            match entry.credential() {
                Ok(Some(credential)) => auths.insert(normal_key(&key), credential),
                Ok(None) => None,
                Err(problem) => return Err(format!("entry `{}`: {problem}", key.escape_default())),
            };
        }
        let mut helpers = BTreeMap::new();
        for (key, name) in config.cred_helpers.unwrap_or_default() {
            helpers.insert(normal_key(&key), Helper::new(&name)?);
        }
        let store = config.creds_store.filter(|name| !name.is_empty()).map(|name| Helper::new(&name)).transpose()?;
        Ok(Self { path: path.to_owned(), auths, helpers, store })
    }

    /// Finds a credential: the registry's helper, else the store for all, else the longest key of `auths` that is the
    /// registry or a namespace around the repository.
    pub(super) fn find(&self, registry: &str, repository: &str) -> Result<Option<Credential>, Error> {
        if let Some(helper) = self.helper(registry)
            && let Some(credential) = helper::get(helper, registry)?
        {
            return Ok(Some(credential));
        }
        let name = format!("{registry}/{repository}");
        let around = |key: &str| name.strip_prefix(key).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'));
        let found = self.auths.iter().filter(|(key, _)| around(key)).max_by_key(|(key, _)| key.len());
        Ok(found.map(|(_, credential)| credential.clone()))
    }
}

impl AuthEntry {
    /// The entry's credential; none for the empty entries that docker writes beside a credential store.
    fn credential(self) -> Result<Option<Credential>, &'static str> {
        let filled = |field: Option<String>| field.filter(|text| !text.is_empty());
        if let Some(token) = filled(self.identitytoken) {
            return Ok(Some(Credential::IdentityToken(token)));
        }
        if let Some(token) = filled(self.registrytoken) {
            return Ok(Some(Credential::RegistryToken(token)));
        }
        if let Some(auth) = filled(self.auth) {
            let bytes = BASE64.decode(auth.trim()).map_err(|_| "`auth` is not base64")?;
            let text = String::from_utf8(bytes).map_err(|_| "`auth` is not UTF-8")?;
            let (username, password) = text.split_once(':').ok_or("`auth` has no colon")?;
            // The docker CLI pads with NUL in front of and behind the password.
            let password = password.trim_matches('\0').to_owned();
            return Ok(Some(Credential::Password { username: username.to_owned(), password }));
        }
        match (filled(self.username), filled(self.password)) {
            (Some(username), Some(password)) => Ok(Some(Credential::Password { username, password })),
            (None, None) => Ok(None),
            _ => Err("`username` and `password` need each other"),
        }
    }
}
