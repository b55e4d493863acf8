//! Build args that are settings of the frontend itself, by their names in BuildKit (Dockerfile reference, "BuildKit
//! built-in build args"). They need no `ARG`, so what they cannot do here is said.

use jiff::Timestamp;

use crate::dockerfile::{Command, Instruction};
use crate::graph::references::{Request, Selection};
use crate::graph::{GraphError, Problem};

/// Stands for the `# check=` of the file.
pub const CHECK: &str = "BUILDKIT_DOCKERFILE_CHECK";
/// Keeps `.git` in a context from git.
pub const KEEP_GIT_DIR: &str = "BUILDKIT_CONTEXT_KEEP_GIT_DIR";
/// Stands for the `# syntax=` of the file.
pub const SYNTAX: &str = "BUILDKIT_SYNTAX";
/// Set apart the cache mounts of builds that have different values.
const CACHE_MOUNTS: &str = "BUILDKIT_CACHE_MOUNT_NS";
/// The host name that steps find.
const HOSTNAME: &str = "BUILDKIT_SANDBOX_HOSTNAME";
/// `1`: the image carries the records of its own steps.
pub const INLINE_CACHE: &str = "BUILDKIT_INLINE_CACHE";
/// The time of everything that the build makes (reproducible-builds.org).
pub const EPOCH: &str = "SOURCE_DATE_EPOCH";
/// The value of [`EPOCH`] that stands for the time of the build's context.
const OF_CONTEXT: &str = "context";
/// The host name of steps where none is given, as under BuildKit.
pub const USUAL_HOSTNAME: &str = "buildkitsandbox";
/// The longest host name (sethostname(2)).
const HOSTNAME_LIMIT: usize = 64;

/// The name of a cache mount in the store: apart from those of other namespaces.
pub(super) fn cache_mount(request: &Request, id: String) -> String {
    match request.build_args.get(CACHE_MOUNTS).filter(|namespace| !namespace.is_empty()) {
        Some(namespace) => format!("{namespace}/{id}"),
        None => id,
    }
}

/// The host name of steps.
pub(super) fn hostname(request: &Request) -> Result<String, Problem> {
    let Some(name) = request.build_args.get(HOSTNAME).filter(|name| !name.is_empty()) else {
        return Ok(USUAL_HOSTNAME.to_owned());
    };
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_');
    if name.len() <= HOSTNAME_LIMIT && name.bytes().all(plain) {
        return Ok(name.clone());
    }
    let reason = "a host name has up to 64 letters, digits, `-` and `.`";
    Err(Problem::BadValue { what: HOSTNAME, value: name.clone(), reason })
}

/// What a value of an argument comes to: `SOURCE_DATE_EPOCH=context` is when the build's context last changed, and
/// nothing where that is not known.
pub(super) fn settled(name: &str, value: String, request: &Request) -> Option<String> {
    if name == EPOCH && value == OF_CONTEXT { request.context_time.map(|time| time.to_string()) } else { Some(value) }
}

/// The time that a build arg gives the build, in seconds since 1970 as it was written.
pub fn given_epoch(request: &Request) -> Option<String> {
    let given = request.build_args.get(EPOCH).filter(|value| !value.is_empty())?;
    settled(EPOCH, given.clone(), request)
}

/// The time that a number of seconds since 1970 means, as RFC 3339.
pub fn epoch_time(seconds: &str) -> Option<String> {
    let time = seconds.trim().parse().ok().and_then(|seconds| Timestamp::from_second(seconds).ok());
    time.map(|time| time.to_string())
}

