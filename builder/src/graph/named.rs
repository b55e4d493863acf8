//! Contexts with names (`--build-context`): what stands in for an image or a stage of that name. Pure.

use std::path::PathBuf;

use crate::graph::platform::Platform;
use crate::remote::location::{Location, LocationError};

/// What a named context is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum NamedContext {
    /// Files.
    Tree(Location),
    /// `docker-image://`: an image of a registry.
    Image(String),
    /// `oci-layout://`: an image on disk.
    Layout(LayoutName),
}

/// An image in an OCI image layout.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LayoutName {
    /// The layout's directory.
    pub path: PathBuf,
    /// Its tag, or its digest if that has a `:`; its only image when absent.
    pub pick: Option<String>,
}

impl NamedContext {
    /// Reads the value of `--build-context NAME=VALUE`.
    pub fn parse(text: &str) -> Result<Self, LocationError> {
        let wrong = |reason: String| LocationError { text: text.to_owned(), reason };
        if let Some(reference) = text.strip_prefix("docker-image://") {
            let reference = registry::reference::parse(reference).map_err(|error| wrong(error.to_string()))?;
            return Ok(Self::Image(reference.whole()));
        }
        if let Some(rest) = text.strip_prefix("oci-layout://") {
            let (path, pick) = match rest.split_once('@') {
                Some((path, digest)) if digest.contains(':') => (path, Some(digest)),
                Some(_) => return Err(wrong("what follows `@` is a digest, `sha256:…`".into())),
                // A `:` in a directory's name is not the tag's.
                None => match rest.rsplit_once(':') {
                    Some((path, tag)) if !tag.contains('/') => (path, Some(tag)),
                    _ => (rest, None),
                },
            };
            if path.is_empty() || pick == Some("") {
                return Err(wrong("write `oci-layout://PATH`, `…:TAG` or `…@DIGEST`".into()));
            }
            return Ok(Self::Layout(LayoutName { path: path.into(), pick: pick.map(str::to_owned) }));
        }
        match Location::parse(text)? {
            Location::Stdin => Err(wrong("only the build context itself can come from standard input".into())),
            _ if text.starts_with("target:") => Err(wrong("`target:` is not implemented in this version".into())),
            location => Ok(Self::Tree(location)),
        }
    }
}

/// The name under which a context, a stage or an image is looked up: `debian` and `docker.io/library/debian:latest`
/// are one.
pub fn canonical(name: &str) -> String {
    let lower = name.to_ascii_lowercase();
    let reference = registry::reference::parse(name).or_else(|_| registry::reference::parse(&lower));
    reference.map_or(lower, |reference| reference.whole())
}

/// The name of a context that is for one platform alone, given as `NAME::PLATFORM`.
pub fn for_platform(canonical: &str, platform: &Platform) -> String {
    format!("{canonical}::{platform}")
}

/// A canonical name as people write it.
pub fn familiar(name: &str) -> &str {
    let name = name.strip_prefix("docker.io/").unwrap_or(name);
    let name = name.strip_prefix("library/").unwrap_or(name);
    name.strip_suffix(":latest").unwrap_or(name)
}

/// The name of a context without the platform that it may be for.
pub fn of_any_platform(name: &str) -> &str {
    name.split_once("::").map_or(name, |(name, _)| name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_read() {
        let layout = |path: &str, pick: Option<&str>| {
            Ok(NamedContext::Layout(LayoutName { path: path.into(), pick: pick.map(str::to_owned) }))
        };
        assert_eq!(NamedContext::parse("oci-layout://a/b"), layout("a/b", None));
        assert_eq!(NamedContext::parse("oci-layout:///a:b/c"), layout("/a:b/c", None));
        assert_eq!(NamedContext::parse("oci-layout://a:v1"), layout("a", Some("v1")));
        assert_eq!(NamedContext::parse("oci-layout://a@sha256:00"), layout("a", Some("sha256:00")));
        let image = NamedContext::Image("docker.io/library/debian:12".into());
        assert_eq!(NamedContext::parse("docker-image://debian:12"), Ok(image));
        assert_eq!(NamedContext::parse("../x"), Ok(NamedContext::Tree(Location::Directory("../x".into()))));
        for text in ["-", "target:x", "oci-layout://", "oci-layout://a@b", "docker-image://UPPER", "s3://x"] {
            assert!(NamedContext::parse(text).is_err(), "{text}");
        }
    }

    #[test]
    fn names_of_images_are_one_with_and_without_defaults() {
        assert_eq!(canonical("debian"), canonical("docker.io/library/debian:latest"));
        assert_eq!(canonical("Stage"), canonical("stage"));
        assert_ne!(canonical("debian"), canonical("debian:12"));
    }
}
