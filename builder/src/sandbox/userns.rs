//! A user namespace in which rbuild is root of many ids.
//!
//! A child makes the namespace and shows that steps can run in it; only then does rbuild join it. A refusal at any point
//! leaves rbuild as it was, free to try the next rung.

use std::fs::File;
use std::io::{self, BufRead, BufReader, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use nix::sched::{CloneFlags, setns, unshare};
use nix::unistd::{Gid, Uid, User, setresgid, setresuid};
use rustix::io::Errno;
use rustix::pipe::{PipeFlags, pipe_with};
use rustix::process::{Pid, Signal, WaitOptions, set_parent_process_death_signal, waitpid};
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::spec::{Attempt, Failure, Ground};
use super::system;

/// Where the programs of shadow's `uidmap` package are. `PATH` is not asked: what is found there gets to decide on ids.
const DIRECTORIES: &[&str] = &["/usr/bin", "/bin", "/usr/local/bin", "/usr/sbin", "/sbin", "/run/wrappers/bin"];

/// Which of the steps to a working namespace failed.
#[derive(Debug)]
pub(super) enum Refusal {
    /// The kernel makes no user namespace for us.
    Namespace(Failure),
    /// No range of ids can be mapped into it.
    Map(Failure),
    /// It works, but not for steps.
    Rehearsal(Failure),
}

/// What becomes root of the namespace.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Ids {
    /// Every id of the parent namespace as itself, or root and the subordinate ids of the user.
    Range,
    /// The user alone.
    Single,
}

/// A child in a user namespace of its own, with its ids mapped, waiting.
pub(super) struct Namespace {
    child: Pid,
    /// Closed, it lets the child end.
    release: Option<OwnedFd>,
}

impl Namespace {
    /// Makes a namespace with `ids` and has `rehearse` run as root in it.
    pub(super) fn make(
        ids: Ids,
        rehearse: impl FnOnce() -> Result<Ground, Failure>,
    ) -> Result<(Self, Ground), Refusal> {
        let pipe = || pipe_with(PipeFlags::CLOEXEC).attempt(|| "make a pipe".to_owned()).map_err(Refusal::Namespace);
        let (answers, answer) = pipe()?;
        let (commands, release) = pipe()?;
        let (mut ours, mut theirs) = (Some((answers, release)), Some((commands, answer)));
        let mut rehearse = Some(rehearse);
        let child = system::fork(|| {
            drop(ours.take());
            let ended = theirs
                .take()
                .zip(rehearse.take())
                .map(|((commands, answer), rehearse)| live(File::from(commands), File::from(answer), rehearse));
            u8::from(!matches!(ended, Some(Ok(()))))
        })
        .attempt(|| "fork".to_owned())
        .map_err(Refusal::Namespace)?;
        drop(theirs.take());
        let (answers, release) = ours.take().unzip();
        let namespace = Self { child, release };
        let answers = answers.ok_or_else(ended).map_err(Refusal::Namespace)?;
        let mut answers = BufReader::new(File::from(answers));

        hear::<()>(&mut answers).map_err(Refusal::Namespace)?;
        namespace.map(ids).map_err(Refusal::Map)?;
        namespace.go_on().attempt(|| "talk to the child".to_owned()).map_err(Refusal::Rehearsal)?;
        let ground = hear(&mut answers).map_err(Refusal::Rehearsal)?;
        Ok((namespace, ground))
    }

    /// Moves this process, which must have one thread, into the namespace, as its root.
    pub(super) fn join(self) -> Result<(), Failure> {
        let path = format!("/proc/{}/ns/user", self.child.as_raw_nonzero());
        let namespace = fs_err::File::open(&path).attempt(|| format!("open `{path}`"))?;
        setns(namespace.as_fd(), CloneFlags::CLONE_NEWUSER).attempt(|| "join the user namespace".to_owned())?;
        become_root()
    }

    fn go_on(&self) -> io::Result<()> {
        self.release.as_ref().map_or(Ok(()), |release| Ok(rustix::io::write(release, b"\n").map(drop)?))
    }

