//! Pushing: what a registry is asked while the build begins, and what the store keeps for it.

use std::time::Duration;

use registry::testing::{Fault, Registry, When};

use crate::common::{Bench, Run, registry_with_base};

fn machine(registry: &Registry, steps: &str) -> Bench {
    Bench::with(&format!("FROM {}/library/busybox:latest\n{steps}", registry.host()))
}

/// The layers' blobs in the store of a bench.
fn layers(bench: &Bench) -> usize {
    let blobs = fs_err::read_dir(bench.path("home/store-v1/blobs/sha256")).unwrap();
    blobs.filter(|blob| fs_err::read(blob.as_ref().unwrap().path()).unwrap().starts_with(&[0x1f, 0x8b])).count()
}

#[test]
fn what_may_not_be_pushed_is_refused_before_the_first_step_runs() {
    for status in [401, 403, 404] {
        let registry = registry_with_base();
        registry.fault(When::path("/v2/app/blobs/uploads/").method("POST").always(), Fault::Status(status));
        // The refusal is there when the base is known.
        let slow = Fault::Stall(Duration::from_millis(500));
        registry.fault(When::path("/v2/library/busybox/manifests/").method("GET"), slow);
        let bench = machine(&registry, "RUN echo ran\n");
        let run = bench.try_build(&["-t", &format!("{}/app:1", registry.host()), "--push"]);
        assert_eq!(run.code, 4, "{}", run.stderr);
        assert!(run.stderr.contains(&format!("error: cannot push `{}/app:1`", registry.host())), "{}", run.stderr);
        assert!(!run.stderr.contains("] RUN echo ran"), "{}", run.stderr);
    }
}

#[test]
fn what_may_pass_is_tried_again_when_the_image_is_pushed() {
    let registry = registry_with_base();
    registry.fault(When::path("/v2/app/blobs/uploads/").method("POST").times(2), Fault::Reset);
    let bench = machine(&registry, "RUN echo made >/made\n");
    bench.build(&["-t", &format!("{}/app:1", registry.host()), "--push"]);
    assert!(registry.manifest("app", "1").is_some());
}

/// The config is neither asked for nor sent in more than one piece.
#[test]
fn a_config_takes_two_requests_one_of_which_is_made_beforehand() {
    let registry = registry_with_base();
    machine(&registry, "ENV A=1\n").build(&["-t", &format!("{}/app:1", registry.host()), "--push"]);
    let log = registry.take_log();
    let uploads = log.iter().filter(|entry| entry.path.starts_with("/v2/app/blobs/"));
    let mut methods: Vec<&str> = uploads.map(|entry| entry.method.as_str()).collect();
    methods.sort_unstable();
    assert_eq!(methods, ["POST", "POST", "PUT"], "the layer is mounted: {log:#?}");
}

#[test]
fn of_a_base_whose_registry_gets_the_image_the_files_alone_are_kept() {
    let registry = registry_with_base();
    let tag = format!("{}/app:1", registry.host());
    let bench = machine(&registry, "RUN true >/made\n");
    bench.build(&["-t", &tag, "--push"]);
    assert_eq!(layers(&bench), 1, "that of the step");
    // Who wants the layer gets it: the store fetches it then.
    let fetched = |log: &[registry::testing::Logged]| {
        log.iter().filter(|entry| entry.method == "GET" && entry.path.starts_with("/v2/library/busybox/blobs/")).count()
    };
    registry.take_log();
    assert_eq!(bench.image(&[]).layers.len(), 2);
    assert_eq!((fetched(&registry.take_log()), layers(&bench)), (1, 2));

    // Another registry may not have it.
    let (other, bench) = (Registry::start().unwrap(), machine(&registry, "RUN true >/made\n"));
    bench.build(&["-t", &format!("{}/app:1", other.host()), "--push"]);
    assert_eq!((fetched(&registry.take_log()), layers(&bench)), (2, 2), "the config and the layer, once");
    let verified = Run::of(bench.rbuild().args(["cache", "verify"]));
    assert_eq!(verified.code, 0, "{}{}", verified.stdout, verified.stderr);
}

/// The files are those of the `diff_id` whether the blob is kept or not; what the registry sent instead is named.
#[test]
fn a_wrong_layer_of_a_base_is_refused_where_its_blob_is_not_kept() {
    let registry = registry_with_base();
    registry.fault(When::path("/v2/library/busybox/blobs/").method("GET").after(1).always(), Fault::Flip(700));
    let bench = machine(&registry, "RUN true\n");
    let run = bench.try_build(&["-t", &format!("{}/app:1", registry.host()), "--push"]);
    assert_eq!(run.code, 4, "{}", run.stderr);
    assert!(run.stderr.contains("sha256:"), "{}", run.stderr);
    bench.assert_clean();
}

#[test]
fn a_build_that_fails_does_not_wait_for_a_registry_that_does_not_answer() {
    let registry = registry_with_base();
    let silent = Fault::Stall(Duration::from_mins(2));
    registry.fault(When::path("/v2/app/blobs/uploads/").method("POST").always(), silent);
    let bench = machine(&registry, "COPY missing /\n");
    let begun = std::time::Instant::now();
    let run = bench.try_build(&["-t", &format!("{}/app:1", registry.host()), "--push"]);
    assert_eq!(run.code, 1, "{}", run.stderr);
    assert!(begun.elapsed() < Duration::from_mins(1), "{:?}", begun.elapsed());
}
