//! The places where rbuild runs, and what is tried in each of them: rows and columns.
//!
//! A row is a module below, with the sandbox that its place gives and the checks that cannot pass there; a column is a test
//! in it. Every image is compared with the one that root of the machine gets, entry by entry, with owners and contents.
//!
//! | column                  | what                                                                                 |
//! |-------------------------|--------------------------------------------------------------------------------------|
//! | `rung`                  | `rbuild doctor` names the sandbox                                                    |
//! | `checks`                | what packages do while they are installed (`tests/emulation/checks.sh`), one by one  |
//! | `copies`                | an image of COPY alone, in two stages                                                |
//! | `stages`                | steps that make, change and remove every kind of file, as several users, in stages   |
//! | `escapes`               | an image and steps that try to make rbuild write outside of the root                 |
//! | `packages_and_sudo`     | nginx, PostgreSQL, OpenSSH and sudo installed; then `sudo` from `USER app`           |
//! | `packages_without_sudo` | the same, and sudo saying why it cannot                                              |
//! | `refusal`               | no sandbox: the build ends with code 3 and says what to change                       |

use std::os::unix::fs::PermissionsExt;
use std::process::Command;
use std::sync::OnceLock;

use crate::common::{Bench, Image, Listing, RBUILD, Run, peer, plain_user};
use crate::emulation::checked;

use super::container::{ADMINISTRATOR, Container, DOCKER, Filter, WITHOUT_NODES};
use super::packages;

/// Root in a container as Docker makes it.
const DOCKER_DEFAULT: Container =
    Container { user: 0, capabilities: DOCKER, no_new_privileges: false, filter: Filter::Default };
/// The same without `CAP_MKNOD`.
const WITHOUT_DEVICE_NODES: Container = Container { capabilities: WITHOUT_NODES, ..DOCKER_DEFAULT };
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
/// The filter of a step without namespaces takes `no_new_privs`: setuid and setgid programs gain nothing.
const PRIVILEGES: &[&str] = &["setuid", "setgid", "setuid-root"];
const PRIVILEGES_AND_NODES: &[&str] = &["setuid", "setgid", "setuid-root", "mknod"];