/// The time that the Dockerfile itself gives the build: the default of an `ARG SOURCE_DATE_EPOCH` before the first
/// `FROM`.
pub(super) fn default_epoch(selection: &Selection<'_>) -> Result<Option<String>, GraphError> {
    let declares = |argument: &&Instruction| matches!(&argument.command, Command::Arg(declared) if declared.iter().any(|arg| arg.name == EPOCH));
    let Some(argument) = selection.dockerfile.global_args.iter().rfind(declares) else { return Ok(None) };
    let Some(value) = selection.globals.get(EPOCH).filter(|value| !value.is_empty()) else { return Ok(None) };
    let reason = "it is a number of seconds since 1970, or `context`";
    let wrong = || Problem::BadValue { what: EPOCH, value: value.to_owned(), reason }.at(argument.span);
    epoch_time(value).map(Some).ok_or_else(wrong)
}

/// What is to be said of the build args that rbuild does not act upon, in order.
pub fn without_effect(request: &Request) -> impl Iterator<Item = String> {
    let known = [CHECK, KEEP_GIT_DIR, SYNTAX, CACHE_MOUNTS, HOSTNAME, INLINE_CACHE];
    let others = request.build_args.keys().filter(move |name| !known.contains(&name.as_str()));
    others.filter(|name| name.starts_with("BUILDKIT_")).map(|name| {
        let why = match name.as_str() {
            "BUILDKIT_MULTI_PLATFORM" => ": the form of an output does not depend on it",
            "BUILDKIT_BUILD_NAME" => ": rbuild keeps no history of builds that a name could be shown in",
            _ => "",
        };
        format!("the build arg `{name}` has no effect in this version of rbuild{why}")
    })
}

/// What is to be said of a frontend that the file or a build arg asks for: rbuild is one for Dockerfiles, and loads no
/// other.
pub fn foreign_frontend(request: &Request, directive: Option<&str>) -> Option<String> {
    let asked = request.build_args.get(SYNTAX).map(String::as_str).or(directive)?;
    let image = asked.split_whitespace().next()?;
    let name = image.strip_prefix("docker.io/").unwrap_or(image);
    let name = name.split(['@', ':']).next().unwrap_or_default();
    let ours = matches!(name, "docker/dockerfile" | "docker/dockerfile-upstream");
    (!ours).then(|| format!("the frontend `{image}` is not loaded: rbuild reads the file as a Dockerfile"))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::graph::platform::Platform;
    use crate::graph::references::StepNetwork;

    fn request(args: &[(&str, &str)]) -> Request {
        Request {
            secret_args: std::collections::BTreeSet::new(),
            build_args: args.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect(),
            target: None,
            platform: Platform::host(),
            labels: BTreeMap::new(),
            network: StepNetwork::default(),
            context_time: None,
            contexts: BTreeMap::new(),
        }
    }

    #[test]
    fn host_names_and_cache_mounts_are_as_the_args_say() {
        let set = request(&[(HOSTNAME, "builder-1"), (CACHE_MOUNTS, "team")]);
        assert_eq!(hostname(&set).unwrap(), "builder-1");
        assert_eq!(cache_mount(&set, "/c".to_owned()), "team//c");
        let unset = request(&[(HOSTNAME, ""), (CACHE_MOUNTS, "")]);
        assert_eq!(hostname(&unset).unwrap(), USUAL_HOSTNAME);
        assert_eq!(cache_mount(&unset, "/c".to_owned()), "/c");
        for wrong in ["a b", "x/y", &"x".repeat(65)] {
            assert!(hostname(&request(&[(HOSTNAME, wrong)])).is_err(), "{wrong}");
        }
    }

    #[test]
    fn only_foreign_frontends_are_worth_a_word() {
        let said = |directive: &str| foreign_frontend(&request(&[]), Some(directive));
        for ours in ["docker/dockerfile:1", "docker.io/docker/dockerfile:1.7-labs", "docker/dockerfile-upstream:master"]
        {
            assert_eq!(said(ours), None);
        }
        assert!(said("example.com/frontend:1 opt").is_some_and(|text| text.contains("`example.com/frontend:1`")));
        assert!(foreign_frontend(&request(&[(SYNTAX, "x")]), Some("docker/dockerfile:1")).is_some());
        assert_eq!(foreign_frontend(&request(&[]), None), None);
    }
}
