//! What is not on this machine yet: git repositories and files behind http(s), for contexts and for `ADD`.
//!
//! [`location`] reads what the user wrote and is pure; [`git`] and [`http`] fetch. Everything that a server answers is
//! hostile: it can neither reach other hosts of this machine nor other files, and what it sends has a limit.

pub mod git;
pub mod http;
pub mod location;

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};

use snapshot::Store;

use git::GitError;
use http::{Download, Http, HttpError};
use location::GitSource;

/// Fetches, each thing once in a build: the key of a step and the step itself see the same.
#[derive(Debug, Default)]
pub struct Remotes {
    http: Http,
    downloads: Mutex<HashMap<String, Download>>,
    commits: Mutex<HashMap<GitSource, String>>,
}

impl Remotes {
    /// The file behind a URL, in the store afterwards.
    pub fn download(&self, store: &Store, url: &str, checksum: Option<&str>) -> Result<Download, HttpError> {
        let mut downloads = self.downloads.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = downloads.get(url) {
            known.check(url, checksum)?;
            return Ok(known.clone());
        }
        let download = self.http.download(store, url, checksum)?;
        downloads.insert(url.to_owned(), download.clone());
        Ok(download)
    }

    /// The commit that a git source stands for.
    pub fn commit(&self, source: &GitSource) -> Result<String, GitError> {
        let mut commits = self.commits.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = commits.get(source) {
            return Ok(known.clone());
        }
        let commit = git::resolve(source)?;
        commits.insert(source.clone(), commit.clone());
        Ok(commit)
    }
}
