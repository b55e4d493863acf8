//! Where the bundles of a layer go: compressed on all cores, or as they are, into a blob.

use std::io::{Read, Write};
use std::num::NonZero;
use std::sync::Arc;

use oci_spec::image::{Descriptor, MediaType};

use super::pipeline::{self, Assembled, Pipeline};
use super::segment::TARGET;
use super::{Layer, LayerOptions, SegmentCache};
use crate::Error;
use crate::blob::{BlobStore, BlobWriter};

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

    /// Takes a bundle and leaves an empty one.
    pub(super) fn take(&mut self, bundle: &mut Vec<u8>) -> Result<(), Error> {
        match &mut self.kind {
            Kind::Compressed(pipeline) => pipeline.submit(std::mem::replace(bundle, pipeline::fresh())),
            Kind::Plain(blob) => {
                blob.write_all(bundle)?;
                bundle.clear();
                Ok(())
            }
        }
    }

    /// Ends the layer: its blob is in the store when this returns.
    pub(super) fn finish(self) -> Result<Layer, Error> {
        match self.kind {
            Kind::Compressed(pipeline) => {
                let (diff_id, Assembled { blob, segments: records }) = pipeline.finish()?;
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
    let mut bundle = Vec::new();
    while tar.take(TARGET).read_to_end(&mut bundle).map_err(Error::Incoming)? > 0 {
        output.take(&mut bundle)?;
    }
    output.finish()
}
