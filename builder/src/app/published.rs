//! Records of builds in a registry, beside the images: whoever reads these there lists the builds too, on any machine.
//!
//! `<repository>:<build>` is an artifact (OCI image spec, manifest.md, "Guidelines for Artifact Usage") whose layers are
//! the files that the record has here, by their names. Like these it has names of secrets and no values; it has no
//! release, for that holds the environment of the app.

use std::collections::HashMap;
use std::io::{Cursor, Read};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};

use oci_spec::image::{Descriptor, MediaType};
use registry::{Client, Reference};
use serde::Deserialize;
use serde_json::json;
use snapshot::digest::sha256;

use super::id::is_id;
use super::record::{Build, ServiceImage, Status, go_json};
use super::records::{RecordError, Records};
use super::steps::StepRecord;

/// What the artifact is.
const ARTIFACT_TYPE: &str = "application/vnd.rbuild.build.v1+json";
/// A config that says nothing (OCI image spec, manifest.md).
const EMPTY: &str = "application/vnd.oci.empty.v1+json";
/// The annotation that names a file.
const TITLE: &str = "org.opencontainers.image.title";
/// Largest file of a record, in bytes: a log of a million lines.
const FILE_LIMIT: u64 = 128 << 20;
/// Records that are read at a time.
const CONCURRENT_RECORDS: usize = 8;

/// The record of a build that has ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Published {
    /// `build.json`.
    pub build: Build,
    /// `images.json`.
    pub images: Vec<ServiceImage>,
    /// `steps.json`.
    pub steps: Vec<StepRecord>,
    /// `log`.
    pub log: Vec<u8>,
}

/// Why a record cannot be published or read.
#[derive(Debug, thiserror::Error)]
pub enum PublishError {
    /// A name that is no image's.
    #[error("the repository `{0}` is no name of images")]
    Name(String, #[source] Box<registry::Error>),
    /// The registry.
    #[error("cannot {action} the record `{reference}`")]
    Registry {
        /// `publish` or `read`.
        action: &'static str,
        /// Its name.
        reference: String,
        /// Why.
        source: Box<registry::Error>,
    },
    /// Not what rbuild publishes.
    #[error("the record `{reference}` is malformed: {problem}")]
    Malformed {
        /// Its name.
        reference: String,
        /// What is wrong.
        problem: String,
    },
    /// The records here.
    #[error(transparent)]
    Record(#[from] RecordError),
}

/// The part of a manifest that is read.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Manifest {
    #[serde(default)]
    artifact_type: String,
    layers: Vec<Descriptor>,
}

/// Puts a record beside the images of its build.
pub fn publish(client: &Client, repository: &str, record: &Published) -> Result<(), PublishError> {
    let to = name(repository, &record.build.id)?;
    let failed = |source| PublishError::Registry { action: "publish", reference: to.whole(), source: Box::new(source) };
    let send = |media_type: &str, bytes: Vec<u8>| {
        let blob = Descriptor::new(MediaType::from(media_type), bytes.len() as u64, sha256(&bytes));
        let open = || Ok(Box::new(Cursor::new(bytes.clone())) as Box<dyn Read + Send>);
        client.push_blob(&to, &blob, None, &open).map_err(failed)?;
        Ok::<Descriptor, PublishError>(blob)
    };
    let mut layers = Vec::new();
    for (title, media_type, bytes) in [
        ("build.json", "application/json", go_json(&record.build).into_bytes()),
        ("images.json", "application/json", go_json(&record.images).into_bytes()),
        ("steps.json", "application/json", go_json(&record.steps).into_bytes()),
        // Registries need not take a blob without bytes.
        ("log", "text/plain", [&record.log[..], b"\n"].concat()),
    ] {
        let mut layer = send(media_type, bytes)?;
        layer.set_annotations(Some(HashMap::from([(TITLE.to_owned(), title.to_owned())])));
        layers.push(layer);
    }
    let manifest = json!({
        "schemaVersion": 2,
        "mediaType": MediaType::ImageManifest,
        "artifactType": ARTIFACT_TYPE,
        "config": send(EMPTY, b"{}".to_vec())?,
        "layers": layers,
    });
    let media_type = MediaType::ImageManifest;
    client.push_manifest(&to, media_type.as_ref(), manifest.to_string().as_bytes()).map(drop).map_err(failed)
}

/// Reads the record of a build; none when the registry has none.
pub fn fetch(client: &Client, repository: &str, id: &str) -> Result<Option<Published>, PublishError> {
    let from = name(repository, id)?;
    let failed = |source| PublishError::Registry { action: "read", reference: from.whole(), source: Box::new(source) };
    let malformed = |problem: String| PublishError::Malformed { reference: from.whole(), problem };
    let manifest = match client.manifest(&from) {
        Err(registry::Error::NotFound { .. }) => return Ok(None),
        other => other.map_err(failed)?,
    };
    // An image that somebody gave such a tag is no record.
    let Ok(manifest) = serde_json::from_slice::<Manifest>(&manifest.bytes) else { return Ok(None) };
    if manifest.artifact_type != ARTIFACT_TYPE {
        return Ok(None);
    }
    let file = |title: &str| {
        let titled = |layer: &&Descriptor| {
            layer.annotations().as_ref().and_then(|all| all.get(TITLE)).is_some_and(|known| known == title)
        };
        let layer = manifest.layers.iter().find(titled).filter(|layer| layer.size() <= FILE_LIMIT);
        let layer = layer.ok_or_else(|| malformed(format!("it has no `{title}` of at most {FILE_LIMIT} bytes")))?;
        let mut bytes = Vec::new();
        client.pull_blob(&from, layer, &mut bytes).map_err(failed)?;
        Ok::<Vec<u8>, PublishError>(bytes)
    };
    let unreadable = |error: serde_json::Error| malformed(error.to_string());
    let build: Build = serde_json::from_slice(&file("build.json")?).map_err(unreadable)?;
    if build.id != id || !matches!(build.status, Status::Complete | Status::Failed) {
        return Err(malformed(format!("it is of the build `{}`, which is {}", build.id, build.status.as_str())));
    }
    let mut images: Vec<ServiceImage> = serde_json::from_slice(&file("images.json")?).map_err(unreadable)?;
    // Whatever it says: here is nothing of them.
    for image in &mut images {
        image.pushed = true;
    }
    let steps = serde_json::from_slice(&file("steps.json")?).map_err(unreadable)?;
    let mut log = file("log")?;
    log.pop();
    Ok(Some(Published { build, images, steps, log }))
}

/// Keeps here what a repository has published and the records do not have: of all builds, or of one. What cannot be read
/// does not keep the others away; the first such failure is returned.
pub fn bring(client: &Client, repository: &str, records: &Records, wanted: Option<&str>) -> Result<(), PublishError> {
    let mut ids = match wanted {
        Some(id) => vec![id.to_owned()],
        None => tags(client, repository)?,
    };
    ids.retain(|id| is_id('B', id) && records.build(id).is_err());
    let (next, failure) = (AtomicUsize::new(0), Mutex::new(None));
    let one = |id: &str| match fetch(client, repository, id)? {
        Some(record) => Ok::<(), PublishError>(records.adopt(&record)?),
        None => Ok(()),
    };
    std::thread::scope(|scope| {
        for _ in 0..CONCURRENT_RECORDS.min(ids.len()) {
            scope.spawn(|| {
                while let Some(id) = ids.get(next.fetch_add(1, Ordering::Relaxed)) {
                    if let Err(error) = one(id) {
                        failure.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(error);
                    }
                }
            });
        }
    });
    failure.into_inner().unwrap_or_else(PoisonError::into_inner).map_or(Ok(()), Err)
}

/// The tags of a repository; none of one that is not there.
fn tags(client: &Client, repository: &str) -> Result<Vec<String>, PublishError> {
    // The name of a build is a tag; this one is nobody's.
    let any = name(repository, "B")?;
    match client.tags(&any) {
        Err(registry::Error::NotFound { .. }) => Ok(Vec::new()),
        Err(source) => {
            Err(PublishError::Registry { action: "list", reference: repository.to_owned(), source: Box::new(source) })
        }
        Ok(tags) => Ok(tags),
    }
}

fn name(repository: &str, id: &str) -> Result<Reference, PublishError> {
    registry::reference::parse(&format!("{repository}:{id}"))
        .map_err(|source| PublishError::Name(repository.to_owned(), Box::new(source)))
}

#[cfg(test)]
mod tests {
    use registry::testing::Registry;

