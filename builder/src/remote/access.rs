//! What fetching goes by: the secrets of the build that are for servers, its ssh agent, and the flag that ends it.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use url::Url;

use crate::grants::{Grants, Secret};
use crate::sandbox::Cancel;

/// Before a host name: the whole `Authorization` header for files of `ADD` (Dockerfile reference, "ADD").
const HTTP_HEADER: &str = "HTTP_AUTH_HEADER_";
/// Before a host name: a bearer token for files of `ADD`.
const HTTP_TOKEN: &str = "HTTP_AUTH_TOKEN_";
/// Alone, or before `.` and a host: the whole `Authorization` header for git repositories (Docker's build secrets).
const GIT_HEADER: &str = "GIT_AUTH_HEADER";
/// Alone, or before `.` and a host: a token for git repositories.
const GIT_TOKEN: &str = "GIT_AUTH_TOKEN";
/// The user with whom git hosts take tokens.
const TOKEN_USER: &str = "x-access-token";
/// Where a token for one repository serves for all: submodules of a private project are mostly private as well.
const SHARED_HOSTS: [&str; 2] = ["https://github.com/", "https://www.github.com/"];
/// The name of the agent that git gets.
const AGENT: &str = "default";

/// The way into servers.
#[derive(Debug, Clone)]
pub struct Access {
    secrets: BTreeMap<String, Secret>,
    /// The socket of the ssh agent for git.
    pub(super) agent: Option<PathBuf>,
    /// Ends the waiting.
    pub(super) cancel: Cancel,
}

/// A secret that no server could be told.
#[derive(Debug, thiserror::Error)]
#[error("the secret `{id}` has characters that no HTTP header may have")]
pub struct SecretError {
    id: String,
}

impl Access {
    /// Takes from the grants of a build what is for servers.
    pub fn new(grants: &Grants, cancel: &Cancel) -> Self {
        let is_ours = |id: &String| [HTTP_HEADER, HTTP_TOKEN, GIT_HEADER, GIT_TOKEN].iter().any(|p| id.starts_with(p));
        let ours = grants.secrets.iter().filter(|(id, _)| is_ours(id));
        let secrets = ours.map(|(id, secret)| (id.clone(), secret.clone())).collect();
        let agent = grants.agents.get(AGENT).map(|path| Path::new(path).to_owned());
        Self { secrets, agent, cancel: cancel.clone() }
    }

    /// The `Authorization` header for a file; a token goes before a header.
    pub(super) fn http(&self, url: &str) -> Result<Option<String>, SecretError> {
        let url = Url::parse(url).ok();
        let Some(host) = url.as_ref().and_then(Url::host_str) else { return Ok(None) };
        let token = self.value(&format!("{HTTP_TOKEN}{host}"))?.map(|token| format!("Bearer {token}"));
        Ok(token.or(self.value(&format!("{HTTP_HEADER}{host}"))?))
    }

    /// A setting of git and its value that send the `Authorization` header for a repository: what is for its host goes
    /// before what is for all, a header before a token.
    pub(super) fn git(&self, remote: &str) -> Result<Option<(String, String)>, SecretError> {
        let url = Url::parse(remote).ok().filter(|url| matches!(url.scheme(), "http" | "https"));
        let Some(host) = url.as_ref().and_then(Url::host_str) else { return Ok(None) };
        let port = url.as_ref().and_then(Url::port).map(|port| format!(":{port}")).unwrap_or_default();
        let basic = |token: String| format!("basic {}", STANDARD.encode(format!("{TOKEN_USER}:{token}")));
        let scope = SHARED_HOSTS.into_iter().find(|host| remote.starts_with(host)).unwrap_or(remote);
        for suffix in [format!(".{host}{port}"), String::new()] {
            let header = self.value(&format!("{GIT_HEADER}{suffix}"))?;
            let token = self.value(&format!("{GIT_TOKEN}{suffix}"))?.map(basic);
            if let Some(value) = header.or(token) {
                return Ok(Some((format!("http.{scope}.extraHeader"), format!("Authorization: {value}"))));
            }
        }
        Ok(None)
    }

