//! Caches that machines share: what one has built, another takes without running it and without fetching what it does not
//! need. The machines are state directories, the registry is one in memory that tells what it was asked.

use registry::testing::{Fault, Logged, Registry, When};

use crate::common::{Bench, Run, registry_with_base};

/// A registry with a base image, and what it was asked for.
struct Shared {
    registry: Registry,
}

impl Shared {
    fn new() -> Self {
        Self { registry: registry_with_base() }
    }

    /// A Dockerfile on the base image.
    fn dockerfile(&self, text: &str) -> String {
        text.replace("{base}", &format!("{}/library/busybox:latest", self.registry.host()))
    }

    /// A machine that begins cold.
    fn machine(&self, dockerfile: &str) -> Bench {
        let bench = Bench::with(&self.dockerfile(dockerfile));
        bench.file("a", "aaaa");
        bench
    }

    fn cache(&self) -> String {
        format!("type=registry,ref={}/cache", self.registry.host())
    }

    /// The log since it was last taken, and the bytes of the blobs and manifests that were fetched.
    fn traffic(&self) -> (Vec<Logged>, usize) {
        let log = self.registry.take_log();
        let size = |entry: &Logged| {
            let path = entry.path.strip_prefix("/v2/")?;
            if let Some((repository, digest)) = path.split_once("/blobs/") {
                return Some(self.registry.blob(repository, &digest.parse().ok()?)?.len());
            }
            let (repository, name) = path.split_once("/manifests/")?;
            Some(self.registry.manifest(repository, name)?.1.len())
        };
        let fetched = log.iter().filter(|entry| entry.method == "GET").filter_map(size).sum();
        (log, fetched)
    }
}

/// The blobs that were fetched, but for configs: none of them is small.
fn layers(log: &[Logged], shared: &Shared) -> usize {
    let large = |entry: &&Logged| {
        let Some((repository, digest)) = entry.path.strip_prefix("/v2/").and_then(|path| path.split_once("/blobs/"))
        else {
            return false;
        };
        let blob = digest.parse().ok().and_then(|digest| shared.registry.blob(repository, &digest));
        entry.method == "GET" && blob.is_some_and(|blob| !blob.starts_with(b"{"))
    };
    log.iter().filter(large).count()
}

/// The steps that the log calls remote.
fn remote(run: &Run) -> usize {
    run.stderr.lines().filter(|line| line.ends_with("CACHED (remote, not pulled)")).count()
}

const THREE: &str = "FROM {base} AS build\nRUN head -c 3000000 /dev/urandom >/big\nRUN wc -c </big >/size\n\
                     FROM {base}\nCOPY --from=build /size /size\nRUN head -c 3000000 /dev/urandom >/own\nCOPY a /a\nRUN cat /a >/b\n";

#[test]
fn a_full_hit_fetches_no_layer_and_mounts_them_instead() {
    let shared = Shared::new();
    let (to, from) = (format!("{},mode=max", shared.cache()), shared.cache());
    let first = shared.machine(THREE);
    let run = first.build(&["--cache-to", &to, "-t", &format!("{}/app:1", shared.registry.host()), "--push"]);
    let (log, _) = shared.traffic();
    let uploaded: u64 = log.iter().filter(|entry| entry.path.contains("/uploads/")).map(|entry| entry.body).sum();
    // Two files of random bytes, sent once though two repositories have them.
    assert!((6_000_000..6_100_000).contains(&uploaded), "{uploaded}");
    assert!(run.stderr.contains(" 6.0 MB up"), "{}", run.stderr);

    let second = shared.machine(THREE);
    let run = second.build(&["--cache-from", &from, "-t", &format!("{}/other:1", shared.registry.host()), "--push"]);
    let (log, bytes) = shared.traffic();
    assert_eq!(remote(&run), 4, "{}", run.stderr);
    assert_eq!(layers(&log, &shared), 0, "{log:#?}");
    // One request a step, that of the other stage at the same time, and none for the image that the cache may be.
    let asked = log.iter().filter(|entry| entry.path.starts_with("/v2/cache/manifests/")).count();
    assert_eq!(asked, 6, "{log:#?}");
    // What is mounted is not looked for first, nor is the config.
    let mounted = log.iter().filter(|entry| entry.method == "POST" && entry.query.contains("mount=")).count();
    assert_eq!((mounted, log.iter().filter(|entry| entry.method == "HEAD").count()), (5, 0), "{log:#?}");
    assert!(bytes < 200_000, "{bytes}");
    let sent: u64 = log.iter().map(|entry| entry.body).sum();
    assert!(sent < 200_000, "{sent}");
    assert!(run.stderr.contains("0 steps run, 4 cached"), "{}", run.stderr);
    let digest = |name: &str| shared.registry.manifest(name, "1").unwrap();
    assert_eq!(digest("app"), digest("other"));

    // What was found in a cache is not kept there again.
    shared.machine(THREE).build(&["--cache-from", &from, "--cache-to", &to]);
    let (log, _) = shared.traffic();
    let asked = log.iter().filter(|entry| entry.path.starts_with("/v2/cache/")).count();
    assert_eq!(asked, 6, "{log:#?}");
}

