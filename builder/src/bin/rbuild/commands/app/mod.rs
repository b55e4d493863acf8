//! The commands about apps: where they look, how they talk. One module a family.

pub(crate) mod archives;
pub(crate) mod build;
pub(crate) mod builds;
pub(crate) mod environment;
pub(crate) mod published;
pub(crate) mod racks;
pub(crate) mod releases;
pub(crate) mod run;
pub(crate) mod usage;

use std::io::Read;
use std::time::Duration;

use anyhow::{Context, anyhow};
use builder::app::rack::Rack;
use builder::app::record::{Release, go_json};
use builder::app::records::Records;
use builder::pair::{NoName, Pair};
use builder::paths;
use clap::Args;
use serde::Serialize;

use crate::commands::registries::{self, RegistryArgs};
use crate::report::Failure;
use crate::ui;

/// The rack of those who name none.
const DEFAULT_RACK: &str = "local";

/// What the commands about apps end with.
pub(crate) type Outcome = Result<(), Failure>;

/// Which app, and in which rack.
#[derive(Debug, Clone, Default, Args)]
pub(crate) struct Place {
    /// The app [default: `.convox/app`, else the name of the directory]
    #[arg(short, long, global = true, value_name = "APP", help_heading = "Apps")]
    pub(crate) app: Option<String>,
    #[command(flatten)]
    pub(crate) rack: RackName,
}

/// Which rack.
#[derive(Debug, Clone, Default, Args)]
pub(crate) struct RackName {
    /// The rack [default: `$RBUILD_RACK`, `$CONVOX_RACK`, `.rbuild/rack`, `.convox/rack`, else `local`]
    #[arg(short, long, global = true, value_name = "RACK", help_heading = "Apps")]
    pub(crate) rack: Option<String>,
}

/// What a table shows, and how often.
#[derive(Debug, Args)]
pub(crate) struct Listing {
    /// How many to show
    #[arg(short, long, value_name = "N", default_value_t = 10)]
    pub(crate) limit: usize,
    /// Show them again every so many seconds
    #[arg(long, value_name = "SECONDS")]
    watch: Option<u64>,
    /// Print JSON
    #[arg(long, global = true)]
    pub(crate) json: bool,
}

impl Listing {
    /// Shows a table once, or again and again.
    pub(crate) fn repeat(&self, mut show: impl FnMut() -> Result<String, Failure>) -> Outcome {
        loop {
            let shown = show()?;
            if self.watch.is_some() && ui::is_terminal() {
                ui::print("\u{1b}[2J\u{1b}[H");
            }
            ui::print(&shown);
            let Some(seconds) = self.watch else { return Ok(()) };
            std::thread::sleep(Duration::from_secs(seconds.max(1)));
        }
    }
}

impl RackName {
    /// Opens the rack.
    pub(crate) fn open(&self) -> Result<Rack, Failure> {
        let variable = |name: &str| paths::variable(name).filter(|value| !value.is_empty());
        let name = self.rack.clone().or_else(|| variable("RBUILD_RACK")).or_else(|| variable("CONVOX_RACK"));
        let name = name.or_else(|| local(".rbuild/rack")).or_else(|| local(".convox/rack"));
        Rack::open(&crate::commands::home()?, name.as_deref().unwrap_or(DEFAULT_RACK)).map_err(app_failure)
    }
}

impl Place {
    /// Opens the records of the app.
    pub(crate) fn open(&self) -> Result<(Rack, Records, String), Failure> {
        let rack = self.rack.open()?;
        let name = match self.app.clone().or_else(|| local(".convox/app")) {
            Some(name) => name,
            None => directory_name()?,
        };
        let records = rack.app(&name).map_err(app_failure)?;
        Ok((rack, records, name))
    }
}

/// A local setting: the first line of a small file.
fn local(path: &str) -> Option<String> {
    let text = fs_err::read_to_string(path).ok()?;
    text.lines().next().map(|line| line.trim().to_owned()).filter(|line| !line.is_empty())
}

fn directory_name() -> Result<String, Failure> {
    let directory = fs_err::canonicalize(".").context("cannot find the working directory").map_err(Failure::App)?;
    let name = directory.file_name().map(|name| name.to_string_lossy().into_owned());
    name.ok_or_else(|| refuse("the root directory names no app: write `-a APP`"))
}

/// An error as these commands end with: `ERROR: …`, exit code 1.
pub(crate) fn app_failure(error: impl Into<anyhow::Error>) -> Failure {
    Failure::App(error.into())
}

/// Reads `NAME=VALUE`; `-` is the first line of standard input.
fn pair(text: &str) -> Result<(String, String), Failure> {
    let Pair { name, value } = text.parse().map_err(|wrong: NoName| refuse(wrong.to_string()))?;
    let value = value.ok_or_else(|| refuse(format!("`{text}` is not NAME=VALUE")))?;
    Ok((name, if value == "-" { password_from_stdin()? } else { value }))
}

/// A refusal in a sentence.
pub(crate) fn refuse(sentence: impl Into<String>) -> Failure {
    Failure::App(anyhow!(sentence.into()))
}

/// Says what a command does: to standard output, or to standard error where that is for something else.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Voice {
    /// Standard output has to stay clean.
    pub(crate) aside: bool,
}

impl Voice {
    /// Says something.
    pub(crate) fn say(self, text: &str) {
        if self.aside { ui::pass_on(true, text.as_bytes()) } else { ui::print(text) }
    }

    /// `Doing it... OK`: the end comes when the work has.
    pub(crate) fn doing<T>(self, what: &str, work: impl FnOnce() -> Result<T, Failure>) -> Result<T, Failure> {
        self.say(&format!("{what}... "));
        let result = work()?;
        self.say("OK\n");
        Ok(result)
    }

    /// `Doing it... OK, R…`.
    pub(crate) fn making(self, what: &str, work: impl FnOnce() -> Result<String, Failure>) -> Result<String, Failure> {
        self.say(&format!("{what}... "));
        let made = work()?;
        self.say(&format!("OK, {made}\n"));
        Ok(made)
    }
}

/// Standard output, for those that do what they say.
pub(crate) const ALOUD: Voice = Voice { aside: false };

/// A document as it is printed.
pub(crate) fn json_text(document: &impl Serialize) -> String {
    go_json(document) + "\n"
}

/// Prints a document.
pub(crate) fn print_json(document: &impl Serialize) {
    ui::print(&json_text(document));
}

/// The newest release; an empty one before the first.
pub(crate) fn latest(records: &Records) -> Result<Release, Failure> {
    Ok(records.releases().map_err(app_failure)?.into_iter().next().unwrap_or_default())
}

/// The options of the registry client: those of this user and machine, and the credentials of a rack before theirs.
pub(crate) fn registry_options(rack: &Rack, args: &RegistryArgs) -> Result<registry::Options, Failure> {
    let options = registries::read(args).map_err(app_failure)?;
    let credentials = rack.credentials(options.credentials).map_err(app_failure)?;
    Ok(registry::Options { credentials, ..options })
}

/// A password from standard input: its first line.
pub(crate) fn password_from_stdin() -> Result<String, Failure> {
    let mut text = String::new();
    std::io::stdin().read_to_string(&mut text).context("cannot read the password").map_err(Failure::App)?;
    let line = text.lines().next().unwrap_or_default().to_owned();
    if line.is_empty() { Err(refuse("there is no password on standard input")) } else { Ok(line) }
}
