//! A real Debian root file system by debootstrap, from the mirror that the machine's own apt uses.

use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use crate::apt;
use crate::command::{command, logged};
use crate::state::State;

/// The release of the base; the image's tag says it too.
const CODENAME: &str = "bookworm";

/// Where update-ca-certificates(8) looks for certificates of the machine's own.
const LOCAL_CERTIFICATES: &str = "/usr/local/share/ca-certificates";

/// What the image is made from, apart from the mirror and what it holds on the day.
pub(crate) fn recipe() -> Result<String> {
    let mut recipe = format!("debootstrap minbase {CODENAME}\n");
    for certificate in local_certificates(Path::new(LOCAL_CERTIFICATES))? {
        recipe.push_str(&fs_err::read_to_string(certificate)?);
    }
    Ok(recipe)
}

/// Makes the root file system in an empty directory.
pub(crate) fn make(state: &State, root: &Path) -> Result<()> {
    let log = state.log("debootstrap")?;
    let mirror = apt::mirror(state, CODENAME)?;
    // A mount namespace of its own: whatever debootstrap mounts below the root is gone when it ends, even by a kill.
    let mut debootstrap =
        command("unshare", ["--mount", "debootstrap", "--variant=minbase", "--include=ca-certificates", CODENAME]);
    debootstrap.arg(root).arg(&mirror.url).env("LC_ALL", "C.UTF-8");
    if let Some(proxy) = &mirror.proxy {
        debootstrap.env("http_proxy", proxy);
        fs_err::create_dir_all(root.join("etc/apt/apt.conf.d"))?;
        fs_err::write(root.join("etc/apt/apt.conf.d/90proxy"), format!("Acquire::http::Proxy \"{proxy}\";\n"))?;
    }
    logged(&mut debootstrap, &log)?;
    trust_local_certificates(root, &log)?;
    clean(root)
}

/// Makes the image trust what the machine trusts: behind a proxy that signs TLS anew, pip and npm fail without it.
fn trust_local_certificates(root: &Path, log: &Path) -> Result<()> {
    let certificates = local_certificates(Path::new(LOCAL_CERTIFICATES))?;
    let inside = root.join("usr/local/share/ca-certificates");
    for (number, certificate) in certificates.iter().enumerate() {
        let name = certificate.file_name().context("a certificate without a file name")?.to_string_lossy();
        fs_err::copy(certificate, inside.join(format!("{number}-{name}")))?;
    }
    if certificates.is_empty() { Ok(()) } else { logged(command("chroot", [root]).arg("update-ca-certificates"), log) }
}

/// The `.crt` files below a directory, sorted; none when it does not exist.
fn local_certificates(directory: &Path) -> Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    let mut pending = vec![directory.to_owned()];
    while let Some(directory) = pending.pop().filter(|directory| directory.exists()) {
        for entry in fs_err::read_dir(directory)? {
            let path = entry?.path();
            if path.is_dir() {
                pending.push(path);
            } else if path.extension().is_some_and(|extension| extension.as_bytes() == b"crt") {
                found.push(path);
            }
        }
    }
    found.sort();
    Ok(found)
}

/// Removes what a base image should not carry: device nodes, package lists and archives, logs, names of this machine.
fn clean(root: &Path) -> Result<()> {
    for directory in ["dev", "var/lib/apt/lists", "var/cache/apt", "var/log", "var/cache/ldconfig"] {
        empty(&root.join(directory))?;
    }
    // debootstrap copies the machine's resolv.conf with its mode.
    for file in
        ["etc/resolv.conf", "etc/hostname", "var/cache/debconf/config.dat-old", "var/cache/debconf/templates.dat-old"]
    {
        let file = root.join(file);
        if file.exists() {
            fs_err::remove_file(file)?;
        }
    }
    fs_err::write(root.join("etc/resolv.conf"), "")?;
    Ok(())
}

fn empty(directory: &Path) -> Result<()> {
    for entry in fs_err::read_dir(directory)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            fs_err::remove_dir_all(entry.path())?;
        } else {
            fs_err::remove_file(entry.path())?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn certificates_are_found_at_any_depth_and_sorted() {
        let directory = tempfile::tempdir().unwrap();
        fs_err::create_dir(directory.path().join("a")).unwrap();
        for name in ["z.crt", "a/b.crt", "a/readme.txt"] {
            fs_err::write(directory.path().join(name), name).unwrap();
        }
        let expected = ["a/b.crt", "z.crt"].map(|name| directory.path().join(name));
        assert_eq!(local_certificates(directory.path()).unwrap(), expected);
        assert!(local_certificates(&directory.path().join("none")).unwrap().is_empty());
    }

    #[test]
    fn emptying_a_directory_keeps_the_directory() {
        let directory = tempfile::tempdir().unwrap();
        fs_err::create_dir_all(directory.path().join("a/b")).unwrap();
        fs_err::write(directory.path().join("c"), "").unwrap();
        empty(directory.path()).unwrap();
        assert_eq!(fs_err::read_dir(directory.path()).unwrap().count(), 0);
    }
}
