//! Changes → the same tar bytes as a layer's, uncompressed, into any writer (`--output type=tar`).

use std::io::{self, BufRead, Read, Write};
use std::path::Path;

use super::header;
use crate::entry::{Entry, Kind, Metadata};
use crate::index::{IndexWriter, Node};
use crate::{ChangeSink, Error};

/// A [`ChangeSink`] that writes an uncompressed tar stream.
#[derive(Debug)]
pub struct TarWriter<W> {
    out: W,
    index: IndexWriter,
    headers: Vec<u8>,
}

impl<W: Write> TarWriter<W> {
    /// Starts an archive in `out`.
    pub fn new(out: W) -> Self {
        Self { out, index: IndexWriter::default(), headers: Vec::new() }
    }

    /// Ends the archive and returns the writer, unflushed.
    pub fn finish(mut self) -> Result<W, Error> {
        self.out.write_all(&header::TRAILER)?;
        Ok(self.out)
    }

    fn write_headers(&mut self) -> Result<(), Error> {
        self.out.write_all(&self.headers)?;
        self.headers.clear();
        Ok(())
    }
}

/// Returns what the header of a hard link to `target` repeats: `target` must have been written before.
pub(super) fn link_metadata<'a>(index: &'a IndexWriter, path: &Path, target: &Path) -> Result<&'a Metadata, Error> {
    let first = match index.node(target) {
        Some(Node::HardLink { target }) => index.node(target),
        other => other,
    };
    match first {
        Some(Node::Entry { entry, .. }) if entry.kind != Kind::Directory => Ok(&entry.metadata),
        _ => Err(Error::LinkTarget { path: path.to_owned(), target: target.to_owned() }),
    }
}

impl<W: Write> ChangeSink for TarWriter<W> {
    type Error = Error;

    fn entry(&mut self, path: &Path, entry: &Entry, content: &mut dyn BufRead) -> Result<(), Error> {
        header::entry(&mut self.headers, path, entry)?;
        self.index.put(path, entry, None)?;
        self.write_headers()?;
        if let Kind::File { size } = entry.kind {
            if io::copy(&mut content.take(size), &mut self.out)? != size {
                return Err(Error::ShortContent { path: path.to_owned(), size });
            }
            self.out.write_all(&header::TRAILER[..header::padding(size)])?;
        }
        Ok(())
    }

    fn hard_link(&mut self, path: &Path, target: &Path) -> Result<(), Error> {
        let metadata = link_metadata(&self.index, path, target)?;
        header::hard_link(&mut self.headers, path, target, metadata)?;
        self.index.hard_link(path, target)?;
        self.write_headers()
    }

    fn whiteout(&mut self, path: &Path) -> Result<(), Error> {
        header::whiteout(&mut self.headers, path)?;
        self.write_headers()
    }

    fn opaque(&mut self, directory: &Path) -> Result<(), Error> {
        header::opaque(&mut self.headers, directory)?;
        self.write_headers()
    }
}
