//! The secrets and ssh agents that `--secret` and `--ssh` name. Looked up before the build begins, so that what is not
//! there is known at once.

use std::io::Read;
use std::os::unix::ffi::OsStringExt;
use std::os::unix::fs::FileTypeExt;
use std::path::{Path, PathBuf};

use anyhow::Context;
use builder::grants::{AgentSpec, Grants, SECRET_LIMIT, Secret, SecretSource, SecretSpec};
use builder::paths;

use crate::report::Failure;

/// Looks up everything.
pub(crate) fn read(secrets: &[SecretSpec], agents: &[AgentSpec]) -> Result<Grants, Failure> {
    let mut grants = Grants::default();
    for spec in secrets {
        grants.secrets.insert(spec.id.clone(), secret(spec)?);
    }
    for spec in agents {
        grants.agents.insert(spec.id.clone(), agent(spec)?);
    }
    Ok(grants)
}

fn secret(spec: &SecretSpec) -> Result<Secret, Failure> {
    let variable = |name: &str| paths::raw_variable(name).map(OsStringExt::into_vec);
    let value = match &spec.source {
        SecretSource::File(path) => file(spec, path)?,
        SecretSource::Variable(name) => variable(name).unwrap_or_default(),
        SecretSource::SameName => match variable(&spec.id) {
            Some(value) => value,
            None => file(spec, Path::new(&spec.id))?,
        },
    };
    Ok(Secret(value))
}

fn file(spec: &SecretSpec, path: &Path) -> Result<Vec<u8>, Failure> {
    let mut value = Vec::new();
    let opened = fs_err::File::open(path).with_context(|| format!("cannot read the secret `{}`", spec.id))?;
    opened
        .take(SECRET_LIMIT + 1)
        .read_to_end(&mut value)
        .with_context(|| format!("cannot read the secret `{}`", spec.id))?;
    if value.len() as u64 > SECRET_LIMIT {
        let sentence = format!("the secret `{}` in `{}` has more than {SECRET_LIMIT} bytes", spec.id, path.display());
        return Err(Failure::Usage(sentence));
    }
    Ok(value)
}

fn agent(spec: &AgentSpec) -> Result<PathBuf, Failure> {
    let path = match spec.paths.as_slice() {
        [] => callers_agent(&spec.id)?,
        [path] => path.clone(),
        [..] => return Err(keys(&spec.id)),
    };
    let path = fs_err::canonicalize(path).with_context(|| format!("cannot find the ssh agent `{}`", spec.id))?;
    let metadata = fs_err::metadata(&path).with_context(|| format!("cannot find the ssh agent `{}`", spec.id))?;
    if metadata.file_type().is_socket() { Ok(path) } else { Err(keys(&spec.id)) }
}

fn callers_agent(id: &str) -> Result<PathBuf, Failure> {
    let path = paths::raw_variable("SSH_AUTH_SOCK").filter(|path| !path.is_empty());
    path.map(PathBuf::from).ok_or_else(|| {
        Failure::Usage(format!(
            "`--ssh {id}` needs an ssh agent, and SSH_AUTH_SOCK is not set: write `--ssh {id}=SOCKET`"
        ))
    })
}

fn keys(id: &str) -> Failure {
    Failure::Usage(format!(
        "`--ssh {id}=KEY` is not implemented in this version of rbuild: add the keys to an agent with `ssh-add` and pass its \
         socket, `--ssh {id}=SOCKET`"
    ))
}