    fn map(&self, ids: Ids) -> Result<(), Failure> {
        match ids {
            Ids::Single => {
                self.write("setgroups", "deny")?;
                self.write("uid_map", &format!("0 {} 1\n", Uid::effective()))?;
                self.write("gid_map", &format!("0 {} 1\n", Gid::effective()))
            }
            Ids::Range => self.map_all().or_else(|direct| {
                // Only the holder of CAP_SETUID may do that; anyone else needs the privileged programs for it.
                if Uid::effective().is_root() && !has_subordinates() { Err(direct) } else { self.map_subordinate() }
            }),
        }
    }

    /// Every id as itself.
    fn map_all(&self) -> Result<(), Failure> {
        for map in ["uid_map", "gid_map"] {
            let own = fs_err::read_to_string(format!("/proc/self/{map}")).attempt(|| format!("read own `{map}`"))?;
            self.write(map, &identity(&own))?;
        }
        Ok(())
    }

    fn write(&self, file: &str, content: &str) -> Result<(), Failure> {
        let path = format!("/proc/{}/{file}", self.child.as_raw_nonzero());
        let written = fs_err::OpenOptions::new().write(true).open(&path).and_then(|mut file| {
            // The kernel takes a map in one write only.
            let count = file.write(content.as_bytes())?;
            if count == content.len() { Ok(()) } else { Err(io::ErrorKind::WriteZero.into()) }
        });
        written.attempt(|| format!("write the `{file}` of a user namespace"))
    }

    /// Root is the user; what follows are the ids that /etc/subuid and /etc/subgid give to the user.
    fn map_subordinate(&self) -> Result<(), Failure> {
        let uids = subordinate("/etc/subuid", Uid::effective())?;
        let gids = subordinate("/etc/subgid", Uid::effective())?;
        // Both at once: each is a setuid program that takes a millisecond.
        let uid_map = self.start("newuidmap", Uid::effective().as_raw(), &uids)?;
        let gid_map = self.start("newgidmap", Gid::effective().as_raw(), &gids);
        finish("newuidmap", uid_map).and(finish("newgidmap", gid_map?))
    }

    fn start(&self, program: &str, own: u32, ranges: &[Range]) -> Result<std::process::Child, Failure> {
        let path = locate(program)?;
        let mut command = Command::new(&path);
        command.arg(self.child.as_raw_nonzero().to_string()).args(["0", &own.to_string(), "1"]);
        let mut next = 1;
        for range in ranges {
            command.args([next, range.first, range.count].map(|number| number.to_string()));
            next = next.saturating_add(range.count);
        }
        command.env_clear().stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
        command.spawn().attempt(|| format!("run `{}`", path.display()))
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        drop(self.release.take());
        let reaped = waitpid(Some(self.child), WaitOptions::empty());
        debug_assert!(reaped.is_ok(), "the child is ours and nobody else waits for it");
    }
}

/// The child's side: answers once in the namespace, waits for its ids, rehearses, answers, and waits for its release.
fn live(commands: File, mut answer: File, rehearse: impl FnOnce() -> Result<Ground, Failure>) -> io::Result<()> {
    set_parent_process_death_signal(Some(Signal::KILL))?;
    let mut commands = BufReader::new(commands);
    let mut line = String::new();
    let made = unshare(CloneFlags::CLONE_NEWUSER).attempt(|| "make a user namespace".to_owned());
    say(&mut answer, &made)?;
    if made.is_err() || commands.read_line(&mut line)? == 0 {
        return Ok(());
    }
    say(&mut answer, &become_root().and_then(|()| rehearse()))?;
    commands.read_line(&mut line).map(drop)
}

fn become_root() -> Result<(), Failure> {
    let (uid, gid) = (Uid::from_raw(0), Gid::from_raw(0));
    setresgid(gid, gid, gid)
        .and_then(|()| setresuid(uid, uid, uid))
        .attempt(|| "become root of the user namespace".to_owned())
}

/// Tells the other side of a pipe how an attempt went, in one line.
pub(super) fn say<T: Serialize>(to: &mut File, result: &Result<T, Failure>) -> io::Result<()> {
    let mut line = serde_json::to_vec(result)?;
    line.push(b'\n');
    to.write_all(&line)
}

