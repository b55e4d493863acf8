//! The records of one app, in files:
//!
//! ```text
//! <home>/racks/<rack>/               0700
//!   params.json, auth.json           0600; see `rack`
//!   apps/<app>/
//!     app.json                       settings, the active release
//!     builds/<ID>/build.json         one directory a build, made with O_EXCL
//!                /log                what the user saw
//!                /images.json        one image a service
//!                /steps.json         what each step did: its time, and why the cache did not have it
//!                /lock               flock of the process that builds
//!     releases/<ID>.json             0600, for it has the environment
//! ```
//!
//! A file is written whole, made durable and renamed (see `files`). A build that says it runs while nobody holds its lock
//! was interrupted: it is shown as failed.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};

use fs_err::os::unix::fs::OpenOptionsExt;
use jiff::Timestamp;
use oci_spec::image::Digest;
use rustix::fs::FlockOperation;
use rustix::io::Errno;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::files::{make_private, names, open_private, write, write_new};
use super::id::{self, is_id};
use super::published::Published;
use super::record::{Build, Release, ServiceImage, Status, go_json};
use super::steps::StepRecord;

/// What a build says that ended with the process that ran it.
pub const INTERRUPTED: &str = "interrupted";

/// Why the records do not do what is asked.
#[derive(Debug, thiserror::Error)]
pub enum RecordError {
    /// A file or directory.
    #[error("cannot use the records of the app")]
    File(#[from] io::Error),
    /// A record that does not parse.
    #[error("the record `{}` is damaged", path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// Why.
        source: serde_json::Error,
    },
    /// A name that is none.
    #[error("`{name}` is no name of {what}: write lower-case letters, digits and `-`, beginning with a letter")]
    Name {
        /// The name.
        name: String,
        /// Of what it should be one.
        what: &'static str,
    },
    /// No such build.
    #[error("no such build: {0}")]
    NoBuild(String),
    /// No such release.
    #[error("no such release: {0}")]
    NoRelease(String),
}

/// `app.json`.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct AppSettings {
    /// The release that was promoted last; empty before the first.
    pub active: String,
    /// Settings of the app.
    pub params: BTreeMap<String, String>,
}

/// The records of one app.
#[derive(Debug, Clone)]
pub struct Records {
    directory: PathBuf,
    app: String,
}

/// A build while it runs: it holds the build's lock.
#[derive(Debug)]
pub struct Running {
    /// The record, written with [`Running::save`].
    pub record: Build,
    directory: PathBuf,
    _lock: fs_err::File,
}

impl Records {
    /// Opens the records of an app below a rack's directory; nothing is made before something is kept.
    pub fn open(rack: &Path, app: &str) -> Result<Self, RecordError> {
        if !id::is_name(app) {
            return Err(RecordError::Name { name: app.to_owned(), what: "an app" });
        }
        Ok(Self { directory: rack.join("apps").join(app), app: app.to_owned() })
    }

    /// Makes a new build and holds it.
    pub fn create_build(&self, record: Build) -> Result<Running, RecordError> {
        let builds = self.directory.join("builds");
        make_private(&builds)?;
        loop {
            let id = id::random('B')?;
            let directory = builds.join(&id);
            match fs_err::create_dir(&directory) {
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => continue,
                other => other?,
            }
            let lock = open_private(&directory.join("lock"))?;
            rustix::fs::flock(&lock, FlockOperation::LockExclusive).map_err(io::Error::from)?;
            let process = std::process::id().to_string();
            let record = Build { id, app: self.app.clone(), process, ..record };
            let running = Running { record, directory, _lock: lock };
            running.save()?;
            return Ok(running);
        }
    }

    /// One build.
    pub fn build(&self, id: &str) -> Result<Build, RecordError> {
        let missing = || RecordError::NoBuild(id.to_owned());
        if !is_id('B', id) {
            return Err(missing());
        }
        let directory = self.directory.join("builds").join(id);
        let build: Option<Build> = read(&directory.join("build.json"))?;
        settle(build.ok_or_else(missing)?, &directory)
    }

    /// All builds, the newest first.
    pub fn builds(&self) -> Result<Vec<Build>, RecordError> {
        let mut builds = Vec::new();
        for name in names(&self.directory.join("builds"))? {
            match self.build(&name) {
                Ok(build) => builds.push(build),
                // A build that is just being made or removed.
                Err(RecordError::NoBuild(_)) => {}
                Err(error) => return Err(error),
            }
        }
        builds.sort_by(|a, b| (b.started, &b.id).cmp(&(a.started, &a.id)));
        Ok(builds)
    }

    /// The file with the log of a build.
    pub fn log(&self, id: &str) -> Result<PathBuf, RecordError> {
        Ok(self.directory.join("builds").join(self.build(id)?.id).join("log"))
    }

    /// The images of a build; none before it has any.
    pub fn images(&self, id: &str) -> Result<Vec<ServiceImage>, RecordError> {
        let path = self.directory.join("builds").join(self.build(id)?.id).join("images.json");
        Ok(read(&path)?.unwrap_or_default())
    }

