//! The command line as users of `docker buildx build`, buildah and kaniko write it: flags with `=true` and `=false`, and
//! flags that rbuild does not have, each of which is refused with what to do instead.

use std::ffi::{OsStr, OsString};

use clap::error::{ContextKind, ContextValue, ErrorKind};
use clap::{ArgAction, Args, Command, CommandFactory};

use crate::args::Cli;
use crate::commands::build::BuildArgs;
use crate::report::Failure;

/// Flags of others, and what there is for them.
const INSTEAD: &[(&[&str], &str)] = &[
    // docker buildx build
    (&["--load"], "pipe the image into the daemon: `rbuild -q -o type=docker,dest=- … | docker load`"),
    (&["--annotation"], "annotations are not implemented; `--label NAME=VALUE` sets labels"),
    (&["--attest"], "rbuild makes no attestations: leave it out"),
    (&["--allow", "--builder", "--rm", "--force-rm", "--debug", "-D"], "it has no meaning here: leave it out"),
    (&["--compress"], "layers are always compressed; `--compression` says how"),
    (&["--print"], "write `--call=outline` or `--call=targets`"),
    (&["--cpu-shares", "--cpu-period", "--cpu-quota", "--cpuset-cpus", "--cpuset-mems"], "write `--cpus N`"),
    (&["--memory-swap"], "`--memory SIZE` limits memory alone"),
    (&["--cgroup-parent"], "run rbuild itself in the cgroup that its steps are to be in"),
    (&["--security-opt"], "what confines a step is fixed: `rbuild doctor` says what it is"),
    (
        &["--squash", "--squash-all", "--single-snapshot"],
        "layers are not merged: a last stage `FROM scratch` with `COPY --from=… / /` has one",
    ),
    // buildah build
    (&["--layers"], "steps are always cached; `--no-cache` runs them again"),
    (&["--format"], "images are OCI images, and HEALTHCHECK, SHELL and ONBUILD are kept in them"),
    (&["--authfile"], "set REGISTRY_AUTH_FILE"),
    (&["--creds"], "use `rbuild login`"),
    (
        &["--cert-dir", "--registry-certificate", "--registry-client-cert"],
        "certificates lie in `/etc/docker/certs.d/HOST/`, or give `--registry-ca FILE`",
    ),
    (
        &["--tls-verify", "--skip-tls-verify", "--skip-tls-verify-pull", "--skip-tls-verify-registry"],
        "certificates are always verified: `--registry-ca FILE` trusts the registry's authority, \
         `--insecure-registry HOST` speaks plain http",
    ),
    (
        &["--cap-add", "--cap-drop", "--device", "--userns", "--ipc", "--pid", "--uts"],
        "what a step may do is fixed: Docker's default capabilities, in namespaces of its own",
    ),
    (
        &["--volume", "-v"],
        "mount with `RUN --mount=type=bind,from=NAME` and `--build-context NAME=DIRECTORY`, or `RUN \
         --mount=type=cache`",
    ),
    (&["--dns", "--dns-search", "--dns-option"], "steps see the resolv.conf of the machine; `--add-host` adds names"),
    (&["--build-arg-file"], "give each with `--build-arg NAME=VALUE`"),
    (&["--ignorefile"], "write it beside the Dockerfile, as `<Dockerfile>.dockerignore`"),
    (&["--timestamp", "--source-date-epoch", "--reproducible"], "write `--build-arg SOURCE_DATE_EPOCH=SECONDS`"),
    (&["--all-platforms"], "several platforms at once are not implemented: build each with `--platform`"),
    (
        &["--retry", "--retry-delay", "--push-retry", "--image-download-retry", "--image-fs-extract-retry"],
        "what a registry does not answer is asked again anyway: leave it out",
    ),
    // kaniko
    (&["--context", "-c"], "write the context without a flag, as the last argument"),
    (&["--context-sub-path"], "write the directory itself as the context"),
    (&["--dockerfile"], "write `-f PATH`"),
    (&["--destination"], "write `-t NAME --push`"),
    (&["--no-push"], "nothing is pushed without `--push`"),
    (&["--no-push-cache"], "nothing is kept elsewhere without `--cache-to`"),
    (
        &["--cache", "--cache-repo", "--cache-copy-layers", "--cache-run-layers", "--compressed-caching"],
        "steps are always cached in the store; for another machine write `--cache-from type=registry,ref=NAME` \
         and `--cache-to type=registry,ref=NAME,mode=max`",
    ),
    (&["--cache-dir"], "the store, below RBUILD_HOME, keeps base images"),
    (&["--cache-ttl"], "write `rbuild cache prune --filter until=…`, or use the registry's own rules"),
    (&["--tar-path", "--tarPath"], "write `-o type=docker,dest=FILE`"),
    (&["--oci-layout-path"], "write `-o type=oci,tar=false,dest=DIRECTORY`"),
    (
        &["--digest-file", "--image-name-with-digest-file", "--image-name-tag-with-digest-file"],
        "`--metadata-file FILE` has the digest and the names, and `-q` prints the digest",
    ),
    (&["--custom-platform", "--customPlatform"], "write `--platform`"),
    (&["--insecure", "--insecure-pull"], "name the registry: `--insecure-registry HOST`"),
    (
        &["--registry-mirror", "--registry-map", "--skip-default-registry-fallback"],
        "mirrors are rules of containers-registries.conf(5), in `/etc/containers/registries.conf`",
    ),
    (
        &[
            "--cleanup",
            "--force",
            "--ignore-path",
            "--ignore-var-run",
            "--kaniko-dir",
            "--skip-unused-stages",
            "--materialize",
            "--preserve-context",
            "--force-build-metadata",
            "--snapshot-mode",
            "--snapshotMode",
            "--use-new-run",
        ],
        "there is no need for it: leave it out",
    ),
    (&["--skip-push-permission-check"], "what may not be pushed is known before the first step: leave it out"),
    (&["--push-ignore-immutable-tag-errors"], "a tag that cannot be moved ends the build with code 4"),
    (&["--credential-helpers"], "helpers are those of `credHelpers` in docker's `config.json`"),
    (&["--bucket", "-b"], "fetch the context and pipe it into `rbuild -`"),
    (&["--git"], "say it in the URL of the context: `https://HOST/REPO.git#REF:SUBDIRECTORY`"),
    (&["--verbosity", "--log-format", "--log-timestamp"], "write `--progress plain` or `--progress json`"),
];

