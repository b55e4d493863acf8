//! Images between rbuild and its peers, through registries, layouts and archives: every digest stays what it was.

use std::io::Write;
use std::path::Path;

use oci_spec::image::{Descriptor, MediaType};
use registry::testing::{Access, Fault, Logged, Registry, When};
use serde_json::{Value, json};
use snapshot::digest::sha256;

use crate::common::{Bench, Run, peer, registry};

const PLATFORMS: [(&str, Option<&str>); 3] = [("amd64", None), ("arm64", None), ("arm", Some("v7"))];

/// The media types of a format: manifest, index, config, layer.
const OCI: [&str; 4] = [
    "application/vnd.oci.image.manifest.v1+json",
    "application/vnd.oci.image.index.v1+json",
    "application/vnd.oci.image.config.v1+json",
    "application/vnd.oci.image.layer.v1.tar+gzip",
];
const DOCKER: [&str; 4] = [
    "application/vnd.docker.distribution.manifest.v2+json",
    "application/vnd.docker.distribution.manifest.list.v2+json",
    "application/vnd.docker.container.image.v1+json",
    "application/vnd.docker.image.rootfs.diff.tar.gzip",
];

/// A layer with one file: its tar and its gzip.
fn layer(name: &str, text: &str) -> (Vec<u8>, Vec<u8>) {
    let mut builder = tar::Builder::new(Vec::new());
    let mut header = tar::Header::new_ustar();
    header.set_size(text.len() as u64);
    header.set_mode(0o644);
    builder.append_data(&mut header, name, text.as_bytes()).unwrap();
    let tar = builder.into_inner().unwrap();
    let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
    gzip.write_all(&tar).unwrap();
    (tar, gzip.finish().unwrap())
}

/// Puts an index of three platforms, whose images share a layer, into a repository, as `1`.
fn put_three(at: &Registry, repository: &str, types: [&str; 4]) -> Descriptor {
    let [manifest_type, index_type, config_type, layer_type] = types;
    let shared = layer("shared", &"shared between all ".repeat(10));
    let entries: Vec<Value> = PLATFORMS
        .iter()
        .map(|(architecture, variant)| {
            let own = layer("arch", architecture);
            let diff_ids = [sha256(&shared.0), sha256(&own.0)];
            let rootfs = json!({"type": "layers", "diff_ids": diff_ids});
            let mut config = json!({"os": "linux", "architecture": architecture, "rootfs": rootfs, "config": {}});
            let mut platform = json!({"os": "linux", "architecture": architecture});
            if let Some(variant) = variant {
                (config["variant"], platform["variant"]) = ((*variant).into(), (*variant).into());
            }
            let put = |kind: &str, bytes: &[u8]| at.put_blob(repository, MediaType::from(kind), bytes);
            let config = put(config_type, config.to_string().as_bytes());
            let layers = [put(layer_type, &shared.1), put(layer_type, &own.1)];
            let manifest =
                json!({"schemaVersion": 2, "mediaType": manifest_type, "config": config, "layers": layers}).to_string();
            let mut entry = json!(at.put_manifest(repository, "", manifest_type, manifest.as_bytes()));
            entry["platform"] = platform;
            entry
        })
        .collect();
    let index = json!({"schemaVersion": 2, "mediaType": index_type, "manifests": entries}).to_string();
    at.put_manifest(repository, "1", index_type, index.as_bytes())
}

/// Copies with rbuild; answers the digest that it prints.
#[track_caller]
fn copy(bench: &Bench, arguments: &[&str]) -> String {
    let run = Run::of(bench.rbuild().arg("copy").args(arguments));
    assert_eq!(run.code, 0, "{arguments:?}: {}", run.stderr);
    run.stdout.trim().to_owned()
}

/// The digest of what skopeo finds somewhere.
fn seen(place: &str) -> String {
    let tls: &[&str] = if place.starts_with("docker:") { &["--tls-verify=false"] } else { &[] };
    let raw = peer("skopeo", &[&["inspect", "--raw"], tls, &[place]].concat());
    sha256(raw.as_bytes()).to_string()
}

fn shown(path: &Path) -> String {
    path.to_str().unwrap().to_owned()
}

