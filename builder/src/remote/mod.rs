//! What is not on this machine yet: git repositories and files behind http(s), for contexts and for `ADD`.
//!
//! [`location`] reads what the user wrote and is pure; [`git`] and [`http`] fetch. Everything that a server answers is
//! hostile: it can neither reach other hosts of this machine nor other files, and what it sends has a limit. [`access`]
//! has the secrets; all waiting ends when the build is cancelled.

pub mod access;
pub mod git;
pub mod http;
pub mod location;
pub(crate) mod waiting;

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};

use snapshot::Store;

use crate::grants::Grants;
use crate::sandbox::Cancel;

use access::Access;
use git::{Checkout, GitError};
use http::{Download, Http, HttpError};
use location::GitSource;

/// Fetches, each thing once in a build: the key of a step and the step itself see the same.
#[derive(Debug)]
pub struct Remotes {
    access: Access,
    http: Http,
    downloads: Mutex<HashMap<String, Download>>,
    commits: Mutex<HashMap<GitSource, String>>,
}

impl Remotes {
    /// Fetches with what a build has been granted, until it is cancelled.
    pub fn new(grants: &Grants, cancel: &Cancel) -> Self {
        Self {
            access: Access::new(grants, cancel),
            http: Http::default(),
            downloads: Mutex::default(),
            commits: Mutex::default(),
        }
    }

    /// The flag that ends the fetching.
    pub fn cancel(&self) -> &Cancel {
        &self.access.cancel
    }

    /// The file behind a URL, in the store afterwards.
    pub fn download(&self, store: &Store, url: &str, checksum: Option<&str>) -> Result<Download, HttpError> {
        let mut downloads = self.downloads.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = downloads.get(url) {
            known.check(url, checksum)?;
            return Ok(known.clone());
        }
        let download = self.http.download(&self.access, store, url, checksum)?;
        downloads.insert(url.to_owned(), download.clone());
        Ok(download)
    }

    /// The commit that a git source stands for.
    pub fn commit(&self, store: &Store, source: &GitSource) -> Result<String, GitError> {
        let mut commits = self.commits.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = commits.get(source) {
            return Ok(known.clone());
        }
        let commit = git::resolve(&self.access, store, source)?;
        commits.insert(source.clone(), commit.clone());
        Ok(commit)
    }

    /// The files of a git source.
    pub fn checkout(&self, store: &Store, source: &GitSource) -> Result<Checkout, GitError> {
        git::checkout(&self.access, store, source, &self.commit(store, source)?)
    }
}
