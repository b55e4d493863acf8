//! Images and steps that try to make rbuild read or write outside of the root. Where they are built, `matrix` says; what a
//! step itself cannot do is in `isolation`.

use std::path::Path;

use crate::common::peer;

use super::matrix::{Place, bench};

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
pub(super) fn assert_none(place: Place, options: &[&str]) {
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
        place.own(&bench);
        let before = listing(&canary);
        let out = format!("OUT={}", canary.display());
        let run = place.build(&bench, &[&["--build-arg", &out, "--secret", "id=key,src=c"], options].concat());
        assert_eq!(run.code, 0, "{}{}", run.stdout, run.stderr);
        assert_eq!(listing(&canary), before, "{}", run.stderr);
        // A working directory behind a link of /proc is one of the image, or none.
        bench.dockerfile(
            "FROM {busybox}\nWORKDIR /proc/self/fd/7\nRUN ls ../../../../../canary /proc/self/cwd/../../canary\n",
        );
        let run = place.build(&bench, options);
        assert!(run.code == 1 && run.stderr.contains("cannot enter the working directory"), "{}", run.stderr);
        bench.assert_clean();
    }
}

/// What is in a directory, with everything of its status but the time of the last read.
fn listing(directory: &Path) -> String {
    peer("find", &[directory.to_str().unwrap(), "-printf", "%P %y %m %U:%G %n %s %T@ %C@\\n"])
}
