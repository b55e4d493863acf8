//! `rbuild login` and `rbuild logout`.

use std::io::{IsTerminal, Read};
use std::path::PathBuf;

use builder::paths;
use clap::Args;
use registry::credentials::edit::{self, Kept};
use registry::{Client, Credentials, Options};

use super::registries::{self, RegistryArgs};
use crate::report::Failure;
use crate::ui;

/// Longest password, in bytes; tokens of clouds have a few thousand.
const PASSWORD_LIMIT: u64 = 64 * 1024;

/// Keep the credentials for a registry
#[derive(Debug, Args)]
pub(crate) struct LoginArgs {
    /// The registry, `host` or `host:port`
    #[arg(value_name = "REGISTRY", default_value = "docker.io")]
    registry: String,
    /// The user name
    #[arg(short, long, value_name = "NAME")]
    username: String,
    /// Read the password from standard input (rbuild always does)
    #[arg(long)]
    password_stdin: bool,
    #[command(flatten)]
    registries: RegistryArgs,
}

/// Forget the credentials for a registry
#[derive(Debug, Args)]
pub(crate) struct LogoutArgs {
    /// The registry, `host` or `host:port`
    #[arg(value_name = "REGISTRY", default_value = "docker.io")]
    registry: String,
}

pub(crate) fn login(args: &LoginArgs) -> Result<(), Failure> {
    let password = password()?;
    let credentials = Credentials::default().with_password(&args.registry, &args.username, &password);
    let client = Client::new(Options { credentials, ..registries::options(&args.registries)? });
    let client = client.map_err(|error| Failure::Other(error.into()))?;
    let token = client.sign_in(&args.registry).map_err(|error| Failure::Registry(error.into()))?;
    let path = file()?;
    let kept = match &token {
        Some(token) => edit::store_token(&path, &args.registry, &args.username, token),
        None => edit::store(&path, &args.registry, &args.username, &password),
    };
    let what = if token.is_some() { "identity token, in place of the password," } else { "password" };
    match kept.map_err(|error| Failure::Other(error.into()))? {
        Kept::File => ui::note(&format!(
            "logged in to {}; the {what} is in `{}`, which only you can read",
            args.registry,
            path.display()
        )),
        Kept::Helper(name) => {
            ui::note(&format!("logged in to {}; docker-credential-{name} keeps the {what}", args.registry));
        }
    }
    Ok(())
}

pub(crate) fn logout(args: &LogoutArgs) -> Result<(), Failure> {
    let found = edit::erase(&file()?, &args.registry).map_err(|error| Failure::Other(error.into()))?;
    let text = if found { "logged out of" } else { "there were no credentials for" };
    ui::note(&format!("{text} {}", args.registry));
    Ok(())
}

/// The file that credentials are written to: the first that they are read from.
fn file() -> Result<PathBuf, Failure> {
    let file = paths::credential_files().into_iter().next();
    file.ok_or_else(|| {
        Failure::Usage("set HOME or DOCKER_CONFIG: rbuild does not know where to keep credentials".into())
    })
}

/// Reads the password from standard input, without the end of its line.
fn password() -> Result<String, Failure> {
    let stdin = std::io::stdin();
    if stdin.is_terminal() {
        let text = "give the password on standard input: `rbuild login -u NAME REGISTRY <password-file`";
        return Err(Failure::Usage(text.into()));
    }
    let mut password = String::new();
    let read = stdin.take(PASSWORD_LIMIT + 1).read_to_string(&mut password);
    read.map_err(|error| Failure::Usage(format!("cannot read the password from standard input: {error}")))?;
    let end = password.trim_end_matches(['\n', '\r']).len();
    password.truncate(end);
    if password.is_empty() || password.len() as u64 > PASSWORD_LIMIT {
        return Err(Failure::Usage("standard input has no password".into()));
    }
    Ok(password)
}
