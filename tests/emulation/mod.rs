//! Root of a user namespace with one id, who seems to have all: what it gives beside the same images as on the other rungs
//! (those are compared in `sandbox::matrix`), and the checks that run everywhere.

use std::os::unix::fs::PermissionsExt;
use std::process::Command;

use crate::common::{Bench, Image, RBUILD, Run, peer};

/// A user of this machine without subordinate ids; not even the user database knows it.
const NOBODY: &str = "54321";

const CHECKS: &str = include_str!("checks.sh");
const I386: &str = include_str!("i386.py");

/// Runs the checks. The build argument `CANNOT` names those that cannot pass where they run.
const CHECKED: &str = "FROM {python}\nARG CANNOT\nCOPY --from={busybox} /bin/busybox /busybox\n\
    COPY checks.sh i386.py /\nRUN bash /checks.sh $CANNOT\n";

/// A bench with [`CHECKED`] and what it copies.
pub(crate) fn checked() -> Bench {
    let bench = Bench::with(CHECKED);
    bench.file("checks.sh", CHECKS);
    bench.file("i386.py", I386);
    bench
}

/// A bench whose store belongs to a user with one id.
struct Single(Bench);

impl Single {
    fn with(dockerfile: &str) -> Self {
        let bench = Bench::with(dockerfile);
        // The program under test may lie where the user cannot reach it.
        fs_err::copy(RBUILD, bench.path("rbuild")).unwrap();
        fs_err::set_permissions(bench.path(""), PermissionsExt::from_mode(0o755)).unwrap();
        Self(bench)
    }

    fn try_build(&self, arguments: &[&str]) -> Run {
        peer("chown", &["-R", &format!("{NOBODY}:{NOBODY}"), self.0.path("").to_str().unwrap()]);
        let mut command = Command::new("setpriv");
        command.args(["--reuid", NOBODY, "--regid", NOBODY, "--clear-groups", "env", "-i"]);
        command.arg(format!("RBUILD_HOME={}", self.0.path("home").display()));
        command.arg(self.0.path("rbuild")).args(["--progress", "plain"]).args(arguments).arg(".");
        Run::of(command.current_dir(self.0.context()))
    }

    fn build(&self, arguments: &[&str]) -> Run {
        let run = self.try_build(arguments);
        assert_eq!(run.code, 0, "{}", run.stderr);
        run
    }

    fn image(&self, arguments: &[&str]) -> Image {
        let layout = self.0.path("layout");
        if layout.exists() {
            fs_err::remove_dir_all(&layout).unwrap();
        }
        let output = format!("type=oci,tar=false,dest={}", layout.display());
        self.build(&[&["-o", &output], arguments].concat());
        Image::read(&layout)
    }
}

/// Devices that root makes, owners that later steps change, copies that keep them and copies that do not.
#[test]
fn a_single_id_gets_the_layers_of_root() {
    let dockerfile = "FROM {busybox} AS made\n\
        RUN mkdir -m 700 /d && cd /d && mknod null c 1 3 && mknod -m 600 sda b 8 1 && chown 3:4 null && touch f && ln f g && \
        chown 5:6 f && ln -s f l && chown -h 7:8 l && mkfifo p && chown 9 p && mkdir -m 2770 s && chown 0:10 s && touch s/f && chown 11 .\n\
        RUN cd /d && mv l m && mv null zero && chown 0:0 f && chmod 4711 g && rm p && mkdir /d2 && cp -a s/f /d2\n\
        RUN rm -r /d/s && mkdir /d/s && chown 12 /d/s\n\
        FROM {busybox}\nCOPY --from=made /d /d\nCOPY --from=made --chown=20:21 /d2 /d2\nUSER 30:31\nWORKDIR /w\nRUN touch /w/mine; ls -ln /w; id\n";
    for target in [&["--target", "made"][..], &[]] {
        let (single, root) = (Single::with(dockerfile), Bench::with(dockerfile));
        assert_eq!(single.image(target).layers, root.image(target).layers);
        // From the cache, and unpacked again.
        assert_eq!(single.image(target).layers, root.image(target).layers);
    }
}

