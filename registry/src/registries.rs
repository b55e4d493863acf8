//! Which registries stand for which: mirrors, other locations, insecure and blocked ones, as `registries.conf` has them.
//!
//! The rules are those of containers-registries.conf(5), version 2: the longest prefix of a name decides. What the file
//! says of short names and search lists has no effect here, for a name without a registry is Docker Hub's.

use std::io;
use std::path::{Path, PathBuf};

use serde::Deserialize;

use crate::reference::{Target, authority};
use crate::{Error, Reference};

/// The rules of any number of files. The default has none.
#[derive(Debug, Clone, Default)]
pub struct Registries {
    rules: Vec<Rule>,
}

/// A `[[registry]]`.
#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
struct Rule {
    #[serde(default)]
    prefix: String,
    #[serde(default)]
    location: String,
    #[serde(default)]
    insecure: bool,
    #[serde(default)]
    blocked: bool,
    #[serde(default)]
    mirror_by_digest_only: bool,
    #[serde(default, rename = "mirror")]
    mirrors: Vec<Mirror>,
}

/// A `[[registry.mirror]]`.
#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
struct Mirror {
    location: String,
    #[serde(default)]
    insecure: bool,
    #[serde(default, rename = "pull-from-mirror")]
    when: Option<PullFrom>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum PullFrom {
    All,
    DigestOnly,
    TagOnly,
}

/// The keys of a file that this crate understands, and those whose meaning it does not share.
#[derive(Deserialize)]
struct File {
    #[serde(default)]
    registry: Vec<Rule>,
    /// Version 1 of the format.
    registries: Option<toml::Value>,
}

impl Registries {
    /// Reads files, and of directories their files that end with `.conf`, by name. A later rule for a prefix replaces an
    /// earlier one; what does not exist is passed over.
    pub fn load(paths: impl IntoIterator<Item = PathBuf>) -> Result<Self, Error> {
        let mut all = Self::default();
        for path in paths {
            for path in files(path)? {
                match fs_err::read_to_string(&path) {
                    Ok(text) => all.merge(Self::parse(&path, &text)?),
                    Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                    Err(source) => return Err(Error::RegistriesFile { source }),
                }
            }
        }
        Ok(all)
    }

    /// Reads the text of one file; `path` is what errors call it.
    pub fn parse(path: &Path, text: &str) -> Result<Self, Error> {
        let wrong = |problem: String| Error::RegistriesSyntax { path: path.to_owned(), problem };
        let file: File = toml::from_str(text).map_err(|error| wrong(error.message().to_owned()))?;
        if file.registries.is_some() {
            return Err(wrong("version 1 of its format is not implemented; write `[[registry]]` tables".into()));
        }
        let mut rules = file.registry;
        for rule in &mut rules {
            if rule.prefix.is_empty() {
                rule.prefix.clone_from(&rule.location);
            }
            let locations = rule.mirrors.iter().map(|mirror| &mirror.location).chain(Some(&rule.location));
            let bad = locations.chain(Some(&rule.prefix)).find(|location| !is_location(location));
            if rule.prefix.is_empty() || bad.is_some() {
                let bad = bad.unwrap_or(&rule.prefix).escape_default().to_string();
                return Err(wrong(format!("`{bad}` is not a registry, or a name below one")));
            }
        }
        Ok(Self { rules })
    }

    fn merge(&mut self, later: Self) {
        self.rules.retain(|rule| later.rules.iter().all(|new| new.prefix != rule.prefix));
        self.rules.extend(later.rules);
    }

    /// The hosts that rules allow to be spoken to over plain http.
    pub(crate) fn insecure(&self) -> Vec<String> {
        let of_rule = |rule: &Rule| {
            let own = if rule.location.is_empty() { &rule.prefix } else { &rule.location };
            let mirrors = rule.mirrors.iter().filter(|mirror| mirror.insecure).map(|mirror| &mirror.location);
            mirrors.chain(Some(own).filter(|_| rule.insecure)).filter_map(|name| host(name)).collect::<Vec<_>>()
        };
        self.rules.iter().flat_map(of_rule).collect()
    }

