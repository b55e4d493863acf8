//! The secrets and ssh agents that `--secret` and `--ssh` name. Looked up before the build begins, so that what is not
//! there is known at once.

use std::io::Read;
use std::os::unix::ffi::OsStringExt;
use std::os::unix::fs::FileTypeExt;
use std::path::{Path, PathBuf};

use anyhow::Context;
use builder::grants::{AgentSpec, Grants, SECRET_LIMIT, Secret, SecretSource, SecretSpec};
use builder::paths;

use crate::commands::key_agent::KeyAgent;
use crate::report::Failure;

/// Looks up everything. The agents that had to be started for keys last as long as the second value.
pub(crate) fn read(secrets: &[SecretSpec], agents: &[AgentSpec]) -> Result<(Grants, Vec<KeyAgent>), Failure> {
    let (mut grants, mut started) = (Grants::default(), Vec::new());
    for spec in secrets {
        grants.secrets.insert(spec.id.clone(), secret(spec)?);
        grants.unset.remove(&spec.id);
        if let SecretSource::Variable(name) = &spec.source
            && paths::raw_variable(name).is_none()
        {
            grants.unset.insert(spec.id.clone(), name.clone());
        }
    }
    for spec in agents {
        let path = match agent(spec)? {
            Agent::Socket(path) => path,
            Agent::Keys(keys) => {
                let agent = KeyAgent::start(&keys).with_context(|| format!("cannot use `--ssh {}`", spec.id))?;
                started.push(agent);
                started[started.len() - 1].socket()
            }
        };
        grants.agents.insert(spec.id.clone(), path);
    }
    Ok((grants, started))
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

/// What the paths of `--ssh` are.
enum Agent {
    Socket(PathBuf),
    Keys(Vec<PathBuf>),
}

fn agent(spec: &AgentSpec) -> Result<Agent, Failure> {
    let paths = if spec.paths.is_empty() { vec![callers_agent(&spec.id)?] } else { spec.paths.clone() };
    let mut found = Vec::new();
    let mut sockets = 0;
    for path in paths {
        let missing = || format!("cannot find the ssh agent or key `{}` of `--ssh {}`", path.display(), spec.id);
        let path = fs_err::canonicalize(&path).with_context(missing)?;
        sockets += usize::from(fs_err::metadata(&path).with_context(missing)?.file_type().is_socket());
        found.push(path);
    }
    match (sockets, found.len()) {
        (0, _) => Ok(Agent::Keys(found)),
        (1, 1) => Ok(Agent::Socket(found.swap_remove(0))),
        _ => Err(Failure::Usage(format!("`--ssh {}`: give one socket of an agent, or only keys", spec.id))),
    }
}

fn callers_agent(id: &str) -> Result<PathBuf, Failure> {
    let path = paths::raw_variable("SSH_AUTH_SOCK").filter(|path| !path.is_empty());
    path.map(PathBuf::from).ok_or_else(|| {
        Failure::Usage(format!(
            "`--ssh {id}` needs an ssh agent, and SSH_AUTH_SOCK is not set: write `--ssh {id}=SOCKET`"
        ))
    })
}
