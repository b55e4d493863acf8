//! The registry client: one method for each thing a builder asks of a registry.

mod content;
mod manifest;
mod pages;
mod placed;
mod pull;
mod push;
mod referrers;
mod resolve;
mod session;
mod stream;
mod tags;
mod upload;

pub use manifest::{Kind, media_type};
pub use stream::Upload;

use std::fmt;
use std::io::{self, Read, Write};
use std::sync::Arc;

use oci_spec::image::{Descriptor, Digest, ImageManifest, Platform};
use reqwest::header::HeaderName;
use reqwest::{Method, StatusCode};
use url::Url;

use self::placed::Placed;
use crate::auth::{Access, Auth, Scopes};
use crate::credentials::IdentityToken;
use crate::reference::Target;
use crate::retry::Backoff;
use crate::transport::{Request, Response, Transport};
use crate::{Action, Error, Options, Reference};

/// The header in which a registry states the digest of what it sends or has stored. It is only ever compared.
const CONTENT_DIGEST: HeaderName = HeaderName::from_static("docker-content-digest");

/// A client of any number of registries. Cheap to share: all methods take `&self`, from any thread.
///
/// Making one connects to nothing; connections, tokens and what is known of a registry are kept as long as it lives, or a
/// clone of it, which shares them.
#[derive(Debug, Clone)]
pub struct Client {
    transport: Arc<Transport>,
    auth: Arc<Auth>,
    placed: Arc<Placed>,
}

/// A manifest or index as the registry holds it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Manifest {
    /// Media type, size, and the digest computed from `bytes`.
    pub descriptor: Descriptor,
    /// The document, unchanged.
    pub bytes: Vec<u8>,
}

/// One image, chosen for a platform.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Resolved {
    /// The chosen image manifest; with the platform that the index gives it.
    pub descriptor: Descriptor,
    /// It, parsed.
    pub manifest: ImageManifest,
    /// It, unchanged.
    pub manifest_bytes: Vec<u8>,
    /// The image config, unchanged; verified against its descriptor, not parsed.
    pub config: Vec<u8>,
}

/// Gives a small blob that somebody has already.
pub type Known<'a> = dyn Fn(&Descriptor) -> Option<Vec<u8>> + 'a;

/// How a blob came to be in a repository.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pushed {
    /// It was there.
    Existed,
    /// The registry took it from another of its repositories.
    Mounted,
    /// It was uploaded.
    Uploaded,
}

impl fmt::Display for Pushed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Existed => "exists",
            Self::Mounted => "mounted",
            Self::Uploaded => "uploaded",
        })
    }
}

impl Client {
    /// Makes a client. The HTTP machinery is set up when it is first needed.
    pub fn new(options: Options) -> Result<Self, Error> {
        Ok(Self { transport: Arc::new(Transport::new(options)?), auth: Arc::default(), placed: Arc::default() })
    }

    /// Fetches the manifest or index that a digest, else a tag, names; at most 4 MiB.
    ///
    /// The digest is computed from the bytes and compared with the reference's and with the one that the registry
    /// states. The media type that the registry states and the document's own must agree.
    pub fn manifest(&self, reference: &Reference) -> Result<Manifest, Error> {
        let action = |_| Action::PullManifest(reference.whole());
        self.anywhere(reference, action, &mut |access| self.fetch_manifest(access, None))
    }

    /// Follows a reference to the one image for a platform, through an index, or nested ones, where there are any.
    ///
    /// OCI and Docker schema 2 types are understood. An image that is in no index is taken whatever its platform: the
    /// config tells. In an index the best match wins ([`Error::NoPlatform`] if there is none).
    pub fn resolve(&self, reference: &Reference, platform: &Platform) -> Result<Resolved, Error> {
        self.resolve_knowing(reference, platform, &|_| None)
    }

    /// Does [`Client::resolve`]; a config that `known` gives is not fetched. Other bytes than the descriptor's count as
    /// none.
    pub fn resolve_knowing(
        &self,
        reference: &Reference,
        platform: &Platform,
        known: &Known<'_>,
    ) -> Result<Resolved, Error> {
        let action = |_| Action::PullManifest(reference.whole());
        let wanted = resolve::Wanted { reference, platform, known };
        self.anywhere(reference, action, &mut |access| resolve::resolve(self, access, wanted))
    }

