//! Credentials of registries: docker's `config.json` (`auths`, `credHelpers`, `credsStore`) and those set by hand.
//!
//! The caller names the files; nothing here knows where they usually lie. Files are read once, when [`Credentials`] is
//! made; helpers run when a registry asks for credentials, never before. What is sent to whom is decided in `auth`.

pub mod edit;
mod file;
mod helper;

#[cfg(test)]
mod tests;

use std::fmt;
use std::path::PathBuf;

use crate::Error;
use crate::reference::is_hub;
use file::CredentialFile;

/// Where to look for the credentials of a registry. The default has none: pulls are anonymous.
///
/// `Debug` shows registries and files, never a secret.
#[derive(Clone, Default)]
pub struct Credentials {
    /// Set by hand; they win over files.
    by_hand: Vec<(String, Credential)>,
    /// In order of precedence.
    files: Vec<CredentialFile>,
}

/// What proves an identity to a registry or to its token service.
#[derive(Clone, PartialEq, Eq)]
pub(crate) enum Credential {
    /// User name and password, for Basic and for the token service.
    Password { username: String, password: String },
    /// An `OAuth2` refresh token, for the token service alone.
    IdentityToken(String),
    /// A ready bearer token, for the registry alone.
    RegistryToken(String),
}

/// What a token service gives for a password (an `OAuth2` refresh token): it proves the same and can be withdrawn.
///
/// `Debug` redacts it.
#[derive(Clone, PartialEq, Eq)]
pub struct IdentityToken(pub(crate) String);

impl fmt::Debug for IdentityToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("IdentityToken([redacted])")
    }
}

impl fmt::Debug for Credential {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Password { .. } => "Password([redacted])",
            Self::IdentityToken(_) => "IdentityToken([redacted])",
            Self::RegistryToken(_) => "RegistryToken([redacted])",
        })
    }
}

impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let by_hand: Vec<&str> = self.by_hand.iter().map(|(registry, _)| registry.as_str()).collect();
        let files: Vec<&PathBuf> = self.files.iter().map(|file| &file.path).collect();
        f.debug_struct("Credentials").field("by_hand", &by_hand).field("files", &files).finish()
    }
}

impl Credentials {
    /// Reads credential files in the form of docker's `config.json`; the first that knows a registry wins.
    ///
    /// A file that does not exist is passed over. One that does not parse, or names an impossible helper, is an error.
    pub fn from_files(paths: impl IntoIterator<Item = PathBuf>) -> Result<Self, Error> {
        let mut files = Vec::new();
        for path in paths {
            if let Some(file) = CredentialFile::load(path)? {
                files.push(file);
            }
        }
        Ok(Self { by_hand: Vec::new(), files })
    }

    /// Adds credentials in the form of a credential file's text; they win over the files. `name` is what errors call
    /// it, as `$DOCKER_AUTH_CONFIG`.
    pub fn with_text(mut self, name: &str, text: &str) -> Result<Self, Error> {
        let path = PathBuf::from(name);
        let file = CredentialFile::parse(&path, text.as_bytes());
        self.files.insert(0, file.map_err(|problem| Error::CredentialSyntax { path, problem })?);
        Ok(self)
    }

    /// Adds a user name and password for one registry (`host` or `host:port`; any of Docker Hub's names); they win
    /// over the files.
    #[must_use]
    pub fn with_password(mut self, registry: &str, username: &str, password: &str) -> Self {
        let credential = Credential::Password { username: username.to_owned(), password: password.to_owned() };
        self.by_hand.push((normal_key(registry), credential));
        self
    }

    /// Adds those of `others` for what these do not know.
    #[must_use]
    pub fn or(mut self, others: Self) -> Self {
        self.by_hand.extend(others.by_hand);
        self.files.extend(others.files);
        self
    }

    /// Finds the credential for a repository; `registry` is the name that references use (`docker.io` for Docker Hub).
    pub(crate) fn find(&self, registry: &str, repository: &str) -> Result<Option<Credential>, Error> {
        if let Some((_, credential)) = self.by_hand.iter().find(|(key, _)| key == registry) {
            return Ok(Some(credential.clone()));
        }
        for file in &self.files {
            if let Some(credential) = file.find(registry, repository)? {
                return Ok(Some(credential));
            }
        }
        Ok(None)
    }
}

/// The key under which docker stores a registry's credentials: Docker Hub's is the address of its first API.
fn server_key(registry: &str) -> &str {
    if registry == "docker.io" { "https://index.docker.io/v1/" } else { registry }
}

/// Brings a key of `auths` or `credHelpers` to the form `host[:port][/namespace]`: docker writes Docker Hub as
/// `https://index.docker.io/v1/`, older versions wrote every registry as a URL, podman adds namespaces.
fn normal_key(key: &str) -> String {
    let (is_url, rest) = match key.strip_prefix("https://").or_else(|| key.strip_prefix("http://")) {
        Some(rest) => (true, rest),
        None => (false, key),
    };
    let (host, path) = rest.split_once('/').unwrap_or((rest, ""));
    let host = host.to_ascii_lowercase();
    let host = if is_hub(&host) { "docker.io".to_owned() } else { host };
    let path = path.trim_end_matches('/');
    if is_url || path.is_empty() || path == "v1" || path == "v2" { host } else { format!("{host}/{path}") }
}
