//! The rungs of the ladder, from the one with the most guarantees down, and the choice among them.
//!
//! A rung is chosen because a rehearsal of a step worked in it, for no other reason.

use std::fs::File;
use std::sync::{Arc, Mutex, PoisonError};

use super::cancel::Cancel;
use super::describe::{Executor, ExitStatus, Mount, Process, Root, Stream};
use super::doctor::{Obstacle, explain};
use super::emulate::RootEmulation;
use super::error::SandboxError;
use super::probe::{Place, in_child, rehearse, rehearse_any};
use super::spec::{Attempt, Failure, Ground, Processes, Spec};
use super::userns::{Ids, Namespace, Refusal};
use super::{program, run};

/// A way to sandbox that this version has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Rung {
    /// The privileges that rbuild was started with; no user namespace.
    Root,
    /// A user namespace with a range of ids.
    Range,
    /// A user namespace with one id, and root emulated.
    Single,
}

impl Rung {
    /// Every rung, from the top.
    pub(super) const ALL: [Self; 3] = [Self::Root, Self::Range, Self::Single];

    /// The name that the user chooses it by.
    pub fn name(self) -> &'static str {
        match self {
            Self::Root => "root",
            Self::Range => "range",
            Self::Single => "single",
        }
    }

    /// What it guarantees, one sentence each.
    pub(super) fn guarantees(self, ground: Ground) -> Vec<&'static str> {
        let processes = match ground.processes {
            Processes::Own => "a step sees and signals its own processes alone, and all of them die with rbuild",
            Processes::Shared => {
                "a step sees and can signal the processes of this container, because `/proc` is masked here; what it \
                 leaves running is killed"
            }
        };
        let (owners, privilege) = match self {
            Self::Root => (
                "owners, groups, modes and device nodes of the image are real",
                "root of a step is root of rbuild's user namespace, with Docker's default capabilities and no more",
            ),
            Self::Range => (
                "owners, groups and modes of the image are real; a device node cannot be made",
                "root of a step has no privilege outside of its user namespace",
            ),
            Self::Single => (
                match ground.emulation.unwrap_or_default() {
                    RootEmulation::Full => {
                        "owners, groups, modes and device nodes of the image are exact; inside a step they are emulated, so \
                         what users other than root may not read or write is not enforced there"
                    }
                    RootEmulation::Filter => {
                        "every file that a step makes is root's: changes of owners and ids succeed and change nothing"
                    }
                    RootEmulation::None => "every file that a step makes is root's: changes of owners and ids fail",
                },
                "root of a step has no privilege outside of its user namespace",
            ),
        };
        vec!["every step has its own mounts, IPC and host name", processes, owners, privilege]
    }

    /// Shows in children that it works, up to a process that waits in the namespace that it needs.
    pub(super) fn attempt(self, place: &Place) -> Result<(Option<Namespace>, Ground), Refusal> {
        match self {
            Self::Root => {
                let user_xattr = !in_initial_namespace().map_err(Refusal::Rehearsal)?;
                let ground = Ground { user_xattr, processes: Processes::Own, emulation: None };
                rehearse(place, ground).map_err(Refusal::Rehearsal).map(|ground| (None, ground))
            }
            Self::Range => Namespace::make(Ids::Range, || rehearse_any(place, None))
                .map(|(namespace, ground)| (Some(namespace), ground)),
            Self::Single => Namespace::make(Ids::Single, || rehearse_any(place, Some(RootEmulation::Full)))
                .map(|(namespace, ground)| (Some(namespace), ground)),
        }
    }
}

/// A rung that is planned: known by name and recognised where it would work, so that a machine that has no other gets a
/// true answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Planned {
    /// chroot with real ids, where nothing can be mounted.
    Chroot,
}

impl Planned {
    pub(super) const ALL: [Self; 1] = [Self::Chroot];

    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Chroot => "chroot",
        }
    }

    /// Tells whether the machine would allow it.
    pub(super) fn attempt(self) -> Result<(), Refusal> {
        match self {
            Self::Chroot => in_child(|| {
                rustix::process::chroot("/").attempt(|| "change the root".to_owned())?;
                let (uid, gid) = (nix::unistd::Uid::from_raw(1), nix::unistd::Gid::from_raw(1));
                nix::unistd::setgroups(&[]).attempt(|| "leave all groups".to_owned())?;
                nix::unistd::setresgid(gid, gid, gid).attempt(|| "take another group id".to_owned())?;
                nix::unistd::setresuid(uid, uid, uid).attempt(|| "take another user id".to_owned())
            })
            .map_err(Refusal::Rehearsal),
        }
    }
}

/// The chosen rung, entered: the process is root of the user namespace that the rung needs.
#[derive(Debug)]
pub struct Sandbox {
    rung: Rung,
    ground: Ground,
    /// Made for the first step: a build of cached steps needs none.
    program: Mutex<Option<Arc<File>>>,
}