    /// Keeps the record of a build that was made elsewhere and has ended; one of its name that is here stays.
    pub fn adopt(&self, record: &Published) -> Result<(), RecordError> {
        let Published { build, images, steps, log } = record;
        if !is_id('B', &build.id) {
            return Err(RecordError::NoBuild(build.id.clone()));
        }
        let directory = self.directory.join("builds").join(&build.id);
        make_private(&directory)?;
        write(&directory.join("log"), log)?;
        write(&directory.join("images.json"), go_json(images).as_bytes())?;
        write(&directory.join("steps.json"), go_json(steps).as_bytes())?;
        match write_new(&directory.join("build.json"), go_json(build).as_bytes()) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
            other => Ok(other?),
        }
    }

    /// The steps of a build; none before it has ended.
    pub fn steps(&self, id: &str) -> Result<Vec<StepRecord>, RecordError> {
        let path = self.directory.join("builds").join(self.build(id)?.id).join("steps.json");
        Ok(read(&path)?.unwrap_or_default())
    }

    /// Forgets a build.
    pub fn remove_build(&self, id: &str) -> Result<(), RecordError> {
        let directory = self.directory.join("builds").join(self.build(id)?.id);
        // Without this file it is no build any more, whatever happens to the rest.
        fs_err::remove_file(directory.join("build.json"))?;
        Ok(fs_err::remove_dir_all(directory)?)
    }

    /// Keeps a new release and gives it a name.
    pub fn create_release(&self, release: &Release) -> Result<Release, RecordError> {
        let releases = self.directory.join("releases");
        make_private(&releases)?;
        loop {
            let release = Release { id: id::random('R')?, app: self.app.clone(), ..release.clone() };
            let path = releases.join(format!("{}.json", release.id));
            match write_new(&path, go_json(&release).as_bytes()) {
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
                other => return Ok(other.map(|()| release)?),
            }
        }
    }

    /// One release.
    pub fn release(&self, id: &str) -> Result<Release, RecordError> {
        let missing = || RecordError::NoRelease(id.to_owned());
        if !is_id('R', id) {
            return Err(missing());
        }
        read(&self.directory.join("releases").join(format!("{id}.json")))?.ok_or_else(missing)
    }

    /// All releases, the newest first.
    pub fn releases(&self) -> Result<Vec<Release>, RecordError> {
        let mut releases: Vec<(Release, Option<std::time::SystemTime>)> = Vec::new();
        let directory = self.directory.join("releases");
        for name in names(&directory)? {
            let Some(id) = name.strip_suffix(".json").filter(|id| is_id('R', id)) else { continue };
            match self.release(id) {
                // Two releases of one moment are told apart by their files.
                Ok(release) => releases.push((release, fs_err::metadata(directory.join(&name))?.modified().ok())),
                Err(RecordError::NoRelease(_)) => {}
                Err(error) => return Err(error),
            }
        }
        releases.sort_by(|(a, a_file), (b, b_file)| (b.created, b_file).cmp(&(a.created, a_file)));
        Ok(releases.into_iter().map(|(release, _)| release).collect())
    }

    /// Forgets a release.
    pub fn remove_release(&self, id: &str) -> Result<(), RecordError> {
        let id = self.release(id)?.id;
        Ok(fs_err::remove_file(self.directory.join("releases").join(format!("{id}.json")))?)
    }

    /// The settings of the app.
    pub fn settings(&self) -> Result<AppSettings, RecordError> {
        Ok(read(&self.directory.join("app.json"))?.unwrap_or_default())
    }

    /// Keeps the settings of the app.
    pub fn set_settings(&self, settings: &AppSettings) -> Result<(), RecordError> {
        make_private(&self.directory)?;
        Ok(write(&self.directory.join("app.json"), go_json(settings).as_bytes())?)
    }
}

impl Running {
    /// Writes the record.
    pub fn save(&self) -> Result<(), RecordError> {
        Ok(write(&self.directory.join("build.json"), go_json(&self.record).as_bytes())?)
    }

    /// Writes the images.
    pub fn save_images(&self, images: &[ServiceImage]) -> Result<(), RecordError> {
        Ok(write(&self.directory.join("images.json"), go_json(&images).as_bytes())?)
    }

    /// Writes the steps.
    pub fn save_steps(&self, steps: &[StepRecord]) -> Result<(), RecordError> {
        Ok(write(&self.directory.join("steps.json"), go_json(&steps).as_bytes())?)
    }

    /// Opens the log, which grows.
    pub fn log(&self) -> Result<fs_err::File, RecordError> {
        let mut options = fs_err::OpenOptions::new();
        Ok(options.append(true).create(true).mode(0o600).open(self.directory.join("log"))?)
    }

    /// Ends the build.
    pub fn end(&mut self, status: Status, reason: &str, now: Timestamp) -> Result<(), RecordError> {
        self.record.status = status;
        reason.clone_into(&mut self.record.reason);
        self.record.ended = Some(now);
        self.save()
    }
}

