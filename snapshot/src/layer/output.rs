//! Where the bundles of a layer go: compressed on all cores, or as they are, into a blob.

use std::io::{Read, Write};
use std::num::NonZero;
use std::sync::Arc;

use oci_spec::image::{Descriptor, MediaType};

use super::bundle::Bundle;
use super::pipeline::{self, Pipeline};
use super::segment::TARGET;
use super::{Layer, LayerOptions, SegmentCache};
use crate::Error;
use crate::blob::{BlobStore, BlobWriter};
use crate::entry::Content;

/// A blob in the making.
pub(super) struct Output {
    media_type: MediaType,
    segments: Option<Arc<SegmentCache>>,
    kind: Kind,
}

enum Kind {
    Compressed(Pipeline),
    Plain(BlobWriter),
}

impl Output {
    pub(super) fn start(blobs: &BlobStore, options: LayerOptions) -> Result<Self, Error> {
        let codec = options.compression.codec()?;
        let blob = blobs.writer()?;
        let kind = match codec {
            Some(codec) => {
                let cores = || std::thread::available_parallelism().map_or(1, NonZero::get);
                let threads = options.threads.unwrap_or_else(cores);
                Kind::Compressed(Pipeline::start(blob, codec, options.segments.as_ref(), threads)?)
            }
            None => Kind::Plain(blob),
        };
        Ok(Self { media_type: options.compression.media_type(), segments: options.segments, kind })
    }

    /// Takes the next bundle.
    pub(super) fn take(&mut self, bundle: Bundle) -> Result<(), Error> {
        match &mut self.kind {
            Kind::Compressed(pipeline) => pipeline.submit(bundle),
            Kind::Plain(blob) => {
                let bytes = bundle.read()?;
                blob.write_all(&bytes)?;
                pipeline::spare(bytes);
                Ok(())
            }
        }
    }

    /// Ends the layer: its blob is in the store when this returns.
    pub(super) fn finish(self) -> Result<Layer, Error> {
        match self.kind {
            Kind::Compressed(pipeline) => {
                let (diff_id, blob, records) = pipeline.finish()?;
                let (digest, size) = blob.commit(None)?;
                if let Some(segments) = self.segments {
                    segments.put(&digest, &records)?;
                }
                Ok(Layer { diff_id, blob: Descriptor::new(self.media_type, size, digest) })
            }
            Kind::Plain(blob) => {
                let (digest, size) = blob.commit(None)?;
                Ok(Layer { diff_id: digest.clone(), blob: Descriptor::new(self.media_type, size, digest) })
            }
        }
    }
}

/// Makes a blob of an uncompressed stream, byte for byte and whoever wrote it: the layer's `diff_id` stays what it was.
pub fn recompress(tar: &mut dyn Read, blobs: &BlobStore, options: LayerOptions) -> Result<Layer, Error> {
    let mut output = Output::start(blobs, options)?;
    let mut piece = Vec::new();
    while tar.take(TARGET).read_to_end(&mut piece).map_err(Error::Incoming)? > 0 {
        let mut bundle = Bundle::new();
        bundle.content(piece.len(), |buffer| {
            buffer.copy_from_slice(&piece);
            Ok(Content(*blake3::hash(&piece).as_bytes()))
        })?;
        output.take(bundle)?;
        piece.clear();
    }
    output.finish()
}
