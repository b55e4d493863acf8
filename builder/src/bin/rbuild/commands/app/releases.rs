//! `rbuild releases` and `rbuild deploy`'s second half: listing, promoting, rolling back, putting together.

use builder::app::environment;
use builder::app::interpolate::interpolate;
use builder::app::manifest;
use builder::app::rack::Rack;
use builder::app::record::Release;
use builder::app::records::{AppSettings, Records};
use builder::app::words::ago;
use builder::paths;
use clap::{Args, Subcommand};

use super::{ALOUD, Listing, Outcome, Place, Voice, app_failure, json_text, latest, print_json, refuse};
use crate::report::Failure;
use crate::ui;

/// The setting that says how many releases stay behind the active one.
const RETAIN: &str = "releases_to_retain_after_active";

/// List the releases of an app; look at, promote and put together some
#[derive(Debug, Args)]
pub(crate) struct ReleasesArgs {
    #[command(flatten)]
    place: Place,
    #[command(flatten)]
    listing: Listing,
    #[command(subcommand)]
    command: Option<ReleasesCommand>,
}

#[derive(Debug, Subcommand)]
enum ReleasesCommand {
    /// Show what is known of a release
    Info {
        /// The release
        release: String,
        /// Show the values of the environment
        #[arg(long)]
        reveal: bool,
    },
    /// Print the convox.yml of a release
    Manifest {
        /// The release
        release: String,
    },
    /// Make a release the active one
    Promote {
        /// The release [default: the newest]
        release: Option<String>,
        /// Also when variables are missing
        #[arg(long)]
        force: bool,
    },
    /// Make a copy of an earlier release and promote it
    Rollback {
        /// The release
        release: String,
        /// Print the new release alone
        #[arg(long)]
        id: bool,
        /// Also when variables are missing
        #[arg(long)]
        force: bool,
    },
    /// Put a release together from the build of one and the environment of another
    CreateFrom(CreateFrom),
}

#[derive(Debug, Args)]
struct CreateFrom {
    /// The release whose build is taken
    #[arg(long, value_name = "RELEASE", conflicts_with = "use_active_release_build")]
    build_from: Option<String>,
    /// The release whose environment is taken
    #[arg(long, value_name = "RELEASE", conflicts_with = "use_active_release_env")]
    env_from: Option<String>,
    /// Take the build of the active release
    #[arg(long)]
    use_active_release_build: bool,
    /// Take the environment of the active release
    #[arg(long)]
    use_active_release_env: bool,
    /// Promote the new release
    #[arg(long)]
    promote: bool,
}

pub(crate) fn run(args: &ReleasesArgs) -> Outcome {
    let (rack, records, _) = args.place.open()?;
    match &args.command {
        None => list(args, &records),
        Some(ReleasesCommand::Info { release, reveal }) => info(&records, release, *reveal, args.listing.json),
        Some(ReleasesCommand::Manifest { release }) => {
            let release = records.release(release).map_err(app_failure)?;
            ui::print(&format!("{}\n", release.manifest.trim()));
            Ok(())
        }
        Some(ReleasesCommand::Promote { release, force }) => {
            let release = match release {
                Some(id) => records.release(id).map_err(app_failure)?,
                None => newest(&records)?,
            };
            promote(&rack, &records, &release, *force, ALOUD)
        }
        Some(ReleasesCommand::Rollback { release, id, force }) => rollback(&rack, &records, release, *id, *force),
        Some(ReleasesCommand::CreateFrom(args)) => create_from(&rack, &records, args),
    }
}

fn list(args: &ReleasesArgs, records: &Records) -> Outcome {
    args.listing.repeat(|| {
        let active = records.settings().map_err(app_failure)?.active;
        let mut releases = records.releases().map_err(app_failure)?;
        releases.truncate(args.listing.limit);
        if args.listing.json {
            for release in &mut releases {
                release.env = masked(&release.env);
            }
            return Ok(json_text(&releases));
        }
        let header = ["ID", "STATUS", "BUILD", "CREATED", "DESCRIPTION"].map(str::to_owned);
        let now = paths::now();
        let rows = releases.into_iter().map(|release| {
            let status = if release.id == active { "active" } else { "" };
            [release.id, status.to_owned(), release.build, ago(release.created, now), release.description]
        });
        Ok(ui::columns_of(std::iter::once(header).chain(rows)))
    })
}

/// The variables without their values.
fn masked(env: &str) -> String {
    let mut environment = environment::parse(env);
    for value in environment.values_mut() {
        "****".clone_into(value);
    }
    environment::render(&environment)
}