#[test]
fn an_index_of_three_platforms_keeps_its_digest_everywhere() {
    let source = Registry::start().unwrap();
    for (name, types) in [("interchange/oci", OCI), ("interchange/docker", DOCKER)] {
        let expected = put_three(&source, name, types).digest().to_string();
        let bench = Bench::new();
        let (layout, archive) = (format!("oci:{}:v1", shown(&bench.path("o"))), shown(&bench.path("a.tar")));
        let archive = format!("oci-archive:{archive}:v1");
        let real = format!("docker://{}/{name}:1", registry());
        let from = format!("docker://{}/{name}:1", source.host());
        assert_eq!(copy(&bench, &[&from, &real, &layout, &archive]), expected);
        for place in [&real, &layout, &archive] {
            let is_remote = place.starts_with("docker:");
            // skopeo sees nothing in a layout but OCI's own types.
            if is_remote || types == OCI {
                assert_eq!(seen(place), expected, "{place}");
                // Everything that it names is there.
                let directory = format!("dir:{}", shown(&bench.path("peer")));
                let tls = if is_remote { "--src-tls-verify=false" } else { "--remove-signatures" };
                peer("skopeo", &["copy", "-q", "--all", "--insecure-policy", tls, place, &directory]);
                fs_err::remove_dir_all(bench.path("peer")).unwrap();
            }
            // And back again.
            let back = format!("docker://{}/{name}/back:1", source.host());
            assert_eq!(copy(&bench, &[place, &back]), expected, "{place}");
            assert_eq!(source.manifest(&format!("{name}/back"), "1").unwrap().0, types[1]);
        }
    }
}

#[test]
fn what_refers_to_an_image_goes_along_if_asked() {
    let (source, target) = (Registry::start().unwrap(), Registry::start().unwrap());
    target.enable_referrers();
    let root = put_three(&source, "src", OCI);
    let put = |subject: &Descriptor, text: &[u8]| {
        let layer = source.put_blob("src", "text/plain".into(), text);
        let empty = source.put_blob("src", "application/vnd.oci.empty.v1+json".into(), b"{}");
        let kind = "application/vnd.test.note";
        let manifest = json!({"schemaVersion": 2, "mediaType": OCI[0], "artifactType": kind, "config": empty,
            "layers": [layer], "subject": subject});
        let bytes = manifest.to_string().into_bytes();
        // Without the API a client keeps the list.
        let to = source.reference(&format!("src@{}", sha256(&bytes)));
        let client = registry::Client::new(registry::Options::default()).unwrap();
        client.push_manifest(&to, OCI[0], &bytes).unwrap();
        Descriptor::new(OCI[0].into(), bytes.len() as u64, sha256(&bytes))
    };
    let index: oci_spec::image::ImageIndex = serde_json::from_slice(&source.manifest("src", "1").unwrap().1).unwrap();
    let note = put(&root, b"of the index");
    let notes = [note.clone(), put(&index.manifests()[1], b"of an image"), put(&note, b"of the note")];
    let bench = Bench::new();
    let [from, to, real] = [source.host(), target.host(), registry()].map(|host| format!("{host}/src:1"));
    // A registry with the API, and one without.
    for to in [to, real.replace("src", "interchange/referrers")] {
        assert_eq!(copy(&bench, &["--referrers", &from, &to]), root.digest().to_string());
        let client = registry::Client::new(registry::Options::default()).unwrap();
        for (subject, note) in [&root, &index.manifests()[1], &notes[0]].into_iter().zip(&notes) {
            let name = to.trim_end_matches(":1");
            let subject = registry::reference::parse(&format!("{name}@{}", subject.digest())).unwrap();
            let listed = client.referrers(&subject).unwrap();
            assert_eq!(listed.iter().map(Descriptor::digest).collect::<Vec<_>>(), [note.digest()]);
        }
        let without = to.replace(":1", "/without:1");
        copy(&bench, &[&from, &without]);
        let without = registry::reference::parse(&without).unwrap();
        assert!(client.referrers(&without).unwrap().is_empty());
    }
    let layout = format!("oci:{}", shown(&bench.path("l")));
    let refused = Run::of(bench.rbuild().args(["copy", "--referrers", &from, &layout]));
    assert!(refused.code == 1 && refused.stderr.contains("cannot go to `oci:"), "{}", refused.stderr);
}

