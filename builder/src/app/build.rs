//! All services of an app in one go: equal builds once, independent ones at the same time, images of others copied.

use std::collections::BTreeSet;
use std::io;
use std::num::NonZero;
use std::path::{Component, Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::Instant;

use oci_spec::image::Descriptor;
use registry::Reference;

use super::arguments::{self, BUILD_AUTH, Given, Managed};
use super::environment::Environment;
use super::manifest::{BuildForm, Manifest};
use super::record::{ServiceImage, shell_words};
use super::targets::{self, Copied, Target};
use super::transfer::{self, TransferError};
use crate::build::{self, Build, BuildError, Caching, Machine, Shared};
use crate::cache::{CacheFrom, CacheTo, Place};
use crate::context::{ContextError, load_ignore};
use crate::contexts::{OpenError, open_local};
use crate::dockerfile::Dockerfile;
use crate::export::Output;
use crate::export::compression::Chosen;
use crate::grants::Grants;
use crate::graph::config::ImageConfig;
use crate::graph::platform::Platform;
use crate::graph::references::{Request, StepNetwork};
use crate::image::Image;
use crate::progress::{Progress, Reporter};
use crate::sandbox::Settings;
use crate::solve::scheduler;

/// The stage that `--development` builds.
const DEVELOPMENT: &str = "development";

/// What to build.
#[derive(Debug)]
pub struct AppBuild<'a> {
    /// The directory of the app.
    pub directory: &'a Path,
    /// Its services.
    pub manifest: &'a Manifest,
    /// Where the images go: `<repository>:<service>.<id>`.
    pub repository: &'a str,
    /// Whether they are pushed there.
    pub push: bool,
    /// `--build-args`.
    pub given: &'a [Given],
    /// The environment of the latest release.
    pub environment: &'a Environment,
    /// The values of the managed arguments.
    pub managed: &'a Managed,
    /// What steps may have.
    pub grants: &'a Grants,
    /// Choices that do not depend on the services.
    pub options: Options,
}

/// Choices that do not depend on the services.
#[derive(Debug, Clone)]
pub struct Options {
    /// The platform.
    pub platform: Platform,
    /// What of the network steps see.
    pub network: StepNetwork,
    /// What else every step has.
    pub settings: Settings,
    /// Look nothing up in the cache.
    pub no_cache: bool,
    /// How each build uses caches.
    pub caching: Caching,
    /// The repository where steps are kept, and looked up, when `caching` names no cache.
    pub cache: Option<String>,
    /// Steps at a time; as many as there are processors when absent.
    pub jobs: Option<usize>,
    /// How new layers are compressed.
    pub compression: Chosen,
    /// The time of everything that the build makes, RFC 3339.
    pub epoch: Option<String>,
}

/// What was built.
#[derive(Debug)]
pub struct Built {
    /// The images, in the order of the manifest.
    pub images: Vec<ServiceImage>,
    /// The entrypoint of the image that was built last, as a shell reads it.
    pub entrypoint: String,
}

