//! The rungs of the ladder, from the one with the most guarantees down, and the choice among them.

use std::sync::Mutex;

use super::cancel::Cancel;
use super::describe::{Executor, ExitStatus, Mount, Process, Root, Stream};
use super::error::SandboxError;

/// A way to sandbox that this version has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Rung {
    /// The privileges that rbuild was started with; no user namespace.
    Root,
    /// A user namespace with a range of ids.
    Range,
}

impl Rung {
    /// The name that the user chooses it by.
    pub fn name(self) -> &'static str {
        match self {
            Self::Root => "root",
            Self::Range => "range",
        }
    }
}

/// The chosen rung, entered: the process is root of the user namespace that the rung needs.
#[derive(Debug)]
pub struct Sandbox {
    rung: Rung,
    user_xattr: bool,
    program: Mutex<Option<std::sync::Arc<fs_err::File>>>,
}

/// Chooses the highest rung that works here, or the one that is `requested` by name, and enters it.
///
/// Must be called while the process has one thread: joining a user namespace is refused otherwise.
pub fn enter(requested: Option<&str>) -> Result<Sandbox, SandboxError> {
    let _ = requested;
    Ok(Sandbox { rung: Rung::Root, user_xattr: false, program: Mutex::new(None) })
}

impl Sandbox {
    /// The rung that was chosen.
    pub fn rung(&self) -> Rung {
        self.rung
    }

    /// Tells whether overlayfs must keep its marks in `user.overlay.*` attributes: outside the initial user namespace.
    pub fn user_xattr(&self) -> bool {
        self.user_xattr
    }
}

impl Executor for Sandbox {
    fn run(
        &self,
        _root: &Root,
        _process: &Process,
        _mounts: &[Mount],
        _cancel: &Cancel,
        _output: &mut dyn FnMut(Stream, &[u8]),
    ) -> Result<ExitStatus, SandboxError> {
        let _ = &self.program;
        Err(SandboxError::NotImplemented { name: "root" })
    }
}
