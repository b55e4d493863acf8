//! Blobs: read with ranges; pushed by mount, in one request, or in chunks.

use oci_spec::image::Digest;

use super::http::{Head, Reply};
use super::{Shared, Store};
use crate::Action;
use crate::digest::check;
use crate::transport::lock;

/// GET and HEAD of a blob.
pub(super) fn blob(shared: &Shared, head: &Head, repository: &str, digest: &str) -> Reply {
    if head.method != "GET" && head.method != "HEAD" {
        return Reply::error(405, "UNSUPPORTED");
    }
    let store = lock(&shared.store);
    let Some(bytes) = store.find(repository).and_then(|found| found.blobs.get(digest)) else {
        return Reply::error(404, "BLOB_UNKNOWN");
    };
    let reply = |status| Reply::new(status).with("docker-content-digest", digest);
    let Some(first) =
        head.header("range").and_then(|range| range.strip_prefix("bytes=")?.strip_suffix('-')?.parse().ok())
    else {
        return reply(200).body(bytes.clone());
    };
    match bytes.get(first..) {
        Some(rest) if !rest.is_empty() => {
            let range = format!("bytes {first}-{}/{}", bytes.len() - 1, bytes.len());
            reply(206).with("content-range", range).body(rest.to_vec())
        }
        _ => Reply::error(416, "RANGE_INVALID"),
    }
}

/// All of the upload: POST begins, PATCH adds, PUT ends, GET tells, DELETE gives up.
pub(super) fn upload(shared: &Shared, head: &Head, repository: &str, id: &str, body: &[u8]) -> Reply {
    let mut store = lock(&shared.store);
    if head.method == "POST" && id.is_empty() {
        return begin(&mut store, head, repository);
    }
    let is_known = store.uploads.get(id).is_some_and(|(owner, _)| owner == repository);
    if !is_known {
        return Reply::error(404, "BLOB_UPLOAD_UNKNOWN");
    }
    match head.method.as_str() {
        "PATCH" => patch(&mut store, head, repository, id, body),
        "PUT" => finish(&mut store, head, repository, id, body),
        "DELETE" => {
            store.uploads.remove(id);
            Reply::new(204)
        }
        "GET" => progress(&mut store, 204, repository, id),
        _ => Reply::error(405, "UNSUPPORTED"),
    }
}

fn begin(store: &mut Store, head: &Head, repository: &str) -> Reply {
    if let (Some(digest), Some(from)) = (head.parameter("mount"), head.parameter("from"))
        && let Some(bytes) = store.find(&from).and_then(|found| found.blobs.get(&digest)).cloned()
    {
        store.repository(repository).blobs.insert(digest.clone(), bytes);
        return created(repository, &digest);
    }
    store.next_upload += 1;
    let id = format!("upload-{}", store.next_upload);
    store.uploads.insert(id.clone(), (repository.to_owned(), Vec::new()));
    progress(store, 202, repository, &id)
}

fn patch(store: &mut Store, head: &Head, repository: &str, id: &str, body: &[u8]) -> Reply {
    let least = store.least_chunk;
    let Some((_, bytes)) = store.uploads.get_mut(id) else { return Reply::error(404, "BLOB_UPLOAD_UNKNOWN") };
    if let Some(range) = head.header("content-range") {
        let first = range.split('-').next().and_then(|first| first.parse::<usize>().ok());
        if first != Some(bytes.len()) {
            return Reply::error(416, "BLOB_UPLOAD_INVALID");
        }
    }
    // Only the last chunk may be small, so a small one must have none before it that was small too.
    if least.is_some_and(|least| bytes.len() % least != 0) {
        return Reply::error(416, "SIZE_INVALID");
    }
    bytes.extend_from_slice(body);
    progress(store, 202, repository, id)
}

fn finish(store: &mut Store, head: &Head, repository: &str, id: &str, body: &[u8]) -> Reply {
    let Some((_, mut bytes)) = store.uploads.remove(id) else { return Reply::error(404, "BLOB_UPLOAD_UNKNOWN") };
    bytes.extend_from_slice(body);
    let Some(digest) = head.parameter("digest").and_then(|digest| digest.parse::<Digest>().ok()) else {
        return Reply::error(400, "DIGEST_INVALID");
    };
    if check(&bytes, &digest, &Action::ListTags(String::new())).is_err() {
        return Reply::error(400, "DIGEST_INVALID");
    }
    store.repository(repository).blobs.insert(digest.to_string(), bytes);
    created(repository, digest.as_ref())
}

/// Tells how far an upload is, and where it goes on. The address changes with every step, as some registries have it.
fn progress(store: &mut Store, status: u16, repository: &str, id: &str) -> Reply {
    let length = store.uploads.get(id).map_or(0, |(_, bytes)| bytes.len());
    let mut reply = Reply::new(status)
        .with("location", format!("/v2/{repository}/blobs/uploads/{id}?state={length}"))
        .with("range", format!("0-{}", length.saturating_sub(1)));
    if let Some(least) = store.least_chunk {
        reply = reply.with("oci-chunk-min-length", least.to_string());
    }
    reply
}

fn created(repository: &str, digest: &str) -> Reply {
    Reply::new(201).with("location", format!("/v2/{repository}/blobs/{digest}")).with("docker-content-digest", digest)
}