/// Why an app was not built.
#[derive(Debug, thiserror::Error)]
pub enum AppBuildError {
    /// A service's context cannot be read.
    #[error("cannot open what the service `{service}` is built from")]
    Open {
        /// The service.
        service: String,
        /// Why.
        source: Box<OpenError>,
    },
    /// A service's Dockerfile that cannot be read.
    #[error(
        "cannot read the Dockerfile `{}` of the service `{service}`; `manifest` in its `build` names another",
        path.display()
    )]
    Dockerfile {
        /// The service.
        service: String,
        /// The Dockerfile.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A path that leaves the directory of the app.
    #[error("the service `{service}` is built from `{path}`, which is not below the directory of the app")]
    Outside {
        /// The service.
        service: String,
        /// The path.
        path: String,
    },
    /// A build.
    #[error("the service `{service}` cannot be built")]
    Build {
        /// The service.
        service: String,
        /// The Dockerfile's name.
        name: String,
        /// Its text.
        text: String,
        /// Why.
        source: Box<BuildError>,
    },
    /// An image that is copied.
    #[error("the image `{image}` of the service `{service}` cannot be copied")]
    Copy {
        /// The service.
        service: String,
        /// The image.
        image: String,
        /// Why.
        source: Box<TransferError>,
    },
    /// A name that is no image's.
    #[error("the service `{service}` has no image")]
    Reference {
        /// The service.
        service: String,
        /// Why.
        source: Box<registry::Error>,
    },
    /// What all builds share.
    #[error(transparent)]
    Shared(#[from] BuildError),
    /// The build context.
    #[error(transparent)]
    Context(#[from] ContextError),
}

impl AppBuildError {
    /// Whether somebody cancelled the build.
    pub fn is_cancelled(&self) -> bool {
        let Self::Build { source, .. } = self else { return false };
        source.is_cancelled()
    }
}

/// One piece of work.
enum Task {
    Build { target: Target, build: Box<Build> },
    Copy(Copied),
}

/// What a task left behind.
struct Done {
    task: usize,
    images: Vec<ServiceImage>,
    entrypoint: Option<String>,
}

/// Builds and copies everything; the first failure ends the rest.
pub fn build(app: &AppBuild<'_>, machine: &Machine<'_>, progress: &dyn Progress) -> Result<Built, AppBuildError> {
    let reporter = &Reporter::new(progress);
    let (tasks, declared) = tasks(app)?;
    for warning in app.manifest.warnings.iter().cloned().chain(arguments::warnings(app.given, &declared)) {
        reporter.warn(&warning);
    }
    let client = &build::client(machine.registry)?;
    let store = &build::open_store(machine.home, machine.sandbox).map_err(BuildError::from)?;
    let _lease = store.lease("building an app").map_err(BuildError::from)?;
    let shared = Shared { machine, client, store, reporter };

    let processors = std::thread::available_parallelism().map_or(1, NonZero::get);
    let jobs = app.options.jobs.unwrap_or(processors);
    let at_once = jobs.min(tasks.len()).max(1);
    let ids: Vec<scheduler::Task> = (0..tasks.len()).map(|id| scheduler::Task { id, after: Vec::new() }).collect();
    let done = Mutex::new(Vec::new());
    let execute = |id: usize| {
        let (images, entrypoint) = match &tasks[id] {
            Task::Build { target, build } => {
                let build = Build { jobs: Some((jobs / at_once).max(1)), ..build.as_ref().clone() };
                build_target(app, target, &build, &shared)?
            }
            Task::Copy(copied) => (copy(app, copied, &shared)?, None),
        };
        done.lock().unwrap_or_else(PoisonError::into_inner).push(Done { task: id, images, entrypoint });
        Ok(())
    };
    let failures = Mutex::new(Vec::new());
    let noting = |id: usize| {
        execute(id).map_err(|error: AppBuildError| {
            failures.lock().unwrap_or_else(PoisonError::into_inner).push(error);
        })
    };
    let ended =
        scheduler::run(&ids, scheduler::Run { jobs: at_once, keep_going: false }, noting, || machine.cancel.cancel());
    let mut failures = failures.into_inner().unwrap_or_else(PoisonError::into_inner);
    if ended.is_err() {
        // Others were cancelled because of the one that failed.
        let first = failures.iter().position(|error| !error.is_cancelled()).unwrap_or(0);
        return Err(failures.swap_remove(first));
    }
    let mut done: Vec<Done> = done.into_inner().unwrap_or_else(PoisonError::into_inner);
    done.sort_by_key(|done| done.task);
    let entrypoint = done.iter().rev().find_map(|done| done.entrypoint.clone()).unwrap_or_default();
    let mut images: Vec<ServiceImage> = done.into_iter().flat_map(|done| done.images).collect();
    images.sort_by_key(|image| app.manifest.services.iter().position(|service| service.name == image.service));
    reporter.sum_up();
    Ok(Built { images, entrypoint })
}

/// All tasks, and the ARGs that their Dockerfiles declare.
fn tasks(app: &AppBuild<'_>) -> Result<(Vec<Task>, BTreeSet<String>), AppBuildError> {
    let (mut tasks, mut declared) = (Vec::new(), BTreeSet::new());
    for target in targets::builds(app.manifest) {
        let build = Box::new(prepare(app, &target, &mut declared)?);
        tasks.push(Task::Build { target, build });
    }
    tasks.extend(targets::copies(app.manifest).into_iter().map(Task::Copy));
    Ok((tasks, declared))
}

/// Reads a target's Dockerfile and says how it is built.
fn prepare(app: &AppBuild<'_>, target: &Target, declared: &mut BTreeSet<String>) -> Result<Build, AppBuildError> {
    let BuildForm { path, dockerfile, args, target: stage } = &target.form;
    let service = target.services[0].clone();
    let inside =
        |path: &str| Path::new(path).components().all(|c| matches!(c, Component::Normal(_) | Component::CurDir));
    if !inside(path) || !inside(dockerfile) {
        return Err(AppBuildError::Outside { service, path: format!("{path}/{dockerfile}") });
    }
    // Without the `.` that stands for a directory itself: this is what people read.
    let context: PathBuf = app.directory.join(path).components().collect();
    let file: PathBuf = context.join(dockerfile).components().collect();
    // Links count as what they lead to: it may be outside, and it is what the app's `.dockerignore` is about.
    let outside = |path: &Path| AppBuildError::Outside { service: service.clone(), path: path.display().to_string() };
    let led_to = |path: &Path| match (fs_err::canonicalize(app.directory), fs_err::canonicalize(path)) {
        (Ok(top), Ok(real)) => real.strip_prefix(top).map(Path::to_owned).map_err(|_| outside(path)),
        // What is not there is said where it is read.
        _ => Ok(PathBuf::new()),
    };
    let below = led_to(&context)?;
    led_to(&file)?;
    let main = open_local(&context, Some(&file), &mut io::empty()).map_err(|error| match error {
        OpenError::Dockerfile { path, source } => AppBuildError::Dockerfile { service, path, source },
        error => AppBuildError::Open { service, source: Box::new(error) },
    })?;
    // What the app's own directory does not send is in no context below it either.
    let ignore = main.ignore.below(load_ignore(app.directory, None)?, &below);
    let parsed = crate::dockerfile::parse(&main.dockerfile).ok();
    let mut stage = stage.clone();
    if let Some(parsed) = &parsed {
        declared.extend(arguments::declared(&parsed.dockerfile));
        if app.managed.development && has_development(&parsed.dockerfile) {
            stage = Some(DEVELOPMENT.to_owned());
        }
    }
    let resolved = arguments::resolve(app.given, args, app.environment, app.managed);
    let output = if app.push { Output::Push } else { Output::Store };
    Ok(Build {
        dockerfile: main.dockerfile,
        dockerfile_name: main.name,
        context: main.directory,
        ignore,
        caching: caching(app, &target.services[0])?,
        request: Request {
            build_args: resolved.values,
            secret_args: resolved.secrets,
            target: stage,
            platform: app.options.platform.clone(),
            labels: std::collections::BTreeMap::new(),
            network: app.options.network,
            context_time: None,
            contexts: std::collections::BTreeMap::new(),
        },
        tags: references(app, &target.services)?,
        outputs: vec![output],
        compression: app.options.compression,
        no_cache: app.options.no_cache,
        jobs: None,
        settings: app.options.settings.clone(),
        grants: app.grants.clone(),
        epoch: app.options.epoch.clone(),
        tell_unused: false,
    })
}

/// How a build uses caches: as it was told, else the app's own, `<repository>:<service>.buildcache` as Convox calls it.
/// Services find each other's steps there, by their keys.
fn caching(app: &AppBuild<'_>, service: &str) -> Result<Caching, AppBuildError> {
    let mut caching = app.options.caching.clone();
    if let Some(repository) = app.options.cache.as_ref().filter(|_| caching.from.is_empty() && caching.to.is_empty()) {
        let place = Place::Registry(reference(repository, service, "buildcache")?);
        caching.from.push(CacheFrom(place.clone()));
        caching.to.push(CacheTo { place: Some(place), all: true, mounts: false, strict: false });
    }
    Ok(caching)
}

fn has_development(dockerfile: &Dockerfile) -> bool {
    dockerfile.stages.iter().any(|stage| stage.name.as_deref() == Some(DEVELOPMENT))
}

/// The names of the services' images.
fn references(app: &AppBuild<'_>, services: &[String]) -> Result<Vec<Reference>, AppBuildError> {
    services.iter().map(|service| reference(app.repository, service, &app.managed.id)).collect()
}

/// The name of a service's image of one build.
pub fn reference(repository: &str, service: &str, id: &str) -> Result<Reference, AppBuildError> {
    let parsed = registry::reference::parse(&format!("{repository}:{service}.{id}"));
    parsed.map_err(|source| AppBuildError::Reference { service: service.to_owned(), source: Box::new(source) })
}

fn build_target(
    app: &AppBuild<'_>,
    target: &Target,
    build: &Build,
    shared: &Shared<'_>,
) -> Result<(Vec<ServiceImage>, Option<String>), AppBuildError> {
    let begun = Instant::now();
    let services = target.services.join("+");
    let reporter = &shared.reporter.named(&format!("{services} "));
    let image = build::build_with(build, &Shared { reporter, ..*shared }).map_err(|source| AppBuildError::Build {
        service: services,
        name: build.dockerfile_name.clone(),
        text: String::from_utf8_lossy(&build.dockerfile).into_owned(),
        source: Box::new(source),
    })?;
    let milliseconds = milliseconds(begun);
    let images = target.services.iter().zip(&build.tags).map(|(service, tag)| ServiceImage {
        service: service.clone(),
        reference: tag.whole(),
        descriptor: image.descriptor.clone(),
        blobs: everything(&image),
        pushed: app.push,
        platform: Some(build.request.platform.to_string()),
        milliseconds,
    });
    Ok((images.collect(), entrypoint(&image)))
}

/// What an image consists of.
fn everything(image: &Image) -> Vec<Descriptor> {
    let layers = image.layers.iter().map(|layer| layer.blob.clone());
    [image.descriptor.clone(), image.config_descriptor.clone()].into_iter().chain(layers).collect()
}

fn entrypoint(image: &Image) -> Option<String> {
    let config: ImageConfig = serde_json::from_slice(&image.config).ok()?;
    (!config.config.entrypoint.is_empty()).then(|| shell_words(&config.config.entrypoint))
}

/// Copies an image of somebody else, all its platforms, to every service that runs it.
fn copy(app: &AppBuild<'_>, copied: &Copied, shared: &Shared<'_>) -> Result<Vec<ServiceImage>, AppBuildError> {
    let begun = Instant::now();
    let service = copied.services.join("+");
    let from = registry::reference::parse(&copied.image)
        .map_err(|source| AppBuildError::Reference { service: service.clone(), source: Box::new(source) })?;
    let targets = references(app, &copied.services)?;
    let step = shared.reporter.start(&format!("{service} copy {}", from.whole()), None);
    let Shared { client, store, .. } = *shared;
    let result = transfer::describe(client, store, &from).and_then(|image| {
        if app.push {
            targets.iter().try_for_each(|to| transfer::push(client, store, &image, (Some(&from), to), &step))?;
        } else {
            transfer::fetch_all(client, store, &from, &image)?;
        }
        Ok(image)
    });
    let failed = |source| AppBuildError::Copy { service, image: copied.image.clone(), source: Box::new(source) };
    let image = step.finish(result).map_err(failed)?;
    let images = copied.services.iter().zip(&targets).map(|(service, to)| ServiceImage {
        service: service.clone(),
        reference: to.whole(),
        descriptor: image.root.clone(),
        blobs: image.everything(),
        pushed: app.push,
        platform: None,
        milliseconds: milliseconds(begun),
    });
    Ok(images.collect())
}

fn milliseconds(begun: Instant) -> u64 {
    u64::try_from(begun.elapsed().as_millis()).unwrap_or(u64::MAX)
}

/// Adds `BUILD_AUTH` and its parts to what steps may have.
pub fn grant_auth(grants: &mut Grants, auth: super::rack::BuildAuth) {
    grants.secrets.insert(BUILD_AUTH.to_owned(), auth.value);
    grants.parts.extend(auth.parts.into_iter().map(|part| (BUILD_AUTH.to_owned(), part)));
}
