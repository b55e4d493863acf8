//! Writing the archive. Sizes are known beforehand, so nothing is kept back.

use std::io::{self, Read, Write};

use flate2::Compression;
use flate2::write::GzEncoder;
use oci_spec::image::Descriptor;
use registry::Reference;
use snapshot::Store;
use snapshot::digest::HashingReader;

use super::{ArchiveError, Extra};
use crate::app::record::{Build, ServiceImage, go_json};
use crate::app::transfer;
use crate::export::archive::{blob_path, member};

/// Bytes of a tar block.
const BLOCK: u64 = 512;
/// Layers are compressed already: the envelope is not worth the time.
const LEVEL: u32 = 1;

/// Where the images of a build come from.
#[derive(Debug)]
pub struct Exporter<'a> {
    /// The store.
    pub store: &'a Store,
    /// The registries, for blobs that the store does not have.
    pub client: &'a registry::Client,
}

/// Writes a build with its images and its log.
pub fn export(
    exporter: &Exporter<'_>,
    build: &Build,
    images: &[ServiceImage],
    log: &[u8],
    out: &mut dyn Write,
) -> Result<(), ArchiveError> {
    if images.is_empty() {
        return Err(ArchiveError::NoImages);
    }
    let failed = |source| ArchiveError::Stream { action: "write", source };
    let mut archive = tar::Builder::new(GzEncoder::new(out, Compression::new(LEVEL)));
    append(&mut archive, "build.json", go_json(build).as_bytes()).map_err(failed)?;
    let mut sorted: Vec<&ServiceImage> = images.iter().collect();
    sorted.sort_by(|a, b| a.service.cmp(&b.service));
    for image in sorted {
        let parts = exporter.parts(image)?;
        let size = parts.iter().map(Part::size).sum::<u64>() + 2 * BLOCK;
        let mut content = Parts { store: exporter.store, waiting: parts.into_iter(), current: None, ended: false };
        let mut header = header(size);
        let name = format!("{}.{}.tar", image.service, build.id);
        archive.append_data(&mut header, name, &mut content).map_err(failed)?;
    }
    let (git_sha, entrypoint) = (build.git_sha.clone(), build.entrypoint.clone());
    let extra = Extra { git_sha, entrypoint, images: images.to_vec() };
    append(&mut archive, "rbuild.json", go_json(&extra).as_bytes()).map_err(failed)?;
    append(&mut archive, "log.txt", log).map_err(failed)?;
    let gzip = archive.into_inner().map_err(failed)?;
    gzip.finish().and_then(Write::flush).map_err(failed)
}

fn append(archive: &mut tar::Builder<impl Write>, name: &str, bytes: &[u8]) -> io::Result<()> {
    archive.append_data(&mut header(bytes.len() as u64), name, bytes)
}

fn header(size: u64) -> tar::Header {
    let mut header = tar::Header::new_ustar();
    header.set_mode(0o600);
    header.set_size(size);
    header
}

