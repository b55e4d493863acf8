//! The places where rbuild runs, and what is tried in each of them: rows and columns.
//!
//! A row is a module below, with the sandbox that its place gives and the checks that cannot pass there; a column is a test
//! in it. Every image is compared with the one that root of the machine gets, entry by entry, with owners and contents.
//!
//! | column                  | what                                                                                 |
//! |-------------------------|--------------------------------------------------------------------------------------|
//! | `rung`                  | `rbuild doctor` names the sandbox                                                    |
//! | `checks`                | what packages do while they are installed (`tests/emulation/checks.sh`), one by one  |
//! | `checks_emulated`       | the same with `--root-emulation=full` where ids are real                             |
//! | `copies`                | an image of COPY alone, in two stages                                                |
//! | `stages`                | steps that make, change and remove every kind of file, as several users, in stages   |
//! | `escapes`               | an image and steps that try to make rbuild write outside of the root                 |
//! | `escapes_emulated`      | the same with `--root-emulation=full` where ids are real                             |
//! | `packages_and_sudo`     | nginx, PostgreSQL, OpenSSH and sudo installed; then `sudo` from `USER app`           |
//! | `refusal`               | no sandbox: the build ends with code 3 and says what to change                       |

use std::os::unix::fs::PermissionsExt;
use std::process::Command;
use std::sync::OnceLock;

use crate::common::{Bench, Image, Listing, RBUILD, Run, peer, plain_user};
use crate::emulation::checked;

use super::container::{ADMINISTRATOR, Container, DOCKER, Filter, WITHOUT_NODES};
use super::{escapes, packages};

/// Root in a container as Docker makes it.
pub(super) const DOCKER_DEFAULT: Container =
    Container { user: 0, capabilities: DOCKER, no_new_privileges: false, filter: Filter::Default };
/// The same without `CAP_MKNOD`.
pub(super) const WITHOUT_DEVICE_NODES: Container = Container { capabilities: WITHOUT_NODES, ..DOCKER_DEFAULT };
/// Docker's with `seccomp=unconfined`.
const DOCKER_UNCONFINED: Container =
    Container { user: 0, capabilities: DOCKER, no_new_privileges: false, filter: Filter::Off };
/// Docker's with `CAP_SYS_ADMIN` and the filter that goes with it.
const DOCKER_ADMINISTRATOR: Container =
    Container { user: 0, capabilities: ADMINISTRATOR, no_new_privileges: false, filter: Filter::Administrator };
/// A pod of the profile "restricted" but for its system calls.
const POD_UNCONFINED: Container =
    Container { user: 1000, capabilities: &[], no_new_privileges: true, filter: Filter::Off };
/// A pod of the profile "restricted".
const POD: Container = Container { user: 1000, capabilities: &[], no_new_privileges: true, filter: Filter::Default };

/// A user of this machine without subordinate ids; not even the user database knows it.
const NOBODY: u32 = 54321;

/// Where rbuild runs.
#[derive(Clone, Copy)]
pub(super) enum Place {
    /// Root of this machine.
    Machine,
    /// A user of this machine with subordinate ids.
    PlainUser,
    /// A user of this machine.
    User(u32),
    Container(Container),
}

impl Place {
    fn user(self) -> u32 {
        match self {
            Self::Machine => 0,
            Self::PlainUser => {
                let user = nix::unistd::User::from_name(&plain_user()).unwrap();
                user.expect("the set-up makes the user").uid.as_raw()
            }
            Self::User(user) | Self::Container(Container { user, .. }) => user,
        }
    }

    /// Gives `bench` to who runs rbuild; before the first build.
    pub(super) fn own(self, bench: &Bench) {
        let owner = format!("{0}:{0}", self.user());
        fs_err::set_permissions(bench.path(""), PermissionsExt::from_mode(0o755)).unwrap();
        peer("chown", &["-R", &owner, bench.path("").to_str().unwrap()]);
    }

    fn rbuild(self, bench: &Bench, arguments: &[&str]) -> Command {
        let user = match self {
            Self::Container(container) => return container.rbuild(bench, arguments),
            place => place.user(),
        };
        let program = bench.path("rbuild");
        if !program.exists() {
            // The program under test may lie where the user cannot reach it.
            fs_err::copy(RBUILD, &program).unwrap();
        }
        let mut command = Command::new("setpriv");
        command.args([format!("--reuid={user}"), format!("--regid={user}"), "--clear-groups".to_owned()]);
        command.args(["env", "-i"]).arg(format!("RBUILD_HOME={}", bench.path("home").display()));
        command.arg(program).args(arguments).current_dir(bench.context());
        command
    }

    pub(super) fn build(self, bench: &Bench, arguments: &[&str]) -> Run {
        let output = format!("type=oci,tar=false,dest={}", bench.path("layout").display());
        let all = [&["--progress", "plain", "-o", &output], arguments, &["."]].concat();
        Run::of(&mut self.rbuild(bench, &all))
    }
}

/// A place, and what is known of it.
struct Row {
    place: Place,
    /// The sandbox that `rbuild doctor` names.
    rung: &'static str,
    /// The checks of `checks.sh` that cannot pass there.
    cannot: &'static [&'static str],
}

