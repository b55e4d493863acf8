//! A root file system and a config as lines that can be compared.

use std::collections::BTreeMap;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::Path;

use anyhow::Result;
use serde_json::Value;

/// A path or a member, and what is there.
pub(crate) type Listing = BTreeMap<String, String>;

/// Longer contents are shown by their length; they are compared whole.
const SHOWN: usize = 60;

/// Everything below a directory: type, mode, owner, target or content. Times are left out: builds are not simultaneous.
pub(crate) fn tree(root: &Path) -> Result<Listing> {
    let mut listing = Listing::new();
    let mut open = vec![root.to_owned()];
    while let Some(directory) = open.pop() {
        for entry in fs_err::read_dir(&directory)? {
            let path = entry?.path();
            let metadata = fs_err::symlink_metadata(&path)?;
            let what = if metadata.is_dir() {
                open.push(path.clone());
                "d".to_owned()
            } else if metadata.is_symlink() {
                format!("l -> {}", fs_err::read_link(&path)?.display())
            } else if metadata.is_file() {
                format!("- {}", content(&fs_err::read(&path)?))
            } else {
                let kind = metadata.file_type();
                let name = if kind.is_fifo() {
                    "p"
                } else if kind.is_char_device() {
                    "c"
                } else {
                    "b"
                };
                format!("{name} {}", metadata.rdev())
            };
            let owner = format!("{:04o} {}:{}", metadata.mode() & 0o7777, metadata.uid(), metadata.gid());
            let name = path.strip_prefix(root)?.display().to_string();
            listing.insert(name, format!("{owner} {what}"));
        }
    }
    Ok(listing)
}

fn content(bytes: &[u8]) -> String {
    match std::str::from_utf8(bytes) {
        Ok(text) if text.len() <= SHOWN => format!("{text:?}"),
        _ => {
            // FNV-1a: differences have to be seen, nobody forges them here.
            let hash = bytes
                .iter()
                .fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3));
            format!("{} bytes {hash:016x}", bytes.len())
        }
    }
}

/// What Debian's buildah leaves in the tree of a step, as mount points; rbuild and BuildKit take theirs away.
const STUBS: [&str; 4] = ["etc/hostname", "etc/hosts", "etc/resolv.conf", "run"];

/// What every comparison would show, in words.
pub(crate) const LEFT_OUT: &str = "Left out: buildah's stubs of mounts (etc/hostname, etc/hosts, etc/resolv.conf, run), \
    its Hostname and its label io.buildah.version; a WorkingDir of `/`, which is the default, and all times.";

/// Takes away stubs that the base image does not have.
pub(crate) fn without_stubs(mut theirs: Listing, ours: &Listing) -> Listing {
    theirs.retain(|path, _| !STUBS.contains(&path.as_str()) || ours.contains_key(path));
    theirs
}

/// The members of the `config` member that say something of the Dockerfile.
pub(crate) fn config(document: &Value) -> Listing {
    let mut members = document["config"].as_object().cloned().unwrap_or_default();
    members.remove("Hostname");
    members.retain(|key, value| key != "WorkingDir" || value != "/");
    if let Some(labels) = members.get_mut("Labels").and_then(Value::as_object_mut) {
        labels.remove("io.buildah.version");
    }
    let says = |value: &Value| match value {
        Value::Null | Value::Bool(false) => false,
        Value::String(text) => !text.is_empty(),
        Value::Array(values) => !values.is_empty(),
        Value::Object(members) => !members.is_empty(),
        _ => true,
    };
    let mut listing: Listing =
        members.iter().filter(|(_, value)| says(value)).map(|(key, value)| (key.clone(), value.to_string())).collect();
    if let Some(author) = document["author"].as_str().filter(|author| !author.is_empty()) {
        listing.insert("author".into(), author.into());
    }
    listing
}

/// One line for each path or member that is not the same.
pub(crate) fn differences(ours: &Listing, theirs: &Listing) -> Vec<String> {
    let mut keys: Vec<&String> = ours.keys().chain(theirs.keys()).collect();
    keys.sort();
    keys.dedup();
    let shown = |listing: &Listing, key: &String| listing.get(key).cloned().unwrap_or_else(|| "not there".into());
    keys.into_iter()
        .filter(|key| ours.get(*key) != theirs.get(*key))
        .map(|key| format!("{key}: rbuild {}, buildah {}", shown(ours, key), shown(theirs, key)))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tree_is_listed_with_what_matters_of_each_entry() {
        let root = tempfile::tempdir().unwrap();
        fs_err::create_dir(root.path().join("d")).unwrap();
        fs_err::write(root.path().join("d/f"), "x").unwrap();
        std::os::unix::fs::symlink("f", root.path().join("d/l")).unwrap();
        let listing = tree(root.path()).unwrap();
        let paths: Vec<&String> = listing.keys().collect();
        assert_eq!(paths, ["d", "d/f", "d/l"]);
        assert!(listing["d/f"].ends_with(" - \"x\"") && listing["d/l"].ends_with(" l -> f"), "{listing:?}");
        assert_eq!(differences(&listing, &listing), Vec::<String>::new());
        let found = differences(&listing, &Listing::new());
        assert!(found.len() == 3 && found[1].ends_with(", buildah not there"), "{found:?}");
    }

    #[test]
    fn a_config_has_the_members_that_the_dockerfile_decides() {
        let document = serde_json::json!({ "author": "", "config": {
            "Hostname": "abc", "User": "", "Tty": false, "Env": ["A=1"], "WorkingDir": "/",
            "Labels": { "io.buildah.version": "1.28.2" }, "Volumes": null,
        }});
        let members: Vec<String> = config(&document).into_keys().collect();
        assert_eq!(members, ["Env"]);
    }
}