    /// Streams a blob into `out`, once and in order, and fails unless size and digest are the descriptor's.
    ///
    /// After a broken connection it goes on where it was, with a range request or by passing over what it has; `out`
    /// never gets a byte twice. What is in `out` may be used only after `Ok`: after [`Error::WrongDigest`] the caller
    /// has to begin again with a new writer. `urls` of the descriptor are not followed.
    pub fn pull_blob(&self, reference: &Reference, descriptor: &Descriptor, out: &mut dyn Write) -> Result<(), Error> {
        self.pull(reference, descriptor, pull::Progress::verifying(reference, descriptor, out)?)
    }

    /// Does [`Client::pull_blob`] for an `out` that computes the digest itself: here the size alone is compared.
    pub fn pull_blob_unverified(
        &self,
        reference: &Reference,
        descriptor: &Descriptor,
        out: &mut dyn Write,
    ) -> Result<(), Error> {
        self.pull(reference, descriptor, pull::Progress::new(descriptor, out))
    }

    fn pull(
        &self,
        reference: &Reference,
        descriptor: &Descriptor,
        mut progress: pull::Progress<'_>,
    ) -> Result<(), Error> {
        let action = |repository| Action::PullBlob { repository, digest: descriptor.digest().clone() };
        self.anywhere(reference, action, &mut |access| pull::pull(self, access, descriptor, &mut progress))
    }

    /// Says whether the repository has a blob.
    pub fn has_blob(&self, reference: &Reference, digest: &Digest) -> Result<bool, Error> {
        let action = |repository| Action::FindBlob { repository, digest: digest.clone() };
        let access = self.access(reference, Scopes::pull, action)?;
        self.find_blob(&access, digest)
    }

    /// Makes the repository have a blob: it is there, or mounted from another repository, or uploaded.
    ///
    /// `mount_from` is a repository of the same registry that may have the blob; if the mount is refused, the blob is
    /// uploaded. `open` gives the content from its beginning, anew for each try; content that does not have the
    /// descriptor's size and digest is never completed. A blob that this client has found or put there before is there:
    /// the registry is not asked again.
    pub fn push_blob(
        &self,
        reference: &Reference,
        descriptor: &Descriptor,
        mount_from: Option<&str>,
        open: &dyn Fn() -> io::Result<Box<dyn Read + Send>>,
    ) -> Result<Pushed, Error> {
        push::push(self, &self.pushing(reference, descriptor)?, descriptor, mount_from, open)
    }

    /// Makes the repository have a blob without sending it, if that can be: it is there, or mounted from another
    /// repository of the same registry. None if it has to be uploaded.
    pub fn offer_blob(
        &self,
        reference: &Reference,
        descriptor: &Descriptor,
        mount_from: Option<&str>,
    ) -> Result<Option<Pushed>, Error> {
        Ok(match push::offer(self, &self.pushing(reference, descriptor)?, descriptor, mount_from)? {
            push::Offered::Done(pushed) => Some(pushed),
            push::Offered::Wanted(_) => None,
        })
    }

    /// Begins to upload a blob whose digest is not known yet; its bytes are sent while they are made.
    pub fn begin_upload(&self, reference: &Reference) -> Result<Upload, Error> {
        let target = self.own_place(reference)?;
        self.presuming(target, Scopes::push, Action::Upload, &mut |access| Upload::begin(self, access.clone()))
    }

    /// Puts a manifest or index under the reference's tag, or under its digest; at most 4 MiB.
    ///
    /// Everything that the manifest names has to be in the repository already. A manifest with a `subject` is listed
    /// among its referrers, by the registry or, where it does not do so, by this client. A digest in the reference must
    /// be that of the bytes.
    pub fn push_manifest(&self, reference: &Reference, media_type: &str, bytes: &[u8]) -> Result<Digest, Error> {
        let access = self.access(reference, Scopes::push, |_| Action::PushManifest(reference.whole()))?;
        self.put_manifest(&access, media_type, bytes)
    }

    /// Proves the caller's identity to a registry (`host` or `host:port`): the credentials are known and taken.
    ///
    /// A registry that asks nobody who they are takes any. The answer is the identity token to keep instead of the
    /// password, if the registry's token service gives one.
    pub fn sign_in(&self, registry: &str) -> Result<Option<IdentityToken>, Error> {
        let target = Target::registry(registry)?;
        let action = Action::SignIn(target.registry.clone());
        let base = self.transport.base(&target.authority, &action)?;
        let mut url = base.clone();
        url.set_path("/v2/");
        let access = Access { action: action.clone(), target, base, is_presumed: false, scopes: Scopes::default() };
        let request = Request::new(&action, Method::GET, url);
        self.exchange(&access, &request, &mut |response| match response.status() {
            StatusCode::OK => Ok(()),
            _ => Err(response.refusal(&action)),
        })?;
        Ok(self.auth.identity(&access).map(IdentityToken))
    }

