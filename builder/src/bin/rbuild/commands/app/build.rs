//! `rbuild build -a APP` and `rbuild deploy`: all services of a convox.yml.

use std::io::Write;
use std::path::Path;
use std::sync::{Mutex, PoisonError};

use anyhow::Context;
use builder::app::arguments::{Given, Managed};
use builder::app::build::{self, AppBuild, AppBuildError, Built, Options, grant_auth};
use builder::app::environment::{self, Environment};
use builder::app::git;
use builder::app::interpolate::interpolate;
use builder::app::manifest::{self, Manifest};
use builder::app::rack::Rack;
use builder::app::record::{Build, Status};
use builder::app::records::{Records, Running};
use builder::app::steps::Noted;
use builder::build::{Caching, Machine};
use builder::graph::platform::Platform;
use builder::pair::Pair;
use builder::paths;
use builder::progress::{Event, Progress};
use builder::sandbox::{Cancel, Settings};
use clap::Args;

use super::racks::{BUILD_ARCH, BUILD_CPU, BUILD_MEM};
use super::releases::promote;
use super::{Outcome, Place, RackName, Voice, app_failure, archives, latest, published, refuse, registry_options};
use crate::commands::build::BuildArgs;
use crate::commands::{build as plain, grants};
use crate::report::{self, Dockerfile, Failure};
use crate::signals;
use crate::ui::{self, Mode};

/// The smallest share of a processor that a step can be given, in thousandths: `cpu.max` takes no less.
const LEAST_CPU: u32 = 10;

/// What a build of an app is called by default.
const MANIFEST: &str = "convox.yml";

/// The flags of `rbuild build` that are for apps.
#[derive(Debug, Clone, Default, Args)]
#[command(next_help_heading = "Apps")]
pub(crate) struct AppFlags {
    /// The app [default: `.convox/app`, else the name of the directory]
    #[arg(short, long, value_name = "APP")]
    app: Option<String>,
    /// The rack [default: `$RBUILD_RACK`, `$CONVOX_RACK`, `.rbuild/rack`, `.convox/rack`, else `local`]
    #[arg(short, long, value_name = "RACK")]
    rack: Option<String>,
    /// Set an ARG of every service, `NAME=VALUE`; `NAME` alone is one of the managed ones (`BUILD_APP`, `BUILD_AUTH`,
    /// `BUILD_DEVELOPMENT`, `BUILD_GENERATION`, `BUILD_GIT_SHA`, `BUILD_ID`, `BUILD_MANIFEST`, `BUILD_RACK`), else taken
    /// from the environment
    #[arg(long = "build-args", value_name = "NAME[=VALUE]")]
    build_args: Vec<Pair>,
    /// What the build is [default: the commit, of a tree without changes]
    #[arg(short, long, value_name = "TEXT")]
    description: Option<String>,
    /// Build the stages called `development`
    #[arg(long)]
    development: bool,
    /// Build here, as rbuild always does
    #[arg(long)]
    external: bool,
    /// The convox.yml
    #[arg(short, long, value_name = "PATH")]
    manifest: Option<String>,
    /// Push the record of the build beside its images: `rbuild builds` shows it on every machine
    #[arg(long)]
    publish_record: bool,
    /// Accepted for scripts: it never had an effect on a build
    #[arg(long)]
    wildcard_domain: bool,
    /// Print the release alone; everything else goes to standard error
    #[arg(long)]
    id: bool,
}

/// Build every service of an app and promote the release
#[derive(Debug, Args)]
pub(crate) struct DeployArgs {
    #[command(flatten)]
    build: BuildArgs,
    /// Promote also when variables are missing
    #[arg(long)]
    force: bool,
}

impl AppFlags {
    fn place(&self) -> Place {
        Place { app: self.app.clone(), rack: RackName { rack: self.rack.clone() } }
    }

    fn is_used(&self) -> bool {
        let Self { app, rack, build_args, description, manifest, .. } = self;
        let Self { development, external, publish_record, wildcard_domain, id, .. } = self;
        app.is_some()
            || rack.is_some()
            || !build_args.is_empty()
            || description.is_some()
            || manifest.is_some()
            || *development
            || *external
            || *publish_record
            || *wildcard_domain
            || *id
    }
}

/// The first flag that only a build of one Dockerfile has.
fn plain_flag(args: &BuildArgs) -> Option<&'static str> {
    let flags = [
        (args.file.is_some(), "-f"),
        (!args.tags.is_empty(), "-t"),
        (args.push, "--push"),
        (!args.outputs.is_empty(), "-o"),
        (args.target.is_some(), "--target"),
        (!args.arguments.is_empty(), "--build-arg"),
        (!args.contexts.is_empty(), "--build-context"),
        (!args.labels.is_empty(), "--label"),
        (args.call.asked().is_some(), "--call"),
        (args.iidfile.is_some(), "--iidfile"),
        (args.metadata_file.is_some(), "--metadata-file"),
    ];
    flags.into_iter().find_map(|(used, flag)| used.then_some(flag))
}

