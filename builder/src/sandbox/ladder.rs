//! The rungs of the ladder, from the one with the most guarantees down, and the choice among them.
//!
//! A rung is chosen because a rehearsal of a step worked in it, for no other reason.

use std::path::Path;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use super::bare::{self, Placed};
use super::cancel::Cancel;
use super::cgroup::{Group, Groups};
use super::describe::{Executor, ExitStatus, Mount, Process, Root, Stream};
use super::doctor::{Obstacle, explain};
use super::emulate::RootEmulation;
use super::error::SandboxError;
use super::inits::Inits;
use super::probe::{Place, rehearse, rehearse_any};
use super::recall::Memory;
use super::run;
use super::settings::Settings;
use super::spec::{Attempt, Failure, Ground, Processes, Spec};
use super::userns::{Ids, Namespace, Refusal};

/// A way to sandbox that this version has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Rung {
    /// The privileges that rbuild was started with; no user namespace.
    Root,
    /// A user namespace with a range of ids.
    Range,
    /// A user namespace with one id, and root emulated.
    Single,
    /// Another root and real ids, and no namespace.
    Chroot,
}

impl Rung {
    /// Every rung, from the top.
    pub(super) const ALL: [Self; 4] = [Self::Root, Self::Range, Self::Single, Self::Chroot];

    /// The name that the user chooses it by.
    pub fn name(self) -> &'static str {
        match self {
            Self::Root => "root",
            Self::Range => "range",
            Self::Single => "single",
            Self::Chroot => "chroot",
        }
    }

    fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|rung| rung.name() == name)
    }

    /// What it guarantees, one sentence each.
    pub(super) fn guarantees(self, ground: Ground) -> Vec<&'static str> {
        const NAMESPACES: &str = "every step has its own mounts, IPC and host name";
        let processes = match ground.processes {
            Processes::Own => "a step sees and signals its own processes alone, and all of them die with rbuild",
            Processes::Shared => {
                "a step sees and can signal the processes of this container, because `/proc` is masked here; what it \
                 leaves running is killed"
            }
        };
        let (namespaces, owners, privilege) = match self {
            Self::Root => (
                NAMESPACES,
                "owners, groups, modes and device nodes of the image are real",
                "root of a step is root of rbuild's user namespace, with Docker's default capabilities and no more",
            ),
            Self::Range => (
                NAMESPACES,
                "owners, groups and modes of the image are real; a device node cannot be made",
                "root of a step has no privilege outside of its user namespace",
            ),
            Self::Single => (
                NAMESPACES,
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
            Self::Chroot => return CHROOT.to_vec(),
        };
        vec![namespaces, processes, owners, privilege]
    }

    /// Makes the namespace that it needs, and takes everything else for shown.
    fn again(self, ground: Ground) -> Result<Option<Namespace>, Refusal> {
        match self {
            Self::Root | Self::Chroot => Ok(None),
            Self::Range => Namespace::make(Ids::Range, || Ok(ground)).map(|(namespace, _)| Some(namespace)),
            Self::Single => Namespace::make(Ids::Single, || Ok(ground)).map(|(namespace, _)| Some(namespace)),
        }
    }

    /// Shows in children that it works, up to a process that waits in the namespace that it needs. `directory` is where
    /// trees will be.
    pub(super) fn attempt(self, place: &Place, directory: &Path) -> Result<(Option<Namespace>, Ground), Refusal> {
        match self {
            Self::Root => {
                let user_xattr = !in_initial_namespace().map_err(Refusal::Rehearsal)?;
                let ground = Ground { user_xattr, processes: Processes::Own, mounts: true, emulation: None };
                rehearse(place, ground).map_err(Refusal::Rehearsal).map(|ground| (None, ground))
            }
            Self::Range => Namespace::make(Ids::Range, || rehearse_any(place, None))
                .map(|(namespace, ground)| (Some(namespace), ground)),
            Self::Single => Namespace::make(Ids::Single, || rehearse_any(place, Some(RootEmulation::Full)))
                .map(|(namespace, ground)| (Some(namespace), ground)),
            Self::Chroot => {
                let ground = Ground { user_xattr: true, processes: Processes::Shared, mounts: false, emulation: None };
                bare::rehearse(directory).map_err(Refusal::Rehearsal).map(|()| (None, ground))
            }
        }
    }
}