    /// The hosts that are mirrors, and not also where a rule says that images are.
    pub(crate) fn mirrors(&self) -> Vec<String> {
        let own = |rule: &Rule| host(if rule.location.is_empty() { &rule.prefix } else { &rule.location });
        let owns: Vec<String> = self.rules.iter().filter_map(own).collect();
        let mirrors = self.rules.iter().flat_map(|rule| &rule.mirrors).filter_map(|mirror| host(&mirror.location));
        mirrors.filter(|mirror| !owns.contains(mirror)).collect()
    }

    /// Where an image is: to pull, mirrors first and its own place last; to push, its own place.
    pub(crate) fn places(&self, target: Target, is_pull: bool) -> Result<Vec<Target>, Error> {
        let name = target.name();
        let matching = self.rules.iter().filter_map(|rule| Some((rule.matched(&name)?, rule)));
        let Some((length, rule)) = matching.max_by_key(|(length, _)| *length) else { return Ok(vec![target]) };
        if rule.blocked {
            return Err(Error::Blocked { name, prefix: rule.prefix.clone() });
        }
        let by_digest = target.digest.is_some();
        let suits = |mirror: &&Mirror| match mirror.when {
            Some(PullFrom::DigestOnly) => by_digest,
            Some(PullFrom::TagOnly) => !by_digest,
            Some(PullFrom::All) => true,
            None => by_digest || !rule.mirror_by_digest_only,
        };
        let mirrors = rule.mirrors.iter().filter(suits).filter(|_| is_pull).map(|mirror| mirror.location.as_str());
        let mut places = Vec::new();
        for location in mirrors.chain(Some(rule.location.as_str())) {
            if location.is_empty() {
                places.push(target.clone());
            } else {
                places.push(target.moved(&format!("{location}{}", &name[length..]))?);
            }
        }
        Ok(places)
    }
}

impl Rule {
    /// The length of the part of a name that the rule's prefix stands for.
    fn matched(&self, name: &str) -> Option<usize> {
        if let Some(domain) = self.prefix.strip_prefix('*') {
            let host = name.split('/').next().unwrap_or_default();
            return (host.ends_with(domain) && host.len() > domain.len()).then_some(host.len());
        }
        let rest = name.strip_prefix(self.prefix.as_str())?;
        (rest.is_empty() || rest.starts_with('/')).then_some(self.prefix.len())
    }
}

impl Target {
    /// The same image under another name.
    fn moved(&self, name: &str) -> Result<Self, Error> {
        let (registry, repository) = name.split_once('/').unwrap_or((name, ""));
        let (registry, repository) = (registry.to_owned(), repository.to_owned());
        let digest = self.digest.as_ref().map(ToString::to_string);
        Self::new(&match (self.tag.clone(), digest) {
            (Some(tag), Some(digest)) => Reference::with_tag_and_digest(registry, repository, tag, digest),
            (None, Some(digest)) => Reference::with_digest(registry, repository, digest),
            (tag, None) => Reference::with_tag(registry, repository, tag.unwrap_or_else(|| "latest".to_owned())),
        })
    }
}

fn host(name: &str) -> Option<String> {
    authority(name.split('/').next().unwrap_or_default())
}

/// Whether a text can be a prefix or location: empty, a host with or without a path, or `*.domain`.
fn is_location(text: &str) -> bool {
    let plain = text.strip_prefix("*.").unwrap_or(text);
    text.is_empty() || (host(plain).is_some() && !text.ends_with('/') && !text.contains("//"))
}

/// A file itself, or the `.conf` files of a directory.
fn files(path: PathBuf) -> Result<Vec<PathBuf>, Error> {
    if !path.is_dir() {
        return Ok(vec![path]);
    }
    let entries = fs_err::read_dir(&path).and_then(Iterator::collect::<io::Result<Vec<_>>>);
    let entries = entries.map_err(|source| Error::RegistriesFile { source })?;
    let mut files: Vec<PathBuf> = entries.iter().map(fs_err::DirEntry::path).collect();
    files.retain(|file| file.extension().is_some_and(|extension| extension == "conf"));
    files.sort();
    Ok(files)
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = r#"
        unqualified-search-registries = ["docker.io"]
        short-name-mode = "permissive"
        [[registry]]
        prefix = "docker.io"
        location = "registry-1.docker.io"
        [[registry.mirror]]
        location = "mirror.test:5000/hub"
        insecure = true
        [[registry]]
        location = "r.test/team"
        mirror-by-digest-only = true
        [[registry.mirror]]
        location = "a.test"
        [[registry.mirror]]
        location = "b.test/x"
        pull-from-mirror = "tag-only"
        [[registry]]
        prefix = "r.test/team/moved"
        location = "new.test/other"
        insecure = true
        [[registry]]
        prefix = "*.bad.test"
        blocked = true
        [aliases]
        "debian" = "docker.io/library/debian"
    "#;

    fn places(name: &str, is_pull: bool) -> Result<Vec<String>, Error> {
        let rules = Registries::parse(Path::new("registries.conf"), TEXT).unwrap();
        let target = Target::new(&crate::reference::parse(name).unwrap()).unwrap();
        Ok(rules.places(target, is_pull)?.iter().map(Target::name).collect())
    }

    #[test]
    fn the_longest_prefix_decides_and_rewrites() {
        for (name, expected) in [
            ("busybox", &["mirror.test:5000/hub/library/busybox", "docker.io/library/busybox"][..]),
            ("r.test/team/x:1", &["b.test/x/x", "r.test/team/x"]),
            ("r.test/teams/x:1", &["r.test/teams/x"]),
            ("r.test/team/moved/x/y", &["new.test/other/x/y"]),
            ("elsewhere.test/x", &["elsewhere.test/x"]),
        ] {
            assert_eq!(places(name, true).unwrap(), expected, "{name}");
            assert_eq!(places(name, false).unwrap(), expected[expected.len() - 1..], "{name}");
        }
        let digest = format!("r.test/team/x@sha256:{}", "0".repeat(64));
        assert_eq!(places(&digest, true).unwrap(), ["a.test/x", "r.test/team/x"]);
    }

    #[test]
    fn what_is_blocked_is_named() {
        let error = places("x.bad.test/y", true).unwrap_err().to_string();
        assert_eq!(error, "`x.bad.test/y` is blocked by the rule for `*.bad.test`");
        assert!(places("bad.test/y", true).is_ok());
    }

    #[test]
    fn insecure_hosts_are_those_of_the_rules() {
        let rules = Registries::parse(Path::new("x"), TEXT).unwrap();
        assert_eq!(rules.insecure(), ["mirror.test:5000", "new.test"]);
    }

    #[test]
    fn a_host_that_also_has_images_of_its_own_is_no_mirror() {
        let rules = Registries::parse(Path::new("x"), TEXT).unwrap();
        assert_eq!(rules.mirrors(), ["mirror.test:5000", "a.test", "b.test"]);
        let more = format!("{TEXT}\n[[registry]]\nlocation = \"a.test/own\"");
        assert_eq!(Registries::parse(Path::new("x"), &more).unwrap().mirrors(), ["mirror.test:5000", "b.test"]);
    }

    #[test]
    fn what_is_not_understood_is_an_error() {
        for text in [
            "[[registry]]\nlocation = \"http://x\"",
            "[[registry]]\nprefix = \"\"",
            "[[registry]]\nlocation = \"x/\"",
            "[[registry]]\nlocation = \"x\"\nodd = 1",
            "[[registry]]\nlocation = 3",
            "[registries.search]\nregistries = []",
            "[[registry",
        ] {
            assert!(matches!(Registries::parse(Path::new("x"), text), Err(Error::RegistriesSyntax { .. })), "{text}");
        }
    }

    #[test]
    fn a_later_file_replaces_rules() {
        let directory = tempfile::tempdir().unwrap();
        let (main, more) = (directory.path().join("registries.conf"), directory.path().join("registries.conf.d"));
        fs_err::create_dir(&more).unwrap();
        fs_err::write(&main, "[[registry]]\nlocation = \"a.test\"\ninsecure = true").unwrap();
        fs_err::write(more.join("1.conf"), "[[registry]]\nlocation = \"a.test\"").unwrap();
        fs_err::write(more.join("x.txt"), "no").unwrap();
        let rules = Registries::load([main, more, directory.path().join("none")]).unwrap();
        assert_eq!((rules.rules.len(), rules.insecure().len()), (1, 0));
    }
}