impl Exporter<'_> {
    /// The files of an image's OCI archive, in order. What the store does not have is fetched.
    fn parts(&self, image: &ServiceImage) -> Result<Vec<Part>, ArchiveError> {
        let from = registry::reference::parse(&image.reference).ok().filter(|_| image.pushed);
        let directories = ["blobs/", "blobs/sha256/"].map(|name| Part::Bytes(name.to_owned(), Vec::new()));
        let mut parts: Vec<Part> = directories.into();
        for blob in &image.blobs {
            self.ensure(from.as_ref(), blob)
                .map_err(|source| ArchiveError::Image { service: image.service.clone(), source: Box::new(source) })?;
            parts.push(Part::Blob(blob_path(blob.digest()), Box::new(blob.clone())));
        }
        let root = serde_json::json!({
            "mediaType": image.descriptor.media_type(),
            "digest": image.descriptor.digest(),
            "size": image.descriptor.size(),
        });
        let index = serde_json::json!({ "schemaVersion": 2, "manifests": [root] });
        parts.push(Part::Bytes("index.json".into(), index.to_string().into_bytes()));
        parts.push(Part::Bytes("oci-layout".into(), br#"{"imageLayoutVersion": "1.0.0"}"#.to_vec()));
        Ok(parts)
    }

    fn ensure(&self, from: Option<&Reference>, blob: &Descriptor) -> Result<(), transfer::TransferError> {
        if self.store.blobs().has(blob.digest()) == Some(blob.size()) {
            return Ok(());
        }
        match from {
            Some(from) => transfer::fetch_any(self.client, self.store, from, blob),
            None => Err(snapshot::Error::MissingBlob { digest: blob.digest().clone() }.into()),
        }
    }
}

/// One member of an image's archive.
enum Part {
    /// A document, or a directory when the name ends with `/`.
    Bytes(String, Vec<u8>),
    /// A blob of the store.
    Blob(String, Box<Descriptor>),
}

impl Part {
    fn content_size(&self) -> u64 {
        match self {
            Self::Bytes(_, bytes) => bytes.len() as u64,
            Self::Blob(_, blob) => blob.size(),
        }
    }

    /// Its bytes in the archive, header and padding included.
    fn size(&self) -> u64 {
        BLOCK + self.content_size().next_multiple_of(BLOCK)
    }

    fn header(&self) -> io::Result<Vec<u8>> {
        let (Self::Bytes(name, _) | Self::Blob(name, _)) = self;
        Ok(member(name, self.content_size())?.as_bytes().to_vec())
    }
}

/// An image's archive as a stream; every blob is held against its digest on the way.
struct Parts<'a> {
    store: &'a Store,
    waiting: std::vec::IntoIter<Part>,
    current: Option<Current>,
    ended: bool,
}

struct Current {
    head: io::Cursor<Vec<u8>>,
    content: Content,
    padding: io::Cursor<Vec<u8>>,
}

enum Content {
    Bytes(io::Cursor<Vec<u8>>),
    Blob(Box<HashingReader<fs_err::File>>, Box<Descriptor>),
    Ended,
}

impl Parts<'_> {
    fn open(&self, part: Part) -> io::Result<Current> {
        let head = io::Cursor::new(part.header()?);
        let size = part.content_size();
        let padding = usize::try_from(size.next_multiple_of(BLOCK) - size).expect("less than a block");
        let padding = io::Cursor::new(vec![0; padding]);
        let content = match part {
            Part::Bytes(_, bytes) => Content::Bytes(io::Cursor::new(bytes)),
            Part::Blob(_, blob) => {
                let file = self.store.blobs().open(blob.digest()).map_err(io::Error::other)?;
                Content::Blob(Box::new(HashingReader::new(file)), blob)
            }
        };
        Ok(Current { head, content, padding })
    }
}

impl Current {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.head.read(buffer)?;
        if count > 0 {
            return Ok(count);
        }
        let count = match &mut self.content {
            Content::Bytes(bytes) => bytes.read(buffer)?,
            Content::Blob(file, _) => file.read(buffer)?,
            Content::Ended => 0,
        };
        if count > 0 {
            return Ok(count);
        }
        if let Content::Blob(file, blob) = std::mem::replace(&mut self.content, Content::Ended)
            && file.finish() != *blob.digest()
        {
            return Err(io::Error::other(format!("the blob `{}` of the store is damaged", blob.digest())));
        }
        self.padding.read(buffer)
    }
}

impl Read for Parts<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        loop {
            if let Some(current) = &mut self.current {
                let count = current.read(buffer)?;
                if count > 0 || buffer.is_empty() {
                    return Ok(count);
                }
            }
            if self.ended {
                return Ok(0);
            }
            self.current = Some(if let Some(part) = self.waiting.next() {
                self.open(part)?
            } else {
                self.ended = true;
                // Two empty blocks end an archive.
                let block = usize::try_from(BLOCK).expect("512");
                let end = io::Cursor::new(vec![0; 2 * block]);
                Current { head: end, content: Content::Ended, padding: io::Cursor::new(Vec::new()) }
            });
        }
    }
}
