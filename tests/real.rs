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

/// Builds and pushes as root, checks that the second build is cached, reads and runs the result with peers, and builds
/// it again as the plain user: the layers have the same entries, but for those that `differs` knows.
fn check(name: &str, dockerfile: &str, said: &str, differs: fn(&str) -> bool) {
    let bench = Bench::with(dockerfile);
    bench.file("hello.c", "#include <stdio.h>\nint main(void) { puts(\"compiled\"); return 0; }\n");
    let tag = format!("{}/real/{name}:1", registry());
    bench.build(&["-t", &tag, "--push"]);
    let again = bench.build(&["-t", &tag, "--push"]);
    let steps = dockerfile.matches("\nRUN").count() + dockerfile.matches("\nCOPY").count();
    assert_eq!(again.cached(), steps, "{}", again.stderr);
    let inspect = ["inspect", "--tls-verify=false", &format!("docker://{tag}")];
    let inspected: Value = serde_json::from_str(&peer("skopeo", &inspect)).unwrap();
    assert!(inspected["Layers"].as_array().unwrap().len() > steps);
    assert_eq!(run_image(&bench, &tag), said);

    let rootless = Rootless::with(dockerfile);
    rootless.bench.file("hello.c", &fs_err::read_to_string(bench.context().join("hello.c")).unwrap());
    let (mut theirs, mut ours) = (rootless.image(), bench.image(&[]));
    for layers in [&mut theirs.layers, &mut ours.layers] {
        for layer in layers {
            layer.retain(|path, _| !differs(path));
        }
    }
    assert_eq!(theirs.layers, ours.layers);
}

#[test]
fn apt_installs_a_compiler_that_compiles() {
    let dockerfile = "FROM {debian}\n\
        RUN apt-get update && apt-get install -y --no-install-recommends gcc libc6-dev make\n\
        COPY hello.c /\nRUN gcc -o /hello /hello.c\nCMD [\"/hello\"]\n";
    // gcc comes and goes in /tmp: a change where its time falls into another second than that of the step before.
    check("apt", dockerfile, "compiled\n", |path| path == "tmp");
}

#[test]
fn npm_installs_express() {
    let dockerfile = "FROM {node}\nRUN mkdir /app && cd /app && npm install --no-audit --no-fund express@4\n\
        CMD [\"node\", \"-e\", \"console.log(typeof require('/app/node_modules/express'))\"]\n";
    // npm names its logs by the time.
    check("npm", dockerfile, "function\n", |path| path.starts_with("root/.npm/_logs/"));
}

#[test]
fn pip_installs_flask() {
    let dockerfile = "FROM {python}\nRUN pip install --no-cache-dir flask\n\
        CMD [\"python3\", \"-c\", \"import flask; print(flask.Flask('x').name)\"]\n";
    check("pip", dockerfile, "x\n", |_| false);
}

/// Another machine installs what the first one has fetched; it has no network, and npm fails where its cache lacks something.
#[test]
fn npm_is_warm_on_another_machine() {
    let dockerfile = |options: &str, arguments: &str| {
        format!(
            "FROM {{node}}\nWORKDIR /app\nRUN --mount=type=cache,target=/root/.npm {options} \
             npm install --no-audit --no-fund {arguments} express@4\n"
        )
    };
    let cache = format!("type=registry,ref={}/real/npm-cache-{}", registry(), std::process::id());
    Bench::with(&dockerfile("", "")).build(&["--cache-to", &format!("{cache},mounts=true")]);
    let offline = dockerfile("--network=none", "--offline");
    let image = Bench::with(&offline).image(&["--cache-from", &cache]);
    assert!(image.contents().contains_key("app/node_modules/express/package.json"));
}