/// Steps that ran while no cache was written have no blob that anybody needed.
#[test]
fn all_steps_are_kept_of_a_build_that_runs_none() {
    let shared = Shared::new();
    let (to, from) = (format!("{},mode=max", shared.cache()), shared.cache());
    let first = shared.machine(THREE);
    first.build(&[]);
    let run = first.build(&["--cache-to", &to]);
    assert!(run.stderr.contains("0 steps run"), "{}", run.stderr);
    let run = shared.machine(THREE).build(&["--cache-from", &from, "--target", "build"]);
    assert_eq!(remote(&run), 2, "{}", run.stderr);
}

#[test]
fn a_miss_fetches_what_its_step_stands_on_and_no_more() {
    let shared = Shared::new();
    let (to, from) = (format!("{},mode=max", shared.cache()), shared.cache());
    shared.machine(THREE).build(&["--cache-to", &to]);
    shared.traffic();
    let second = shared.machine(&THREE.replace("cat /a >/b", "cat /a /a >/b"));
    let run = second.build(&["--cache-from", &from]);
    assert_eq!((remote(&run), run.stderr.contains("1 step run")), (3, true), "{}", run.stderr);
    let (_, bytes) = shared.traffic();
    // The last step stands on the base and on /own, not on the other stage's /big.
    let base: usize = 1_500_000;
    assert!((3_000_000..3_000_000 + base * 2).contains(&bytes), "{bytes}");

    // A COPY from a stage is told from its index: neither stage is fetched nor run.
    let third = shared.machine(&THREE.replace("COPY --from=build /size /size", "COPY --from=build /size /size2"));
    let run = third.build(&["--cache-from", &from, "-o", "type=oci,dest=out.tar"]);
    assert!(!run.stderr.contains("urandom >/big\n#") || run.stderr.contains("CACHED (remote"), "{}", run.stderr);
}

#[test]
fn a_layer_is_the_same_whichever_machine_has_made_it() {
    let shared = Shared::new();
    let (to, from) = (shared.cache(), shared.cache());
    let first = shared.machine("FROM {base}\nRUN echo x >/x\nCOPY a /a\n").image(&["--cache-to", &to]);
    let second = shared.machine("FROM {base}\nRUN echo x >/x\nCOPY a /a\n").image(&["--cache-from", &from]);
    assert_eq!((first.manifest, first.config), (second.manifest, second.config));
}

#[test]
fn a_directory_and_an_image_can_be_caches_too() {
    let shared = Shared::new();
    let dockerfile = "FROM {base}\nRUN echo x >/x\nCOPY a /a\nRUN cat /x /a >/y\n";
    let kept = tempfile::tempdir().unwrap();
    let path = kept.path().display();
    shared.machine(dockerfile).build(&["--cache-to", &format!("type=local,dest={path}")]);
    let second = shared.machine(dockerfile);
    let run = second.build(&["--cache-from", &format!("type=local,src={path}")]);
    assert_eq!(remote(&run), 3, "{}", run.stderr);
    assert_eq!(second.image(&[]).text("y"), "x\naaaa");

    for (tag, asked) in [("1", ["--cache-to", "type=inline"]), ("2", ["--build-arg", "BUILDKIT_INLINE_CACHE=1"])] {
        let name = format!("{}/inline:{tag}", shared.registry.host());
        shared.machine(dockerfile).build(&[&asked[..], &["-t", &name, "--push"]].concat());
        let run = shared.machine(dockerfile).build(&["--cache-from", &name]);
        assert_eq!(remote(&run), 3, "{}", run.stderr);
    }
}

#[test]
fn what_four_machines_keep_at_once_is_all_there() {
    let shared = Shared::new();
    let (to, from) = (format!("{},mode=max", shared.cache()), shared.cache());
    let dockerfile = |own: usize| format!("FROM {{base}}\nRUN echo shared >/s\nRUN echo {own} >/own\nCOPY a /a\n");
    std::thread::scope(|scope| {
        for own in 0..4 {
            let (shared, to) = (&shared, &to);
            scope.spawn(move || shared.machine(&dockerfile(own)).build(&["--cache-to", to]));
        }
    });
    for own in 0..4 {
        let run = shared.machine(&dockerfile(own)).build(&["--cache-from", &from]);
        assert_eq!(remote(&run), 3, "{own}: {}", run.stderr);
    }
}

