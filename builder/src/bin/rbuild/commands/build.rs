//! `rbuild build`.

use std::collections::BTreeMap;
use std::io::Read;
use std::path::{Path, PathBuf};

use anyhow::Context;
use builder::build::{self, Build, Machine};
use builder::export::Output;
use builder::graph::platform::Platform;
use builder::graph::references::Request;
use builder::image::Image;
use builder::paths;
use builder::sandbox::Cancel;
use jiff::Timestamp;
use serde_json::json;

use crate::args::{BuildArgs, Mode};
use crate::commands::grants;
use crate::report::{self, Dockerfile, Failure};
use crate::{signals, ui};

pub(crate) fn run(args: &BuildArgs) -> Result<(), Failure> {
    let (bytes, name, path) = read_dockerfile(args)?;
    let dockerfile = Dockerfile { name, text: String::from_utf8_lossy(&bytes).into_owned() };
    let build = build_of(args, bytes, path)?;
    let credentials = registry::Credentials::from_files(paths::credential_files());
    let registry = registry::Options {
        credentials: credentials.map_err(|error| Failure::Other(error.into()))?,
        ..registry::Options::default()
    };
    if args.check {
        return check(&build, &registry, dockerfile);
    }
    let home = super::home()?;
    let sandbox = super::enter(&args.isolation)?;
    let cancel = Cancel::new().context("cannot prepare to cancel steps").map_err(Failure::Environment)?;
    signals::cancel_on_signals(cancel.clone()).context("cannot take signals").map_err(Failure::Environment)?;

    let mode = if args.quiet { Mode::Quiet } else { args.progress };
    let display = ui::display(mode);
    let machine = Machine { home: &home, sandbox: &sandbox, registry: &registry, cancel: &cancel };
    let result = build::build(&build, &machine, display.as_ref());
    display.finish(result.is_ok());
    let image = result.map_err(|error| Failure::Build { error: Box::new(error), dockerfile })?;
    write_results(args, &build, &image)?;
    if !build.outputs.iter().any(Output::is_stdout) {
        ui::built(mode, &image, &build.tags);
    }
    Ok(())
}

/// `--check`.
fn check(build: &Build, registry: &registry::Options, dockerfile: Dockerfile) -> Result<(), Failure> {
    let display = ui::display(Mode::Quiet);
    match build::check(build, registry, display.as_ref()) {
        Ok(findings) => ui::print(&report::findings(&findings, &dockerfile)),
        Err(error) => return Err(Failure::Build { error: Box::new(error), dockerfile }),
    }
    Ok(())
}

/// The Dockerfile's bytes, its name for people, and its path when it is a file.
fn read_dockerfile(args: &BuildArgs) -> Result<(Vec<u8>, String, Option<PathBuf>), Failure> {
    let context = args.context.to_string_lossy();
    if context == "-" || context.contains("://") || context.starts_with("git@") {
        return Err(Failure::Usage(format!(
            "the build context `{context}` is not a directory: contexts from standard input and from URLs are not \
             implemented in this version of rbuild"
        )));
    }
    let path = args.file.clone().unwrap_or_else(|| args.context.join("Dockerfile"));
    let bytes = if path == Path::new("-") {
        let mut bytes = Vec::new();
        std::io::stdin().read_to_end(&mut bytes).context("cannot read the Dockerfile from standard input")?;
        bytes
    } else {
        fs_err::read(&path).context("cannot read the Dockerfile; name it with `-f PATH`")?
    };
    let name = path.display().to_string();
    let on_disk = (name != "-").then_some(path);
    Ok((bytes, name, on_disk))
}

fn build_of(args: &BuildArgs, dockerfile: Vec<u8>, dockerfile_path: Option<PathBuf>) -> Result<Build, Failure> {
    let tags: Result<Vec<_>, _> = args.tags.iter().map(|tag| registry::reference::parse(tag)).collect();
    let tags = tags.map_err(|error| Failure::Usage(error.to_string()))?;
    if let Some(tag) = tags.iter().find(|tag| tag.digest().is_some()) {
        return Err(Failure::Usage(format!("`{}` has a digest: a name for a new image cannot", tag.whole())));
    }
    let outputs = args.all_outputs();
    if outputs.contains(&Output::Push) && tags.is_empty() {
        return Err(Failure::Usage("pushing needs a name: add `-t registry/name:tag`".into()));
    }
    let mut build_args = BTreeMap::new();
    for text in &args.arguments {
        match text.split_once('=') {
            Some((name, value)) => _ = build_args.insert(name.to_owned(), value.to_owned()),
            None => build_args.extend(paths::variable(text).map(|value| (text.clone(), value))),
        }
    }
    let epoch = build_args.get("SOURCE_DATE_EPOCH").cloned().or_else(|| paths::variable("SOURCE_DATE_EPOCH"));
    Ok(Build {
        dockerfile,
        dockerfile_path,
        context: args.context.clone(),
        request: Request {
            build_args,
            target: args.target.clone(),
            platform: args.platform.clone().unwrap_or_else(Platform::host),
            labels: labels(&args.labels)?,
        },
        tags,
        outputs,
        no_cache: args.no_cache,
        jobs: args.jobs.map(usize::from),
        grants: grants::read(&args.secrets, &args.agents)?,
        epoch: epoch.map(|seconds| epoch_time(&seconds)).transpose()?,
    })
}

fn labels(labels: &[String]) -> Result<BTreeMap<String, String>, Failure> {
    labels
        .iter()
        .map(|text| {
            let (name, value) = text.split_once('=').unwrap_or((text, ""));
            if name.is_empty() {
                return Err(Failure::Usage(format!("`--label {text}` has no name: write `--label NAME=VALUE`")));
            }
            Ok((name.to_owned(), value.to_owned()))
        })
        .collect()
}

/// `SOURCE_DATE_EPOCH` (reproducible-builds.org), seconds since the epoch, as RFC 3339.
fn epoch_time(seconds: &str) -> Result<String, Failure> {
    let time = seconds.trim().parse().ok().and_then(|seconds| Timestamp::from_second(seconds).ok());
    time.map(|time| time.to_string())
        .ok_or_else(|| Failure::Usage(format!("SOURCE_DATE_EPOCH=`{seconds}` is not a number of seconds")))
}

/// `--iidfile` and `--metadata-file`, with the keys that buildx writes.
fn write_results(args: &BuildArgs, build: &Build, image: &Image) -> Result<(), Failure> {
    if let Some(file) = &args.iidfile {
        fs_err::write(file, image.config_descriptor.digest().to_string()).context("cannot write the --iidfile")?;
    }
    if let Some(file) = &args.metadata_file {
        let names: Vec<String> = build.tags.iter().map(registry::Reference::whole).collect();
        let mut metadata = json!({
            "containerimage.config.digest": image.config_descriptor.digest(),
            "containerimage.descriptor": image.descriptor,
            "containerimage.digest": image.descriptor.digest(),
        });
        if !names.is_empty() {
            metadata["image.name"] = names.join(",").into();
        }
        let text = serde_json::to_string_pretty(&metadata).context("cannot write the --metadata-file")?;
        fs_err::write(file, text + "\n").context("cannot write the --metadata-file")?;
    }
    Ok(())
}