    use super::*;

    fn record(id: &str) -> Published {
        let build = Build { id: id.into(), status: Status::Complete, description: "a <b>".into(), ..Build::default() };
        let steps = vec![StepRecord { name: "web RUN true".into(), milliseconds: 2, ..StepRecord::default() }];
        Published { build, images: Vec::new(), steps, log: b"line\nhalf a line".to_vec() }
    }

    #[test]
    fn what_is_published_is_read_elsewhere() {
        let server = Registry::start().unwrap();
        let client = Client::new(registry::Options::default()).unwrap();
        let repository = format!("{}/shop", server.host());
        let home = tempfile::tempdir().unwrap();
        let records = Records::open(home.path(), "myapp").unwrap();
        bring(&client, &repository, &records, None).unwrap();
        assert_eq!(records.builds().unwrap(), []);

        for id in ["BAAAAAAAAAA", "BBBBBBBBBBB"] {
            publish(&client, &repository, &record(id)).unwrap();
        }
        let found = fetch(&client, &repository, "BAAAAAAAAAA").unwrap();
        assert_eq!(found, Some(record("BAAAAAAAAAA")));
        assert_eq!(fetch(&client, &repository, "BNONE").unwrap(), None);
        bring(&client, &repository, &records, Some("BBBBBBBBBBB")).unwrap();
        assert_eq!(records.builds().unwrap().len(), 1);
        bring(&client, &repository, &records, None).unwrap();
        assert_eq!(records.builds().unwrap().len(), 2);
        assert_eq!(fs_err::read(records.log("BAAAAAAAAAA").unwrap()).unwrap(), b"line\nhalf a line");
    }

    #[test]
    fn what_is_no_record_keeps_nothing_else_away() {
        let server = Registry::start().unwrap();
        let client = Client::new(registry::Options::default()).unwrap();
        let repository = format!("{}/shop", server.host());
        let home = tempfile::tempdir().unwrap();
        let records = Records::open(home.path(), "myapp").unwrap();
        server.put_image("shop", "BIMAGE", b"{}", &[]);
        publish(&client, &repository, &record("BGOOD")).unwrap();
        let (media_type, bytes) = server.manifest("shop", "BGOOD").unwrap();
        // A record under another name, and one that says it has not ended.
        server.put_manifest("shop", "BOTHER", &media_type, &bytes);
        let mut running = record("BRUNNING");
        running.build.status = Status::Running;
        publish(&client, &repository, &running).unwrap();
        let error = bring(&client, &repository, &records, None).unwrap_err();
        assert!(matches!(error, PublishError::Malformed { .. }), "{error}");
        let ids: Vec<String> = records.builds().unwrap().into_iter().map(|build| build.id).collect();
        assert_eq!(ids, ["BGOOD"]);
    }
}
