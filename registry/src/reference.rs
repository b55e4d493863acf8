//! Image references: Docker Hub's naming rules, and what a request may take from a reference.
//!
//! [`Reference`] itself is `oci_spec`'s. Its parser lets through what no registry accepts (tags in other alphabets,
//! digests in upper case, `Name/x` as a repository of Docker Hub), refuses IPv6 hosts, and compiles a regular expression
//! first, which takes longer than a cached build; [`parse`] is the gate that does none of it. A `Reference` can also be
//! put together without any parser, so the client checks each part again before it becomes part of a URL (`Target`).

use std::net::Ipv6Addr;

use oci_spec::image::{Digest, DigestAlgorithm};

use crate::{Error, Reference};

/// Longest repository name, registry included, of the distribution project's reference grammar.
const NAME_LIMIT: usize = 255;
/// Longest tag, from the same grammar and the OCI distribution specification.
const TAG_LIMIT: usize = 128;
/// The name that stands for Docker Hub in references.
const HUB: &str = "docker.io";
/// The host that serves Docker Hub's API.
const HUB_API: &str = "registry-1.docker.io";
/// All names that mean Docker Hub.
const HUB_NAMES: [&str; 3] = [HUB, "index.docker.io", HUB_API];

/// Parses a reference as Docker does: `busybox` is `docker.io/library/busybox:latest`, `localhost/x` and `host:5000/x`
/// name a registry, a name may carry a tag and a digest.
///
/// The rules are those of the distribution project's `reference` package.
pub fn parse(text: &str) -> Result<Reference, Error> {
    let refuse = |problem| Error::Reference { reference: text.escape_default().to_string(), problem };
    if !text.is_ascii() {
        return Err(refuse("it has a character that is not ASCII"));
    }
    if text.contains("://") {
        return Err(refuse("it begins with a scheme; write `host/repository:tag`"));
    }
    let digits = text.strip_prefix("sha256:").unwrap_or(text);
    if digits.len() == 64 && digits.bytes().all(|b| b.is_ascii_hexdigit()) {
        return Err(refuse("64 hexadecimal digits are an image ID, which no registry can find"));
    }
    let (name, digest) = text.split_once('@').map_or((text, None), |(name, digest)| (name, Some(digest)));
    let (registry, path) = split_registry(name);
    let (repository, tag) = path.split_once(':').map_or((path, None), |(repository, tag)| (repository, Some(tag)));
    if repository.chars().any(|c| c.is_ascii_uppercase()) {
        return Err(refuse("its repository has upper-case letters"));
    }
    let official = registry == HUB && !repository.contains('/');
    let repository = if official { format!("library/{repository}") } else { repository.to_owned() };
    let registry = registry.to_owned();
    let reference = match (tag, digest) {
        (Some(tag), Some(digest)) => Reference::with_tag_and_digest(registry, repository, tag.into(), digest.into()),
        (None, Some(digest)) => Reference::with_digest(registry, repository, digest.into()),
        (tag, None) => Reference::with_tag(registry, repository, tag.unwrap_or("latest").into()),
    };
    Target::new(&reference).map_err(|error| match error {
        Error::Reference { problem, .. } => refuse(problem),
        other => other,
    })?;
    Ok(reference)
}

/// Splits off the registry: the first part when it has a dot, a port, brackets or upper case, or is `localhost`.
fn split_registry(name: &str) -> (&str, &str) {
    let is_registry = |first: &str| {
        first == "localhost" || first.contains(['.', ':', '[']) || first.chars().any(|c| c.is_ascii_uppercase())
    };
    match name.split_once('/') {
        Some((first, path)) if is_registry(first) => (if is_hub(first) { HUB } else { first }, path),
        _ => (HUB, name),
    }
}

/// The parts of a reference, each fit to be a part of a URL.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Target {
    /// `host` or `host:port`, in lower case, of the API.
    pub(crate) authority: String,
    /// The registry as references write it; the key of its credentials.
    pub(crate) registry: String,
    /// The repository's name.
    pub(crate) repository: String,
    /// The tag, if any.
    pub(crate) tag: Option<String>,
    /// The digest, if any.
    pub(crate) digest: Option<Digest>,
}

