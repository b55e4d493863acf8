//! `rbuild builds`: listing, information, logs.

use std::io::{Read, Seek};
use std::path::PathBuf;
use std::time::Duration;

use anyhow::Context;
use builder::app::record::{Build, Status};
use builder::app::records::{RecordError, Records};
use builder::app::words::{ago, elapsed};
use builder::paths;
use clap::{Args, Subcommand};

use super::published::bring;
use super::{Listing, Outcome, Place, app_failure, archives, json_text, print_json, refuse};
use crate::commands::app::Failure;
use crate::ui;

/// How often a log is looked at that grows.
const TICK: Duration = Duration::from_millis(200);

/// List the builds of an app; look at, export and import one
#[derive(Debug, Args)]
pub(crate) struct BuildsArgs {
    #[command(flatten)]
    place: Place,
    #[command(flatten)]
    listing: Listing,
    #[command(subcommand)]
    command: Option<BuildsCommand>,
}

#[derive(Debug, Subcommand)]
enum BuildsCommand {
    /// Show what is known of a build
    Info {
        /// The build
        build: String,
        /// Show its commit, its reason and its images too
        #[arg(long)]
        verbose: bool,
    },
    /// Print the log of a build; of one that runs, as it grows
    Logs {
        /// The build
        build: String,
        /// Wait for a build that has not begun
        #[arg(short, long)]
        follow: bool,
    },
    /// Write a build with its images to an archive
    Export {
        /// The build
        build: String,
        /// The archive [default: standard output]
        #[arg(short, long)]
        file: Option<PathBuf>,
    },
    /// Read a build with its images from an archive
    Import {
        /// The archive [default: standard input]
        #[arg(short, long)]
        file: Option<PathBuf>,
        /// Print the release alone
        #[arg(long)]
        id: bool,
    },
    /// Make a build of an image that somebody else built
    ImportImage(archives::ImportImage),
}

pub(crate) fn run(args: &BuildsArgs) -> Outcome {
    match &args.command {
        None => list(args),
        Some(BuildsCommand::Info { build, verbose }) => info(args, build, *verbose),
        Some(BuildsCommand::Logs { build, follow }) => logs(args, build, *follow),
        Some(BuildsCommand::Export { build, file }) => archives::export(&args.place, build, file.as_deref()),
        Some(BuildsCommand::Import { file, id }) => archives::import(&args.place, file.as_deref(), *id),
        Some(BuildsCommand::ImportImage(image)) => archives::import_image(&args.place, image),
    }
}

fn list(args: &BuildsArgs) -> Outcome {
    let (rack, records, app) = args.place.open()?;
    bring(&rack, &records, &app, None)?;
    args.listing.repeat(|| {
        let mut builds = records.builds().map_err(app_failure)?;
        builds.truncate(args.listing.limit);
        if args.listing.json {
            return Ok(json_text(&builds));
        }
        let header = ["ID", "STATUS", "RELEASE", "STARTED", "ELAPSED", "DESCRIPTION"].map(str::to_owned);
        let now = paths::now();
        let rows = builds.into_iter().map(|build| {
            let Build { id, status, release, description, started, ended, .. } = build;
            [id, status.as_str().to_owned(), release, ago(started, now), elapsed(started, ended), description]
        });
        Ok(ui::columns_of(std::iter::once(header).chain(rows)))
    })
}

fn info(args: &BuildsArgs, id: &str, verbose: bool) -> Outcome {
    let (rack, records, app) = args.place.open()?;
    bring(&rack, &records, &app, Some(id))?;
    let build = records.build(id).map_err(app_failure)?;
    if args.listing.json {
        let mut document = serde_json::to_value(&build).context("cannot print the build").map_err(app_failure)?;
        let images = records.images(id).map_err(app_failure)?;
        document["images"] = serde_json::to_value(&images).context("cannot print the images").map_err(app_failure)?;
        let steps = records.steps(id).map_err(app_failure)?;
        document["steps"] = serde_json::to_value(&steps).context("cannot print the steps").map_err(app_failure)?;
        print_json(&document);
        return Ok(());
    }
    let mut rows = vec![
        ("Id".to_owned(), build.id.clone()),
        ("Status".to_owned(), build.status.as_str().to_owned()),
        ("Release".to_owned(), build.release.clone()),
        ("Description".to_owned(), build.description.clone()),
        ("Started".to_owned(), ago(build.started, paths::now())),
        ("Elapsed".to_owned(), elapsed(build.started, build.ended)),
    ];
    if verbose {
        rows.push(("Git Sha".to_owned(), build.git_sha.clone()));
        rows.push(("Reason".to_owned(), build.reason.clone()));
        for image in records.images(id).map_err(app_failure)? {
            rows.push((format!("Image {}", image.service), format!("{}@{}", image.reference, image.digest())));
        }
    }
    ui::print(&ui::facts(&rows));
    Ok(())
}

fn logs(args: &BuildsArgs, id: &str, follow: bool) -> Outcome {
    let (rack, records, app) = args.place.open()?;
    bring(&rack, &records, &app, Some(id))?;
    let mut build = records.build(id).map_err(app_failure)?;
    while follow && build.status == Status::Created {
        std::thread::sleep(TICK);
        build = records.build(id).map_err(app_failure)?;
    }
    let path = records.log(id).map_err(app_failure)?;
    let Ok(mut file) = fs_err::File::open(path) else {
        return Err(refuse(format!("unable to read logs for build: {id}")));
    };
    let mut position = 0;
    loop {
        // Asked before reading: what is written before the end is read after it.
        let ended = matches!(records.build(id).map_err(app_failure)?.status, Status::Complete | Status::Failed);
        position = pass_on(&mut file, position).map_err(app_failure)?;
        if ended {
            return Ok(());
        }
        std::thread::sleep(TICK);
    }
}

/// Prints what stands behind a position and returns the new one.
fn pass_on(file: &mut fs_err::File, position: u64) -> std::io::Result<u64> {
    file.seek(std::io::SeekFrom::Start(position))?;
    let mut bytes = Vec::new();
    file.read_to_end(&mut bytes)?;
    ui::pass_on(false, &bytes);
    Ok(position + bytes.len() as u64)
}

/// The build that a user names, which has to have ended well.
pub(crate) fn complete(records: &Records, id: &str) -> Result<Build, Failure> {
    let build = records.build(id).map_err(|error: RecordError| app_failure(error))?;
    match build.status {
        Status::Complete => Ok(build),
        other => Err(refuse(format!("the build {id} is {}: it has no images", other.as_str()))),
    }
}