matrix! {
    root_of_the_machine: Place::Machine, "root", except &[] => rung, checks, escapes;
    user_with_subordinate_ids: Place::PlainUser, "range", except NODES => rung, checks, copies, stages, escapes, packages_and_sudo;
    user_with_one_id: Place::User(NOBODY), "single", except &[] => rung, checks, copies, stages, escapes, packages_and_sudo;
    docker: Place::Container(DOCKER_DEFAULT), "chroot", except PRIVILEGES =>
        rung, checks, copies, stages, escapes, packages_without_sudo;
    /// As in a pod with a user namespace of its own and a filter.
    docker_without_device_nodes: Place::Container(WITHOUT_DEVICE_NODES), "chroot", except PRIVILEGES_AND_NODES =>
        rung, checks, copies, stages, escapes;
    docker_unconfined: Place::Container(DOCKER_UNCONFINED), "range", except NODES =>
        rung, checks, copies, stages, escapes, packages_and_sudo;
    /// There clone3 does not exist, and `pivot_root` and `pidfd_getfd` are not permitted.
    docker_administrator: Place::Container(DOCKER_ADMINISTRATOR), "root", except &[] => rung, checks, copies, stages, escapes;
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

fn copies(row: &Row) {
    assert_equal_to_root(row.place, COPIES);
}

fn stages(row: &Row) {
    assert_equal_to_root(row.place, KINDS);
}

/// An image whose directories are links that lead out, as seen from the machine.
const LINKS: &str = "FROM {busybox} AS made\nARG OUT=/\n\
    RUN mkdir /r && for name in etc dev proc sys run target; do ln -s $OUT/$name /r/$name; done\n\
    FROM scratch\nCOPY --from=made /r /\nCOPY --from={busybox} /bin /bin\nWORKDIR /target/w\n\
    RUN --mount=type=tmpfs,target=/target/tmpfs --mount=type=cache,target=/target/cache --mount=type=secret,id=key \
    --mount=target=/target/../target/context touch /target/cache/x /target/tmpfs/x\n";

/// Steps that leave links in the places of mounts, of directories on the way to them and of what every step is given, and
/// that leave processes.
const STEPS: &str = "FROM {busybox} AS fresh\nFROM {busybox}\nARG OUT=/\n\
    RUN ln -s $OUT /l && ln -s ../../../../../../../..$OUT /m && mkdir -p /a/b\n\
    COPY c /l/copied\nADD c /m/d/\nWORKDIR /m/w\nCOPY --from=fresh /etc /l/etc\nWORKDIR /\n\
    RUN --mount=type=cache,target=/a/b/c mv /a /x; ln -s $OUT /a; touch /x/b/new\n\
    RUN --mount=type=cache,id=1,target=/l/../m/deep/cache --mount=type=tmpfs,target=/x/b/../../l/tmpfs touch $OUT/deep/cache/x\n\
    RUN --mount=type=cache,id=2,target=/c rm -rf /c; ln -s $OUT /c; ln -s $OUT /c/link; ln -s $OUT /l/link; true\n\
    RUN --mount=type=cache,id=2,target=/c --mount=type=cache,id=3,target=/c/link/deep [ ! -L /c ] && touch /c/new /c/link/deep/new\n\
    RUN --mount=target=/bound,rw rm -rf /bound/c; ln -s $OUT /bound/c; rm -rf /bound 2>/dev/null; ln -s $OUT /bound; true\n\
    RUN --mount=type=secret,id=key --mount=type=ssh rm -rf /run; ln -s $OUT /run; true\n\
    RUN --mount=type=secret,id=key [ -s /run/secrets/key ]\n\
    RUN (setsid sleep 4321 &); for name in etc dev; do mv /$name /moved-$name; ln -s $OUT /$name; done; true\n\
    RUN ! ps | grep 'sleep 432[1]' && ls $OUT >/listed\nUSER 7\nCOPY --from=fresh /etc/passwd /etc/passwd\nRUN id -u >/dev/null\n";

/// CVE-2024-1753, CVE-2024-9675, CVE-2024-21626, CVE-2024-23651, CVE-2024-23652, CVE-2025-31133.
fn escapes(row: &Row) {
    for dockerfile in [LINKS, STEPS] {
        let bench = bench(dockerfile);
        let canary = bench.path("canary");
        // What a traversal would remove, fill or change.
        for directory in ["b/c", "deep/cache", "d", "dev/shm", "etc", "proc", "run/secrets", "sys", "target/cache", "w"]
        {
            fs_err::create_dir_all(canary.join(directory)).unwrap();
        }
        for file in ["passwd", "hosts", "null", "c", "etc/hosts", "etc/resolv.conf", "dev/null"] {
            fs_err::write(canary.join(file), "").unwrap();
        }
        row.place.own(&bench);
        let before = listing(&canary);
        let out = format!("OUT={}", canary.display());
        let run = row.place.build(&bench, &["--build-arg", &out, "--secret", "id=key,src=c"]);
        assert_eq!(run.code, 0, "{}{}", run.stdout, run.stderr);
        assert_eq!(listing(&canary), before, "{}", run.stderr);
        // A working directory behind a link of /proc is one of the image, or none.
        bench.dockerfile(
            "FROM {busybox}\nWORKDIR /proc/self/fd/7\nRUN ls ../../../../../canary /proc/self/cwd/../../canary\n",
        );
        let run = row.place.build(&bench, &[]);
        assert!(run.code == 1 && run.stderr.contains("cannot enter the working directory"), "{}", run.stderr);
        bench.assert_clean();
    }
}

/// What is in a directory, with everything of its status but the time of the last read.
fn listing(directory: &std::path::Path) -> String {
    peer("find", &[directory.to_str().unwrap(), "-printf", "%P %y %m %U:%G %n %s %T@ %C@\\n"])
}

fn packages_and_sudo(row: &Row) {
    packages::assert_equal_to_root(row.place);
}

fn packages_without_sudo(row: &Row) {
    packages::assert_equal_to_root_but_for_sudo(row.place);
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

fn bench(dockerfile: &str) -> Bench {
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
fn assert_equal(theirs: &Image, root: &Image) {
    assert_eq!(theirs.layers.len(), root.layers.len());
    for (number, (theirs, root)) in theirs.layers.iter().zip(&root.layers).enumerate() {
        let none: Vec<String> = Vec::new();
        assert_eq!((only(theirs, root), only(root, theirs)), (none.clone(), none), "layer {number}: theirs, root's");
    }
    let other = |path: &&String| theirs.contents()[*path] != root.contents()[*path];
    assert_eq!(root.contents().keys().filter(other).collect::<Vec<_>>(), [""; 0], "files with other contents");
    assert_eq!(theirs.run(), root.run());
}

/// The devices that every step has, whatever they are.
const DEVICES: &str = "FROM {busybox}\n\
    RUN echo gone >/dev/null && [ -c /dev/null ] && [ \"$(cat /dev/null | wc -c)\" -eq 0 ] && ! echo x >/dev/full && \
    [ \"$(head -c 3 /dev/zero | wc -c)\" -eq 3 ] && [ \"$(head -c 3 /dev/urandom | wc -c)\" -eq 3 ] && [ ! -e /dev/null/x ]\n";

#[test]
fn where_no_device_can_be_made_steps_see_those_of_the_container() {
    let place = Place::Container(WITHOUT_DEVICE_NODES);
    let theirs = bench(DEVICES);
    place.own(&theirs);
    let run = place.build(&theirs, &[]);
    assert_eq!(run.code, 0, "{}{}", run.stdout, run.stderr);
    assert_equal(&Image::read(&theirs.path("layout")), &bench(DEVICES).image(&[]));
}

/// What programs look for beside their files, asked by a shell and by Python; as root and as a user.
const LOOKS: &str = "FROM {python}\n\
    RUN useradd -m app\n\
    RUN [\"/bin/bash\", \"-ec\", \"cat <(echo substituted) && echo to-stdout >/dev/stdout && echo to-stderr >/dev/stderr && \
    readlink /proc/self/exe && grep -c processor /proc/cpuinfo >/dev/null && cat /proc/self/mounts && [ -d /proc/$$ ] && \
    ls /proc/self/fd && [ -e /sys/class/net/lo ] && stat -c %F /proc/self /dev/fd/0 /dev/stdin /proc/$$/cwd && echo from-stdin | cat /dev/stdin && \
    readlink /proc/self/cwd && chmod 640 /proc/self/fd/3 3>/tmp/made && stat -c %a /tmp/made\"]\n\
    RUN [\"python3\", \"-c\", \"import os, pty, multiprocessing as m; a, b = pty.openpty(); print(os.ttyname(b).startswith('/dev/pts/')); \
    print(os.listdir('/proc/self/task') == [str(os.getpid())]); print(m.Pool(2).map(abs, [-1])); print(os.stat('/proc/self/fd/1').st_mode == os.fstat(1).st_mode)\"]\n\
    USER app\n\
    RUN [\"/bin/bash\", \"-ec\", \"cat <(echo substituted) && readlink /proc/self/exe && echo to-stdout >/dev/stdout && readlink /proc/self/root && \
    (cat /proc/1/environ 2>/dev/null | wc -c) && ls -d /proc/self/fd/1\"]\n";

#[test]
fn steps_without_mounts_see_proc_and_terminals() {
    let bench = bench(LOOKS);
    let place = Place::Container(DOCKER_DEFAULT);
    place.own(&bench);
    let run = place.build(&bench, &[]);
    assert_eq!(run.code, 0, "{}", run.stderr);
    assert!(run.stderr.contains("warning: steps are confined by this container alone: see `rbuild doctor`\n"));
    let said: Vec<&str> = run
        .stderr
        .lines()
        .filter_map(|line| line.strip_prefix('#')?.split_once(' ')?.1.split_once(' '))
        .filter(|(time, _)| time.parse::<f64>().is_ok())
        .map(|(_, said)| said)
        .collect();
    let mounts = "rootfs / rootfs rw 0 0\nproc /proc proc ro 0 0\nsysfs /sys sysfs ro 0 0";
    let expected = format!(
        "substituted\nto-stdout\nto-stderr\n/usr/bin/readlink\n{mounts}\n0\n1\n2\n3\nsymbolic link\nsymbolic link\n\
        symbolic link\nsymbolic link\nfrom-stdin\n/\n640\nTrue\nTrue\n[1]\nTrue\n\
        substituted\n/usr/bin/readlink\nto-stdout\n/\n0\n/proc/self/fd/1"
    );
    assert_eq!(said.join("\n"), expected);
}

/// What is done with `/proc` other than opening a file in it, each with what it has to say.
const WAYS: &[(&str, &str)] = &[
    ("cd /proc && pwd -P && /bin/pwd && cat self/comm", "/proc\n/proc\ncat\n"),
    ("cd /proc/self/task && ls | wc -l && cd ../../.. && pwd -P", "1\n/\n"),
    ("cd /proc && ls -d ../etc && ls .. | grep -cx etc", "../etc\n1\n"),
    ("cd / && cat proc/self/comm && ls -d ./proc/self", "cat\n./proc/self\n"),
    ("cd /dev && echo x >stdout && ls -d fd/0 && ls -d /dev/fd/", "x\nfd/0\n/dev/fd/\n"),
    ("/proc/self/exe -c 'readlink /proc/$$/exe; true'", "/usr/bin/bash\n"),
    ("exec -a other /proc/self/exe -c 'echo $0'", "other\n"),
    ("printf '#!/bin/sh\\necho $0\\n' >/tmp/s && chmod +x /tmp/s && exec 5</tmp/s && /proc/self/fd/5", "/tmp/s\n"),
    (
        "mkdir -p /jail/bin && cp /busybox /jail/bin/sh && chroot /jail /bin/sh -c 'cd /proc && pwd && readlink /proc/self/exe'",
        "/proc\n/bin/sh\n",
    ),
    ("/busybox sh -c 'cd /sys/class/net && ls' | grep -x lo", "lo\n"),
    ("ls -l /proc | grep -c version$", "1\n"),
    ("find / -xdev -maxdepth 1 -name etc; find / -maxdepth 2 -name cpuinfo", "/etc\n/proc/cpuinfo\n"),
    ("touch -d @5 /proc/self/fd/1 >/tmp/t && stat -c %Y /tmp/t", "5\n"),
    (
        "su nobody -s /bin/bash -c 'cd /proc/self && /proc/self/exe -c \"id -un\"'; chmod 600 /proc/self/fd/1 >/tmp/m; stat -c %a /tmp/m",
        "nobody\n600\n",
    ),
    ("for i in {1..50}; do (cd /proc/self/task && ls >/dev/null) & done; wait; echo done", "done\n"),
];

/// The same by Python, which makes the calls that no program of a base image makes.
const CALLS: &str = "import os\n\
    file = os.open('/tmp/x', os.O_RDWR | os.O_CREAT)\n\
    path = f'/proc/self/fd/{file}'\n\
    os.truncate(path, 4)\n\
    os.setxattr(path, 'user.x', b'y')\n\
    assert os.listxattr(path) == ['user.x'] and os.getxattr(path, 'user.x') == b'y'\n\
    os.removexattr(path, 'user.x')\n\
    os.utime(path, (7, 8))\n\
    found = os.fstat(file)\n\
    assert (found.st_size, found.st_mtime, os.listxattr(path)) == (4, 8, [])\n\
    named = os.open('/proc/self', os.O_PATH)\n\
    os.stat('status', dir_fd=named)\n\
    for i in range(500): os.chdir('/proc'); os.chdir('/')\n\
    assert len(os.listdir('/proc/self/fd')) == 6, os.listdir('/proc/self/fd')\n\
    program = os.memfd_create('program', 0)\n\
    os.write(program, open('/bin/true', 'rb').read())\n\
    if os.fork() == 0: os.execv(f'/proc/self/fd/{program}', ['true'])\n\
    assert os.wait()[1] == 0\n\
    os.execv('/proc/self/exe', ['python3', '-c', 'print(\"again\")'])\n";

/// Files that a user has only named are opened again with the ids and the groups of that user.
const GROUPS: &str = "FROM {python}\n\
    RUN for group in 0 42; do echo x >/of-$group && chgrp $group /of-$group && chmod 640 /of-$group; done\n\
    COPY again.py /\n\
    RUN setpriv --reuid 7 --regid 7 --groups 42 python3 /again.py /of-42\n\
    RUN ! setpriv --reuid 7 --regid 7 --clear-groups python3 /again.py /of-42 2>/dev/null\n\
    RUN ! setpriv --reuid 7 --regid 7 --groups 42 python3 /again.py /of-0 2>/dev/null\n\
    RUN setpriv --reuid 7 --regid 7 --groups 42 python3 /again.py /of-42 && python3 /again.py /of-0\n";

#[test]
fn who_asks_for_a_file_is_who_opens_it() {
    for place in [Place::Machine, Place::Container(DOCKER_DEFAULT)] {
        let bench = bench(GROUPS);
        bench.file(
            "again.py",
            "import os, sys\nnamed = os.open(sys.argv[1], os.O_PATH)\nopen(f'/proc/self/fd/{named}').read()\n",
        );
        place.own(&bench);
        let run = place.build(&bench, &[]);
        assert_eq!(run.code, 0, "{}", run.stderr);
    }
}

/// What no caller can have answered by another, it does itself in another way.
#[test]
fn steps_without_mounts_enter_proc_and_execute_what_is_there() {
    let bench = bench(
        "FROM {python}\nCOPY --from={busybox} /bin/busybox /busybox\nCOPY calls.py /\nRUN python3 /calls.py\n\
        RUN --mount=target=/ways for i in $(seq 0 $(($(ls /ways/ways | wc -l) - 1))); do \
        timeout 20 bash /ways/ways/$i 2>&1 | cat >/said; cmp /said /ways/expected/$i || { cat /ways/ways/$i /said; exit 1; }; done\n",
    );
    bench.file("calls.py", CALLS);
    for (number, (way, expected)) in WAYS.iter().enumerate() {
        bench.file(&format!("ways/{number}"), way);
        bench.file(&format!("expected/{number}"), expected);
    }
    let place = Place::Container(DOCKER_DEFAULT);
    place.own(&bench);
    let run = place.build(&bench, &[]);
    assert_eq!(run.code, 0, "{}", run.stderr);
}

/// All kinds of mounts, in a build that is made twice.
const MOUNTS: &str = "FROM {busybox} AS other\nRUN mkdir -p /given/deep && echo of-a-stage >/given/deep/file\n\
    FROM {busybox}\nRUN mkdir /in-the-way && echo kept >/in-the-way/file\nARG RUN=1\n\
    RUN --mount=type=bind,target=/context,rw --mount=type=bind,from=other,source=/given,target=/in-the-way \
    --mount=type=cache,target=/var/cache/kept --mount=type=tmpfs,target=/scratch --mount=type=secret,id=key,mode=0400 \
    cat /context/c /in-the-way/deep/file /run/secrets/key && echo written >/context/new && touch /scratch/x && \
    echo $RUN >>/var/cache/kept/log && cp /var/cache/kept/log /log && ln -s /etc/passwd /var/cache/link\n\
    RUN <<END\ncat /in-the-way/file /log\nls /context /scratch /run/secrets 2>&1 | wc -l\nEND\n";

#[test]
fn what_is_mounted_without_mounts_leaves_no_trace() {
    let (theirs, root) = (bench(MOUNTS), bench(MOUNTS));
    let place = Place::Container(DOCKER_DEFAULT);
    for bench in [&theirs, &root] {
        bench.file("secret", "hidden\n");
        bench.file(".dockerignore", "secret\nDockerfile\n");
    }
    place.own(&theirs);
    for run in ["RUN=1", "RUN=2"] {
        let secret = format!("id=key,src={}", theirs.path("context/secret").display());
        let built = place.build(&theirs, &["--build-arg", run, "--secret", &secret]);
        assert_eq!(built.code, 0, "{}", built.stderr);
        let secret = format!("id=key,src={}", root.path("context/secret").display());
        assert_equal(&Image::read(&theirs.path("layout")), &root.image(&["--build-arg", run, "--secret", &secret]));
        fs_err::remove_dir_all(theirs.path("layout")).unwrap();
        theirs.assert_clean();
    }
    let log = root.image(&["--build-arg", "RUN=2", "--secret", "id=key,src=/dev/null"]).text("log");
    assert_eq!(log, "1\n2\n", "a cache outlives a build");
}

/// CVE-2024-23651 and its like: what a step leaves in the place of a cache is not followed.
#[test]
fn a_link_in_the_place_of_a_cache_leads_nowhere() {
    let steps = "FROM {busybox}\nARG RUN=1\nARG OUT=/\n\
        RUN --mount=type=cache,target=/cache rm -r /cache && ln -s $OUT /cache && echo $RUN\n\
        RUN --mount=type=cache,target=/cache echo x >/cache/new && ls /cache >/listed && [ ! -L /cache ]\n";
    let bench = bench(steps);
    let canary = bench.path("canary");
    fs_err::create_dir(&canary).unwrap();
    let place = Place::Container(DOCKER_DEFAULT);
    place.own(&bench);
    let out = format!("OUT={}", canary.display());
    for run in ["RUN=1", "RUN=2"] {
        let built = place.build(&bench, &["--build-arg", run, "--build-arg", &out]);
        assert_eq!(built.code, 0, "{}", built.stderr);
        assert_eq!(Image::read(&bench.path("layout")).text("listed"), "new\n");
        fs_err::remove_dir_all(bench.path("layout")).unwrap();
        assert_eq!(fs_err::read_dir(&canary).unwrap().count(), 0);
    }
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