/// A build that says it runs while no process holds its lock was interrupted.
fn settle(mut build: Build, directory: &Path) -> Result<Build, RecordError> {
    if !matches!(build.status, Status::Created | Status::Running) {
        return Ok(build);
    }
    let lock = match fs_err::File::open(directory.join("lock")) {
        Ok(lock) => lock,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(build),
        Err(error) => return Err(error.into()),
    };
    match rustix::fs::flock(&lock, FlockOperation::NonBlockingLockShared) {
        Ok(()) => {
            // It may have ended between the two looks.
            if let Some(ended) = read::<Build>(&directory.join("build.json"))? {
                build = ended;
            }
            if matches!(build.status, Status::Created | Status::Running) {
                (build.status, build.reason) = (Status::Failed, INTERRUPTED.to_owned());
            }
            Ok(build)
        }
        Err(Errno::WOULDBLOCK) => Ok(build),
        Err(error) => Err(io::Error::from(error).into()),
    }
}

/// The blobs that the builds of all apps below a state directory need of the store: those of images that were not pushed.
/// A record that cannot be read keeps nothing.
pub fn kept_blobs(home: &Path) -> Vec<Digest> {
    let below = |directories: Vec<PathBuf>, inner: &str| -> Vec<PathBuf> {
        let inner = directories.iter().map(|directory| directory.join(inner));
        inner
            .flat_map(|inner| names(&inner).unwrap_or_default().into_iter().map(move |name| inner.join(name)))
            .collect()
    };
    let builds = below(below(below(vec![home.to_owned()], "racks"), "apps"), "builds");
    let images = builds.iter().filter_map(|build| read::<Vec<ServiceImage>>(&build.join("images.json")).ok().flatten());
    let kept = images.flatten().filter(|image| !image.pushed);
    kept.flat_map(|image| image.blobs).map(|blob| blob.digest().clone()).collect()
}

/// Reads a record; none where there is no file.
pub(super) fn read<T: DeserializeOwned>(path: &Path) -> Result<Option<T>, RecordError> {
    match fs_err::read(path) {
        Ok(bytes) => serde_json::from_slice(&bytes)
            .map(Some)
            .map_err(|source| RecordError::Damaged { path: path.to_owned(), source }),
        Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn records() -> (tempfile::TempDir, Records) {
        let directory = tempfile::tempdir().unwrap();
        let records = Records::open(directory.path(), "myapp").unwrap();
        (directory, records)
    }

    fn at(second: i64) -> Option<Timestamp> {
        Timestamp::from_second(second).ok()
    }

    #[test]
    fn builds_are_listed_newest_first() {
        let (_directory, records) = records();
        assert_eq!(records.builds().unwrap(), []);
        let ids: Vec<String> = (0..3)
            .map(|second| {
                let mut running = records.create_build(Build { started: at(second), ..Build::default() }).unwrap();
                running.end(Status::Complete, "", Timestamp::now()).unwrap();
                running.record.id
            })
            .collect();
        let listed: Vec<String> = records.builds().unwrap().into_iter().map(|build| build.id).collect();
        assert_eq!(listed, [ids[2].clone(), ids[1].clone(), ids[0].clone()]);
        records.remove_build(&ids[1]).unwrap();
        assert!(matches!(records.build(&ids[1]), Err(RecordError::NoBuild(_))));
        assert_eq!(records.builds().unwrap().len(), 2);
    }

    #[test]
    fn a_build_whose_process_is_gone_was_interrupted() {
        let (_directory, records) = records();
        let mut running = records.create_build(Build::default()).unwrap();
        running.record.status = Status::Running;
        running.save().unwrap();
        let id = running.record.id.clone();
        assert_eq!(records.build(&id).unwrap().status, Status::Running);
        drop(running);
        let build = records.build(&id).unwrap();
        assert_eq!((build.status, build.reason.as_str()), (Status::Failed, INTERRUPTED));
    }

    #[test]
    fn releases_keep_their_order_and_their_secrets() {
        use std::os::unix::fs::PermissionsExt;
        let (directory, records) = records();
        let release = |env: &str| Release { env: env.into(), created: at(1), ..Release::default() };
        records.create_release(&release("A=1")).unwrap();
        std::thread::sleep(std::time::Duration::from_millis(20));
        let second = records.create_release(&release("A=2")).unwrap();
        assert_eq!(records.releases().unwrap()[0], second);
        let file = directory.path().join("apps/myapp/releases").join(format!("{}.json", second.id));
        assert_eq!(fs_err::metadata(file).unwrap().permissions().mode() & 0o777, 0o600);
    }

    #[test]
    fn many_builds_are_listed_and_names_lead_nowhere_else() {
        let (_directory, records) = records();
        for _ in 0..50 {
            records.create_build(Build::default()).unwrap().end(Status::Complete, "", Timestamp::now()).unwrap();
        }
        assert_eq!(records.builds().unwrap().len(), 50);
        for id in ["../../x", "", "B/../B", "b"] {
            assert!(matches!(records.build(id), Err(RecordError::NoBuild(_))), "{id}");
            assert!(matches!(records.release(id), Err(RecordError::NoRelease(_))), "{id}");
        }
        assert!(Records::open(Path::new("/"), "../x").is_err());
    }
}
