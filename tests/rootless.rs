//! The same images for a plain user with subordinate ids as for root.

use std::os::unix::fs::PermissionsExt;
use std::process::Command;

use crate::common::{Bench, Image, RBUILD, Run, peer, plain_user};

/// A bench that belongs to the plain user, and rbuild run by that user.
pub(crate) struct Rootless {
    pub(crate) bench: Bench,
}

impl Rootless {
    pub(crate) fn with(dockerfile: &str) -> Self {
        let bench = Bench::with(dockerfile);
        // The program may lie where the user cannot reach it.
        fs_err::copy(RBUILD, bench.path("rbuild")).unwrap();
        fs_err::set_permissions(bench.path(""), PermissionsExt::from_mode(0o755)).unwrap();
        let rootless = Self { bench };
        rootless.own();
        rootless
    }

    /// Gives everything to the user; before the first build, for the store then belongs to subordinate ids too.
    pub(crate) fn own(&self) {
        peer("chown", &["-R", &format!("{0}:{0}", plain_user()), self.bench.path("").to_str().unwrap()]);
    }

    /// Runs rbuild as the user, with a clean environment.
    pub(crate) fn run(&self, arguments: &[&str]) -> Run {
        let mut command = Command::new("setpriv");
        command.args(["--reuid", &plain_user(), "--regid", &plain_user(), "--init-groups", "--reset-env"]);
        command.args(["env".into(), format!("RBUILD_HOME={}", self.bench.path("home").display())]);
        command.arg(self.bench.path("rbuild")).args(arguments).current_dir(self.bench.context());
        Run::of(&mut command)
    }

    pub(crate) fn try_build(&self, arguments: &[&str]) -> Run {
        let all: Vec<&str> = ["--progress", "plain"].iter().chain(arguments).chain(&["."]).copied().collect();
        self.run(&all)
    }

    pub(crate) fn image(&self) -> Image {
        self.own();
        let layout = self.bench.path("layout");
        let output = format!("type=oci,tar=false,dest={}", layout.display());
        let run = self.try_build(&["-o", &output]);
        assert_eq!(run.code, 0, "{}", run.stderr);
        Image::read(&layout)
    }
}

const MANY_KINDS: &str = "FROM {busybox}\n\
    RUN echo app:x:1000:1000::/home/app:/bin/sh >>/etc/passwd && mkdir /k && cd /k && echo x >f && ln f h && ln -s f l && mkfifo p && \
    echo y >suid && chmod 4755 suid && mkdir -m 1777 sticky && echo z >owned && chown 1000:65534 owned && rm /etc/group\n\
    RUN rm -r /k/sticky && mkdir /k/sticky && echo n >/k/sticky/n && cp /k/f /k/f2\n\
    USER app\nWORKDIR /home/app/w\nRUN id -u >me && touch mine\nCOPY --chown=app:0 c /c\n";

#[test]
fn layers_are_equal_to_those_of_root() {
    let rootless = Rootless::with(MANY_KINDS);
    rootless.bench.file("c", "c");
    let theirs = rootless.image();
    let root = Bench::with(MANY_KINDS);
    root.file("c", "c");
    let ours = root.image(&[]);
    assert_eq!(theirs.layers, ours.layers);
    assert_eq!(theirs.run(), ours.run());
}

#[test]
fn the_second_build_is_cached_and_pruning_works() {
    let rootless = Rootless::with(MANY_KINDS);
    rootless.bench.file("c", "c");
    assert_eq!(rootless.try_build(&[]).code, 0);
    assert_eq!(rootless.try_build(&[]).cached(), 5);
    let pruned = rootless.run(&["prune", "--all"]);
    assert_eq!(pruned.code, 0, "{}", pruned.stderr);
}

#[test]
fn doctor_names_the_rung() {
    let rootless = Rootless::with("FROM scratch\n");
    let run = rootless.run(&["doctor"]);
    assert!(run.code == 0 && run.stdout.starts_with("isolation: range\n"), "{}{}", run.stdout, run.stderr);
    let run = Run::of(Bench::new().rbuild().arg("doctor"));
    assert!(run.stdout.starts_with("isolation: root\n"), "{}{}", run.stdout, run.stderr);
}
