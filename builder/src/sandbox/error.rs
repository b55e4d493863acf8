//! Why a sandbox cannot be had, or a step could not be run. A command that fails is not an error.

use std::io;
use std::path::PathBuf;

/// An error of the sandbox. After any of them the step's upper directory must be thrown away.
#[derive(Debug, thiserror::Error)]
pub enum SandboxError {
    /// The user asked for a rung by a name that none has.
    #[error("there is no sandbox `{name}`; there are `root`, `range`, `single` and `chroot`")]
    UnknownRung {
        /// What was asked for.
        name: String,
    },
    /// The step needs what the rung cannot give.
    #[error("the sandbox `chroot` cannot {what}")]
    Lacking {
        /// What that is, as words that follow "cannot".
        what: &'static str,
    },
    /// The step took longer than it may, and was ended.
    #[error("the step took longer than {} seconds", after.as_secs_f64())]
    TimedOut {
        /// What it may take.
        after: std::time::Duration,
    },
    /// The emulation of root was asked for where nothing is emulated so.
    #[error(
        "the root emulation `{emulation}` is not for the sandbox `{rung}`, whose ids are real; say `--isolation=single` with it"
    )]
    NothingToEmulate {
        /// What was asked for.
        emulation: &'static str,
        /// The rung.
        rung: &'static str,
    },
    /// [`enter`](super::enter) was called too late.
    #[error("the sandbox must be entered by a process with one thread, and this one has {count}")]
    Threads {
        /// How many there are.
        count: usize,
    },
    /// The rung was asked for, and the machine does not allow it.
    #[error("the sandbox `{name}` does not work here: {obstacle}; {remedy}")]
    Unavailable {
        /// The rung's name.
        name: &'static str,
        /// What was tried and how it failed.
        obstacle: String,
        /// What would help.
        remedy: String,
    },
    /// No rung that this version can run works on this machine.
    #[error("no sandbox of this version works here: {obstacle}; {remedy}")]
    NoRung {
        /// The failed probe of the lowest rung that was tried.
        obstacle: String,
        /// What would help.
        remedy: String,
    },
    /// The step cannot be described to its init.
    #[error("the step is not valid: {reason}")]
    InvalidStep {
        /// Which rule it breaks.
        reason: String,
    },
    /// An argument or a variable of the step is longer than the kernel takes.
    #[error("{what} has {length} bytes, and the kernel gives a program at most {most} in one")]
    TooLong {
        /// Which one.
        what: String,
        /// Its bytes.
        length: usize,
        /// How many it may have.
        most: usize,
    },
    /// The kernel cannot stack that many layers.
    #[error("the root has {count} layers and overlayfs takes at most {limit}")]
    TooManyLayers {
        /// How many were given.
        count: usize,
        /// `OVL_MAX_STACK` of the kernel.
        limit: usize,
    },
    /// A pipe, socket, eventfd or memfd could not be made.
    #[error("cannot make {what}")]
    Descriptor {
        /// Which one.
        what: &'static str,
        /// The system's answer.
        source: io::Error,
    },
    /// The running program could be neither mounted read-only nor copied into sealed memory, or not be run from there.
    #[error("cannot run rbuild's own program where nobody can write it (is the sysctl `vm.memfd_noexec` 2?)")]
    Program {
        /// The system's answer.
        source: io::Error,
    },
    /// The namespaces of rbuild or of the step, or the step's root file system, could not be made.
    #[error("cannot {action} for the sandbox")]
    Setup {
        /// What was attempted, and on which path.
        action: String,
        /// The system's answer.
        source: io::Error,
    },
    /// Waiting for the step or reading its output failed.
    #[error("cannot {action} of the step")]
    Watch {
        /// What was attempted.
        action: &'static str,
        /// The system's answer.
        source: io::Error,
    },
    /// The init of the step ended without saying how the step ended.
    #[error("the init of the step ended without a report ({status})")]
    InitDied {
        /// How it ended.
        status: String,
    },
    /// What had been made in the upper directory for mounting could not be taken away again.
    #[error("cannot remove the mount point `{}` from the upper directory", path.display())]
    Stub {
        /// The path inside the upper directory.
        path: PathBuf,
        /// The system's answer.
        source: io::Error,
    },
    /// [`Cancel::cancel`](super::Cancel::cancel) was called.
    #[error("the step was cancelled")]
    Cancelled,
}
