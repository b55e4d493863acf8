//! What changes a key, and what does not.

use std::collections::HashSet;
use std::path::PathBuf;

use super::*;
use crate::dockerfile::{Network, Sharing};
use crate::graph::{BindOp, CacheOp, Script, SecretOp, SshOp, TmpfsOp};

fn op() -> RunOp {
    RunOp {
        secret_env: Vec::new(),
        argv: vec!["sh".into(), "-c".into(), "x".into()],
        script: None,
        env: vec![("A".into(), "1".into())],
        proxy_env: Vec::new(),
        mounts: Vec::new(),
        cwd: PathBuf::from("/w"),
        user: "app".into(),
        hostname: USUAL_HOSTNAME.into(),
        network: Network::Default,
    }
}

fn key_of(op: &RunOp, base: &str) -> CacheKey {
    run(op, None).key("definition", &[("base", base.into())])
}

#[test]
fn every_field_of_a_run_changes_its_key() {
    type Change = fn(&mut RunOp);
    let changes: [(&str, Change); 8] = [
        ("the command", |op| op.argv[2] = "y".into()),
        ("where an argument ends", |op| op.argv = vec!["sh".into(), "-cx".into()]),
        ("a value", |op| op.env[0].1 = "2".into()),
        ("a name", |op| op.env[0].0 = "B".into()),
        ("where a name ends", |op| op.env[0] = ("A1".into(), String::new())),
        ("the directory", |op| op.cwd = PathBuf::from("/")),
        ("the user", |op| op.user = "0".into()),
        ("the network", |op| op.network = Network::None),
    ];
    let before = key_of(&op(), "base");
    for (name, change) in changes {
        let mut other = op();
        change(&mut other);
        assert_ne!(key_of(&other, "base"), before, "{name}");
    }
    assert_ne!(key_of(&op(), "another base"), before);
    let script = Some(Script { path: PathBuf::from("/dev/pipes/EOF"), content: "#!x".into() });
    assert_ne!(key_of(&RunOp { script, ..op() }, "base"), before);
}

#[test]
fn proxies_change_no_key() {
    assert_ne!(key_of(&RunOp { hostname: "other".into(), ..op() }, "base"), key_of(&op(), "base"));
    let proxied = RunOp { proxy_env: vec![("http_proxy".into(), "p".into())], ..op() };
    assert_eq!(key_of(&proxied, "base"), key_of(&op(), "base"));
}

#[test]
fn kinds_of_keys_are_kept_apart() {
    let fields = run(&op(), None);
    let keys: HashSet<CacheKey> = ["definition", "content", "own"].iter().map(|kind| fields.key(kind, &[])).collect();
    assert_eq!(keys.len(), 3);
    assert_ne!(fields.key("own", &[("base", "a".into())]), fields.key("own", &[("from", "a".into())]));
}

fn copy_op() -> CopyOp {
    CopyOp {
        context: None,
        sources: vec![CopySource::Path("a".into())],
        destination: "/d".into(),
        chown: None,
        chmod: None,
        exclude: Vec::new(),
        parents: false,
        unpack: false,
        link: false,
    }
}

fn vertex(op: CopyOp) -> Vertex {
    let span = crate::dockerfile::Span { start: 1, end: 1 };
    Vertex { op: Op::Copy(op), base: Some(VertexId(0)), from: vec![VertexId(1)], span, name: String::new() }
}

#[test]
fn what_stands_on_nothing_has_no_tree_below_in_its_key() {
    let read = |op| {
        let vertex = vertex(op);
        inputs(&vertex).iter().map(|input| (input.id.0, input.part == Some(Part::Copied("a")))).collect::<Vec<_>>()
    };
    let from = (1, true);
    assert_eq!(read(copy_op()), [(0, false), from]);
    assert_eq!(read(CopyOp { link: true, ..copy_op() }), [from]);
    assert_eq!(read(CopyOp { link: true, chown: Some("1:2".into()), ..copy_op() }), [from]);
    assert_eq!(read(CopyOp { link: true, chown: Some("app".into()), ..copy_op() }), [(0, false), from]);
    let inline = CopySource::Inline { name: "f".into(), content: "x".into() };
    assert_eq!(read(CopyOp { sources: vec![inline], ..copy_op() }), [(0, false)]);
}

