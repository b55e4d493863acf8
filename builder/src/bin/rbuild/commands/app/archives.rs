//! `rbuild builds export`, `import` and `import-image`: builds that come from elsewhere.

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::path::Path;

use anyhow::Context;
use builder::app::archive::{self, Exporter, Imported};
use builder::app::build::reference;
use builder::app::environment;
use builder::app::interpolate::interpolate;
use builder::app::manifest::{self, Source};
use builder::app::rack::Rack;
use builder::app::record::{Build, Release, ServiceImage, Status};
use builder::app::records::{Records, Running};
use builder::app::transfer::{self, WholeImage};
use builder::build as building;
use builder::paths;
use builder::progress::Reporter;
use builder::whole;
use clap::Args;
use registry::Reference;
use snapshot::{Lease, Store};

use super::builds::complete;
use super::published::bring;
use super::{Outcome, Place, Voice, app_failure, latest, refuse, registry_options};
use crate::commands::registries::RegistryArgs;
use crate::report::Failure;
use crate::ui::{self, Mode};

/// `rbuild builds import-image`.
#[derive(Debug, Args)]
pub(crate) struct ImportImage {
    /// The image
    image: String,
    /// The convox.yml whose services get the image
    #[arg(short, long, value_name = "PATH", default_value = "convox.yml")]
    manifest: String,
    /// The user at the image's registry
    #[arg(long, value_name = "USER")]
    src_creds_user: Option<String>,
    /// The variable with the password
    #[arg(long, value_name = "NAME", requires = "src_creds_user", conflicts_with = "src_creds_pass_stdin")]
    src_creds_pass_env: Option<String>,
    /// Read the password from standard input
    #[arg(long, requires = "src_creds_user")]
    src_creds_pass_stdin: bool,
}

/// What moving images needs.
struct Tools {
    /// Holds what is read and written; let go before the store is.
    _lease: Lease,
    store: Store,
    client: registry::Client,
}

impl Tools {
    fn new(options: &registry::Options) -> Result<Self, Failure> {
        let sandbox = crate::commands::enter()?;
        let store = building::open_store(&crate::commands::home()?, &sandbox);
        let store = store.context("cannot use the store").map_err(Failure::App)?;
        let lease = store.lease("moving images of an app").context("cannot use the store").map_err(Failure::App)?;
        Ok(Self { _lease: lease, store, client: building::client(options).map_err(app_failure)? })
    }
}

pub(crate) fn export(place: &Place, id: &str, file: Option<&Path>) -> Outcome {
    if file.is_none() && ui::is_terminal() {
        return Err(refuse("pipe this command into a file or specify --file"));
    }
    let (rack, records, app) = place.open()?;
    bring(&rack, &records, &app, Some(id))?;
    let build = complete(&records, id)?;
    let tools = Tools::new(&registry_options(&rack, &RegistryArgs::default())?)?;
    let voice = Voice { aside: file.is_none() };
    voice.doing("Exporting build", || {
        let images = records.images(id).map_err(app_failure)?;
        let log = fs_err::read(records.log(id).map_err(app_failure)?).unwrap_or_default();
        let exporter = Exporter { store: &tools.store, client: &tools.client };
        let write = |out: &mut dyn Write| archive::export(&exporter, &build, &images, &log, out);
        match file {
            None => write(&mut ui::Output).map_err(app_failure),
            Some(path) => {
                let failed = |source| Failure::App(anyhow::Error::new(source).context("cannot write the archive"));
                whole::write(path, 0o600, failed, |out| write(out).map_err(app_failure))
            }
        }
    })
}

pub(crate) fn import(place: &Place, file: Option<&Path>, id: bool) -> Outcome {
    if file.is_none() && ui::stdin_is_terminal() {
        return Err(refuse("pipe a file into this command or specify --file"));
    }
    let (rack, records, app) = place.open()?;
    let tools = Tools::new(&registry_options(&rack, &RegistryArgs::default())?)?;
    let release = Voice { aside: id }.making("Importing build", || {
        let mut input: Box<dyn Read> = match file {
            Some(path) => Box::new(fs_err::File::open(path).context("cannot read the archive").map_err(Failure::App)?),
            None => Box::new(std::io::stdin()),
        };
        let imported = archive::import(&tools.store, &mut input).map_err(app_failure)?;
        keep(&rack, &records, &app, &tools, imported)
    })?;
    if id {
        ui::print(&release);
    }
    Ok(())
}

/// Makes a build and a release of what an archive had.
fn keep(rack: &Rack, records: &Records, app: &str, tools: &Tools, imported: Imported) -> Result<String, Failure> {
    let Imported { build, images, extra, log } = imported;
    let environment = environment::parse(&latest(records)?.env);
    let manifest = manifest::parse(&interpolate(&build.manifest, &environment)).map_err(app_failure)?;
    for service in &manifest.services {
        if !images.contains_key(&service.name) {
            return Err(app_failure(archive::ArchiveError::NoService(service.name.clone())));
        }
    }
    let extra = extra.unwrap_or_default();
    let record = Build {
        description: build.description,
        manifest: build.manifest,
        git_sha: extra.git_sha,
        entrypoint: extra.entrypoint,
        ..Build::default()
    };
    let wanted: Vec<(String, WholeImage, Option<Reference>)> =
        manifest.services.iter().map(|service| (service.name.clone(), images[&service.name].clone(), None)).collect();
    let mut running = begin(rack, records, app, record)?;
    running.log().and_then(|mut file| Ok(file.write_all(&log)?)).map_err(app_failure)?;
    let placed = place(rack, app, tools, &mut running, &wanted);
    finish(records, running, placed).map(|(_, release)| release)
}

