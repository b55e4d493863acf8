//! Credential files changed: what `login` and `logout` write, in the form of docker's `config.json`.
//!
//! What else is in the file stays. The file is replaced whole and readable by its owner alone; where it is a symbolic
//! link, what it points to is replaced.

use std::io::{self, Write};
use std::path::{Path, PathBuf};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use fs_err::os::unix::fs::OpenOptionsExt;
use serde_json::{Map, Value, json};

use super::file::CredentialFile;
use super::helper::{self, Helper, TOKEN_USER};
use super::{IdentityToken, normal_key, server_key};
use crate::Error;
use crate::reference::authority;

/// Where a credential was put.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Kept {
    /// In the file itself, as text that only its mode protects.
    File,
    /// By the helper `docker-credential-<name>` that the file names.
    Helper(String),
}

/// Keeps a user name and password for a registry (`host` or `host:port`), in the file or with the helper that it names.
pub fn store(path: &Path, registry: &str, username: &str, password: &str) -> Result<Kept, Error> {
    let entry = json!({"auth": STANDARD.encode(format!("{username}:{password}"))});
    keep(path, registry, (username, password), entry)
}

/// Keeps an identity token, and no password, for a user of a registry, where [`store`] would keep the password.
pub fn store_token(path: &Path, registry: &str, username: &str, token: &IdentityToken) -> Result<Kept, Error> {
    let entry = json!({"auth": STANDARD.encode(format!("{username}:")), "identitytoken": token.0});
    keep(path, registry, (TOKEN_USER, &token.0), entry)
}

/// Keeps a secret with the helper, or an entry in the file.
fn keep(path: &Path, registry: &str, (username, secret): (&str, &str), entry: Value) -> Result<Kept, Error> {
    let registry = registry_key(registry)?;
    let (helper, mut config) = open(path, &registry)?;
    let entry = match &helper {
        Some(helper) => {
            let secret = json!({"ServerURL": server_key(&registry), "Username": username, "Secret": secret});
            helper::tell(helper, "store", &registry, secret.to_string().as_bytes())?;
            // Docker writes an empty entry beside a helper: it says that there is something.
            json!({})
        }
        None => entry,
    };
    let auths = config.entry("auths").or_insert_with(|| json!({}));
    let Value::Object(auths) = auths else { return Err(syntax(path, "its `auths` is not a JSON object")) };
    auths.retain(|key, _| normal_key(key) != registry);
    auths.insert(server_key(&registry).to_owned(), entry);
    write(path, &config)?;
    Ok(helper.map_or(Kept::File, |helper| Kept::Helper(helper.name().to_owned())))
}

/// Forgets the credentials of a registry; false if there were none.
pub fn erase(path: &Path, registry: &str) -> Result<bool, Error> {
    let registry = registry_key(registry)?;
    let (helper, mut config) = open(path, &registry)?;
    let mut found = false;
    if let Some(helper) = &helper
        && helper::get(helper, &registry)?.is_some()
    {
        helper::tell(helper, "erase", &registry, server_key(&registry).as_bytes())?;
        found = true;
    }
    if let Some(Value::Object(auths)) = config.get_mut("auths") {
        let before = auths.len();
        auths.retain(|key, _| normal_key(key) != registry);
        if auths.len() < before {
            found = true;
            write(path, &config)?;
        }
    }
    Ok(found)
}

fn registry_key(registry: &str) -> Result<String, Error> {
    let host =
        authority(registry).ok_or_else(|| Error::InsecureHost { host: registry.escape_default().to_string() })?;
    Ok(normal_key(&host))
}

/// Reads a file, which need not exist, and finds the helper for a registry.
fn open(path: &Path, registry: &str) -> Result<(Option<Helper>, Map<String, Value>), Error> {
    let Some(file) = CredentialFile::load(path.to_owned())? else { return Ok((None, Map::new())) };
    let text = fs_err::read(path).map_err(|source| Error::CredentialFile { source })?;
    match serde_json::from_slice(&text) {
        Ok(Value::Object(config)) => Ok((file.helper(registry).cloned(), config)),
        _ => Err(syntax(path, "it is not a JSON object")),
    }
}

fn syntax(path: &Path, problem: &str) -> Error {
    Error::CredentialSyntax { path: path.to_owned(), problem: problem.to_owned() }
}

/// Replaces the file.
fn write(path: &Path, config: &Map<String, Value>) -> Result<(), Error> {
    let path = fs_err::canonicalize(path).unwrap_or_else(|_| path.to_owned());
    // Renamed over `/dev/null`, a file would take its place for every other program.
    if fs_err::metadata(&path).is_ok_and(|found| !found.is_file()) {
        return Err(syntax(&path, "it is no file"));
    }
    let mut text = serde_json::to_vec_pretty(config).expect("JSON that was read can be written");
    text.push(b'\n');
    replace(&path, &text).map_err(|source| Error::CredentialWrite { source })
}

fn replace(path: &Path, text: &[u8]) -> io::Result<()> {
    let directory = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    fs_err::create_dir_all(directory)?;
    let random = getrandom::u64().map_err(io::Error::other)?;
    let temporary: PathBuf = directory.join(format!(".rbuild-{random:016x}"));
    let mut options = fs_err::OpenOptions::new();
    let mut file = options.write(true).create_new(true).mode(0o600).open(&temporary)?;
    let written = file.write_all(text).and_then(|()| file.sync_all()).and_then(|()| fs_err::rename(&temporary, path));
    if written.is_err() {
        // The first failure is the one to tell.
        drop(fs_err::remove_file(&temporary));
    }
    written
}
