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
    match offer(client, access, descriptor, mount_from)? {
        Offered::Done(pushed) => Ok(pushed),
        Offered::Wanted(begun) => {
            let upload = Upload { session: Session { client, access }, descriptor, open, begun };
            upload.run()?;
            client.placed.insert(access, descriptor.digest());
            Ok(Pushed::Uploaded)
        }
    }
}

/// What came of an offer.
pub(super) enum Offered {
    /// The repository has the blob.
    Done(Pushed),
    /// It has to be uploaded; some registries begin an upload when they refuse a mount.
    Wanted(Option<Location>),
}

/// Makes the repository have a blob without sending it, if that can be: it is there, or mounted. What can be mounted is not
/// looked for first: a mount of what is there is one request too.
pub(super) fn offer(
    client: &Client,
    access: &Access,
    descriptor: &Descriptor,
    mount_from: Option<&str>,
) -> Result<Offered, Error> {
    if client.placed.contains(access, descriptor.digest()) {
        return Ok(Offered::Done(Pushed::Existed));
    }
    let mut offered = match mount_from {
        Some(from) if !is_repository(from) => {
            let problem = "a repository to mount from is lower-case words joined by `/`, `.`, `_` or `-`";
            return Err(Error::Reference { reference: from.escape_default().to_string(), problem });
        }
        Some(from) if from != access.target.repository => mount(client, access, descriptor.digest(), from)?,
        Some(_) | None => Offered::Wanted(None),
    };
    if matches!(offered, Offered::Wanted(_)) && client.find_blob(access, descriptor.digest())? {
        offered = Offered::Done(Pushed::Existed);
    }
    if matches!(offered, Offered::Done(_)) {
        client.placed.insert(access, descriptor.digest());
    }
    Ok(offered)
}

/// Asks the registry to take a blob from another of its repositories. A refusal is no error: it may have no such blob,
/// or keep the other repository from us.
fn mount(client: &Client, access: &Access, digest: &Digest, from: &str) -> Result<Offered, Error> {
    let access = Access { scopes: access.scopes.union(&Scopes::pull(from)), ..access.clone() };
    let mut url = access.url(&["blobs", "uploads", ""]);
    url.query_pairs_mut().append_pair("mount", digest.as_ref()).append_pair("from", from);
    let request = Request::new(&access.action, Method::POST, url);
    let result = client.exchange(&access, &request, &mut |response| match response.status() {
        StatusCode::CREATED => check_stated(&response, digest, &access.action).map(|()| Offered::Done(Pushed::Mounted)),
        StatusCode::ACCEPTED => location(client, &access, &response).map(|begun| Offered::Wanted(Some(begun))),
        _ => Err(response.refusal(&access.action)),
    });
    match result {
        Err(Error::NotFound { .. } | Error::Unauthorized { .. } | Error::Denied { .. }) => Ok(Offered::Wanted(None)),
        Err(Error::Refused { answer, .. }) if (400..500).contains(&answer.status) => Ok(Offered::Wanted(None)),
        result => result,
    }
}
