//! The blobs that a client has found or put in a repository: nobody is asked for them again.

use std::collections::HashSet;
use std::sync::Mutex;

use oci_spec::image::Digest;

use crate::auth::Access;
use crate::transport::lock;

/// What is known to be where, as `host/repository@digest`.
#[derive(Debug, Default)]
pub(super) struct Placed(Mutex<HashSet<String>>);

impl Placed {
    pub(super) fn contains(&self, access: &Access, digest: &Digest) -> bool {
        lock(&self.0).contains(&key(access, digest))
    }

    pub(super) fn insert(&self, access: &Access, digest: &Digest) {
        lock(&self.0).insert(key(access, digest));
    }
}

fn key(access: &Access, digest: &Digest) -> String {
    format!("{}@{digest}", access.target.name())
}