/// What [`Rung::Chroot`] guarantees, and what it does not.
const CHROOT: [&str; 6] = [
    "owners, groups, modes and device nodes of the image are real; a change of a file with several names, which other \
     sandboxes make under one of them, is made under all",
    "a step has a root of its own and shares everything else with this container: nothing but the container confines it, \
     and it can leave its root",
    "what a step leaves running is killed, unless it kills the processes of rbuild first, which it sees",
    "the kernel lets setuid programs gain nothing (no_new_privs); after `USER`, in an image with `sudo` or `doas`, all processes \
     are therefore root's and seem to be the user's, so that these work: what that user may not read or write is not \
     enforced there (`--root-emulation=full` does so in every step, `none` in no step)",
    "`/proc` and `/sys` are there for 64-bit programs that name a file in them, enter them or execute what is there; programs \
     of 32 bits find them empty, and so do scripts whose first line names an interpreter in `/proc`",
    "what is mounted into a step is moved into its tree: a read-only bind can be written, a tmpfs has no limit, and a secret \
     is a file on the disk until the step ends",
];

/// The chosen rung, entered: the process is root of the user namespace that the rung needs.
#[derive(Debug)]
pub struct Sandbox {
    rung: Rung,
    ground: Ground,
    /// Started for the first step: a build of cached steps needs none.
    inits: Mutex<Option<Arc<Inits>>>,
    /// Where steps get cgroups of their own, once somebody wanted limits that need them.
    groups: OnceLock<Result<Groups, Failure>>,
    /// Where the choice comes from, when nothing was tried for it.
    recalled: Option<Memory>,
}

/// Chooses the highest rung that works here, or the one that is `requested` by name, and enters it. `emulation` is for a
/// rung that has a single id, or whose setuid programs gain nothing, and refused on any other.
///
/// `directory` is where the trees of steps will be. Must be called while the process has one thread: it forks, and the
/// kernel lets no other process join a user namespace.
pub fn enter(
    requested: Option<&str>,
    emulation: Option<RootEmulation>,
    directory: &Path,
) -> Result<Sandbox, SandboxError> {
    let threads = fs_err::read_dir("/proc/self/task").attempt(|| "count the threads of rbuild".to_owned())?.count();
    if threads > 1 {
        return Err(SandboxError::Threads { count: threads });
    }
    let Some(name) = requested else { return enter_highest(emulation, directory) };
    let rung = Rung::named(name).ok_or_else(|| SandboxError::UnknownRung { name: name.to_owned() })?;
    match rung.attempt(&Place::Memory, directory) {
        Ok((namespace, ground)) => Sandbox::new(rung, namespace, ground, emulation),
        Err(refusal) => {
            let Obstacle { sentence, remedies, .. } = explain(rung.name(), &refusal);
            Err(SandboxError::Unavailable { name: rung.name(), obstacle: sentence, remedy: remedies.join("; or: ") })
        }
    }
}