    /// Lists what refers to a manifest (signatures, attestations), by the referrers API or, without it, by the tag that
    /// stands for it. A reference without a digest is resolved first.
    pub fn referrers(&self, reference: &Reference) -> Result<Vec<Descriptor>, Error> {
        let access = self.access(reference, Scopes::pull, |_| Action::ListReferrers(reference.whole()))?;
        let subject = match &access.target.digest {
            Some(digest) => digest.clone(),
            None => self.fetch_manifest(&access, None)?.descriptor.digest().clone(),
        };
        referrers::referrers(self, &access, &subject)
    }

    /// Lists the tags of a repository, all pages of them.
    pub fn tags(&self, reference: &Reference) -> Result<Vec<String>, Error> {
        let access = self.access(reference, Scopes::pull, Action::ListTags)?;
        tags::tags(self, &access)
    }

    /// Prepares what one action needs; `action` is given the repository's name with its registry.
    fn access(
        &self,
        reference: &Reference,
        scopes: fn(&str) -> Scopes,
        action: impl Fn(String) -> Action,
    ) -> Result<Access, Error> {
        self.access_to(self.own_place(reference)?, scopes, action)
    }

    /// Prepares the push of a blob.
    fn pushing(&self, reference: &Reference, descriptor: &Descriptor) -> Result<Access, Error> {
        let action = |repository| Action::PushBlob { repository, digest: descriptor.digest().clone() };
        self.access(reference, Scopes::push, action)
    }

    /// The place of an image that is written, or read where it was written.
    fn own_place(&self, reference: &Reference) -> Result<Target, Error> {
        let mut places = self.transport.options.registries.places(Target::new(reference)?, false)?;
        Ok(places.pop().expect("an image has its own place"))
    }

    fn access_to(
        &self,
        target: Target,
        scopes: fn(&str) -> Scopes,
        action: impl Fn(String) -> Action,
    ) -> Result<Access, Error> {
        let action = action(target.name());
        let base = self.transport.base(&target.authority, &action)?;
        let scopes = scopes(&target.repository);
        Ok(Access { action, target, base, is_presumed: false, scopes })
    }

    /// Does one action, whose first request finds out what scheme the host speaks where that can be presumed.
    fn presuming<T>(
        &self,
        target: Target,
        scopes: fn(&str) -> Scopes,
        action: impl Fn(String) -> Action,
        work: &mut dyn FnMut(&Access) -> Result<T, Error>,
    ) -> Result<T, Error> {
        if let Some(base) = self.transport.presumed(&target.authority) {
            let (action, scopes) = (action(target.name()), scopes(&target.repository));
            match work(&Access { action, target: target.clone(), base, is_presumed: true, scopes }) {
                Err(Error::Scheme) => {}
                result => return result,
            }
        }
        work(&self.access_to(target, scopes, action)?)
    }

    /// Reads something where it is: from the mirrors of its registry, in their order, and then from the registry itself.
    fn anywhere<T>(
        &self,
        reference: &Reference,
        action: impl Fn(String) -> Action,
        work: &mut dyn FnMut(&Access) -> Result<T, Error>,
    ) -> Result<T, Error> {
        let mut places = self.transport.options.registries.places(Target::new(reference)?, true)?;
        let own = places.pop().expect("an image has its own place");
        let mut mirrors = Vec::new();
        for place in places {
            let (name, authority) = (place.name(), place.authority.clone());
            if self.transport.is_dead(&authority) {
                mirrors.push(format!("`{name}`: gave no answer before"));
                continue;
            }
            match self.presuming(place, Scopes::pull, &action, work) {
                Ok(value) => return Ok(value),
                // What the caller's writer has of it cannot be taken back.
                Err(error) if error.is_final() => return Err(error),
                Err(error) => {
                    if error.is_connect() {
                        self.transport.bury(&authority);
                    }
                    mirrors.push(format!("`{name}`: {}", error.brief()));
                }
            }
        }
        let result = self.presuming(own, Scopes::pull, &action, work);
        result.map_err(|error| error.with_mirrors(mirrors))
    }

