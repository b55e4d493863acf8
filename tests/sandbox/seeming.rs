//! Steps in a container without namespaces whose processes are root's and seem to be the user's: when they are, and whose the
//! files are that they make.

use crate::common::{Bench, Image, Run};

use super::matrix::{DOCKER_DEFAULT, Place, assert_equal, bench};

const PLACE: Place = Place::Container(DOCKER_DEFAULT);
/// Whose a process is for the kernel.
const KERNEL: &str = "awk '/^Uid:/ { print \"kernel \" $2 }' /proc/self/status";

fn build(bench: &Bench, arguments: &[&str]) -> (Run, Image) {
    PLACE.own(bench);
    let run = PLACE.build(bench, arguments);
    assert_eq!(run.code, 0, "{}", run.stderr);
    let image = Image::read(&bench.path("layout"));
    fs_err::remove_dir_all(bench.path("layout")).unwrap();
    (run, image)
}

/// What the steps said of whose they are.
fn whose(run: &Run) -> Vec<&str> {
    run.stderr.lines().filter_map(|line| Some(line.split_once(" kernel ")?.1)).filter(|said| said.len() < 6).collect()
}

#[test]
fn a_user_who_can_become_root_only_seems_to_be_a_user() {
    let dockerfile = format!(
        "FROM {{debian}}\nRUN useradd -m -u 1000 app && cp /usr/bin/id /usr/bin/sudo && {KERNEL}\n\
         USER app\nRUN {KERNEL}; id -u\nUSER root\nRUN chmod 4755 /usr/bin/sudo; {KERNEL}\n\
         USER app\nRUN test $(id -u) = 1000; {KERNEL}; sudo -u >/tmp/euid\n\
         USER 0:1000\nRUN {KERNEL}; cat /tmp/euid | sed 's/^/kernel /'\n"
    );
    let bench = bench(&dockerfile);
    // The last but one is what the setuid program got.
    assert_eq!(whose(&build(&bench, &[]).0), ["0", "1000", "0", "0", "0", "0"]);
    assert_eq!(
        whose(&build(&bench, &["--no-cache", "--root-emulation=none"]).0),
        ["0", "1000", "0", "1000", "0", "1000"]
    );
    assert_eq!(whose(&build(&bench, &["--no-cache", "--root-emulation=full"]).0), ["0", "0", "0", "0", "0", "0"]);
    // The image is the same, and so are the steps for the cache.
    assert_eq!(whose(&build(&bench, &["--root-emulation=none"]).0), [""; 0]);
    let run = PLACE.build(&bench, &["--root-emulation=filter"]);
    assert!(run.code == 3 && run.stderr.contains("--isolation=single"), "{}", run.stderr);
}

/// By a shell, which makes most files by their names, and by Python, which makes them from open directories.
const MAKES: &str = "FROM {python}\nRUN useradd -m -u 1000 app && usermod -a -G mail app && mkdir -m 2775 /shared && \
    chgrp mail /shared && ln -s /home/app /door && install -d -o app /home/app/in && chmod 700 /root\n\
    USER app\nWORKDIR /home/app\n\
    RUN [\"/bin/bash\", \"-ec\", \"touch a ../app/b /door/c; mkdir -p d d/e/../f d/g/; ln -s /door/later l; echo x >l; \
    ln -s ../up in/l; echo x >in/l; mkfifo p; cd /shared; touch s; mkdir t; \
    test \\\"$(stat -c %u:%g s t | xargs)\\\" = '1000:8 1000:8'; cd; \
    for i in a b c d d/f d/g l later up p; do test $(stat -c %u:%g $i) = 1000:1000 || { echo wrong $i; exit 1; }; done; \
    umask 027; touch m; mkdir n; test \\\"$(stat -c %a m n | xargs)\\\" = '640 750'\"]\n\
    RUN [\"/bin/bash\", \"-c\", \"refused() { ! $* 2>/dev/null || { echo passes: $*; exit 1; }; }; \
    refused touch /etc/made; refused mkdir /usr/made; refused ln -s x /root/made; ln -s /etc/made away; refused touch away; \
    refused chown 0 a; refused chgrp 0 b; refused mknod dev c 1 3; chgrp mail a && test -z \\\"$(find / -xdev -name made)\\\"\"]\n\
    RUN [\"python3\", \"-c\", \"import os, tempfile; d = os.open('d', os.O_RDONLY); \
    os.mkdir('made', dir_fd=d); os.symlink('x', 'link', dir_fd=d); os.mkfifo('fifo', dir_fd=d); \
    os.close(os.open('../out', os.O_CREAT | os.O_WRONLY, 0o4755, dir_fd=d)); os.close(os.open('new', os.O_CREAT | os.O_EXCL, dir_fd=d)); \
    own = lambda s: (s.st_uid, s.st_gid) == (1000, 1000); assert all(own(os.lstat(p)) for p in ['d/made', 'd/link', 'd/fifo', 'd/new', 'out']); \
    assert os.stat('out').st_mode & 0o7777 == 0o4755, oct(os.stat('out').st_mode); \
    f = tempfile.TemporaryFile(dir='/door'); assert own(os.fstat(f.fileno()))\"]\n";

#[test]
fn what_is_made_is_whose_it_seems_to_be_where_that_user_may_make_it() {
    let [seeming, real] =
        ["--root-emulation=full", "--root-emulation=none"].map(|mode| build(&bench(MAKES), &[mode]).1);
    assert_equal(&seeming, &real);
}
