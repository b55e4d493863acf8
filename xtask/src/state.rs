//! Where the set-up keeps things, and the few environment variables that xtask reads.
//!
//! ```text
//! target/xtask/            or $RBUILD_XTASK_DIR
//!   lock                   held while something is being set up
//!   logs/                  what apt-get, debootstrap and the registry said
//!   registry/              config.json, address, pid, data/
//!   bases/                 <name>.stamp; <name>.rootfs and <name>.oci while a base is being made
//!   rbuild/                RBUILD_HOME of the builds that xtask runs
//!   podman/                storage of the demo's `podman run`
//! ```

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

/// The workspace and the state directory.
#[derive(Debug)]
pub(crate) struct State {
    /// Root of the workspace: the directory of the top Cargo.toml.
    pub(crate) workspace: PathBuf,
    directory: PathBuf,
}

/// Holds the lock of the state directory until it is dropped.
#[derive(Debug)]
pub(crate) struct Lock {
    _file: fs_err::File,
}

impl State {
    /// Finds the state directory; creates nothing.
    pub(crate) fn open() -> Result<Self> {
        let workspace = Path::new(env!("CARGO_MANIFEST_DIR")).parent().context("xtask lies outside of a workspace")?;
        let directory = match environment("RBUILD_XTASK_DIR") {
            Some(directory) => std::path::absolute(&directory)
                .with_context(|| format!("RBUILD_XTASK_DIR is not a usable path: `{}`", directory.display()))?,
            None => workspace.join("target/xtask"),
        };
        Ok(Self { workspace: workspace.to_owned(), directory })
    }

    /// Waits until no other xtask sets things up below the same directory.
    pub(crate) fn lock(&self) -> Result<Lock> {
        let path = self.directory()?.join("lock");
        let file = fs_err::OpenOptions::new().create(true).truncate(false).write(true).open(path)?;
        if file.file().try_lock().is_err() {
            eprintln!("waiting for another `cargo xtask` to finish its set-up");
            file.file().lock().with_context(|| format!("locking `{}`", file.path().display()))?;
        }
        Ok(Lock { _file: file })
    }

    /// The state directory itself.
    pub(crate) fn directory(&self) -> Result<&Path> {
        fs_err::create_dir_all(&self.directory)?;
        Ok(&self.directory)
    }

    /// A directory below the state directory, made when it is missing.
    pub(crate) fn subdirectory(&self, name: &str) -> Result<PathBuf> {
        let path = self.directory.join(name);
        fs_err::create_dir_all(&path)?;
        Ok(path)
    }

    /// The log of one chore.
    pub(crate) fn log(&self, name: &str) -> Result<PathBuf> {
        Ok(self.subdirectory("logs")?.join(format!("{name}.log")))
    }

    /// A path inside the workspace.
    pub(crate) fn source(&self, path: &str) -> PathBuf {
        self.workspace.join(path)
    }
}

/// A variable of the environment; an empty one counts as unset.
#[expect(clippy::disallowed_methods, reason = "the one file of xtask that reads the environment")]
pub(crate) fn environment(name: &str) -> Option<OsString> {
    std::env::var_os(name).filter(|value| !value.is_empty())
}

/// The names of all variables of the environment.
pub(crate) fn environment_names() -> impl Iterator<Item = OsString> {
    std::env::vars_os().map(|(name, _)| name)
}