/// Hears how an attempt on the other side of a pipe went.
pub(super) fn hear<T: DeserializeOwned>(from: &mut impl BufRead) -> Result<T, Failure> {
    let mut line = String::new();
    match from.read_line(&mut line) {
        Ok(0) => Err(ended()),
        Ok(_) => serde_json::from_str(&line)
            .unwrap_or_else(|error| Err(Failure::new("understand the child", io::Error::from(error)))),
        Err(error) => Err(Failure::new("hear the child", error)),
    }
}

fn ended() -> Failure {
    Failure::new("hear the child, which has ended,", io::Error::from(io::ErrorKind::UnexpectedEof))
}

fn finish(program: &str, child: std::process::Child) -> Result<(), Failure> {
    let output = child.wait_with_output().attempt(|| format!("wait for `{program}`"))?;
    if output.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&output.stderr).trim().to_owned();
    Err(Failure::new(format!("map ids with `{program}`"), io::Error::other(said)))
}

pub(super) fn locate(program: &str) -> Result<PathBuf, Failure> {
    let paths = DIRECTORIES.iter().map(|directory| Path::new(directory).join(program));
    paths.into_iter().find(|path| path.is_file()).ok_or_else(|| Failure::new(format!("find `{program}`"), Errno::NOENT))
}

/// `count` ids from `first` on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Range {
    first: u32,
    count: u32,
}

fn has_subordinates() -> bool {
    subordinate("/etc/subuid", Uid::effective()).is_ok()
}

/// The ids that `file` gives to the user.
fn subordinate(file: &str, user: Uid) -> Result<Vec<Range>, Failure> {
    let text = match fs_err::read_to_string(file) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => String::new(),
        result => result.attempt(|| format!("read `{file}`"))?,
    };
    let name = User::from_uid(user).attempt(|| format!("look up the user {user}"))?.map(|user| user.name);
    let ranges = parse(&text, user.as_raw(), name.as_deref());
    if ranges.is_empty() {
        let name = name.unwrap_or_else(|| user.to_string());
        return Err(Failure::new(format!("find ids for the user `{name}` in `{file}`"), Errno::NOENT));
    }
    Ok(ranges)
}

/// Reads the form of subuid(5): `user:first:count`, the user by name or number. What is not of that form gives nothing,
/// as it gives nothing to newuidmap.
fn parse(text: &str, uid: u32, name: Option<&str>) -> Vec<Range> {
    let ours = |user: &str| Some(user) == name || user.parse() == Ok(uid);
    text.lines()
        .filter_map(|line| {
            let mut fields = line.trim().splitn(3, ':');
            let user = fields.next()?;
            let range = Range { first: fields.next()?.parse().ok()?, count: fields.next()?.parse().ok()? };
            (ours(user) && range.count > 0).then_some(range)
        })
        .collect()
}

/// The map under which every id that `own` (the text of a `uid_map`) has stays what it is.
fn identity(own: &str) -> String {
    own.lines()
        .filter_map(|line| {
            let mut fields = line.split_whitespace();
            let (first, count) = (fields.next()?, fields.nth(1)?);
            Some(format!("{first} {first} {count}\n"))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_of_a_user_are_found_by_name_and_by_number() {
        let text = "# comment\nann:100000:65536\nbob:165536:65536\n1000:300000:10\nann:x:1\nann:1:0\nann:5\n";
        let ranges = |uid, name| parse(text, uid, name);
        assert_eq!(
            ranges(1000, Some("ann")),
            [Range { first: 100_000, count: 65_536 }, Range { first: 300_000, count: 10 }]
        );
        assert_eq!(ranges(7, Some("bob")), [Range { first: 165_536, count: 65_536 }]);
        assert_eq!(ranges(7, None), []);
    }

    #[test]
    fn an_identity_map_has_the_ids_that_the_namespace_has() {
        assert_eq!(identity("         0          0 4294967295\n"), "0 0 4294967295\n");
        assert_eq!(identity("0 1000 1\n1 100000 65536\n"), "0 0 1\n1 1 65536\n");
    }
}