    /// Sends a request, again while the failure may pass, and reads its answer. Corrupt content counts once as a
    /// failure that may pass.
    fn exchange<T>(
        &self,
        access: &Access,
        request: &Request<'_>,
        read: &mut dyn FnMut(Response) -> Result<T, Error>,
    ) -> Result<T, Error> {
        let mut backoff = self.backoff(access);
        loop {
            match self.attempt(access, request, &mut backoff, read) {
                Ok(value) => return Ok(value),
                Err(error) if backoff.failures() == 0 && error.is_corrupt() && backoff.again_after_any() => {}
                Err(error) if backoff.again(&error) => {}
                Err(error) => return Err(error.with_attempts(backoff.failures())),
            }
        }
    }

    /// Sends a request once, twice if the registry asks who we are, and reads its answer.
    ///
    /// Credentials are for the registry's own origin; another that an upload location or a redirect leads to is spoken
    /// to without, and its 401 is no question to us.
    fn attempt<T>(
        &self,
        access: &Access,
        request: &Request<'_>,
        backoff: &mut Backoff<'_>,
        read: &mut dyn FnMut(Response) -> Result<T, Error>,
    ) -> Result<T, Error> {
        let is_home = request.url.origin() == access.base.origin();
        let mut is_asked = false;
        loop {
            let sent = if is_home { self.auth.authorization(&self.transport, access)? } else { None };
            // Not before: a token is fetched while others wait for it, and they may have slots.
            let slot = self.transport.slots.take(&request.url);
            backoff.excuse(slot.waited);
            let mut response = if is_home && access.is_presumed {
                let host = (access.target.authority.as_str(), &access.base);
                self.transport.send_presuming(host, request, sent.clone())?
            } else {
                self.transport.send(request, sent.clone())?
            };
            response.slot = Some(slot);
            if response.status() != StatusCode::UNAUTHORIZED || !is_home || response.is_foreign {
                return read(response);
            }
            if is_asked {
                return Err(self.auth.refused(access, response));
            }
            self.auth.challenged(&self.transport, access, response, sent.as_ref())?;
            is_asked = true;
        }
    }

    /// Starts the tries of one request.
    fn backoff(&self, access: &Access) -> Backoff<'_> {
        self.transport.backoff(&access.target.authority)
    }

    /// HEAD of a blob.
    fn find_blob(&self, access: &Access, digest: &Digest) -> Result<bool, Error> {
        let request = Request::new(&access.action, Method::HEAD, access.url(&["blobs", digest.as_ref()]));
        self.exchange(access, &request, &mut |response| match response.status() {
            StatusCode::OK => check_stated(&response, digest, &access.action).map(|()| true),
            StatusCode::NOT_FOUND => Ok(false),
            _ => Err(response.refusal(&access.action)),
        })
    }
}

impl Access {
    /// A URL of the repository: `/v2/<name>/` and the parts. They are single path segments, escaped here, but that an
    /// empty last one ends the path in `/`.
    fn url(&self, parts: &[&str]) -> Url {
        let mut url = self.base.clone();
        if let Ok(mut path) = url.path_segments_mut() {
            path.clear().push("v2").extend(self.target.repository.split('/')).extend(parts);
        }
        url
    }
}

/// Compares the digest that a registry states with the right one. One of another algorithm is no statement.
fn check_stated(response: &Response, digest: &Digest, action: &Action) -> Result<(), Error> {
    match stated_digest(response, action)? {
        Some(stated) if stated.algorithm() == digest.algorithm() && stated != *digest => {
            Err(Error::WrongDigest { action: Box::new(action.clone()), expected: digest.clone(), actual: stated })
        }
        _ => Ok(()),
    }
}

/// Reads the digest that a registry states.
fn stated_digest(response: &Response, action: &Action) -> Result<Option<Digest>, Error> {
    let Some(text) = response.header(CONTENT_DIGEST.as_str()).filter(|text| !text.is_empty()) else {
        return Ok(None);
    };
    let malformed =
        |_| malformed(action, format!("the header `Docker-Content-Digest: {}` is no digest", text.escape_default()));
    text.parse().map(Some).map_err(malformed)
}

fn malformed(action: &Action, problem: impl Into<String>) -> Error {
    Error::Malformed { action: Box::new(action.clone()), problem: problem.into() }
}
