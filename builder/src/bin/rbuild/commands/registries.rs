//! The registry client as the commands have it.

use builder::paths;
use registry::{Client, Credentials, Options, Reference};

use crate::report::Failure;

/// The client's settings: credentials and rules of this user and machine.
pub(crate) fn options() -> Result<Options, Failure> {
    let credentials = Credentials::from_files(paths::credential_files());
    Ok(Options { credentials: credentials.map_err(|error| Failure::Other(error.into()))?, ..Options::default() })
}

/// A client with these settings.
pub(crate) fn client() -> Result<Client, Failure> {
    Client::new(options()?).map_err(|error| Failure::Other(error.into()))
}

/// The image that an argument names.
pub(crate) fn reference(text: &str) -> Result<Reference, Failure> {
    registry::reference::parse(text.strip_prefix("docker://").unwrap_or(text))
        .map_err(|error| Failure::Usage(error.to_string()))
}
