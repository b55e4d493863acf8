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
    // The first request finds out whether the registry, which is on loopback, speaks TLS.
    assert_eq!(log, ["GET /v2/", "GET /v2/library/busybox/manifests/latest"]);
}