pub(crate) fn import_image(place_of: &Place, args: &ImportImage) -> Outcome {
    let voice = Voice { aside: false };
    let (rack, records, app) = place_of.open()?;
    let given = registry::reference::parse(&args.image).map_err(app_failure)?;
    let mut options = registry_options(&rack, &RegistryArgs::default())?;
    if let Some(user) = &args.src_creds_user {
        let password = match &args.src_creds_pass_env {
            Some(name) => paths::variable(name).ok_or_else(|| refuse(format!("the variable {name} is not set")))?,
            None => super::password_from_stdin()?,
        };
        options.credentials = options.credentials.with_password(given.registry(), user, &password);
    }
    let text = fs_err::read_to_string(&args.manifest).context("cannot read the manifest").map_err(Failure::App)?;
    let environment = environment::parse(&latest(&records)?.env);
    let manifest = manifest::parse(&interpolate(&text, &environment)).map_err(app_failure)?;
    let tools = Tools::new(&options)?;

    voice.say("Creating build... ");
    let record = Build { manifest: text, description: format!("import {}", args.image), ..Build::default() };
    let mut running = begin(&rack, &records, &app, record)?;
    let id = running.record.id.clone();
    voice.say(&format!("OK, {id}\n"));
    let placed = voice.doing(&format!("Relaying image {}", args.image), || {
        let mut wanted = Vec::new();
        let mut known: BTreeMap<String, WholeImage> = BTreeMap::new();
        for service in &manifest.services {
            let from = match &service.source {
                Source::Image(own) => registry::reference::parse(own).map_err(app_failure)?,
                Source::Build(_) => given.clone(),
            };
            let image = match known.get(&from.whole()) {
                Some(image) => image.clone(),
                None => transfer::describe(&tools.client, &tools.store, &from).map_err(app_failure)?,
            };
            known.insert(from.whole(), image.clone());
            wanted.push((service.name.clone(), image, Some(from)));
        }
        place(&rack, &app, &tools, &mut running, &wanted)
    });
    let placed = match placed {
        Ok(images) => voice.doing("Waiting for import to complete", || Ok(images)),
        Err(error) => Err(error),
    };
    if placed.is_ok() {
        voice.say("Creating release... ");
    }
    let (build, release) = finish(&records, running, placed)?;
    voice.say(&format!("OK, {release}\nBuild:   {build}\nRelease: {release}\n"));
    Ok(())
}

/// Makes the record of a build that runs.
fn begin(rack: &Rack, records: &Records, app: &str, record: Build) -> Result<Running, Failure> {
    let repository = rack.repository(app).map_err(app_failure)?;
    let record = Build { repository, status: Status::Running, started: Some(paths::now()), ..record };
    records.create_build(record).map_err(app_failure)
}

/// Puts images where the app's are: into the rack's registry, else into the store.
fn place(
    rack: &Rack,
    app: &str,
    tools: &Tools,
    running: &mut Running,
    wanted: &[(String, WholeImage, Option<Reference>)],
) -> Result<Vec<ServiceImage>, Failure> {
    let (repository, pushes) = (rack.repository(app).map_err(app_failure)?, rack.pushes().map_err(app_failure)?);
    let display = ui::display(Mode::Quiet);
    let reporter = Reporter::new(display.as_ref());
    let mut images = Vec::new();
    for (service, image, from) in wanted {
        let to = reference(&repository, service, &running.record.id).map_err(app_failure)?;
        let step = reporter.start(&format!("copy {}", to.whole()), None);
        let moved = match (pushes, from) {
            (true, from) => transfer::push(&tools.client, &tools.store, image, (from.as_ref(), &to), &step),
            (false, Some(from)) => transfer::fetch_all(&tools.client, &tools.store, from, image),
            (false, None) => Ok(()),
        };
        step.finish(moved).map_err(app_failure)?;
        images.push(ServiceImage {
            service: service.clone(),
            reference: to.whole(),
            descriptor: image.root.clone(),
            blobs: image.everything(),
            pushed: pushes,
            platform: None,
            milliseconds: 0,
        });
    }
    Ok(images)
}

/// Ends the build, and makes its release when all went well.
fn finish(
    records: &Records,
    mut running: Running,
    placed: Result<Vec<ServiceImage>, Failure>,
) -> Result<(String, String), Failure> {
    match placed {
        Ok(images) => {
            running.save_images(&images).map_err(app_failure)?;
            let release = release(records, &running.record)?;
            running.record.release.clone_from(&release.id);
            running.end(Status::Complete, "", paths::now()).map_err(app_failure)?;
            Ok((running.record.id.clone(), release.id))
        }
        Err(failure) => {
            let reason = if let Failure::App(error) = &failure { format!("{error:#}") } else { String::new() };
            running.end(Status::Failed, &reason, paths::now()).map_err(app_failure)?;
            Err(failure)
        }
    }
}

/// The release of a build: the newest one's environment with this build.
pub(crate) fn release(records: &Records, build: &Build) -> Result<Release, Failure> {
    let env = latest(records)?.env;
    let (manifest, description) = (build.manifest.clone(), build.description.clone());
    let created = Some(paths::now());
    let release = Release { build: build.id.clone(), env, manifest, description, created, ..Release::default() };
    records.create_release(&release).map_err(app_failure)
}
