//! The last instructions before the step's own program: its ids, its descriptors, its working directory, `execve`.

use std::ffi::{CString, OsStr, OsString};
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use nix::unistd::{Gid, Uid, execve, setgroups, setresgid, setresuid};
use rustix::fs::{Access, AtFlags, CWD, FileType, Mode, OFlags, ResolveFlags, accessat, fchown, fstat, openat2, stat};
use rustix::io::Errno;

use crate::accounts::{Accounts, User};

use super::emulate::RootEmulation;
use super::spec::{Attempt, Failure, Spec};
use super::{settings, system};

/// The `PATH` of a step whose environment has none, as Docker has it.
const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
/// The exit code of a program that is not there, and of one that cannot be executed.
const NOT_FOUND: u8 = 127;
const NOT_EXECUTABLE: u8 = 126;
/// The most that is read of `/etc/passwd` and `/etc/group`, in bytes.
const MOST_ACCOUNTS: u64 = 4 << 20;
/// More bytes than either has in most images: they are read at once.
const USUAL_ACCOUNTS: usize = 8 << 10;

/// Goes to the step's working directory, and finds its user. In the step's root, and before its calls are filtered: where
/// root is emulated each of these would be answered by another process.
pub(super) fn enter(spec: &Spec) -> Result<User, Failure> {
    enter_directory(Path::new(&spec.cwd))?;
    find_user(&spec.user, CWD, ResolveFlags::NO_MAGICLINKS)
}

/// Finds a user in the root in which `root` and `resolve` let an absolute path lead.
pub(super) fn find_user(user: &str, root: impl AsFd, resolve: ResolveFlags) -> Result<User, Failure> {
    let text = |path| text(root.as_fd(), path, resolve);
    let accounts = Accounts { passwd: text("/etc/passwd")?, group: text("/etc/group")? };
    accounts.user(user).map_err(|error| Failure::of_step(format!("become the user `{user}`"), &error))
}

/// Becomes the step's process, in its working directory. Returns the exit code that stands for a program that could not be
/// executed, after a sentence on standard error; an `Err` where the process could not be made what the step asks for.
pub(super) fn execute(spec: &Spec, user: User, stdin: Option<&File>) -> Result<u8, Failure> {
    rustix::process::setsid().attempt(|| "begin a session".to_owned())?;
    if let Some(stdin) = stdin {
        nix::unistd::dup2_stdin(stdin).attempt(|| "set the standard input".to_owned())?;
    }
    rustix::process::umask(Mode::from_raw_mode(0o022));
    if spec.ground.emulation.is_none() {
        own_outputs(&user).attempt(|| "give the outputs to the step's user".to_owned())?;
    }
    settings::limit(&spec.settings)?;
    if !is_already(&user, spec.ground.emulation) {
        become_user(&user)?;
    }
    system::unblock_signals();
    system::close_on_exec().attempt(|| "close descriptors".to_owned())?;
    let mut env = spec.env.clone();
    if !env.iter().any(|(name, _)| name == "HOME") {
        env.push(("HOME".into(), user.home.into()));
    }
    let (code, sentence) = run_program(&spec.argv, &env);
    let told = writeln!(io::stderr(), "rbuild: {sentence}");
    Ok(if told.is_ok() { code } else { NOT_EXECUTABLE })
}

/// Whether a process with a single id is the user from the start: it is root's, emulated root's without a group beside its
/// own. Without emulation it can be nobody else's.
fn is_already(user: &User, emulation: Option<RootEmulation>) -> bool {
    let root = (user.uid, user.gid) == (0, 0);
    match emulation {
        None => false,
        Some(RootEmulation::None) => root,
        Some(RootEmulation::Full | RootEmulation::Filter) => root && user.groups.is_empty(),
    }
}

/// Links are followed, but not those of `/proc`, which lead to what is open outside (CVE-2024-21626).
fn enter_directory(path: &Path) -> Result<(), Failure> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let resolve = ResolveFlags::NO_MAGICLINKS;
    openat2(CWD, Path::new("/").join(path), flags, Mode::empty(), resolve)
        .and_then(rustix::process::fchdir)
        .map_err(|error| Failure::of_step(format!("enter the working directory `{}`", path.display()), &error))
}

