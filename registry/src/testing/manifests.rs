//! Manifests and tags.

use oci_spec::image::Digest;
use serde_json::{Value, json};

use super::http::{Head, Reply};
use super::{Repository, Shared};
use crate::Action;
use crate::digest::{check, sha256};
use crate::transport::lock;

/// GET, HEAD and PUT of a manifest.
pub(super) fn manifest(shared: &Shared, head: &Head, repository: &str, name: &str, body: Vec<u8>) -> Reply {
    let mut store = lock(&shared.store);
    match head.method.as_str() {
        "GET" | "HEAD" => {
            let found = store.find(repository).and_then(|found| {
                let digest = found.tags.get(name).map_or(name, String::as_str);
                Some((digest, found.manifests.get(digest)?))
            });
            let Some((digest, (media_type, bytes))) = found else { return Reply::error(404, "MANIFEST_UNKNOWN") };
            let reply = Reply::new(200).with("content-type", media_type).with("docker-content-digest", digest);
            reply.body(bytes.clone())
        }
        "PUT" => {
            let subject = serde_json::from_slice::<Value>(&body).unwrap_or_default()["subject"]["digest"].clone();
            let has_referrers = store.has_referrers;
            let reply = put(store.repository(repository), repository, head, name, body);
            match subject.as_str().filter(|_| has_referrers) {
                Some(subject) => reply.with("oci-subject", subject),
                None => reply,
            }
        }
        _ => Reply::error(405, "UNSUPPORTED"),
    }
}

fn put(repository: &mut Repository, repository_name: &str, head: &Head, name: &str, body: Vec<u8>) -> Reply {
    let Ok(document) = serde_json::from_slice::<Value>(&body) else { return Reply::error(400, "MANIFEST_INVALID") };
    let listed = |key: &str| document[key].as_array().cloned().unwrap_or_default();
    let digest_of = |descriptor: &Value| descriptor["digest"].as_str().unwrap_or_default().to_owned();
    let mut blobs: Vec<String> = listed("layers").iter().map(digest_of).collect();
    if document["config"].is_object() {
        blobs.push(digest_of(&document["config"]));
    }
    let has_all = blobs.iter().all(|digest| repository.blobs.contains_key(digest))
        && listed("manifests").iter().all(|entry| repository.manifests.contains_key(&digest_of(entry)));
    if !has_all {
        return Reply::error(404, "MANIFEST_BLOB_UNKNOWN");
    }
    let digest = match name.parse::<Digest>() {
        Ok(digest) if check(&body, &digest, &Action::ListTags(String::new())).is_err() => {
            return Reply::error(400, "DIGEST_INVALID");
        }
        Ok(digest) => digest,
        Err(_) => {
            let digest = sha256(&body);
            repository.tags.insert(name.to_owned(), digest.to_string());
            digest
        }
    };
    let media_type = head.header("content-type").unwrap_or_default().to_owned();
    repository.manifests.insert(digest.to_string(), (media_type, body));
    Reply::new(201)
        .with("location", format!("/v2/{repository_name}/manifests/{digest}"))
        .with("docker-content-digest", digest.as_ref())
}

/// GET of what refers to a digest.
pub(super) fn referrers(shared: &Shared, repository: &str, digest: &str) -> Reply {
    let store = lock(&shared.store);
    let Some(found) = store.find(repository).filter(|_| store.has_referrers) else {
        return Reply::error(404, "NOT_FOUND");
    };
    let mut manifests = Vec::new();
    for (own, (media_type, bytes)) in &found.manifests {
        let document = serde_json::from_slice::<Value>(bytes).unwrap_or_default();
        if document["subject"]["digest"] == digest {
            let kind = &document["artifactType"];
            let entry = json!({"mediaType": media_type, "digest": own, "size": bytes.len(), "artifactType": kind});
            manifests.push(entry);
        }
    }
    let index =
        json!({"schemaVersion": 2, "mediaType": "application/vnd.oci.image.index.v1+json", "manifests": manifests});
    Reply::new(200).with("content-type", "application/vnd.oci.image.index.v1+json").body(index.to_string().into_bytes())
}

/// GET of the tags, in pages.
pub(super) fn tags(shared: &Shared, head: &Head, repository: &str) -> Reply {
    let store = lock(&shared.store);
    let Some(found) = store.find(repository) else { return Reply::error(404, "NAME_UNKNOWN") };
    let last = head.parameter("last").unwrap_or_default();
    let count = head.parameter("n").and_then(|n| n.parse().ok()).unwrap_or(usize::MAX);
    let mut tags: Vec<&String> = found.tags.keys().filter(|tag| **tag > last).collect();
    let has_more = tags.len() > count;
    tags.truncate(count);
    let mut reply = Reply::new(200).with("content-type", "application/json");
    if let Some(last) = tags.last().filter(|_| has_more) {
        reply = reply.with("link", format!("</v2/{repository}/tags/list?last={last}&n={count}>; rel=\"next\""));
    }
    let body = serde_json::json!({"name": repository, "tags": tags});
    reply.body(body.to_string().into_bytes())
}