/// Whether the arguments ask for the build of an app: a flag says so, or the directory has a convox.yml and nothing
/// speaks of a single image.
pub(crate) fn is_app(args: &BuildArgs) -> bool {
    args.app.is_used() || (plain_flag(args).is_none() && Path::new(&args.context).join(MANIFEST).is_file())
}

/// Builds, and says the release when asked for it alone.
pub(crate) fn run(args: &BuildArgs) -> Outcome {
    let voice = Voice { aside: args.app.id };
    let (_, _, release) = build(args, voice)?;
    if args.app.id {
        ui::print(&release);
    }
    Ok(())
}

/// Builds and promotes.
pub(crate) fn deploy(args: &DeployArgs) -> Outcome {
    let voice = Voice { aside: args.build.app.id };
    let (rack, records, release) = build(&args.build, voice)?;
    let made = records.release(&release).map_err(app_failure)?;
    promote(&rack, &records, &made, args.force, voice)?;
    if args.build.app.id {
        ui::print(&release);
    }
    Ok(())
}

/// What the directory says.
struct Source {
    text: String,
    manifest: Manifest,
    name: String,
    git_sha: String,
    description: String,
}

fn build(args: &BuildArgs, voice: Voice) -> Result<(Rack, Records, String), Failure> {
    if let Some(flag) = plain_flag(args) {
        return Err(refuse(format!(
            "`{flag}` is for the build of one Dockerfile, not of an app: leave one of them out"
        )));
    }
    let (rack, records, app) = args.app.place().open()?;
    let environment = environment::parse(&latest(&records)?.env);
    if args.app.publish_record {
        published::check(&rack)?;
    }
    let (mut granted, _agents) = grants::read(&args.secrets, &args.agents)?;
    granted.secrets_in_layers = args.allow_secret_in_layer;
    let registry = registry_options(&rack, &args.registries)?;
    // Before any thread and before anything is said: the machine may refuse.
    let sandbox = args.isolation.enter()?;
    let cancel = Cancel::new().context("cannot prepare to cancel steps").map_err(Failure::Environment)?;
    signals::cancel_on_signals(cancel.clone()).context("cannot take signals").map_err(Failure::Environment)?;

    let directory = Path::new(&args.context);
    let source = voice.doing("Packaging source", || source(args, directory, &environment))?;
    let options =
        voice.doing("Uploading source", || options(args, &records, rack.cache(&app).map_err(app_failure)?))?;
    let mut running = voice.doing("Starting build", || start(&rack, &records, &app, &source))?;

    let managed = Managed {
        app,
        development: args.app.development,
        id: running.record.id.clone(),
        manifest: source.name.clone(),
        rack: rack.name.clone(),
        git_sha: source.git_sha.clone(),
    };
    let repository = running.record.repository.clone();
    grant_auth(&mut granted, rack.build_auth(&repository).map_err(app_failure)?);
    let given: Vec<Given> = args.app.build_args.iter().map(|pair| Given::of(pair, paths::variable)).collect();
    let app_build = AppBuild {
        directory,
        manifest: &source.manifest,
        repository: &repository,
        push: rack.pushes().map_err(app_failure)?,
        given: &given,
        environment: &environment,
        managed: &managed,
        grants: &granted,
        options,
    };
    let home = crate::commands::home()?;
    let machine = Machine {
        home: &home,
        sandbox: &sandbox,
        registry: &registry,
        cancel: &cancel,
        keep_storage: args.keep_storage,
    };
    let release = recorded(args, voice, (&rack, &records), &mut running, |progress| {
        warn(args, &source, &environment, progress);
        build::build(&app_build, &machine, progress)
    })?;
    Ok((rack, records, release))
}

/// Does the work of a build, shows what happens and writes it down; gives the release.
fn recorded(
    args: &BuildArgs,
    voice: Voice,
    (rack, records): (&Rack, &Records),
    running: &mut Running,
    work: impl FnOnce(&dyn Progress) -> Result<Built, AppBuildError>,
) -> Result<String, Failure> {
    let log = Mutex::new(running.log().map_err(app_failure)?);
    let display = ui::with_log(if args.quiet { Mode::Quiet } else { args.progress }, voice.aside, &log);
    let noted = Noted::new(display.as_ref(), args.caching.caching().explain);
    let result = work(&noted);
    let kept = running.save_steps(&noted.steps());
    display.finish(result.is_ok());
    drop(display);
    let ended = end(records, running, &log, voice, result);
    let id = &running.record.id;
    let published =
        if args.app.publish_record { published::publish(rack, records, id, &args.registries) } else { Ok(()) };
    let release = ended?;
    voice.say(&format!("Build:   {id}\nRelease: {release}\n"));
    kept.map_err(app_failure)?;
    published?;
    Ok(release)
}

