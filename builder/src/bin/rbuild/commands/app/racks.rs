//! `rbuild registries`, `rbuild rack params` and `rbuild apps params`.

use std::collections::BTreeMap;

use builder::app::rack::{EFFECTIVE, PASSWORDS, WITHOUT_EFFECT};
use builder::app::records::AppSettings;
use builder::graph::platform::Platform;
use clap::{Args, Subcommand};

use super::{ALOUD, Outcome, Place, RackName, app_failure, pair, password_from_stdin, print_json, refuse};
use crate::report::Failure;
use crate::ui;

/// What is shown instead of a password.
const MASK: &str = "**********";

/// The setting of an app for the architecture of its images.
pub(crate) const BUILD_ARCH: &str = "BuildArch";
/// The setting for the processors of a step, in thousandths.
pub(crate) const BUILD_CPU: &str = "BuildCpu";
/// The setting for the memory of a step, in MiB.
pub(crate) const BUILD_MEM: &str = "BuildMem";

/// Settings of an app that are about machines which a rack has and rbuild has not.
const APP_WITHOUT_EFFECT: [&str; 1] = ["BuildLabels"];

/// List and keep the credentials of registries
#[derive(Debug, Args)]
pub(crate) struct RegistriesArgs {
    #[command(flatten)]
    rack: RackName,
    /// Print JSON
    #[arg(long)]
    json: bool,
    #[command(subcommand)]
    command: Option<RegistriesCommand>,
}

#[derive(Debug, Subcommand)]
enum RegistriesCommand {
    /// Keep credentials of a registry
    Add {
        /// The registry
        server: String,
        /// The user
        username: String,
        /// The password; better on standard input, for other users see arguments
        #[arg(required_unless_present = "password_stdin", conflicts_with = "password_stdin")]
        password: Option<String>,
        /// Read the password from standard input
        #[arg(long)]
        password_stdin: bool,
    },
    /// Forget credentials of a registry
    Remove {
        /// The registry
        server: String,
    },
}

pub(crate) fn registries(args: &RegistriesArgs) -> Outcome {
    let rack = args.rack.open()?;
    match &args.command {
        None => {
            let known = rack.registries().map_err(app_failure)?;
            if args.json {
                let known: Vec<_> = known
                    .iter()
                    .map(|(server, username)| BTreeMap::from([("server", server), ("username", username)]))
                    .collect();
                print_json(&known);
                return Ok(());
            }
            let header = ["SERVER", "USERNAME"].map(str::to_owned);
            let rows = known.into_iter().map(|(server, username)| [server, username]);
            ui::print(&ui::columns_of(std::iter::once(header).chain(rows)));
            Ok(())
        }
        Some(RegistriesCommand::Add { server, username, password, .. }) => {
            let password = password.clone().map_or_else(password_from_stdin, Ok)?;
            ALOUD.doing("Adding registry", || rack.add_registry(server, username, &password).map_err(app_failure))
        }
        Some(RegistriesCommand::Remove { server }) => ALOUD.doing("Removing registry", || {
            if rack.remove_registry(server).map_err(app_failure)? {
                Ok(())
            } else {
                Err(refuse(format!("no such registry: {server}")))
            }
        }),
    }
}

/// Show and change the settings of a rack: a profile on this machine
#[derive(Debug, Args)]
pub(crate) struct RackArgs {
    #[command(flatten)]
    rack: RackName,
    #[command(subcommand)]
    command: RackCommand,
}

#[derive(Debug, Subcommand)]
enum RackCommand {
    /// Show or change the settings of a rack
    Params {
        /// Show passwords
        #[arg(long)]
        reveal: bool,
        /// Print JSON
        #[arg(long)]
        json: bool,
        #[command(subcommand)]
        command: Option<ParamsCommand>,
    },
}

#[derive(Debug, Subcommand)]
enum ParamsCommand {
    /// Change settings; an empty value takes one away, `NAME=-` reads it from standard input
    Set {
        /// `NAME=VALUE`
        #[arg(required = true, value_name = "NAME=VALUE")]
        pairs: Vec<String>,
    },
    /// Take settings away
    Unset {
        /// The settings
        #[arg(required = true, value_name = "NAME")]
        names: Vec<String>,
    },
}