#[test]
fn a_key_stays_what_it_is_between_versions() {
    // When this changes on purpose, raise VERSION.
    let golden = "2648a9c8c1bab98705fa5a4eb4b69016";
    assert_eq!(&key_of(&op(), "base").hex()[..32], golden);
}

fn key_of_mounts(mounts: &[MountOp], from: Option<&str>, content: Option<[u8; 32]>) -> CacheKey {
    let fields = mounts.iter().fold(Fields::new("run"), |fields, mount| super::mount(fields, mount, content));
    let inputs: Vec<_> = from.map(|from| ("from", from.to_owned())).into_iter().collect();
    fields.key("definition", &inputs)
}

fn cache() -> CacheOp {
    CacheOp {
        id: "/c".into(),
        target: "/c".into(),
        sharing: Sharing::Shared,
        mode: None,
        uid: None,
        gid: None,
        readonly: false,
        from: None,
        source: "/".into(),
    }
}

fn secret() -> SecretOp {
    let target = Some("/run/secrets/s".into());
    SecretOp { id: "s".into(), target, env: None, required: false, mode: 0o400, uid: 0, gid: 0 }
}

fn ssh() -> SshOp {
    SshOp { id: "default".into(), target: "/s".into(), required: false, mode: 0o600, uid: 0, gid: 0 }
}

#[test]
fn every_option_of_a_mount_is_in_the_key() {
    let bind = |source: &str, writable| {
        MountOp::Bind(BindOp { from: None, source: source.into(), target: "/c".into(), writable })
    };
    let tmpfs = |size, readonly| MountOp::Tmpfs(TmpfsOp { target: "/c".into(), size, readonly });
    let mounts = [
        bind("/", false),
        bind("/a", false),
        bind("/", true),
        tmpfs(None, false),
        tmpfs(Some(0), false),
        tmpfs(None, true),
        MountOp::Cache(cache()),
        MountOp::Cache(CacheOp { id: "/d".into(), ..cache() }),
        MountOp::Cache(CacheOp { target: "/d".into(), ..cache() }),
        MountOp::Cache(CacheOp { sharing: Sharing::Locked, ..cache() }),
        MountOp::Cache(CacheOp { mode: Some(0), ..cache() }),
        MountOp::Cache(CacheOp { uid: Some(0), ..cache() }),
        MountOp::Cache(CacheOp { gid: Some(0), ..cache() }),
        MountOp::Cache(CacheOp { readonly: true, ..cache() }),
        MountOp::Cache(CacheOp { source: "/x".into(), ..cache() }),
        MountOp::Secret(secret()),
        MountOp::Secret(SecretOp { id: "t".into(), ..secret() }),
        MountOp::Secret(SecretOp { target: None, env: Some("S".into()), ..secret() }),
        MountOp::Secret(SecretOp { env: Some("S".into()), ..secret() }),
        MountOp::Secret(SecretOp { required: true, ..secret() }),
        MountOp::Secret(SecretOp { mode: 0o440, ..secret() }),
        MountOp::Secret(SecretOp { uid: 1, ..secret() }),
        MountOp::Secret(SecretOp { gid: 1, ..secret() }),
        MountOp::Ssh(ssh()),
        MountOp::Ssh(SshOp { id: "git".into(), ..ssh() }),
        MountOp::Ssh(SshOp { target: "/t".into(), ..ssh() }),
        MountOp::Ssh(SshOp { required: true, ..ssh() }),
        MountOp::Ssh(SshOp { mode: 0o660, ..ssh() }),
        MountOp::Ssh(SshOp { uid: 1, ..ssh() }),
        MountOp::Ssh(SshOp { gid: 1, ..ssh() }),
    ];
    let mut keys: HashSet<CacheKey> =
        mounts.iter().map(|mount| key_of_mounts(std::slice::from_ref(mount), None, None)).collect();
    assert_eq!(keys.len(), mounts.len());
    let bind = std::slice::from_ref(&mounts[0]);
    for key in [
        key_of_mounts(&[], None, None),
        key_of_mounts(bind, Some("one"), None),
        key_of_mounts(bind, Some("two"), None),
        key_of_mounts(bind, None, Some([1; 32])),
        key_of_mounts(bind, None, Some([2; 32])),
        key_of_mounts(&mounts[..2], None, None),
    ] {
        assert!(keys.insert(key));
    }
    assert_eq!(key_of_mounts(&mounts, None, None), key_of_mounts(&mounts, None, None));
}
