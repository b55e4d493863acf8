//! A blob into a repository, by the cheapest way there is: found, mounted, uploaded.

use std::io::{self, Read};

use oci_spec::image::{Descriptor, Digest};
use reqwest::{Method, StatusCode};

use super::session::{Location, Session, location};
use super::upload::Upload;
use super::{Client, Pushed, check_stated};
use crate::Error;
use crate::auth::{Access, Scopes};
use crate::digest::Digester;
use crate::reference::is_repository;
use crate::transport::Request;

pub(super) fn push(
    client: &Client,
    access: &Access,
    descriptor: &Descriptor,
    mount_from: Option<&str>,
    open: &dyn Fn() -> io::Result<Box<dyn Read + Send>>,
) -> Result<Pushed, Error> {
    // An algorithm that cannot be verified is not pushed either.
    Digester::new(descriptor.digest().algorithm(), &access.action)?;
    if client.find_blob(access, descriptor.digest())? {
        return Ok(Pushed::Existed);
    }
    let mut upload = Upload::new(Session { client, access }, descriptor, open);
    match mount_from {
        Some(from) if !is_repository(from) => {
            let problem = "a repository to mount from is lower-case words joined by `/`, `.`, `_` or `-`";
            return Err(Error::Reference { reference: from.escape_default().to_string(), problem });
        }
        Some(from) if from != access.target.repository => match mount(client, access, descriptor.digest(), from)? {
            Mount::Done => return Ok(Pushed::Mounted),
            Mount::Begun(begun) => upload.begun = begun,
        },
        Some(_) | None => {}
    }
    upload.run().map(|()| Pushed::Uploaded)
}

/// What came of a mount.
enum Mount {
    Done,
    /// Refused; some registries begin an upload in the same answer.
    Begun(Option<Location>),
}

/// Asks the registry to take a blob from another of its repositories. A refusal is no error: it may have no such blob,
/// or keep the other repository from us.
fn mount(client: &Client, access: &Access, digest: &Digest, from: &str) -> Result<Mount, Error> {
    let access = Access { scopes: access.scopes.union(&Scopes::pull(from)), ..access.clone() };
    let mut url = access.url(&["blobs", "uploads", ""]);
    url.query_pairs_mut().append_pair("mount", digest.as_ref()).append_pair("from", from);
    let request = Request::new(&access.action, Method::POST, url);
    let result = client.exchange(&access, &request, &mut |response| match response.status() {
        StatusCode::CREATED => check_stated(&response, digest, &access.action).map(|()| Mount::Done),
        StatusCode::ACCEPTED => location(client, &access, &response).map(|begun| Mount::Begun(Some(begun))),
        _ => Err(response.refusal(&access.action)),
    });
    match result {
        Err(Error::NotFound { .. } | Error::Unauthorized { .. } | Error::Denied { .. }) => Ok(Mount::Begun(None)),
        Err(Error::Refused { answer, .. }) if (400..500).contains(&answer.status) => Ok(Mount::Begun(None)),
        result => result,
    }
}
