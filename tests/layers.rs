//! Layers on their way: tall trees under a step, pushes beside one.

use std::fmt::Write as _;

use registry::testing::{Logged, Registry};

use crate::common::{Bench, base, peer, registry};

/// More layers than an overlay is given: what the lowest of them have, and removed, is seen at the top.
#[test]
fn a_step_stands_on_two_hundred_layers() {
    let mut text =
        String::from("FROM {busybox}\nRUN mkdir /d && echo first >/d/first && ln /d/first /d/link && chmod 700 /d\n");
    for number in 0..200 {
        writeln!(text, "COPY f /d/{number}").unwrap();
        if number % 70 == 69 {
            writeln!(text, "RUN rm /d/{} && echo {number} >>/d/log", number - 1).unwrap();
        }
    }
    text.push_str("RUN ls /d | wc -l >/count && cat /d/first /d/log >/seen && stat -c %a /d >>/seen\n");
    let bench = Bench::with(&text);
    bench.file("f", "f\n");
    let root = bench.path("root");
    bench.build(&["-o", root.to_str().unwrap()]);
    assert_eq!(fs_err::read_to_string(root.join("seen")).unwrap(), "first\n69\n139\n700\n");
    // 200 copies less two removed, first, link and log.
    assert_eq!(fs_err::read_to_string(root.join("count")).unwrap().trim(), "201");
    bench.assert_clean();
}

/// The registry has the steps' layers before the push begins: the first one's since the second step ran.
#[test]
fn layers_are_pushed_while_steps_run() {
    let bench = Bench::with("FROM {busybox}\nCOPY f /f\nRUN cp /f /g && sleep 2\n");
    // The registry cannot have them from another run.
    bench.file("f", &format!("{:?}\n", std::time::SystemTime::now()));
    let tag = format!("{}/layers/overlap:1", registry());
    let layer = |text: &str| text.contains("uploaded");
    let run = bench.build(&["-t", &tag, "--push"]);
    // Of the three layers the base's is mounted or was here before, and those of the steps were there when the push began.
    assert!(!run.stderr.lines().any(layer), "{}", run.stderr);
    assert!(run.stderr.matches(" exists").count() >= 2, "{}", run.stderr);
}

/// What is known of the base image is not asked for again.
#[test]
fn a_second_build_asks_for_the_base_s_manifest_alone() {
    let registry = Registry::start().unwrap();
    let image = format!("{}/library/busybox:latest", registry.host());
    let (from, to) = (format!("docker://{}", base("busybox:latest")), format!("docker://{image}"));
    peer("skopeo", &["copy", "-q", "--src-tls-verify=false", "--dest-tls-verify=false", &from, &to]);
    let bench = Bench::with(&format!("FROM {image}\nCOPY a /bin/\n"));
    bench.file("a", "aaaa");
    bench.build(&["-t", "first"]);
    registry.take_log();
    bench.file("a", "bbbb");
    bench.build(&["-t", "second"]);
    let asked = |entry: &Logged| format!("{} {}", entry.method, entry.path);
    let log: Vec<String> = registry.take_log().iter().map(asked).collect();
    assert_eq!(log, ["GET /v2/library/busybox/manifests/latest"]);
}

/// How many layers the store has as directories.
fn directories(bench: &Bench) -> usize {
    let store = bench.path("home/store-v1");
    let kinds = fs_err::read_dir(store).unwrap().map(|entry| entry.unwrap().path());
    let kinds = kinds.filter(|path| path.file_name().unwrap().to_string_lossy().starts_with("snapshots-"));
    let names = kinds.flat_map(|kind| fs_err::read_dir(kind).unwrap().map(|entry| entry.unwrap().file_name()));
    names.filter(|name| name.len() == 64).count()
}

/// A base is unpacked, and what was copied written out, when a step needs the files: not to copy onto them.
#[test]
fn files_that_no_step_reads_are_in_no_directory() {
    let copies = "FROM {busybox}\nWORKDIR /data\nCOPY f /bin/\nCOPY --chown=7:8 f f\nCOPY --link f /l\n";
    let bench = Bench::with(copies);
    bench.file("f", "some text\n");
    let image = bench.image(&[]);
    assert_eq!(directories(&bench), 0);
    assert_eq!((image.text("bin/f"), image.text("data/f")), ("some text\n".into(), "some text\n".into()));
    // The same, before the layer of another step.
    bench.dockerfile(&format!("{copies}RUN cat /bin/f /l >/seen && ls -ln /data/f | cut -c 1-40 >>/seen\n"));
    let run = bench.build(&["-o", bench.path("root").to_str().unwrap()]);
    assert_eq!(run.cached(), 4, "{}", run.stderr);
    let seen = fs_err::read_to_string(bench.path("root/seen")).unwrap();
    assert!(seen.starts_with("some text\nsome text\n-rw-r--r--") && seen.contains(" 7 "), "{seen}");
    assert_eq!(directories(&bench), 6);
    // A name is looked up in the base's files.
    let bench = Bench::with("FROM {busybox}\nCOPY --chown=root f /f\n");
    bench.file("f", "some text\n");
    bench.build(&["-t", "owned"]);
    assert_eq!(directories(&bench), 1);
}

/// What a layer has in common with an earlier one is neither read nor compressed again, and nobody can tell.
#[test]
fn a_rebuild_of_many_files_is_the_build_of_a_new_machine() {
    let bench = Bench::with("FROM scratch\nCOPY files /files\n");
    for number in 0..1200 {
        bench.file(&format!("files/{:02}/{number:04}", number % 40), &format!("{number} ").repeat(1500));
    }
    bench.image(&[]);
    for changed in ["05/0005", "39/1199", "00/0600"] {
        bench.file(&format!("files/{changed}"), "another");
        let warm = bench.image(&[]);
        assert_eq!(warm.text(&format!("files/{changed}")), "another");
        // The same build where nothing is known.
        let (home, aside) = (bench.path("home"), bench.path("aside"));
        fs_err::rename(&home, &aside).unwrap();
        let cold = bench.image(&[]);
        fs_err::remove_dir_all(&home).unwrap();
        fs_err::rename(&aside, &home).unwrap();
        assert!(warm.layers == cold.layers, "{changed}");
        assert_eq!(warm.manifest["layers"], cold.manifest["layers"], "{changed}");
    }
}
