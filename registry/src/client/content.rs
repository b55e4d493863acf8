//! What is pushed, verified while it is read: a store file that was changed on disk never becomes a blob.

use std::io::{self, Read};
use std::sync::{Arc, Mutex};

use oci_spec::image::Descriptor;

use crate::digest::Digester;
use crate::transport::lock;
use crate::{Action, Error};

/// Why content failed, for the one who sent it: the HTTP client shows only that its body ended.
pub(super) type Failure = Arc<Mutex<Option<Error>>>;

/// A reader of exactly the descriptor's content. The last bytes come only if size and digest are right.
pub(super) struct Content {
    inner: Box<dyn Read + Send>,
    action: Action,
    descriptor: Descriptor,
    digester: Option<Digester>,
    /// Bytes read.
    done: u64,
    failure: Failure,
}

impl Content {
    pub(super) fn new(
        inner: Box<dyn Read + Send>,
        action: &Action,
        descriptor: &Descriptor,
        failure: &Failure,
    ) -> Result<Self, Error> {
        let digester = Some(Digester::new(descriptor.digest().algorithm(), action)?);
        let (action, descriptor, failure) = (action.clone(), descriptor.clone(), Arc::clone(failure));
        Ok(Self { inner, action, descriptor, digester, done: 0, failure })
    }

    fn fail(&self, error: Error) -> io::Error {
        *lock(&self.failure) = Some(error);
        io::Error::new(io::ErrorKind::InvalidData, "the content is not what its descriptor says")
    }

    fn wrong_size(&self, actual: u64) -> io::Error {
        let expected = self.descriptor.size();
        self.fail(Error::WrongSize { action: Box::new(self.action.clone()), expected, actual })
    }

    /// Reads some bytes of the inner reader.
    fn inner(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        loop {
            match self.inner.read(buffer) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(source) => return Err(self.fail(Error::Read { action: Box::new(self.action.clone()), source })),
                Ok(count) => return Ok(count),
            }
        }
    }

    /// Checks that the content ends here, and its digest.
    fn end(&mut self) -> io::Result<()> {
        if self.inner(&mut [0])? > 0 {
            return Err(self.wrong_size(self.done + 1));
        }
        match self.digester.take().map(|digester| digester.check(self.descriptor.digest(), &self.action)) {
            Some(Err(error)) => Err(self.fail(error)),
            Some(Ok(())) | None => Ok(()),
        }
    }
}

impl Read for Content {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let left = self.descriptor.size() - self.done;
        if left == 0 || buffer.is_empty() {
            return Ok(0);
        }
        let room = usize::try_from(left).unwrap_or(usize::MAX).min(buffer.len());
        let count = self.inner(&mut buffer[..room])?;
        if count == 0 {
            return Err(self.wrong_size(self.done));
        }
        if let Some(digester) = &mut self.digester {
            digester.update(&buffer[..count]);
        }
        self.done += count as u64;
        if self.done == self.descriptor.size() {
            self.end()?;
        }
        Ok(count)
    }
}

#[cfg(test)]
mod tests {
    use oci_spec::image::MediaType;

    use super::*;
    use crate::digest::sha256;

    fn read(promised: &[u8], actual: &'static [u8]) -> (Vec<u8>, Option<Error>) {
        let descriptor = Descriptor::new(MediaType::ImageLayer, promised.len() as u64, sha256(promised));
        let failure = Failure::default();
        let action = Action::ListTags("x".into());
        let mut content = Content::new(Box::new(actual), &action, &descriptor, &failure).unwrap();
        let (mut bytes, mut one) = (Vec::new(), [0]);
        while content.read(&mut one).is_ok_and(|count| count > 0) {
            bytes.push(one[0]);
        }
        let error = lock(&failure).take();
        (bytes, error)
    }

    #[test]
    fn right_content_comes_whole() {
        assert!(matches!(read(b"abc", b"abc"), (bytes, None) if bytes == b"abc"));
        assert!(matches!(read(b"", b""), (bytes, None) if bytes.is_empty()));
    }

    #[test]
    fn wrong_content_never_comes_whole() {
        assert!(matches!(read(b"abc", b"abd"), (bytes, Some(Error::WrongDigest { .. })) if bytes == b"ab"));
        assert!(matches!(read(b"abc", b"ab"), (_, Some(Error::WrongSize { actual: 2, .. }))));
        assert!(matches!(read(b"abc", b"abcd"), (bytes, Some(Error::WrongSize { actual: 4, .. })) if bytes == b"ab"));
    }
}
