//! Manifests and indexes: fetched with their digest and type checked, and put.
//!
//! A document that can be read as two kinds is refused, as the advisory behind CVE-2021-41190 asks: the stated media
//! type, the document's own and its shape have to agree.

use oci_spec::image::{Descriptor, Digest, MediaType};
use reqwest::header::{ACCEPT, CONTENT_ENCODING, CONTENT_TYPE, HeaderValue};
use reqwest::{Method, StatusCode};
use serde::Deserialize;
use serde::de::IgnoredAny;

use super::{Client, Manifest, check_stated, malformed, referrers, stated_digest};
use crate::auth::Access;
use crate::digest;
use crate::transport::{Body, Request, Response};
use crate::{Action, Error};

/// Largest manifest or index, in bytes: the size that the distribution specification wants registries to accept.
const MANIFEST_LIMIT: u64 = 4 * 1024 * 1024;
/// Docker's image manifest, schema 2.
pub(super) const DOCKER_MANIFEST: &str = "application/vnd.docker.distribution.manifest.v2+json";
/// Docker's index ("manifest list").
pub(super) const DOCKER_LIST: &str = "application/vnd.docker.distribution.manifest.list.v2+json";
/// The header in which a registry says that it lists a manifest as a referrer.
const SUBJECT: &str = "oci-subject";
/// What this client can read.
const ACCEPTED: &str = "application/vnd.oci.image.index.v1+json, application/vnd.oci.image.manifest.v1+json, \
    application/vnd.docker.distribution.manifest.list.v2+json, application/vnd.docker.distribution.manifest.v2+json";
/// Content types that say nothing about the document.
const GENERIC: [&str; 4] = ["application/json", "application/octet-stream", "text/plain", "binary/octet-stream"];

/// The two kinds of documents that an image is made of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// An image manifest.
    Image,
    /// An index, or manifest list.
    Index,
}

impl Kind {
    /// The kind of a media type of OCI, or of Docker's schema 2; none of any other.
    pub fn of(media_type: &MediaType) -> Option<Self> {
        match media_type {
            MediaType::ImageManifest => Some(Self::Image),
            MediaType::ImageIndex => Some(Self::Index),
            MediaType::Other(name) if name == DOCKER_MANIFEST => Some(Self::Image),
            MediaType::Other(name) if name == DOCKER_LIST => Some(Self::Index),
            _ => None,
        }
    }
}

/// The keys that tell what a document is.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Shape {
    #[serde(default)]
    media_type: Option<String>,
    manifests: Option<IgnoredAny>,
    config: Option<IgnoredAny>,
    layers: Option<IgnoredAny>,
    fs_layers: Option<IgnoredAny>,
}

impl Client {
    /// Fetches the document that `expected`, else the target's digest, else its tag, names.
    pub(super) fn fetch_manifest(&self, access: &Access, expected: Option<&Descriptor>) -> Result<Manifest, Error> {
        let digest = expected.map(Descriptor::digest).or(access.target.digest.as_ref());
        let name = digest.map(AsRef::as_ref).or(access.target.tag.as_deref()).unwrap_or("latest");
        let mut request = Request::new(&access.action, Method::GET, access.url(&["manifests", name]));
        request.headers.insert(ACCEPT, HeaderValue::from_static(ACCEPTED));
        let manifest = self.exchange(access, &request, &mut |response| match response.status() {
            StatusCode::OK => read(&access.action, response, digest),
            _ => Err(response.refusal(&access.action)),
        })?;
        if let Some(expected) = expected {
            check_descriptor(&access.action, expected, &manifest.descriptor)?;
        }
        Ok(manifest)
    }

    /// Puts a document under the target's tag, else under its digest, and has what it refers to list it.
    pub(super) fn put_manifest(&self, access: &Access, media_type: &str, bytes: &[u8]) -> Result<Digest, Error> {
        let (digest, is_listed) = self.put_document(access, media_type, bytes)?;
        if let Some(subject) = referrers::subject(bytes).filter(|_| !is_listed) {
            referrers::add(self, access, &subject, media_type, bytes)?;
        }
        Ok(digest)
    }

    /// Puts a document. Says also whether the registry lists it as a referrer by itself (`OCI-Subject`).
    pub(super) fn put_document(
        &self,
        access: &Access,
        media_type: &str,
        bytes: &[u8],
    ) -> Result<(Digest, bool), Error> {
        let action = &access.action;
        if bytes.len() as u64 > MANIFEST_LIMIT {
            return Err(Error::TooLarge {
                action: Box::new(action.clone()),
                what: "the manifest",
                limit: MANIFEST_LIMIT,
            });
        }
        let digest = match &access.target.digest {
            Some(digest) => digest::check(bytes, digest, action).map(|()| digest.clone())?,
            None => digest::sha256(bytes),
        };
        let name = access.target.tag.as_deref().unwrap_or(digest.as_ref());
        let mut request = Request::new(action, Method::PUT, access.url(&["manifests", name]));
        let content_type = HeaderValue::from_str(media_type)
            .map_err(|_| malformed(action, format!("`{}` is not a media type", media_type.escape_default())))?;
        request.headers.insert(CONTENT_TYPE, content_type);
        request.body = Body::Bytes(bytes);
        let is_listed = self.exchange(access, &request, &mut |response| match response.status() {
            StatusCode::CREATED | StatusCode::OK | StatusCode::NO_CONTENT => {
                check_stated(&response, &digest, action).map(|()| response.header(SUBJECT).is_some())
            }
            _ => Err(response.refusal(action)),
        })?;
        Ok((digest, is_listed))
    }
}