impl Target {
    pub(crate) fn new(reference: &Reference) -> Result<Self, Error> {
        let refuse = |problem| Error::Reference { reference: reference.whole().escape_default().to_string(), problem };
        let registry = authority(reference.registry())
            .ok_or_else(|| refuse("its registry is not `host`, `host:port` or `[address]:port`"))?;
        if !is_repository(reference.repository()) {
            return Err(refuse("its repository is not lower-case words joined by `/`, `.`, `_` or `-`"));
        }
        if registry.len() + 1 + reference.repository().len() > NAME_LIMIT {
            return Err(refuse("its name has more than 255 characters"));
        }
        if reference.tag().is_some_and(|tag| !is_tag(tag)) {
            return Err(refuse("its tag is not 1 to 128 letters, digits, `_`, `.` or `-`"));
        }
        let digest = match reference.digest().map(str::parse::<Digest>) {
            None => None,
            Some(Ok(digest)) if !matches!(digest.algorithm(), DigestAlgorithm::Other(_)) => Some(digest),
            Some(_) => return Err(refuse("its digest is not `algorithm:` and lower-case hexadecimal digits")),
        };
        let registry = if is_hub(&registry) { HUB.to_owned() } else { registry };
        let authority = if registry == HUB { HUB_API.to_owned() } else { registry.clone() };
        let (repository, tag) = (reference.repository().to_owned(), reference.tag().map(str::to_owned));
        Ok(Self { authority, registry, repository, tag, digest })
    }

    /// A registry alone.
    pub(crate) fn registry(host: &str) -> Result<Self, Error> {
        let registry =
            authority(host).ok_or_else(|| Error::InsecureHost { host: host.escape_default().to_string() })?;
        let registry = if is_hub(&registry) { HUB.to_owned() } else { registry };
        let authority = if registry == HUB { HUB_API.to_owned() } else { registry.clone() };
        Ok(Self { authority, registry, repository: String::new(), tag: None, digest: None })
    }

    /// The registry and repository, as errors write them.
    pub(crate) fn name(&self) -> String {
        format!("{}/{}", self.registry, self.repository)
    }
}

/// Says whether a host is one of Docker Hub's names.
pub(crate) fn is_hub(host: &str) -> bool {
    HUB_NAMES.contains(&host)
}

/// Checks `host`, `host:port` or `[address]:port`, and gives it in lower case.
pub(crate) fn authority(text: &str) -> Option<String> {
    let (host, port) = match text.strip_prefix('[') {
        Some(rest) => {
            let (address, port) = rest.split_once(']')?;
            address.parse::<Ipv6Addr>().ok()?;
            (None, if port.is_empty() { None } else { Some(port.strip_prefix(':')?) })
        }
        None => match text.split_once(':') {
            Some((host, port)) => (Some(host), Some(port)),
            None => (Some(text), None),
        },
    };
    let is_label = |label: &str| {
        !label.is_empty()
            && label.len() <= 63
            && label.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-')
            && !label.starts_with('-')
            && !label.ends_with('-')
    };
    let is_port = |port: &str| port.bytes().all(|b| b.is_ascii_digit()) && port.parse::<u16>().is_ok_and(|n| n > 0);
    (host.is_none_or(|host| host.len() <= NAME_LIMIT && host.split('.').all(is_label)) && port.is_none_or(is_port))
        .then(|| text.to_ascii_lowercase())
}

/// Checks a repository name against the grammar of the OCI distribution specification ("Pulling manifests").
pub(crate) fn is_repository(name: &str) -> bool {
    let is_word = |word: &str| !word.is_empty() && word.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit());
    // Between two words: one `.`, one or two `_`, or any number of `-`.
    let is_part = |part: &str| {
        let words: Vec<&str> = part.split(['.', '_', '-']).collect();
        let separators: Vec<&str> = part
            .split(|c: char| c.is_ascii_lowercase() || c.is_ascii_digit())
            .filter(|separator| !separator.is_empty())
            .collect();
        words.first().is_some_and(|word| is_word(word))
            && words.last().is_some_and(|word| is_word(word))
            && words.iter().all(|word| word.is_empty() || is_word(word))
            && separators.iter().all(|s| matches!(*s, "." | "_" | "__") || s.bytes().all(|b| b == b'-'))
    };
    name.len() <= NAME_LIMIT && name.split('/').all(is_part)
}

