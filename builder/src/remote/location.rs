//! Where a context or a source of `ADD` is, as its text says. Pure.
//!
//! The forms are BuildKit's: `https://host/x.git#ref:subdir`, `https://host/x.git?ref=…&subdir=…`, `git://`, `ssh://`,
//! `user@host:path`, other http(s) URLs, and everything else a path.

use std::fmt;
use std::path::PathBuf;

use url::Url;

/// A location.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Location {
    /// A directory.
    Directory(PathBuf),
    /// `-`: standard input.
    Stdin,
    /// A git repository.
    Git(GitSource),
    /// A file behind http(s).
    Http(String),
}

/// A tree in a git repository.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct GitSource {
    /// The repository, as git takes it: never an option, never a path.
    pub remote: String,
    /// A branch, a tag, a full ref name or a commit; the remote's HEAD when absent.
    pub reference: Option<String>,
    /// A directory in the tree, relative, without `..`.
    pub subdir: Option<String>,
    /// What the commit has to begin with.
    pub checksum: Option<String>,
    /// Whether `.git` is kept.
    pub keep_git_dir: bool,
    /// Whether submodules are fetched.
    pub submodules: bool,
    /// Whether the commit is the one of `checksum` wherever the ref leads.
    pub by_commit: bool,
    /// When its files count as changed.
    pub times: Times,
}

/// `mtime=`: when the files of a repository count as changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum Times {
    /// When the commit was made, so that the same commit makes the same image.
    #[default]
    Commit,
    /// When they were fetched.
    Checkout,
}

/// Why a text is no location.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{text}`: {reason}")]
pub struct LocationError {
    /// The text, without user names and passwords.
    pub text: String,
    /// What is wrong with it.
    pub reason: String,
}

impl Location {
    /// Reads a location.
    pub fn parse(text: &str) -> Result<Self, LocationError> {
        if text == "-" {
            return Ok(Self::Stdin);
        }
        if let Some(git) = GitSource::parse(text)? {
            return Ok(Self::Git(git));
        }
        if is_http(text) {
            let url = Url::parse(text).map_err(|error| wrong(text, error.to_string()))?;
            return if url.has_host() { Ok(Self::Http(text.to_owned())) } else { Err(wrong(text, "it has no host")) };
        }
        match text.split_once("://") {
            Some((scheme, _)) => Err(wrong(text, format!("`{scheme}://` is not a kind of location that rbuild reads"))),
            None => Ok(Self::Directory(text.into())),
        }
    }
}

impl GitSource {
    /// Reads a git URL; none when the text is something else.
    pub fn parse(text: &str) -> Result<Option<Self>, LocationError> {
        let (address, fragment) = text.split_once('#').map_or((text, None), |(url, rest)| (url, Some(rest)));
        let mut source = Self {
            remote: String::new(),
            reference: None,
            subdir: None,
            checksum: None,
            keep_git_dir: false,
            submodules: true,
            by_commit: false,
            times: Times::Commit,
        };
        let lower = address.to_ascii_lowercase();
        let is_git = lower.starts_with("git://") || lower.starts_with("ssh://");
        if is_git || is_http(address) {
            let mut url = Url::parse(address).map_err(|error| wrong(text, error.to_string()))?;
            if !is_git && !url.path().as_bytes().ends_with(b".git") {
                return Ok(None);
            }
            if url.host_str().is_none_or(|host| host.is_empty() || host.starts_with('-')) {
                return Err(wrong(text, "it has no host"));
            }
            for (key, value) in url.query_pairs() {
                source.query(&key, &value).map_err(|reason| wrong(text, reason))?;
            }
            url.set_query(None);
            source.remote = url.into();
        } else if let Some(rest) = address.strip_prefix("github.com/") {
            source.remote = format!("https://github.com/{rest}");
        } else if is_scp(address) {
            address.clone_into(&mut source.remote);
        } else {
            return Ok(None);
        }
        if let Some(fragment) = fragment {
            let (reference, subdir) = fragment.split_once(':').unwrap_or((fragment, ""));
            for (key, value) in [("ref", reference), ("subdir", subdir)] {
                if !value.is_empty() {
                    source.query(key, value).map_err(|reason| wrong(text, reason))?;
                }
            }
        }
        if source.by_commit && source.checksum.as_ref().is_none_or(|commit| !is_commit(commit)) {
            return Err(wrong(text, "`fetch-by-commit` needs the whole commit: add `checksum=COMMIT`"));
        }
        Ok(Some(source))
    }

