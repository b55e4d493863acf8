//! What errors tell of one request: what it was for, where it went, and what the registry said.

use std::fmt;
use std::time::Duration;

use oci_spec::image::Digest;
use url::Url;

use crate::origin::shown;

/// What was attempted.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Action {
    /// GET of the manifest or index of a reference.
    PullManifest(String),
    /// GET of a blob.
    PullBlob {
        /// Registry and repository.
        repository: String,
        /// The blob.
        digest: Digest,
    },
    /// HEAD of a blob.
    FindBlob {
        /// Registry and repository.
        repository: String,
        /// The blob.
        digest: Digest,
    },
    /// Mount or upload of a blob.
    PushBlob {
        /// Registry and repository.
        repository: String,
        /// The blob.
        digest: Digest,
    },
    /// Upload of a blob whose digest is not known yet, to a repository.
    Upload(String),
    /// PUT of a manifest.
    PushManifest(String),
    /// Proof of an identity to a registry.
    SignIn(String),
    /// GET of what refers to a manifest.
    ListReferrers(String),
    /// GET of the tags of a repository.
    ListTags(String),
}

impl fmt::Display for Action {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::PullManifest(reference) => write!(f, "pull manifest `{reference}`"),
            Self::PullBlob { repository, digest } => write!(f, "pull blob `{repository}@{digest}`"),
            Self::FindBlob { repository, digest } => write!(f, "look for blob `{repository}@{digest}`"),
            Self::PushBlob { repository, digest } => write!(f, "push blob `{repository}@{digest}`"),
            Self::Upload(repository) => write!(f, "upload a blob to `{repository}`"),
            Self::PushManifest(reference) => write!(f, "push manifest `{reference}`"),
            Self::SignIn(registry) => write!(f, "sign in to `{registry}`"),
            Self::ListReferrers(reference) => write!(f, "list what refers to `{reference}`"),
            Self::ListTags(repository) => write!(f, "list tags of `{repository}`"),
        }
    }
}

/// One request of an action: where it went and how often.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Exchange {
    /// What it was for.
    pub action: Action,
    /// The address, without userinfo, query and fragment.
    pub url: String,
    /// Tries made.
    pub attempts: u32,
    /// The mirrors that were asked before, and why they did not give it.
    pub mirrors: Vec<String>,
}

impl Exchange {
    pub(crate) fn new(action: &Action, url: &Url) -> Self {
        Self { action: action.clone(), url: shown(url), attempts: 1, mirrors: Vec::new() }
    }
}

impl fmt::Display for Exchange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.url)?;
        if self.attempts > 1 {
            write!(f, ", {} attempts", self.attempts)?;
        }
        self.mirrors.iter().try_for_each(|mirror| write!(f, "; before it the mirror {mirror}"))
    }
}

/// What a registry said when it refused: status and the error envelope of the specification.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    /// HTTP status code.
    pub status: u16,
    /// The envelope's entries; empty when the body was none.
    pub errors: Vec<AnswerError>,
    /// How long the registry asks to wait (`Retry-After`).
    pub retry_after: Option<Duration>,
}

/// One entry of a registry's error envelope, shortened, without control characters.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AnswerError {
    /// Upper-case code, as `MANIFEST_UNKNOWN`.
    pub code: String,
    /// Text for people; may be empty.
    pub message: String,
}

impl Answer {
    /// Whether one of its errors has this code.
    pub(crate) fn has(&self, code: &str) -> bool {
        self.errors.iter().any(|error| error.code == code)
    }
}

impl fmt::Display for Answer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.errors.is_empty() {
            return write!(f, ": HTTP {}", self.status);
        }
        for error in &self.errors {
            write!(f, ": {}", error.code)?;
            if !error.message.is_empty() {
                write!(f, " ({})", error.message)?;
            }
        }
        Ok(())
    }
}
