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

/// The files that may hold registry credentials, first match wins: `$DOCKER_CONFIG/config.json`, else
/// `$HOME/.docker/config.json`.
pub fn credential_files() -> Vec<PathBuf> {
    let directory = env::var_os("DOCKER_CONFIG").filter(|value| !value.is_empty()).map(PathBuf::from);
    let directory = directory.or_else(|| env::var_os("HOME").map(|home| PathBuf::from(home).join(".docker")));
    directory.map(|directory| directory.join("config.json")).into_iter().collect()
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