fn enter_highest(emulation: Option<RootEmulation>, directory: &Path) -> Result<Sandbox, SandboxError> {
    let memory = Memory::new(directory);
    let recalled = memory.recall().and_then(|(name, ground)| Some((Rung::named(&name)?, ground)));
    if let Some((rung, ground)) = recalled
        && let Ok(namespace) = rung.again(ground)
    {
        let sandbox = Sandbox::new(rung, namespace, ground, emulation)?;
        return Ok(Sandbox { recalled: Some(memory), ..sandbox });
    }
    let mut last = None;
    for rung in Rung::ALL {
        match rung.attempt(&Place::Memory, directory) {
            Ok((namespace, ground)) => {
                memory.keep(rung.name(), ground);
                return Sandbox::new(rung, namespace, ground, emulation);
            }
            // What keeps an ordinary user from changing the root is not what there is something to be done about.
            Err(_) if rung == Rung::Chroot => {}
            Err(refusal) => last = Some(explain(rung.name(), &refusal)),
        }
    }
    let Obstacle { sentence, remedies, .. } = last.unwrap_or_default();
    Err(SandboxError::NoRung { obstacle: sentence, remedy: remedies.join("; or: ") })
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
            // Where ids are real the processes of a step can all be root's, and nothing else.
            let possible = ground.emulation.is_some() || !ground.mounts && emulation != RootEmulation::Filter;
            if !possible {
                return Err(SandboxError::NothingToEmulate { emulation: emulation.name(), rung: rung.name() });
            }
            ground.emulation = Some(emulation);
        }
        if let Some(namespace) = namespace {
            namespace.join()?;
        }
        Ok(Self { rung, ground, inits: Mutex::new(None), groups: OnceLock::new(), recalled: None })
    }

    /// The rung that was chosen.
    pub fn rung(&self) -> Rung {
        self.rung
    }

    /// Tells whether overlayfs must keep its marks in `user.overlay.*` attributes: outside the initial user namespace.
    pub fn user_xattr(&self) -> bool {
        self.ground.user_xattr
    }

    /// How root, who has a single id, gets others; nothing where the owners of files are real.
    pub fn emulation(&self) -> Option<RootEmulation> {
        self.ground.emulation.filter(|_| self.ground.mounts)
    }

    /// What it guarantees on this machine, one sentence each.
    pub fn guarantees(&self) -> Vec<&'static str> {
        self.rung.guarantees(self.ground)
    }

    /// Makes ready for steps with the limits of `settings`, before the first of them. Where that cannot be steps run without
    /// those of memory and processors, and the answer says why.
    pub fn limit(&self, settings: &Settings) -> Option<String> {
        let groups = settings.need_group().then(|| self.groups.get_or_init(|| Groups::open(settings)))?;
        groups.as_ref().err().map(|failure| format!("cannot {}: {}", failure.action, failure.source()))
    }

    /// The cgroup of a step.
    fn group(&self, settings: &Settings) -> Result<Option<Group>, Failure> {
        let groups = self.groups.get().filter(|_| settings.need_group());
        groups.and_then(|groups| groups.as_ref().ok()).map(|groups| groups.make(settings)).transpose()
    }

    fn inits(&self) -> Result<Arc<Inits>, SandboxError> {
        let mut inits = self.inits.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(inits) = &*inits {
            return Ok(Arc::clone(inits));
        }
        Ok(Arc::clone(inits.insert(Arc::new(Inits::start()?))))
    }
}

impl Executor for Sandbox {
    fn warm(&self) {
        self.inits().ok();
    }

    fn expect(&self, processes: usize) {
        if processes > 0
            && let Ok(inits) = self.inits()
        {
            inits.expect(processes);
        }
    }

    fn stacks_layers(&self) -> bool {
        self.ground.mounts
    }

    fn run(
        &self,
        root: &Root,
        process: &Process,
        mounts: &[Mount],
        cancel: &Cancel,
        output: &mut dyn FnMut(Stream, &[u8]),
    ) -> Result<ExitStatus, SandboxError> {
        run::check(root, process, mounts)?;
        let inits = self.inits()?;
        let group = self.group(&process.settings)?;
        let mut run = |mounts: &[Mount]| {
            let spec = Spec::new(root, process, mounts, self.ground, group.as_ref());
            run::run(&inits, &spec, process.stdin.as_deref(), cancel, output)
        };
        let mut ended = if self.ground.mounts {
            run(mounts)
        } else {
            bare::check(root, process, mounts)?;
            let placed = Placed::new(root, &process.settings, mounts)?;
            let ended = run(&[]);
            placed.restore(root)?;
            ended
        };
        if let (Ok(status), Some(kills)) = (&mut ended, group.and_then(|group| group.memory_kills())) {
            status.out_of_memory = status.code != 0 && kills > 0;
        }
        if let (Err(SandboxError::Setup { .. }), Some(memory)) = (&ended, &self.recalled) {
            memory.forget();
        }
        ended
    }
}