    fn query(&mut self, key: &str, value: &str) -> Result<(), String> {
        let reference = match key {
            "ref" => value.to_owned(),
            "branch" => format!("refs/heads/{}", value.strip_prefix("refs/heads/").unwrap_or(value)),
            "tag" => format!("refs/tags/{}", value.strip_prefix("refs/tags/").unwrap_or(value)),
            "subdir" => {
                self.subdir = Some(subdir(value)?);
                return Ok(());
            }
            "checksum" | "commit" => {
                self.checksum = Some(commit_prefix(value)?);
                return Ok(());
            }
            "keep-git-dir" => return boolean(key, value).map(|keep| self.keep_git_dir = keep),
            "submodules" => return boolean(key, value).map(|fetch| self.submodules = fetch),
            "fetch-by-commit" => return boolean(key, value).map(|by_commit| self.by_commit = by_commit),
            "mtime" => return times(value).map(|times| self.times = times),
            other => return Err(format!("`{other}` is not implemented in this version of rbuild")),
        };
        if self.reference.is_some() {
            return Err("it names two refs".into());
        }
        if !is_reference(&reference) {
            return Err(format!("`{reference}` is not a ref"));
        }
        self.reference = Some(reference);
        Ok(())
    }

    /// Requires a commit: `--checksum`.
    pub fn with_checksum(mut self, checksum: &str) -> Result<Self, LocationError> {
        let prefix = commit_prefix(checksum).map_err(|reason| wrong(&self.remote, reason))?;
        self.checksum = Some(prefix);
        Ok(self)
    }
}

impl fmt::Display for GitSource {
    /// The source without passwords.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&shown(&self.remote))?;
        match (&self.reference, &self.subdir) {
            (None, None) => Ok(()),
            (reference, None) => write!(f, "#{}", reference.as_deref().unwrap_or_default()),
            (reference, Some(subdir)) => write!(f, "#{}:{subdir}", reference.as_deref().unwrap_or_default()),
        }
    }
}

/// A URL as messages show it: without user name, password, query and fragment.
pub fn shown(text: &str) -> String {
    let bare = text.split(['?', '#']).next().unwrap_or_default();
    without_user(bare)
}

/// A URL without user name and password.
pub fn without_user(text: &str) -> String {
    let Ok(mut url) = Url::parse(text) else { return text.to_owned() };
    if url.username().is_empty() && url.password().is_none() {
        return text.to_owned();
    }
    url.set_username("").and_then(|()| url.set_password(None)).expect("a URL with a user has a host");
    url.into()
}

fn wrong(text: &str, reason: impl Into<String>) -> LocationError {
    LocationError { text: shown(text), reason: reason.into() }
}

fn is_http(text: &str) -> bool {
    let lower = text.get(..8).unwrap_or(text).to_ascii_lowercase();
    lower.starts_with("http://") || lower.starts_with("https://")
}

/// `user@host:path`, as scp has it.
fn is_scp(text: &str) -> bool {
    let Some((user, rest)) = text.split_once('@') else { return false };
    let Some((host, path)) = rest.split_once(':') else { return false };
    let plain = |name: &str| {
        let allowed = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.');
        !name.is_empty() && !name.starts_with('-') && name.bytes().all(allowed)
    };
    plain(user) && plain(host) && !path.is_empty() && !path.starts_with('-')
}

/// Whether a text can be a ref or a commit and nothing else (git-check-ref-format(1)): above all, no option.
fn is_reference(text: &str) -> bool {
    let forbidden = |c: char| c.is_control() || c.is_whitespace() || "~^:?*[\\".contains(c);
    !text.is_empty()
        && !text.starts_with(['-', '/', '.'])
        && !text.contains("..")
        && !text.contains("@{")
        && !text.contains(forbidden)
}

/// Whether a text is a whole commit, in SHA-1 or SHA-256.
pub(super) fn is_commit(text: &str) -> bool {
    matches!(text.len(), 40 | 64) && text.bytes().all(|byte| byte.is_ascii_hexdigit())
}

/// A switch of a git URL: its name alone turns it on.
fn boolean(key: &str, value: &str) -> Result<bool, String> {
    match value {
        "" | "1" | "t" | "T" | "true" | "True" | "TRUE" => Ok(true),
        "0" | "f" | "F" | "false" | "False" | "FALSE" => Ok(false),
        other => Err(format!("`{key}` is `true` or `false`, not `{other}`")),
    }
}

fn times(value: &str) -> Result<Times, String> {
    match value {
        "commit" => Ok(Times::Commit),
        "checkout" => Ok(Times::Checkout),
        other => Err(format!("`mtime` is `commit` or `checkout`, not `{other}`")),
    }
}

