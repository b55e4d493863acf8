//! The proxies of docker's `config.json`, which its CLI gives to every build ("Configure the Docker CLI to use a proxy
//! server").

use std::collections::BTreeMap;

use anyhow::Context;
use builder::graph::scope::PROXY_ARGS;
use builder::paths;
use serde::Deserialize;
use serde_json::Value;

use crate::report::Failure;

/// What the file calls the proxies, in the order of [`PROXY_ARGS`].
const NAMES: [&str; PROXY_ARGS.len()] = ["httpProxy", "httpsProxy", "ftpProxy", "noProxy", "allProxy"];

/// What of the file is about proxies, by the address of a daemon; `default` is for all others.
#[derive(Debug, Default, Deserialize)]
struct Config {
    proxies: Option<BTreeMap<String, BTreeMap<String, Value>>>,
}

/// Adds the proxies of the caller's configuration to the build args; one that is given already stays.
pub(crate) fn add(build_args: &mut BTreeMap<String, String>) -> Result<(), Failure> {
    let Some(path) = paths::docker_config().filter(|path| path.exists()) else { return Ok(()) };
    let text = fs_err::read(&path).context("cannot read the proxies of docker's configuration")?;
    let config = parse(&text).with_context(|| format!("cannot read the proxies of `{}`", path.display()))?;
    add_of(&config, build_args);
    Ok(())
}

/// An empty file says as much as none, here as for credentials.
fn parse(text: &[u8]) -> Result<Config, serde_json::Error> {
    if text.trim_ascii().is_empty() { Ok(Config::default()) } else { serde_json::from_slice(text) }
}

fn add_of(config: &Config, build_args: &mut BTreeMap<String, String>) {
    let Some(proxies) = config.proxies.as_ref().and_then(|all| all.get("default")) else { return };
    for (names, name) in PROXY_ARGS.iter().zip(NAMES) {
        let given = names.iter().any(|name| build_args.contains_key(*name));
        let value = proxies.get(name).and_then(Value::as_str);
        if let Some(value) = value.filter(|value| !value.is_empty() && !given) {
            build_args.insert(names[0].to_owned(), value.to_owned());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_given_wins() {
        let text = r#"{"auths": {}, "proxies": {"tcp://x": {"ftpProxy": "f"}, "default":
            {"httpProxy": "h", "httpsProxy": "s", "noProxy": "n", "ftpProxy": "", "unknown": 1}}}"#;
        let mut args = BTreeMap::from([("https_proxy".to_owned(), "mine".to_owned())]);
        add_of(&parse(text.as_bytes()).unwrap(), &mut args);
        add_of(&parse(b" \n").unwrap(), &mut args);
        let args: Vec<String> = args.iter().map(|(name, value)| format!("{name}={value}")).collect();
        assert_eq!(args, ["HTTP_PROXY=h", "NO_PROXY=n", "https_proxy=mine"]);
    }
}
