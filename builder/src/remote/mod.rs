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
use std::hash::Hash;
use std::sync::{Arc, Mutex};

use snapshot::Store;

use crate::grants::Grants;
use crate::parallel::lock;
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
    downloads: Once<String, Download>,
    commits: Once<GitSource, String>,
}

impl Remotes {
    /// Fetches with what a build has been granted, until it is cancelled.
    pub fn new(grants: &Grants, cancel: &Cancel) -> Self {
        Self {
            access: Access::new(grants, cancel),
            http: Http::default(),
            downloads: Once::default(),
            commits: Once::default(),
        }
    }

    /// The flag that ends the fetching.
    pub fn cancel(&self) -> &Cancel {
        &self.access.cancel
    }

    /// The file behind a URL, in the store afterwards.
    pub fn download(&self, store: &Store, url: &str, checksum: Option<&str>) -> Result<Download, HttpError> {
        let fetch = || self.http.download(&self.access, store, url, checksum);
        let download = self.downloads.get(url.to_owned(), fetch)?;
        download.check(url, checksum)?;
        Ok(download)
    }

    /// The commit that a git source stands for.
    pub fn commit(&self, store: &Store, source: &GitSource) -> Result<String, GitError> {
        self.commits.get(source.clone(), || git::resolve(&self.access, store, source))
    }

    /// The files of a git source.
    pub fn checkout(&self, store: &Store, source: &GitSource) -> Result<Checkout, GitError> {
        git::checkout(&self.access, store, source, &self.commit(store, source)?)
    }
}

/// What was fetched. Different things are fetched at the same time; who wants one that is on its way waits for it.
#[derive(Debug)]
struct Once<K, V>(Mutex<HashMap<K, Arc<Mutex<Option<V>>>>>);

impl<K, V> Default for Once<K, V> {
    fn default() -> Self {
        Self(Mutex::default())
    }
}

impl<K: Eq + Hash, V: Clone> Once<K, V> {
    /// What has the name `key`; fetched, unless that has gone well before.
    fn get<E>(&self, key: K, fetch: impl FnOnce() -> Result<V, E>) -> Result<V, E> {
        let slot = lock(&self.0).entry(key).or_default().clone();
        let mut slot = lock(&slot);
        if let Some(known) = &*slot {
            return Ok(known.clone());
        }
        Ok(slot.insert(fetch()?).clone())
    }
}