#[test]
fn within_a_registry_blobs_are_mounted_and_each_goes_once() {
    let source = Registry::start().unwrap();
    put_three(&source, "src", OCI);
    let bench = Bench::new();
    let at = |name: &str| format!("docker://{}/{name}", source.host());
    copy(&bench, &[&at("src:1"), &at("other:1")]);
    let log = source.take_log();
    assert!(
        log.iter()
            .all(|entry| entry.method != "PATCH" && !entry.path.contains("/blobs/sha256:") || entry.method == "HEAD")
    );
    // To another registry: once into the first repository, from there into the second; a second tag costs manifests.
    let target = Registry::start().unwrap();
    let to = |name: &str| format!("docker://{}/{name}", target.host());
    copy(&bench, &[&at("src:1"), &to("a:1"), &to("a:2"), &to("b:1")]);
    let log = target.take_log();
    let uploads = log.iter().filter(|entry| entry.method == "PUT" && entry.path.contains("/blobs/")).count();
    let mounts = log.iter().filter(|entry| entry.query.contains("mount=") && entry.status == 201).count();
    assert_eq!((uploads, mounts), (7, 7));
    assert_eq!(target.tags("a").len(), 2);
    assert_eq!(target.manifest("b", "1"), target.manifest("a", "2"));
}

#[test]
fn layers_that_may_not_be_distributed_stay_and_are_named() {
    let source = Registry::start().unwrap();
    let config = source.put_blob("windows", MediaType::from(OCI[2]), b"{}");
    let digest = sha256(b"never here");
    let kind = "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip";
    let layer = json!({"mediaType": kind, "digest": digest, "size": 10, "urls": ["https://example.com/layer"]});
    let manifest = json!({"schemaVersion": 2, "mediaType": OCI[0], "config": config, "layers": [layer]}).to_string();
    let expected = source.put_manifest("windows", "1", OCI[0], manifest.as_bytes()).digest().to_string();
    let bench = Bench::new();
    let place = format!("docker://{}/windows:1", source.host());
    let run = Run::of(bench.rbuild().args(["copy", "--progress=plain", &place, "oci:o:1"]));
    assert_eq!((run.code, run.stdout.trim()), (0, expected.as_str()), "{}", run.stderr);
    let told = format!("{:.12} (10 bytes) is left where it is: a `{kind}` may not be distributed", digest.digest());
    assert!(run.stderr.contains(&told), "{}", run.stderr);
}

#[test]
fn the_tag_comes_last_and_a_copy_that_fails_leaves_none() {
    let (source, target) = (Registry::start().unwrap(), Registry::start().unwrap());
    put_three(&source, "src", OCI);
    source.fault(When::path("/blobs/").after(5).always(), Fault::Status(404));
    let bench = Bench::new();
    let (from, to) = (format!("docker://{}/src:1", source.host()), format!("docker://{}/dst:1", target.host()));
    let layout = format!("oci:{}:1", shown(&bench.path("o")));
    for to in [&to, &layout] {
        let run = Run::of(bench.rbuild().args(["copy", &from, to]));
        assert_eq!(run.code, 4, "{}", run.stderr);
    }
    assert!(target.tags("dst").is_empty() && !bench.path("o/index.json").exists());
    let run = Run::of(bench.rbuild().args(["copy", &from, &format!("oci-archive:{}", shown(&bench.path("x.tar")))]));
    assert!(run.code == 4 && !bench.path("x.tar").exists(), "{}", run.stderr);
}