/// Reads what is built.
fn source(args: &BuildArgs, directory: &Path, environment: &Environment) -> Result<Source, Failure> {
    let name = args.app.manifest.clone().unwrap_or_else(|| MANIFEST.to_owned());
    let path = directory.join(&name);
    let text = fs_err::read_to_string(&path)
        .with_context(|| format!("an app needs a `{name}`, or `-f Dockerfile` for the build of one image"))
        .map_err(Failure::App)?;
    let manifest = manifest::parse(&interpolate(&text, environment))
        .with_context(|| format!("cannot read `{}`", path.display()))
        .map_err(Failure::App)?;
    let description = args.app.description.clone().or_else(|| git::description(directory)).unwrap_or_default();
    Ok(Source { text, manifest, name, git_sha: git::sha(directory).unwrap_or_default(), description })
}

fn options(args: &BuildArgs, records: &Records, cache: Option<String>) -> Result<Options, Failure> {
    let settings = records.settings().map_err(app_failure)?;
    let wanted = settings.params.get(BUILD_ARCH).map(|text| text.parse::<Platform>()).transpose();
    let platform = args.platform.clone().map_or(wanted.map_err(app_failure)?, Some).unwrap_or_else(Platform::host);
    let mut common = plain::build_of(args)?;
    let number =
        |name: &str| settings.params.get(name).and_then(|text| text.parse::<u32>().ok()).filter(|&number| number > 0);
    let Settings { memory, cpus, .. } = &mut common.settings;
    *memory = memory.or(number(BUILD_MEM).map(|mebibytes| u64::from(mebibytes) << 20));
    *cpus = cpus.or(number(BUILD_CPU).map(|thousandths| thousandths.max(LEAST_CPU)));
    Ok(Options {
        platform,
        network: common.request.network,
        settings: common.settings,
        no_cache: args.no_cache,
        // The record has the reasons, whether they are shown or not.
        caching: Caching { explain: true, ..common.caching },
        cache,
        jobs: common.jobs,
        compression: common.compression,
        epoch: common.epoch,
    })
}

fn start(rack: &Rack, records: &Records, app: &str, source: &Source) -> Result<Running, Failure> {
    let record = Build {
        description: source.description.clone(),
        git_sha: source.git_sha.clone(),
        manifest: source.text.clone(),
        repository: rack.repository(app).map_err(app_failure)?,
        status: Status::Running,
        started: Some(paths::now()),
        ..Build::default()
    };
    records.create_build(record).map_err(app_failure)
}

/// Says what has no effect or will be missing.
fn warn(args: &BuildArgs, source: &Source, environment: &Environment, progress: &dyn Progress) {
    let warn = |message: String| progress.emit(Event::Warning { message });
    if args.app.wildcard_domain {
        warn("--wildcard-domain has no effect on a build".into());
    }
    let missing = source.manifest.missing(|name| environment.contains_key(name));
    if !missing.is_empty() {
        warn(format!("required env: {}: a release cannot be promoted before they are set", missing.join(", ")));
    }
}

/// Writes down how the build ended; gives its release.
fn end(
    records: &Records,
    running: &mut Running,
    log: &Mutex<fs_err::File>,
    voice: Voice,
    result: Result<Built, AppBuildError>,
) -> Result<String, Failure> {
    match result {
        Ok(built) => {
            running.save_images(&built.images).map_err(app_failure)?;
            running.record.entrypoint = built.entrypoint;
            let release = archives::release(records, &running.record)?;
            running.record.release.clone_from(&release.id);
            running.end(Status::Complete, "", paths::now()).map_err(app_failure)?;
            Ok(release.id)
        }
        Err(error) => {
            let text = described(&error);
            voice.say(&text);
            let mut log = log.lock().unwrap_or_else(PoisonError::into_inner);
            log.write_all(text.as_bytes()).context("cannot write the log").map_err(Failure::App)?;
            let (reason, failure) = if error.is_cancelled() {
                ("cancelled".to_owned(), Failure::Cancelled)
            } else {
                (error.to_string(), refuse("build failed"))
            };
            running.end(Status::Failed, &reason, paths::now()).map_err(app_failure)?;
            Err(failure)
        }
    }
}

/// An error with the lines of the Dockerfile that it is about.
fn described(error: &AppBuildError) -> String {
    let AppBuildError::Build { service, name, text, source } = error else { return report::chain(error) };
    let dockerfile = Dockerfile { name: name.clone(), text: text.clone() };
    format!("service {service}\n{}", report::of_build(source, &dockerfile))
}