/// What to say of a flag that only others have; none where it is not about a build.
pub(crate) fn refused(error: &clap::Error, arguments: &[String]) -> Option<Failure> {
    if error.kind() != ErrorKind::UnknownArgument || !is_build(arguments) {
        return None;
    }
    let Some(ContextValue::String(flag)) = error.get(ContextKind::InvalidArg) else { return None };
    let (_, instead) = INSTEAD.iter().find(|(flags, _)| flags.contains(&flag.as_str()))?;
    Some(Failure::Usage(format!("rbuild has no `{flag}`; {instead}")))
}

/// The arguments of a build with `--flag` for `--flag=true` and nothing for `--flag=false`, where the flag takes no value:
/// docker's and kaniko's scripts write them so. The last of several counts.
pub(crate) fn plain(arguments: Vec<OsString>) -> Vec<OsString> {
    // What a build takes is much: it is put together only where something may be in need of it.
    if !arguments.iter().any(|word| truth(word).is_some()) || !is_build(&arguments) {
        return arguments;
    }
    let build = BuildArgs::augment_args(Command::new("build"));
    let is_flag = |flag: &str| {
        let named = |arg: &&clap::Arg| arg.get_long().is_some_and(|long| flag.strip_prefix("--") == Some(long));
        build.get_arguments().find(named).is_some_and(|arg| matches!(arg.get_action(), ArgAction::SetTrue))
    };
    let mut plain: Vec<OsString> = Vec::new();
    for word in &arguments {
        match truth(word).filter(|(flag, _)| is_flag(flag)) {
            None => plain.push(word.clone()),
            Some((flag, set)) => {
                plain.retain(|earlier| earlier != flag);
                plain.extend(set.then(|| flag.into()));
            }
        }
    }
    plain
}

/// The flag of `--flag=true` or `--flag=false`, and which of them it is.
fn truth(word: &OsStr) -> Option<(&str, bool)> {
    let (flag, value) = word.to_str()?.split_once('=').filter(|(flag, _)| flag.starts_with("--"))?;
    match value {
        "true" | "1" => Some((flag, true)),
        "false" | "0" => Some((flag, false)),
        _ => None,
    }
}

/// Whether the arguments are those of `rbuild build`, which need not be said.
fn is_build<T: AsRef<OsStr>>(arguments: &[T]) -> bool {
    let Some(first) = arguments.first().map(AsRef::as_ref) else { return false };
    first == "build" || Cli::command().get_subcommands().all(|command| command.get_name() != first)
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    fn words(text: &str) -> Vec<String> {
        text.split_whitespace().map(str::to_owned).collect()
    }

    #[test]
    fn flags_may_say_true_and_false() {
        for (given, meant) in [
            ("--push=true -t a .", "--push -t a ."),
            ("build --no-cache=false --pull=1 .", "build --pull ."),
            ("--push --push=false .", "."),
            ("--push=false --push .", "--push ."),
            ("--build-arg=true --label x=true .", "--build-arg=true --label x=true ."),
            ("images --push=true", "images --push=true"),
            ("--unknown=false .", "--unknown=false ."),
        ] {
            let of = |text: &str| words(text).into_iter().map(OsString::from).collect::<Vec<_>>();
            assert_eq!(plain(of(given)), of(meant), "{given}");
        }
    }

    /// What the guide for those who come from kaniko says a flag does is what its error says.
    #[test]
    fn every_flag_of_the_guide_is_known() {
        let guide = include_str!("../../../../docs/from-kaniko.md");
        let build = BuildArgs::augment_args(Command::new("build"));
        let known = |flag: &str| {
            build.get_arguments().any(|arg| arg.get_long().is_some_and(|long| flag[2..] == *long))
                || INSTEAD.iter().any(|(flags, _)| flags.contains(&flag))
        };
        let rows = guide.lines().filter_map(|line| line.strip_prefix("| `")?.split(" | ").next());
        let flags = rows.flat_map(|cell| cell.split(['`', ' '])).filter(|word| word.starts_with("--"));
        let (known, unknown): (Vec<&str>, Vec<&str>) = flags.partition(|flag| known(flag));
        assert!(known.len() > 50 && unknown.is_empty(), "{unknown:?}");
    }

    #[test]
    fn flags_of_others_are_refused_with_what_to_do() {
        for (flags, instead) in INSTEAD {
            for flag in *flags {
                let given = [words("rbuild build"), vec![format!("{flag}=x")], words(".")].concat();
                let error = Cli::try_parse_from(&given).expect_err(flag);
                let Some(Failure::Usage(text)) = refused(&error, &given[1..]) else { panic!("{flag}: {error}") };
                assert!(text.contains(flag) && text.ends_with(instead), "{text}");
            }
        }
        let unknown = Cli::try_parse_from(words("rbuild images --load")).unwrap_err();
        assert!(refused(&unknown, &words("images --load")).is_none());
    }
}