#[test]
fn one_platform_is_read_by_umoci_podman_and_buildah() {
    let source = Registry::start().unwrap();
    put_three(&source, "src", OCI);
    let bench = Bench::new();
    let from = format!("docker://{}/src:1", source.host());
    let at = |name: &str| shown(&bench.path(name));
    let (layout, archive, docker) = (at("o"), at("a.tar"), at("d.tar"));
    let digest = copy(
        &bench,
        &[
            "--platform",
            "linux/arm/v7",
            &from,
            &format!("oci:{layout}:v1"),
            &format!("oci-archive:{archive}:v1"),
            &format!("docker-archive:{docker}:interchange/arm:v1"),
            &format!("docker://{}/interchange/arm:v1", registry()),
        ],
    );
    peer("umoci", &["unpack", "--image", &format!("{layout}:v1"), &at("bundle")]);
    assert_eq!(fs_err::read_to_string(bench.path("bundle/rootfs/arch")).unwrap(), "arm");
    assert_eq!(seen(&format!("docker://{}/interchange/arm:v1", registry())), digest);
    let (root, run) = (at("root"), at("run"));
    let storage = ["--root", &root, "--runroot", &run, "--storage-driver", "vfs"];
    let podman = |arguments: &[&str]| peer("podman", &[&storage, arguments].concat());
    for archive in [&archive, &docker] {
        let loaded = podman(&["load", "-q", "-i", archive]);
        assert!(archive != &docker || loaded.contains("docker.io/interchange/arm:v1"), "{loaded}");
        let image = loaded.trim().rsplit(' ').next().unwrap().to_owned();
        assert_eq!(podman(&["image", "inspect", "--format", "{{.Architecture}}", &image]).trim(), "arm");
    }
    let name = format!("{}/interchange/arm:v1", registry());
    let id =
        peer("buildah", &[&storage[..], &["pull", "-q", "--tls-verify=false", "--policy", "always", &name]].concat());
    assert!(!id.trim().is_empty());
    // And what they write is read.
    let (saved, saved_docker) = (at("saved.tar"), at("saved-docker.tar"));
    podman(&["save", "-q", "--format", "oci-archive", "-o", &saved, id.trim()]);
    podman(&["save", "-q", "--format", "docker-archive", "-o", &saved_docker, id.trim()]);
    for from in [format!("oci-archive:{saved}"), format!("docker-archive:{saved_docker}")] {
        let target = format!("oci:{}", at("again"));
        copy(&bench, &[&from, &target]);
        peer("umoci", &["unpack", "--image", &format!("{}:x", retagged(&bench, &target)), &at("bundle2")]);
        assert_eq!(fs_err::read_to_string(bench.path("bundle2/rootfs/arch")).unwrap(), "arm");
        fs_err::remove_dir_all(bench.path("bundle2")).unwrap();
        fs_err::remove_dir_all(bench.path("again")).unwrap();
        fs_err::remove_dir_all(bench.path("tagged")).unwrap();
    }
}

/// The one image of a layout with the tag `x`; the path of a layout that has it.
fn retagged(bench: &Bench, layout: &str) -> String {
    let path = shown(&bench.path("tagged"));
    copy(bench, &[layout, &format!("oci:{path}:x")]);
    path
}

#[test]
fn what_skopeo_umoci_and_buildah_write_is_read() {
    let source = Registry::start().unwrap();
    let expected = put_three(&source, "src", DOCKER).digest().to_string();
    let bench = Bench::new();
    let at = |name: &str| shown(&bench.path(name));
    let from = format!("docker://{}/src:1", source.host());
    let real = |name: &str| format!("docker://{}/interchange/{name}:1", registry());
    // skopeo, to a registry and to a layout (which makes OCI of it).
    let skopeo = ["copy", "-q", "--all", "--insecure-policy", "--src-tls-verify=false", "--dest-tls-verify=false"];
    peer("skopeo", &[&skopeo[..], &[&from, &real("skopeo")]].concat());
    assert_eq!(copy(&bench, &[&real("skopeo"), &format!("oci:{}:a", at("l"))]), expected);
    let layout = format!("oci:{}:b", at("s"));
    peer("skopeo", &[&skopeo[..], &[&from, &layout]].concat());
    assert_eq!(copy(&bench, &[&layout, &real("from-layout")]), seen(&layout));
    // umoci.
    let umoci = at("u");
    peer("umoci", &["init", "--layout", &umoci]);
    let image = format!("{umoci}:t");
    peer("umoci", &["new", "--image", &image]);
    fs_err::write(bench.path("file"), "text").unwrap();
    peer("umoci", &["insert", "--image", &image, &at("file"), "/file"]);
    copy(&bench, &[&format!("oci:{image}"), &real("umoci")]);
    assert_eq!(seen(&real("umoci")), seen(&format!("oci:{image}")));
    // buildah: an image of either format, and a list of both.
    let (root, run) = (at("root"), at("run"));
    let storage = ["--root", &root, "--runroot", &run, "--storage-driver", "vfs"];
    let buildah = |arguments: &[&str]| peer("buildah", &[&storage, arguments].concat());
    let container = buildah(&["from", "scratch"]).trim().to_owned();
    buildah(&["copy", "-q", &container, &at("file"), "/file"]);
    buildah(&["commit", "-q", &container, "made"]);
    for format in ["oci", "v2s2"] {
        let name = real(&format!("buildah-{format}"));
        buildah(&["push", "-q", "--tls-verify=false", "--format", format, "made", &name]);
        assert_eq!(copy(&bench, &[&name, &format!("oci-archive:{}", at("b.tar"))]), seen(&name));
    }
    buildah(&["manifest", "create", "list", "made"]);
    buildah(&["manifest", "push", "-q", "--all", "--tls-verify=false", "list", &real("buildah-list")]);
    assert_eq!(copy(&bench, &[&real("buildah-list"), &format!("oci:{}:l", at("bl"))]), seen(&real("buildah-list")));
}

