//! The registry client as the commands have it.

use std::path::PathBuf;

use builder::paths;
use clap::Args;
use registry::{Certificates, Client, Credentials, Options, Reference, Registries};

use crate::report::Failure;

/// How registries may be spoken to.
#[derive(Debug, Clone, Default, Args)]
pub(crate) struct RegistryArgs {
    /// Let a registry, `host` or `host:port`, be spoken to over plain http; may be given several times
    #[arg(long = "insecure-registry", value_name = "HOST")]
    insecure: Vec<String>,
    /// Trust the authorities of a file in PEM form too, for every registry; may be given several times
    #[arg(long = "registry-ca", value_name = "FILE")]
    authorities: Vec<PathBuf>,
}

/// The client's settings: what the arguments say, and the credentials and rules of this user and machine.
pub(crate) fn options(args: &RegistryArgs) -> Result<Options, Failure> {
    read(args).map_err(|error| Failure::Other(error.into()))
}

/// As [`options`], for commands that have words of their own for what is wrong.
pub(crate) fn read(args: &RegistryArgs) -> Result<Options, registry::Error> {
    let mut credentials = Credentials::from_files(paths::credential_files())?;
    if let Some((name, text)) = paths::credential_text() {
        credentials = credentials.with_text(name, &text)?;
    }
    let authorities = args.authorities.clone();
    Ok(Options {
        credentials,
        insecure: args.insecure.clone(),
        registries: Registries::load(paths::registry_rules())?,
        certificates: Certificates { authorities, directories: paths::certificate_directories() },
        ..Options::default()
    })
}

/// A client with these settings.
pub(crate) fn client(args: &RegistryArgs) -> Result<Client, Failure> {
    Client::new(options(args)?).map_err(|error| Failure::Other(error.into()))
}

/// The image that an argument names.
pub(crate) fn reference(text: &str) -> Result<Reference, Failure> {
    registry::reference::parse(text.strip_prefix("docker://").unwrap_or(text))
        .map_err(|error| Failure::Usage(error.to_string()))
}
