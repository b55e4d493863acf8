//! Both ways of opening a directory refuse what leads out.

use std::os::unix::fs::symlink;

use super::*;

#[test]
fn both_ways_of_opening_agree() {
    let scratch = tempfile::tempdir().unwrap();
    let root = scratch.path().join("root");
    fs_err::create_dir_all(root.join("d/e")).unwrap();
    fs_err::write(root.join("d/file"), "").unwrap();
    symlink("/etc", root.join("absolute")).unwrap();
    symlink("..", root.join("up")).unwrap();
    symlink("d", root.join("inside")).unwrap();
    symlink("/proc/self/root", root.join("magic")).unwrap();
    let open = rustix::fs::open(&root, OFlags::DIRECTORY, Mode::empty()).unwrap();
    for (path, opens) in [
        (".", true),
        ("d", true),
        ("d/e", true),
        ("./d/./e", true),
        ("..", false),
        ("d/../..", false),
        ("/etc", false),
        ("d/file", false),
        ("absolute", false),
        ("up", false),
        ("up/root", false),
        ("inside", false),
        ("inside/e", false),
        ("magic", false),
        ("missing", false),
    ] {
        let path = Path::new(path);
        assert_eq!(open_directory(open.as_fd(), path).is_ok(), opens, "{}", path.display());
        assert_eq!(open_directory_stepwise(open.as_fd(), path).is_ok(), opens, "{}", path.display());
    }
    assert!(open_directory(open.as_fd(), Path::new("")).is_ok());
}

#[test]
fn attributes_larger_than_the_first_buffer_are_read() {
    let scratch = tempfile::NamedTempFile::new().unwrap();
    let long = format!("user.{}", "n".repeat(200));
    let value = vec![b'v'; 600];
    for name in [&*long, "user.a", "user.b"] {
        rustix::fs::fsetxattr(scratch.as_file(), name, &value, rustix::fs::XattrFlags::empty()).unwrap();
    }
    let read = xattrs(&Attributed::Open(scratch.as_file().as_fd())).unwrap();
    assert_eq!(read.len(), 3);
    assert_eq!(read[b"user.a".as_slice()], value);
    let named = Attributed::Named(scratch.path().as_os_str().as_bytes().to_vec());
    assert_eq!(xattrs(&named).unwrap(), read);
}

#[test]
fn attributes_of_the_host_and_of_overlays_stay_behind() {
    for name in ["user.a", "trusted.a", "security.capability", "user.overlay", "user.rbuild"] {
        assert!(belongs_in_layer(name.as_bytes()), "{name}");
    }
    for name in [
        "",
        "security.selinux",
        "security.ima",
        "security.capability2",
        "system.posix_acl_access",
        "trusted.overlay.whiteout",
        "user.overlay.opaque",
        "user.rbuild.owner",
    ] {
        assert!(!belongs_in_layer(name.as_bytes()), "{name}");
    }
}