#[test]
fn sudo_works_for_a_user() {
    let dockerfile = "FROM {debian}\nRUN apt-get update && apt-get install -y --no-install-recommends sudo >/dev/null\n\
        RUN useradd -m app && echo 'app ALL=(ALL) NOPASSWD: ALL' >/etc/sudoers.d/app\nUSER app\nWORKDIR /home/app\n\
        RUN test \"$(id -un)\" = app && test \"$(sudo -n id -u)\" = 0 && sudo -n chown 33:34 . && sudo -n -u nobody touch /tmp/n && \
        test \"$(stat -c %U /tmp/n)\" = nobody && ! chown 0 /tmp/n\n";
    let (single, root) = (Single::with(dockerfile), Bench::with(dockerfile));
    let (theirs, ours) = (single.image(&[]), root.image(&[]));
    assert_eq!(theirs.layers.last(), ours.layers.last());
}

#[test]
fn other_emulations_do_what_they_say() {
    let dockerfile = "FROM {busybox}\nRUN touch /f; chown 5:6 /f; echo \"chown $?\"; stat -c %u:%g /f\n";
    let single = Single::with(dockerfile);
    let run = single.build(&["--root-emulation=filter"]);
    assert!(run.stderr.contains("chown 0") && run.stderr.contains(" 0:0"), "{}", run.stderr);
    let run = single.build(&["--root-emulation=none"]);
    assert!(run.stderr.contains("chown 1") && run.stderr.contains(" 0:0"), "{}", run.stderr);
    // What was built with less is not taken for what full emulation gives.
    let run = single.build(&["--isolation=single", "--root-emulation=full"]);
    assert!(run.stderr.contains("chown 0") && run.stderr.contains(" 5:6"), "{}", run.stderr);
    let run = single.try_build(&["--root-emulation=some"]);
    assert!(run.code == 2 && run.stderr.contains("`filter`"), "{}", run.stderr);
    let run = Bench::with(dockerfile).try_build(&["--root-emulation=filter"]);
    assert!(run.code == 3 && run.stderr.contains("--isolation=single"), "{}", run.stderr);
}

#[test]
fn doctor_says_what_a_single_id_does_not_enforce() {
    let single = Single::with("FROM scratch\n");
    peer("chown", &[NOBODY, single.0.path("").to_str().unwrap()]);
    let mut command = Command::new("setpriv");
    command.args(["--reuid", NOBODY, "--regid", NOBODY, "--clear-groups", "env", "-i"]);
    command.arg(format!("RBUILD_HOME={}", single.0.path("home").display()));
    let run = Run::of(command.arg(single.0.path("rbuild")).arg("doctor"));
    assert!(run.stdout.starts_with("isolation: single\n") && run.stdout.contains("is not enforced"), "{}", run.stdout);
}

/// What Docker's default profile forbids is forbidden on every rung.
#[test]
fn no_step_gets_a_namespace_or_a_mount() {
    let dockerfile =
        "FROM {busybox}\nRUN ! unshare -U true; ! unshare -m true; ! mount -t tmpfs none /tmp && echo confined\n";
    let bench = Bench::with(dockerfile);
    assert!(bench.build(&[]).stderr.contains(" confined"));
    assert!(Single::with(dockerfile).build(&[]).stderr.contains(" confined"));
}

#[test]
fn a_directory_of_a_single_id_is_its_user_s_and_says_so() {
    let single = Single::with("FROM {busybox}\nRUN touch /f && chown 5:6 /f\n");
    let out = single.0.path("out");
    let run = single.build(&["-o", out.to_str().unwrap()]);
    assert!(run.stderr.contains("are yours"), "{}", run.stderr);
    let found = fs_err::metadata(out.join("f")).unwrap();
    assert_eq!(std::os::unix::fs::MetadataExt::uid(&found).to_string(), NOBODY);
    let tar = single.0.path("out.tar");
    single.build(&["-o", &format!("type=tar,dest={}", tar.display())]);
    let listed = peer("tar", &["--numeric-owner", "-tvf", tar.to_str().unwrap(), "f"]);
    assert!(listed.contains("5/6"), "{listed}");
}