fn info(records: &Records, id: &str, reveal: bool, json: bool) -> Outcome {
    let mut release = records.release(id).map_err(app_failure)?;
    if !reveal && (json || ui::is_terminal()) {
        release.env = masked(&release.env);
    }
    if json {
        print_json(&release);
        return Ok(());
    }
    let created = release.created.map(|time| time.to_string()).unwrap_or_default();
    let rows = [
        ("Id", release.id),
        ("Build", release.build),
        ("Created", created),
        ("Description", release.description),
        ("Env", environment::render(&environment::parse(&release.env))),
    ];
    ui::print(&ui::facts(&rows.map(|(name, value)| (name.to_owned(), value))));
    Ok(())
}

fn newest(records: &Records) -> Result<Release, Failure> {
    let release = latest(records)?;
    if release.id.is_empty() { Err(refuse("no releases to promote")) } else { Ok(release) }
}

/// Makes a release the active one, and forgets what the rack does not retain.
pub(crate) fn promote(rack: &Rack, records: &Records, release: &Release, force: bool, voice: Voice) -> Outcome {
    voice.doing(&format!("Promoting {}", release.id), || activate(rack, records, release, force))
}

fn activate(rack: &Rack, records: &Records, release: &Release, force: bool) -> Outcome {
    if release.build.is_empty() {
        return Err(refuse(format!("the release {} has no build", release.id)));
    }
    let missing = missing(release)?;
    if !missing.is_empty() && !force {
        return Err(refuse(format!("required env: {}", missing.join(", "))));
    }
    let settings = records.settings().map_err(app_failure)?;
    records.set_settings(&AppSettings { active: release.id.clone(), ..settings }).map_err(app_failure)?;
    retain(rack, records)
}

/// The variables that a release's services need and that it does not have.
fn missing(release: &Release) -> Result<Vec<String>, Failure> {
    let environment = environment::parse(&release.env);
    if release.manifest.is_empty() {
        return Ok(Vec::new());
    }
    let manifest = manifest::parse(&interpolate(&release.manifest, &environment)).map_err(app_failure)?;
    Ok(manifest.missing(|name| environment.contains_key(name)))
}

/// Forgets the releases that are older than the active one and more than the rack retains, and builds of theirs alone.
fn retain(rack: &Rack, records: &Records) -> Outcome {
    let params = rack.params().map_err(app_failure)?;
    let Some(retained) = params.get(RETAIN).and_then(|text| text.parse::<usize>().ok()) else { return Ok(()) };
    let active = records.settings().map_err(app_failure)?.active;
    let releases = records.releases().map_err(app_failure)?;
    let Some(position) = releases.iter().position(|release| release.id == active) else { return Ok(()) };
    let (kept, old) = releases.split_at(releases.len().min(position + 1 + retained));
    for release in old {
        records.remove_release(&release.id).map_err(app_failure)?;
        let used = kept.iter().any(|kept| kept.build == release.build);
        if !used && records.build(&release.build).is_ok() {
            records.remove_build(&release.build).map_err(app_failure)?;
        }
    }
    Ok(())
}

fn rollback(rack: &Rack, records: &Records, id: &str, print_id: bool, force: bool) -> Outcome {
    let voice = Voice { aside: print_id };
    let earlier = records.release(id).map_err(app_failure)?;
    let made = voice.making(&format!("Rolling back to {id}"), || {
        let description = format!("rollback to {id}");
        let release = Release { created: Some(paths::now()), description, ..earlier };
        let release = records.create_release(&release).map_err(app_failure)?;
        activate(rack, records, &release, force)?;
        Ok(release.id)
    })?;
    if print_id {
        ui::print(&made);
    }
    Ok(())
}

fn create_from(rack: &Rack, records: &Records, args: &CreateFrom) -> Outcome {
    let active = || -> Result<Release, Failure> {
        let active = records.settings().map_err(app_failure)?.active;
        if active.is_empty() {
            Err(refuse("no release is active"))
        } else {
            records.release(&active).map_err(app_failure)
        }
    };
    let named = |id: &Option<String>, use_active: bool| match id {
        Some(id) => records.release(id).map_err(app_failure),
        None if use_active => active(),
        None => Err(refuse(
            "name both: --build-from or --use-active-release-build, and --env-from or --use-active-release-env",
        )),
    };
    let build = named(&args.build_from, args.use_active_release_build)?;
    let env = named(&args.env_from, args.use_active_release_env)?;
    ui::print(&format!("Using build from release: {}\nUsing env from release: {}\n", build.id, env.id));
    let description = format!("build from {}, env from {}", build.id, env.id);
    let release = Release { env: env.env, created: Some(paths::now()), description, ..build };
    let release = records.create_release(&release).map_err(app_failure)?;
    ui::print(&format!("Created release: {}\n", release.id));
    if args.promote {
        return promote(rack, records, &release, false, ALOUD);
    }
    ui::print("OK\n");
    Ok(())
}