/// Makes a module of each row, with a test for each column.
macro_rules! matrix {
    ($($(#[$attribute:meta])* $row:ident: $place:expr, $rung:literal, except $cannot:expr => $($column:ident),+;)+) => {
        $($(#[$attribute])*
        mod $row {
            use super::*;

            const ROW: Row = Row { place: $place, rung: $rung, cannot: $cannot };

            $(#[test]
            fn $column() {
                super::$column(&ROW);
            })+
        })+
    };
}

/// A user namespace cannot make a device node, and nothing emulates one where ids are real.
const NODES: &[&str] = &["mknod"];
/// The filter of a step without namespaces takes `no_new_privs`: setuid and setgid programs gain nothing where processes
/// are whose they seem to be.
const PRIVILEGES: &[&str] = &["setuid", "setgid", "setuid-root"];
const PRIVILEGES_AND_NODES: &[&str] = &["setuid", "setgid", "setuid-root", "mknod"];

matrix! {
    root_of_the_machine: Place::Machine, "root", except &[] => rung, checks, escapes;
    user_with_subordinate_ids: Place::PlainUser, "range", except NODES =>
        rung, checks, copies, stages, escapes, packages_and_sudo;
    user_with_one_id: Place::User(NOBODY), "single", except &[] =>
        rung, checks, copies, stages, escapes, packages_and_sudo;
    docker: Place::Container(DOCKER_DEFAULT), "chroot", except PRIVILEGES =>
        rung, checks, checks_emulated, copies, stages, escapes, escapes_emulated, packages_and_sudo;
    /// As in a pod with a user namespace of its own and a filter.
    docker_without_device_nodes: Place::Container(WITHOUT_DEVICE_NODES), "chroot", except PRIVILEGES_AND_NODES =>
        rung, checks, checks_emulated, copies, stages, escapes, escapes_emulated, packages_and_sudo;
    docker_unconfined: Place::Container(DOCKER_UNCONFINED), "range", except NODES =>
        rung, checks, copies, stages, escapes, packages_and_sudo;
    /// There clone3 does not exist, and `pivot_root` and `pidfd_getfd` are not permitted.
    docker_administrator: Place::Container(DOCKER_ADMINISTRATOR), "root", except &[] =>
        rung, checks, copies, stages, escapes;
    pod_unconfined: Place::Container(POD_UNCONFINED), "single", except &[] =>
        rung, checks, copies, stages, escapes, packages_and_sudo;
    pod_restricted: Place::Container(POD), "none works here", except &[] => rung, refusal;
}

fn rung(row: &Row) {
    let bench = Bench::new();
    row.place.own(&bench);
    let told = Run::of(&mut row.place.rbuild(&bench, &["doctor"]));
    assert!(told.stdout.starts_with(&format!("isolation: {}\n", row.rung)), "{}{}", told.stdout, told.stderr);
}

fn checks(row: &Row) {
    let bench = checked();
    row.place.own(&bench);
    let run = row.place.build(&bench, &["--build-arg", &format!("CANNOT={}", row.cannot.join(" "))]);
    assert!(run.code == 0 && run.stderr.contains(" 0 failures\n"), "{}{}", run.stdout, run.stderr);
}

/// Where processes only seem to be somebody's, setuid and setgid programs gain what they would.
fn checks_emulated(row: &Row) {
    let bench = checked();
    row.place.own(&bench);
    let cannot: Vec<&str> = row.cannot.iter().filter(|check| !PRIVILEGES.contains(check)).copied().collect();
    let arguments = ["--root-emulation=full", "--build-arg", &format!("CANNOT={}", cannot.join(" "))];
    let run = row.place.build(&bench, &arguments);
    assert!(run.code == 0 && run.stderr.contains(" 0 failures\n"), "{}{}", run.stdout, run.stderr);
}

fn copies(row: &Row) {
    assert_equal_to_root(row.place, COPIES);
}

fn stages(row: &Row) {
    assert_equal_to_root(row.place, KINDS);
}

fn escapes(row: &Row) {
    escapes::assert_none(row.place, &[]);
}

/// rbuild makes files for the step there.
fn escapes_emulated(row: &Row) {
    escapes::assert_none(row.place, &["--root-emulation=full"]);
}

fn packages_and_sudo(row: &Row) {
    packages::assert_equal_to_root(row.place);
}

fn refusal(row: &Row) {
    let bench = bench(KINDS);
    row.place.own(&bench);
    let run = row.place.build(&bench, &[]);
    assert_eq!(run.code, 3, "{}", run.stderr);
    for words in ["cannot make a user namespace", "seccompProfile: { type: Unconfined }", "hostUsers: false"] {
        assert!(run.stderr.contains(words), "{words}: {}", run.stderr);
    }
}

/// Files alone: no step runs.
const COPIES: &str = "FROM scratch AS files\nCOPY --chown=7:8 --chmod=640 c /c\nWORKDIR /w\n\
    FROM scratch\nCOPY --from=files --chown=9 / /all/\nCOPY c /\n";

/// Every kind of file, with owners that a single id has not, changed again by later steps.
const KINDS: &str = "FROM {debian} AS made\n\
    RUN useradd -m -u 1000 app && mkdir /k && cd /k && echo x >f && ln f h && ln -s f l && mkfifo p && \
    echo y >suid && chmod 4755 suid && mkdir -m 1777 sticky && echo z >owned && chown 1000:42 owned && chown -h 3:4 l && \
    mkdir -p dir/deep && echo 1 >dir/one && echo 2 >dir/deep/two && cp -a /bin/true program && rm -r /var/mail\n\
    RUN rm -r /k/sticky && mkdir /k/sticky && echo n >/k/sticky/n && cp /k/f /k/f2 && mv /k/dir /k/moved && \
    mkdir /k/dir && echo 3 >/k/dir/three && chmod u-s /k/suid && echo more >>/k/owned && rm /etc/motd\n\
    RUN true\n\
    RUN su app -c 'id -u >/home/app/me; id -G >/home/app/groups' && setpriv --reuid 5 --regid 6 --clear-groups touch /tmp/five && \
    tar -C / --mtime=@0 -cf /k/tar k/moved && ln /bin/cat /k/cat && chgrp app /usr/bin/tac\n\
    USER app\nWORKDIR /home/app/w\nRUN id -u >me && touch mine && ls -l /proc/self/exe >/dev/null\nCOPY --chown=app:0 c /c\n\
    FROM {busybox}\nCOPY --from=made /k /k\nCOPY --from=made --chown=12:13 /home /home\nRUN chown 77 /k/f2 && rm -r /k/dir\n";

pub(super) fn bench(dockerfile: &str) -> Bench {
    let bench = Bench::with(dockerfile);
    bench.file("c", "c\n");
    bench
}

/// The image of the last stage, and of the one before it.
const STAGES: [&[&str]; 2] = [&[], &["--target", "0"]];

/// Builds all images in a place and as root, and compares them.
fn assert_equal_to_root(place: Place, dockerfile: &'static str) {
    let theirs = bench(dockerfile);
    place.own(&theirs);
    for (stage, root) in STAGES.into_iter().zip(of_root(dockerfile)) {
        let run = place.build(&theirs, stage);
        assert_eq!(run.code, 0, "{}{}", run.stdout, run.stderr);
        assert_equal(&Image::read(&theirs.path("layout")), root);
        fs_err::remove_dir_all(theirs.path("layout")).unwrap();
    }
}

/// The images that root of the machine gets, made once for all tests.
fn of_root(dockerfile: &str) -> &'static [Image] {
    static IMAGES: [OnceLock<Vec<Image>>; 2] = [const { OnceLock::new() }; 2];
    let number = [COPIES, KINDS].iter().position(|known| *known == dockerfile).unwrap();
    IMAGES[number].get_or_init(|| {
        let bench = bench(dockerfile);
        STAGES.map(|stage| bench.image(stage)).into()
    })
}

/// The lines of a listing that another does not have.
pub(super) fn only(these: &Listing, others: &Listing) -> Vec<String> {
    these.iter().filter(|(path, line)| others.get(*path) != Some(line)).map(|(_, line)| line.clone()).collect()
}

/// Layer by layer the same entries; the same bytes in every file.
pub(super) fn assert_equal(theirs: &Image, root: &Image) {
    assert_eq!(theirs.layers.len(), root.layers.len());
    for (number, (theirs, root)) in theirs.layers.iter().zip(&root.layers).enumerate() {
        let none: Vec<String> = Vec::new();
        assert_eq!((only(theirs, root), only(root, theirs)), (none.clone(), none), "layer {number}: theirs, root's");
    }
    let other = |path: &&String| theirs.contents()[*path] != root.contents()[*path];
    assert_eq!(root.contents().keys().filter(other).collect::<Vec<_>>(), [""; 0], "files with other contents");
    assert_eq!(theirs.run(), root.run());
}

#[test]
fn the_doctor_tells_what_each_place_gives_and_how_to_get_more() {
    for (container, words) in [
        (
            DOCKER_DEFAULT,
            &[
                "isolation: chroot\n",
                "ok      chroot",
                "failed  range",
                "no_new_privs",
                "seccomp=unconfined",
                "type: Unconfined",
            ][..],
        ),
        (DOCKER_UNCONFINED, &["isolation: range\n", "ok      range", "systempaths=unconfined"]),
        (DOCKER_ADMINISTRATOR, &["isolation: root\n"]),
        (
            POD,
            &[
                "isolation: none works here\n",
                "failed  chroot",
                "in the way of `single`",
                "type: Unconfined",
                "hostUsers: false",
            ],
        ),
    ] {
        let bench = bench(KINDS);
        Place::Container(container).own(&bench);
        let told = Run::of(&mut container.rbuild(&bench, &["doctor"]));
        for words in words {
            assert!(told.stdout.contains(words), "{words}: {}{}", told.stdout, told.stderr);
        }
        assert_eq!(told.code, if told.stdout.contains("none works") { 3 } else { 0 });
    }
}