/// Users or groups of a root. What is no regular file, or not there, defines none.
fn text(root: BorrowedFd<'_>, path: &str, resolve: ResolveFlags) -> Result<String, Failure> {
    let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let file = match openat2(root, path, flags, Mode::empty(), resolve) {
        Ok(file) => File::from(file),
        Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => return Ok(String::new()),
        Err(error) => return Err(Failure::new(format!("open `{path}`"), error)),
    };
    let mut bytes = Vec::with_capacity(USUAL_ACCOUNTS);
    let regular = file.metadata().map(|found| found.is_file());
    let read = regular.and_then(|yes| if yes { file.take(MOST_ACCOUNTS).read_to_end(&mut bytes) } else { Ok(0) });
    read.attempt(|| format!("read `{path}`"))?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

/// Lets the step's user open `/dev/stdout` and `/dev/stderr`, which needs more than to have them open. Only the pipes that
/// rbuild has made for this step change their owner.
fn own_outputs(user: &User) -> Result<(), Errno> {
    for output in [io::stdout().as_fd(), io::stderr().as_fd()] {
        if FileType::from_raw_mode(fstat(output)?.st_mode) == FileType::Fifo {
            let (uid, gid) = (rustix::fs::Uid::from_raw(user.uid), rustix::fs::Gid::from_raw(user.gid));
            match fchown(output, Some(uid), Some(gid)) {
                Ok(()) | Err(Errno::INVAL) => {} // an id that the namespace does not have: taking it fails, and says so
                result => result?,
            }
        }
    }
    Ok(())
}

fn become_user(user: &User) -> Result<(), Failure> {
    let (uid, gid) = (Uid::from_raw(user.uid), Gid::from_raw(user.gid));
    let groups: Vec<Gid> = user.groups.iter().copied().map(Gid::from_raw).collect();
    let cannot = |action: String| {
        move |error| match error {
            nix::errno::Errno::EINVAL => {
                Failure::new(format!("{action}, which its user namespace does not have,"), error)
            }
            error => Failure::new(action, error),
        }
    };
    setgroups(&groups).map_err(cannot(format!("become a member of the groups {:?}", user.groups)))?;
    setresgid(gid, gid, gid).map_err(cannot(format!("take the group id {gid}")))?;
    setresuid(uid, uid, uid).map_err(cannot(format!("take the user id {uid}")))
}

/// Replaces the process; returns only when that fails, with an exit code and the reason.
fn run_program(argv: &[OsString], env: &[(OsString, OsString)]) -> (u8, String) {
    let Some(name) = argv.first() else { return (NOT_FOUND, "there is no program to run".to_owned()) };
    let shown = Path::new(name).display();
    let path = match find(name, env) {
        Ok(path) => path,
        Err(Errno::ACCESS) => return (NOT_EXECUTABLE, format!("cannot run `{shown}`: permission denied")),
        Err(_) => return (NOT_FOUND, format!("cannot run `{shown}`: it is in no directory of PATH")),
    };
    let strings = || -> Result<_, std::ffi::NulError> {
        let path = CString::new(path.as_os_str().as_bytes())?;
        let argv = argv.iter().map(|argument| CString::new(argument.as_bytes())).collect::<Result<Vec<_>, _>>()?;
        let env = env.iter().map(|(name, value)| CString::new([name.as_bytes(), b"=", value.as_bytes()].concat()));
        Ok((path, argv, env.collect::<Result<Vec<_>, _>>()?))
    };
    let Ok((path, argv, env)) = strings() else {
        return (NOT_EXECUTABLE, format!("cannot run `{shown}`: an argument or variable has a NUL in it"));
    };
    let Err(error) = execve(&path, &argv, &env);
    let code = if error == nix::errno::Errno::ENOENT { NOT_FOUND } else { NOT_EXECUTABLE };
    (code, format!("cannot run `{shown}`: {}", io::Error::from(error)))
}

/// Finds a program as Docker does: a name with a `/` is a path, any other is looked up in the step's own `PATH`, where
/// an empty directory means the working directory.
fn find(name: &OsStr, env: &[(OsString, OsString)]) -> Result<PathBuf, Errno> {
    if name.as_bytes().contains(&b'/') {
        return Ok(PathBuf::from(name));
    }
    let path = env.iter().rev().find(|(name, _)| name == "PATH").map_or(OsStr::new(PATH), |(_, value)| value);
    let mut error = Errno::NOENT;
    for directory in path.as_bytes().split(|&byte| byte == b':') {
        let directory = if directory.is_empty() { b"." } else { directory };
        let candidate = Path::new(OsStr::from_bytes(directory)).join(name);
        match executable(&candidate) {
            Ok(()) => return Ok(candidate),
            Err(Errno::ACCESS) => error = Errno::ACCESS,
            Err(_) => {}
        }
    }
    Err(error)
}

fn executable(path: &Path) -> Result<(), Errno> {
    if FileType::from_raw_mode(stat(path)?.st_mode) != FileType::RegularFile {
        return Err(Errno::NOENT);
    }
    accessat(CWD, path, Access::EXEC_OK, AtFlags::EACCESS)
}