#[test]
fn the_store_takes_in_and_gives_out() {
    let source = Registry::start().unwrap();
    put_three(&source, "src", OCI);
    let (bench, name) = (Bench::new(), format!("{}/src:1", source.host()));
    let pulled = Run::of(bench.rbuild().args(["pull", "--platform", "linux/arm64", &name]));
    assert_eq!(pulled.code, 0, "{}", pulled.stderr);
    let images = Run::of(bench.rbuild().arg("images"));
    assert!(images.stdout.contains(&name), "{}", images.stdout);
    let target = Registry::start().unwrap();
    let to = format!("{}/dst:1", target.host());
    let pushed = Run::of(bench.rbuild().args(["push", &name, &to]));
    assert_eq!((pushed.code, &pushed.stdout), (0, &pulled.stdout), "{}", pushed.stderr);
    let inspected = Run::of(bench.rbuild().args(["inspect", &to]));
    let inspected: Value = serde_json::from_str(&inspected.stdout).unwrap();
    assert_eq!(inspected["images"][0]["platform"]["architecture"], "arm64");
    assert_eq!(Run::of(bench.rbuild().args(["tags", &to])).stdout, "1\n");
    let other = Run::of(bench.rbuild().args(["copy", "--platform", "linux/s390x", &format!("store:{name}"), &to]));
    assert!(other.code == 1 && other.stderr.contains("is not for linux/s390x"), "{}", other.stderr);
    let missing = Run::of(bench.rbuild().args(["push", "no/such:1"]));
    assert!(missing.stderr.contains("`rbuild images` lists those that it has"), "{}", missing.stderr);
}

#[test]
fn an_image_is_pushed_after_a_build_that_fetched_no_layer() {
    let bench = Bench::with("FROM {busybox}\nENV A=1\n");
    bench.build(&["-t", "built:1"]);
    let name = format!("{}/interchange/built:1", registry());
    let pushed = Run::of(bench.rbuild().args(["push", "built:1", &name]));
    assert_eq!(pushed.code, 0, "{}", pushed.stderr);
    assert_eq!(seen(&format!("docker://{name}")), pushed.stdout.trim());
    // To where nothing can be mounted from, the base's layer is fetched on the way.
    let target = Registry::start().unwrap();
    let pushed = Run::of(bench.rbuild().args(["push", "built:1", &format!("{}/x:1", target.host())]));
    assert_eq!(pushed.code, 0, "{}", pushed.stderr);
}

#[test]
fn names_of_one_push_share_their_blobs_and_come_last() {
    let (target, other) = (Registry::start().unwrap(), Registry::start().unwrap());
    let bench = Bench::with("FROM scratch\nCOPY a /\nCOPY b /\n");
    bench.file("a", "one");
    bench.file("b", "another");
    let names = [(&target, "one:1"), (&target, "one:2"), (&target, "two:1"), (&other, "one:1")];
    let names = names.map(|(at, name)| format!("{}/{name}", at.host()));
    let mut arguments: Vec<&str> = names.iter().flat_map(|name| ["-t", name.as_str()]).collect();
    arguments.push("--push");
    bench.build(&arguments);
    let expected = target.manifest("one", "1").unwrap();
    for (at, repository, tag) in [(&target, "one", "2"), (&target, "two", "1"), (&other, "one", "1")] {
        assert_eq!(at.manifest(repository, tag).as_ref(), Some(&expected), "{repository}:{tag}");
    }
    for (at, repositories, tags) in [(target, 2, 3), (other, 1, 1)] {
        let log = at.take_log();
        let count = |method: &str, part: &str| {
            let is_one = |entry: &&Logged| entry.method == method && entry.path.contains(part) && entry.status == 201;
            log.iter().filter(is_one).count()
        };
        // Two layers are sent once to each registry, the config through the uploads that begin with the build.
        assert_eq!((count("PUT", "uploads/"), count("PUT", "manifests/")), (2 + repositories, tags), "{log:#?}");
        assert_eq!(count("POST", "uploads/") > 0, repositories > 1, "{log:#?}");
        for name in ["one", "two"] {
            let of = |part: &str| {
                let is_one = |entry: &Logged| entry.path.contains(&format!("/{name}/{part}"));
                (log.iter().position(is_one), log.iter().rposition(is_one))
            };
            assert!(of("manifests/").0.is_none_or(|first| Some(first) > of("blobs/").1), "{log:#?}");
        }
    }
}

