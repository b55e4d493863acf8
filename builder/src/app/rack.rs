//! A rack: a profile with settings and credentials. Its password files have the form of docker's `config.json`.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::{Deserialize, Serialize};

use super::files;
use super::id::is_name;
use super::record::{go_escaped, go_json};
use super::records::{self, RecordError, Records};
use crate::grants::Secret;

/// Docker Hub's key in `config.json`.
const HUB: &str = "https://index.docker.io/v1/";

/// Settings of a rack that rbuild acts on.
pub const EFFECTIVE: [&str; 6] = [
    "cache",
    "disable_image_manifest_cache",
    "docker_hub_password",
    "docker_hub_username",
    "registry",
    "releases_to_retain_after_active",
];

/// Settings of a rack that are about machines which a rack has and rbuild has not.
pub const WITHOUT_EFFECT: [&str; 13] = [
    "additional_build_groups_config",
    "build_disable_convox_resolver",
    "build_node_enabled",
    "build_node_min_count",
    "build_node_type",
    "buildkit_enabled",
    "buildkit_host_path_cache_enable",
    "ecr_docker_hub_cache",
    "ecr_full_access",
    "ecr_scan_on_push_enable",
    "node_type",
    "registry_disk",
    "releases_to_retain_task_run_interval_hour",
];

/// Settings whose values are passwords.
pub const PASSWORDS: [&str; 1] = ["docker_hub_password"];

/// One rack.
#[derive(Debug, Clone)]
pub struct Rack {
    /// Its name.
    pub name: String,
    directory: PathBuf,
}

/// `auth.json`.
#[derive(Default, Serialize, Deserialize)]
#[serde(default)]
struct AuthFile {
    auths: BTreeMap<String, AuthEntry>,
}

#[derive(Clone, Serialize, Deserialize)]
struct AuthEntry {
    auth: String,
}

/// An entry of `BUILD_AUTH`.
#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct Login<'a> {
    username: &'a str,
    password: &'a str,
}

impl AuthEntry {
    fn new(username: &str, password: &str) -> Self {
        Self { auth: STANDARD.encode(format!("{username}:{password}")) }
    }

    fn pair(&self) -> Option<(String, String)> {
        let text = String::from_utf8(STANDARD.decode(&self.auth).ok()?).ok()?;
        text.split_once(':').map(|(username, password)| (username.to_owned(), password.to_owned()))
    }
}

impl Rack {
    /// Opens a rack below the state directory; nothing is made before something is kept.
    pub fn open(home: &Path, name: &str) -> Result<Self, RecordError> {
        if !is_name(name) {
            return Err(RecordError::Name { name: name.to_owned(), what: "a rack" });
        }
        Ok(Self { name: name.to_owned(), directory: home.join("racks").join(name) })
    }

    /// The records of an app.
    pub fn app(&self, app: &str) -> Result<Records, RecordError> {
        Records::open(&self.directory, app)
    }

    /// The repository of an app: below the rack's registry, else a name for the store alone.
    pub fn repository(&self, app: &str) -> Result<String, RecordError> {
        let params = self.params()?;
        Ok(match params.get("registry").filter(|registry| !registry.is_empty()) {
            Some(registry) => format!("{}/{app}", registry.trim_end_matches('/')),
            None => format!("localhost/{}/{app}", self.name),
        })
    }

    /// Whether images are pushed.
    pub fn pushes(&self) -> Result<bool, RecordError> {
        Ok(self.params()?.get("registry").is_some_and(|registry| !registry.is_empty()))
    }

    /// The repository where builds of an app keep their steps besides the store: its own, or the one of the setting
    /// `cache`. None where nothing is pushed, or the rack wants none.
    pub fn cache(&self, app: &str) -> Result<Option<String>, RecordError> {
        let params = self.params()?;
        if !self.pushes()? || params.get("disable_image_manifest_cache").is_some_and(|value| value == "true") {
            return Ok(None);
        }
        params.get("cache").cloned().map_or_else(|| self.repository(app), Ok).map(Some)
    }

    /// The settings, passwords among them.
    pub fn params(&self) -> Result<BTreeMap<String, String>, RecordError> {
        Ok(records::read(&self.directory.join("params.json"))?.unwrap_or_default())
    }

    /// Changes settings; an empty value takes one away.
    pub fn set_params(&self, changes: &[(String, String)]) -> Result<(), RecordError> {
        let mut params = self.params()?;
        for (name, value) in changes {
            params.insert(name.clone(), value.clone());
        }
        params.retain(|_, value| !value.is_empty());
        files::make_private(&self.directory)?;
        Ok(files::write(&self.directory.join("params.json"), go_json(&params).as_bytes())?)
    }

    /// Registries and the users of their credentials.
    pub fn registries(&self) -> Result<Vec<(String, String)>, RecordError> {
        let entries = self.auth()?.auths.into_iter();
        Ok(entries.filter_map(|(server, entry)| Some((server, entry.pair()?.0))).collect())
    }

    /// Keeps credentials of a registry.
    pub fn add_registry(&self, server: &str, username: &str, password: &str) -> Result<(), RecordError> {
        let mut auth = self.auth()?;
        auth.auths.insert(server.to_owned(), AuthEntry::new(username, password));
        self.set_auth(&auth)
    }

    /// Forgets the credentials of a registry; says whether there were any.
    pub fn remove_registry(&self, server: &str) -> Result<bool, RecordError> {
        let mut auth = self.auth()?;
        let known = auth.auths.remove(server).is_some();
        self.set_auth(&auth)?;
        Ok(known)
    }

