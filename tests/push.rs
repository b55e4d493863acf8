//! Pushing: what a registry is asked while the build begins, and what the store keeps for it.

use std::time::Duration;

use registry::testing::{Fault, Logged, Registry, When};

use crate::common::{Bench, Run, peer, registry_with_base};

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
    let fetched = |log: &[Logged]| {
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

/// A layer that is large however it is compressed.
const LARGE: usize = 48 << 20;

/// A bench with a file of that size.
fn large(registry: &Registry, steps: &str) -> Bench {
    let bench = machine(registry, steps);
    let mut noise = vec![0; LARGE];
    blake3::Hasher::new().finalize_xof().fill(&mut noise);
    fs_err::write(bench.context().join("noise"), noise).unwrap();
    bench
}

/// The requests of one kind to the repository `app`, and the bytes that were sent with them.
fn requests(log: &[Logged], method: &str) -> (usize, u64) {
    let to_app = log.iter().filter(|entry| entry.path.starts_with("/v2/app/blobs/") && entry.method == method);
    to_app.fold((0, 0), |(count, bytes), entry| (count + 1, bytes + entry.body))
}

/// What is in the registry is what was built.
fn assert_pushed(registry: &Registry, bench: &Bench) {
    let (_, manifest) = registry.manifest("app", "1").expect("the tag is there");
    let manifest: serde_json::Value = serde_json::from_slice(&manifest).unwrap();
    for blob in manifest["layers"].as_array().unwrap().iter().chain([&manifest["config"]]) {
        let digest = blob["digest"].as_str().unwrap();
        let kept = registry.blob("app", &digest.parse().unwrap()).unwrap_or_else(|| panic!("{digest} is missing"));
        let stored = bench.path("home/store-v1/blobs").join(digest.replace(':', "/"));
        assert!(!stored.exists() || fs_err::read(stored).unwrap() == kept);
    }
    let verified = Run::of(bench.rbuild().args(["cache", "verify"]));
    assert_eq!(verified.code, 0, "{}{}", verified.stdout, verified.stderr);
    bench.assert_clean();
}

#[test]
fn a_large_layer_is_sent_once_and_while_it_is_compressed() {
    let registry = registry_with_base();
    let bench = large(&registry, "COPY noise /noise\nRUN echo made >/made\n");
    let (host, names) = (registry.host(), ["app:1", "app:2", "other:1"]);
    let names = names.map(|name| format!("{host}/{name}"));
    bench.build(&["-t", &names[0], "-t", &names[1], "-t", &names[2], "--push"]);
    let log = registry.take_log();
    let (patches, bytes) = requests(&log, "PATCH");
    assert!(patches > 2 && bytes > LARGE as u64 / 2, "{log:#?}");
    let sent: u64 = log.iter().map(|entry| entry.body).sum();
    assert!(sent < LARGE as u64 * 11 / 10, "{sent}: {log:#?}");
    assert_eq!(requests(&log, "DELETE").0, 0, "{log:#?}");
    assert_pushed(&registry, &bench);
    assert_eq!(registry.manifest("app", "1"), registry.manifest("other", "1"));
}

#[test]
fn a_stream_that_fails_costs_nothing_but_what_was_sent() {
    for fault in [Fault::Status(404), Fault::Status(405), Fault::ForgetUploads] {
        let registry = registry_with_base();
        registry.fault(When::path("/v2/app/blobs/uploads/").method("PATCH").after(1).always(), fault.clone());
        let bench = large(&registry, "COPY noise /noise\n");
        bench.build(&["-t", &format!("{}/app:1", registry.host()), "--push"]);
        let log = registry.take_log();
        assert_eq!(requests(&log, "PATCH").0, 2, "{fault:?}: {log:#?}");
        assert_pushed(&registry, &bench);
    }
    // A chunk that is lost is sent again.
    for fault in [Fault::Status(503), Fault::Reset, Fault::LoseAnswer] {
        let registry = registry_with_base();
        registry.fault(When::path("/v2/app/blobs/uploads/").method("PATCH").after(1), fault.clone());
        let bench = large(&registry, "COPY noise /noise\n");
        bench.build(&["-t", &format!("{}/app:1", registry.host()), "--push"]);
        let (puts, bytes) = requests(&registry.take_log(), "PUT");
        assert!(puts == 2 && bytes < LARGE as u64 / 2, "{fault:?}: the layer and the config");
        assert_pushed(&registry, &bench);
    }
}

#[test]
fn of_a_large_layer_that_is_there_the_rest_is_not_sent() {
    let registry = registry_with_base();
    let name = format!("{}/app:1", registry.host());
    let epoch = ["-t", &name, "--push", "--build-arg", "SOURCE_DATE_EPOCH=0"];
    let bench = large(&registry, "COPY noise /noise\n");
    bench.build(&epoch);
    registry.take_log();
    // The same layer, though the store does not know it any more.
    assert_eq!(Run::of(bench.rbuild().args(["cache", "prune", "--all"])).code, 0);
    registry.fault(When::path("/v2/app/blobs/uploads/").method("PATCH"), Fault::Stall(Duration::from_secs(8)));
    bench.build(&epoch);
    let log = registry.take_log();
    let (patches, deletes) = (requests(&log, "PATCH").0, requests(&log, "DELETE").0);
    assert!(patches < 4 && deletes == 1, "{log:#?}");
    assert_pushed(&registry, &bench);
}

#[test]
fn what_may_hold_a_secret_is_looked_through_before_it_is_sent() {
    let registry = registry_with_base();
    let bench = large(&registry, "COPY noise /noise\nRUN --mount=type=secret,id=token true\n");
    fs_err::write(bench.path("token"), "a secret of some length").unwrap();
    let secret = format!("id=token,src={}", bench.path("token").display());
    bench.build(&["-t", &format!("{}/app:1", registry.host()), "--push", "--secret", &secret]);
    assert_eq!(requests(&registry.take_log(), "PATCH").0, 0);
    assert_pushed(&registry, &bench);
}

#[test]
fn a_build_that_fails_gives_its_stream_up() {
    let registry = registry_with_base();
    registry.fault(When::path("/v2/app/blobs/uploads/").method("PATCH").always(), Fault::Stall(Duration::from_secs(1)));
    let bench = large(&registry, "COPY noise /noise\nRUN exit 3\n");
    let run = bench.try_build(&["-t", &format!("{}/app:1", registry.host()), "--push"]);
    assert_eq!(run.code, 1, "{}", run.stderr);
    let log = registry.take_log();
    let sent = log.iter().map(|entry| entry.body).sum::<u64>();
    assert!(requests(&log, "DELETE").0 == 1 && sent < LARGE as u64, "{log:#?}");
    bench.assert_clean();
}

#[test]
fn a_real_registry_takes_a_large_layer_while_it_is_compressed() {
    let registry = registry_with_base();
    let bench = large(&registry, "COPY noise /noise\n");
    let name = format!("{}/push-{}/large:1", crate::common::registry(), std::process::id());
    let run = bench.build(&["-t", &name, "--push"]);
    assert!(run.stderr.contains(" exists"), "when the image is pushed the layer is there: {}", run.stderr);
    let target = format!("dir:{}", bench.path("copy").display());
    peer("skopeo", &["copy", "-q", "--src-tls-verify=false", &format!("docker://{name}"), &target]);
}