#[test]
fn a_login_is_proved_before_it_is_kept() {
    let access = Access::Basic { username: "user".into(), password: "hunter2".into() };
    let guarded = Registry::with_access(access).unwrap();
    put_three(&guarded, "src", OCI);
    let bench = Bench::new();
    let home = bench.path("user");
    fs_err::create_dir(&home).unwrap();
    let run = |arguments: &[&str], input: &str| {
        let file = bench.file("password", input);
        let mut command = bench.rbuild();
        command.args(arguments).env("HOME", &home).stdin(fs_err::File::open(file).unwrap().into_file());
        Run::of(&mut command)
    };
    let (host, image) = (guarded.host(), format!("{}/src:1", guarded.host()));
    let login = ["login", "-u", "user", "--password-stdin", host.as_str()];
    assert_eq!(run(&["inspect", "--raw", &image], "").code, 4);
    let refused = run(&login, "wrong\n");
    assert!(refused.code == 4 && refused.stderr.contains("refuses the credentials"), "{}", refused.stderr);
    assert!(!home.join(".docker").exists());
    assert_eq!(run(&login, "").code, 2);
    let taken = run(&login, "hunter2\n");
    assert_eq!(taken.code, 0, "{}", taken.stderr);
    let file = home.join(".docker/config.json");
    let mode = std::os::unix::fs::PermissionsExt::mode(&fs_err::metadata(&file).unwrap().permissions());
    assert_eq!(mode & 0o777, 0o600);
    assert_eq!(run(&["inspect", "--raw", &image], "").code, 0);
    // skopeo reads the same file.
    let raw = peer(
        "skopeo",
        &["inspect", "--raw", "--tls-verify=false", "--authfile", &shown(&file), &format!("docker://{image}")],
    );
    assert!(raw.contains("manifests"));
    assert!(run(&["logout", &host], "").stderr.starts_with("logged out of"));
    assert_eq!(run(&["inspect", "--raw", &image], "").code, 4);
}

#[test]
fn an_image_from_elsewhere_is_built_on() {
    // `oci-layout://` reads what `copy` wrote.
    let bench = Bench::with("FROM base\nENV A=1\n");
    let layout = shown(&bench.path("l"));
    copy(&bench, &[&format!("{}/library/busybox:latest", registry()), &format!("oci:{layout}:v1")]);
    bench.build(&["--build-context", &format!("base=oci-layout://{layout}:v1")]);
}

#[test]
fn a_login_keeps_an_identity_token_where_there_is_one() {
    let (username, password) = ("user".to_owned(), "hunter2".to_owned());
    let access = Access::Token { username, password, uses: None, realm: None };
    let guarded = Registry::with_access(access).unwrap();
    put_three(&guarded, "src", OCI);
    let bench = Bench::new();
    let home = bench.path("user");
    let input = bench.file("password", "hunter2\n");
    let mut login = bench.rbuild();
    login.args(["login", "-u", "user", &guarded.host()]).env("HOME", &home);
    let run = Run::of(login.stdin(fs_err::File::open(input).unwrap().into_file()));
    assert!(run.code == 0 && run.stderr.contains("the identity token, in place of the password,"), "{}", run.stderr);
    let file = fs_err::read_to_string(home.join(".docker/config.json")).unwrap();
    let kept: Value = serde_json::from_str(&file).unwrap();
    // `user:` and nothing behind it.
    assert_eq!(kept["auths"][guarded.host()], json!({"auth": "dXNlcjo=", "identitytoken": "refresh"}));
    let image = format!("{}/src:1", guarded.host());
    let inspected = Run::of(bench.rbuild().env("HOME", &home).args(["inspect", "--raw", &image]));
    assert_eq!(inspected.code, 0, "{}", inspected.stderr);
}

