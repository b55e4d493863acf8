//! Where the bundles of a layer go: compressed on all cores, or as they are, into a blob.

use std::io::{Read, Write};
use std::num::NonZero;
use std::sync::Arc;

use oci_spec::image::{Descriptor, MediaType};

use super::bundle::Bundle;
use super::codec::Codec;
use super::pipeline::{self, Finished, Pipeline};
use super::segment::TARGET;
use super::spare::BUNDLES;
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
    /// No bundle has come yet.
    Begun {
        blob: BlobWriter,
        codec: Codec,
        threads: Option<usize>,
    },
    Compressed(Pipeline),
    Plain(BlobWriter),
    /// A pipeline could not be started.
    Failed,
}

impl Output {
    pub(super) fn start(blobs: &BlobStore, options: LayerOptions) -> Result<Self, Error> {
        let codec = options.compression.codec()?;
        let blob = blobs.writer()?;
        let kind = match codec {
            Some(codec) => Kind::Begun { blob, codec, threads: options.threads },
            None => Kind::Plain(blob),
        };
        Ok(Self { media_type: options.compression.media_type(), segments: options.segments, kind })
    }

    /// Takes a bundle that others will follow, and clears it for the next one.
    pub(super) fn take(&mut self, bundle: &mut Bundle) -> Result<(), Error> {
        self.start_pipeline()?;
        match &mut self.kind {
            Kind::Compressed(pipeline) => pipeline.submit(bundle)?,
            Kind::Plain(blob) => {
                let bytes = bundle.read()?;
                blob.write_all(&bytes)?;
                BUNDLES.give(bytes);
            }
            Kind::Begun { .. } | Kind::Failed => return Err(Error::LayerFailed),
        }
        bundle.clear();
        Ok(())
    }

    fn start_pipeline(&mut self) -> Result<(), Error> {
        match std::mem::replace(&mut self.kind, Kind::Failed) {
            Kind::Begun { blob, codec, threads } => {
                let cores = || std::thread::available_parallelism().map_or(1, NonZero::get);
                let threads = threads.unwrap_or_else(cores);
                self.kind = Kind::Compressed(Pipeline::start(blob, codec, self.segments.as_ref(), threads)?);
            }
            begun => self.kind = begun,
        }
        Ok(())
    }

    /// Takes the last bundle, which may be empty, and ends the layer: its blob is in the store when this returns.
    pub(super) fn finish(mut self, mut last: Bundle) -> Result<Layer, Error> {
        if !last.is_empty() && !matches!(self.kind, Kind::Begun { .. }) {
            self.take(&mut last)?;
        }
        let Finished { diff_id, blob, records } = match self.kind {
            Kind::Begun { blob, codec, .. } => pipeline::alone(blob, codec, self.segments.as_deref(), last)?,
            Kind::Compressed(pipeline) => pipeline.finish()?,
            Kind::Plain(blob) => {
                let (digest, size) = blob.commit(None)?;
                return Ok(Layer { diff_id: digest.clone(), blob: Descriptor::new(self.media_type, size, digest) });
            }
            Kind::Failed => return Err(Error::LayerFailed),
        };
        let (digest, size) = blob.commit(None)?;
        if let Some(segments) = self.segments {
            segments.put(&digest, &records)?;
        }
        Ok(Layer { diff_id, blob: Descriptor::new(self.media_type, size, digest) })
    }
}

/// Makes a blob of an uncompressed stream, byte for byte and whoever wrote it: the layer's `diff_id` stays what it was.
pub fn recompress(tar: &mut dyn Read, blobs: &BlobStore, options: LayerOptions) -> Result<Layer, Error> {
    let mut output = Output::start(blobs, options)?;
    let (mut piece, mut last) = (Vec::new(), Bundle::default());
    while tar.take(TARGET).read_to_end(&mut piece).map_err(Error::Incoming)? > 0 {
        if !last.is_empty() {
            output.take(&mut last)?;
        }
        last.content(piece.len(), |buffer| {
            buffer.copy_from_slice(&piece);
            Ok(Content(*blake3::hash(&piece).as_bytes()))
        })?;
        piece.clear();
    }
    output.finish(last)
}
