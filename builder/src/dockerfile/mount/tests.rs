//! Which options make a mount, and when that is known.

use super::{MountError, MountOptions};
use crate::dockerfile::expand::expand;
use crate::dockerfile::{Mount, MountKind, Sharing};

fn lookup(name: &str) -> Option<String> {
    (name == "UID").then(|| "1000".to_owned())
}

fn mount(text: &str) -> Result<Mount, MountError> {
    MountOptions::parse(text, '\\')?.resolve(&|word| expand(word, '\\', &lookup))
}

#[test]
fn a_mount_without_type_is_a_bind() {
    let found = mount("from=build,src=/a,dst=/b,readwrite").expect("a mount");
    assert_eq!(found.kind, MountKind::Bind);
    assert_eq!((found.from.as_deref(), found.source.as_deref()), (Some("build"), Some("/a")));
    assert_eq!((found.target.as_deref(), found.readonly), (Some("/b"), Some(false)));
}

#[test]
fn options_come_in_any_order_and_case() {
    let found = mount("Required,UID=7,ID=token,Type=SECRET,mode=0400,env=T").expect("a mount");
    assert_eq!((found.kind, found.required, found.uid), (MountKind::Secret, true, Some(7)));
    assert_eq!((found.mode, found.env.as_deref()), (Some(0o400), Some("T")));
    assert_eq!(mount("sharing=Locked,target=/x,type=cache").expect("a mount").sharing, Sharing::Locked);
}

#[test]
fn variables_wait_for_their_values() {
    let options = MountOptions::parse("type=cache,target=/x,uid=$UID,mode=${M}", '\\').expect("options");
    let refused = options.resolve(&|word| expand(word, '\\', &lookup));
    assert_eq!(refused, Err(MountError::Number { key: "mode".to_owned(), value: String::new() }));
    assert_eq!(mount("type=cache,target=/x,uid=$UID").expect("a mount").uid, Some(1000));
    assert_eq!(mount("type=$T,target=/x").expect_err("no type"), MountError::Kind { value: String::new() });
}

#[test]
fn sizes_have_binary_units() {
    let size = |text: &str| mount(&format!("type=tmpfs,target=/t,size={text}")).map(|mount| mount.size);
    assert_eq!(size("512"), Ok(Some(512)));
    assert_eq!(size("64m"), Ok(Some(64 << 20)));
    assert_eq!(size("1.5GiB"), Ok(Some(3 << 29)));
    assert_eq!(size("2 kb"), Ok(Some(2048)));
    for wrong in ["", "m", "-1", "1.2.3", "99999999999p", "1e3", "0x10"] {
        assert!(size(wrong).is_err(), "{wrong}");
    }
}

#[test]
fn quoted_fields_hold_commas() {
    assert_eq!(mount("\"source=a,b\",target=/x").expect("a mount").source.as_deref(), Some("a,b"));
    assert_eq!(MountOptions::parse("tar\"get=/x", '\\'), Err(MountError::Csv));
    assert_eq!(MountOptions::parse("\"target=/x", '\\'), Err(MountError::Csv));
    assert_eq!(MountOptions::parse("\"target=/x\"y", '\\'), Err(MountError::Csv));
}

#[test]
fn a_secret_is_never_writable_and_an_empty_target_is_none() {
    assert!(mount("type=secret,id=a,ro").is_ok());
    assert!(matches!(mount("type=secret,id=a,rw"), Err(MountError::NotFor { .. })));
    assert!(matches!(mount("type=cache,target="), Err(MountError::NoTarget { .. })));
    assert!(mount("type=ssh").is_ok());
}
