//! One Dockerfile, many places: the image has the same entries, with the same owners and contents, as the one that root
//! of the machine gets; or the refusal says what to change.

use std::os::unix::fs::PermissionsExt;
use std::process::Command;

use crate::common::{Bench, Image, Listing, RBUILD, Run, peer};
use crate::rootless::Rootless;

use super::container::{Container, DOCKER};

/// Root in a container as Docker makes it.
const DOCKER_DEFAULT: Container = Container { user: 0, capabilities: DOCKER, no_new_privileges: false, seccomp: true };
/// The same with `seccomp=unconfined`.
const DOCKER_UNCONFINED: Container =
    Container { user: 0, capabilities: DOCKER, no_new_privileges: false, seccomp: false };
/// A pod of the profile "restricted" but for its system calls.
const POD_UNCONFINED: Container = Container { user: 1000, capabilities: &[], no_new_privileges: true, seccomp: false };
/// A pod of the profile "restricted".
const POD: Container = Container { user: 1000, capabilities: &[], no_new_privileges: true, seccomp: true };

/// A user of this machine without subordinate ids; not even the user database knows it.
const NOBODY: u32 = 54321;

/// Where rbuild runs.
#[derive(Clone, Copy)]
enum Place {
    Container(Container),
    User(u32),
}

impl Place {
    /// Gives `bench` to who runs rbuild; before the first build.
    fn own(self, bench: &Bench) {
        let (Self::User(user) | Self::Container(Container { user, .. })) = self;
        fs_err::set_permissions(bench.path(""), PermissionsExt::from_mode(0o755)).unwrap();
        peer("chown", &["-R", &format!("{user}:{user}"), bench.path("").to_str().unwrap()]);
    }

    fn build(self, bench: &Bench, arguments: &[&str]) -> Run {
        let output = format!("type=oci,tar=false,dest={}", bench.path("layout").display());
        let all = [&["--progress", "plain", "-o", &output], arguments, &["."]].concat();
        let Self::User(user) = self else {
            let Self::Container(container) = self else { unreachable!("there are two places") };
            return Run::of(&mut container.rbuild(bench, &all));
        };
        let program = bench.path("rbuild");
        if !program.exists() {
            // The program under test may lie where the user cannot reach it.
            fs_err::copy(RBUILD, &program).unwrap();
        }
        let (uid, gid) = (format!("--reuid={user}"), format!("--regid={user}"));
        let mut command = Command::new("setpriv");
        command.args([&uid, &gid, "--clear-groups", "env", "-i"]);
        command.arg(format!("RBUILD_HOME={}", bench.path("home").display()));
        Run::of(command.arg(program).args(all).current_dir(bench.context()))
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
    FROM {busybox}\nCOPY --from=made /k /k\nCOPY --from=made --chown=12:13 /home /home\nRUN chown 77 /k/f && rm -r /k/dir\n";

fn bench(dockerfile: &str) -> Bench {
    let bench = Bench::with(dockerfile);
    bench.file("c", "c\n");
    bench
}

/// The image of the last stage, and of the one before it.
const STAGES: [&[&str]; 2] = [&[], &["--target", "0"]];

/// Builds all images in a place and as root, and compares them.
fn assert_equal_to_root(place: Place, dockerfile: &str) {
    let (theirs, root) = (bench(dockerfile), bench(dockerfile));
    place.own(&theirs);
    for stage in STAGES {
        let run = place.build(&theirs, stage);
        assert_eq!(run.code, 0, "{}{}", run.stdout, run.stderr);
        assert_equal(&Image::read(&theirs.path("layout")), &root.image(stage));
        fs_err::remove_dir_all(theirs.path("layout")).unwrap();
    }
}

/// Layer by layer the same entries; the same bytes in every file.
fn assert_equal(theirs: &Image, root: &Image) {
    assert_eq!(theirs.layers.len(), root.layers.len());
    for (number, (theirs, root)) in theirs.layers.iter().zip(&root.layers).enumerate() {
        let only = |a: &Listing, b: &Listing| -> Vec<String> {
            a.iter().filter(|(path, line)| b.get(*path) != Some(line)).map(|(_, line)| line.clone()).collect()
        };
        let none: Vec<String> = Vec::new();
        assert_eq!((only(theirs, root), only(root, theirs)), (none.clone(), none), "layer {number}: theirs, root's");
    }
    let other = |path: &&String| theirs.contents()[*path] != root.contents()[*path];
    assert_eq!(root.contents().keys().filter(other).collect::<Vec<_>>(), [""; 0], "files with other contents");
    assert_eq!(theirs.run(), root.run());
}

#[test]
fn a_plain_user_with_subordinate_ids_gets_the_same_image() {
    for dockerfile in [COPIES, KINDS] {
        let rootless = Rootless::with(dockerfile);
        rootless.bench.file("c", "c\n");
        assert_equal(&rootless.image(), &bench(dockerfile).image(&[]));
    }
}

#[test]
fn root_of_a_container_without_a_filter_gets_the_same_image() {
    for dockerfile in [COPIES, KINDS] {
        assert_equal_to_root(Place::Container(DOCKER_UNCONFINED), dockerfile);
    }
}

#[test]
fn root_of_docker_s_default_container_is_told_what_is_missing() {
    assert_refused(Place::Container(DOCKER_DEFAULT), &["allows the sandbox `chroot`", "seccomp=unconfined"]);
}

#[test]
fn a_user_with_one_id_is_told_what_is_missing() {
    for place in [Place::User(NOBODY), Place::Container(POD_UNCONFINED)] {
        assert_refused(place, &["allows the sandbox `single`", "usermod --add-subuids"]);
    }
}

#[test]
fn a_restricted_pod_is_told_what_to_change() {
    let words = ["cannot make a user namespace", "seccompProfile: { type: Unconfined }", "hostUsers: false"];
    assert_refused(Place::Container(POD), &words);
}

/// The build ends with the code for a machine that is not fit, and says all of `words`.
fn assert_refused(place: Place, words: &[&str]) {
    let bench = bench(KINDS);
    place.own(&bench);
    let run = place.build(&bench, &[]);
    assert_eq!(run.code, 3, "{}", run.stderr);
    for words in words {
        assert!(run.stderr.contains(words), "{words}: {}", run.stderr);
    }
}