    /// What the registry client may use: the rack's own credentials, then those of `others`.
    pub fn credentials(&self, others: registry::Credentials) -> Result<registry::Credentials, CredentialError> {
        let mut credentials = registry::Credentials::from_files([self.auth_path()]).map_err(Box::new)?;
        if let Some((username, password)) = self.hub()? {
            credentials = credentials.with_password("docker.io", &username, &password);
        }
        Ok(credentials.or(others))
    }

    /// `BUILD_AUTH`: every credential, as JSON that Convox's builds get, and the entry of the app's own repository.
    pub fn build_auth(&self, repository: &str) -> Result<BuildAuth, RecordError> {
        let mut pairs: BTreeMap<String, (String, String)> = BTreeMap::new();
        for (server, entry) in self.auth()?.auths {
            pairs.extend(entry.pair().map(|pair| (server, pair)));
        }
        pairs.extend(self.hub()?.map(|pair| (HUB.to_owned(), pair)));
        let host = repository.split('/').next().unwrap_or_default();
        if let Some(own) = pairs.get(host).cloned() {
            pairs.insert(repository.to_owned(), own);
        }
        let logins: BTreeMap<&String, Login<'_>> =
            pairs.iter().map(|(server, (username, password))| (server, Login { username, password })).collect();
        let value = go_escaped(&serde_json::to_string(&logins).expect("texts are plain data")).into_bytes();
        let mut parts: Vec<Secret> = Vec::new();
        for (username, password) in pairs.into_values() {
            parts.push(Secret(format!("{username}:{password}").into_bytes()));
            parts.push(Secret(password.into_bytes()));
        }
        Ok(BuildAuth { value: Secret(value), parts })
    }

    fn hub(&self) -> Result<Option<(String, String)>, RecordError> {
        let params = self.params()?;
        let get = |name: &str| params.get(name).cloned();
        Ok(get("docker_hub_username").zip(get("docker_hub_password")))
    }

    fn auth(&self) -> Result<AuthFile, RecordError> {
        Ok(records::read(&self.auth_path())?.unwrap_or_default())
    }

    fn set_auth(&self, auth: &AuthFile) -> Result<(), RecordError> {
        files::make_private(&self.directory)?;
        Ok(files::write(&self.auth_path(), go_json(auth).as_bytes())?)
    }

    fn auth_path(&self) -> PathBuf {
        self.directory.join("auth.json")
    }
}

/// The value of `BUILD_AUTH`, and what of it must not be seen either.
#[derive(Debug, Clone)]
pub struct BuildAuth {
    /// The JSON.
    pub value: Secret,
    /// Each password, alone and behind its user's name.
    pub parts: Vec<Secret>,
}

/// Why credentials cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum CredentialError {
    /// The rack's files.
    #[error(transparent)]
    Record(#[from] RecordError),
    /// What the client reads.
    #[error("cannot read the credentials of registries")]
    Read(#[from] Box<registry::Error>),
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rack() -> (tempfile::TempDir, Rack) {
        let home = tempfile::tempdir().unwrap();
        let rack = Rack::open(home.path(), "prod").unwrap();
        (home, rack)
    }

    #[test]
    fn credentials_are_kept_for_the_user_alone() {
        use std::os::unix::fs::PermissionsExt;
        let (_home, rack) = rack();
        rack.add_registry("quay.io", "me", "pass:word").unwrap();
        assert_eq!(rack.registries().unwrap(), [("quay.io".to_owned(), "me".to_owned())]);
        let mode = fs_err::metadata(rack.auth_path()).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        assert!(rack.remove_registry("quay.io").unwrap() && !rack.remove_registry("quay.io").unwrap());
    }

    #[test]
    fn build_auth_has_every_credential_and_the_own_repository() {
        let (_home, rack) = rack();
        rack.add_registry("reg.example:5000", "u", "secret-1").unwrap();
        let hub =
            [("docker_hub_username", "h"), ("docker_hub_password", "secret-2"), ("registry", "reg.example:5000/x/")];
        rack.set_params(&hub.map(|(name, value)| (name.to_owned(), value.to_owned()))).unwrap();
        let repository = rack.repository("myapp").unwrap();
        assert_eq!(repository, "reg.example:5000/x/myapp");
        let auth = rack.build_auth(&repository).unwrap();
        assert_eq!(
            String::from_utf8(auth.value.0).unwrap(),
            r#"{"https://index.docker.io/v1/":{"Username":"h","Password":"secret-2"},"reg.example:5000":{"Username":"u","Password":"secret-1"},"reg.example:5000/x/myapp":{"Username":"u","Password":"secret-1"}}"#
        );
        assert!(auth.parts.iter().any(|part| part.0 == b"u:secret-1"));
    }

    #[test]
    fn steps_are_kept_beside_the_images_or_where_the_rack_says() {
        let (_home, rack) = rack();
        let set = |name: &str, value: &str| rack.set_params(&[(name.into(), value.into())]).unwrap();
        assert_eq!(rack.cache("myapp").unwrap(), None);
        set("registry", "r.example/x");
        assert_eq!(rack.cache("myapp").unwrap().as_deref(), Some("r.example/x/myapp"));
        set("cache", "r.example/steps");
        assert_eq!(rack.cache("myapp").unwrap().as_deref(), Some("r.example/steps"));
        set("disable_image_manifest_cache", "true");
        assert_eq!(rack.cache("myapp").unwrap(), None);
    }

    #[test]
    fn an_empty_setting_is_none() {
        let (_home, rack) = rack();
        rack.set_params(&[("registry".into(), "r.example".into())]).unwrap();
        assert!(rack.pushes().unwrap());
        rack.set_params(&[("registry".into(), String::new())]).unwrap();
        assert!(rack.params().unwrap().is_empty());
        assert_eq!(rack.repository("a").unwrap(), "localhost/prod/a");
    }
}