/// Checks a tag against the grammar of the OCI distribution specification.
pub(crate) fn is_tag(tag: &str) -> bool {
    let is_word = |b: u8| b.is_ascii_alphanumeric() || b == b'_';
    tag.len() <= TAG_LIMIT
        && tag.bytes().next().is_some_and(is_word)
        && tag.bytes().all(|b| is_word(b) || b == b'.' || b == b'-')
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const DIGEST: &str = "sha256:0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";

    #[track_caller]
    fn check(text: &str, whole: &str) {
        assert_eq!(parse(text).unwrap().whole(), whole);
    }

    #[test]
    fn names_without_a_registry_belong_to_docker_hub() {
        check("busybox", "docker.io/library/busybox:latest");
        check("busybox:1.36", "docker.io/library/busybox:1.36");
        check("rust/cargo", "docker.io/rust/cargo:latest");
        check("docker.io/busybox", "docker.io/library/busybox:latest");
        check("index.docker.io/busybox", "docker.io/library/busybox:latest");
        check("a.b:5000", "docker.io/library/a.b:5000");
    }

    #[test]
    fn a_host_is_told_by_dot_port_localhost_or_upper_case() {
        check("localhost/x", "localhost/x:latest");
        check("localhost:5000/x", "localhost:5000/x:latest");
        check("ghcr.io/a/b/c:t", "ghcr.io/a/b/c:t");
        check("REG/x:t", "REG/x:t");
        check("[::1]:5000/x", "[::1]:5000/x:latest");
    }

    #[test]
    fn a_tag_and_a_digest_may_stand_together() {
        check(&format!("busybox@{DIGEST}"), &format!("docker.io/library/busybox@{DIGEST}"));
        check(&format!("localhost:5000/x:t@{DIGEST}"), &format!("localhost:5000/x:t@{DIGEST}"));
        check(&format!("[::1]/x:t@{DIGEST}"), &format!("[::1]/x:t@{DIGEST}"));
    }

    #[test]
    fn what_is_not_a_reference_is_refused() {
        let digits = "0123456789abcdef".repeat(4);
        let long = format!("localhost/{}", "a".repeat(250));
        let upper = DIGEST.to_ascii_uppercase().replace("SHA256", "sha256");
        let wrong_digest = format!("x@{upper}");
        for text in [
            "",
            "/",
            ":t",
            "x:",
            "x@",
            "Busybox",
            "x:é",
            "ünx",
            "https://ghcr.io/x",
            "x y",
            "x\n",
            "../x",
            "a//b",
            "a/../b",
            "localhost:99999/x",
            "localhost:0/x",
            "[::g]/x",
            "[::1/x",
            "user@localhost/x",
            "x?y",
            "x#y",
            "-x.io/y",
            &digits,
            &long,
            &wrong_digest,
            "x@md5:0123456789abcdef0123456789abcdef",
        ] {
            assert!(parse(text).is_err(), "{text:?} was accepted");
        }
    }

    #[test]
    fn the_error_names_the_mistake() {
        assert_eq!(
            parse("x\u{1b}[31m").unwrap_err().to_string(),
            "`x\\u{1b}[31m` is not an image reference: its repository is not lower-case words joined by `/`, `.`, `_` or `-`"
        );
        assert_eq!(
            parse("https://ghcr.io/x").unwrap_err().to_string(),
            "`https://ghcr.io/x` is not an image reference: it begins with a scheme; write `host/repository:tag`"
        );
    }

    #[test]
    fn a_reference_made_without_a_parser_is_checked_before_use() {
        let make = |registry: &str, repository: &str, tag: &str| {
            Target::new(&Reference::with_tag(registry.into(), repository.into(), tag.into()))
        };
        assert!(make("localhost:5000", "a/b", "t").is_ok());
        for (registry, repository, tag) in [
            ("user:pw@localhost", "a", "t"),
            ("localhost/x", "a", "t"),
            ("localhost", "a/../../b", "t"),
            ("localhost", "a?x=1", "t"),
            ("localhost", "a", "../x"),
            ("localhost", "a", "t?x"),
            ("localhost", "", "t"),
        ] {
            assert!(make(registry, repository, tag).is_err(), "{registry} {repository} {tag}");
        }
    }

    #[test]
    fn docker_hub_is_one_registry_with_an_api_host_of_its_own() {
        let target = Target::new(&parse("index.docker.io/library/x").unwrap()).unwrap();
        assert_eq!((target.registry.as_str(), target.authority.as_str()), ("docker.io", "registry-1.docker.io"));
    }

    proptest! {
        #[test]
        fn whatever_parses_parses_again_and_is_fit_for_a_url(
            text in "[a-zA-Z0-9./:@_-]{0,40}|\\PC{0,40}|(localhost(:[0-9]{1,5})?/)?[a-z]{1,8}(/[a-z._-]{1,8}){0,3}(:[a-zA-Z0-9._-]{1,8})?"
        ) {
            if let Ok(reference) = parse(&text) {
                prop_assert_eq!(parse(&reference.whole()).unwrap(), reference.clone());
                let target = Target::new(&reference).unwrap();
                let url = url::Url::parse(&format!("https://{}/v2/{}/", target.authority, target.repository));
                let path = format!("/v2/{}/", target.repository);
                prop_assert!(url.is_err() || url.is_ok_and(|url| url.path() == path && url.username().is_empty()));
            }
        }
    }
}
