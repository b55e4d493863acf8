//! `rbuild env`: the variables of an app. Every change is a release.

use builder::app::environment::{self, Environment};
use builder::app::record::Release;
use builder::app::records::Records;
use builder::paths;
use clap::{Args, Subcommand};

use super::{ALOUD, Outcome, Place, app_failure, latest, pair, print_json, refuse};
use crate::report::Failure;
use crate::ui;

/// Show and change the environment of an app
#[derive(Debug, Args)]
pub(crate) struct EnvArgs {
    #[command(flatten)]
    place: Place,
    /// Print JSON
    #[arg(long)]
    json: bool,
    #[command(subcommand)]
    command: Option<EnvCommand>,
}

#[derive(Debug, Subcommand)]
enum EnvCommand {
    /// Print the value of a variable
    Get {
        /// The variable
        name: String,
    },
    /// Set variables; `NAME=-` reads the value from standard input
    Set {
        /// `NAME=VALUE`
        #[arg(required = true, value_name = "NAME=VALUE")]
        pairs: Vec<String>,
    },
    /// Take variables away
    Unset {
        /// The variables
        #[arg(required = true, value_name = "NAME")]
        names: Vec<String>,
    },
}

pub(crate) fn run(args: &EnvArgs) -> Outcome {
    let (_, records, _) = args.place.open()?;
    let release = latest(&records)?;
    let environment = environment::parse(&release.env);
    match &args.command {
        None if args.json => print_json(&environment),
        None => {
            let text = environment::render(&environment);
            ui::print(&if text.is_empty() { text } else { text + "\n" });
        }
        Some(EnvCommand::Get { name }) => match environment.get(name) {
            Some(value) => ui::print(&format!("{value}\n")),
            None => return Err(refuse(format!("env not found: {name}"))),
        },
        Some(EnvCommand::Set { pairs }) => {
            let mut changed = environment;
            let mut names = Vec::new();
            for text in pairs {
                let (name, value) = pair(text)?;
                if value.contains('\n') {
                    return Err(refuse(format!("`{name}`: a variable has a value of one line")));
                }
                names.push(name.clone());
                changed.insert(name, value);
            }
            change(&records, &release, &changed, &format!("Setting {}", names.join(", ")))?;
        }
        Some(EnvCommand::Unset { names }) => {
            let mut changed = environment;
            changed.retain(|name, _| !names.contains(name));
            change(&records, &release, &changed, &format!("Unsetting {}", names.join(", ")))?;
        }
    }
    Ok(())
}

/// Makes a release with another environment.
fn change(records: &Records, release: &Release, environment: &Environment, doing: &str) -> Result<(), Failure> {
    let made = ALOUD.doing(doing, || {
        let description = environment::describe(&environment::parse(&release.env), environment);
        let env = environment::render(environment);
        let release = Release { env, description, created: Some(paths::now()), ..release.clone() };
        records.create_release(&release).map_err(app_failure)
    })?;
    ui::print(&format!("Release: {}\n", made.id));
    Ok(())
}