/// Reads a document and computes its descriptor.
fn read(action: &Action, response: Response, expected: Option<&Digest>) -> Result<Manifest, Error> {
    if response.header(CONTENT_ENCODING.as_str()).is_some_and(|encoding| encoding != "identity") {
        return Err(malformed(action, "the manifest comes in an encoding that was not asked for"));
    }
    let stated = stated_digest(&response, action)?;
    let content_type = response.header(CONTENT_TYPE.as_str()).unwrap_or_default();
    let content_type = content_type.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
    let bytes = response.read(action, "the manifest", MANIFEST_LIMIT)?;
    for digest in expected.into_iter().chain(&stated) {
        digest::check(&bytes, digest, action)?;
    }
    let digest = expected.cloned().or(stated).unwrap_or_else(|| digest::sha256(&bytes));
    let media_type = media_type(&content_type, &bytes).map_err(|problem| malformed(action, problem))?;
    Ok(Manifest { descriptor: Descriptor::new(media_type, bytes.len() as u64, digest), bytes })
}

/// Compares what an index says of a manifest with what came. The digest is checked already.
fn check_descriptor(action: &Action, expected: &Descriptor, actual: &Descriptor) -> Result<(), Error> {
    if expected.size() != actual.size() {
        let (expected, actual) = (expected.size(), actual.size());
        return Err(Error::WrongSize { action: Box::new(action.clone()), expected, actual });
    }
    if expected.media_type() != actual.media_type() {
        let (expected, actual) = (expected.media_type(), actual.media_type());
        return Err(malformed(action, format!("its index calls it `{expected}`, and it is `{actual}`")));
    }
    Ok(())
}

/// Finds out what a manifest or index is. `content_type` is what its source calls it, empty if it does not.
///
/// What can be read as two kinds is refused, and so is what has no type; the error is the rule that is broken.
pub fn media_type(content_type: &str, bytes: &[u8]) -> Result<MediaType, String> {
    // serde reads a struct from an array too.
    if bytes.trim_ascii_start().first() != Some(&b'{') {
        return Err("the manifest is not a JSON object".to_owned());
    }
    let shape: Shape = serde_json::from_slice(bytes).map_err(|error| format!("the manifest is not JSON: {error}"))?;
    let stated = Some(content_type).filter(|name| !name.is_empty() && !GENERIC.contains(name));
    let own = shape.media_type.as_deref().filter(|name| !name.is_empty());
    if let (Some(stated), Some(own)) = (stated, own)
        && stated != own
    {
        let (stated, own) = (stated.escape_default(), own.escape_default());
        return Err(format!("the registry calls the manifest `{stated}`, and it calls itself `{own}`"));
    }
    let is_index = shape.manifests.is_some();
    let is_image = shape.config.is_some() || shape.layers.is_some();
    let media_type = match own.or(stated) {
        Some(name) => MediaType::from(name),
        None if is_index => MediaType::ImageIndex,
        None if is_image => MediaType::ImageManifest,
        None => return Err("the manifest has no media type".to_owned()),
    };
    match Kind::of(&media_type) {
        Some(_) if shape.fs_layers.is_some() => Err("the manifest is of schema 1 and of another kind".to_owned()),
        Some(Kind::Image) if is_index => Err("the manifest is an image and an index in one".to_owned()),
        Some(Kind::Index) if is_image => Err("the manifest is an index and an image in one".to_owned()),
        Some(Kind::Image | Kind::Index) | None => Ok(media_type),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const OCI: &str = "application/vnd.oci.image.manifest.v1+json";
    const INDEX: &str = "application/vnd.oci.image.index.v1+json";

    #[test]
    fn the_media_type_is_the_documents_own_or_the_headers() {
        let check = |content_type, text: &str| media_type(content_type, text.as_bytes()).unwrap().to_string();
        assert_eq!(check(OCI, r#"{"config":{},"layers":[]}"#), OCI);
        assert_eq!(check("text/plain", &format!(r#"{{"mediaType":"{INDEX}","manifests":[]}}"#)), INDEX);
        assert_eq!(check("", r#"{"manifests":[]}"#), INDEX);
        assert_eq!(check("application/json", r#" {"config":{},"layers":[]}"#), OCI);
        assert_eq!(check(DOCKER_LIST, &format!(r#"{{"mediaType":"{DOCKER_LIST}","manifests":[]}}"#)), DOCKER_LIST);
    }

    #[test]
    fn a_document_of_two_kinds_is_refused() {
        for (content_type, text) in [
            (OCI, format!(r#"{{"mediaType":"{INDEX}","manifests":[]}}"#)),
            (OCI, r#"{"config":{},"layers":[],"manifests":[]}"#.to_owned()),
            (INDEX, r#"{"manifests":[],"layers":[]}"#.to_owned()),
            ("", r#"{"manifests":[],"config":{}}"#.to_owned()),
            (OCI, r#"{"config":{},"layers":[],"fsLayers":[]}"#.to_owned()),
            (OCI, r#"{"mediaType":"a","mediaType":"b"}"#.to_owned()),
            (OCI, "[]".to_owned()),
            (OCI, "{".to_owned()),
            (OCI, "\u{feff}{}".to_owned()),
            (OCI, "[".repeat(100_000)),
            (OCI, format!("{{\"x\":{}", "[".repeat(100_000))),
            ("", "{}".to_owned()),
            ("", String::new()),
        ] {
            assert!(
                media_type(content_type, text.as_bytes()).is_err(),
                "{content_type} {}",
                &text[..text.len().min(80)]
            );
        }
    }
}