#[test]
fn a_cache_mount_goes_to_another_machine() {
    let shared = Shared::new();
    let dockerfile = "FROM {base}\nCOPY a /a\nRUN --mount=type=cache,target=/c,mode=0700 \
                      if [ -e /c/built ]; then echo warm; else echo cold; fi >/state; echo x >/c/built; ln -sf built /c/link\n";
    let (to, from) = (format!("{},mounts=true", shared.cache()), shared.cache());
    assert_eq!(shared.machine(dockerfile).image(&["--cache-to", &to]).text("state"), "cold\n");
    let second = shared.machine(dockerfile);
    second.file("a", "changed");
    assert_eq!(second.image(&["--cache-from", &from]).text("state"), "warm\n");
}

#[test]
fn a_cache_that_fails_costs_a_warning_and_no_build() {
    let shared = Shared::new();
    let dockerfile = "FROM {base}\nRUN echo x >/x\n";
    let nowhere = "type=registry,ref=127.0.0.1:1/cache";
    let run = shared.machine(dockerfile).build(&["--cache-from", nowhere, "--cache-to", nowhere]);
    let warnings = run.stderr.lines().filter(|line| line.starts_with("warning: cannot ")).count();
    assert_eq!(warnings, 2, "{}", run.stderr);
    let run = shared.machine(dockerfile).try_build(&["--cache-to", nowhere, "--cache-strict"]);
    assert!(run.code == 1 && run.stderr.contains("error: cannot keep the steps"), "{}", run.stderr);
}

#[test]
fn a_registry_that_moves_no_tag_keeps_the_step_that_was_there_first() {
    let dockerfile = "FROM {base}\nRUN echo x >/x\nCOPY a /a\n";
    for status in [400, 403] {
        let shared = Shared::new();
        let to = format!("{},mode=max", shared.cache());
        shared.machine(dockerfile).build(&["--cache-to", &to, "--cache-strict"]);
        shared.registry.fault(When::path("/v2/cache/manifests/k-").method("PUT").always(), Fault::Status(status));
        let run = shared.machine(dockerfile).build(&["--cache-to", &to, "--cache-strict"]);
        assert!(!run.stderr.contains("warning"), "{status}: {}", run.stderr);
        // A step that is not there is one that could not be kept.
        let other = shared.machine(&dockerfile.replace("echo x", "echo y"));
        assert_eq!(other.try_build(&["--cache-to", &to, "--cache-strict"]).code, 1, "{status}");
    }
}

#[test]
fn a_layer_that_a_cache_has_lost_is_made_again() {
    let shared = Shared::new();
    let (to, from) = (shared.cache(), shared.cache());
    let dockerfile = "FROM {base}\nRUN echo x >/x\n";
    shared.machine(dockerfile).build(&["--cache-to", &to]);
    shared.registry.fault(When::path("/v2/cache/blobs/").method("GET").always(), Fault::Status(404));
    let run = shared.machine(&format!("{dockerfile}RUN cat /x >/y\n")).build(&["--cache-from", &from]);
    assert!(run.stderr.contains("warning: cannot fetch a layer from the cache"), "{}", run.stderr);
    assert!(run.stderr.contains("2 steps run"), "{}", run.stderr);
}

#[test]
fn a_layer_that_no_output_can_have_from_a_cache_is_made_again() {
    let shared = Shared::new();
    let (to, from) = (shared.cache(), shared.cache());
    let dockerfile = "FROM {base}\nRUN echo x >/x\n";
    shared.machine(dockerfile).build(&["--cache-to", &to]);
    for fault in [Fault::Status(404), Fault::Flip(10)] {
        // A layer that is made again within the same second is the same, and would be there.
        let other = Registry::start().unwrap();
        let pushed = format!("{}/app:1", other.host());
        shared.registry.fault(When::path("/v2/cache/blobs/").method("GET").always(), fault);
        let machine = shared.machine(dockerfile);
        let tar = format!("type=tar,dest={}", machine.path("root.tar").display());
        let layout = format!("type=oci,dest={}", machine.path("oci.tar").display());
        for output in [&["-o", &tar][..], &["-o", &layout], &["-t", &pushed, "--push"]] {
            let run = shared.machine(dockerfile).build(&[output, &["--cache-from", &from]].concat());
            assert!(run.stderr.contains("warning: cannot fetch a layer from the cache"), "{}", run.stderr);
            assert!(run.stderr.contains("1 step run"), "{}", run.stderr);
        }
    }
}
