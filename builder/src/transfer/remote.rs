//! Into a registry: blobs mounted, streamed or pushed, then manifests by digest, the tag last.

use std::io::{self, Read, Write};

use oci_spec::image::Descriptor;
use registry::{Pushed, Reference};

use super::{Machine, Parts, Source, TransferError, by_digest, each, short};

/// Larger blobs are streamed from one registry to another; smaller ones pass through memory.
const STREAM_FROM: u64 = 8 << 20;

/// Writes everything; `done` are the places that have it already.
pub(super) fn write(
    machine: &Machine<'_>,
    source: &Source<'_>,
    parts: &Parts,
    to: &Reference,
    done: &[&Reference],
) -> Result<(), TransferError> {
    let is_same = |other: &&&Reference| other.registry() == to.registry();
    if !done.iter().any(|other| is_same(&other) && other.repository() == to.repository()) {
        let mount = done.iter().find(is_same).copied();
        each(&parts.blobs, |blob| -> Result<(), TransferError> {
            let pushed = push(machine, source, blob, to, mount)?;
            machine.step.note(format_args!("{} {}", short(blob), pushed));
            Ok(())
        })?;
    }
    let (root, children) = parts.documents.split_last().expect("there is a root");
    for (descriptor, bytes) in children {
        machine.client.push_manifest(&by_digest(to, descriptor.digest()), descriptor.media_type().as_ref(), bytes)?;
    }
    let (descriptor, bytes) = root;
    machine.client.push_manifest(to, descriptor.media_type().as_ref(), bytes)?;
    Ok(())
}

fn push(
    machine: &Machine<'_>,
    source: &Source<'_>,
    blob: &Descriptor,
    to: &Reference,
    mount: Option<&Reference>,
) -> Result<Pushed, TransferError> {
    let origin = source.origin(blob);
    let mount = mount.or(origin.as_ref()).filter(|from| from.registry() == to.registry());
    let mount = mount.map(Reference::repository);
    let client = machine.client;
    let Some(from) = source.remote(blob) else {
        let open = || source.open_blob(blob);
        return Ok(client.push_blob(to, blob, mount, &open)?);
    };
    if blob.size() <= STREAM_FROM {
        let open = || {
            let mut bytes = Vec::new();
            client.pull_blob(&from, blob, &mut bytes).map_err(io::Error::other)?;
            Ok(Box::new(io::Cursor::new(bytes)) as Box<dyn Read + Send>)
        };
        return Ok(client.push_blob(to, blob, mount, &open)?);
    }
    if let Some(pushed) = client.offer_blob(to, blob, mount)? {
        return Ok(pushed);
    }
    // Only an upload that is lost needs the blob a second time, and then as a file.
    let open = || {
        let mut file = tempfile::tempfile()?;
        client.pull_blob(&from, blob, &mut file).map_err(io::Error::other)?;
        io::Seek::rewind(&mut file)?;
        Ok(Box::new(file) as Box<dyn Read + Send>)
    };
    let mut upload = client.begin_upload(to)?;
    match client.pull_blob(&from, blob, &mut upload as &mut dyn Write) {
        Ok(()) => Ok(upload.finish(blob, &open)?),
        Err(error) => {
            upload.cancel();
            Err(error.into())
        }
    }
}
