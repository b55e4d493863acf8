//! `rbuild run`: a service of an app in the sandbox, to see it answer.

use std::collections::BTreeMap;
use std::process::ExitCode;

use anyhow::Context;
use builder::app::environment;
use builder::app::interpolate::interpolate;
use builder::app::manifest;
use builder::app::run::{self, Run};
use builder::build::Machine;
use builder::prune::Limit;
use builder::sandbox::{Cancel, Stream};
use clap::Args;

use super::{Place, app_failure, refuse, registry_options};
use crate::commands::isolation::IsolationArgs;
use crate::commands::registries::RegistryArgs;
use crate::report::Failure;
use crate::signals;
use crate::ui::{self, Mode};

/// Run a service of an app, as it was built
#[derive(Debug, Args)]
pub(crate) struct RunArgs {
    #[command(flatten)]
    place: Place,
    /// The release [default: the newest that has a build]
    #[arg(long, value_name = "RELEASE")]
    release: Option<String>,
    #[command(flatten)]
    isolation: IsolationArgs,
    /// The service
    service: String,
    /// What runs instead of the service's command
    #[arg(trailing_var_arg = true, allow_hyphen_values = true, value_name = "COMMAND")]
    command: Vec<String>,
}

pub(crate) fn run(args: &RunArgs) -> Result<ExitCode, Failure> {
    let (rack, records, app) = args.place.open()?;
    let release = if let Some(id) = &args.release {
        records.release(id).map_err(app_failure)?
    } else {
        let releases = records.releases().map_err(app_failure)?;
        let built = releases.into_iter().find(|release| !release.build.is_empty());
        built.ok_or_else(|| refuse(format!("the app {app} has no build: `rbuild build -a {app}` makes one")))?
    };
    let images = records.images(&release.build).map_err(app_failure)?;
    let image = images.iter().find(|image| image.service == args.service);
    let image = image.ok_or_else(|| {
        let known: Vec<&str> = images.iter().map(|image| image.service.as_str()).collect();
        refuse(format!("no such service: {}; the build {} has {}", args.service, release.build, known.join(", ")))
    })?;
    let app_environment = environment::parse(&release.env);
    let manifest = manifest::parse(&interpolate(&release.manifest, &app_environment)).map_err(app_failure)?;
    let service = manifest.service(&args.service);

    let mut variables = BTreeMap::from([
        ("APP".to_owned(), app),
        ("BUILD".to_owned(), release.build.clone()),
        ("RACK".to_owned(), rack.name.clone()),
        ("RELEASE".to_owned(), release.id.clone()),
        ("SERVICE".to_owned(), args.service.clone()),
    ]);
    variables.extend(service.and_then(|service| service.port).map(|port| ("PORT".to_owned(), port.to_string())));
    let of_service = service.into_iter().flat_map(|service| &service.environment);
    let defaults = manifest.environment.iter().chain(of_service);
    variables.extend(defaults.filter_map(|variable| Some((variable.name.clone(), variable.default.clone()?))));
    variables.extend(app_environment);

    let sandbox = args.isolation.enter()?;
    let cancel = Cancel::new().context("cannot prepare to cancel the service").map_err(Failure::Environment)?;
    signals::cancel_on_signals(cancel.clone()).context("cannot take signals").map_err(Failure::Environment)?;
    let (home, registry) = (crate::commands::home()?, registry_options(&rack, &RegistryArgs::default())?);
    let machine = Machine {
        home: &home,
        sandbox: &sandbox,
        registry: &registry,
        cancel: &cancel,
        keep_storage: Limit::default(),
    };
    let line = service.and_then(|service| service.command.as_deref()).filter(|_| args.command.is_empty());
    let run = Run { image, command: &args.command, line, environment: &variables };
    let display = ui::display(Mode::Quiet);
    let mut output = |stream: Stream, bytes: &[u8]| ui::pass_on(stream == Stream::Stderr, bytes);
    let code = match run::run(&run, &machine, display.as_ref(), &mut output) {
        // Ctrl-C is how a service is ended.
        Err(_) if cancel.is_cancelled() => 130,
        other => other.map_err(app_failure)?,
    };
    Ok(ExitCode::from(u8::try_from(code).unwrap_or(1)))
}