    /// A secret as a header has it: the line end of a file is none of it.
    fn value(&self, id: &str) -> Result<Option<String>, SecretError> {
        let Some(secret) = self.secrets.get(id) else { return Ok(None) };
        let wrong = || SecretError { id: id.to_owned() };
        let text = std::str::from_utf8(&secret.0).map_err(|_| wrong())?.trim_end_matches(['\r', '\n']);
        if text.contains(|c: char| !matches!(c, ' '..='~')) { Err(wrong()) } else { Ok(Some(text.to_owned())) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn access(secrets: &[(&str, &str)]) -> Access {
        let secrets = secrets.iter().map(|(id, value)| ((*id).to_owned(), Secret(value.as_bytes().to_vec())));
        let grants = Grants { secrets: secrets.collect(), ..Grants::default() };
        Access::new(&grants, &Cancel::new().unwrap())
    }

    #[test]
    fn files_have_the_secret_of_their_host() {
        let access = access(&[
            ("HTTP_AUTH_HEADER_a.example", "Basic x"),
            ("HTTP_AUTH_TOKEN_b.example", "t\n"),
            ("HTTP_AUTH_HEADER_b.example", "Basic y"),
            ("HTTP_AUTH_TOKEN_c.example", "two\nlines"),
        ]);
        assert_eq!(access.http("https://a.example:8443/f").unwrap().as_deref(), Some("Basic x"));
        assert_eq!(access.http("https://b.example/f").unwrap().as_deref(), Some("Bearer t"));
        assert_eq!(access.http("https://sub.a.example/f").unwrap(), None);
        assert!(access.http("https://c.example/f").unwrap_err().to_string().contains("HTTP_AUTH_TOKEN_c.example"));
    }

    #[test]
    fn repositories_have_the_secret_of_their_host_or_of_all() {
        let header = |value: &str| Some(format!("Authorization: {value}"));
        let git = |secrets: &[(&str, &str)], remote: &str| access(secrets).git(remote).unwrap();
        let of = |secrets: &[(&str, &str)], remote: &str| git(secrets, remote).map(|(_, value)| value);
        let all = [("GIT_AUTH_TOKEN", "t"), ("GIT_AUTH_TOKEN.h:8080", "u"), ("GIT_AUTH_HEADER.i", "bearer i")];
        assert_eq!(of(&all, "https://other/x.git"), header("basic eC1hY2Nlc3MtdG9rZW46dA=="));
        assert_eq!(of(&all, "https://h:8080/x.git"), header("basic eC1hY2Nlc3MtdG9rZW46dQ=="));
        assert_eq!(of(&all, "https://i/x.git"), header("bearer i"));
        assert_eq!(of(&[("GIT_AUTH_HEADER", "h"), ("GIT_AUTH_TOKEN", "t")], "https://h/x.git"), header("h"));
        assert_eq!(
            (of(&all, "git@h:x.git"), of(&all, "ssh://h/x.git"), of(&[], "https://h/x.git")),
            (None, None, None)
        );
        let scope = |remote: &str| git(&all, remote).unwrap().0;
        assert_eq!(scope("https://github.com/o/x.git"), "http.https://github.com/.extraHeader");
        assert_eq!(scope("https://h/o/x.git"), "http.https://h/o/x.git.extraHeader");
    }

    #[test]
    fn other_secrets_stay_where_they_are_and_none_is_shown() {
        let access = access(&[("npm", "n"), ("GIT_AUTH_TOKEN", "hunter2")]);
        assert_eq!(access.secrets.keys().collect::<Vec<_>>(), ["GIT_AUTH_TOKEN"]);
        assert!(!format!("{access:?}").contains("hunter2"));
    }
}
