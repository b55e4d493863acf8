//! On the rung `chroot`: steps whose processes only seem to be their user's, and are root's.
//!
//! The filter of a step needs `no_new_privs` there, under which the kernel raises no setuid program. A process that is really
//! root can seem to be raised.

use std::os::fd::OwnedFd;
use std::path::Path;

use nix::unistd::{Gid, Uid, setgroups, setresgid, setresuid};
use rustix::fs::{FileType, Mode, OFlags, ResolveFlags, fstat, openat2};

use super::emulate::{self, RootEmulation};
use super::seccomp::{Program, assemble};
use super::spec::{Attempt, Failure, Spec};
use super::{inject, step};

/// The programs by which a user becomes root, and where they are.
const RAISING: [&str; 2] = ["sudo", "doas"];
const DIRECTORIES: [&str; 4] = ["/usr/bin", "/usr/local/bin", "/bin", "/usr/sbin"];

/// Whether the processes of a step are all to be root's: as it was asked for, or else if its user is not root and is one who
/// can become root. Others keep the ids that the kernel protects files by.
pub(super) fn is_wanted(spec: &Spec, tree: &OwnedFd) -> Result<bool, Failure> {
    match spec.ground.emulation {
        Some(RootEmulation::Full) => Ok(true),
        Some(RootEmulation::Filter | RootEmulation::None) => Ok(false),
        None => Ok(raises(tree) && step::find_user(&spec.user, tree, ResolveFlags::IN_ROOT)?.uid != 0),
    }
}

/// Whether a root has a program that makes root of a user.
fn raises(tree: &OwnedFd) -> bool {
    let paths = DIRECTORIES.iter().flat_map(|directory| RAISING.map(|name| Path::new(directory).join(name)));
    paths.into_iter().any(|path| {
        let flags = OFlags::PATH | OFlags::CLOEXEC;
        let found = openat2(tree, path, flags, Mode::empty(), ResolveFlags::IN_ROOT).and_then(fstat);
        found.is_ok_and(|found| {
            let mode = Mode::from_raw_mode(found.st_mode);
            let file = FileType::from_raw_mode(found.st_mode) == FileType::RegularFile;
            file && found.st_uid == 0 && mode.contains(Mode::SUID | Mode::XUSR)
        })
    })
}

/// Makes this process, the step's, one of root's alone, before it is watched; returns the filter that watches it.
pub(super) fn begin() -> Result<Program, Failure> {
    let (uid, gid) = (Uid::from_raw(0), Gid::from_raw(0));
    setgroups(&[])
        .and_then(|()| setresgid(gid, gid, gid))
        .and_then(|()| setresuid(uid, uid, uid))
        .attempt(|| "be root alone".to_owned())?;
    emulate::begin().attempt(|| "begin the emulation of users".to_owned())?;
    Ok(assemble(|abi| emulate::rules_beside(inject::rules(abi))))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{PermissionsExt, symlink};

    use super::super::rootfs::open_directory;
    use super::*;

    #[test]
    fn a_root_raises_users_by_a_setuid_program_of_its_own() {
        let root = tempfile::tempdir().unwrap();
        let (tree, bin) = (open_directory(root.path().as_os_str()).unwrap(), root.path().join("usr/bin"));
        fs_err::create_dir_all(&bin).unwrap();
        assert!(!raises(&tree));
        fs_err::write(bin.join("sudo"), "").unwrap();
        let mode = |mode| fs_err::set_permissions(bin.join("sudo"), PermissionsExt::from_mode(mode)).unwrap();
        mode(0o755);
        assert!(!raises(&tree));
        mode(0o4755);
        assert!(raises(&tree));
        fs_err::rename(bin.join("sudo"), bin.join("other")).unwrap();
        symlink("/usr/bin/other", bin.join("doas")).unwrap();
        assert!(raises(&tree));
        fs_err::remove_file(bin.join("other")).unwrap();
        assert!(!raises(&tree));
    }
}
