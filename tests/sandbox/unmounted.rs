//! Steps in a container in which nothing can be mounted: `/proc`, `/sys` and the devices are shown to them, and mounts are
//! moved into their root.

use crate::common::Image;

use super::matrix::{DOCKER_DEFAULT, Place, WITHOUT_DEVICE_NODES, assert_equal, bench};

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
    RUN [\"/bin/bash\", \"-ec\", \"cat <(echo substituted) && echo to-stdout >/dev/stdout && { echo to-stderr >/dev/stderr; } 2>&1 && \
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