impl ParamsCommand {
    /// What is to be changed; an empty value takes a setting away.
    fn changes(&self) -> Result<Vec<(String, String)>, Failure> {
        match self {
            Self::Unset { names } => Ok(names.iter().map(|name| (name.clone(), String::new())).collect()),
            Self::Set { pairs } => pairs.iter().map(|text| pair(text)).collect(),
        }
    }
}

pub(crate) fn rack(args: &RackArgs) -> Outcome {
    let rack = args.rack.open()?;
    let RackCommand::Params { reveal, json, command } = &args.command;
    let Some(command) = command else {
        let mut params = rack.params().map_err(app_failure)?;
        if !reveal {
            let passwords = params.iter_mut().filter(|(name, _)| PASSWORDS.contains(&name.as_str()));
            passwords.for_each(|(_, value)| MASK.clone_into(value));
        }
        show(&params, *json);
        return Ok(());
    };
    let changes = command.changes()?;
    check(&changes, &EFFECTIVE, &WITHOUT_EFFECT)?;
    ALOUD.doing("Setting parameters", || rack.set_params(&changes).map_err(app_failure))
}

/// Refuses settings that nobody knows, and says which have no effect.
fn check(changes: &[(String, String)], effective: &[&str], without_effect: &[&str]) -> Outcome {
    for (name, value) in changes {
        if without_effect.contains(&name.as_str()) {
            ui::note(&format!("warning: `{name}` is kept and has no effect: it is about machines of a rack"));
        } else if !effective.contains(&name.as_str()) {
            return Err(refuse(format!("no such parameter: {name}; there are {}", effective.join(", "))));
        }
        if name == "registry" && !value.is_empty() {
            let reference = registry::reference::parse(&format!("{}/app:tag", value.trim_end_matches('/')));
            reference.map_err(app_failure)?;
        }
        if name == "cache" && !value.is_empty() {
            registry::reference::parse(&format!("{value}:tag")).map_err(app_failure)?;
        }
        if name == "disable_image_manifest_cache" && !["", "true", "false"].contains(&value.as_str()) {
            return Err(refuse(format!("`{name}={value}`: write `true` or `false`")));
        }
        let number = ["releases_to_retain_after_active", BUILD_CPU, BUILD_MEM].contains(&name.as_str());
        if number && !value.is_empty() && value.parse::<u32>().is_err() {
            return Err(refuse(format!("`{name}={value}`: write a number")));
        }
        if name == BUILD_ARCH && !value.is_empty() {
            value.parse::<Platform>().map_err(app_failure)?;
        }
    }
    Ok(())
}

fn show(params: &BTreeMap<String, String>, json: bool) {
    if json {
        return print_json(params);
    }
    let rows: Vec<(String, String)> = params.iter().map(|(name, value)| (name.clone(), value.clone())).collect();
    ui::print(&ui::facts(&rows));
}

/// Show and change the settings of an app
#[derive(Debug, Args)]
pub(crate) struct AppsArgs {
    #[command(flatten)]
    place: Place,
    #[command(subcommand)]
    command: AppsCommand,
}

#[derive(Debug, Subcommand)]
enum AppsCommand {
    /// Show or change the settings of an app
    Params {
        /// Print JSON
        #[arg(long)]
        json: bool,
        #[command(subcommand)]
        command: Option<ParamsCommand>,
    },
}

pub(crate) fn apps(args: &AppsArgs) -> Outcome {
    let (_, records, _) = args.place.open()?;
    let AppsCommand::Params { json, command } = &args.command;
    let AppSettings { mut params, active } = records.settings().map_err(app_failure)?;
    let Some(command) = command else {
        show(&params, *json);
        return Ok(());
    };
    let changes = command.changes()?;
    check(&changes, &[BUILD_ARCH, BUILD_CPU, BUILD_MEM], &APP_WITHOUT_EFFECT)?;
    ALOUD.doing("Setting parameters", || {
        params.extend(changes);
        params.retain(|_, value| !value.is_empty());
        records.set_settings(&AppSettings { active, params }).map_err(app_failure)
    })
}
