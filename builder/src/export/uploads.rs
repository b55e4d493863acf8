//! Uploads that begin with the build, one in each repository that the image is pushed to: what a registry does not permit
//! it refuses before the first step runs, and not after the last. What goes through them is the image's config, which
//! need not be asked for first then: most builds make a new one.

use std::sync::Mutex;
use std::sync::mpsc::{Receiver, TryRecvError, channel};

use registry::{Client, Error, Reference, Upload};

use crate::parallel::lock;

use super::ExportError;

/// The uploads of one build.
#[derive(Debug)]
pub struct Uploads {
    all: Mutex<Vec<One>>,
}

#[derive(Debug)]
struct One {
    tag: Reference,
    state: State,
}

#[derive(Debug)]
enum State {
    Beginning(Receiver<Result<Upload, Error>>),
    Begun(Box<Upload>),
}

impl Uploads {
    /// Begins one in the repository of each tag. Nobody waits for a registry that does not answer: not even a build that
    /// has failed.
    pub fn begin(client: &Client, tags: &[Reference]) -> Self {
        let mut all: Vec<One> = Vec::new();
        for tag in tags {
            if !all.iter().any(|known| is_same_repository(&known.tag, tag)) {
                let (begun, beginning) = channel();
                let (client, own) = (client.clone(), tag.clone());
                // A build that has ended does not want it any more.
                std::thread::spawn(move || begun.send(client.begin_upload(&own)).ok());
                all.push(One { tag: tag.clone(), state: State::Beginning(beginning) });
            }
        }
        Self { all: Mutex::new(all) }
    }

    /// Fails if a registry has answered that it does not let us push. Another failure may pass: it is met again when the
    /// image is pushed.
    pub fn check(&self) -> Result<(), ExportError> {
        let mut all = lock(&self.all);
        for One { tag, state } in std::mem::take(&mut *all) {
            let state = match state {
                State::Beginning(begun) => match begun.try_recv() {
                    Ok(Ok(upload)) => State::Begun(upload.into()),
                    Ok(Err(error)) if is_refusal(&error) => {
                        return Err(ExportError::Push { reference: tag.whole(), source: Box::new(error) });
                    }
                    Ok(Err(_)) | Err(TryRecvError::Disconnected) => continue,
                    Err(TryRecvError::Empty) => State::Beginning(begun),
                },
                begun @ State::Begun(_) => begun,
            };
            all.push(One { tag, state });
        }
        Ok(())
    }

    /// Gives the upload in the repository of `tag`, if one could be begun and nobody has taken it.
    pub(super) fn take(&self, tag: &Reference) -> Option<Upload> {
        let mut all = lock(&self.all);
        let position = all.iter().position(|known| is_same_repository(&known.tag, tag))?;
        let taken = all.swap_remove(position);
        drop(all);
        match taken.state {
            State::Beginning(begun) => begun.recv().ok()?.ok(),
            State::Begun(upload) => Some(*upload),
        }
    }
}

fn is_same_repository(one: &Reference, other: &Reference) -> bool {
    one.registry() == other.registry() && one.repository() == other.repository()
}

/// Whether a registry will say the same however often it is asked.
fn is_refusal(error: &Error) -> bool {
    matches!(error, Error::NotFound { .. } | Error::Unauthorized { .. } | Error::Denied { .. })
}