fn subdir(text: &str) -> Result<String, String> {
    let parts: Vec<&str> = text.split('/').filter(|part| !matches!(*part, "" | ".")).collect();
    if parts.contains(&"..") || text.contains(|c: char| c.is_control()) {
        return Err(format!("the directory `{text}` leads out of the repository"));
    }
    Ok(parts.join("/"))
}

fn commit_prefix(text: &str) -> Result<String, String> {
    let plain = (7..=64).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_hexdigit());
    if plain { Ok(text.to_ascii_lowercase()) } else { Err(format!("`{text}` is not a commit of 7 digits or more")) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn locations_are_told_apart() {
        let git = |text: &str| match Location::parse(text) {
            Ok(Location::Git(git)) => (git.remote, git.reference.unwrap_or_default(), git.subdir.unwrap_or_default()),
            other => panic!("{text}: {other:?}"),
        };
        let of = |a: &str, b: &str, c: &str| (a.to_owned(), b.to_owned(), c.to_owned());
        assert_eq!(git("https://h/x.git#v1:a/b"), of("https://h/x.git", "v1", "a/b"));
        assert_eq!(git("https://h/x.git?ref=v1&subdir=a"), of("https://h/x.git", "v1", "a"));
        assert_eq!(git("https://h/x.git?tag=v1"), of("https://h/x.git", "refs/tags/v1", ""));
        assert_eq!(git("git@h:o/x.git#:sub"), of("git@h:o/x.git", "", "sub"));
        assert_eq!(git("ssh://git@h/x#main"), of("ssh://git@h/x", "main", ""));
        assert_eq!(git("github.com/o/x"), of("https://github.com/o/x", "", ""));
        assert_eq!(Location::parse("https://h/x.tar"), Ok(Location::Http("https://h/x.tar".into())));
        assert_eq!(Location::parse("-"), Ok(Location::Stdin));
        for path in [".", "a@b", "x.git", "/srv/a:b", "a#b"] {
            assert_eq!(Location::parse(path), Ok(Location::Directory(path.into())), "{path}");
        }
    }

    #[test]
    fn a_git_url_has_settings() {
        let commit = "0123456789abcdef0123456789abcdef01234567";
        let git = |query: &str| GitSource::parse(&format!("https://h/x.git?{query}")).unwrap().unwrap();
        let usual = git("ref=x");
        assert!(usual.submodules && !usual.keep_git_dir && !usual.by_commit && usual.times == Times::Commit);
        assert!(!git("submodules=false").submodules && git("submodules").submodules);
        assert!(git("keep-git-dir").keep_git_dir && !git("keep-git-dir=0").keep_git_dir);
        assert_eq!((git("mtime=checkout").times, git("mtime=commit").times), (Times::Checkout, Times::Commit));
        assert!(git(&format!("ref=x&checksum={commit}&fetch-by-commit=true")).by_commit);
        assert_eq!(git("tag=refs/tags/v1").reference.as_deref(), Some("refs/tags/v1"));
        for wrong in ["submodules=no", "mtime=", "mtime=now", "fetch-by-commit", "fetch-by-commit&checksum=0123456"] {
            assert!(GitSource::parse(&format!("https://h/x.git?{wrong}")).is_err(), "{wrong}");
        }
        let signed = GitSource::parse("https://h/x.git?signature-policy=x").unwrap_err();
        assert!(signed.to_string().contains("`signature-policy` is not implemented"), "{signed}");
    }

    #[test]
    fn what_would_be_an_option_or_lead_out_is_refused() {
        for text in [
            "https://h/x.git#--upload-pack=x",
            "https://h/x.git#-x",
            "https://h/x.git#a..b",
            "https://h/x.git#:../up",
            "https://h/x.git?ref=a&ref=b",
            "https://h/x.git?unknown=1",
            "https://h/x.git?commit=12",
            "ssh://-oProxyCommand=x/y",
            "file:///etc",
            "http://",
        ] {
            assert!(Location::parse(text).is_err(), "{text}: {:?}", Location::parse(text));
        }
        // No option either: these are paths.
        assert!(matches!(Location::parse("-u@h:x"), Ok(Location::Directory(_))));
    }

    #[test]
    fn passwords_are_not_shown() {
        let source = GitSource::parse("https://user:secret@h/x.git#main").unwrap().unwrap();
        assert_eq!(source.to_string(), "https://h/x.git#main");
        let error = Location::parse("https://user:secret@h/x.git#-x").unwrap_err();
        assert!(!error.to_string().contains("secret"), "{error}");
    }
}
