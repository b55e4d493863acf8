//! Uploads that begin with the build, one in each repository that the image is pushed to: what a registry does not permit
//! it refuses before the first step runs, and not after the last. What goes through them is the image's config, as soon as
//! there is one. It need not be asked for first: most builds make a new one.

use std::io::{Cursor, Read};
use std::sync::mpsc::{Receiver, Sender, TryRecvError, channel};
use std::sync::{Arc, Mutex};

use oci_spec::image::{Descriptor, Digest};
use registry::{Client, Error, Pushed, Reference};

use crate::image::Image;
use crate::parallel::lock;

use super::ExportError;

/// The uploads of one build, one in each repository.
#[derive(Debug)]
pub struct Uploads(Mutex<Vec<Upload>>);

/// The threads behind it are waited for by nobody but the push: not by a build that fails, whatever the registry does.
#[derive(Debug)]
struct Upload {
    tag: Reference,
    /// Whether it could be begun.
    begun: Receiver<Result<(), Error>>,
    /// Takes the config.
    config: Sender<Config>,
    /// The config that was sent.
    sent: Option<Digest>,
    /// What became of it.
    done: Receiver<Result<Pushed, Error>>,
}

#[derive(Debug)]
struct Config {
    descriptor: Descriptor,
    bytes: Arc<[u8]>,
}

impl Uploads {
    /// Begins one in the repository of each tag.
    pub fn begin(client: &Client, tags: &[Reference]) -> Self {
        let mut all: Vec<Upload> = Vec::new();
        for tag in tags {
            if !all.iter().any(|known| is_same_repository(&known.tag, tag)) {
                all.push(Upload::begin(client.clone(), tag.clone()));
            }
        }
        Self(Mutex::new(all))
    }

    /// Fails if a registry has answered that it does not let us push. Another failure may pass: it is met again when the
    /// image is pushed.
    pub fn check(&self) -> Result<(), ExportError> {
        let mut all = lock(&self.0);
        for upload in std::mem::take(&mut *all) {
            match upload.begun.try_recv() {
                Ok(Err(error)) if is_refusal(&error) => {
                    return Err(ExportError::Push { reference: upload.tag.whole(), source: Box::new(error) });
                }
                Ok(Err(_)) | Err(TryRecvError::Disconnected) => {}
                Ok(Ok(())) | Err(TryRecvError::Empty) => all.push(upload),
            }
        }
        Ok(())
    }

    /// Sends the image's config to all repositories; what becomes of it, the push asks.
    pub fn send(&self, image: &Image) {
        let bytes: Arc<[u8]> = image.config.as_slice().into();
        for upload in lock(&self.0).iter_mut().filter(|upload| upload.sent.is_none()) {
            let config = Config { descriptor: image.config_descriptor.clone(), bytes: Arc::clone(&bytes) };
            if upload.config.send(config).is_ok() {
                upload.sent = Some(image.config_descriptor.digest().clone());
            }
        }
    }

    /// Waits for the config to be in the repository of `tag`. None if it was not sent there, or nobody knows.
    pub(super) fn config(&self, tag: &Reference, config: &Digest) -> Option<Result<Pushed, Error>> {
        let upload = {
            let mut all = lock(&self.0);
            let position = all.iter().position(|known| is_same_repository(&known.tag, tag))?;
            all.swap_remove(position)
        };
        if upload.sent.as_ref() == Some(config) { upload.done.recv().ok() } else { None }
    }
}

impl Upload {
    fn begin(client: Client, tag: Reference) -> Self {
        let (answer, begun) = channel();
        let (config, configs) = channel::<Config>();
        let (result, done) = channel();
        let own = tag.clone();
        std::thread::spawn(move || {
            let mut upload = match client.begin_upload(&own) {
                Ok(upload) => upload,
                // A build that has ended does not want to know.
                Err(error) => return drop(answer.send(Err(error))),
            };
            answer.send(Ok(())).ok();
            // A build that has failed has no config.
            let Ok(Config { descriptor, bytes }) = configs.recv() else { return };
            upload.send(&bytes);
            let open = || Ok(Box::new(Cursor::new(Arc::clone(&bytes))) as Box<dyn Read + Send>);
            result.send(upload.finish(&descriptor, &open)).ok();
        });
        Self { tag, begun, config, sent: None, done }
    }
}

fn is_same_repository(one: &Reference, other: &Reference) -> bool {
    one.registry() == other.registry() && one.repository() == other.repository()
}

/// Whether a registry will say the same however often it is asked.
fn is_refusal(error: &Error) -> bool {
    matches!(error, Error::NotFound { .. } | Error::Unauthorized { .. } | Error::Denied { .. })
}

#[cfg(test)]
mod tests {
    use registry::Options;
    use registry::testing::Registry;

    use crate::graph::config::ImageConfig;
    use crate::image::assemble;

    use super::*;

    fn config() -> ImageConfig {
        let text = r#"{"architecture":"amd64","os":"linux","rootfs":{"type":"layers","diff_ids":[]}}"#;
        serde_json::from_str(text).unwrap()
    }

    fn begin(tags: &[&Reference]) -> Uploads {
        let tags: Vec<Reference> = tags.iter().map(|tag| (*tag).clone()).collect();
        Uploads::begin(&Client::new(Options::default()).unwrap(), &tags)
    }

    #[test]
    fn a_config_is_sent_once_to_each_repository() {
        let registry = Registry::start().unwrap();
        let (one, two) = (registry.reference("one:1"), registry.reference("two:1"));
        let uploads = begin(&[&one, &one, &two]);
        let image = assemble(config(), Vec::new(), &[], None);
        let other = assemble(ImageConfig { author: "other".into(), ..config() }, Vec::new(), &[], None);
        uploads.send(&image);
        uploads.send(&other);
        let digest = image.config_descriptor.digest();
        assert!(matches!(uploads.config(&one, digest), Some(Ok(Pushed::Uploaded))));
        assert!(uploads.config(&one, digest).is_none(), "that is known once");
        assert!(uploads.config(&two, other.config_descriptor.digest()).is_none(), "it was not the one that was sent");
        assert_eq!(registry.blob("one", digest), Some(image.config));
    }
}
