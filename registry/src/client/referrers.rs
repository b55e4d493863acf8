//! What refers to a manifest: signatures, attestations, bills of materials.
//!
//! Registries without the referrers API keep the list as an index under a tag made of the digest (distribution
//! specification, "Unavailable Referrers API"); there, whoever pushes a referrer has to write that index.

use oci_spec::image::{Descriptor, Digest, ImageIndex, MediaType};
use serde::Deserialize;
use serde_json::{Value, json};

use super::manifest::Kind;
use super::{Client, malformed, pages};
use crate::auth::Access;
use crate::{Error, digest};

/// Most referrers that are read.
const LIMIT: usize = 10_000;
const INDEX: MediaType = MediaType::ImageIndex;

/// The keys of a manifest that a list of referrers repeats.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Referrer {
    subject: Option<Descriptor>,
    artifact_type: Option<String>,
    config: Option<Descriptor>,
    annotations: Option<Value>,
}

/// Lists what refers to a digest.
pub(super) fn referrers(client: &Client, access: &Access, subject: &Digest) -> Result<Vec<Descriptor>, Error> {
    match from_api(client, access, subject) {
        Err(Error::NotFound { .. }) => from_tag(client, access, subject),
        // A registry that knows no such path may say so in its own way.
        Err(Error::Refused { answer, .. }) if (400..500).contains(&answer.status) => from_tag(client, access, subject),
        found => found,
    }
}

fn from_api(client: &Client, access: &Access, subject: &Digest) -> Result<Vec<Descriptor>, Error> {
    let url = access.url(&["referrers", subject.as_ref()]);
    let mut all = Vec::new();
    pages::each(client, access, url, "the list of referrers", &mut |page: ImageIndex| {
        all.extend(page.manifests().iter().cloned());
        check_count(access, all.len())
    })?;
    Ok(all)
}

fn check_count(access: &Access, count: usize) -> Result<(), Error> {
    if count <= LIMIT { Ok(()) } else { Err(malformed(&access.action, format!("it has more than {LIMIT} referrers"))) }
}

fn from_tag(client: &Client, access: &Access, subject: &Digest) -> Result<Vec<Descriptor>, Error> {
    let found = match client.fetch_manifest(&tagged(access, subject), None) {
        Err(Error::NotFound { .. }) => return Ok(Vec::new()),
        found => found?,
    };
    if Kind::of(found.descriptor.media_type()) != Some(Kind::Index) {
        return Err(malformed(&access.action, "the tag that should list its referrers is no index"));
    }
    let index: ImageIndex = serde_json::from_slice(&found.bytes).map_err(|source| Error::Json {
        action: Box::new(access.action.clone()),
        what: "the list of referrers",
        source,
    })?;
    check_count(access, index.manifests().len())?;
    Ok(index.manifests().clone())
}

/// The tag that stands for the list: `sha256-<hex>`, cut to the length of a tag.
fn tagged(access: &Access, subject: &Digest) -> Access {
    let tag: String = format!("{}-{}", subject.algorithm(), subject.digest()).chars().take(128).collect();
    let mut access = access.clone();
    (access.target.tag, access.target.digest) = (Some(tag), None);
    access
}

/// What a document says that it refers to, if it refers to something.
pub(super) fn subject(bytes: &[u8]) -> Option<Digest> {
    let referrer: Referrer = serde_json::from_slice(bytes).ok()?;
    Some(referrer.subject?.digest().clone())
}

/// Adds a referrer to the list of a registry that keeps none by itself.
pub(super) fn add(
    client: &Client,
    access: &Access,
    subject: &Digest,
    media_type: &str,
    bytes: &[u8],
) -> Result<(), Error> {
    match from_api(client, access, subject) {
        Err(Error::NotFound { .. }) => {}
        Err(Error::Refused { answer, .. }) if (400..500).contains(&answer.status) => {}
        Err(error) => return Err(error),
        // It has the API, and did not say so.
        Ok(_) => return Ok(()),
    }
    let mut listed = from_tag(client, access, subject)?;
    let own = digest::sha256(bytes);
    if listed.iter().any(|known| *known.digest() == own) {
        return Ok(());
    }
    listed.truncate(LIMIT - 1);
    let mut manifests: Vec<Value> = listed.iter().map(|known| json!(known)).collect();
    manifests.push(entry(&own, media_type, bytes));
    let index = json!({"schemaVersion": 2, "mediaType": INDEX, "manifests": manifests}).to_string();
    client.put_document(&tagged(access, subject), INDEX.as_ref(), index.as_bytes()).map(drop)
}

/// The entry of a referrer.
fn entry(digest: &Digest, media_type: &str, bytes: &[u8]) -> Value {
    let mut entry = json!({"mediaType": media_type, "digest": digest, "size": bytes.len()});
    if let Ok(referrer) = serde_json::from_slice::<Referrer>(bytes) {
        let config = referrer.config.map(|config| config.media_type().to_string());
        if let Some(kind) = referrer.artifact_type.or(config) {
            entry["artifactType"] = kind.into();
        }
        if let Some(annotations) = referrer.annotations {
            entry["annotations"] = annotations;
        }
    }
    entry
}
