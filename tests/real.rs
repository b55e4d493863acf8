//! Real software: packages of Debian, npm and pip installed in RUN, the images read and run by peers.

use serde_json::Value;

use crate::common::{Bench, peer, registry};
use crate::rootless::Rootless;

/// Runs an image of the registry with crun, as peers unpack it, and returns what it prints.
pub(crate) fn run_image(bench: &Bench, tag: &str) -> String {
    let layout = bench.path("pulled");
    let copy = format!("oci:{}:run", layout.display());
    peer("skopeo", &["copy", "-q", "--insecure-policy", "--src-tls-verify=false", &format!("docker://{tag}"), &copy]);
    let bundle = bench.path("bundle");
    peer("umoci", &["unpack", "--image", &format!("{}:run", layout.display()), bundle.to_str().unwrap()]);
    let spec = bundle.join("config.json");
    let mut config: Value = serde_json::from_slice(&fs_err::read(&spec).unwrap()).unwrap();
    config["process"]["terminal"] = false.into();
    // A machine may not allow raising limits, and the test asks for no cgroup.
    config["process"]["rlimits"] = Value::Array(Vec::new());
    fs_err::write(&spec, config.to_string()).unwrap();
    let name = format!("rbuild-test-{}", std::process::id());
    // crun refuses a machine that has both versions of cgroups mounted.
    let script =
        "umount /sys/fs/cgroup/unified 2>/dev/null; exec crun --cgroup-manager=disabled run --bundle \"$0\" \"$1\"";
    peer("unshare", &["--mount", "sh", "-c", script, bundle.to_str().unwrap(), &name])
}

/// Builds and pushes as root, checks the second build and reads the result with peers.
fn check(name: &str, dockerfile: &str, steps: usize, said: &str) -> Bench {
    let bench = Bench::with(dockerfile);
    let tag = format!("{}/real/{name}:1", registry());
    bench.build(&["-t", &tag, "--push"]);
    let again = bench.build(&["-t", &tag, "--push"]);
    assert_eq!(again.cached(), steps, "{}", again.stderr);
    let inspected: Value =
        serde_json::from_str(&peer("skopeo", &["inspect", "--tls-verify=false", &format!("docker://{tag}")])).unwrap();
    assert!(!inspected["Layers"].as_array().unwrap().is_empty());
    assert_eq!(run_image(&bench, &tag), said);
    bench
}

const APT: &str = "FROM {debian}\nRUN apt-get update && apt-get install -y --no-install-recommends gcc libc6-dev make\n\
    COPY hello.c /\nRUN gcc -o /hello /hello.c\nCMD [\"/hello\"]\n";

/// Also the owners: a plain user's layer has the same entries as root's.
#[test]
fn apt_installs_a_compiler_that_compiles() {
    let program = "#include <stdio.h>\nint main(void) { puts(\"compiled\"); return 0; }\n";
    let bench = Bench::with(APT);
    bench.file("hello.c", program);
    let tag = format!("{}/real/apt:1", registry());
    bench.build(&["-t", &tag, "--push"]);
    let again = bench.build(&["-t", &tag, "--push"]);
    assert_eq!(again.cached(), 3, "{}", again.stderr);
    assert_eq!(run_image(&bench, &tag), "compiled\n");

    let rootless = Rootless::with(APT);
    rootless.bench.file("hello.c", program);
    let (theirs, ours) = (rootless.image(), bench.image(&[]));
    assert_eq!(theirs.layers.len(), ours.layers.len());
    for (theirs, ours) in theirs.layers.iter().zip(&ours.layers) {
        assert_eq!(theirs, ours);
    }
}

#[test]
fn npm_installs_express() {
    let dockerfile = "FROM {node}\nWORKDIR /app\nRUN npm install --no-audit --no-fund express@4\n\
        CMD [\"node\", \"-e\", \"console.log(typeof require('express'))\"]\n";
    check("npm", dockerfile, 2, "function\n");
}

#[test]
fn pip_installs_flask() {
    let dockerfile = "FROM {python}\nRUN pip install --no-cache-dir flask\n\
        CMD [\"python3\", \"-c\", \"import flask; print(flask.Flask('x').name)\"]\n";
    check("pip", dockerfile, 1, "x\n");
}
