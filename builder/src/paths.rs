//! Where rbuild keeps its state, and the other settings that come from the environment.
//!
//! With `bin/rbuild/args` the only place that reads environment variables.

#![expect(clippy::disallowed_methods, reason = "this is the place that reads the environment")]

use std::env;
use std::ffi::OsString;
use std::path::PathBuf;

use jiff::Timestamp;

/// `$RBUILD_HOME`, else `$XDG_DATA_HOME/rbuild`, else `$HOME/.local/share/rbuild`; none where no variable is set.
pub fn home() -> Option<PathBuf> {
    let set = |name: &str| env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    set("RBUILD_HOME")
        .or_else(|| set("XDG_DATA_HOME").map(|data| data.join("rbuild")))
        .or_else(|| set("HOME").map(|home| home.join(".local/share/rbuild")))
}

/// A variable that is set and not empty, as a path.
fn path(name: &str) -> Option<PathBuf> {
    env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from)
}

/// The configuration of the docker CLI: `$DOCKER_CONFIG/config.json`, else `$HOME/.docker/config.json`.
pub fn docker_config() -> Option<PathBuf> {
    let directory = path("DOCKER_CONFIG").or_else(|| path("HOME").map(|home| home.join(".docker")));
    directory.map(|directory| directory.join("config.json"))
}

/// The files that may hold registry credentials, first match wins: `$REGISTRY_AUTH_FILE`; `$DOCKER_CONFIG/config.json`,
/// else `$HOME/.docker/config.json`; podman's `auth.json` (containers-auth.json(5)).
pub fn credential_files() -> Vec<PathBuf> {
    [
        path("REGISTRY_AUTH_FILE"),
        docker_config(),
        path("XDG_RUNTIME_DIR").map(|directory| directory.join("containers/auth.json")),
        configuration().map(|directory| directory.join("containers/auth.json")),
    ]
    .into_iter()
    .flatten()
    .collect()
}

/// Registry credentials that a variable holds, and its name: `$DOCKER_AUTH_CONFIG`, as the docker CLI and GitLab have it.
pub fn credential_text() -> Option<(&'static str, String)> {
    let text = env::var("DOCKER_AUTH_CONFIG").ok().filter(|text| !text.trim().is_empty())?;
    Some(("$DOCKER_AUTH_CONFIG", text))
}

/// `$XDG_CONFIG_HOME`, else `$HOME/.config`.
fn configuration() -> Option<PathBuf> {
    path("XDG_CONFIG_HOME").or_else(|| path("HOME").map(|home| home.join(".config")))
}

/// The files and directories with rules for registries, later ones winning: `$CONTAINERS_REGISTRIES_CONF` alone, else
/// the machine's and the user's (containers-registries.conf(5)).
pub fn registry_rules() -> Vec<PathBuf> {
    if let Some(file) = path("CONTAINERS_REGISTRIES_CONF") {
        return vec![file];
    }
    let user = configuration().map(|directory| directory.join("containers"));
    let directories = [Some(PathBuf::from("/etc/containers")), user];
    let names = ["registries.conf", "registries.conf.d"];
    directories.into_iter().flatten().flat_map(|directory| names.map(|name| directory.join(name))).collect()
}

/// The directories with certificates for registries (containers-certs.d(5); docker's of the same form).
pub fn certificate_directories() -> Vec<PathBuf> {
    let user = configuration().map(|directory| directory.join("containers/certs.d"));
    let machine = ["/etc/containers/certs.d", "/etc/docker/certs.d"].map(PathBuf::from);
    user.into_iter().chain(machine).collect()
}

/// The time: `$RBUILD_CLOCK` (RFC 3339) where it is set, for records and tables that are the same every time.
pub fn now() -> Timestamp {
    let fixed = env::var("RBUILD_CLOCK").ok().and_then(|time| time.parse().ok());
    fixed.unwrap_or_else(Timestamp::now)
}

/// The value of a variable of the caller, which may be any bytes, for secrets and sockets.
pub fn raw_variable(name: &str) -> Option<OsString> {
    env::var_os(name)
}

/// The value of a variable of the caller, for `--build-arg NAME`.
pub fn variable(name: &str) -> Option<String> {
    env::var(name).ok()
}