#[test]
fn a_digest_too_long_for_an_archive_is_an_error_and_goes_into_a_layout() {
    let source = Registry::start().unwrap();
    let digest = concat!(
        "sha512:",
        "b030eade3c76066e854afde060a58d562e103878b92ba17586070c1373c0c31f",
        "8c80389eeabbc1370284d983fb066f2c1cee3ad22fd5c580223a13efc5e31832"
    )
    .parse()
    .unwrap();
    source.put_wrong_blob("long", &digest, b"layer");
    let config = source.put_blob("long", OCI[2].into(), b"{}");
    let layer = Descriptor::new(OCI[3].into(), 5, digest);
    let manifest = json!({"schemaVersion": 2, "mediaType": OCI[0], "config": config, "layers": [layer]}).to_string();
    let expected = source.put_manifest("long", "1", OCI[0], manifest.as_bytes());
    let (bench, from) = (Bench::new(), format!("{}/long:1", source.host()));
    let archive = format!("oci-archive:{}", shown(&bench.path("a.tar")));
    let refused = Run::of(bench.rbuild().args(["copy", &from, &archive]));
    assert!(refused.code == 1 && refused.stderr.contains("too long"), "{}: {}", refused.code, refused.stderr);
    let layout = format!("oci:{}", shown(&bench.path("l")));
    assert_eq!(copy(&bench, &[&from, &layout]), expected.digest().to_string());
    assert!(bench.path("l/blobs/sha512").read_dir().unwrap().count() == 1);
}

/// A proxy that lets nobody through: what it is asked first, and where it listens.
fn proxy() -> (String, std::sync::mpsc::Receiver<String>) {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = format!("http://{}", listener.local_addr().unwrap());
    let (sender, asked) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            let mut line = String::new();
            std::io::BufRead::read_line(&mut std::io::BufReader::new(&stream), &mut line).unwrap();
            drop(sender.send(line));
            drop(stream.write_all(b"HTTP/1.1 403 No\r\ncontent-length: 0\r\nconnection: close\r\n\r\n"));
        }
    });
    (address, asked)
}

#[test]
fn the_proxy_of_the_environment_is_used_but_for_the_hosts_that_it_is_not_for() {
    let inspect = |no_proxy: &str| {
        let (address, asked) = proxy();
        let bench = Bench::new();
        let mut command = bench.rbuild();
        command.env("https_proxy", address).env("no_proxy", no_proxy).args(["inspect", "registry.invalid/x"]);
        let run = Run::of(&mut command);
        (run.code, asked.try_recv().ok())
    };
    std::thread::scope(|scope| {
        let other = scope.spawn(|| inspect("example.com,.invalid"));
        let (code, asked) = inspect("example.com");
        assert_eq!(code, 4);
        assert!(asked.unwrap().starts_with("CONNECT registry.invalid:443 "));
        assert_eq!(other.join().unwrap(), (4, None));
    });
}

#[test]
fn mirrors_and_insecure_hosts_are_rules() {
    let mirror = Registry::start().unwrap();
    let expected = put_three(&mirror, "copies/team/app", OCI).digest().to_string();
    let bench = Bench::new();
    let rules = bench.file("registries.conf", &format!(
        "[[registry]]\nprefix = \"registry.invalid\"\nlocation = \"{}/none\"\n[[registry.mirror]]\nlocation = \"{}/copies\"\n\
         [[registry]]\nprefix = \"blocked.invalid\"\nblocked = true\n",
        mirror.host(), mirror.host()
    ));
    let inspect =
        |name: &str| Run::of(bench.rbuild().env("CONTAINERS_REGISTRIES_CONF", &rules).args(["inspect", "--raw", name]));
    let found = inspect("registry.invalid/team/app:1");
    assert_eq!(sha256(found.stdout.as_bytes()).to_string(), expected, "{}", found.stderr);
    let missing = inspect("registry.invalid/team/other:1");
    assert!(missing.code == 4 && missing.stderr.contains("; before it the mirror"), "{}", missing.stderr);
    let blocked = inspect("blocked.invalid/x");
    assert!(blocked.stderr.contains("is blocked by the rule for `blocked.invalid`"), "{}", blocked.stderr);
    fs_err::write(&rules, "[[registry]]\nlocation = \"x\"\nodd = true").unwrap();
    assert!(inspect("registry.invalid/x").stderr.contains("is not a file of rules for registries"));
}