/// Chooses the highest rung that works here, or the one that is `requested` by name, and enters it. `emulation` is for a
/// rung that has a single id, and refused on any other.
///
/// Must be called while the process has one thread: it forks, and the kernel lets no other process join a user namespace.
pub fn enter(requested: Option<&str>, emulation: Option<RootEmulation>) -> Result<Sandbox, SandboxError> {
    let threads = fs_err::read_dir("/proc/self/task").attempt(|| "count the threads of rbuild".to_owned())?.count();
    if threads > 1 {
        return Err(SandboxError::Threads { count: threads });
    }
    let Some(name) = requested else { return enter_highest(emulation) };
    if let Some(planned) = Planned::ALL.into_iter().find(|planned| planned.name() == name) {
        return Err(SandboxError::NotImplemented { name: planned.name() });
    }
    let rung = Rung::ALL.into_iter().find(|rung| rung.name() == name);
    let rung = rung.ok_or_else(|| SandboxError::UnknownRung { name: name.to_owned() })?;
    match rung.attempt(&Place::Memory) {
        Ok((namespace, ground)) => Sandbox::new(rung, namespace, ground, emulation),
        Err(refusal) => {
            let Obstacle { sentence, remedies, .. } = explain(rung.name(), &refusal);
            Err(SandboxError::Unavailable { name: rung.name(), obstacle: sentence, remedy: remedies.join("; or: ") })
        }
    }
}

fn enter_highest(emulation: Option<RootEmulation>) -> Result<Sandbox, SandboxError> {
    let mut last = None;
    for rung in Rung::ALL {
        match rung.attempt(&Place::Memory) {
            Ok((namespace, ground)) => return Sandbox::new(rung, namespace, ground, emulation),
            Err(refusal) => last = Some(explain(rung.name(), &refusal)),
        }
    }
    let planned = Planned::ALL.into_iter().find(|planned| planned.attempt().is_ok());
    let Obstacle { sentence, remedies, .. } = last.unwrap_or_default();
    let remedy = remedies.join("; or: ");
    Err(match planned {
        None => SandboxError::NoRung { obstacle: sentence, remedy },
        Some(planned) => SandboxError::OnlyPlanned { name: planned.name(), obstacle: sentence, remedy },
    })
}

/// The inode number of the first user namespace is fixed (`PROC_USER_INIT_INO`).
pub(super) fn in_initial_namespace() -> Result<bool, Failure> {
    let link = fs_err::read_link("/proc/self/ns/user").attempt(|| "tell which user namespace this is".to_owned())?;
    Ok(link.as_os_str() == "user:[4026531837]")
}

impl Sandbox {
    fn new(
        rung: Rung,
        namespace: Option<Namespace>,
        mut ground: Ground,
        emulation: Option<RootEmulation>,
    ) -> Result<Self, SandboxError> {
        if let Some(emulation) = emulation {
            if ground.emulation.is_none() {
                return Err(SandboxError::NothingToEmulate { emulation: emulation.name(), rung: rung.name() });
            }
            ground.emulation = Some(emulation);
        }
        if let Some(namespace) = namespace {
            namespace.join()?;
        }
        Ok(Self { rung, ground, program: Mutex::new(None) })
    }

    /// The rung that was chosen.
    pub fn rung(&self) -> Rung {
        self.rung
    }

    /// Tells whether overlayfs must keep its marks in `user.overlay.*` attributes: outside the initial user namespace.
    pub fn user_xattr(&self) -> bool {
        self.ground.user_xattr
    }

    /// How root, who has a single id, gets others; nothing where ids are real.
    pub fn emulation(&self) -> Option<RootEmulation> {
        self.ground.emulation
    }

    /// What it guarantees on this machine, one sentence each.
    pub fn guarantees(&self) -> Vec<&'static str> {
        self.rung.guarantees(self.ground)
    }

    fn program(&self) -> Result<Arc<File>, SandboxError> {
        let mut program = self.program.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(program) = &*program {
            return Ok(Arc::clone(program));
        }
        let copy = Arc::new(program::sealed_copy().map_err(|source| SandboxError::Program { source })?);
        Ok(Arc::clone(program.insert(copy)))
    }
}

impl Executor for Sandbox {
    fn run(
        &self,
        root: &Root,
        process: &Process,
        mounts: &[Mount],
        cancel: &Cancel,
        output: &mut dyn FnMut(Stream, &[u8]),
    ) -> Result<ExitStatus, SandboxError> {
        run::check(root, process, mounts)?;
        let spec = Spec::new(root, process, mounts, self.ground);
        run::run(&*self.program()?, &spec, process.stdin.as_deref(), cancel, output)
    }
}
